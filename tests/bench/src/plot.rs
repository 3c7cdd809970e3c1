//! Draws the rows of a job as bars: for each case ours, then each baseline. Knows the
//! lines that `rows` writes. Invariant: a bar's length is its value within its case; cases are not compared.

use anyhow::{Context as _, ensure};
use plotters::prelude::*;
use serde_json::Value as Json;
use std::path::PathBuf;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Rows that a job wrote with --json
    rows: PathBuf,
    /// The SVG to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only rows whose unit begins so
    #[arg(long, default_value = "us of CPU")]
    unit: String,
}

const WIDTH: i32 = 860;
const LEFT: i32 = 290;
/// Of the longest bar of a case.
const LONGEST: i32 = 420;
const BAR: i32 = 14;
const SPACE: i32 = 12;
const TOP: i32 = 34;
const OURS: RGBColor = RGBColor(0x0b, 0x6e, 0x99);
const THEIRS: RGBColor = RGBColor(0xa8, 0xb2, 0xba);

/// One case: its name and its bars.
#[derive(Debug)]
struct Group {
    case: String,
    bars: Vec<(String, f64)>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.rows).with_context(|| format!("cannot read {}", args.rows.display()))?;
    let groups = groups(&text, &args.unit)?;
    ensure!(!groups.is_empty(), "{} has no rows in {}", args.rows.display(), args.unit);
    draw(&groups, args)?;
    println!("wrote {}", args.out.display());
    Ok(())
}

fn groups(text: &str, unit: &str) -> anyhow::Result<Vec<Group>> {
    let mut groups: Vec<Group> = Vec::new();
    for line in text.lines() {
        let row: Json = serde_json::from_str(line)?;
        if !row["unit"].as_str().is_some_and(|has| has.starts_with(unit)) {
            continue;
        }
        let (case, ours) = (row["case"].as_str().context("no case")?, row["ours"].as_f64().context("no figure")?);
        if groups.last().is_none_or(|group| group.case != case) {
            groups.push(Group { case: case.to_owned(), bars: vec![("tidegate".to_owned(), ours)] });
        }
        if let (Some(group), Some(name), Some(value)) =
            (groups.last_mut(), row["baseline_name"].as_str(), row["baseline"].as_f64())
        {
            group.bars.push((name.to_owned(), value));
        }
    }
    Ok(groups)
}

fn draw(groups: &[Group], args: &Args) -> anyhow::Result<()> {
    let bars: usize = groups.iter().map(|group| group.bars.len()).sum();
    let height = TOP + bars as i32 * BAR + groups.len() as i32 * SPACE + SPACE;
    let root = SVGBackend::new(&args.out, (WIDTH as u32, height as u32)).into_drawing_area();
    let failed = |error: DrawingAreaErrorKind<std::io::Error>| anyhow::anyhow!("cannot draw: {error}");
    root.fill(&WHITE).map_err(failed)?;
    let style = |size: i32| ("sans-serif", size).into_font().color(&BLACK);
    let say = |what: String, at: (i32, i32), size| root.draw(&Text::new(what, at, style(size))).map_err(failed);
    say(format!("{} (each case has its own scale; shorter is better)", args.unit), (12, 10), 13)?;
    let mut y = TOP;
    for group in groups {
        say(group.case.clone(), (12, y), 12)?;
        let most = group.bars.iter().map(|(_, value)| *value).fold(f64::MIN_POSITIVE, f64::max);
        for (name, value) in &group.bars {
            let length = (value / most * f64::from(LONGEST)).round() as i32;
            let color = if name == "tidegate" { OURS } else { THEIRS };
            let bar = Rectangle::new([(LEFT, y + 1), (LEFT + length.max(1), y + BAR - 1)], color.filled());
            root.draw(&bar).map_err(failed)?;
            say(format!("{name} {value:.3}"), (LEFT + length + 6, y + 1), 11)?;
            y += BAR;
        }
        y += SPACE;
    }
    root.present().map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_a_case_are_one_group() {
        let row = |case: &str, name: &str, value: f64| {
            serde_json::json!({ "case": case, "ours": 1.5, "baseline_name": name, "baseline": value, "unit": "us of CPU" })
                .to_string()
        };
        let text = [row("a", "x", 2.0), row("a", "y", 3.0), row("b", "x", 4.0)].join("\n");
        let groups = groups(&text, "us of CPU").expect("rows");
        assert_eq!(groups.len(), 2);
        let names: Vec<&str> = groups[0].bars.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["tidegate", "x", "y"]);
        let folder = tempfile::tempdir().expect("a folder");
        let args = Args { rows: PathBuf::new(), out: folder.path().join("plot.svg"), unit: "us of CPU".into() };
        draw(&groups, &args).expect("a drawing");
        assert!(std::fs::read_to_string(&args.out).expect("the drawing").contains("tidegate 1.500"));
    }
}
