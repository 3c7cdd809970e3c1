//! `tidegate status`: how the gateway of this machine is, in a dozen lines or as JSON. Exit code 0: ready
//! and whole; 1: not ready, degraded, or not there. Knows the operators' socket, not the terminal.

use super::{output, remote::Local};
use clap::Args;
use serde_json::{Value as Json, json};
use std::{fmt::Write as _, process::ExitCode, time::Duration};
use tidegate_client::wire::GetStatusResponse;

/// How the gateway is.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Go on, with a line whenever something has changed or every so many seconds; end with Ctrl-C.
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3_600))]
    watch: Option<u64>,
    #[command(flatten)]
    pub(super) local: Local,
}

pub(super) async fn run(args: StatusArgs) -> anyhow::Result<ExitCode> {
    let Some(every) = args.watch else {
        let status = args.local.admin().await?.status().await?;
        if args.local.json {
            output::line(status_json(&status))?;
        } else {
            output::line(in_words(&status).trim_end())?;
        }
        return Ok(if is_well(&status) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    };
    let mut tick = tokio::time::interval(Duration::from_secs(every));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => return Ok(ExitCode::SUCCESS),
            _ = tick.tick() => {}
        }
        // Connected anew each time, so that a watch outlives a restart.
        let looked = match args.local.admin().await {
            Ok(admin) => admin.status().await.map_err(anyhow::Error::from),
            Err(error) => Err(error),
        };
        match looked {
            Ok(status) if args.local.json => output::line(status_json(&status))?,
            Ok(status) => output::line(one_line(&status))?,
            Err(error) if args.local.json => {
                output::line(json!({ "reachable": false, "error": format!("{error:#}") }))?
            }
            Err(error) => output::line(format_args!("unreachable: {error:#}"))?,
        }
    }
}

fn is_well(status: &GetStatusResponse) -> bool {
    status.ready && status.degraded.is_empty()
}

/// One word for the whole.
pub(super) fn state(status: &GetStatusResponse) -> &'static str {
    match (status.ready, status.degraded.is_empty()) {
        (true, true) => "ready",
        (true, false) => "degraded",
        (false, _) => "not ready",
    }
}

fn in_words(status: &GetStatusResponse) -> String {
    let mut text = String::new();
    // Writing to a String does not fail.
    let mut row = |name: &str, what: String| {
        let _ = writeln!(text, "{name:<11} {what}");
    };
    row("state", state(status).to_owned());
    for part in &status.degraded {
        let code = if part.code.is_empty() { String::new() } else { format!(" ({})", part.code) };
        row("  degraded", format!("{}: {}{code}", part.part, part.message));
    }
    row("gateway", format!("tidegate {}, instance {}", status.version, status.instance_id));
    row("running for", duration(status.uptime_seconds));
    let faulted = match status.sessions_faulted {
        0 => String::new(),
        count => format!(", {count} faulted"),
    };
    row("sessions", format!("{} of {}{faulted}; {} readers", status.sessions, status.sessions_max, status.readers));
    row("events", format!("{}/s now, {} since the start", rate(status.events_per_second), status.events_appended));
    row(
        "readers got",
        format!(
            "{} delivered, {} filtered, {} conflated, {} gapped",
            status.events_delivered, status.events_filtered, status.events_conflated, status.events_gapped
        ),
    );
    row("worst lag", worst(status));
    let pinned = if status.pinned { ", pinned" } else { "" };
    row("policies", format!("generation {}{pinned}", status.generation));
    row("log memory", format!("{} of {}", bytes(status.log_bytes), bytes(status.log_bytes_max)));
    row("open files", format!("{} of {}", status.open_files, status.open_files_max));
    text
}

fn one_line(status: &GetStatusResponse) -> String {
    let degraded: Vec<&str> = status.degraded.iter().map(|part| part.part.as_str()).collect();
    let degraded = if degraded.is_empty() { String::new() } else { format!(" ({})", degraded.join(", ")) };
    format!(
        "{}{degraded}  sessions {}  readers {}  {}/s  generation {}  worst lag {}",
        state(status),
        status.sessions,
        status.readers,
        rate(status.events_per_second),
        status.generation,
        worst(status)
    )
}

fn worst(status: &GetStatusResponse) -> String {
    let Some(worst) = &status.worst else { return "no readers".into() };
    let until = worst.seconds_until_gap.map(|s| format!(", a gap in {}", seconds(s))).unwrap_or_default();
    if worst.lag == 0 {
        return "none".into();
    }
    format!("{} of {} events ({:?} of {}){until}", worst.lag, worst.lag_bound, worst.name, worst.session_id)
}

