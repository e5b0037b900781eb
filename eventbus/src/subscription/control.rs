//! What people ask of a subscription: to pause and to go on. Kept in the bus's state, so that it can be asked while no evoke runs,
//! and outlives every one that does.

use std::collections::BTreeMap;

use evoke_api::names::{ObjectName, SubscriptionId};
use serde::{Deserialize, Serialize};

use crate::bus::{BusError, Entry, EventBus, Expect, Put};

/// Every control's key in the bus's state starts like this.
pub const PREFIX: &str = "control/";

/// What is asked of one subscription; the default is what holds where nothing is asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Control {
    /// It reads nothing and starts no delivery until this is taken back.
    pub paused: bool,
}

/// The key of a subscription's control.
pub fn key(subscription: &SubscriptionId) -> String {
    let ObjectName { namespace, name } = &subscription.owner;
    format!("{PREFIX}{namespace}/{name}/{}", subscription.subscriber)
}

/// What is asked of a subscription.
///
/// # Errors
/// The bus's, and [`BusError::Broken`] for what a newer evoke wrote.
pub async fn load(bus: &dyn EventBus, subscription: &SubscriptionId) -> Result<Control, BusError> {
    let key = key(subscription);
    let entries = bus.load(&key).await?;
    // A prefix also finds keys that are longer.
    let Some(entry) = entries.into_iter().find(|entry| entry.key == key) else { return Ok(Control::default()) };
    serde_json::from_slice(&entry.value).map_err(|error| BusError::Broken(format!("{key}: {error}").into()))
}

/// What is asked of every subscription of which something is, by [`key`].
///
/// # Errors
/// As [`load`].
pub async fn load_all(bus: &dyn EventBus) -> Result<BTreeMap<String, Control>, BusError> {
    let read = |entry: Entry| match serde_json::from_slice(&entry.value) {
        Ok(control) => Ok((entry.key, control)),
        Err(error) => Err(BusError::Broken(format!("{}: {error}", entry.key).into())),
    };
    bus.load(PREFIX).await?.into_iter().map(read).collect()
}

/// Asks it of a subscription, durably.
///
/// # Errors
/// The bus's.
pub async fn store(bus: &dyn EventBus, subscription: &SubscriptionId, control: Control) -> Result<(), BusError> {
    let value = (control != Control::default())
        .then(|| serde_json::to_vec(&control).map_err(|error| BusError::Broken(error.to_string().into())))
        .transpose()?;
    let put = Put { key: key(subscription), value: value.map(Into::into), expect: Expect::Any };
    bus.store(vec![put]).await.map(|_| ())
}
