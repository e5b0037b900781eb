//! When a failed delivery is tried again. Pure.

use std::time::Duration;

use crate::plan::{Backoff, DeliveryPolicy};

/// How much of a delay is left to chance, up and down.
const JITTER: f64 = 0.2;

/// The delay before retry `n`, from 1 on. `chance` lies in `0.0..1.0` and spreads the delay by 20 % either way; it never exceeds
/// `delay_max`. A subscriber's `Retry-After` counts where it is later, up to `retry_after_max`.
pub fn delay(policy: &DeliveryPolicy, n: u32, retry_after: Option<Duration>, chance: f64) -> Duration {
    let factor = match policy.backoff {
        Backoff::Exponential => 2u32.saturating_pow(n.saturating_sub(1)),
        Backoff::Linear => n,
    };
    let base = policy.delay.saturating_mul(factor).min(policy.delay_max);
    let spread = base.mul_f64(1.0 - JITTER + 2.0 * JITTER * chance).min(policy.delay_max);
    spread.max(retry_after.map_or(Duration::ZERO, |after| after.min(policy.retry_after_max)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(policy: &DeliveryPolicy, n: u32, chance: f64) -> u128 {
        delay(policy, n, None, chance).as_millis()
    }

    #[test]
    fn exponential_doubles_up_to_the_cap() {
        let policy = DeliveryPolicy::default();
        let plain: Vec<_> = (1..=10).map(|n| ms(&policy, n, 0.5)).collect();
        assert_eq!(plain, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 51_200, 60_000]);
        assert_eq!(ms(&policy, u32::MAX, 0.5), 60_000);
    }

    #[test]
    fn linear_adds() {
        let policy = DeliveryPolicy { backoff: Backoff::Linear, ..DeliveryPolicy::default() };
        assert_eq!([1, 2, 3, 1000].map(|n| ms(&policy, n, 0.5)), [200, 400, 600, 60_000]);
    }

    #[test]
    fn chance_spreads_by_a_fifth_and_stays_below_the_cap() {
        let policy = DeliveryPolicy::default();
        assert_eq!([0.0, 0.5, 0.9999999].map(|chance| ms(&policy, 3, chance)), [640, 800, 959]);
        assert_eq!(ms(&policy, 10, 0.9999), 60_000);
    }

    #[test]
    fn retry_after_counts_where_it_is_later_and_is_bounded() {
        let policy = DeliveryPolicy::default();
        let with = |n, secs| delay(&policy, n, Some(Duration::from_secs(secs)), 0.5);
        assert_eq!(with(1, 5), Duration::from_secs(5));
        assert_eq!(with(10, 5), Duration::from_secs(60));
        assert_eq!(with(1, 86_400), Duration::from_secs(300));
    }
}
