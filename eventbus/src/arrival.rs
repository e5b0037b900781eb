//! Whether a bus has been there yet. A broker may be started after evoke, and until it is there the bus itself says what it waits
//! for: whoever else cannot work meanwhile has no news.

use tokio::sync::watch;

use crate::bus::{EventBus, Health};

/// Follows one bus until it is there for the first time.
#[derive(Debug)]
pub struct Arrival {
    health: watch::Receiver<Health>,
    has_come: bool,
}

impl Arrival {
    /// Begins to follow a bus.
    pub fn of(bus: &dyn EventBus) -> Self {
        Self { health: bus.health(), has_come: false }
    }

    /// True once the bus has been seen to work, whatever became of it since. To be asked before what may fail is begun: what was
    /// begun before the bus came may still fail after it.
    pub fn has_come(&mut self) -> bool {
        self.has_come = self.has_come || matches!(&*self.health.borrow(), Health::Up | Health::Full(_));
        self.has_come
    }
}
