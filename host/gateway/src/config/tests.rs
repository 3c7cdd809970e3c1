//! What an operator sees of the configuration: defaults, every error at once, the effective values.

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
    ServeConfig::from_args(args(line))
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
  --listen: 0.0.0.0:7410 can be reached by others and there is no TLS; listen on 127.0.0.1:7410, or add --insecure-listen if keys and data may be read on the way
  --http: "here" is not an address; write e.g. 127.0.0.1:7411 or [::1]:7411
  --backend: "line" is of no known kind; write NAME=sim:SETTINGS, e.g. line-1=sim:rate=100
  --backend: a backend has no `=`; write NAME=sim:SETTINGS, e.g. line-1=sim:rate=100
  --default-backend: there is no backend "other"; use one of: line
  --log-format: "xml" is not a format; write human or json
  --log-level: "=?=" is not a level; write e.g. info or debug
  --max-sessions: "none" is not a whole number from 1 to 4096
  --log-bytes-total-max: it is less than --log-bytes-max; raise it or lower the other
  --heartbeat-grace-seconds: it must be more than --heartbeat-seconds; three times is usual"#;
    assert_eq!(error.message(), wanted);
    assert_eq!((error.code(), error.details().len()), (Code::ConfigInvalid, 10));
}

#[test]
fn only_the_words_themselves_open_a_listener_without_tls() {
    for open in ["0.0.0.0:1", "[::]:1", "192.168.1.1:1", "[::ffff:192.168.1.1]:1"] {
        assert!(read(&["--listen", open]).is_err(), "{open}");
        assert!(read(&["--http", open]).is_err(), "{open}");
        assert!(read(&["--listen", open, "--insecure-listen"]).is_ok(), "{open}");
    }
    for loopback in ["127.0.0.1:0", "127.1.2.3:1", "[::1]:1", "[::ffff:127.0.0.1]:1", "localhost:1"] {
        assert!(read(&["--listen", loopback]).is_ok(), "{loopback}");
    }
    assert!(read(&["--listen=127.0.0.1:5", "--http=127.0.0.1:5"]).is_err(), "one port for two");
    assert!(read(&["--listen=127.0.0.1:0", "--http=127.0.0.1:0"]).is_ok(), "two free ports");
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
        let told = ["insecure-listen", "plugins"].contains(&flag) || help.contains("[default: ");
        assert!(told, "--{flag}: {help}");
    }
}
