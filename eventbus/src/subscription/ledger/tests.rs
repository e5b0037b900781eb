use std::collections::BTreeMap;

use evoke_api::limits;
use proptest::prelude::*;

use super::*;

fn name() -> LedgerName {
    named(["shop", "orders", "billing", "shop.web.order"], 3)
}

/// One step of the life of a ledger.
#[derive(Clone, Debug)]
enum Step {
    /// Evaluates events; true for those that match.
    Evaluate(Vec<bool>),
    Attempt(usize, u64),
    Finish(usize),
    Trim(u64),
    Seek(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => prop::collection::vec(any::<bool>(), 1..6).prop_map(Step::Evaluate),
        3 => (any::<usize>(), 1u64..1 << 40).prop_map(|(which, now)| Step::Attempt(which, now)),
        4 => any::<usize>().prop_map(Step::Finish),
        1 => (0u64..40).prop_map(Step::Trim),
        1 => (0u64..200).prop_map(Step::Seek),
    ];
    prop::collection::vec(step, 0..60)
}

proptest! {
    /// The model keeps every event ever evaluated, and what became of it; the ledger must always say the same.
    #[test]
    fn says_what_a_plain_list_of_all_events_says(steps in steps()) {
        let (mut ledger, mut model, mut next) = (Ledger::default(), BTreeMap::<u64, (bool, u32)>::new(), 0u64);
        let (mut count, mut generation) = (0, 0);
        for step in steps {
            match step {
                Step::Evaluate(verdicts) => {
                    for matches in &verdicts {
                        if *matches {
                            ledger.matched(Position(next.into()), Open::default());
                        }
                        model.insert(next, (*matches, 0));
                        next += 1;
                    }
                    count += verdicts.len() as u64;
                    ledger.advance(Position(next.into()), verdicts.len() as u64, Millis(next));
                }
                Step::Attempt(which, now) => {
                    if let Some(at) = pick(&ledger, which) {
                        let count = &mut model.get_mut(&at).unwrap().1;
                        *count += 1;
                        let (last, due) = (Millis(now), Millis(now + 5));
                        ledger.matched(Position(at.into()), Open { attempts: *count, last, due, ..Open::default() });
                    }
                }
                Step::Finish(which) => {
                    if let Some(at) = pick(&ledger, which) {
                        prop_assert!(ledger.finished(Position(at.into())));
                        prop_assert!(!ledger.finished(Position(at.into())));
                        model.insert(at, (false, 0));
                    }
                }
                Step::Trim(by) => {
                    let first = (ledger.needs().0 as u64) + by;
                    let gone = model.iter().filter(|(at, (open, _))| *open && **at < first).count() as u64;
                    let lost = ledger.trimmed(Position(first.into()));
                    prop_assert_eq!(lost, Lost { open: gone, unread: Some(first.saturating_sub(next)) });
                    model.retain(|at, _| *at >= first);
                    next = next.max(first);
                }
                Step::Seek(to) => {
                    ledger.seek(Position(to.into()));
                    model.clear();
                    next = to;
                    generation += 1;
                }
            }
            let open: BTreeMap<u64, u32> = model.iter().filter(|(_, (open, _))| *open).map(|(at, (_, n))| (*at, *n)).collect();
            let said: BTreeMap<u64, u32> = ledger.open().iter().map(|(at, open)| (at.0 as u64, open.attempts)).collect();
            prop_assert_eq!(&said, &open);
            prop_assert_eq!(ledger.upto(), Position(next.into()));
            prop_assert_eq!(ledger.needs(), Position(open.keys().next().copied().unwrap_or(next).into()));
            prop_assert_eq!((ledger.count(), ledger.generation()), (count, generation));
            let decoded = Ledger::decode(&ledger.encode(&name()));
            prop_assert_eq!(decoded, Ok((name(), ledger.clone())));
        }
    }

    #[test]
    fn any_ledger_survives_its_bytes(
        numbers in any::<(u64, u128, u64, u64, Option<u64>)>(),
        open in prop::collection::btree_map(any::<u128>(), any::<(u32, u64, u64, u64, u64)>(), 0..20),
    ) {
        let (generation, upto, count, seen, before) = numbers;
        let open = open.into_iter().map(|(at, (attempts, due, first, last, key))| {
            let tried = attempts != 0;
            let [first, last] = [first, last].map(|time| Millis(if tried { time } else { 0 }));
            (Position(at), Open { attempts, due: Millis(due), first, last, key })
        });
        let ledger =
            Ledger { generation, upto: Position(upto), count, seen: Millis(seen), before, open: open.collect() };
        prop_assert_eq!(Ledger::decode(&ledger.encode(&name())), Ok((name(), ledger)));
    }

    #[test]
    fn no_bytes_are_taken_for_more_than_they_are(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        if let Ok((name, ledger)) = Ledger::decode(&bytes) {
            prop_assert_eq!(Ledger::decode(&ledger.encode(&name)), Ok((name, ledger)));
        }
    }
}

