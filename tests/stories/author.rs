//! An author at work, without a gateway: a project from a template, vectors that say what is wrong, a component measured
//! against an older one, a signature that covers bytes and settings.

use crate::harness::tidegate;
use crate::hostile::guests;
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

const ACCESS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/dist/access.wasm");

/// Of the contract before.
const OLD_ACCESS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../host/policy/tests/corpus/v0.1.0/access.wasm");

/// Exit code, standard output and error of a command line, run in `folder`.
async fn run(folder: &Path, line: &[&str]) -> (i32, String, String) {
    let output = tidegate().args(line).current_dir(folder).output().await.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

async fn json(folder: &Path, line: &[&str]) -> Json {
    let (code, out, err) = run(folder, line).await;
    assert_eq!(code, 0, "{line:?}: {err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{line:?}: {error}: {out}"))
}

fn write(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("written");
    path
}

// shows
#[tokio::test]
async fn an_author_sees_what_a_component_says_and_where_its_vectors_are_wrong() {
    let dir = tempfile::tempdir().expect("tempdir");
    let at = dir.path();
    let (code, out, _) = run(at, &["policy", "test", ACCESS]).await;
    assert!(code == 0 && out.contains("ok     an owner reads its session"), "{out}");

    let vectors = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/access/vectors.toml"));
    let vectors = vectors.expect("vectors").replacen("{allow: true, rule: 1}", "{allow: true, rule: 2}", 1);
    write(at, "mine.toml", vectors.as_bytes());
    let (code, out, err) = run(at, &["policy", "test", ACCESS, "--vectors", "mine.toml"]).await;
    assert_eq!(code, 1, "{out}");
    for part in
        ["WRONG  an owner reads its session", "expected  {allow: true, rule: 2", "(sessions-all)", "rule: 1", "(owner)"]
    {
        assert!(out.contains(part), "{part} in {out}");
    }
    assert!(out.contains("ok     a stranger does not") && err.contains("1 of "), "{out}{err}");

    let said = json(at, &["policy", "inspect", ACCESS, "--json"]).await;
    assert_eq!((said["name"].as_str(), &said["answers"]), (Some("access"), &serde_json::json!(["access"])));
    assert_eq!(said["contract"], "0.2.0");
    assert_eq!((&said["rules"][1], &said["rules"][5]), (&"owner".into(), &"settings-deny".into()), "{said}");

    assert_eq!(said["rule_texts"][5], "the settings deny this tag");
    assert_eq!(said["settings_schema"]["properties"]["deny"]["maxItems"], 1024, "made of the settings' type: {said}");
    let (code, out, _) = run(at, &["policy", "inspect", OLD_ACCESS]).await;
    assert!(
        code == 0 && out.contains("contract       0.1.0") && out.contains("rules          gateway, owner,"),
        "{out}"
    );

    // The gate's own word, with its code.
    write(at, "wrong.toml", b"dney = []\n");
    let (code, _, err) = run(at, &["policy", "check", ACCESS, "--settings", "wrong.toml"]).await;
    assert!(code == 1 && err.contains("plugin.settings_invalid"), "{err}");
    // Settings alone are for the embedded policy of that name.
    write(at, "access.toml", b"deny = [\"A.*\"]\n");
    let (code, out, err) = run(at, &["policy", "check", "access.toml"]).await;
    assert!(code == 0 && out.contains("passes the gate as access"), "{out}{err}");
    write(at, "rate-limit.toml", b"kinds = 3\n");
    let (code, _, err) = run(at, &["policy", "check", "rate-limit.toml"]).await;
    assert!(code == 1 && err.contains("rate-limit.toml") && err.contains("plugin.settings_invalid"), "{err}");
    let (code, _, err) = run(at, &["policy", "check", "wrong.toml"]).await;
    assert!(code == 1 && err.contains("policy check wrong.wasm --settings wrong.toml"), "{err}");
    // What does not end is not read.
    for line in [
        &["policy", "check", "/dev/zero"][..],
        &["policy", "check", ACCESS, "--settings", "/dev/zero"],
        &["policy", "test", ACCESS, "--vectors", "/dev/zero"],
        &["policy", "diff", "/dev/zero"],
        &["policy", "shadow", "start", ACCESS, "--settings", "/dev/zero"],
        &["policy", "sign", "/dev/zero", "--key", ACCESS],
    ] {
        let (code, _, err) = run(at, line).await;
        assert!(code == 1 && (err.contains("is not a regular file") || err.contains("is not text")), "{line:?}: {err}");
    }
    let large = std::fs::File::create(at.join("large.wasm")).expect("a file");
    large.set_len((64 << 20) + 1).expect("a hole");
    let (code, _, err) = run(at, &["policy", "check", "large.wasm"]).await;
    assert!(code == 1 && err.contains("67108865 bytes, at most 67108864 are read"), "{err}");
    write(at, "core.wasm", b"\0asm\x01\0\0\0");
    let (code, _, err) = run(at, &["policy", "check", "core.wasm"]).await;
    assert!(code == 1 && err.contains("plugin.not_a_component"), "{err}");
    // A guest that remembers answers rightly when asked alone.
    write(at, "remembers.wasm", &guests::guest("remembers"));
    let (code, out, _) = run(at, &["policy", "test", "remembers.wasm"]).await;
    assert!(code == 1 && out.contains("it remembers something between questions"), "{out}");
}

