//! Token buckets, one per key and kind of request. The rate-limit policy says how large they are and
//! whether to go on; the tokens are counted here, so a swap of the policy loses none. Knows no guests.
//! Invariants: a bucket never hands out more than it has, and there are never more than `BUCKETS_MAX`.

use crate::ids::KeyId;
use parking_lot::Mutex;
use std::collections::HashMap;

/// Every key (10,000) with the kinds that one key really uses. Guessed.
const BUCKETS_MAX: usize = 65_536;

/// All buckets of a gateway.
#[derive(Debug, Default)]
pub(super) struct Buckets {
    buckets: Mutex<HashMap<(KeyId, &'static str), Bucket>>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    per_second: f64,
    burst: f64,
    at_ms: u64,
}

// === impl Buckets ===

impl Buckets {
    /// Tokens there are now; `None` for a bucket that was never used.
    pub(super) fn tokens(&self, key: &KeyId, kind: &'static str, now_ms: u64) -> Option<f64> {
        self.buckets.lock().get(&(key.clone(), kind)).map(|bucket| bucket.at(now_ms).tokens)
    }

    /// Takes `cost` out of a bucket that the policy sized. `Err`: it has not so much; milliseconds until it may.
    pub(super) fn take(
        &self,
        key: &KeyId,
        kind: &'static str,
        now_ms: u64,
        cost: f64,
        (per_second, burst): (f64, f64),
    ) -> Result<(), u64> {
        // A guest's numbers: whatever is not a number above zero lets nothing through.
        let (per_second, burst) = (sane(per_second), sane(burst));
        let mut buckets = self.buckets.lock();
        let slot = (key.clone(), kind);
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&slot) {
            // Full ones say nothing that a new one would not.
            buckets.retain(|_, bucket| bucket.at(now_ms).tokens < bucket.burst);
            if buckets.len() >= BUCKETS_MAX {
                return Err(1000);
            }
        }
        let bucket = buckets.entry(slot).or_insert(Bucket { tokens: burst, per_second, burst, at_ms: now_ms });
        *bucket = Bucket { per_second, burst, tokens: bucket.at(now_ms).tokens.min(burst), at_ms: now_ms };
        if bucket.tokens >= cost {
            bucket.tokens -= cost;
            return Ok(());
        }
        let missing = cost.min(burst) - bucket.tokens;
        Err(if per_second > 0.0 {
            (missing / per_second * 1000.0).ceil().clamp(1.0, 3_600_000.0) as u64
        } else {
            3_600_000
        })
    }
}

// === impl Bucket ===

impl Bucket {
    /// As it stands at a time; a clock that went back adds nothing.
    fn at(self, now_ms: u64) -> Self {
        let seconds = now_ms.saturating_sub(self.at_ms) as f64 / 1000.0;
        Self { tokens: (self.tokens + seconds * self.per_second).min(self.burst), at_ms: now_ms, ..self }
    }
}

fn sane(number: f64) -> f64 {
    if number.is_finite() && number > 0.0 { number } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_time_and_never_beyond_the_burst() {
        let (buckets, key) = (Buckets::default(), KeyId::mint());
        assert_eq!(buckets.tokens(&key, "invoke", 0), None);
        for _ in 0..3 {
            assert_eq!(buckets.take(&key, "invoke", 0, 1.0, (2.0, 3.0)), Ok(()));
        }
        assert_eq!(buckets.take(&key, "invoke", 0, 1.0, (2.0, 3.0)), Err(500));
        assert_eq!(buckets.take(&key, "open", 0, 1.0, (2.0, 3.0)), Ok(()), "another kind has its own bucket");
        assert_eq!(buckets.tokens(&key, "invoke", 500), Some(1.0));
        assert_eq!(buckets.tokens(&key, "invoke", 60_000), Some(3.0));
        assert_eq!(buckets.tokens(&key, "invoke", 0), Some(0.0), "a clock that goes back gives nothing");
    }

    #[test]
    fn a_smaller_bucket_from_a_new_policy_holds_at_once() {
        let (buckets, key) = (Buckets::default(), KeyId::mint());
        assert_eq!(buckets.take(&key, "invoke", 0, 1.0, (100.0, 100.0)), Ok(()));
        assert_eq!(buckets.take(&key, "invoke", 0, 1.0, (1.0, 1.0)), Ok(()));
        assert_eq!(buckets.take(&key, "invoke", 0, 1.0, (1.0, 1.0)), Err(1000));
    }

    #[test]
    fn numbers_that_are_none_let_nothing_through() {
        let (buckets, key) = (Buckets::default(), KeyId::mint());
        for bad in [f64::NAN, f64::INFINITY, -1.0, 0.0] {
            assert!(buckets.take(&key, "invoke", 0, 1.0, (bad, bad)).is_err(), "{bad}");
        }
        assert!(buckets.take(&KeyId::mint(), "invoke", 0, 10.0, (1.0, 5.0)).is_err(), "never enough");
    }
}
