//! Sources that must run in one process only: they take turns.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use evoke_adapters::cron::Lease;
use evoke_adapters::source::{Context, Origin, Status};
use evoke_api::names::SubscriptionId;
use evoke_eventbus::subscription::Subscriptions;
use evoke_eventbus::subscription::sharing::{Group, Hold, Part, Share};
use futures_util::future::BoxFuture;
use tokio::time::{Instant, sleep};

/// How soon it is asked again for a turn that another process is about to give up.
const AGAIN: Duration = Duration::from_millis(100);

/// How long before its own start a process answers for what was due, where others had the turn before it: they may have been giving it
/// away, or dead and not known to be.
const HANDOVER: TimeDelta = TimeDelta::seconds(15);

/// A turn, and whether others had it while this process waited for it.
struct Taken {
    hold: Hold,
    follows: bool,
}

/// The turns of one source, over all processes on its bus.
pub(crate) struct Turns {
    share: Share,
    since: DateTime<Utc>,
}

impl Turns {
    /// Those of a source that this process has run, or waited to run, since then.
    pub(crate) fn new(subscriptions: &Subscriptions, origin: &Origin, since: DateTime<Utc>) -> Self {
        let Origin { event_source, event, .. } = origin;
        // No subscriber's name has a slash.
        let id = SubscriptionId { owner: event_source.clone(), subscriber: format!("event/{event}").into() };
        let share = subscriptions.share(Group::event_source(event_source), &id, &[], true);
        Self { share, since }
    }

    /// Has `run` run while it is this process's turn, until cancelled.
    pub(crate) async fn run<'a>(&self, context: &Context, run: impl Fn(Context, Lease) -> BoxFuture<'a, ()>) {
        let mut since = self.since;
        loop {
            let Some(taken) = context.cancel.run_until_cancelled(self.take(context)).await else { return };
            if taken.follows {
                since = self.since - HANDOVER;
            }
            let hold = Arc::new(taken.hold);
            let lease = {
                let hold = Arc::clone(&hold);
                Lease { since, lasts: Arc::new(move || hold.may_start(Instant::now())) }
            };
            let cancel = context.cancel.child_token();
            let over = cancel.clone();
            let lost = async {
                self.share.differs(&Part::All).await;
                over.cancel();
                // What was handed over is settled before another process has its turn.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = run(Context { cancel, ..context.clone() }, lease) => {}
                () = lost => {}
            }
            drop(hold);
            if context.cancel.is_cancelled() {
                return;
            }
        }
    }

    async fn take(&self, context: &Context) -> Taken {
        let mut allotment = self.share.watch();
        let mut follows = false;
        loop {
            let now = allotment.borrow_and_update().clone();
            if *now.work() != Part::Nothing {
                match self.share.hold() {
                    Ok(hold) => return Taken { hold, follows },
                    Err(_) => sleep(AGAIN).await,
                }
                continue;
            }
            if now.known {
                follows = true;
                // Ready to take over is all there is to be.
                context.status.send_if_modified(|status| std::mem::replace(status, Status::Up) != Status::Up);
            }
            if allotment.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}