// shows
#[tokio::test]
async fn a_slower_rule_is_found_by_its_fuel() {
    let dir = tempfile::tempdir().expect("tempdir");
    let at = dir.path();
    write(at, "old.wasm", &guests::guest("well"));
    write(at, "slow.wasm", &guests::guest("slow_judge"));
    let vectors = "[[vector]]\nname = \"an item\"\ncall = \"access.judge-items\"\nargs = ['{id: \"k\", scopes: [], read: [], \
                   write: [], peer: \"\"}', '{id: \"s\", owner: \"k\", tag: \"\", backend: \"sim\"}', '[\"A.B\"]']\n\
                   expect = '[{allow: true, rule: 0}]'\n";
    write(at, "vectors.toml", vectors.as_bytes());
    let line = |file: &'static str, max: &'static str| {
        [
            "policy",
            "bench",
            file,
            "--vectors",
            "vectors.toml",
            "--rounds",
            "3",
            "--against",
            "old.wasm",
            "--max-regress",
            max,
        ]
    };
    let (code, out, err) = run(at, &line("old.wasm", "10%")).await;
    assert!(code == 0 && out.contains("+0.0 %"), "{out}{err}");
    let (code, _, err) = run(at, &line("slow.wasm", "10%")).await;
    assert!(code == 1 && err.contains("`an item` takes +"), "{err}");
    // Over versions of the contract each is asked in its own words, which have the same names.
    let over = json(at, &["policy", "bench", ACCESS, "--rounds", "1", "--against", OLD_ACCESS, "--json"]).await;
    assert!(over["vectors"][0]["fuel_more_percent"].is_number(), "{over}");
    let first = json(at, &["policy", "bench", ACCESS, "--rounds", "1", "--json"]).await;
    let again = json(at, &["policy", "bench", ACCESS, "--rounds", "2", "--json"]).await;
    let fuel =
        |of: &Json| of["vectors"].as_array().map(|all| all.iter().map(|v| v["fuel"].as_u64()).collect::<Vec<_>>());
    assert_eq!(fuel(&first), fuel(&again), "fuel is the same in every run");
    assert!(fuel(&first).is_some_and(|all| all.iter().all(|fuel| *fuel > Some(0))), "{first}");
}

