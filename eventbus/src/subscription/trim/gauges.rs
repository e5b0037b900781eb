//! What is shown of every subscription: how far behind it is, what is kept for it, and, of one that runs nowhere, what it has lost.
//!
//! A loss is counted as dropped by the lane that moves the position over it. Until there is one, it shows here, as often as anybody
//! looks: what a position says of a log is the same to every process and after every restart, and nothing has to be written for it.

use std::collections::BTreeMap;

use evoke_api::names::SubscriptionId;
use parking_lot::Mutex;

use super::labels;
use crate::subscription::metrics::Metrics;
use crate::subscription::{Standing, job};

/// The subscriptions of one bus that are shown, and what each has lost. Several buses have the same gauges.
#[derive(Debug, Default)]
pub(in crate::subscription) struct Shown(Mutex<BTreeMap<SubscriptionId, u64>>);

#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    lag: u64,
    held: u64,
    lost: u64,
}

impl Shown {
    /// Sets the gauges, and takes away those of subscriptions that are gone.
    pub(super) fn show(&self, metrics: &Metrics, standings: &[Standing]) {
        let mut sums: BTreeMap<&SubscriptionId, Sums> = BTreeMap::new();
        for standing in standings.iter().filter(|standing| job::of_ledgers(&standing.name.subscription).is_none()) {
            sums.entry(&standing.name.subscription).or_default().add(standing);
        }
        let gauges = [&metrics.lag, &metrics.held, &metrics.lost];
        let mut shown = self.0.lock();
        for gone in shown.keys().filter(|id| !sums.contains_key(id)) {
            for gauge in gauges {
                // It is not there where another bus, which the subscription has moved to, took it away.
                gauge.remove_label_values(&labels(gone)).unwrap_or_default();
            }
        }
        let mut now = BTreeMap::new();
        for (subscription, Sums { lag, held, lost }) in sums {
            for (gauge, value) in gauges.into_iter().zip([lag, held, lost]) {
                gauge.with_label_values(&labels(subscription)).set(value.cast_signed());
            }
            if lost > 0 && shown.get(subscription).is_none_or(|before| *before == 0) {
                tracing::warn!(%subscription, events = lost, "a subscription that runs nowhere loses events; they are counted once it runs");
            }
            now.insert(subscription.clone(), lost);
        }
        *shown = now;
    }
}

impl Sums {
    fn add(&mut self, Standing { ledger, mark, running, .. }: &Standing) {
        let open = ledger.open().len() as u64;
        let Some(mark) = mark else {
            self.held += open;
            return;
        };
        let (lag, lost) = (ledger.lag(mark).0, ledger.lost(mark.begin()));
        self.lag += lag;
        self.held += lag + open.saturating_sub(lost.open);
        if !running {
            self.lost += lost.events();
        }
    }
}

#[cfg(test)]
mod tests {
    use evoke_api::names::{ObjectName, TopicName};
    use prometheus::Registry;

    use super::*;
    use crate::bus::{Mark, Partition, Point, Position};
    use crate::subscription::ledger::{Ledger, LedgerName, Open};

    fn id(name: &str) -> SubscriptionId {
        SubscriptionId { owner: ObjectName::new("shop", "orders"), subscriber: name.into() }
    }

    /// Where a subscription stands in a log whose positions begin with a time, of which the events from 40 to 100 are kept.
    fn standing(name: &str, evaluated: u64, open: &[u64], running: bool) -> Standing {
        let position = |event: u64| Position(u128::from(event + 1) << 70);
        let mut ledger = Ledger::starting_at(Point { at: position(evaluated), before: Some(evaluated) });
        open.iter().for_each(|event| ledger.matched(position(*event), Open::default()));
        let ahead = 100 - evaluated.clamp(40, 100);
        // Where it is an estimate, it is a poor one.
        let exact = ahead < 10 || evaluated <= 40;
        let mark = Mark {
            at: ledger.upto(),
            first: position(40),
            end: position(100),
            ahead: if exact { ahead } else { 7 },
            exact,
            appended: Some(100),
        };
        let partition = Partition { topic: TopicName::parse("shop.web.order"), index: 0 };
        let name = LedgerName { subscription: id(name), partition };
        Standing { name, ledger, mark: Some(mark), running }
    }

    fn metrics() -> Metrics {
        Metrics::new(&Registry::new()).unwrap()
    }

    fn shown(metrics: &Metrics, name: &str) -> [i64; 3] {
        let gauges = [&metrics.lag, &metrics.held, &metrics.lost];
        gauges.map(|gauge| gauge.with_label_values(&labels(&id(name))).get())
    }

    #[test]
    fn what_lies_ahead_is_kept_and_was_lost_adds_up_to_what_was_appended() {
        let (metrics, board) = (metrics(), Shown::default());
        let standings = [
            standing("from-the-start", 0, &[], false),
            standing("half-way", 30, &[10, 20], false),
            standing("behind", 60, &[39, 50], false),
            standing("at-the-end", 100, &[], false),
            standing("running", 30, &[10], true),
        ];
        board.show(&metrics, &standings);
        assert_eq!(shown(&metrics, "from-the-start"), [60, 60, 40]);
        assert_eq!(shown(&metrics, "half-way"), [60, 60, 12]);
        assert_eq!(shown(&metrics, "behind"), [40, 41, 1]);
        assert_eq!(shown(&metrics, "at-the-end"), [0, 0, 0]);
        // What it has read and not finished is not lost to it, wherever the log begins.
        assert_eq!(shown(&metrics, "running"), [60, 60, 0]);
    }

    #[test]
    fn several_buses_show_what_is_theirs() {
        let (metrics, [one, other]) = (metrics(), [Shown::default(), Shown::default()]);
        one.show(&metrics, &[standing("one", 90, &[], true), standing("gone", 90, &[], true)]);
        other.show(&metrics, &[standing("other", 95, &[], true)]);
        one.show(&metrics, &[standing("one", 91, &[], true)]);
        assert_eq!([shown(&metrics, "one")[0], shown(&metrics, "other")[0]], [9, 5]);
        one.show(&metrics, &[]);
        let families = prometheus::core::Collector::collect(&metrics.lag);
        let left: Vec<_> = families.iter().flat_map(prometheus::proto::MetricFamily::get_metric).collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }
}
