//! `top` over a gateway that is made up: what is drawn, what keys do, the picture in the docs.

use super::{state::Panel, *};
use ratatui::buffer::Buffer;
use std::{fs, path::Path};
use tidegate_client::wire::{
    DegradedPart, GetStatusResponse, ListPoliciesResponse, PolicySummary, ReaderSummary, SessionSummary,
};

fn reader(name: &str, lag: u64, per_second: f64, seconds_until_gap: Option<f64>) -> ReaderSummary {
    ReaderSummary {
        name: name.into(),
        lag,
        lag_bound: 10_000,
        lag_high_water: lag + 312,
        mode: if lag > 8_000 { "conflating" } else { "normal" }.into(),
        per_second,
        seconds_until_gap,
        ..ReaderSummary::default()
    }
}

fn session(id: &str, name: &str, events_per_second: f64, readers: Vec<ReaderSummary>) -> SessionSummary {
    SessionSummary {
        session_id: format!("session-{id}"),
        name: name.into(),
        state: "ready".into(),
        items: 40,
        log_bytes: (events_per_second * 700.0) as u64,
        events_per_second,
        readers,
        ..SessionSummary::default()
    }
}

fn policy(policy: &str, source: &str, calls: u64, failures: u64) -> PolicySummary {
    PolicySummary {
        policy: policy.into(),
        name: policy.into(),
        version: "0.1.0".into(),
        source: source.into(),
        calls,
        failures,
        time_us: calls * 31,
        ..PolicySummary::default()
    }
}

/// `seconds` after the start, at even rates.
fn sample(seconds: u64) -> Look {
    let status = GetStatusResponse {
        ready: true,
        version: "0.1.0".into(),
        started_at_unix_ms: 1,
        uptime_seconds: 11_000 + seconds,
        sessions: 3,
        sessions_max: 64,
        readers: 5,
        events_per_second: 21_212.0,
        events_delivered: 61_000 * seconds,
        events_filtered: 9_990 * seconds,
        events_conflated: 840 * seconds,
        generation: 4,
        log_bytes: 15 << 20,
        log_bytes_max: 1 << 30,
        ..GetStatusResponse::default()
    };
    let sessions = vec![
        session("8d21c0ff33aa", "packaging", 1_002.0, vec![reader("bystander", 0, 1_002.0, None)]),
        session(
            "4f0a91be77c1",
            "line-1",
            20_010.0,
            vec![
                reader("historian", 14, 20_010.0, None),
                reader("dashboard", 8_610, 9_700.0, Some(0.135)),
                reader("restricted", 5_120, 20_005.0, None),
                reader("slow", 2_000, 19_600.0, Some(19.5)),
            ],
        ),
        session("b7700de5a3f2", "boiler-house", 200.0, vec![]),
    ];
    let policies = ListPoliciesResponse {
        policies: vec![
            policy("access", "access.wasm", 412 + 3 * seconds, 0),
            policy("backpressure", "backpressure.wasm", 97, 2),
            policy("version-floor", "embedded", 12, 0),
            policy("dashboard-tags", "embedded", 0, 0),
            policy("rate-limit", "embedded", 5_310 + 40 * seconds, 0),
        ],
        ..ListPoliciesResponse::default()
    };
    Look { status, sessions, policies }
}

fn screen(colours: bool) -> Screen {
    let mut screen = Screen::new(colours);
    let start = Instant::now();
    screen.see(sample(10), start);
    screen.see(sample(12), start + Duration::from_secs(2));
    screen
}

fn buffer(screen: &Screen, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(frame, screen)).expect("drawn");
    terminal.backend().buffer().clone()
}

fn lines(buffer: &Buffer) -> Vec<String> {
    let rows = buffer.content().chunks(usize::from(buffer.area.width));
    rows.map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>().trim_end().to_owned()).collect()
}

#[test]
fn everything_is_there_on_a_small_terminal() {
    let shown = lines(&buffer(&screen(false), 80, 24)).join("\n");
    for word in [
        "tidegate 0.1.0  ready  up 3 h 3 min  generation 4",
        "per second: 21.2k in, 61.0k delivered, 9990 filtered, 840 conflated, 0 gapped",
        "line-1",
        "dashboard",
        "0.1 s",
        "backpressure.wasm",
        "µS/CALL",
        "sessions by rate    q quit",
    ] {
        assert!(shown.contains(word), "no {word:?} in\n{shown}");
    }
    let position = |word: &str| shown.find(word).unwrap_or_else(|| panic!("no {word} in\n{shown}"));
    assert!(position("4f0a91be") < position("8d21c0ff"), "sessions by rate\n{shown}");
    assert!(position("dashboard ") < position("slow"), "who loses events first comes first\n{shown}");
    assert!(position("slow") < position("restricted"), "then by lag\n{shown}");
}

