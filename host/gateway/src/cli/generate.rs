//! `tidegate completions` and `tidegate man`: what shells and `man` want to know of the command line, made
//! from its definition. Knows clap only; nothing is written down twice.

use anyhow::Context as _;
use clap::{Args, Command};
use clap_complete::Shell;
use serde_json::json;
use std::{
    fs,
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Which shell.
#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell to complete in.
    #[arg(value_name = "SHELL")]
    shell: Shell,
    /// Print the script as a JSON string, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

/// Where to.
#[derive(Args, Debug)]
pub struct ManArgs {
    /// Folder for the pages, e.g. /usr/local/share/man/man1; made when missing.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Print the pages' paths as JSON, for programs.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn completions(args: &CompletionsArgs, mut command: Command) -> anyhow::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "tidegate", &mut script);
    if args.json {
        let script = String::from_utf8(script).context("the script is not text")?;
        return Ok(super::output::line(json!({ "shell": args.shell.to_string(), "script": script }))?);
    }
    Ok(io::stdout().lock().write_all(&script)?)
}

pub(super) fn man(args: &ManArgs, command: Command) -> anyhow::Result<()> {
    fs::create_dir_all(&args.folder).with_context(|| format!("cannot make {}", args.folder.display()))?;
    let mut written = Vec::new();
    let mut command = command.disable_help_subcommand(true);
    // Gives every command its full name.
    command.build();
    pages(&command, &args.folder, &mut written)?;
    if args.json {
        super::output::line(json!({ "pages": written }))?;
    } else {
        super::output::line(format_args!("{} pages in {}", written.len(), args.folder.display()))?;
    }
    Ok(())
}

/// One page for each command that people call: `tidegate-session-list.1`.
fn pages(command: &Command, folder: &Path, written: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let source = format!("tidegate {}", env!("CARGO_PKG_VERSION"));
    let page = clap_mangen::Man::new(command.clone()).manual("Tidegate").source(source);
    let path = page.generate_to(folder).with_context(|| format!("cannot write to {}", folder.display()))?;
    written.push(path);
    command.get_subcommands().filter(|sub| !sub.is_hide_set()).try_for_each(|sub| pages(sub, folder, written))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory as _, ValueEnum as _};

    #[test]
    fn every_visible_command_has_a_page_that_says_how_to_use_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let args = ManArgs { folder: folder.path().join("man1"), json: true };
        man(&args, super::super::Cli::command()).expect("written");
        for (page, words) in [
            ("tidegate.1", "tidegate demo"),
            ("tidegate-serve.1", "max-sessions"),
            ("tidegate-session-list.1", "Show all sessions"),
            ("tidegate-status.1", "watch"),
        ] {
            let text = fs::read_to_string(args.folder.join(page)).unwrap_or_else(|error| panic!("{page}: {error}"));
            assert!(text.replace('\\', "").contains(words), "{page} does not say {words:?}:\n{text}");
        }
        assert!(!args.folder.join("tidegate-worker.1").exists(), "it is hidden");
    }

    #[test]
    fn every_shell_learns_every_command() {
        for shell in Shell::value_variants() {
            let (mut command, mut script) = (super::super::Cli::command(), Vec::new());
            clap_complete::generate(*shell, &mut command, "tidegate", &mut script);
            let script = String::from_utf8(script).expect("text");
            for word in ["completions", "rollback", "status"] {
                assert!(script.contains(word), "{shell} does not know {word}");
            }
        }
    }
}
