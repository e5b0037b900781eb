//! The inputs of one subscription as one stream: each in order, several merged by time of append. A silent input is not waited
//! for; one that has events still to be read is.

use std::task::Context;
use std::time::SystemTime;

use evoke_eventbus::bus::{Mark, Partition, Position, Record};
use evoke_eventbus::subscription::Input;
use evoke_eventbus::subscription::feed::{Cursor, Gone, Slice, Wait};

/// How much of an input there was to be read when the subscription was opened.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unread {
    /// The end of the log. Below it, no news means that the news has yet to be read,
    end: Position,
    /// unless so many events, where that is known, have been read: the end may be that of other partitions too.
    events: Option<u64>,
}

impl Unread {
    /// What lies from a mark on.
    pub(super) fn from_mark(mark: &Mark) -> Self {
        Self { end: mark.end, events: mark.exact.then_some(mark.ahead) }
    }
}

/// One partition of one topic.
#[derive(Debug)]
struct Source {
    topic: usize,
    cursor: Cursor,
    slice: Option<Slice>,
    done: usize,
    unread: Unread,
    /// Where it stops for good.
    until: Option<Position>,
}

/// All inputs.
#[derive(Debug)]
pub(super) struct Intake {
    sources: Vec<Source>,
}

/// What there is to do next.
#[derive(Debug)]
pub(super) enum Next {
    /// Records of an input, which come before all others.
    Records {
        /// Which input.
        input: usize,
        /// The topic's index.
        topic: usize,
        /// The records, at least one.
        records: Slice,
    },
    /// An input went on without records.
    Passed {
        /// Which input.
        input: usize,
        /// To where.
        upto: Position,
        /// How many events may have been lost on the way.
        lost: u64,
        /// How many events were ever appended before, where that was read.
        before: Option<u64>,
        /// When the latest of what it passed was appended, where that was read.
        latest: Option<SystemTime>,
    },
    /// An input goes on with records between which events may have been lost.
    Lost {
        /// Which input.
        input: usize,
        /// How many, at most.
        events: u64,
    },
    /// An input's place in the log is gone.
    Gone {
        /// Which input.
        input: usize,
        /// How.
        gone: Gone,
    },
    /// Nothing now; the task is woken when there is.
    Pending,
}

impl Intake {
    /// `unread` is in the order of the inputs; `until` is where each of them stops for good, if it does.
    pub(super) fn new(inputs: Vec<Input>, unread: &[Unread], until: &[Position]) -> Self {
        let until = until.iter().copied().map(Some).chain(std::iter::repeat(None));
        let source = |((input, unread), until): ((Input, &Unread), Option<Position>)| Source {
            topic: input.topic,
            cursor: input.cursor,
            slice: None,
            done: 0,
            unread: Unread { end: until.map_or(unread.end, |until| until.min(unread.end)), ..*unread },
            until,
        };
        Self { sources: inputs.into_iter().zip(unread).zip(until).map(source).collect() }
    }

    /// The inputs that have not reached where they stop, and where they are; none where there is something to judge.
    pub(super) fn waiting(&self) -> Vec<(usize, Partition, Position)> {
        let waits = |source: &Source| source.slice.is_none() && !source.is_over();
        let inputs = self.sources.iter().enumerate().filter(|(_, source)| waits(source));
        inputs.map(|(input, Source { cursor, .. })| (input, cursor.partition().clone(), cursor.position())).collect()
    }

    /// True once every input has reached where it stops.
    pub(super) fn is_over(&self) -> bool {
        self.sources.iter().all(|source| source.slice.is_none() && source.is_over())
    }

    /// An input has nothing left up to where it stops.
    pub(super) fn pass(&mut self, input: usize) -> Option<Position> {
        let source = self.sources.get_mut(input).filter(|source| source.slice.is_none())?;
        let until = source.until?;
        source.cursor.seek(until);
        Some(until)
    }

    /// Goes on at `to`.
    pub(super) fn seek(&mut self, input: usize, to: Position) {
        if let Some(source) = self.sources.get_mut(input) {
            (source.slice, source.done) = (None, 0);
            if to < source.cursor.position() {
                // A log that has lost its end brings no news from beyond it that the other inputs could wait for.
                source.unread.end = source.unread.end.min(to);
            }
            source.cursor.seek(to);
        }
    }

    /// What comes next, without taking it.
    pub(super) fn next(&mut self, cx: &Context<'_>) -> Next {
        let several = self.sources.len() > 1;
        let mut wait = false;
        for (input, source) in self.sources.iter_mut().enumerate() {
            if source.slice.is_some() || source.is_over() {
                continue;
            }
            match source.cursor.poll_or_wait(cx) {
                Ok(Ok(slice)) => {
                    let slice = source.cut(slice);
                    let (upto, empty, lost) = (slice.next(), slice.records().is_empty(), slice.lost());
                    let (before, latest) = (slice.before(upto), slice.latest(upto));
                    source.unread.events =
                        source.unread.events.map(|left| left.saturating_sub(slice.records().len() as u64));
                    source.slice = (!empty).then_some(slice);
                    source.done = 0;
                    if empty {
                        return Next::Passed { input, upto, lost, before, latest };
                    }
                    if lost > 0 {
                        return Next::Lost { input, events: lost };
                    }
                }
                Ok(Err(gone)) => return Next::Gone { input, gone },
                Err(Wait::Behind) => wait |= several,
                Err(Wait::Head) => wait |= several && source.is_unread(),
            }
        }
        if wait {
            return Next::Pending;
        }
        let Some((input, source)) =
            self.sources.iter().enumerate().filter(|(_, source)| source.slice.is_some()).min_by_key(|(_, s)| s.time())
        else {
            return Next::Pending;
        };
        let records = source.records();
        let others = self.sources.iter().enumerate().filter(|(other, _)| several && *other != input);
        let count = match others.filter_map(|(_, other)| other.time()).min() {
            Some(limit) => records.iter().take_while(|record| record.appended <= limit).count().max(1),
            None => records.len(),
        };
        match &source.slice {
            Some(slice) => Next::Records { input, topic: source.topic, records: slice.part(source.done, count) },
            None => Next::Pending,
        }
    }

    /// Takes `count` records of an input; gives back where it goes on.
    pub(super) fn take(&mut self, input: usize, count: usize) -> Option<Position> {
        let source = self.sources.get_mut(input)?;
        source.done += count;
        let slice = source.slice.as_ref()?;
        if let Some(record) = slice.records().get(source.done) {
            return Some(record.at);
        }
        let next = slice.next();
        source.slice = None;
        Some(next)
    }
}

impl Source {
    fn is_unread(&self) -> bool {
        self.unread.events != Some(0) && self.cursor.position() < self.unread.end
    }

    fn is_over(&self) -> bool {
        self.until.is_some_and(|until| self.cursor.position() >= until)
    }

    /// What of a slice lies before the place where it stops.
    fn cut(&self, slice: Slice) -> Slice {
        match self.until {
            Some(until) => slice.part(0, slice.records().partition_point(|record| record.at < until)),
            None => slice,
        }
    }

    fn records(&self) -> &[Record] {
        self.slice.as_ref().and_then(|slice| slice.records().get(self.done..)).unwrap_or_default()
    }

    fn time(&self) -> Option<SystemTime> {
        self.records().first().map(|record| record.appended)
    }
}
