//! The default rate limit: sizes of buckets by kind of request. The buckets are the gateway's and come
//! as an input. Invariant: an unconfigured gateway bounds what people type and move, nothing else.

use std::collections::BTreeMap;

use serde::Deserialize;
use tidegate_plugin_sdk::Policy;
use tidegate_plugin_sdk::rate_limit::{Answer, Bucket, Principal, RateLimitPolicy, Request};

/// What an operator can set in `rate-limit.toml` or `rate-limit.json`: kind to bucket.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    kinds: BTreeMap<String, Rate>,
}

/// A bucket's size.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    per_second: f64,
    /// Absent: one second's worth.
    burst: Option<f64>,
}

/// The configured policy.
#[derive(Debug)]
pub struct RateLimit {
    kinds: BTreeMap<String, Rate>,
}

tidegate_plugin_sdk::export_rate_limit!(RateLimit);

impl Default for Settings {
    fn default() -> Self {
        let rate = |per_second| Rate { per_second, burst: None };
        Self { kinds: [("move".to_owned(), rate(20.0)), ("chat".to_owned(), rate(5.0))].into() }
    }
}

impl Policy for RateLimit {
    type Settings = Settings;
    const NAME: &'static str = "rate-limit";
    const VERSION: &'static str = env!("CARGO_PKG_VERSION");
    const RULES: &'static [&'static str] = &[];
    const VECTORS: &'static str = include_str!("../vectors.toml");
    const SETTINGS_SCHEMA: &'static str = include_str!("../settings.schema.json");

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
        let Some(rate) = self.kinds.get(&what.kind) else { return Answer::Unlimited };
        let burst = rate.burst.unwrap_or(rate.per_second);
        let cost = f64::from(what.cost);
        let tokens = what.tokens.unwrap_or(burst);
        if tokens >= cost {
            Answer::Pass(Bucket { per_second: rate.per_second, burst })
        } else {
            // A request above the burst never fits; it waits as if it did, and the next answer says the same.
            Answer::Limit(((cost - tokens) / rate.per_second * 1000.0).ceil() as u64)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(policy: &RateLimit, kind: &str, cost: u32, tokens: Option<f64>) -> Answer {
        let who = Principal { id: "k".into(), scopes: vec![], read: vec![], write: vec![], peer: String::new() };
        policy.decide(&who, &Request { kind: kind.into(), cost, tokens, now: 0 })
    }

    // shows: D-08
    #[test]
    fn twenty_moves_and_five_chats_a_second() {
        let policy = RateLimit::configure(Settings::default()).unwrap();
        assert_eq!(ask(&policy, "move", 1, None), Answer::Pass(Bucket { per_second: 20.0, burst: 20.0 }));
        assert_eq!(ask(&policy, "chat", 1, Some(0.0)), Answer::Limit(200));
        assert_eq!(ask(&policy, "chat", 6, None), Answer::Limit(200));
        assert_eq!(ask(&policy, "invoke", 1_000, Some(0.0)), Answer::Unlimited);
    }

    #[test]
    fn a_rate_of_nothing_is_refused() {
        let bad = serde_json::from_str(r#"{"kinds": {"invoke": {"per_second": 0}}}"#).unwrap();
        assert!(RateLimit::configure(bad).is_err());
    }
}
