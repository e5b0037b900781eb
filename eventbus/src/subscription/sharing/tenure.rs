//! How long a process may act on what it owns: until so long after the last beat that the bus took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// A time during which a process beats without a break. Once it has lapsed it stays so: what was begun under it ends.
#[derive(Clone, Debug)]
pub struct Tenure(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: Arc<str>,
    base: Instant,
    /// In milliseconds after `base`.
    until: AtomicU64,
    /// How much longer what was done may be recorded.
    grace: Duration,
}

impl Tenure {
    /// One that lasts until `until`.
    pub fn new(name: Arc<str>, until: Instant, grace: Duration) -> Self {
        let base = Instant::now();
        let inner = Inner { name, base, until: AtomicU64::new(0), grace };
        inner.until.store(inner.millis(until), Ordering::Release);
        Self(Arc::new(inner))
    }

    /// Its name, which no other tenure on the bus has.
    pub fn name(&self) -> &Arc<str> {
        &self.0.name
    }

    /// Its end, as of now.
    pub fn until(&self) -> Instant {
        self.0.base + Duration::from_millis(self.0.until.load(Ordering::Acquire))
    }

    /// True while work may be started.
    pub fn may_start(&self, now: Instant) -> bool {
        let until = self.0.until.load(Ordering::Acquire);
        until > 0 && now < self.0.base + Duration::from_millis(until)
    }

    /// True while positions may be recorded, which is a little longer.
    pub fn may_record(&self, now: Instant) -> bool {
        let until = self.0.until.load(Ordering::Acquire);
        until > 0 && now < self.0.base + Duration::from_millis(until) + self.0.grace
    }

    /// Makes it last until `until`; false if it has lapsed.
    pub fn extend(&self, until: Instant, now: Instant) -> bool {
        let millis = self.0.millis(until);
        let longer = |current: u64| self.may_start(now).then_some(current.max(millis));
        self.0.until.fetch_update(Ordering::AcqRel, Ordering::Acquire, longer).is_ok()
    }

    /// Ends it at once, for recording too.
    pub fn end(&self) {
        self.0.until.store(0, Ordering::Release);
    }
}

impl Inner {
    fn millis(&self, time: Instant) -> u64 {
        u64::try_from(time.saturating_duration_since(self.base).as_millis()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tenure_that_lapsed_cannot_be_extended() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let tenure = Tenure::new("t".into(), at(7), Duration::from_secs(2));
        assert!(tenure.may_start(at(6)) && !tenure.may_start(at(7)));
        assert!(tenure.may_record(at(8)) && !tenure.may_record(at(9)));
        assert!(tenure.extend(at(10), at(6)) && tenure.may_start(at(9)));
        assert!(!tenure.extend(at(20), at(10)) && !tenure.may_start(at(10)));
        tenure.end();
        assert!(!tenure.may_start(at(0)) && !tenure.may_record(at(0)));
    }
}
