//! The small state.

use std::collections::HashSet;
use std::sync::Arc;

use evoke_api::limits;
use futures_util::future::join_all;

use super::{Harness, Limits, again, start};
use crate::bus::{BusError, Entry, EventBus, Expect, Put};

pub(super) fn put(key: &str, value: &str) -> Put {
    Put { key: key.into(), value: Some(value.to_owned().into()), expect: Expect::Any }
}

async fn load(bus: &Arc<dyn EventBus>, prefix: &str) -> Vec<Entry> {
    again(async || bus.load(prefix).await).await.unwrap()
}

fn pairs(entries: &[Entry]) -> HashSet<(String, String)> {
    entries.iter().map(|e| (e.key.clone(), String::from_utf8_lossy(&e.value).into_owned())).collect()
}

/// Of many that expect the same revision, one wins; and each put of a call stands for itself.
pub async fn store_expect_one_winner_of_many<H: Harness>(harness: &H) {
    let (_site, bus) = start(harness, Limits::default()).await;
    let mut expect = Expect::Absent;
    for round in 0..10 {
        let contenders = (0..16).map(|i| {
            let bus = bus.clone();
            async move {
                let put = Put { expect, ..put("doc", &format!("{round}/{i}")) };
                // Not made again: after a lost answer nobody can tell who won.
                (i, bus.store(vec![put]).await)
            }
        });
        let results = join_all(contenders).await;
        let winners: Vec<_> = results.iter().filter(|(_, r)| matches!(r, Ok(done) if done[0].is_some())).collect();
        let doubtful: Vec<_> = results.iter().filter(|(_, r)| r.is_err()).collect();
        assert!(winners.len() <= 1, "{winners:?}");
        let now = load(&bus, "doc").await;
        let Some(now) = now.first() else {
            assert_eq!(doubtful.len(), results.len(), "nobody won although nobody failed");
            continue;
        };
        let written = String::from_utf8_lossy(&now.value).into_owned();
        match winners[..] {
            [(i, Ok(done))] => {
                assert_eq!((written, Some(now.revision)), (format!("{round}/{i}"), done[0]));
            }
            _ => assert!(!doubtful.is_empty(), "one of {results:?} must win"),
        }
        expect = Expect::Revision(now.revision);
    }
    let stale = match expect {
        Expect::Revision(revision) => revision,
        Expect::Any | Expect::Absent => panic!("nobody ever won"),
    };
    let other = Put { expect: Expect::Absent, ..put("other", "new") };
    let wrong = Put { expect: Expect::Revision(stale + 1000), ..put("doc", "wrong") };
    let missing = Put { expect: Expect::Revision(1), ..put("missing", "wrong") };
    let results = again(async || bus.store(vec![wrong.clone(), other.clone(), missing.clone()]).await).await.unwrap();
    assert_eq!((results[0], results[2]), (None, None));
    assert_eq!(pairs(&load(&bus, "other").await), [("other".into(), "new".into())].into());
}

/// What a store answered is what a later load sees, over a cut too.
pub async fn load_sees_resolved_stores<H: Harness>(harness: &H) {
    let (site, mut bus) = start(harness, Limits::default()).await;
    assert!(load(&bus, "").await.is_empty());
    assert_eq!(again(async || bus.store(vec![]).await).await.unwrap(), []);
    let mut given = HashSet::new();
    for round in 0..6 {
        let puts = [put("l/a", &format!("a{round}")), put("l/b", "b"), put("lx", "x"), put("m/a", "\u{1f980}")];
        let revisions = again(async || bus.store(puts.to_vec()).await).await.unwrap();
        assert!(given.insert(revisions[0].unwrap()), "a revision changes with every put");
        if round % 2 == 1 {
            bus = harness.cut(&site, bus).await;
        }
        let seen = load(&bus, "l/").await;
        let expected = [("l/a".to_owned(), format!("a{round}")), ("l/b".to_owned(), "b".to_owned())];
        assert_eq!(pairs(&seen), expected.into());
        assert_eq!(load(&bus, "").await.len(), 4);
    }
    let delete = Put { value: None, ..put("l/a", "") };
    again(async || bus.store(vec![delete.clone()]).await).await.unwrap();
    assert_eq!(pairs(&load(&bus, "l/").await), [("l/b".into(), "b".into())].into());
    bus = harness.cut(&site, bus).await;
    assert_eq!(pairs(&load(&bus, "l/").await), [("l/b".into(), "b".into())].into());
    let absent = Put { expect: Expect::Absent, ..put("l/a", "again") };
    again(async || bus.store(vec![absent.clone()]).await).await.unwrap();
    let anew = load(&bus, "l/a").await;
    assert_eq!(pairs(&anew), [("l/a".into(), "again".into())].into());
    assert!(
        !given.contains(&anew[0].revision),
        "whoever still knows the key from before must not take it for the same"
    );
    let long = again(async || bus.store(vec![put(&"k".repeat(10_000), "")]).await).await;
    assert!(matches!(long, Err(BusError::Broken(_))), "{long:?}");
}

/// A value as large as any that is kept comes back, and a larger one than the bus takes is refused and changes nothing.
pub async fn large_values_are_kept_and_larger_ones_refused<H: Harness>(harness: &H) {
    let (site, mut bus) = start(harness, Limits::default()).await;
    assert!(bus.max_value_bytes() >= limits::STATE_VALUE_BYTES);
    let large: String = (0..limits::STATE_VALUE_BYTES).map(|i| char::from(b'a' + (i % 23) as u8)).collect();
    again(async || bus.store(vec![put("large/a", &large)]).await).await.unwrap();
    let larger = "x".repeat(bus.max_value_bytes() + 1);
    let refused = again(async || bus.store(vec![put("large/a", &larger)]).await).await;
    assert!(matches!(refused, Err(BusError::Broken(_))), "{refused:?}");
    bus = harness.cut(&site, bus).await;
    let found = load(&bus, "large/").await;
    assert!(pairs(&found) == [("large/a".to_owned(), large)].into(), "{} entries", found.len());
}
