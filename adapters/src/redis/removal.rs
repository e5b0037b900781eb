//! What is settled of a list, and its removal from the consumer's own list: as often as it was settled, never more often.
//!
//! Items have no identity but their bytes, and a list may hold equal ones. Which of these is removed does not matter, but
//! how many are: one too many is one that nobody has settled. A connection that breaks does not tell whether its last
//! removal was done, and what was sent on it may still be done later. So each removal has a name, which the server notes in
//! the same step, and says which one it follows: one that is repeated finds itself noted, one that comes late another.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, cmd};
use uuid::Uuid;

use super::source::millis;

/// Removes items: `KEYS` the consumer's list, and the note; `ARGV` the name of the removal that this one follows (empty for
/// none), its own, how long the note is kept, in milliseconds, and the items. Nothing is done where another name is noted.
/// Gives the name that is noted now.
///
/// The first write takes no memory, which lets the one after it through when memory is full. The note goes before the items:
/// a removal that breaks off leaves items that come again, not some that are removed twice.
const REMOVE: &str = r"
local noted = redis.call('GETEX', KEYS[2], 'PX', ARGV[3]) or ''
if noted ~= ARGV[1] then return noted end
redis.call('SET', KEYS[2], ARGV[2], 'PX', ARGV[3])
for i = 4, #ARGV do redis.call('LREM', KEYS[1], 1, ARGV[i]) end
return ARGV[2]
";
/// What one removal takes, at the most; a larger item goes alone.
const COUNT: usize = 500;
const BYTES: usize = 1024 * 1024;
/// How long a note outlasts its consumer, and far longer than a command can be on its way.
const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is settled and not known to be removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    settled: Vec<Bytes>,
    /// What the server had noted when it answered last; empty for nothing.
    noted: Vec<u8>,
    under_way: Option<Removal>,
}

/// A removal that was not answered.
#[derive(Debug)]
struct Removal {
    name: String,
    /// How many of the settled ones, from the first.
    count: usize,
    /// It was sent before, and nobody knows what became of that.
    is_repeat: bool,
}

impl Removals {
    /// True when all that was settled is removed.
    pub(super) fn is_empty(&self) -> bool {
        self.settled.is_empty()
    }

    /// Takes what is settled.
    pub(super) fn settled(&mut self, items: Vec<Bytes>) {
        self.settled.extend(items);
    }

    /// The next removal from the list `items`, or the last one again if it was not answered; noted in `note`.
    pub(super) fn command(&mut self, items: &str, note: &str) -> Cmd {
        let removal = match self.under_way.take() {
            Some(removal) => Removal { is_repeat: true, ..removal },
            None => Removal { name: Uuid::now_v7().to_string(), count: portion(&self.settled), is_repeat: false },
        };
        let mut command = cmd("EVAL");
        command.arg(REMOVE).arg(2).arg(items).arg(note);
        command.arg(self.noted.as_slice()).arg(&removal.name).arg(millis(KEPT));
        for item in self.settled.iter().take(removal.count) {
            command.arg(&item[..]);
        }
        self.under_way = Some(removal);
        command
    }

    /// Takes the answer. Where the server has noted what this process did not know of, nothing was removed, and is next time.
    pub(super) fn answered(&mut self, noted: Vec<u8>) {
        let Some(Removal { name, count, is_repeat }) = self.under_way.take() else { return };
        // Where a note is gone, nobody can tell what became of a removal that was sent before: items that come again are
        // better than items that are lost.
        if noted == name.as_bytes() || (is_repeat && noted.is_empty()) {
            self.settled.drain(..count.min(self.settled.len()));
        }
        self.noted = noted;
    }
}

