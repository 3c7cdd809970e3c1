//! What an operator sees of the configuration: defaults, every error at once, the effective values.

use super::table::Kind;
use super::*;
use clap::{Args as _, Command};

/// Reads a command line; the variables of the environment are not looked at.
fn args(line: &[&str]) -> ServeArgs {
    use clap::FromArgMatches as _;
    let command =
        ServeArgs::augment_args(Command::new("serve").no_binary_name(true)).mut_args(|arg| arg.env(None::<&str>));
    ServeArgs::from_arg_matches(&command.get_matches_from(line)).expect("known flags")
}

fn read(line: &[&str]) -> Result<ServeConfig> {
    ServeConfig::load(&args(line))
}

// shows: S-01, S-04, S-10, S-11, S-12
#[test]
fn defaults_are_those_of_the_ledger() {
    let config = ServeConfig::default();
    let shown = config.effective();
    for (key, value) in [
        ("listen", json!("127.0.0.1:7410")),
        ("http", json!("127.0.0.1:7411")),
        ("max_sessions", json!(64)),
        ("max_pending_commands_per_session", json!(128)),
        ("max_event_subscribers_per_session", json!(8)),
        ("allow_multiple_event_subscribers", json!(true)),
        ("enable_orphan_reattach", json!(false)),
        ("leave_workers", json!(false)),
        ("replay_buffer_capacity", json!(1024)),
        ("replay_retention_seconds", json!(300)),
        ("lag_events_max", json!(10_000)),
        ("log_bytes_max", json!(16 << 20)),
        ("log_bytes_total_max", json!(1 << 30)),
        ("max_items_per_session", json!(100_000)),
        ("max_bulk_items", json!(10_000)),
        ("command_timeout_ms", json!(30_000)),
        ("default_lease_seconds", json!(1800)),
        ("detach_grace_seconds", json!(60)),
        ("heartbeat_seconds", json!(5)),
        ("heartbeat_grace_seconds", json!(15)),
        ("stuck_ceiling_seconds", json!(75)),
        ("worker_start_timeout_seconds", json!(10)),
        ("default_backend", json!("sim")),
        ("plugins", Value::Null),
    ] {
        assert_eq!(shown[key], value, "{key}");
    }
    assert_eq!(config.backend("").expect("the default").settings, "rate=100");
    assert_eq!(read(&[]).expect("valid"), config);
}

// shows: H-06
#[test]
fn every_error_is_named_at_once_with_what_to_do() {
    let error = read(&[
        "--listen=0.0.0.0:7410",
        "--http=here",
        "--backend=line=opc:secret-settings",
        "--backend=nonsense",
        "--default-backend=other",
        "--max-sessions=none",
        "--log-bytes-max=2GiB",
        "--heartbeat-seconds=20",
        "--log-format=xml",
        "--log-level==?=",
    ])
    .expect_err("wrong");
    let wanted = r#"the configuration has 10 errors:
  --listen: 0.0.0.0:7410 can be reached by others and there is no TLS; name --tls-cert and --tls-key, listen on 127.0.0.1:7410, or add --insecure-listen if keys and data may be read on the way
  --http: "here" is not an address; write e.g. 127.0.0.1:7411 or [::1]:7411
  --backend: "line" is of no known kind; write NAME=sim:SETTINGS, e.g. line-1=sim:rate=100
  --backend: a backend has no `=`; write NAME=sim:SETTINGS, e.g. line-1=sim:rate=100
  --default-backend: there is no backend "other"; use one of: line
  --log-format: "xml" is none of them; write human or json
  --log-level: "=?=" is not a level; write e.g. info or debug
  --max-sessions: "none" is not a whole number from 1 to 4096
  --log-bytes-total-max: it is less than log_bytes_max; raise it or lower the other
  --heartbeat-grace-seconds: it must be more than heartbeat_seconds; three times is usual"#;
    assert_eq!(error.message(), wanted);
    assert_eq!((error.code(), error.details().len()), (Code::ConfigInvalid, 10));
}

#[test]
fn only_the_words_themselves_open_a_listener_without_tls() {
    for open in ["0.0.0.0:1", "[::]:1", "192.168.1.1:1", "[::ffff:192.168.1.1]:1"] {
        assert!(read(&["--listen", open]).is_err(), "{open}");
        assert!(read(&["--http", open]).is_err(), "{open}");
        assert!(read(&["--listen", open, "--insecure-listen"]).is_ok(), "{open}");
        assert!(read(&["--listen", open, "--http", "[::]:2", "--tls-cert=c", "--tls-key=k"]).is_ok(), "{open}");
        assert!(read(&["--listen", open, "--tls-cert=c"]).is_err(), "{open}");
    }
    for loopback in ["127.0.0.1:0", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"] {
        assert!(read(&["--listen", loopback]).is_ok(), "{loopback}");
    }
    assert!(read(&["--listen=127.0.0.1:5", "--http=127.0.0.1:5"]).is_err(), "one port for two");
    assert!(read(&["--listen=127.0.0.1:0", "--http=127.0.0.1:0"]).is_ok(), "two free ports");
}