/// The same facts for programs.
pub(super) fn status_json(status: &GetStatusResponse) -> Json {
    let degraded: Vec<_> = status
        .degraded
        .iter()
        .map(|part| json!({ "part": part.part, "message": part.message, "code": (!part.code.is_empty()).then_some(&part.code) }))
        .collect();
    let worst = status.worst.as_ref().map(|worst| {
        json!({
            "session_id": worst.session_id, "name": worst.name, "lag": worst.lag, "lag_bound": worst.lag_bound,
            "seconds_until_gap": worst.seconds_until_gap,
        })
    });
    json!({
        "reachable": true, "state": state(status), "ready": status.ready, "degraded": degraded,
        "version": status.version, "instance_id": status.instance_id,
        "started_at_unix_ms": status.started_at_unix_ms, "uptime_seconds": status.uptime_seconds,
        "sessions": status.sessions, "sessions_max": status.sessions_max, "sessions_faulted": status.sessions_faulted,
        "readers": status.readers, "events_per_second": status.events_per_second,
        "events_appended": status.events_appended, "events_delivered": status.events_delivered,
        "events_filtered": status.events_filtered, "events_conflated": status.events_conflated,
        "events_gapped": status.events_gapped, "generation": status.generation, "pinned": status.pinned,
        "worst": worst, "log_bytes": status.log_bytes, "log_bytes_max": status.log_bytes_max,
        "open_files": status.open_files, "open_files_max": status.open_files_max,
    })
}

/// Per second, as short as it stays readable.
pub(super) fn rate(per_second: f64) -> String {
    match per_second {
        r if r >= 1e6 => format!("{:.2}M", r / 1e6),
        r if r >= 1e4 => format!("{:.1}k", r / 1e3),
        r if r >= 10.0 || r == 0.0 => format!("{r:.0}"),
        r => format!("{r:.1}"),
    }
}

pub(super) fn bytes(count: u64) -> String {
    match count {
        c if c >= 1 << 30 => format!("{:.1} GiB", c as f64 / f64::from(1 << 30)),
        c if c >= 1 << 20 => format!("{:.1} MiB", c as f64 / f64::from(1 << 20)),
        c if c >= 1 << 10 => format!("{:.1} KiB", c as f64 / 1024.0),
        c => format!("{c} B"),
    }
}

/// The time until something, which is a guess and looks like one.
pub(super) fn seconds(left: f64) -> String {
    match left {
        s if s < 10.0 => format!("{s:.1} s"),
        s if s < 600.0 => format!("{s:.0} s"),
        s if s < 36_000.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.0} h", s / 3_600.0),
    }
}

pub(super) fn duration(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidegate_client::wire::{DegradedPart, WorstReader};

    fn sample() -> GetStatusResponse {
        GetStatusResponse {
            ready: true,
            version: "1.2.3".into(),
            instance_id: "00112233445566778899aabbccddeeff".into(),
            uptime_seconds: 93_784,
            sessions: 3,
            sessions_max: 64,
            readers: 7,
            events_per_second: 20_013.4,
            events_appended: 9_000_000,
            events_delivered: 20_000_000,
            generation: 4,
            log_bytes: 5 << 20,
            log_bytes_max: 1 << 30,
            open_files: 41,
            open_files_max: 1_048_576,
            ..GetStatusResponse::default()
        }
    }

    #[test]
    fn a_well_gateway_reads_like_this() {
        let words = in_words(&sample());
        let expected = "\
state       ready
gateway     tidegate 1.2.3, instance 00112233445566778899aabbccddeeff
running for 1 d 2 h
sessions    3 of 64; 7 readers
events      20.0k/s now, 9000000 since the start
readers got 20000000 delivered, 0 filtered, 0 conflated, 0 gapped
worst lag   no readers
policies    generation 4
log memory  5.0 MiB of 1.0 GiB
open files  41 of 1048576
";
        assert_eq!(words, expected);
    }

    #[test]
    fn what_is_wrong_comes_first_and_with_its_code() {
        let mut status = sample();
        let part =
            DegradedPart { part: "storage".into(), message: "no room is left".into(), code: "storage.full".into() };
        status.degraded.push(part);
        status.worst = Some(WorstReader {
            session_id: "session-1".into(),
            name: "historian".into(),
            lag: 7_000,
            lag_bound: 10_000,
            seconds_until_gap: Some(3.04),
        });
        let words = in_words(&status);
        assert!(
            words.starts_with("state       degraded\n  degraded  storage: no room is left (storage.full)\n"),
            "{words}"
        );
        assert!(words.contains("7000 of 10000 events (\"historian\" of session-1), a gap in 3.0 s"), "{words}");
        assert!(!is_well(&status));
        assert!(one_line(&status).starts_with("degraded (storage)  sessions 3"), "{}", one_line(&status));
        assert_eq!(status_json(&status)["degraded"][0]["code"], "storage.full");
    }
}
