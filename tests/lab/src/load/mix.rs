//! The mixture of short and slow requests of a busy job host.

use std::time::Duration;

/// Requests per second.
pub(super) const RATE: f64 = 300.0;

/// One in so many is slow.
const SLOW: u64 = 20;
/// How many there are before the list begins again.
const COUNT: u64 = 400;

/// Of 400, every twentieth works 1 to 4 s and the others 5 to 50 ms, both evenly spread; in an order that is always the same and has no
/// run of long ones.
pub(super) fn durations() -> Vec<Duration> {
    (0..COUNT)
        .map(|n| match n % SLOW {
            0 => 1000 + (n / SLOW) * 7 % 20 * 3000 / 19,
            _ => 5 + n * 17 % 46,
        })
        .map(Duration::from_millis)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mix_is_as_it_says() {
        let ms: Vec<u128> = durations().iter().map(Duration::as_millis).collect();
        let (slow, short): (Vec<u128>, Vec<u128>) = ms.iter().partition(|ms| **ms >= 1000);
        assert_eq!((slow.len(), short.len()), (20, 380));
        assert_eq!((slow.iter().min(), slow.iter().max()), (Some(&1000), Some(&4000)));
        assert_eq!((short.iter().min(), short.iter().max()), (Some(&5), Some(&50)));
        assert_eq!(slow.iter().collect::<std::collections::BTreeSet<_>>().len(), 20);
        // 300 a second of this mean are 46 at once, short of what the pools of tests hold.
        let mean = ms.iter().sum::<u128>() as f64 / 400.0;
        assert!((140.0..160.0).contains(&mean), "{mean}");
    }
}
