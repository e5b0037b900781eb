//! Removals against a server that does what the scripts do, and against others that put back what is removed.

use std::collections::{BTreeSet, VecDeque};
use std::iter;

use proptest::collection::vec;
use proptest::prelude::*;
use redis::Arg;

use super::*;

/// What a server keeps of one consumer, whose items are all equal.
#[derive(Debug, Default)]
struct Server {
    note: Vec<u8>,
    /// How many items the consumer's list holds.
    held: usize,
}

impl Server {
    fn run(&mut self, command: &Cmd) -> Vec<u8> {
        let words: Vec<&[u8]> = command
            .args_iter()
            .map(|word| match word {
                Arg::Simple(word) => word,
                _ => panic!("EVAL has nothing but words"),
            })
            .collect();
        let [_, _, _, _, _, follows, name, _, items @ ..] = &words[..] else { panic!("{words:?}") };
        if self.note == *follows {
            self.note = name.to_vec();
            self.held = self.held.saturating_sub(items.len());
        }
        self.note.clone()
    }

    /// What a session begins with.
    fn noted(&mut self) -> Vec<u8> {
        if self.note.is_empty() {
            self.note = new_name();
        }
        self.note.clone()
    }

    /// Another consumer puts back what this one holds.
    fn give_back(&mut self) {
        if self.held > 0 {
            (self.note, self.held) = (new_name(), 0);
        }
    }
}

fn same(count: usize) -> Vec<Bytes> {
    vec![Bytes::from_static(b"same"); count]
}

fn next(removals: &mut Removals) -> Cmd {
    removals.command("items", "note")
}

/// A consumer that holds so many items, and the removals of a process that has begun.
fn begun(held: usize) -> (Server, Removals) {
    let (mut server, mut removals) = (Server { held, ..Server::default() }, Removals::default());
    removals.begin(server.noted());
    (server, removals)
}

/// Runs the next removal, and says whether it was done.
fn remove(server: &mut Server, removals: &mut Removals) -> bool {
    let command = next(removals);
    removals.answered(server.run(&command))
}

#[test]
fn one_that_was_done_and_not_answered_is_not_done_again() {
    let (mut server, mut removals) = begun(9);
    removals.settled(same(3));
    server.run(&next(&mut removals));
    removals.begin(server.noted());
    // More is settled until the server is reached again.
    removals.settled(same(2));
    assert!(remove(&mut server, &mut removals));
    assert_eq!((server.held, removals.len()), (6, 2));
    assert!(remove(&mut server, &mut removals));
    assert_eq!((server.held, removals.is_empty()), (4, true));
}

#[test]
fn one_that_comes_late_finds_that_it_was_done() {
    let (mut server, mut removals) = begun(9);
    removals.settled(same(3));
    let late = next(&mut removals);
    removals.begin(server.noted());
    assert!(remove(&mut server, &mut removals));
    server.run(&late);
    assert_eq!((server.held, removals.is_empty()), (6, true));
}

#[test]
fn a_process_that_is_new_takes_up_where_the_one_before_it_ended() {
    let (mut server, mut before) = begun(9);
    before.settled(same(1));
    assert!(remove(&mut server, &mut before));
    let mut removals = Removals::default();
    removals.begin(server.noted());
    removals.settled(same(2));
    assert!(remove(&mut server, &mut removals));
    assert_eq!((server.held, removals.is_empty()), (6, true));
}

#[test]
fn a_process_whose_predecessor_is_heard_of_late_begins_again() {
    let (mut server, mut before) = begun(9);
    before.settled(same(1));
    let mut removals = Removals::default();
    removals.begin(server.noted());
    removals.settled(same(2));
    server.run(&next(&mut before));
    assert!(!remove(&mut server, &mut removals), "nothing is done on a wrong note");
    removals.begin(server.noted());
    assert_eq!((server.held, removals.is_empty()), (8, true));
}

#[test]
fn a_note_that_is_gone_repeats_items_rather_than_losing_them() {
    let (mut server, mut removals) = begun(9);
    removals.settled(same(1));
    server.run(&next(&mut removals));
    server.note.clear();
    assert!(!remove(&mut server, &mut removals), "it may have been done, and is not done again");
    removals.begin(server.noted());
    assert_eq!((server.held, removals.is_empty()), (8, true));
    removals.settled(same(1));
    assert!(remove(&mut server, &mut removals));
    assert_eq!((server.held, removals.is_empty()), (7, true));
}

#[test]
fn what_was_settled_before_it_was_put_back_takes_nothing_that_came_after() {
    let (mut server, mut removals) = begun(COUNT + 1);
    removals.settled(same(COUNT + 1));
    assert!(remove(&mut server, &mut removals));
    server.give_back();
    // An equal one is taken before this process hears of it.
    server.held += 1;
    assert!(!remove(&mut server, &mut removals));
    removals.begin(server.noted());
    assert_eq!((server.held, removals.is_empty()), (1, true));
}

