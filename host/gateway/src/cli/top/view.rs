//! How `top` looks: four lines about the whole, three tables, one line of keys. Draws what `state` holds and
//! changes nothing. Invariant: readable on 80 by 24 and without colour; what matters is said in words, too.

use super::{
    super::status::{bytes, duration, rate, seconds, state},
    state::{Panel, Screen, worst_lag},
};
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table, TableState},
};
use tidegate_client::wire::{ReaderSummary, SessionSummary};

/// A reader that will lose events this soon is a reason to act.
const SOON_SECONDS: f64 = 60.0;
const HEAD: u16 = 4;

/// Lines that show everything.
pub(super) fn height(screen: &Screen) -> u16 {
    let rows: usize = super::state::PANELS.iter().map(|panel| screen.len(*panel).max(1) + 2).sum();
    HEAD + u16::try_from(rows).unwrap_or(u16::MAX - HEAD)
}

pub(super) fn draw(frame: &mut Frame<'_>, screen: &Screen) {
    let policies = screen.len(Panel::Policies).max(1) as u16 + 1;
    // Sessions take what they need, up to a third of what is left; readers have the rest.
    let left = frame.area().height.saturating_sub(HEAD + policies + 3);
    let sessions = (screen.len(Panel::Sessions).max(1) as u16 + 1).min((left / 3).max(3)).min(left);
    let readers = screen.len(Panel::Readers).max(1) as u16 + 1;
    let sessions = sessions.max(left.saturating_sub(readers).min(screen.len(Panel::Sessions).max(1) as u16 + 1));
    let [head, first, _, second, _, third, foot] = Layout::vertical([
        Constraint::Length(HEAD),
        Constraint::Length(sessions),
        Constraint::Length(1),
        Constraint::Fill(1),
        Constraint::Length(1),
        Constraint::Length(policies),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(heading(screen)), head);
    session_table(frame, screen, first);
    reader_table(frame, screen, second);
    policy_table(frame, screen, third);
    let (table, order) = (screen.focus.name(), screen.sort(screen.focus));
    let keys = format!("{table} by {order}    q quit  Tab table  ↑↓ row  s sort  Enter readers  Esc back");
    frame.render_widget(Paragraph::new(Line::styled(keys, dim(screen))), foot);
}

fn heading(screen: &Screen) -> Vec<Line<'static>> {
    let Some(look) = screen.look() else { return vec![Line::raw("waiting for the gateway")] };
    let (status, rates) = (&look.status, screen.rates());
    let well = status.ready && status.degraded.is_empty() && screen.lost.is_none();
    let word = if screen.lost.is_some() { "unreachable" } else { state(status) };
    let first = Line::from(vec![
        Span::raw(format!("tidegate {}  ", status.version)),
        Span::styled(word.to_owned(), if well { good(screen) } else { bad(screen) }),
        Span::raw(format!(
            "  up {}  generation {}{}  log {} of {}",
            duration(status.uptime_seconds),
            status.generation,
            if status.pinned { " pinned" } else { "" },
            bytes(status.log_bytes),
            bytes(status.log_bytes_max)
        )),
    ]);
    let second =
        Line::raw(format!("{} of {} sessions  {} readers", status.sessions, status.sessions_max, status.readers));
    let third = Line::raw(format!(
        "per second: {} in, {} delivered, {} filtered, {} conflated, {} gapped",
        rate(status.events_per_second),
        rate(rates.delivered),
        rate(rates.filtered),
        rate(rates.conflated),
        rate(rates.gapped)
    ));
    let fourth = match (&screen.lost, status.degraded.first()) {
        (Some(why), _) => Line::styled(why.clone(), bad(screen)),
        (None, Some(part)) => {
            let more = status.degraded.len() - 1;
            let more = if more > 0 { format!(" (and {more} more)") } else { String::new() };
            Line::styled(format!("degraded: {}: {}{more}", part.part, part.message), bad(screen))
        }
        (None, None) => Line::default(),
    };
    vec![first, second, third, fourth]
}

fn session_table(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let rows = screen.sessions().into_iter().map(|session| {
        let style = if session.fault.is_empty() { Style::new() } else { bad(screen) };
        Row::new(vec![
            Cell::from(short(session)),
            Cell::from(session.name.clone()),
            Cell::from(session.state.clone()),
            right(rate(session.events_per_second)),
            right(session.items.to_string()),
            right(session.readers.len().to_string()),
            right(worst_lag(session).to_string()),
            right(bytes(session.log_bytes)),
        ])
        .style(style)
    });
    let widths = [
        Constraint::Length(9),
        Constraint::Fill(1),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(7),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(10),
    ];
    let heads = ["SESSION", "NAME", "STATE", "EVENTS/S", "ITEMS", "READERS", "WORST LAG", "LOG"];
    table(frame, screen, area, Panel::Sessions, rows.collect(), &widths, heads, 3);
}

