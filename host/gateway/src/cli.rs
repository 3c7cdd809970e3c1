//! The command line: what each command is called, how it is explained, how it fails. It knows
//! clients and operators, nothing of the gateway's inside except `serve`. Invariant: exit codes are
//! 0 done, 1 failed, 2 used wrongly; only `key create` ever prints a secret.

pub mod alarms;
pub mod backup;
pub mod client;
pub mod config;
pub mod demo;
pub mod files;
mod follow;
pub mod generate;
pub mod key;
pub mod node;
pub mod output;
pub mod policy;
pub mod remote;
pub mod serve;
pub mod session;
pub mod status;
pub mod tls;
pub mod top;
pub mod user;
pub mod worker;

use crate::error::CODES;
use clap::{CommandFactory as _, Parser, Subcommand};
use serde_json::json;
use std::{future::Future, io, process::ExitCode};
use tidegate_client::ClientError;

const EXAMPLES: &str = "\
Examples:
  tidegate demo                              see it work: sessions, readers, policies swapped live
  tidegate serve                             a gateway with a simulator, on this machine only
  tidegate client open --tag line-1          open a session (prints its id)
  tidegate client advise SESSION Area1.Pump1.Flow
  tidegate client stream SESSION --count 10
  tidegate key create --name historian --read 'Area1.*'
  tidegate policy list
  tidegate status                            how it is, what is degraded, who lags

Exit codes: 0 done, 1 failed, 2 used wrongly. Every command takes --json for programs.";

/// A gRPC gateway between plant-floor data and its clients, with policies that are swapped live.
#[derive(Debug, Parser)]
#[command(name = "tidegate", version, after_help = EXAMPLES, max_term_width = 110)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(Box<serve::ServiceArgs>),
    /// Run a gateway, a simulator and five readers for a few seconds, and check every event.
    Demo(demo::DemoArgs),
    /// Use a gateway as its clients do.
    #[command(subcommand)]
    Client(client::ClientCommand),
    /// See, watch and acknowledge the alarms of a session.
    #[command(subcommand)]
    Alarms(alarms::AlarmsCommand),
    /// Make, list and revoke API keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// See and end sessions.
    #[command(subcommand)]
    Session(session::SessionCommand),
    /// See which policies decide, and change that.
    #[command(subcommand)]
    Policy(policy::PolicyCommand),
    /// See and revoke runtime nodes, and set the version below which they only read.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Say how the gateway is: what is degraded, sessions, rates, the reader to worry about.
    #[command(after_help = "Examples:\n  tidegate status\n  tidegate status --json\n  tidegate status --watch 10")]
    Status(status::StatusArgs),
    /// Watch sessions, readers with their lag and policies, live.
    #[command(after_help = "Examples:\n  tidegate top\n  tidegate top --once --json")]
    Top(top::TopArgs),
    /// Copy everything that a restore needs out of a running gateway, and verify the copy.
    #[command(after_help = "Example:\n  tidegate backup /var/backups/tidegate/2026-11-21")]
    Backup(backup::BackupArgs),
    /// Verify a backup and put it into a data folder that is empty and that nobody works in.
    #[command(after_help = "Example:\n  tidegate restore /var/backups/tidegate/2026-11-21 --data /var/lib/tidegate")]
    Restore(backup::RestoreArgs),
    /// Print what a shell needs to complete these commands.
    #[command(after_help = "Example:\n  tidegate completions bash > /etc/bash_completion.d/tidegate")]
    Completions(generate::CompletionsArgs),
    /// Write a man page for every command.
    #[command(after_help = "Example:\n  tidegate man /usr/local/share/man/man1")]
    Man(generate::ManArgs),
    /// Say who may sign in on the dashboard, and which sessions their groups see.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Make certificates to try TLS with.
    #[command(subcommand)]
    Tls(tls::TlsCommand),
    /// See and check the configuration.
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// A worker process; the gateway starts these itself.
    #[command(subcommand, hide = true)]
    Worker(worker::WorkerCommand),
}

