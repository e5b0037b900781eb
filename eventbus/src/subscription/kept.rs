//! What this process knows of the bus's state and has no [`Book`](super::recorder::Book) for: where subscriptions are that are paused or
//! another process's, and the jobs that it runs. Should the state be lost, it is stored again, unless somebody who knows better was
//! faster.

use std::collections::BTreeMap;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::bus::{Expect, Put};

/// See the module.
#[derive(Debug)]
pub(super) struct Kept {
    losses: watch::Receiver<u64>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    entries: BTreeMap<String, Known>,
    /// How many losses have been made good.
    restored: u64,
}

#[derive(Debug)]
struct Known {
    value: Bytes,
    /// How often the state had been lost when this was last known to be there.
    losses: u64,
}

impl Known {
    fn put(&self, key: &str) -> Put {
        Put { key: key.to_owned(), value: Some(self.value.clone()), expect: Expect::Absent }
    }
}

impl Kept {
    pub(super) fn new(losses: watch::Receiver<u64>) -> Self {
        let inner = Inner { restored: *losses.borrow(), ..Inner::default() };
        Self { losses, inner: Mutex::new(inner) }
    }

    /// How often the state was lost so far. To be asked before what is to be kept is loaded or stored.
    pub(super) fn losses(&self) -> u64 {
        *self.losses.borrow()
    }

    /// Keeps what was there after so many losses; false if there was another one since, and nothing is kept: it is to be looked at
    /// again.
    pub(super) fn keep(&self, known: impl IntoIterator<Item = (String, Bytes)>, losses: u64) -> bool {
        let mut inner = self.inner.lock();
        // Compared under the lock: what is kept before a loss is known of is found when that is made good.
        let is_there = self.losses() == losses;
        if is_there {
            self.add(&mut inner, known, losses);
        }
        is_there
    }

    /// The same for the recorder, which makes good what was lost since when it comes to that.
    pub(super) fn keep_recorded(&self, known: impl IntoIterator<Item = (String, Bytes)>, losses: u64) {
        self.add(&mut self.inner.lock(), known, losses);
    }

    fn add(&self, inner: &mut Inner, known: impl IntoIterator<Item = (String, Bytes)>, losses: u64) {
        // Where nobody counts losses, there are none.
        if self.losses.has_changed().is_ok() {
            inner.entries.extend(known.into_iter().map(|(key, value)| (key, Known { value, losses })));
        }
    }

    /// Nobody is to store it again.
    pub(super) fn forget(&self, key: &str) {
        self.inner.lock().entries.remove(key);
    }

    /// The same for every key that begins with `prefix`.
    pub(super) fn forget_all(&self, prefix: &str) {
        self.inner.lock().entries.retain(|key, _| !key.starts_with(prefix));
    }

    /// What a key was, if that has been lost: one that is not there for another reason is nobody's loss.
    pub(super) fn lost(&self, key: &str) -> Option<Put> {
        let inner = self.inner.lock();
        let known = inner.entries.get(key)?;
        (known.losses < self.losses()).then(|| known.put(key))
    }

    /// Everything that was lost; `None` if nothing was since that was last made good.
    pub(super) fn all_lost(&self) -> Option<Vec<Put>> {
        let (inner, losses) = (self.inner.lock(), self.losses());
        let lost = || inner.entries.iter().filter(|(_, known)| known.losses < losses);
        (inner.restored < losses).then(|| lost().map(|(key, known)| known.put(key)).collect())
    }

    /// All that was lost up to so many losses is there again; `keys` say what that was.
    pub(super) fn made_good(&self, keys: &[String], losses: u64) {
        let mut inner = self.inner.lock();
        for key in keys {
            if let Some(known) = inner.entries.get_mut(key) {
                known.losses = known.losses.max(losses);
            }
        }
        inner.restored = inner.restored.max(losses);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(key: &str, value: &'static str) -> [(String, Bytes); 1] {
        [(key.to_owned(), Bytes::from_static(value.as_bytes()))]
    }

    fn keys(puts: Option<Vec<Put>>) -> Option<Vec<String>> {
        puts.map(|puts| puts.into_iter().map(|put| put.key).collect())
    }

    #[test]
    fn only_what_was_there_before_a_loss_is_stored_again_and_once() {
        let losses = watch::Sender::new(0);
        let kept = Kept::new(losses.subscribe());
        assert!(kept.keep(known("a", "1"), 0));
        assert!(kept.lost("a").is_none() && kept.all_lost().is_none(), "what is deleted is not lost");
        losses.send_replace(1);
        assert!(!kept.keep(known("b", "1"), 0), "it may be gone by now");
        assert!(kept.keep(known("b", "1"), 1));
        let lost = kept.lost("a").unwrap();
        assert_eq!((lost.key.as_str(), lost.value.as_deref(), lost.expect), ("a", Some(&b"1"[..]), Expect::Absent));
        assert_eq!(keys(kept.all_lost()), Some(vec!["a".to_owned()]));
        // What a writer learns late of the time before is not passed over.
        kept.keep_recorded(known("c", "1"), 0);
        assert_eq!(keys(kept.all_lost()), Some(vec!["a".to_owned(), "c".to_owned()]));
        kept.made_good(&["a".to_owned(), "c".to_owned()], 1);
        assert!(kept.lost("a").is_none() && kept.all_lost().is_none());
        losses.send_replace(2);
        kept.forget("b");
        kept.forget_all("c");
        assert_eq!(keys(kept.all_lost()), Some(vec!["a".to_owned()]));
    }

    #[test]
    fn nothing_is_kept_where_nothing_is_lost() {
        let kept = Kept::new(watch::channel(0).1);
        assert!(kept.keep(known("a", "1"), 0));
        assert!(kept.inner.lock().entries.is_empty());
    }
}
