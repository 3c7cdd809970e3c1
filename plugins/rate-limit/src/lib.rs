//! The default rate limit: sizes of buckets by kind of request. The buckets are the gateway's and come
//! as an input. Invariant: an unconfigured gateway bounds what people type and move, nothing else.

use std::collections::BTreeMap;

use tidegate_plugin_sdk::rate_limit::{Answer, Bucket, Principal, RateLimitPolicy, Request};
use tidegate_plugin_sdk::{Policy, settings};

/// What an operator can set in `rate-limit.toml` or `rate-limit.json`.
#[settings]
#[derive(Debug)]
pub struct Settings {
    /// Kind of request to bucket; a kind that is not here is not limited.
    #[setting(default = {"move": {"per_second": 20}, "chat": {"per_second": 5}})]
    kinds: BTreeMap<String, Rate>,
}

/// A bucket's size.
#[settings]
#[derive(Clone, Copy, Debug)]
struct Rate {
    /// Tokens that come back a second, above 0.
    #[setting(required, min = 0)]
    per_second: f64,
    /// The most that gather; absent: one second's worth.
    #[setting(min = 0)]
    burst: Option<f64>,
}

/// The configured policy.
#[derive(Debug)]
pub struct RateLimit {
    kinds: BTreeMap<String, Rate>,
}

tidegate_plugin_sdk::export_rate_limit!(RateLimit);

/// Indexes into [`Policy::RULES`], in its order.
const NOT_LIMITED: u16 = 0;
const LIMITED: u16 = 1;

impl Policy for RateLimit {
    type Settings = Settings;
    const NAME: &'static str = "rate-limit";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const RULES: &'static [(&'static str, &'static str)] = &[
        ("not-limited", "no bucket is set for this kind of request"),
        ("limited", "requests of this kind have a bucket"),
    ];
    const VECTORS: &'static str = include_str!("../vectors.toml");

    fn configure(settings: Settings) -> Result<Self, String> {
        for (kind, rate) in &settings.kinds {
            let burst = rate.burst.unwrap_or(rate.per_second);
            if !(rate.per_second > 0.0 && burst > 0.0) {
                return Err(format!("kinds.{kind}: rates and bursts must be above 0"));
            }
        }
        Ok(Self { kinds: settings.kinds })
    }
}

impl RateLimitPolicy for RateLimit {
    fn decide(&self, _: &Principal, what: &Request) -> Answer {
        let Some(rate) = self.kinds.get(&what.kind) else { return Answer::unlimited(NOT_LIMITED) };
        let bucket = Bucket { per_second: rate.per_second, burst: rate.burst.unwrap_or(rate.per_second) };
        Answer::pass_or_limit(bucket, what, LIMITED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_plugin_sdk::rate_limit::Outcome;

    fn ask(policy: &RateLimit, kind: &str, cost: u32, tokens: Option<f64>) -> Outcome {
        policy.decide(&Principal::default(), &Request { kind: kind.into(), cost, tokens, now_ms: 0.0 }).outcome
    }

    // shows: D-08
    #[test]
    fn twenty_moves_and_five_chats_a_second() {
        let policy = RateLimit::configure(Settings::default()).unwrap();
        assert_eq!(ask(&policy, "move", 1, None), Outcome::Pass(Bucket { per_second: 20.0, burst: 20.0 }));
        assert_eq!(ask(&policy, "chat", 1, Some(0.0)), Outcome::Limit(200));
        assert_eq!(ask(&policy, "chat", 6, None), Outcome::Limit(200));
        assert_eq!(ask(&policy, "invoke", 1_000, Some(0.0)), Outcome::Unlimited);
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        let bad = serde_json::from_str(r#"{"kinds": {"invoke": {"per_second": 0}}}"#).unwrap();
        assert!(RateLimit::configure(bad).is_err());
    }
}
