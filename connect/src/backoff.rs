//! How long to wait before something is tried again.

use std::time::Duration;

use rand::RngExt as _;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(30);

/// Waits that double from 0.2 s to 30 s, each less a random fifth, so that many who wait do not come back together.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    waits: u32,
}

impl Default for Backoff {
    fn default() -> Self {
        Self::new()
    }
}

impl Backoff {
    /// Waits from 0.2 s to 30 s.
    pub fn new() -> Self {
        Self::between(FIRST, LONGEST)
    }

    /// Waits between these two.
    pub fn between(first: Duration, longest: Duration) -> Self {
        Self { first, longest, waits: 0 }
    }

    /// The next wait.
    pub fn wait(&mut self) -> Duration {
        let whole = self.longest.min(self.first.saturating_mul(1u32.checked_shl(self.waits).unwrap_or(u32::MAX)));
        self.waits = self.waits.saturating_add(1);
        whole.mul_f64(0.8 + 0.2 * rand::rng().random::<f64>())
    }

    /// Starts over; true if there was a wait since the last time.
    pub fn reset(&mut self) -> bool {
        std::mem::take(&mut self.waits) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_limit_and_start_over() {
        let mut backoff = Backoff::new();
        assert!(!backoff.reset());
        for expected in [200, 400, 800, 1600] {
            let wait = backoff.wait().as_millis();
            assert!((expected * 8 / 10..=expected).contains(&wait), "{wait}");
        }
        for _ in 0..100 {
            assert!(backoff.wait() <= LONGEST);
        }
        assert!(backoff.reset());
        assert!(backoff.wait() <= FIRST);
    }
}
