//! Every repeatable job of the project, one subcommand each; CI calls the same ones. It reads the tree as
//! text and never links the gateway, so that a broken gateway can still be told what is wrong with it.

mod browser;
mod contract_docs;
mod deb;
mod error_docs;
mod guests;
mod ldap;
mod ledger;
mod plugins;
mod python;
mod source;
mod tidy;
mod tree;

use anyhow::Context;
use clap::{Parser, Subcommand};
use std::process::{Command, ExitCode};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Every repeatable job of the project", arg_required_else_help = true)]
struct Args {
    #[command(subcommand)]
    job: Job,
}

#[derive(Debug, Subcommand)]
enum Job {
    /// Check what a compiler does not: headers, layers, ledger, docs, words, sizes
    Tidy,
    /// Print which tests show which item of docs/requirements.md
    Ledger {
        /// Only items that no test shows
        #[arg(long)]
        missing: bool,
    },
    /// Write the pages of docs/ that are made from the code
    #[command(subcommand)]
    Docs(Page),
    /// Build the default policies, or check that plugins/dist was made of these sources
    #[command(subcommand)]
    Plugins(plugins::Plugins),
    /// Measure: `bench fanout|policy|swap --help`; writes docs/performance.md's figures
    #[command(trailing_var_arg = true, disable_help_flag = true)]
    Bench {
        #[arg(allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Swaps, decisions and events together; fails when a promise broke
    #[command(trailing_var_arg = true, disable_help_flag = true)]
    Soak {
        #[arg(allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Make a Debian package in target/deb, and look into it (needs dpkg-deb)
    Deb(deb::Deb),
    /// Try the lock-free agreements in every interleaving (tests/loom)
    Loom,
    /// Throw broken bytes at the decoders, from tests/fuzz/corpus and what can be made of it
    Fuzz {
        /// For how long, all targets together
        #[arg(long, default_value_t = 30)]
        seconds: u32,
        /// Where the broken bytes begin; the same seed gives the same bytes
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Build every template of `tidegate policy new` in every language, and put its vectors to it (needs python3, npm)
    Guests(guests::Guests),
    /// Kill gateways and workers, and see that every account closes; fails when a promise broke
    #[command(trailing_var_arg = true, disable_help_flag = true)]
    Chaos {
        #[arg(allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Use a gateway from Python with plain grpcio, without and with TLS (needs python3 and its package index)
    Python {
        /// Only make the environment
        #[arg(long)]
        install: bool,
    },
    /// Look at the dashboard in a Chromium: roles, live parts, swaps, accessibility, many sessions (needs python3, npm)
    Browser(browser::Browser),
    /// People of a real slapd sign in on the dashboard, and those who must not do not
    Ldap {
        /// Only bring slapd by apt-get where there is none
        #[arg(long)]
        install: bool,
    },
    /// Run .ci/run, the whole check as CI does it
    Ci,
}

#[derive(Debug, Subcommand)]
enum Page {
    /// docs/errors.md, from the `codes!` table of host/gateway/src/error.rs
    Errors,
    /// docs/policies/contract.md, and its like for older versions, from the doc comments of wit/
    Contract,
    /// docs/top.svg, from what `tidegate top` draws
    Screens,
    /// docs/configuration.md and docs/tidegate.example.toml, from the table in host/gateway/src/config/table.rs
    Configuration,
}

fn main() -> ExitCode {
    match run(Args::parse().job) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(job: Job) -> anyhow::Result<ExitCode> {
    let root = tree::root();
    match job {
        Job::Tidy => Ok(tidy::run(&tree::Tree::read(&root)?)),
        Job::Ledger { missing } => {
            print!("{}", ledger::overview(&tree::Tree::read(&root)?, missing));
            Ok(ExitCode::SUCCESS)
        }
        Job::Docs(Page::Errors) => {
            let page = error_docs::page(&tree::Tree::read(&root)?)?;
            let path = root.join(error_docs::PAGE);
            std::fs::write(&path, page).with_context(|| format!("cannot write {}", error_docs::PAGE))?;
            println!("wrote {}", error_docs::PAGE);
            Ok(ExitCode::SUCCESS)
        }
        Job::Docs(Page::Contract) => {
            for (path, page) in contract_docs::pages(&tree::Tree::read(&root)?)? {
                std::fs::write(root.join(&path), page).with_context(|| format!("cannot write {path}"))?;
                println!("wrote {path}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Job::Docs(Page::Screens) => {
            // The view belongs to the gateway, which is not linked here; the test that compares the picture draws it.
            let test = ["test", "--quiet", "--workspace", "--lib", "--", "the_picture_in_the_docs_is_of_this_view"];
            let mut cargo = Command::new("cargo");
            let status = cargo.args(test).env("TIDEGATE_DRAW", "1").current_dir(&root).status();
            Ok(if status.context("cannot start cargo")?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Job::Deb(job) => deb::run(&root, &job).map(|()| ExitCode::SUCCESS),
        Job::Docs(Page::Configuration) => {
            // `run` cannot take the whole workspace, and a single package has other features; the program stands
            // beside this one.
            cargo(&root, &["build", "--quiet", "--workspace", "--bin", "tidegate"], &[])?;
            let program = std::env::current_exe().context("this program has no path")?.with_file_name("tidegate");
            for (page, path) in [("reference", "docs/configuration.md"), ("example", "docs/tidegate.example.toml")] {
                let made = Command::new(&program).args(["config", page]).output().context("cannot start tidegate")?;
                anyhow::ensure!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
                std::fs::write(root.join(path), made.stdout).with_context(|| format!("cannot write {path}"))?;
                println!("wrote {path}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Job::Plugins(job) => plugins::run(job).map(|()| ExitCode::SUCCESS),
        Job::Bench { args } => measure(&root, args),
        Job::Soak { args } => measure(&root, [vec!["soak".to_owned()], args].concat()),
        Job::Python { install } => python::run(&root, install).map(|()| ExitCode::SUCCESS),
        Job::Loom => cargo(
            &root,
            &["test", "--release", "--lib", "--manifest-path", "tests/loom/Cargo.toml"],
            &[("CARGO_TARGET_DIR", "target/loom".to_owned())],
        ),
        Job::Fuzz { seconds, seed } => cargo(
            &root,
            &["test", "--workspace", "--locked", "--test", "fuzz", "--", "--nocapture"],
            &[("TIDEGATE_FUZZ_SECONDS", seconds.to_string()), ("TIDEGATE_FUZZ_SEED", seed.to_string())],
        ),
        Job::Guests(job) => guests::run(&root, &job).map(|()| ExitCode::SUCCESS),
        Job::Chaos { args } => chaos(&root, args),
        Job::Browser(job) => browser::run(&root, &job),
        Job::Ldap { install } => ldap::run(&root, install),
        Job::Ci => {
            let status =
                Command::new(root.join(".ci/run")).current_dir(&root).status().context("cannot start .ci/run")?;
            Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
    }
}

/// One run of cargo, its exit code as ours.
fn cargo(root: &std::path::Path, words: &[&str], variables: &[(&str, String)]) -> anyhow::Result<ExitCode> {
    let variables = variables.iter().map(|(name, value)| (*name, value.as_str()));
    let status = Command::new("cargo").args(words).envs(variables).current_dir(root).status();
    Ok(if status.context("cannot start cargo")?.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds the gateway and starts tests/bench, which finds it beside itself; not linked here, so that `tidy` stays quick.
fn measure(root: &std::path::Path, args: Vec<String>) -> anyhow::Result<ExitCode> {
    // The whole workspace: single packages have other features, and another wasmtime to build.
    let mut build = Command::new("cargo");
    let built = build.args(["build", "--quiet", "--release", "--workspace", "--locked"]).current_dir(root).status();
    if !built.context("cannot start cargo")?.success() {
        return Ok(ExitCode::FAILURE);
    }
    let bench = root.join("target/release/tidegate-bench");
    let status = Command::new(&bench).args(args).current_dir(root).status();
    let status = status.with_context(|| format!("cannot start {}", bench.display()))?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds everything as the tests do, so that nothing is built twice, and starts tests/chaos beside the gateway.
fn chaos(root: &std::path::Path, args: Vec<String>) -> anyhow::Result<ExitCode> {
    let build = ["build", "--quiet", "--workspace", "--locked"];
    let built = Command::new("cargo").args(build).current_dir(root).status().context("cannot start cargo")?;
    if !built.success() {
        return Ok(ExitCode::FAILURE);
    }
    let folder = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), std::path::PathBuf::from);
    let program = folder.join("debug/tidegate-chaos");
    let status = Command::new(&program).args(args).current_dir(root).status().context("cannot start tests/chaos")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