/// A command line that cannot be followed: exit code 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// Reads the command line, does what it says, and tells how that went.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let json = wants_json(&cli.command);
    match run(cli.command) {
        Ok(code) => code,
        // Whoever read our output has enough of it.
        Err(error) if broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, json);
            ExitCode::from(exit_code(&error))
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Serve(args) => serve::run(*args).map(|()| ExitCode::SUCCESS),
        Command::Demo(args) => block_on(demo::run(args)),
        Command::Client(command) => block_on(client::run(command)).map(|()| ExitCode::SUCCESS),
        Command::Alarms(command) => block_on(alarms::run(command)).map(|()| ExitCode::SUCCESS),
        Command::Key(command) => block_on(key::run(command)).map(|()| ExitCode::SUCCESS),
        Command::Session(command) => block_on(session::run(command)).map(|()| ExitCode::SUCCESS),
        Command::Policy(command) => block_on(policy::run(command)).map(|()| ExitCode::SUCCESS),
        Command::Node(command) => block_on(node::run(command)).map(|()| ExitCode::SUCCESS),
        Command::Status(args) => block_on(status::run(args)),
        Command::Top(args) => block_on(top::run(args)).map(|()| ExitCode::SUCCESS),
        Command::Backup(args) => block_on(backup::back_up(args)).map(|()| ExitCode::SUCCESS),
        Command::Restore(args) => backup::restore(&args).map(|()| ExitCode::SUCCESS),
        Command::Completions(args) => generate::completions(&args, Cli::command()).map(|()| ExitCode::SUCCESS),
        Command::Man(args) => generate::man(&args, Cli::command()).map(|()| ExitCode::SUCCESS),
        Command::User(command) => block_on(user::run(command)).map(|()| ExitCode::SUCCESS),
        Command::Config(command) => config::run(command).map(|()| ExitCode::SUCCESS),
        Command::Tls(command) => tls::run(command).map(|()| ExitCode::SUCCESS),
        Command::Worker(command) => block_on(worker::run(command)).map(|()| ExitCode::SUCCESS),
    }
}

/// Commands spend their time waiting for one connection: one thread is enough.
fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

fn wants_json(command: &Command) -> bool {
    match command {
        Command::Serve(_) | Command::Worker(_) => false,
        Command::Demo(args) => args.json,
        Command::Client(command) => command.json(),
        Command::Alarms(command) => command.json(),
        Command::Key(command) => command.json(),
        Command::Session(command) => command.json(),
        Command::Policy(command) => command.json(),
        Command::Node(command) => command.json(),
        Command::Status(args) => args.local.json,
        Command::Top(args) => args.local.json,
        Command::Backup(args) => args.local.json,
        Command::Restore(args) => args.local.json,
        Command::Config(command) => command.json(),
        Command::Tls(command) => command.json(),
        Command::Completions(args) => args.json,
        Command::Man(args) => args.json,
        Command::User(command) => command.json(),
    }
}

fn broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|cause| cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe))
}

fn exit_code(error: &anyhow::Error) -> u8 {
    let usage = error.is::<Usage>() || matches!(error.downcast_ref(), Some(ClientError::Usage(_)));
    if usage { 2 } else { 1 }
}

/// What went wrong and what to do about it, on standard error.
fn report(error: &anyhow::Error, json: bool) {
    let fault = error.downcast_ref::<ClientError>().and_then(ClientError::fault);
    let gateway_error = error.downcast_ref::<crate::error::Error>();
    let reason = fault.map(|fault| fault.reason.as_str()).or(gateway_error.map(|error| error.code().as_str()));
    let remedy = CODES.iter().find(|row| Some(row.text) == reason).map(|row| row.remedy);
    if json {
        let details = fault.map(|fault| fault.details.clone()).unwrap_or_default();
        let message = fault.map_or_else(|| format!("{error:#}"), |fault| fault.message.clone());
        let line = json!({ "error": { "code": reason, "message": message, "remedy": remedy, "details": details } });
        eprintln!("{line}");
        return;
    }
    eprintln!("error: {error:#}");
    for (key, value) in fault.map(|fault| fault.details.iter()).into_iter().flatten() {
        eprintln!("  {key}: {value}");
    }
    for (key, value) in gateway_error.map(|error| error.details()).into_iter().flatten() {
        eprintln!("  {key}: {value}");
    }
    if let Some(remedy) = remedy {
        eprintln!("hint: {remedy}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn each(command: &clap::Command, visit: &mut impl FnMut(&clap::Command)) {
        visit(command);
        command.get_subcommands().for_each(|sub| each(sub, visit));
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_option_explains_itself() {
        each(&Cli::command(), &mut |command| {
            assert!(command.get_about().is_some(), "{} says nothing about itself", command.get_name());
            for arg in command.get_arguments() {
                let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(!help.is_empty(), "{} {} is not explained", command.get_name(), arg.get_id());
            }
            let leaf = command.get_subcommands().next().is_none();
            if leaf && !command.is_hide_set() && !["sim", "serve"].contains(&command.get_name()) {
                let json = command.get_arguments().any(|arg| arg.get_id() == "json");
                assert!(json, "{} takes no --json", command.get_name());
                let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
                assert!(after.contains("Example"), "{} shows no example", command.get_name());
            }
        });
    }

    #[test]
    fn a_key_in_the_environment_is_not_shown_in_help() {
        each(&Cli::command(), &mut |command| {
            for arg in command.get_arguments().filter(|arg| arg.get_id() == "api_key" && arg.get_env().is_some()) {
                assert!(arg.is_hide_env_values_set(), "{} would show the key", command.get_name());
            }
        });
    }
}
