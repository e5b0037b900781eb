//! The conformance suite of the bus, on real servers: one harness a back-end, in a module of its own.

mod jetstream;
mod kafka;
mod redis;

use super::{LIMIT, Listed};

/// Every test of the suite on one back-end. `harness` is an `async fn() -> Result<impl Harness, Skipped>`.
macro_rules! suite {
    ($name:literal, $harness:path; $($test:ident)*) => {
        vec![$((
            concat!("conformance::", $name, "::", stringify!($test)),
            LIMIT,
            (|| {
                Box::pin(async {
                    evoke_eventbus::conformance::$test(&$harness().await?).await;
                    Ok(())
                })
            }) as fn() -> super::Test,
        )),*]
    };
}

/// Of all back-ends that are brokers; the embedded one runs the suite in its own crate.
pub(crate) fn tests() -> Vec<Listed> {
    let back_ends = [
        evoke_eventbus::with_conformance_tests!(suite! "jetstream", jetstream::harness),
        evoke_eventbus::with_conformance_tests!(suite! "kafka", kafka::harness),
        evoke_eventbus::with_conformance_tests!(suite! "redis", redis::harness),
    ];
    back_ends.into_iter().flatten().collect()
}