#[test]
fn a_removal_is_bounded_and_a_large_item_goes_alone() {
    let large = Bytes::from(vec![0; BYTES + 1]);
    assert_eq!(portion(&same(COUNT + 1)), COUNT);
    assert_eq!(portion(&[large.clone(), large]), 1);
    let half = Bytes::from(vec![0; BYTES / 2]);
    assert_eq!(portion(&[half.clone(), half.clone(), half]), 2);
}

#[derive(Clone, Debug)]
enum Step {
    /// Items are moved to the consumer's list, or, in a new session, found there.
    Take(usize),
    Settle(usize),
    Answered,
    /// It is done, and nobody hears of it.
    AnswerLost,
    /// It is lost, or done at any time later.
    Delayed,
    Arrives(usize),
    /// The process stands still meanwhile, or goes on and does not know.
    GivenBack,
    NoteLost,
    Killed,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..5usize).prop_map(Step::Take),
        (1..5usize).prop_map(Step::Settle),
        Just(Step::Answered),
        Just(Step::AnswerLost),
        Just(Step::Delayed),
        any::<usize>().prop_map(Step::Arrives),
        Just(Step::GivenBack),
        Just(Step::NoteLost),
        Just(Step::Killed),
    ]
}

/// A consumer's processes, one after the other, and what is known here alone: which of its equal items are settled.
#[derive(Debug, Default)]
struct Consumer {
    server: Server,
    removals: Removals,
    /// Whether this session has still to find what the list holds.
    own: bool,
    /// What this session has taken and not settled: numbers of items, and `None` for one that an earlier session had settled.
    in_hand: VecDeque<Option<usize>>,
    /// What was moved to the list, not put back, and not settled.
    open: BTreeSet<usize>,
    moved: usize,
    delayed: Vec<Cmd>,
}

impl Consumer {
    fn begin(&mut self) {
        self.removals.begin(self.server.noted());
        (self.own, self.in_hand) = (true, VecDeque::new());
    }

    fn take(&mut self, count: usize) {
        if !self.own {
            self.server.held += count;
            let new = self.moved..self.moved + count;
            self.open.extend(new.clone());
            self.in_hand.extend(new.map(Some));
            self.moved += count;
        } else if self.in_hand.is_empty() && self.removals.is_empty() {
            let open = self.open.iter().copied().map(Some);
            self.in_hand = open.chain(iter::repeat(None)).take(self.server.held).collect();
            self.own = false;
        }
    }

    fn settle(&mut self, count: usize) {
        for item in self.in_hand.drain(..count.min(self.in_hand.len())) {
            self.removals.settled(same(1));
            if let Some(item) = item {
                self.open.remove(&item);
            }
        }
    }

    fn remove(&mut self) {
        if !remove(&mut self.server, &mut self.removals) {
            self.begin();
        }
    }

    fn go(&mut self, step: &Step) {
        match step {
            Step::Take(count) => self.take(*count),
            Step::Settle(count) => self.settle(*count),
            Step::Arrives(which) if !self.delayed.is_empty() => {
                let late = self.delayed.swap_remove(which % self.delayed.len());
                self.server.run(&late);
            }
            Step::GivenBack => {
                self.server.give_back();
                self.open.clear();
            }
            Step::NoteLost => self.server.note.clear(),
            Step::Killed => {
                self.removals = Removals::default();
                self.begin();
            }
            Step::Answered if !self.removals.is_empty() => self.remove(),
            Step::AnswerLost if !self.removals.is_empty() => {
                self.server.run(&next(&mut self.removals));
                self.begin();
            }
            Step::Delayed if !self.removals.is_empty() => {
                self.delayed.push(next(&mut self.removals));
                self.begin();
            }
            _ => {}
        }
    }

    /// Whether the list holds every item that is not settled.
    fn has_lost_nothing(&self) -> bool {
        self.server.held >= self.open.len()
    }
}

proptest! {
    /// Whatever becomes of connections and processes, and whoever puts items back, no item is removed that is not settled, and
    /// none stays once a living process has settled it.
    #[test]
    fn what_is_settled_is_removed_and_nothing_else(steps in vec(step(), 0..80)) {
        let mut consumer = Consumer::default();
        consumer.begin();
        for step in steps {
            consumer.go(&step);
            prop_assert!(consumer.has_lost_nothing(), "{step:?}: {consumer:?}");
        }
        // What it knows of is finished; then a session that begins finds the rest.
        for _ in 0..2 {
            while consumer.own || !consumer.in_hand.is_empty() || !consumer.removals.is_empty() {
                consumer.settle(usize::MAX);
                if consumer.removals.is_empty() { consumer.take(0) } else { consumer.remove() }
            }
            consumer.begin();
        }
        prop_assert_eq!(consumer.server.held, 0);
        consumer.take(1);
        consumer.take(3);
        for late in std::mem::take(&mut consumer.delayed) {
            consumer.server.run(&late);
            prop_assert!(consumer.has_lost_nothing(), "{late:?}: {consumer:?}");
        }
    }
}
