//! The beats of this process, and what follows when the bus takes none.

use std::sync::Arc;

use tokio::time::{Instant, sleep, sleep_until};

use super::identity::{Identity, Taken};
use super::{Inner, Timing};

impl Inner {
    /// Beats until the name is taken away.
    pub(super) async fn beat(&self, identity: &mut Identity<'_>) -> Taken {
        let Timing { beat, look, .. } = identity.timing;
        let mut losses = self.bus.losses();
        loop {
            match identity.beat().await {
                Ok(Some(sent)) => {
                    let tenure = || Arc::from(format!("{}.{}", identity.beat.session, identity.beat.count));
                    if self.board.beaten(sent, identity.timing, tenure) {
                        tracing::info!("the bus takes beats again: this process goes on with its share");
                    }
                    tokio::select! {
                        () = sleep_until(sent + beat) => {}
                        // The others see no beat of this process.
                        Ok(()) = losses.changed() => {}
                    }
                }
                Ok(None) => sleep(look / 4).await,
                Err(taken) => return taken,
            }
        }
    }

    /// Sees to it that work ends when the tenure does.
    pub(super) async fn watch_tenure(&self) {
        loop {
            match self.board.tenure() {
                Some(tenure) if tenure.may_start(Instant::now()) => sleep_until(tenure.until()).await,
                tenure => {
                    if tenure.is_some() {
                        tracing::warn!(
                            "the bus took no beat of this process for too long: it starts no more work until it does"
                        );
                        self.board.lapsed();
                    }
                    while !self.board.tenure().is_some_and(|tenure| tenure.may_start(Instant::now())) {
                        self.board.renewed().await;
                    }
                }
            }
        }
    }
}
