//! `tidegate config`: what is set, where it came from, whether a file is valid, every setting with its default. Knows
//! the configuration, no running gateway. No secret is printed.

use super::{Usage, output};
use crate::config::{ServeArgs, ServeConfig, pages, unknown_variables};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use std::path::PathBuf;

/// See and check what a gateway is told.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Show what would be in force: file, variables and flags over the defaults.
    #[command(after_help = "Examples:\n  tidegate config show --origin\n  \
        tidegate config show --config tidegate.toml --max-sessions 5 --json")]
    Show(Box<Show>),
    /// Say everything that is wrong with a file.
    #[command(after_help = "Example:\n  tidegate config check tidegate.toml")]
    Check(Check),
    /// Print a file with every setting, commented.
    #[command(after_help = "Example:\n  tidegate config example > tidegate.toml")]
    Example(Page),
    /// Print the reference page (Markdown).
    #[command(hide = true)]
    Reference(Page),
}

/// What to show, and how.
#[derive(Args, Debug)]
pub struct Show {
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
    /// Also where each value came from.
    #[arg(long)]
    origin: bool,
    #[command(flatten)]
    serve: ServeArgs,
}

/// A file to look at.
#[derive(Args, Debug)]
pub struct Check {
    /// The file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    json: bool,
}

/// A page to print.
#[derive(Args, Debug)]
pub struct Page {
    /// Print it as one JSON text.
    #[arg(long)]
    json: bool,
}

// === impl ConfigCommand ===

impl ConfigCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Show(show) => show.json,
            Self::Check(check) => check.json,
            Self::Example(page) | Self::Reference(page) => page.json,
        }
    }
}

pub(super) fn run(command: ConfigCommand) -> anyhow::Result<()> {
    if matches!(command, ConfigCommand::Show(_) | ConfigCommand::Check(_)) {
        for unknown in unknown_variables(std::env::vars_os().map(|(name, _)| name)) {
            eprintln!("warning: {unknown}");
        }
    }
    match command {
        ConfigCommand::Show(show) => self::show(&show),
        ConfigCommand::Check(Check { file, json }) => {
            if !file.exists() {
                return Err(Usage(format!("there is no file {}", file.display())).into());
            }
            let config = ServeConfig::load(&ServeArgs::file(file.clone()))?;
            let set = config.settings().filter(|(_, shown)| shown.origin != crate::config::Origin::Default).count();
            if json {
                output::line(json!({ "valid": true, "settings": set }))?;
            } else {
                output::line(format_args!("{} is valid; it sets {set}", file.display()))?;
            }
            Ok(())
        }
        ConfigCommand::Example(Page { json }) => print(&pages::example(), json),
        ConfigCommand::Reference(Page { json }) => print(&pages::reference(), json),
    }
}

fn show(show: &Show) -> anyhow::Result<()> {
    let config = ServeConfig::load(&show.serve)?;
    if show.json && show.origin {
        let one = |shown: &crate::config::Shown| json!({ "value": shown.value, "origin": shown.origin.to_string() });
        let all = config.settings().map(|(setting, shown)| (setting.key.to_owned(), one(shown)));
        output::line(Value::Object(all.collect()))?;
    } else if show.json {
        output::line(config.effective())?;
    } else {
        let rows = config.settings().map(|(setting, shown)| (setting.key.to_owned(), text(&shown.value), shown));
        if show.origin {
            let rows: Vec<_> = rows.map(|(key, value, shown)| [key, value, shown.origin.to_string()]).collect();
            output::table(["SETTING", "VALUE", "FROM"], &rows)?;
        } else {
            output::table(["SETTING", "VALUE"], &rows.map(|(key, value, _)| [key, value]).collect::<Vec<_>>())?;
        }
    }
    Ok(())
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "(none)".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn print(page: &str, json: bool) -> anyhow::Result<()> {
    if json {
        output::line(json!(page))?
    } else {
        output::line(page.trim_end())?
    }
    Ok(())
}