fn reader_table(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let rows = screen.readers().into_iter().map(|(session, reader)| {
        Row::new(vec![
            Cell::from(reader.name.clone()),
            Cell::from(short(session)),
            right(reader.lag.to_string()),
            right(reader.lag_bound.to_string()),
            right(reader.lag_high_water.to_string()),
            right(rate(reader.per_second)),
            right(reader.seconds_until_gap.map_or("–".into(), seconds)),
            Cell::from(reader.mode.clone()),
        ])
        .style(urgency(screen, reader))
    });
    let widths = [
        Constraint::Fill(1),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(10),
    ];
    let heads = ["READER", "SESSION", "LAG", "BOUND", "HIGHEST", "READS/S", "GAP IN", "MODE"];
    table(frame, screen, area, Panel::Readers, rows.collect(), &widths, heads, 2);
}

fn policy_table(frame: &mut Frame<'_>, screen: &Screen, area: Rect) {
    let rows = screen.policies().into_iter().map(|policy| {
        let now = screen.rates().policy(&policy.policy);
        Row::new(vec![
            Cell::from(policy.policy.clone()),
            Cell::from(policy.source.clone()),
            Cell::from(policy.version.clone()),
            right(policy.calls.to_string()),
            right(rate(now.per_second)),
            right(policy.failures.to_string()),
            right(format!("{:.0}", now.us_per_call)),
        ])
        .style(if policy.failures > 0 { warning(screen) } else { Style::new() })
    });
    let widths = [
        Constraint::Length(15),
        Constraint::Fill(1),
        Constraint::Length(8),
        Constraint::Length(9),
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Length(8),
    ];
    let heads = ["POLICY", "FROM", "VERSION", "CALLS", "CALLS/S", "FAILURES", "µS/CALL"];
    table(frame, screen, area, Panel::Policies, rows.collect(), &widths, heads, 3);
}

/// `numbers_from`: from which column on headings stand right, as their numbers do.
#[expect(clippy::too_many_arguments, reason = "one caller for each table, and nothing here outlives it")]
fn table<const N: usize>(
    frame: &mut Frame<'_>,
    screen: &Screen,
    area: Rect,
    panel: Panel,
    rows: Vec<Row<'_>>,
    widths: &[Constraint; N],
    heads: [&'static str; N],
    numbers_from: usize,
) {
    let focused = screen.focus == panel;
    let heads = heads.into_iter().enumerate().map(|(nth, head)| {
        if nth >= numbers_from && head != "MODE" { right(head.to_owned()) } else { Cell::from(head) }
    });
    let style = Style::new().add_modifier(if focused { Modifier::BOLD | Modifier::UNDERLINED } else { Modifier::BOLD });
    let mut state = TableState::new().with_selected((focused && !rows.is_empty()).then(|| screen.selected(panel)));
    let rows = if rows.is_empty() { vec![Row::new(vec![Cell::from("none")]).style(dim(screen))] } else { rows };
    let table = Table::new(rows, widths)
        .header(Row::new(heads.collect::<Vec<_>>()).style(style))
        .column_spacing(1)
        .row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
    frame.render_stateful_widget(table, area, &mut state);
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Line::from(text).right_aligned())
}

/// Enough of an id to tell sessions apart by eye.
fn short(session: &SessionSummary) -> String {
    let id = session.session_id.strip_prefix("session-").unwrap_or(&session.session_id);
    id.chars().take(8).collect()
}

fn urgency(screen: &Screen, reader: &ReaderSummary) -> Style {
    if reader.seconds_until_gap.is_some_and(|left| left < SOON_SECONDS) {
        return bad(screen);
    }
    if reader.lag.saturating_mul(2) >= reader.lag_bound || reader.mode != "normal" {
        warning(screen)
    } else {
        Style::new()
    }
}

fn coloured(screen: &Screen, colour: Color) -> Style {
    if screen.colours { Style::new().fg(colour) } else { Style::new() }
}

fn good(screen: &Screen) -> Style {
    coloured(screen, Color::Green)
}

fn warning(screen: &Screen) -> Style {
    coloured(screen, Color::Yellow)
}

fn bad(screen: &Screen) -> Style {
    coloured(screen, Color::Red).add_modifier(Modifier::BOLD)
}

fn dim(screen: &Screen) -> Style {
    coloured(screen, Color::DarkGray)
}
