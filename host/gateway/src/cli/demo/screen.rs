//! Live rates: redrawn in place on a terminal, else a line each second. It knows names and counts.

use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};
use tidegate_client::Counts;
use tokio::time::Instant;

/// How often the rates are shown.
const EVERY: Duration = Duration::from_secs(1);

/// Lines of a block that are no readers.
const HEADING: usize = 1;

/// What is shown of a reader.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) name: &'static str,
    pub(super) counts: Counts,
    /// Events it is behind.
    pub(super) behind: u64,
    pub(super) over: bool,
}

/// Where rates and remarks go. Standard error when standard output is for programs.
#[derive(Debug)]
pub(super) struct Screen {
    to_stderr: bool,
    terminal: bool,
    started: Instant,
    shown: Option<(Instant, Vec<Row>)>,
    /// Lines on the terminal that the next drawing replaces.
    drawn: usize,
}

// === impl Screen ===

impl Screen {
    pub(super) fn new(to_stderr: bool) -> Self {
        let terminal = if to_stderr { io::stderr().is_terminal() } else { io::stdout().is_terminal() };
        Self { to_stderr, terminal, started: Instant::now(), shown: None, drawn: 0 }
    }

    /// Something happened.
    pub(super) fn say(&mut self, text: impl std::fmt::Display) -> io::Result<()> {
        let at = self.started.elapsed().as_secs_f32();
        self.drawn = 0;
        self.put(&format!("[{at:5.1} s] {text}\n"))
    }

    /// Shows rates, if it is time to.
    pub(super) fn rates(&mut self, rows: Vec<Row>) -> io::Result<()> {
        let now = Instant::now();
        let Some((then, before)) = &self.shown else {
            self.shown = Some((now, rows));
            return Ok(());
        };
        let elapsed = now.duration_since(*then);
        if elapsed < EVERY {
            return Ok(());
        }
        let rate = |row: &Row| {
            let had = before.iter().find(|old| old.name == row.name).map_or(0, |old| old.counts.delivered);
            (row.counts.delivered.saturating_sub(had) as f64 / elapsed.as_secs_f64()) as u64
        };
        let text =
            if self.terminal { block(&rows, rate, self.drawn) } else { line(&rows, rate, self.started.elapsed()) };
        self.put(&text)?;
        self.drawn = rows.len() + HEADING;
        self.shown = Some((now, rows));
        Ok(())
    }

    fn put(&self, text: &str) -> io::Result<()> {
        if self.to_stderr { io::stderr().write_all(text.as_bytes()) } else { io::stdout().write_all(text.as_bytes()) }
    }
}

fn line(rows: &[Row], rate: impl Fn(&Row) -> u64, at: Duration) -> String {
    let cells: Vec<String> = rows
        .iter()
        .map(|row| match row.over {
            true => format!("{} ended", row.name),
            false => format!("{} {}/s", row.name, rate(row)),
        })
        .collect();
    format!("[{:5.1} s] {}\n", at.as_secs_f32(), cells.join("  "))
}

/// A heading and one line for each reader, over the ones drawn before; narrow enough for 80 columns, because a
/// line that wraps would not be drawn over.
fn block(rows: &[Row], rate: impl Fn(&Row) -> u64, drawn: usize) -> String {
    let mut text = if drawn > 0 { format!("\x1b[{drawn}A") } else { String::new() };
    text += &format!(
        "\x1b[2K  {:<11}{:>9}{:>11}{:>10}{:>11}{:>10}{:>9}\n",
        "reader", "events/s", "delivered", "filtered", "conflated", "gapped", "behind"
    );
    for row in rows {
        let Counts { delivered, filtered, conflated, gapped, .. } = row.counts;
        let speed = if row.over { "ended".to_owned() } else { rate(row).to_string() };
        text += &format!(
            "\x1b[2K  {:<11}{speed:>9}{delivered:>11}{filtered:>10}{conflated:>11}{gapped:>10}{:>9}\n",
            row.name, row.behind
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_draws_over_the_one_before_and_fits_80_columns() {
        let counts = Counts { delivered: 123_456_789, gapped: 1_234_567, ..Counts::default() };
        let rows = [Row { name: "restricted", counts, behind: 12_345, over: false }];
        let first = block(&rows, |_| 500_000, 0);
        assert_eq!(first.lines().count(), rows.len() + HEADING);
        assert!(first.lines().all(|line| line.trim_start_matches("\x1b[2K").chars().count() <= 80), "{first}");
        assert!(block(&rows, |_| 0, rows.len() + HEADING).starts_with("\x1b[2A"));
    }
}
