//! Dead letters taken off the list for good.

use std::collections::BTreeMap;
use std::time::Duration;

use evoke_api::names::SubscriptionId;
use evoke_eventbus::bus::{BusError, EventBus};

use crate::dead_letters::{self, Selection, Wanted};

/// How often a purge decides anew when others take letters meanwhile.
const DECISIONS: usize = 20;
/// The longest wait before that.
const PAUSE: Duration = Duration::from_millis(200);

/// What a purge comes to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// How many letters of each subscriber; none for what a source could not read.
    pub of: BTreeMap<Option<SubscriptionId>, u64>,
    /// How many are being delivered again, and were left alone.
    pub busy: u64,
    /// True if there are more than one purge can take.
    pub more: bool,
}

/// Takes the wanted letters off the list, durably, less those that others take meanwhile.
///
/// # Errors
/// The bus's.
pub async fn purge(bus: &dyn EventBus, wanted: &Wanted) -> Result<Purged, BusError> {
    let mut purged = Purged::default();
    for _ in 0..DECISIONS {
        let Selection { of, busy, more } = dead_letters::select(bus, wanted).await?;
        (purged.busy, purged.more) = (busy, more);
        let mut left = 0;
        for (origin, letters) in of {
            if dead_letters::take(bus, origin.as_ref(), &letters).await? {
                *purged.of.entry(origin).or_default() += letters.count;
            } else {
                left += letters.count;
            }
        }
        if left == 0 {
            break;
        }
        // Others are at it: what they leave is decided on again.
        purged.busy += left;
        tokio::time::sleep(PAUSE.mul_f64(rand::random())).await;
    }
    dead_letters::give_up_removed(bus).await?;
    Ok(purged)
}