fn pick(ledger: &Ledger, which: usize) -> Option<u64> {
    let open = ledger.open();
    open.keys().nth(which.checked_rem(open.len())?).map(|at| at.0 as u64)
}

#[test]
fn a_cut_or_newer_ledger_is_refused() {
    for before in [None, Some(300)] {
        let mut ledger = Ledger::starting_at(Point { at: Position(7), before });
        ledger.matched(Position(9), Open { key: 5, ..Open::default() });
        let bytes = ledger.encode(&name());
        for cut in 0..bytes.len() {
            assert_eq!(Ledger::decode(&bytes[..cut]), Err(BadLedger::Damaged), "cut at {cut}");
        }
        let mut newer = bytes.to_vec();
        newer[0] = 3;
        assert_eq!(Ledger::decode(&newer), Err(BadLedger::Version(3)));
    }
}

/// What stands there was written by every version that was ever released: positions outlive it.
#[test]
fn every_version_of_a_ledger_is_read_and_written_where_it_says_all() {
    const NAMES: &[u8] = b"\x04shop\x06orders\x07billing\x0eshop.web.order";
    // Partition 3, generation 2, upto 300, count 5, seen 1000; then one open event: 200 with an attempt at 900, due at 1100.
    const NUMBERS: &[u8] = b"\x03\x02\xac\x02\x05\xe8\x07";
    const OPEN: &[u8] = b"\x01\xc8\x01\x02\x88\x0e\x00\x90\x03";
    let mut ledger = Ledger { generation: 2, upto: Position(300), count: 5, seen: Millis(1000), ..Ledger::default() };
    let [first, due] = [900, 1100].map(Millis);
    ledger.matched(Position(200), Open { attempts: 1, due, first, last: first, key: 0 });
    let version_1 = [&[1][..], NAMES, NUMBERS, OPEN].concat();
    assert_eq!(Ledger::decode(&version_1), Ok((name(), ledger.clone())));
    assert_eq!(ledger.encode(&name()), version_1);
    ledger.counted(130);
    let version_2 = [&[2][..], NAMES, NUMBERS, &[0x82, 0x01], OPEN].concat();
    assert_eq!(Ledger::decode(&version_2), Ok((name(), ledger.clone())));
    assert_eq!(ledger.encode(&name()), version_2);
}

/// Where the event of a number is, in a log whose positions begin with a time.
fn timed(number: u64) -> Position {
    Position((u128::from(number) + 1) << 70)
}

/// The beginning of such a log, of which the events from a number on are kept.
fn begin(number: u64) -> Point {
    Point { at: timed(number), before: Some(number) }
}