#[test]
fn what_tls_needs_is_asked_for_and_what_would_do_nothing_is_refused() {
    let pair = ["--tls-cert=c", "--tls-key=k"];
    let words = |more: &[&str]| read(&[&pair, more].concat()).map(drop).map_err(|error| error.message().to_owned());
    words(&["--tls-client-ca=ca", "--tls-client-auth=optional"]).expect("valid");
    assert!(words(&["--tls-client-ca=ca"]).expect_err("asks nobody").contains("set tls_client_auth"));
    assert!(words(&["--tls-client-auth=required"]).expect_err("trusts nobody").contains("tls_client_ca"));
    assert!(words(&["--tls-version-min=1.1"]).expect_err("too old").contains("1.2 or 1.3"));
    let error = read(&["--tls-key=k"]).expect_err("half a pair");
    assert!(error.message().contains("tls-cert"), "{error}");
    let error = read(&["--tls-client-auth=required", "--tls-client-ca=ca"]).expect_err("no TLS");
    assert!(error.message().contains("there is no TLS"), "{error}");
}

#[test]
fn backends_are_named_and_the_first_is_the_default() {
    let config =
        read(&["--backend=a=sim:rate=5,faults=true", "--backend=b=sim:x = { y = \"1=2:3\" }", "--backend=c=sim"])
            .expect("valid");
    assert_eq!(config.backend("").expect("the first").name, "a");
    assert_eq!(config.backend("b").expect("named").settings, "x = { y = \"1=2:3\" }");
    assert_eq!(config.backend("c").expect("named").settings, "");
    let error = config.backend("d").expect_err("unknown");
    assert_eq!((error.code(), error.details()), (Code::BackendUnknown, &[("known", "a, b, c".to_owned())][..]));
    assert!(read(&["--backend=a=sim:", "--backend=a=sim:"]).is_err(), "two of a name");
    assert!(read(&["--backend=a b=sim:"]).is_err(), "a name with a space");
}

// shows: S-04
#[test]
fn zero_switches_a_bound_of_replay_off_and_sizes_take_units() {
    let config =
        read(&["--replay-buffer-capacity=0", "--replay-retention-seconds=0", "--log-bytes-max=2 MiB"]).expect("valid");
    assert_eq!((config.log.replay_buffer_capacity, config.log.replay_retention), (0, None));
    assert_eq!(config.log.log_bytes_max, 2 << 20);
    for wrong in ["--log-bytes-max=1", "--log-bytes-max=2MB", "--log-bytes-max=99999999999999GiB", "--max-sessions=0"] {
        assert!(read(&[wrong]).is_err(), "{wrong}");
    }
}

// shows: S-20, H-06
#[test]
fn neither_the_effective_values_nor_debug_show_a_secret() {
    let config = read(&["--backend=plc=sim:user=me,Password=hunter2"]).expect("valid");
    for shown in [config.effective().to_string(), format!("{config:?}")] {
        assert!(shown.contains("plc") && !shown.contains("hunter2"), "{shown}");
    }
    for settings in ["user=me,pwd=hunter2", "pass=hunter2"] {
        let config = read(&[&format!("--backend=plc=sim:{settings}")]).expect("valid");
        assert!(!config.effective().to_string().contains("hunter2"), "{settings}");
    }
    let error = read(&["--backend=hunter2", "--backend=a=x:hunter2"]).expect_err("wrong");
    assert!(!format!("{error:?}").contains("hunter2"), "{error}");
}

#[test]
fn every_flag_has_its_variable_and_its_default_in_the_help() {
    let command = ServeArgs::augment_args(Command::new("serve"));
    command.clone().debug_assert();
    for arg in command.get_arguments() {
        let flag = arg.get_long().expect("long flags only");
        let variable = format!("TIDEGATE_{}", flag.replace('-', "_").to_uppercase());
        assert_eq!(arg.get_env().and_then(|name| name.to_str()), Some(variable.as_str()), "{flag}");
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        // What is off or absent without its flag needs no words about that.
        let obvious = Setting::find(&flag.replace('-', "_"))
            .is_some_and(|setting| matches!(setting.kind, Kind::Switch) || setting.default.is_empty());
        assert!(obvious || help.contains("[default: "), "--{flag}: {help}");
    }
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("here.toml");
    std::fs::write(&path, text).expect("written");
    (folder, path)
}

