//! What a job prints: one row for each case, ours beside a baseline of the same run. Knows no case.
//! Invariant: a row is printed as it is made, so that a job that is stopped has said what it had.

use crate::process;
use anyhow::Context as _;
use serde_json::json;
use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
};

/// The rows of one job.
#[derive(Debug)]
pub(crate) struct Rows {
    bench: &'static str,
    file: Option<File>,
}

/// How good is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ratio {
    /// A cost: baseline / ours, so that more is better.
    Cheaper,
    /// A multiple of the baseline: ours / baseline.
    Multiple,
}

// === impl Rows ===

impl Rows {
    /// `json`: where each row also goes as a line; the file is begun anew.
    pub(crate) fn new(bench: &'static str, json: Option<&Path>) -> anyhow::Result<Self> {
        let open = |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        let rows = Self { bench, file: json.map(open).transpose()? };
        println!("bench {bench}; load averages {} (other work on this machine counts)", process::load());
        println!("{:<44} {:>12} {:>22} {:>12} {:>8}  unit", "case", "ours", "baseline", "", "ratio");
        Ok(rows)
    }

    /// One case with what it is compared to.
    pub(crate) fn add(
        &mut self,
        case: &str,
        ours: f64,
        baseline: Option<(&str, f64, Ratio)>,
        unit: &str,
    ) -> anyhow::Result<()> {
        let ratio = baseline.map(|(_, value, how)| match how {
            Ratio::Cheaper => value / ours,
            Ratio::Multiple => ours / value,
        });
        let (name, value) = baseline.map_or(("", None), |(name, value, _)| (name, Some(value)));
        let number = |value: Option<f64>| value.map_or_else(String::new, |value| format!("{value:.3}"));
        let ours = round(ours);
        println!("{case:<44} {ours:>12} {name:>22} {:>12} {:>8}  {unit}", number(value), number(ratio));
        if let Some(file) = &mut self.file {
            let row = json!({
                "bench": self.bench,
                "case": case,
                "ours": ours,
                "baseline_name": if name.is_empty() { serde_json::Value::Null } else { name.into() },
                "baseline": value.map(round),
                "ratio": ratio.map(round),
                "unit": unit,
            });
            writeln!(file, "{row}")?;
            file.flush()?;
        }
        Ok(())
    }
}

/// Digits beyond these are noise.
pub(crate) fn round(value: f64) -> f64 {
    (value * 10_000.0).round() / 10_000.0
}

/// The program that is measured: built by `cargo xtask` beside this one.
pub(crate) fn tidegate() -> anyhow::Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name("tidegate");
    anyhow::ensure!(path.is_file(), "{} is missing: start this as `cargo xtask bench`", path.display());
    Ok(path)
}