#[test]
fn a_loss_is_the_difference_of_what_was_appended_where_positions_do_not_tell() {
    let mut ledger = Ledger::starting_at(begin(10));
    ledger.advance(timed(15), 5, Millis(1));
    ledger.matched(timed(12), Open::default());
    assert_eq!(ledger.lost(begin(12)), Lost { open: 0, unread: Some(0) });
    assert_eq!(ledger.lost(begin(15)), Lost { open: 1, unread: Some(0) });
    assert_eq!(ledger.trimmed(begin(40)), Lost { open: 1, unread: Some(25) });
    assert_eq!(ledger.trimmed(begin(40)), Lost { open: 0, unread: Some(0) });
    // Six entries, of which two are no events.
    ledger.advance(timed(46), 4, Millis(2));
    ledger.counted(46);
    assert_eq!(ledger.trimmed(begin(50)), Lost { open: 0, unread: Some(4) });
    // The log was made anew: all that it has lost is new.
    assert_eq!(Ledger::starting_at(begin(900)).trimmed(Point { at: timed(1000), before: Some(30) }).unread, Some(30));
}

#[test]
fn where_nobody_counts_positions_have_to_do() {
    let mut dense = Ledger::starting_at(Position(10));
    assert_eq!(dense.trimmed(Position(40)).unread, Some(30));
    let mut timed_one = Ledger::starting_at(timed(10));
    assert_eq!(timed_one.clone().trimmed(timed(40)).unread, None);
    assert_eq!(timed_one.trimmed(begin(40)).unread, None);
    // From there on it is known.
    assert_eq!(timed_one.trimmed(begin(50)).unread, Some(10));
    assert_eq!(Ledger::starting_at(begin(10)).trimmed(timed(40)).unread, None);
    timed_one.seek(timed(20));
    assert_eq!(timed_one.trimmed(begin(60)).unread, None, "a place that was never counted");
}

#[test]
fn a_mark_of_the_frontier_corrects_what_is_known_and_no_other_mark_does() {
    let mark = |at, ahead, exact| Mark { at, first: timed(40), end: timed(100), ahead, exact, appended: Some(100) };
    let ledger = Ledger::starting_at(timed(95));
    assert_eq!(ledger.corrected(&mark(timed(95), 5, true)), Some(95));
    assert_eq!(ledger.corrected(&mark(timed(95), 7, false)), None, "an estimate");
    assert_eq!(ledger.corrected(&mark(timed(96), 4, true)), None, "of another place");
    assert_eq!(Ledger::starting_at(begin(95)).corrected(&mark(timed(95), 5, true)), None, "known already");
    assert_eq!(Ledger::starting_at(timed(10)).corrected(&mark(timed(10), 60, true)), None, "below the log");
    let anew = mark(timed(10), 100, true);
    let stale = Ledger::starting_at(begin(10));
    assert_eq!(stale.corrected(&anew), Some(0), "of a log that was made anew nothing was deleted");
    assert_eq!(Ledger::starting_at(begin(60)).lag(&mark(timed(60), 7, false)), (40, true));
    assert_eq!(Ledger::starting_at(timed(60)).lag(&mark(timed(60), 7, false)), (7, false));
    assert_eq!(Ledger::starting_at(begin(99)).lag(&mark(timed(99), 1, true)), (1, true));
}

#[test]
fn a_thousand_parked_events_are_small() {
    let mut ledger = Ledger::default();
    for at in 0..1000 {
        let last = Millis(1_800_000_000_000 + at as u64);
        ledger.matched(Position(at), Open { attempts: 3, first: last, last, due: Millis(last.0 + 60_000), key: 0 });
    }
    assert!(ledger.encode(&name()).len() < 10_000);
}

#[test]
fn a_log_that_lost_its_end_takes_the_frontier_back() {
    let mut ledger = Ledger::starting_at(Position(10));
    ledger.matched(Position(10), Open::default());
    ledger.matched(Position(20), Open::default());
    assert_eq!(ledger.ahead(Position(15)), Lost { open: 1, unread: Some(0) });
    assert_eq!((ledger.upto(), ledger.needs()), (Position(15), Position(10)));
    // What it goes on with is counted from there.
    let mut ledger = Ledger::starting_at(begin(90));
    ledger.ahead(begin(50));
    ledger.advance(timed(60), 10, Millis(1));
    assert_eq!(ledger.trimmed(begin(75)).unread, Some(15));
}

