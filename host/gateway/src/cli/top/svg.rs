//! Draws a terminal's buffer as SVG, for the pictures in the docs. Knows cells and colours, not what they show.

use ratatui::{
    buffer::{Buffer, Cell},
    style::{Color, Modifier},
};
use std::fmt::Write as _;

/// Of one cell, in pixels at a font size of 14.
const WIDTH: f64 = 8.4;
const HEIGHT: f64 = 18.0;
const EDGE: f64 = 12.0;
const PAPER: &str = "#14181f";
const INK: &str = "#d5dae3";

pub(super) fn of(buffer: &Buffer, title: &str) -> String {
    let (columns, rows) = (buffer.area.width, buffer.area.height);
    let (width, height) = (f64::from(columns) * WIDTH + 2.0 * EDGE, f64::from(rows) * HEIGHT + 2.0 * EDGE);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" role=\"img\" \
         aria-label=\"{}\">\n<title>{}</title>\n<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"{PAPER}\"/>\n\
         <g font-family=\"ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace\" font-size=\"14\" \
         xml:space=\"preserve\">\n",
        escaped(title),
        escaped(title)
    );
    for (nth, row) in buffer.content().chunks(usize::from(columns)).enumerate() {
        let mut from = 0;
        while from < row.len() {
            let len = row[from..].iter().take_while(|cell| alike(cell, &row[from])).count();
            run(&mut svg, nth, from, &row[from..from + len]);
            from += len;
        }
    }
    svg.push_str("</g>\n</svg>\n");
    svg
}

/// Cells of one style: their ground, then their text, stretched to the grid whatever the font.
fn run(svg: &mut String, row: usize, column: usize, cells: &[Cell]) {
    let text: String = cells.iter().map(Cell::symbol).collect();
    let reversed = cells[0].modifier.contains(Modifier::REVERSED);
    if text.trim().is_empty() && !reversed {
        return;
    }
    let (x, y) = (EDGE + column as f64 * WIDTH, EDGE + row as f64 * HEIGHT);
    let (ink, wide) = (colour(cells[0].fg), cells.len() as f64 * WIDTH);
    if reversed {
        let _ =
            writeln!(svg, "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{wide:.1}\" height=\"{HEIGHT}\" fill=\"{ink}\"/>");
    }
    let ink = if reversed { PAPER } else { ink };
    let bold = if cells[0].modifier.contains(Modifier::BOLD) { " font-weight=\"bold\"" } else { "" };
    let line = if cells[0].modifier.contains(Modifier::UNDERLINED) { " text-decoration=\"underline\"" } else { "" };
    let _ = writeln!(
        svg,
        "<text x=\"{x:.1}\" y=\"{:.1}\" textLength=\"{wide:.1}\" fill=\"{ink}\"{bold}{line}>{}</text>",
        y + HEIGHT - 5.0,
        escaped(&text)
    );
}

fn alike(one: &Cell, other: &Cell) -> bool {
    (one.fg, one.modifier) == (other.fg, other.modifier)
}

fn colour(colour: Color) -> &'static str {
    match colour {
        Color::Green => "#6cc644",
        Color::Yellow => "#e3b341",
        Color::Red => "#ff6b6b",
        Color::DarkGray => "#7d8590",
        _ => INK,
    }
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
