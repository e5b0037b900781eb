//! What a lane has to know of the time before its frontier: the events in its selector's window, and those that were delivered a
//! short time ago. Both are read again from the log, and nothing is delivered for it.

use std::time::Duration;

use evoke_api::names::SubscriptionId;
use evoke_eventbus::bus::{BusError, EventBus, Expect, Partition, Position, Put, Record};
use evoke_eventbus::subscription::ledger::{self, Millis};
use evoke_eventbus::subscription::{Subscription, scan};

use super::again::Past;
use super::recent::Recent;
use super::{Selector, Verdict};

/// Appends that seem to be older than the window by this much are looked at too: several inputs are merged only as they arrive.
const SLACK: Duration = Duration::from_secs(1);

/// Where an input stands.
struct Standing {
    partition: Partition,
    topic: usize,
    generation: u64,
    upto: Position,
    seen: Millis,
    /// When the last event before was appended, by the bus's clock of then; the end of all time where there is none.
    last: Millis,
    /// What lies before was judged otherwise, or not at all, and does not count as delivered.
    floor: Position,
}

/// Shows the selector what lies in its window before the frontier, and `recent` what of it was delivered.
pub(super) async fn warm_up(
    bus: &dyn EventBus,
    id: &SubscriptionId,
    subscription: &Subscription,
    selector: &mut dyn Selector,
    mut recent: Option<&mut Recent>,
) -> Result<(), BusError> {
    let mut inputs = standings(subscription);
    if recent.is_some() {
        floors(bus, id, &mut inputs, selector.fingerprint()).await?;
    }
    let remembered = recent.as_ref().map(|recent| recent.window() + SLACK);
    let Some(window) =
        [selector.window().map(|window| window + SLACK), remembered].into_iter().flatten().reduce(|a, b| a + b)
    else {
        return Ok(());
    };
    if inputs.iter().all(|input| input.seen == Millis(0)) {
        return Ok(());
    }
    let mut seen = Millis(0);
    for input in &mut inputs {
        input.look_back(bus).await?;
        seen = seen.max(input.seen);
    }
    let since = back(seen, window);
    let judged_since = remembered.map(|remembered| back(seen, remembered));
    let mut pasts = Vec::with_capacity(inputs.len());
    for input in &inputs {
        pasts.push(Past::open(bus, &input.partition, since.to_system(), (input.upto, input.last)).await?);
    }
    while let Some(index) = earliest(&mut pasts).await? {
        let (Some(past), Some(input)) = (pasts.get_mut(index), inputs.get(index)) else { return Ok(()) };
        if let Some(record) = past.peek().await? {
            match &mut recent {
                Some(recent) if judged_since.is_some_and(|since| Millis::from(record.appended) >= since) => {
                    let is_match = selector.select(input.topic, record) == Verdict::Match;
                    if is_match && record.at >= input.floor {
                        recent.repeats(index, record);
                    }
                }
                _ => selector.observe(input.topic, record),
            }
        }
        past.take();
        tokio::task::coop::consume_budget().await;
    }
    Ok(())
}

impl Standing {
    /// Finds out when the last event before the frontier was appended. A ledger may say later: a clock that was ahead for a while leaves
    /// a time there that nothing goes back behind, and a window that ends there holds nothing.
    async fn look_back(&mut self, bus: &dyn EventBus) -> Result<(), BusError> {
        if let Some(last) = scan::last_before(bus, &self.partition, self.upto, Position::default()).await? {
            self.last = last.appended.into();
            self.seen = self.seen.min(self.last);
        }
        Ok(())
    }
}

fn back(from: Millis, by: Duration) -> Millis {
    Millis(from.0.saturating_sub(u64::try_from(by.as_millis()).unwrap_or(u64::MAX)))
}

/// Which of some inputs has the event that was appended first.
async fn earliest(pasts: &mut [Past<'_>]) -> Result<Option<usize>, BusError> {
    let mut earliest = None;
    for (index, past) in pasts.iter_mut().enumerate() {
        if let Some(Record { appended, .. }) = past.peek().await?
            && earliest.is_none_or(|(time, _)| *appended < time)
        {
            earliest = Some((*appended, index));
        }
    }
    Ok(earliest.map(|(_, index)| index))
}

fn standings(subscription: &Subscription) -> Vec<Standing> {
    subscription.book.view(|pages| {
        let ledgers = (0..).map_while(|input| pages.ledger(input));
        let standing =
            |(input, ledger): (&evoke_eventbus::subscription::Input, &evoke_eventbus::subscription::ledger::Ledger)| {
                Standing {
                    partition: input.cursor.partition().clone(),
                    topic: input.topic,
                    generation: ledger.generation(),
                    upto: ledger.upto(),
                    seen: ledger.seen(),
                    last: Millis(u64::MAX),
                    floor: ledger.upto(),
                }
            };
        subscription.inputs.iter().zip(ledgers).map(standing).collect()
    })
}

/// Finds from where on each input was judged as it is today, and notes it where that begins now: what an edited condition would
/// have matched before, or what came before the subscription did, was never delivered.
async fn floors(bus: &dyn EventBus, id: &SubscriptionId, inputs: &mut [Standing], judge: u64) -> Result<(), BusError> {
    let prefix = ledger::recent_prefix(id);
    let stored = bus.load(&prefix).await?;
    let mut puts = Vec::new();
    for input in inputs {
        let key = format!("{prefix}{}/{}", input.partition.topic, input.partition.index);
        let entry = stored.iter().find(|entry| entry.key == key);
        let noted = entry.and_then(|entry| Noted::read(&entry.value));
        match noted.filter(|noted| (noted.judge, noted.generation) == (judge, input.generation)) {
            Some(noted) => input.floor = noted.from,
            None => {
                let noted = Noted { judge, generation: input.generation, from: input.upto };
                puts.push(Put { key, value: Some(noted.write().into()), expect: Expect::Any });
            }
        }
    }
    if !puts.is_empty() {
        bus.store(puts).await?;
    }
    Ok(())
}

/// From where on an input was judged by what.
#[derive(Debug, PartialEq, Eq)]
struct Noted {
    judge: u64,
    generation: u64,
    from: Position,
}

impl Noted {
    fn write(&self) -> String {
        format!("{} {} {}", self.judge, self.generation, self.from)
    }

    fn read(text: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(text).ok()?.split(' ');
        let (judge, generation) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { judge, generation, from: Position(words.next()?.parse().ok()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_back() {
        let noted = Noted { judge: u64::MAX, generation: 3, from: Position(u128::MAX) };
        assert_eq!(Noted::read(noted.write().as_bytes()), Some(noted));
        assert_eq!(Noted::read(b"1 2"), None);
    }
}