#[test]
fn damage_takes_what_lies_in_it_and_nothing_below() {
    let mut ledger = Ledger::starting_at(Position(10));
    for at in [10, 12, 14, 19] {
        ledger.matched(Position(at), Open::default());
    }
    // Behind the frontier, and before it.
    assert_eq!(ledger.damaged(Position(12), Position(15)), Lost { open: 2, unread: Some(0) });
    assert_eq!((ledger.upto(), ledger.needs()), (Position(20), Position(10)));
    assert_eq!(ledger.damaged(Position(18), Position(30)), Lost { open: 1, unread: Some(10) });
    assert_eq!(ledger.open().keys().collect::<Vec<_>>(), [&Position(10)]);
    assert_eq!(ledger.upto(), Position(30));
    assert_eq!(ledger.trimmed(Position(30)), Lost { open: 1, unread: Some(0) });
}

#[test]
fn what_was_seen_does_not_go_back() {
    let mut ledger = Ledger::starting_at(Position(10));
    ledger.advance(Position(12), 2, Millis(9_000));
    ledger.advance(Position(14), 2, Millis(7_000));
    ledger.ahead(Position(11));
    assert_eq!((ledger.upto(), ledger.seen()), (Position(11), Millis(9_000)));
}

#[test]
fn nothing_is_seen_before_the_first_event() {
    let mut ledger = Ledger::starting_at(Position(10));
    ledger.advance(Position(12), 0, Millis(9_000));
    assert_eq!((ledger.upto(), ledger.seen()), (Position(12), Millis(0)));
    ledger.advance(Position(14), 2, Millis(9_500));
    // From then on, what is no event counts, too.
    ledger.advance(Position(16), 0, Millis(9_800));
    assert_eq!(ledger.seen(), Millis(9_800));
}

#[test]
fn keys_tell_subscriptions_and_topics_apart_and_stay_short() {
    assert_eq!(name().key(), "ledger/shop/orders/billing/shop.web.order/3");
    let long = named([&"n".repeat(63), &"o".repeat(253), &"s".repeat(63), &"t".repeat(400)], 65_535);
    assert!(long.key().len() <= 512);
    assert!(long.key().starts_with(&prefix(&long.subscription)));
}

/// The longest names, and open events of which every number takes as many bytes as it can.
fn largest(open: usize) -> (LedgerName, Ledger) {
    let long = "n".repeat(253);
    let name = named([&"n".repeat(63), &long, &"s".repeat(100), &format!("{long}.{long}.{long}")], u16::MAX);
    let end = 253_402_300_799_999u64;
    let last = (u128::from(end) << 64) | u128::from(u64::MAX);
    let mut ledger = Ledger::starting_at(Position(last));
    (ledger.generation, ledger.count, ledger.before) = (u64::MAX, u64::MAX, Some(u64::MAX));
    ledger.seen = Millis(end);
    for n in 0..open {
        // To and fro, so that each time is as far from the one before as it can be.
        let (first, last_time) = if n % 2 == 0 { (end, 0) } else { (0, end) };
        let open_event = Open {
            attempts: 1_000_000,
            due: Millis(end - last_time),
            first: Millis(first),
            last: Millis(last_time),
            key: u64::MAX,
        };
        ledger.matched(Position(last / open as u128 * n as u128), open_event);
    }
    ledger.advance(Position(last), 0, Millis(end));
    (name, ledger)
}

#[test]
fn as_many_events_as_may_be_open_fit_into_a_value_of_any_limit() {
    for limit in [8 << 10, 64 << 10, limits::STATE_VALUE_BYTES] {
        let (name, ledger) = largest(open_within(limit));
        let bytes = ledger.encode(&name);
        assert!(bytes.len() <= limit, "{} events in {} bytes, above {limit}", ledger.open().len(), bytes.len());
        assert_eq!(Ledger::decode(&bytes).unwrap(), (name, ledger));
    }
    // The bound is none that keeps everybody away from it.
    let (name, ledger) = largest(open_within(limits::STATE_VALUE_BYTES));
    assert!(ledger.encode(&name).len() > limits::STATE_VALUE_BYTES / 10 * 9);
}
