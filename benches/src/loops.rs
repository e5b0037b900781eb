//! What both sides are put through: as fast as they can, at a steady rate, and reading what is there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use evoke_eventbus::event::Event;
use evoke_tests::process::Pid;
use futures_util::StreamExt;
use futures_util::stream::FuturesOrdered;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::measure::{Measured, Meter, Outcome};
use crate::sides::{BATCH, Consumer, Ends, Publisher, Stored, number};

/// Events that do not count: connections are made and code is warm after them.
pub const WARM: usize = 2 * BATCH;
/// How often it is looked which events are due. Small beside what a broker takes, and on both sides the same.
const TICK: Duration = Duration::from_micros(250);
/// How long after it is made a schedule begins.
const LEAD: Duration = Duration::from_millis(20);

type Published = Outcome<Box<dyn Publisher>>;

/// Publishes the first events and waits until they were read.
async fn warm(ends: &mut Ends, events: &[Event]) -> Outcome<()> {
    for call in events.get(..WARM).unwrap_or_default().chunks(BATCH) {
        ends.publisher.publish(call).await?.await?;
    }
    read(&mut *ends.consumer, WARM).await
}

async fn read(consumer: &mut dyn Consumer, count: usize) -> Outcome<()> {
    let mut seen = 0;
    while seen < count {
        consumer.consume(&mut |_| seen += 1).await?;
    }
    Ok(())
}

/// Publishes with so many calls under way, reads and acknowledges, all as fast as it goes: to the last acknowledgement.
///
/// # Errors
/// Those of the side.
pub async fn closed(mut ends: Ends, events: &Arc<[Event]>, calls: usize, server: Pid) -> Outcome<Measured> {
    warm(&mut ends, events).await?;
    let Ends { publisher, mut consumer } = ends;
    let count = events.len() - WARM;
    let meter = Meter::start(Some(server))?;
    let mut tasks = JoinSet::new();
    tasks.spawn(publish(publisher, Arc::clone(events), calls));
    let consume = async {
        read(&mut *consumer, count).await?;
        consumer.finish().await
    };
    let (_publisher, ()) = tokio::try_join!(published(&mut tasks), consume)?;
    // Taken before either end is dropped, which may wait for threads.
    meter.stop(count)
}

async fn publish(mut publisher: Box<dyn Publisher>, events: Arc<[Event]>, calls: usize) -> Published {
    let mut under_way = FuturesOrdered::<Stored>::new();
    for call in events.get(WARM..).unwrap_or_default().chunks(BATCH) {
        if under_way.len() == calls
            && let Some(stored) = under_way.next().await
        {
            stored?;
        }
        under_way.push_back(publisher.publish(call).await?);
    }
    while let Some(stored) = under_way.next().await {
        stored?;
    }
    Ok(publisher)
}

async fn published(tasks: &mut JoinSet<Published>) -> Published {
    tasks.join_next().await.ok_or("nobody publishes")??
}

/// Reads `count` events that are there: events a second, from the first ones on.
///
/// # Errors
/// Those of the side.
pub async fn drain(consumer: &mut dyn Consumer, count: usize) -> Outcome<f64> {
    let mut seen = 0;
    consumer.consume(&mut |_| seen += 1).await?;
    let (first, started) = (seen, Instant::now());
    read(consumer, count - first).await?;
    Ok((count - first) as f64 / started.elapsed().as_secs_f64())
}

/// When each event is to be published.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start: Instant,
    rate: f64,
    count: usize,
}

impl Schedule {
    fn of(&self, n: usize) -> Instant {
        self.start + Duration::from_secs_f64(n as f64 / self.rate)
    }

    fn due(&self, now: Instant) -> usize {
        match now.checked_duration_since(self.start) {
            Some(since) => ((since.as_secs_f64() * self.rate) as usize + 1).min(self.count),
            None => 0,
        }
    }

    /// Says which events are due, from a thread: the runtime's clock ticks once a millisecond.
    fn follow(self, due: &watch::Sender<usize>) {
        loop {
            let now = self.due(Instant::now());
            if now > *due.borrow() {
                due.send_replace(now);
            }
            if now == self.count || due.is_closed() {
                return;
            }
            std::thread::sleep(TICK);
        }
    }
}

/// Publishes `rate` events a second for about `span`, whatever becomes of them, and reads and acknowledges them: how long each took, in
/// milliseconds, from the time it was to be published to the time it was delivered.
///
/// # Errors
/// Those of the side.
pub async fn open(mut ends: Ends, events: &Arc<[Event]>, rate: f64, span: Duration) -> Outcome<Vec<f64>> {
    warm(&mut ends, events).await?;
    let Ends { publisher, mut consumer } = ends;
    let count = ((rate * span.as_secs_f64()) as usize).clamp(1, events.len() - WARM);
    let schedule = Schedule { start: Instant::now() + LEAD, rate, count };
    let (due_is, due) = watch::channel(0);
    let (mut pacer, mut tasks) = (JoinSet::new(), JoinSet::new());
    pacer.spawn_blocking(move || schedule.follow(&due_is));
    tasks.spawn(publish_when_due(publisher, Arc::clone(events), due, count));
    let mut latencies = Vec::with_capacity(count);
    let consume = async {
        let mut seen = 0;
        while seen < count {
            let each = &mut |data: &[u8]| {
                let now = Instant::now();
                seen += 1;
                let n = number(data).and_then(|n| n.checked_sub(WARM));
                latencies.extend(n.map(|n| now.saturating_duration_since(schedule.of(n)).as_secs_f64() * 1e3));
            };
            consumer.consume(each).await?;
        }
        consumer.finish().await
    };
    let (_publisher, ()) = tokio::try_join!(published(&mut tasks), consume)?;
    while let Some(ended) = pacer.join_next().await {
        ended?;
    }
    Ok(latencies)
}

async fn publish_when_due(
    mut publisher: Box<dyn Publisher>,
    events: Arc<[Event]>,
    mut due: watch::Receiver<usize>,
    count: usize,
) -> Published {
    let (mut sent, mut under_way) = (0, FuturesOrdered::<Stored>::new());
    while sent < count {
        tokio::select! {
            biased;
            Some(stored) = under_way.next() => stored?,
            changed = due.changed() => {
                changed?;
                let now = *due.borrow_and_update();
                for call in events.get(WARM + sent..WARM + now).unwrap_or_default().chunks(BATCH) {
                    under_way.push_back(publisher.publish(call).await?);
                }
                sent = now;
            }
        }
    }
    while let Some(stored) = under_way.next().await {
        stored?;
    }
    Ok(publisher)
}