/// How many items are removed at once, from the first.
fn portion(settled: &[Bytes]) -> usize {
    let mut bytes = 0usize;
    let fits = |item: &&Bytes| {
        bytes = bytes.saturating_add(item.len());
        bytes <= BYTES
    };
    settled.iter().take(COUNT).take_while(fits).count().max(1)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use redis::Arg;

    use super::*;

    /// What the script does, on a server whose items are all equal.
    #[derive(Default)]
    struct Server {
        note: Vec<u8>,
        removed: usize,
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
                self.removed += items.len();
            }
            self.note.clone()
        }
    }

    fn same(count: usize) -> Vec<Bytes> {
        vec![Bytes::from_static(b"same"); count]
    }

    fn next(removals: &mut Removals) -> Cmd {
        removals.command("items", "note")
    }

    #[test]
    fn one_that_was_done_and_not_answered_is_not_done_again() {
        let (mut server, mut removals) = (Server::default(), Removals::default());
        removals.settled(same(3));
        server.run(&next(&mut removals));
        // More is settled until the server is reached again.
        removals.settled(same(2));
        let again = next(&mut removals);
        removals.answered(server.run(&again));
        assert_eq!((server.removed, removals.settled.len()), (3, 2));
        let rest = next(&mut removals);
        removals.answered(server.run(&rest));
        assert_eq!((server.removed, removals.is_empty()), (5, true));
    }

    #[test]
    fn one_that_comes_late_finds_that_it_was_done() {
        let (mut server, mut removals) = (Server::default(), Removals::default());
        removals.settled(same(3));
        let late = next(&mut removals);
        let again = next(&mut removals);
        removals.answered(server.run(&again));
        server.run(&late);
        assert_eq!((server.removed, removals.is_empty()), (3, true));
    }

    #[test]
    fn a_process_that_is_new_takes_up_where_the_one_before_it_ended() {
        let (mut server, mut removals) = (Server::default(), Removals::default());
        removals.settled(same(1));
        let before = next(&mut removals);
        let mut removals = Removals::default();
        removals.settled(same(2));
        server.run(&before);
        let unaware = next(&mut removals);
        removals.answered(server.run(&unaware));
        assert_eq!((server.removed, removals.settled.len()), (1, 2), "nothing is done on a wrong note");
        let aware = next(&mut removals);
        removals.answered(server.run(&aware));
        assert_eq!((server.removed, removals.is_empty()), (3, true));
    }

    #[test]
    fn a_note_that_is_gone_repeats_items_rather_than_losing_them() {
        let (mut server, mut removals) = (Server::default(), Removals::default());
        removals.settled(same(1));
        let first = next(&mut removals);
        removals.answered(server.run(&first));
        removals.settled(same(1));
        server.run(&next(&mut removals));
        server.note.clear();
        let again = next(&mut removals);
        removals.answered(server.run(&again));
        assert_eq!((server.removed, removals.is_empty()), (2, true), "it may have been done, and is not done again");
        // One that is sent for the first time was certainly not done.
        removals.settled(same(1));
        let new = next(&mut removals);
        removals.answered(server.run(&new));
        assert_eq!((server.removed, removals.is_empty()), (3, true));
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
        Settle(usize),
        Answered,
        /// It is done, and nobody hears of it.
        AnswerLost,
        /// It is lost, or done at any time later.
        Delayed,
        Arrives(usize),
        Killed,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..5usize).prop_map(Step::Settle),
            Just(Step::Answered),
            Just(Step::AnswerLost),
            Just(Step::Delayed),
            any::<usize>().prop_map(Step::Arrives),
            Just(Step::Killed),
        ]
    }

    proptest! {
        /// Whatever becomes of connections and processes, no more is removed than was settled, and nothing stays that a
        /// living process has settled.
        #[test]
        fn as_much_is_removed_as_was_settled(steps in vec(step(), 0..60)) {
            let (mut server, mut removals, mut delayed) = (Server::default(), Removals::default(), Vec::new());
            let (mut settled, mut forgotten) = (0, 0);
            for step in steps {
                match step {
                    Step::Settle(count) => {
                        settled += count;
                        removals.settled(same(count));
                    }
                    Step::Arrives(which) if !delayed.is_empty() => {
                        let late: Cmd = delayed.swap_remove(which % delayed.len());
                        server.run(&late);
                    }
                    Step::Killed => {
                        forgotten += removals.settled.len();
                        removals = Removals::default();
                    }
                    Step::Answered | Step::AnswerLost | Step::Delayed if !removals.is_empty() => {
                        let command = next(&mut removals);
                        match step {
                            Step::Answered => removals.answered(server.run(&command)),
                            Step::AnswerLost => drop(server.run(&command)),
                            _ => delayed.push(command),
                        }
                    }
                    _ => {}
                }
                prop_assert!(server.removed <= settled);
            }
            while !removals.is_empty() {
                let command = next(&mut removals);
                removals.answered(server.run(&command));
            }
            prop_assert!(server.removed + forgotten >= settled);
            for late in delayed {
                server.run(&late);
            }
            prop_assert!(server.removed <= settled);
        }
    }
}