// shows: H-06
#[test]
fn flags_win_over_a_file_and_a_file_over_defaults_and_each_value_says_where_it_is_from() {
    let text = "max_sessions = 5\nlog_bytes_max = \"2MiB\"\nallow_multiple_event_subscribers = false\n\
                [[backend]]\nname = \"a\"\nkind = \"sim\"\nsettings = \"rate=5\"\n";
    let (_folder, path) = file(text);
    let config = read(&["--config", path.to_str().expect("text"), "--max-sessions=7"]).expect("valid");
    assert_eq!((config.sessions.max_sessions, config.log.log_bytes_max), (7, 2 << 20));
    assert!(!config.sessions.allow_multiple_event_subscribers);
    assert_eq!(config.backend("a").expect("named").settings, "rate=5");
    let from = |key: &str| {
        let (_, shown) = config.settings().find(|(setting, _)| setting.key == key).expect("a setting");
        shown.origin.clone()
    };
    assert_eq!(from("max_sessions"), Origin::Flag("max-sessions"));
    assert_eq!(from("log_bytes_max"), Origin::File(path.clone(), 2));
    assert_eq!(from("backend"), Origin::File(path, 4));
    assert_eq!(from("http"), Origin::Default);
}

#[test]
fn a_file_in_the_data_folder_is_found_and_may_not_name_another_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().to_str().expect("text");
    std::fs::write(folder.path().join("tidegate.toml"), "max_sessions = 5\n").expect("written");
    assert_eq!(read(&["--data", data]).expect("valid").sessions.max_sessions, 5);
    std::fs::write(folder.path().join("tidegate.toml"), "data = \"elsewhere\"\n").expect("written");
    let error = read(&["--data", data]).expect_err("another folder");
    assert!(error.message().contains("--config"), "{error}");
}

// shows: H-06
#[test]
fn every_error_of_a_file_has_its_line_and_unknown_keys_a_suggestion() {
    let text = "max_session = 5\nbulk_items = 3\nhttp = \"here\"\nlisten = 5\n\
                heartbeat_seconds = 0\nzzz = 1\n[sessions]\nx = 1\n";
    let (_folder, path) = file(text);
    let error = read(&["--config", path.to_str().expect("text"), "--max-sessions=0"]).expect_err("wrong");
    let mut lines: Vec<&str> = error.message().lines().skip(1).map(str::trim).collect();
    lines.sort_unstable();
    let here = path.display();
    let wanted = [
        "--max-sessions: \"0\" is not a whole number from 1 to 4096".to_owned(),
        format!("{here}:1: max_session: there is no such setting; did you mean max_sessions?"),
        format!("{here}:2: bulk_items: there is no such setting; did you mean max_bulk_items?"),
        format!("{here}:3: http: \"here\" is not an address; write e.g. 127.0.0.1:7411 or [::1]:7411"),
        format!("{here}:4: listen: it is of the wrong form; write a text in quotes"),
        format!("{here}:5: heartbeat_seconds: \"0\" is not a whole number from 1 to 300"),
        format!("{here}:6: zzz: there is no such setting; `tidegate config example` shows all"),
        format!("{here}:7: sessions: there are no sections; every setting stands at the top level"),
    ];
    assert_eq!(lines, wanted);
    let (_folder, path) = file("max_sessions = \nlog_level = \"info\"\n");
    let error = read(&["--config", path.to_str().expect("text")]).expect_err("no TOML");
    assert!(error.message().contains("here.toml:1: not TOML"), "{error}");
    let error = read(&["--config", "/nonexistent/tidegate.toml"]).expect_err("no file");
    assert!(error.message().contains("cannot be opened"), "{error}");
}

// shows: S-20
#[test]
fn a_file_that_everybody_may_change_is_refused_and_its_secrets_are_not_told() {
    use std::os::unix::fs::PermissionsExt as _;
    let (_folder, path) = file("backend = [\"a=opc:Password=hunter2\", \"hunter2\"]\nlog_level = hunter2\n");
    let error = read(&["--config", path.to_str().expect("text")]).expect_err("wrong");
    assert!(!format!("{error:?}").contains("hunter2"), "{error}");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).expect("mode set");
    let error = read(&["--config", path.to_str().expect("text")]).expect_err("writable by everybody");
    assert!(error.message().contains("chmod o-w"), "{error}");
}