#[test]
fn without_colours_there_are_none_and_with_them_the_urgent_is_red() {
    use ratatui::style::Color;
    let plain = buffer(&screen(false), 80, 24);
    assert!(plain.content().iter().all(|cell| cell.fg == Color::Reset && cell.bg == Color::Reset));
    let coloured = buffer(&screen(true), 80, 24);
    assert!(coloured.content().iter().any(|cell| cell.fg == Color::Red));
}

#[test]
fn any_size_is_survived() {
    for (width, height) in [(1, 1), (20, 3), (80, 5), (80, 10), (300, 100)] {
        buffer(&screen(true), width, height);
    }
    let mut empty = Screen::new(true);
    buffer(&empty, 80, 24);
    empty.see(Look::default(), Instant::now());
    assert!(lines(&buffer(&empty, 80, 24)).join("\n").contains("none"));
}

#[test]
fn keys_move_sort_drill_down_and_quit() {
    let mut screen = screen(false);
    assert_eq!((screen.focus, screen.sort(Panel::Sessions)), (Panel::Sessions, "rate"));
    screen.pressed(Key::Sort);
    assert_eq!(screen.sort(Panel::Sessions), "lag");
    screen.pressed(Key::Sort);
    let names: Vec<_> = screen.sessions().iter().map(|session| session.name.clone()).collect();
    assert_eq!(names, ["boiler-house", "line-1", "packaging"]);
    screen.pressed(Key::Down);
    screen.pressed(Key::Enter);
    assert_eq!((screen.focus, screen.readers().len()), (Panel::Readers, 4), "only those of line-1");
    for _ in 0..9 {
        screen.pressed(Key::Down);
    }
    assert_eq!(screen.selected(Panel::Readers), 3, "no further than the last");
    assert!(!screen.pressed(Key::Back));
    assert_eq!((screen.focus, screen.readers().len()), (Panel::Sessions, 5));
    screen.pressed(Key::Before);
    assert_eq!(screen.focus, Panel::Policies);
    screen.pressed(Key::Sort);
    assert_eq!(screen.policies()[0].policy, "rate-limit", "by calls");
    screen.pressed(Key::Next);
    assert_eq!(screen.focus, Panel::Sessions);
    assert!(screen.pressed(Key::Quit) && screen.pressed(Key::Back));
}

#[test]
fn what_goes_away_is_said_and_selects_nothing_that_is_not_there() {
    let mut screen = screen(false);
    screen.pressed(Key::Enter);
    let mut look = sample(14);
    look.sessions.remove(1);
    look.status.degraded.push(DegradedPart {
        part: "storage".into(),
        message: "no room is left".into(),
        code: "storage.full".into(),
    });
    screen.see(look, Instant::now());
    assert_eq!((screen.inside.clone(), screen.readers().len()), (None, 1));
    let shown = lines(&buffer(&screen, 80, 24)).join("\n");
    assert!(shown.contains("degraded: storage: no room is left"), "{shown}");
    screen.lost("no gateway runs".into());
    let shown = lines(&buffer(&screen, 80, 24)).join("\n");
    assert!(shown.contains("unreachable") && shown.contains("no gateway runs"), "{shown}");
    // A gateway that was started anew counts from zero, and rates are never of before.
    let mut anew = sample(1);
    anew.status.started_at_unix_ms = 2;
    screen.see(anew, Instant::now());
    assert_eq!(screen.rates().delivered, 0.0);
}

#[test]
fn one_look_as_text_and_as_json_says_the_same() {
    let screen = screen(false);
    let text = as_text(&screen, 100);
    assert_eq!(text.lines().filter(|line| line.contains("embedded")).count(), 3, "{text}");
    assert_eq!(text.lines().filter(|line| line.contains("4f0a91be")).count(), 5, "{text}");
    let json = as_json(&screen);
    assert_eq!(json["sessions"][1]["readers"][1]["seconds_until_gap"], 0.135);
    assert_eq!(json["policies"][0]["microseconds_per_call"], 31.0);
    assert_eq!(json["delivered_per_second"], 61_000.0);
}

/// Drawn anew by `cargo xtask docs screens`, which runs this test with the variable set.
#[test]
fn the_picture_in_the_docs_is_of_this_view() {
    let drawn = svg::of(&buffer(&screen(true), 96, 24), "tidegate top: sessions, readers with lag, policies");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/top.svg");
    if std::env::var_os("TIDEGATE_DRAW").is_some() {
        fs::write(&path, &drawn).expect("written");
    }
    let there = fs::read_to_string(&path).unwrap_or_default();
    assert!(there == drawn, "docs/top.svg shows another view; draw it anew with `cargo xtask docs screens`");
}
