//! What is settled of a list, and its removal from the consumer's own list: as often as it was settled, never more often.
//!
//! Items have no identity but their bytes, and a list may hold equal ones. Which of these is removed does not matter, but
//! how many are: one too many is one that nobody has settled. A connection that breaks does not tell whether its last
//! removal was done, and what was sent on it may still be done later. So each removal has a name, which the server notes in
//! the same step, and says which one it follows: one that is repeated finds itself noted, one that comes late another.
//!
//! Whoever puts back what a consumer holds notes a name as well. A removal of what was taken before then finds that one, and
//! leaves alone equal items that the consumer has taken since. All that it had in hand is not its own any more, so that its
//! session ends.

use std::time::Duration;

use bytes::Bytes;
use redis::{Cmd, cmd};

use super::consumers::new_name;
use super::source::millis;

/// Removes items: `KEYS` the consumer's list, and the note; `ARGV` the name of the removal that this one follows, its own, how
/// long the note is kept, in milliseconds, and the items. Nothing is done where another name is noted. Gives the name that is
/// noted now.
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
pub(super) const KEPT: Duration = Duration::from_secs(24 * 60 * 60);

/// What is settled and not known to be removed.
#[derive(Debug, Default)]
pub(super) struct Removals {
    settled: Vec<Bytes>,
    /// What the server had noted when the process heard of it last.
    noted: Vec<u8>,
    under_way: Option<Removal>,
}

/// A removal that was not answered.
#[derive(Debug)]
struct Removal {
    name: Vec<u8>,
    /// How many of the settled ones, from the first.
    count: usize,
}

impl Removals {
    /// True when all that was settled is removed.
    pub(super) fn is_empty(&self) -> bool {
        self.settled.is_empty()
    }

    /// How many items are settled and not known to be removed.
    pub(super) fn len(&self) -> usize {
        self.settled.len()
    }

    /// Begins a session, before anything is taken in it. Where the server has noted what this process did not, somebody has put
    /// back what it held, or the note was lost: what was settled may come again then, which is better than to lose what is not.
    pub(super) fn begin(&mut self, noted: Vec<u8>) {
        let is_known = noted == self.noted || self.under_way.as_ref().is_some_and(|removal| removal.name == noted);
        if !is_known {
            *self = Self { noted, ..Self::default() };
        }
    }

    /// Takes what is settled.
    pub(super) fn settled(&mut self, items: Vec<Bytes>) {
        self.settled.extend(items);
    }

    /// The next removal from the list `items`, or the last one again if it was not answered; noted in `note`.
    pub(super) fn command(&mut self, items: &str, note: &str) -> Cmd {
        let removal = self.under_way.get_or_insert_with(|| Removal { name: new_name(), count: portion(&self.settled) });
        let mut command = cmd("EVAL");
        command.arg(REMOVE).arg(2).arg(items).arg(note);
        command.arg(&self.noted[..]).arg(&removal.name[..]).arg(millis(KEPT));
        for item in self.settled.iter().take(removal.count) {
            command.arg(&item[..]);
        }
        command
    }

    /// Takes the answer. False where nothing was removed, since the server has noted what this process did not: the session has to
    /// end.
    pub(super) fn answered(&mut self, noted: Vec<u8>) -> bool {
        let Some(Removal { count, .. }) = self.under_way.take_if(|removal| removal.name == noted) else { return false };
        self.settled.drain(..count.min(self.settled.len()));
        self.noted = noted;
        true
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
mod tests;
