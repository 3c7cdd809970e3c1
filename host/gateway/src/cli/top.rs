//! `tidegate top`: sessions, readers and policies of a running gateway, live on a terminal or once as text or
//! JSON. Asks over the operators' socket like everybody else. Invariant: however it ends, the terminal is
//! given back as it was.

mod state;
#[cfg(test)]
mod svg;
#[cfg(test)]
mod tests;
mod view;

use super::{Usage, output, remote::Local};
use clap::Args;
use ratatui::{
    Terminal,
    backend::TestBackend,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
};
use serde_json::json;
use state::{Key, Look, Screen};
use std::{
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};
use tokio::sync::mpsc;

/// Width of `--once` where nobody says another.
const WIDTH: u16 = 100;
/// Between two looks of `--once`: rates want two.
const ONCE_BETWEEN: Duration = Duration::from_millis(1_000);
/// How often the keys' thread looks whether it is still wanted.
const KEYS_EVERY: Duration = Duration::from_millis(100);

/// Watch a gateway at work.
#[derive(Args, Debug)]
pub struct TopArgs {
    /// Seconds between two looks.
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..=60))]
    every: u64,
    /// Print one look and end; needs no terminal. With --json: for programs.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    pub(super) local: Local,
}

pub(super) async fn run(args: TopArgs) -> anyhow::Result<()> {
    if args.once || args.local.json {
        return once(&args).await;
    }
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
        let words = "top wants a terminal; `tidegate top --once` prints one look, with --json for programs";
        return Err(Usage(words.into()).into());
    }
    // Fails before the terminal is taken, with words that stay on it.
    let mut screen = Screen::new(colours());
    screen.see(look(&args.local).await?, Instant::now());
    let mut terminal = ratatui::try_init()?;
    let ended = live(&mut terminal, &mut screen, &args).await;
    ratatui::try_restore()?;
    ended
}

/// No colour where somebody asked for none (no-color.org) or the terminal has none.
fn colours() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

async fn live(terminal: &mut ratatui::DefaultTerminal, screen: &mut Screen, args: &TopArgs) -> anyhow::Result<()> {
    // Full: keys that nobody can press as fast as they are looked at.
    let (pressed, mut keys) = mpsc::channel(16);
    std::thread::Builder::new().name("keys".into()).spawn(move || read_keys(&pressed))?;
    let mut tick = tokio::time::interval(Duration::from_secs(args.every));
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        terminal.draw(|frame| view::draw(frame, screen))?;
        tokio::select! {
            _ = tick.tick() => match look(&args.local).await {
                Ok(found) => screen.see(found, Instant::now()),
                Err(error) => screen.lost(format!("{error:#}")),
            },
            key = keys.recv() => match key {
                Some(key) => {
                    if screen.pressed(key) {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            },
        }
    }
}

fn read_keys(pressed: &mpsc::Sender<Key>) {
    while !pressed.is_closed() {
        match event::poll(KEYS_EVERY) {
            Ok(false) => continue,
            Ok(true) => {}
            Err(_no_terminal) => return,
        }
        let key = match event::read() {
            Ok(Event::Key(key)) if key.kind != KeyEventKind::Release => match key.code {
                KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Key::Quit,
                KeyCode::Char('q') => Key::Quit,
                KeyCode::Char('s') => Key::Sort,
                KeyCode::Char('j') | KeyCode::Down => Key::Down,
                KeyCode::Char('k') | KeyCode::Up => Key::Up,
                KeyCode::Tab | KeyCode::Right => Key::Next,
                KeyCode::BackTab | KeyCode::Left => Key::Before,
                KeyCode::Enter => Key::Enter,
                KeyCode::Esc | KeyCode::Backspace => Key::Back,
                _ => continue,
            },
            // Drawn anew for the new size.
            Ok(Event::Resize(..)) => Key::Redraw,
            Ok(_) => continue,
            Err(_no_terminal) => return,
        };
        if pressed.blocking_send(key).is_err() {
            return;
        }
    }
}

/// Connected anew each time, so that it outlives a restart of the gateway.
async fn look(local: &Local) -> anyhow::Result<Look> {
    let admin = local.admin().await?;
    let (status, sessions, policies) = tokio::try_join!(admin.status(), admin.sessions(), admin.policies())?;
    Ok(Look { status, sessions, policies })
}

async fn once(args: &TopArgs) -> anyhow::Result<()> {
    let mut screen = Screen::new(false);
    screen.see(look(&args.local).await?, Instant::now());
    tokio::time::sleep(ONCE_BETWEEN).await;
    screen.see(look(&args.local).await?, Instant::now());
    if args.local.json {
        return Ok(output::line(as_json(&screen))?);
    }
    let width = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(WIDTH).clamp(60, 400);
    Ok(output::line(as_text(&screen, width).trim_end())?)
}

/// The view as lines of text, as high as it needs to be.
fn as_text(screen: &Screen, width: u16) -> String {
    let backend = TestBackend::new(width, view::height(screen));
    // This backend cannot fail.
    let Ok(mut terminal) = Terminal::new(backend);
    let Ok(_) = terminal.draw(|frame| view::draw(frame, screen));
    let buffer = terminal.backend().buffer();
    let lines = buffer.content().chunks(usize::from(width)).map(|row| {
        let line: String = row.iter().map(|cell| cell.symbol()).collect();
        line.trim_end().to_owned()
    });
    lines.collect::<Vec<_>>().join("\n")
}

fn as_json(screen: &Screen) -> serde_json::Value {
    let Some(look) = screen.look() else { return serde_json::Value::Null };
    let rates = screen.rates();
    let policies: Vec<_> = look
        .policies
        .policies
        .iter()
        .map(|policy| {
            let rate = rates.policy(&policy.policy);
            json!({
                "policy": policy.policy, "name": policy.name, "version": policy.version, "source": policy.source,
                "calls": policy.calls, "failures": policy.failures, "calls_per_second": rate.per_second,
                "microseconds_per_call": rate.us_per_call,
            })
        })
        .collect();
    json!({
        "status": super::status::status_json(&look.status),
        "delivered_per_second": rates.delivered, "filtered_per_second": rates.filtered,
        "conflated_per_second": rates.conflated, "gapped_per_second": rates.gapped,
        "sessions": look.sessions.iter().map(super::session::session_json).collect::<Vec<_>>(),
        "policies": policies,
    })
}