#[test]
fn a_running_gateway_takes_over_what_it_can_and_keeps_the_rest() {
    let keys = |takes: fn(Takes) -> bool| -> Vec<&str> {
        // One way to find a person excludes the other.
        let all = SETTINGS.iter().filter(|setting| setting.key != "ldap_bind");
        all.filter(|setting| takes(setting.takes)).map(|setting| setting.key).collect()
    };
    let (restart, others) = (keys(|takes| takes == Takes::Restart), keys(|takes| takes != Takes::Restart));
    // Another valid value for any setting.
    let other = |key: &'static str| match key {
        "listen" | "http" => (key, "127.0.0.1:0"),
        "insecure_listen" | "admin_over_network" | "enable_orphan_reattach" | "leave_workers" => (key, "true"),
        "allow_multiple_event_subscribers" => (key, "false"),
        "log_format" => (key, "json"),
        "tls_client_auth" => (key, "required"),
        "tls_version_min" => (key, "1.3"),
        "log_level" => (key, "debug"),
        "policy_unsigned" => (key, "refuse"),
        "log_bytes_max" | "log_bytes_total_max" | "decision_log_file_bytes" | "policy_cache_bytes" => (key, "17MiB"),
        "heartbeat_grace_seconds" => (key, "44"),
        "stuck_ceiling_seconds" => (key, "333"),
        "lag_events_max" => (key, "300"),
        "backend" => (key, "other=sim"),
        "default_backend" => (key, "other"),
        "internal_session" => (key, "mine=sim"),
        "otlp_url" => (key, "http://127.0.0.1"),
        "ldap_url" => (key, "ldap://127.0.0.1"),
        "ldap_starttls" => (key, "false"),
        "ldap_insecure" => (key, "true"),
        "ldap_search_filter" | "ldap_group_filter" => (key, "(x={name})"),
        _ => (key, "3"),
    };
    let load = |keys: &[&'static str]| {
        let flags: Vec<_> = keys.iter().map(|key| other(key)).collect();
        ServeConfig::load(&ServeArgs::of(&flags)).expect("valid")
    };
    let mut running = ServeConfig::default();
    let changes = running.adopt(load(&restart));
    assert_eq!((changes.applied, changes.waiting), (Vec::new(), restart));
    assert_eq!(running, ServeConfig::default(), "nothing that needs a start was taken over");
    let new = load(&others);
    let changes = running.adopt(new.clone());
    assert_eq!((changes.applied, changes.waiting), (others, Vec::new()));
    assert_eq!(running, new);
    // A backend's secret is not shown, and its change is seen all the same.
    let with = |secret: &str| ServeConfig::load(&ServeArgs::of(&[("backend", secret)])).expect("valid");
    let changes = with("a=sim:password=1").adopt(with("a=sim:password=2"));
    assert_eq!(changes.applied, ["backend"]);
}

// shows: H-06
#[test]
fn a_variable_that_sets_nothing_is_named_with_the_nearest_that_does() {
    let names = ["TIDEGATE_POLICY_UNSIGNEDD", "TIDEGATE_KEY", "TIDEGATE_MAX_SESSIONS", "HOME", "TIDEGATE_ZZZ"];
    let unknown = unknown_variables(names.into_iter().map(Into::into));
    let wanted = [
        "the variable TIDEGATE_POLICY_UNSIGNEDD sets nothing; did you mean TIDEGATE_POLICY_UNSIGNED?",
        "the variable TIDEGATE_ZZZ sets nothing",
    ];
    assert_eq!(unknown, wanted);
}

#[test]
fn keys_behind_a_table_of_a_backend_are_named_as_what_they_are() {
    let table = "[[backend]]\nname = \"a\"\nkind = \"sim\"\n";
    for (more, words) in [
        ("drain_seconds = 5\n", "drain_seconds stands behind [[backend]] and so belongs to it"),
        ("zzz = \"1\"\n", "a backend has no zzz"),
        ("settings = 5\n", "all texts"),
    ] {
        let (_folder, path) = file(&format!("{table}{more}"));
        let error = read(&["--config", path.to_str().expect("text")]).expect_err(more);
        assert!(error.message().contains(words), "{error}");
    }
}

#[test]
fn a_pipe_in_the_place_of_the_file_holds_up_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tidegate.toml");
    rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0).expect("made");
    let error = read(&["--data", folder.path().to_str().expect("text")]).expect_err("no file");
    assert!(error.message().contains("not a regular file"), "{error}");
}

#[test]
fn the_pages_in_docs_are_what_the_table_says() {
    assert_eq!(
        include_str!("../../../../docs/tidegate.example.toml"),
        pages::example(),
        "cargo xtask docs configuration"
    );
    assert_eq!(include_str!("../../../../docs/configuration.md"), pages::reference(), "cargo xtask docs configuration");
}

#[test]
fn the_example_with_its_marks_taken_off_is_valid_and_says_the_defaults() {
    let text: Vec<&str> = include_str!("../../../../docs/tidegate.example.toml")
        .lines()
        .map(|line| if line.starts_with("# ") { line } else { line.trim_start_matches('#') })
        .filter(|line| !line.contains('…'))
        .collect();
    let (_folder, path) = file(&text.join("\n"));
    let config = ServeConfig::load(&ServeArgs::file(path)).expect("valid");
    assert_eq!(config.effective(), ServeConfig::default().effective());
}
