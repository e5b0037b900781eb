//! At most so many deliveries in a while: a token bucket a subscription and process, which outlives the lanes of its subscription, so
//! that a reload gives nobody a second burst.
//!
//! The bucket is one moment: when it will be full again. A delivery puts it off by the time that one token takes, and may start as
//! long as it lies no further ahead than the burst allows.

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use evoke_api::names::SubscriptionId;
use parking_lot::Mutex;
use prometheus::Counter;
use tokio::time::Instant;

use crate::plan::RateLimit;

/// Timers are no finer than this: what a rate allows within it may start at once.
const TIMER: Duration = Duration::from_millis(2);

/// When a bucket is full again.
type Full = Arc<Mutex<Option<Instant>>>;
/// One that no lane may use any more.
type Emptying = Weak<Mutex<Option<Instant>>>;

/// The buckets of a process. Cloning shares them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buckets(Arc<Mutex<HashMap<SubscriptionId, Emptying>>>);

impl Buckets {
    /// The bucket of a subscription: the one that a lane of it has already, under today's limit.
    pub(crate) fn of(&self, id: &SubscriptionId, limit: &RateLimit) -> Bucket {
        let mut buckets = self.0.lock();
        buckets.retain(|_, full| full.strong_count() > 0);
        let full = buckets.get(id).and_then(Weak::upgrade).unwrap_or_default();
        buckets.insert(id.clone(), Arc::downgrade(&full));
        let token = limit.per / limit.events.max(1);
        let burst = token.saturating_mul(limit.burst.max(1) - 1);
        let ahead = if token < TIMER { burst.max(TIMER) } else { burst };
        Bucket { full, token, ahead }
    }
}

/// One bucket. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Bucket {
    full: Full,
    /// How long one token takes.
    token: Duration,
    /// How far ahead of now the bucket may be full for a delivery to start.
    ahead: Duration,
}

impl Bucket {
    /// When the next delivery may start; now or earlier if at once.
    fn next(&self, now: Instant) -> Instant {
        let mut full = self.full.lock();
        // Where the limit was another one before, nobody waits longer than this one says.
        let latest = now + self.ahead + self.token;
        if full.is_some_and(|at| at > latest) {
            *full = Some(latest);
        }
        full.and_then(|at| at.checked_sub(self.ahead)).unwrap_or(now)
    }

    fn take(&self, now: Instant) {
        let mut full = self.full.lock();
        *full = Some(full.map_or(now, |at| at.max(now)) + self.token);
    }
}

/// How one lane keeps to its bucket, if it has one.
#[derive(Debug)]
pub(crate) struct Pace {
    bucket: Option<Bucket>,
    /// When what waits may start.
    due: Option<Instant>,
    since: Option<Instant>,
    waited: Counter,
}

impl Pace {
    /// `waited` counts the seconds.
    pub(crate) fn new(bucket: Option<Bucket>, waited: Counter) -> Self {
        Self { bucket, due: None, since: None, waited }
    }

    /// A new step begins, in which nothing waits yet.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.due = None;
        if let Some(since) = self.since.take() {
            self.waited.inc_by(now.saturating_duration_since(since).as_secs_f64());
        }
    }

    /// True if another delivery may start.
    pub(crate) fn is_open(&self, now: Instant) -> bool {
        self.bucket.as_ref().is_none_or(|bucket| bucket.next(now) <= now)
    }

    /// True if the delivery at hand may start; otherwise it waits.
    pub(crate) fn permits(&mut self, now: Instant) -> bool {
        let Some(next) = self.bucket.as_ref().map(|bucket| bucket.next(now)).filter(|next| *next > now) else {
            return true;
        };
        (self.due, self.since) = (Some(next), Some(now));
        false
    }

    /// A delivery starts.
    pub(crate) fn started(&self, now: Instant) {
        if let Some(bucket) = &self.bucket {
            bucket.take(now);
        }
    }

    /// When something that waits may start.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.due
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::names::ObjectName;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn id() -> SubscriptionId {
        SubscriptionId { owner: ObjectName::new("n", "t"), subscriber: "s".into() }
    }

    fn limit(events: u32, per: Duration, burst: u32) -> RateLimit {
        RateLimit { events, per, burst }
    }

    /// How many start at each tenth of a second, for as many as are asked for.
    fn starts(bucket: &Bucket, from: Instant, tenths: u32) -> Vec<u32> {
        (0..tenths)
            .map(|tenth| {
                let now = from + tenth * SECOND / 10;
                let mut started = 0;
                while bucket.next(now) <= now {
                    bucket.take(now);
                    started += 1;
                }
                started
            })
            .collect()
    }

    #[test]
    fn a_burst_then_the_rate_then_a_burst_again_after_a_rest() {
        let (buckets, now) = (Buckets::default(), Instant::now());
        let bucket = buckets.of(&id(), &limit(5, SECOND, 3));
        assert_eq!(starts(&bucket, now, 10), [3, 0, 1, 0, 1, 0, 1, 0, 1, 0]);
        assert_eq!(starts(&bucket, now + 10 * SECOND, 4), [3, 0, 1, 0]);
    }

    #[test]
    fn a_bucket_is_shared_while_somebody_has_it_and_takes_a_new_limit() {
        let (buckets, now) = (Buckets::default(), Instant::now());
        let slow = buckets.of(&id(), &limit(1, 3600 * SECOND, 4));
        assert_eq!(starts(&slow, now, 1), [4]);
        let same = buckets.of(&id(), &limit(1, 3600 * SECOND, 4));
        assert_eq!(starts(&same, now, 1), [0]);
        let faster = buckets.of(&id(), &limit(10, SECOND, 1));
        assert_eq!(starts(&faster, now, 4), [0, 1, 1, 1], "one of its own intervals is the longest wait");
        drop((slow, same, faster));
        assert_eq!(starts(&buckets.of(&id(), &limit(1, SECOND, 2)), now, 1), [2]);
        assert_eq!(buckets.0.lock().len(), 1);
    }

    #[test]
    fn a_rate_above_the_timer_s_is_reached() {
        let (buckets, now) = (Buckets::default(), Instant::now());
        let bucket = buckets.of(&id(), &limit(100_000, SECOND, 1));
        let started: u32 = (0..1000).map(|n| starts(&bucket, now + n * SECOND / 1000, 1).iter().sum::<u32>()).sum();
        assert!((99_900..=100_300).contains(&started), "{started}");
    }
}
