//! Whether the brokers are there, and what to say when they are not.

use std::sync::Arc;
use std::time::Duration;

use evoke_connect::backoff::Backoff;
use tokio::time::Instant;

use super::{Core, state};
use crate::bus::{BusError, Health};
use crate::health::HealthBoard;

/// How long brokers that were well may take to answer before they count as away.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same, for brokers that are away.
const PATIENCE_AWAY: Duration = Duration::from_secs(2);
/// How often brokers that are well are asked.
const INTERVAL: Duration = Duration::from_secs(5);
/// How often the client that asks is listened to.
const TICK: Duration = Duration::from_millis(100);
/// How often brokers that are away are looked for.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// What is wrong, and how much is known of it.
struct Trouble {
    rank: u8,
}

/// Who has the trouble, on the board.
fn who() -> Arc<str> {
    "brokers".into()
}

/// Says that nobody has looked yet.
pub(super) fn begin(health: &HealthBoard, addresses: &str) {
    health.trouble(&who(), Health::Connecting(format!("waiting for Kafka at {addresses}").into()));
}

/// Looks after the brokers until the bus is closed.
pub(super) async fn run(core: Arc<Core>) {
    let who = who();
    let mut backoff = Backoff::between(LOOK_AGAIN.0, LOOK_AGAIN.1);
    let mut trouble = Some(Trouble { rank: 0 });
    let mut follows = false;
    while !core.closed.is_cancelled() {
        let looked = look(&core, trouble.is_some(), !follows);
        let Some(looked) = core.closed.run_until_cancelled(looked).await else { return };
        match looked {
            Ok(()) => {
                if trouble.take().is_some() {
                    core.told.cut();
                    core.told.clear();
                    core.health.clear(&who);
                }
                if !follows {
                    follows = true;
                    core.tasks.spawn(state::follow(Arc::clone(&core)));
                }
                backoff.reset();
            }
            Err((cause, known)) => {
                let rank = rank(&cause, known);
                // What was said is not said again in other words.
                if trouble.as_ref().is_none_or(|trouble| trouble.rank < rank) {
                    core.health.trouble(&who, Health::Down(cause.into()));
                    trouble = Some(Trouble { rank });
                }
            }
        }
        let wait = if trouble.is_some() { backoff.wait() } else { INTERVAL };
        if core.closed.run_until_cancelled(listen(&core, wait, trouble.is_none())).await.is_none() {
            return;
        }
    }
}

/// What is known counts more than that there is no answer, and a login that is refused most.
fn rank(cause: &str, known: bool) -> u8 {
    match known {
        _ if cause.contains("uthentication") || cause.contains("state") => 3,
        true => 2,
        false => 1,
    }
}

async fn look(core: &Core, away: bool, prepare: bool) -> Result<(), (String, bool)> {
    let patience = if away { PATIENCE_AWAY } else { PATIENCE };
    let wire = Arc::clone(core.state.wire());
    let is_there = core.cluster.look(&wire, patience, away, Arc::clone(&core.told)).await?;
    if prepare {
        core.state.prepare(&core.cluster, &core.topics).await.map_err(|error: BusError| (error.to_string(), true))?;
    } else if !is_there {
        core.state.doubt();
    }
    Ok(())
}

/// Waits; while all is `well` not longer than until a client says that something is wrong.
async fn listen(core: &Core, wait: Duration, well: bool) {
    let until = Instant::now() + wait;
    loop {
        core.cluster.listen();
        let tick = (Instant::now() + TICK).min(until);
        tokio::select! {
            () = core.told.heard.notified(), if well => {
                // What else is to be said is said by then.
                tokio::time::sleep(TICK).await;
                return;
            }
            () = tokio::time::sleep_until(tick) => {}
        }
        if Instant::now() >= until {
            return;
        }
    }
}
