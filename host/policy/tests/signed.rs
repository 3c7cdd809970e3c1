//! Stories of signatures: who may bring a policy, and what a signature is about.

#![cfg(unix)]

#[path = "support/bench.rs"]
mod support;

use support::*;
use tidegate_policy::*;

const RULES: &str = "deny = [\"Area1.*\"]";

fn signed_only() -> (Bench, String) {
    let mut bench = Bench::new();
    let (public, secret) = new_keys(None).expect("keys");
    let keys = bench.dir.path().join("keys");
    std::fs::create_dir(&keys).expect("keys");
    std::fs::write(keys.join("anna.pub"), public).expect("a key");
    bench.config.trust = Trust { keys: Some(keys), signed_only: true };
    (bench, secret)
}

fn access(host: &PolicyHost) -> PolicyRow {
    host.list().policies.into_iter().find(|row| row.policy == Policy::Access).expect("a row")
}

// shows: X-05
#[tokio::test]
async fn only_what_is_signed_with_its_settings_is_taken() {
    let (bench, secret) = signed_only();
    let component = include_bytes!("../../../plugins/dist/access.wasm");
    let settings = settings_json("access.toml", RULES).expect("settings");
    let host = bench.start();
    assert_eq!(access(&host).origin, Origin::Embedded, "the defaults need no signature");
    bench.put("access.toml", RULES.as_bytes());
    assert_eq!(until_refused(&host, 1).await.code, Some(RefusalCode::Unsigned), "settings alone decide, too");
    bench.put("access.wasm", component);
    // A good signature that arrives later is news.
    bench.put("access.wasm.minisig", sign(&secret, None, component, &settings).expect("signed").as_bytes());
    until_generation(&host, 2).await;
    assert_eq!(access(&host).signer.as_deref(), Some("anna"));
    // Tampered settings, tampered component, another's signature.
    bench.put("access.toml", b"deny = []");
    let refused = until_refused(&host, 2).await;
    assert_eq!((refused.code, refused.file.as_deref()), (Some(RefusalCode::SignatureInvalid), Some("access.wasm")));
    let (_, strangers) = new_keys(None).expect("keys");
    bench.put("access.wasm.minisig", sign(&strangers, None, component, "{\"deny\":[]}").expect("signed").as_bytes());
    assert_eq!(until_refused(&host, 3).await.code, Some(RefusalCode::SignerUnknown));
    bench.put("access.wasm", &guest("well"));
    assert_eq!(until_refused(&host, 4).await.code, Some(RefusalCode::SignerUnknown));
    assert_eq!((host.generation(), access(&host).signer.as_deref()), (GenerationId(2), Some("anna")));
    // Over a restart: what was taken is signed; whose key is gone since does not decide, and nothing is allowed.
    drop(host);
    std::fs::remove_file(bench.plugins().join("access.wasm")).expect("remove");
    std::fs::remove_file(bench.plugins().join("access.toml")).expect("remove");
    let mut folderless = bench.config.clone();
    folderless.watch.removal_quiet = std::time::Duration::from_secs(600);
    let keys = bench.config.trust.keys.clone().expect("keys");
    std::fs::remove_file(keys.join("anna.pub")).expect("remove");
    let host = PolicyHost::start(folderless).expect("starts");
    assert_eq!(access(&host).origin, Origin::Closed);
    // Whoever is denied is not told of what would be refused, too.
    let denied = host.access(&key("k", "sessions:own"), &place("s"), Action::Read).await;
    let Verdict::Deny { reason, .. } = denied.value else { panic!("closed") };
    assert!(reason.contains("[plugin.signer_unknown]") && reason.contains("policy_keys"), "{reason}");
    assert!(!reason.contains("empty") && !reason.contains("rollback"), "{reason}");
    drop(host);
    let host = bench.start();
    let denied = host.access(&key("k", "sessions:own"), &place("s"), Action::Read).await;
    let Verdict::Deny { reason, .. } = denied.value else { panic!("closed") };
    assert!(reason.contains("[plugin.signer_unknown]"), "over restarts: {reason}");
}

// shows: X-05
#[tokio::test]
async fn settings_of_an_embedded_default_are_signed_for_it() {
    let (bench, secret) = signed_only();
    let host = bench.start();
    bench.put("access.toml.minisig", sign_settings(&secret, None, "access", RULES).expect("signed").as_bytes());
    bench.put("access.toml", RULES.as_bytes());
    until_generation(&host, 2).await;
    assert_eq!(access(&host).signer.as_deref(), Some("anna"));
    let judged = host.judge_items(&key("k", "sessions:own"), &place("s"), &tags(1)).await;
    assert!(!judged.value[0].allow);
    bench.put("rate-limit.toml.minisig", sign_settings(&secret, None, "access", "").expect("signed").as_bytes());
    bench.put("rate-limit.toml", b"");
    let refused = until_refused(&host, 1).await;
    assert_eq!(refused.code, Some(RefusalCode::SignatureInvalid), "it is for another component: {refused:?}");
}

// shows: X-05
#[tokio::test]
async fn where_unsigned_is_allowed_a_signature_of_a_known_key_still_has_to_hold() {
    let (mut bench, secret) = signed_only();
    bench.config.trust.signed_only = false;
    let host = bench.start();
    bench.put("access.wasm.minisig", sign(&secret, None, b"other bytes", "{}").expect("signed").as_bytes());
    bench.put("access.wasm", &guest("well"));
    assert_eq!(until_refused(&host, 1).await.code, Some(RefusalCode::SignatureInvalid));
    std::fs::remove_file(bench.plugins().join("access.wasm.minisig")).expect("remove");
    until_generation(&host, 2).await;
    assert_eq!(access(&host).signer, None);
}
