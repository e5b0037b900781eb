//! Checks by seed. Each has a runtime of its own whose time is paused, so that waiting costs nothing, and all cores take part.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::runtime::Builder;

/// Makes a check for so many seeds, or for as many as `EVOKE_SEEDS` says; the first is `EVOKE_SEED`, else 1.
pub(super) fn by_seed<C: Future<Output = ()>>(few: u64, check: impl Fn(u64) -> C + Sync) {
    let (first, count) = (setting("EVOKE_SEED", 1), setting("EVOKE_SEEDS", few));
    let (next, passed) = (AtomicU64::new(first), AtomicU64::new(0));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            let runtime = Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            if catch_unwind(AssertUnwindSafe(|| runtime.block_on(check(seed)))).is_err() {
                next.store(first + count, Ordering::Relaxed);
                panic!("seed {seed} fails: EVOKE_SEED={seed} EVOKE_SEEDS=1 makes this check alone");
            }
            passed.fetch_add(1, Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    assert_eq!(passed.into_inner(), count, "every seed was checked");
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is no number")))
}