// shows
#[tokio::test]
async fn a_project_is_made_and_a_signature_covers_component_and_settings() {
    let dir = tempfile::tempdir().expect("tempdir");
    let at = dir.path();
    let made = json(at, &["policy", "new", "night-shift", "--kind", "access", "--lang", "python", "--json"]).await;
    assert_eq!(made["component"], "night-shift/build/night-shift.wasm");
    let (code, _, err) = run(at, &["policy", "new", "night-shift", "--kind", "access"]).await;
    assert!(code == 2 && err.contains("is there already"), "{err}");
    let (code, _, err) = run(at, &["policy", "new", "Night", "--kind", "access"]).await;
    assert!(code == 2 && err.contains("no name for a policy"), "{err}");
    let (code, _, err) = run(at, &["policy", "test", "night-shift"]).await;
    assert!(code == 2 && err.contains("tidegate policy build"), "{err}");
    let absent = tidegate()
        .args(["policy", "build", "night-shift"])
        .env("TIDEGATE_COMPONENTIZE_PY", "/nowhere/componentize-py")
        .current_dir(at)
        .output()
        .await
        .expect("it runs");
    let err = String::from_utf8_lossy(&absent.stderr).into_owned();
    assert!(absent.status.code() == Some(1) && err.contains("pip install componentize-py"), "{err}");

    std::fs::copy(ACCESS, at.join("access.wasm")).expect("copied");
    write(at, "access.toml", b"deny = [\"*.Secret\"]\n");
    let (code, _, err) = run(at, &["policy", "keygen", "ada"]).await;
    assert_eq!(code, 0, "{err}");
    let mode =
        std::os::unix::fs::PermissionsExt::mode(&std::fs::metadata(at.join("ada.key")).expect("a key").permissions());
    assert_eq!(mode & 0o777, 0o600);
    let (code, _, err) = run(at, &["policy", "keygen", "ada"]).await;
    assert!(code == 1 && err.contains("ada.key"), "a key is never written over: {err}");
    let (code, _, err) =
        run(at, &["policy", "sign", "access.wasm", "--settings", "access.toml", "--key", "ada.key"]).await;
    assert_eq!(code, 0, "{err}");
    let verify = ["policy", "verify", "access.wasm", "--keys", "ada.pub", "--settings", "access.toml"];
    let (code, out, err) = run(at, &verify).await;
    assert!(code == 0 && out.contains("signed by ada"), "{out}{err}");
    write(at, "access.toml", b"deny = []\n");
    let (code, _, err) = run(at, &verify).await;
    assert_eq!(code, 1, "other settings: {err}");

    // Settings of an embedded policy are signed alone, and verified so.
    let (code, _, err) = run(at, &["policy", "sign", "access.toml", "--key", "ada.key"]).await;
    assert_eq!(code, 0, "{err}");
    let alone = ["policy", "verify", "access.toml", "--keys", "ada.pub"];
    let (code, out, err) = run(at, &alone).await;
    assert!(code == 0 && out.contains("signed by ada"), "{out}{err}");
    write(at, "access.toml", b"deny = [\"*\"]\n");
    let (code, _, err) = run(at, &alone).await;
    assert!(code == 1 && err.contains("not of these bytes"), "{err}");
    // A key with a password says what is missing.
    write(at, "word", b"rose\n");
    let (code, _, err) = run(at, &["policy", "keygen", "bo", "--password-file", "word"]).await;
    assert_eq!(code, 0, "{err}");
    let (code, _, err) = run(at, &["policy", "sign", "access.toml", "--key", "bo.key"]).await;
    assert!(code == 1 && err.contains("--password-file"), "{err}");
    let (code, _, err) =
        run(at, &["policy", "sign", "access.toml", "--key", "bo.key", "--password-file", "word"]).await;
    assert_eq!(code, 0, "{err}");
}

// shows: X-14
#[tokio::test]
async fn what_watch_puts_into_a_folder_a_gateway_takes_whatever_the_umask() {
    let dir = tempfile::tempdir().expect("tempdir");
    let at = dir.path();
    json(at, &["policy", "new", "mine", "--kind", "access", "--lang", "python", "--json"]).await;
    // In place of the tool: the component is there already, and these are its vectors.
    std::fs::copy(
        concat!(env!("CARGO_MANIFEST_DIR"), "/../../plugins/access/vectors.toml"),
        at.join("mine/vectors.toml"),
    )
    .expect("copied");
    let tool = write(at, "tool", format!("#!/bin/sh\nfor to; do :; done\ncp {ACCESS} \"$to\"\n").as_bytes());
    let mode =
        |path: &Path| std::fs::metadata(path).map(|of| std::os::unix::fs::PermissionsExt::mode(&of.permissions()));
    std::fs::set_permissions(&tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("mode set");
    let program = tidegate();
    let program = program.as_std().get_program();
    let output = tokio::process::Command::new("sh")
        .args(["-c", "umask 0; exec \"$0\" policy watch mine --into deep/plugins.d --once"])
        .arg(program)
        .env("TIDEGATE_COMPONENTIZE_PY", &tool)
        .current_dir(at)
        .output()
        .await
        .expect("it runs");
    assert!(output.status.success(), "{output:?}");
    let put = at.join("deep/plugins.d/mine.wasm");
    assert_eq!(std::fs::read(&put).expect("put there"), std::fs::read(ACCESS).expect("there"));
    for path in [&put, &at.join("deep/plugins.d")] {
        assert_eq!(mode(path).expect("a mode") & 0o022, 0, "{}", path.display());
    }
}
