//! How far the bus's clock is from this machine's. Now and then the head reader asks where the log ends; what comes from there on was
//! appended between that question and now, whatever held it up. A time of append outside of that is a clock that is wrong.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use prometheus::Gauge;
use tokio::time::{Instant, timeout};

use super::Feed;
use crate::bus::{Batch, From, Partition, Position};

/// How far clocks may be apart, in seconds.
const TOLERANCE: f64 = 1.0;
/// How often a partition is asked about.
const INTERVAL: Duration = Duration::from_secs(10);
/// How long the bus may take to say where a log ends.
const PATIENCE: Duration = Duration::from_secs(1);
/// Wall clock and monotonic clock of this machine that went apart by this much: the former was set.
const STEP: Duration = Duration::from_millis(100);

/// What is known of one bus's clock, from all partitions: their leaders need not have the same one.
#[derive(Debug)]
pub(super) struct Skew {
    bus: Arc<str>,
    gauge: Gauge,
    /// The partitions whose clock is off by more than is tolerated, and by how much, in seconds.
    beyond: Mutex<BTreeMap<Partition, f64>>,
}

impl Skew {
    pub(super) fn new(bus: Arc<str>, gauge: Gauge) -> Self {
        Self { bus, gauge, beyond: Mutex::default() }
    }

    /// Takes in by how many seconds one partition's clock is ahead.
    fn set(&self, partition: &Partition, seconds: f64) {
        let mut beyond = self.beyond.lock();
        let was_beyond = !beyond.is_empty();
        if seconds.abs() > TOLERANCE {
            beyond.insert(partition.clone(), seconds);
        } else {
            beyond.remove(partition);
        }
        let bus = &*self.bus;
        match self.show(&beyond, seconds) {
            Some(ahead_s) if !was_beyond => tracing::warn!(
                bus,
                ahead_s,
                "the bus's clock is not this machine's: windows, retention and replays go by the bus's; have both keep time (NTP)"
            ),
            None if was_beyond => tracing::info!(bus, "the bus's clock is this machine's again"),
            _ => {}
        }
    }

    /// Nobody looks at a partition any more.
    fn forget(&self, partition: &Partition) {
        let mut beyond = self.beyond.lock();
        if beyond.remove(partition).is_some() {
            self.show(&beyond, 0.0);
        }
    }

    /// Shows the worst, or what there is where nothing is beyond what is tolerated; gives back the worst.
    fn show(&self, beyond: &BTreeMap<Partition, f64>, otherwise: f64) -> Option<f64> {
        let worst = beyond.values().copied().max_by(|a, b| a.abs().total_cmp(&b.abs()));
        self.gauge.set(worst.unwrap_or(otherwise));
        worst
    }
}

/// Looks at what one head reader reads.
pub(super) struct Probe<'a> {
    feed: &'a Feed,
    asked: Option<Asked>,
    due: Instant,
    /// True if the last answer was beyond what is tolerated. It takes two: what is shown only a while after it was appended looks like
    /// that once.
    suspects: bool,
}

/// The end of the log, and when it was asked for.
struct Asked {
    end: Position,
    wall: SystemTime,
    monotonic: std::time::Instant,
}

impl<'a> Probe<'a> {
    pub(super) fn new(feed: &'a Feed) -> Self {
        Self { feed, asked: None, due: Instant::now(), suspects: false }
    }

    /// To be called before a read: asks where the log ends, if it is time for that.
    pub(super) async fn ask(&mut self) {
        if self.asked.is_some() || Instant::now() < self.due {
            return;
        }
        let (wall, monotonic) = (SystemTime::now(), std::time::Instant::now());
        let at = [(self.feed.partition.clone(), From::Next)];
        match timeout(PATIENCE, self.feed.shared.bus.locate(&at)).await {
            Ok(Ok(marks)) => self.asked = marks.first().map(|mark| Asked { end: mark.end, wall, monotonic }),
            // The read says what is wrong.
            Ok(Err(_)) | Err(_) => self.due = Instant::now() + INTERVAL,
        }
    }

    /// Looks at what was read.
    pub(super) fn read(&mut self, batch: &Batch) {
        let Some(Asked { end, wall, monotonic }) = &self.asked else { return };
        let Some(record) = batch.records.iter().find(|record| record.at >= *end) else { return };
        let skew = skew(*wall, SystemTime::now(), monotonic.elapsed(), record.appended);
        self.asked = None;
        let Some(seconds) = skew else { return };
        let is_beyond = seconds.abs() > TOLERANCE;
        if std::mem::replace(&mut self.suspects, is_beyond) == is_beyond {
            self.due = Instant::now() + INTERVAL;
            self.feed.shared.skew.set(&self.feed.partition, seconds);
        }
    }
}

impl Drop for Probe<'_> {
    fn drop(&mut self) {
        self.feed.shared.skew.forget(&self.feed.partition);
    }
}

/// By how many seconds, at the least, a clock is ahead that calls `appended` what happened between `from` and `to`, which took
/// `took`; `None` where that says too little.
fn skew(from: SystemTime, to: SystemTime, took: Duration, appended: SystemTime) -> Option<f64> {
    let between = to.duration_since(from).ok().filter(|between| between.abs_diff(took) <= STEP)?;
    match (appended.duration_since(to), from.duration_since(appended)) {
        (Ok(ahead), _) => Some(ahead.as_secs_f64()),
        (_, Ok(behind)) => Some(-behind.as_secs_f64()),
        _ => (between.as_secs_f64() <= TOLERANCE).then_some(0.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_outside_of_the_time_that_it_took_is_a_skew() {
        let start = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let at = |millis: i64| match u64::try_from(millis) {
            Ok(millis) => start + Duration::from_millis(millis),
            Err(_) => start - Duration::from_millis(millis.unsigned_abs()),
        };
        let took = Duration::from_millis;
        assert_eq!(skew(at(0), at(200), took(200), at(100)), Some(0.0));
        assert_eq!(skew(at(0), at(200), took(200), at(5_200)), Some(5.0));
        assert_eq!(skew(at(0), at(200), took(200), at(-3_000)), Some(-3.0));
        // Nothing came for a minute: a clock that is ten seconds off may say this, too.
        assert_eq!(skew(at(0), at(60_000), took(60_000), at(30_000)), None);
        assert_eq!(skew(at(0), at(60_000), took(60_000), at(70_000)), Some(10.0));
        // This machine's own clock was set meanwhile.
        assert_eq!(skew(at(0), at(3_600_000), took(200), at(100)), None);
        assert_eq!(skew(at(0), at(-5_000), took(200), at(100)), None);
    }
}
