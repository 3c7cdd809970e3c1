//! One component that answers two questions, and what a guest must not do: wait. `cargo xtask plugins check`
//! builds it and asks it through the gateway's own engine. Invariant: it answers alike each time, or not at all.

use std::time::Duration;
use tidegate_plugin_sdk::access::{AccessPolicy, Action, ItemVerdict, Principal, Session, Verdict};
use tidegate_plugin_sdk::rate_limit::{Answer, Bucket, RateLimitPolicy, Request};
use tidegate_plugin_sdk::{NoSettings, Policy};

#[derive(Debug)]
pub struct Several;

tidegate_plugin_sdk::export_policies!(Several: access, rate_limit);

impl Policy for Several {
    type Settings = NoSettings;
    const NAME: &'static str = "several";
    const VERSION: &'static str = "1.0.0";
    const RULES: &'static [(&'static str, &'static str)] =
        &[("anyone", "anyone does this"), ("nobody-writes", "nobody writes here")];
    const VECTORS: &'static str = r#"
[[vector]]
name = "reading"
call = "access.decide"
args = ['{id: "k", scopes: [], read: [], write: [], peer: "", certificate: []}', '{id: "s", owner: "k", tag: "", backend: "sim"}', 'read']
expect = '{allow: true, rule: 0}'

[[vector]]
name = "a limit"
call = "rate-limit.decide"
args = ['{id: "k", scopes: [], read: [], write: [], peer: "", certificate: []}', '{kind: "invoke", cost: 1, tokens: none, now-ms: 0}']
expect = '{outcome: pass({per-second: 5, burst: 10}), rule: 0}'
"#;

    fn configure(_: NoSettings) -> Result<Self, String> {
        Ok(Self)
    }
}

impl AccessPolicy for Several {
    fn decide(&self, _: &Principal, _: &Session, what: &Action) -> Verdict {
        match what {
            Action::Command(command) if command.method == "wait" => {
                eprintln!("waiting for {}", command.tag);
                std::thread::sleep(Duration::from_secs(3600));
                Verdict::allow(0)
            }
            Action::Command(command) if command.method == "write" && command.tag.is_empty() => {
                Verdict::deny(1).because(format!("{} without a tag", command.method))
            }
            Action::Command(command) if command.method.starts_with("write") => Verdict::deny(1),
            _ => Verdict::allow(0),
        }
    }

    fn may_read(&self, _: &Principal, _: &Session, _: &str) -> ItemVerdict {
        ItemVerdict::allow(0)
    }
}

impl RateLimitPolicy for Several {
    fn decide(&self, _: &Principal, what: &Request) -> Answer {
        Answer::pass_or_limit(Bucket { per_second: 5.0, burst: 10.0 }, what, 0)
    }
}
