//! `tidegate user`: people of the dashboard, over the operators' socket. A password comes from a file or standard
//! input, never from an argument that others on the machine could read.

use super::{Usage, files, output, remote::Local};
use anyhow::Context as _;
use clap::{Args, Subcommand, ValueEnum};
use serde_json::json;
use std::{
    io::{self, BufRead as _, Read as _},
    path::PathBuf,
};
use tidegate_client::wire::PutPersonRequest;

/// A line of standard input; a longer password is refused by the gateway.
const LINE_BYTES_MAX: u64 = 64 << 10;

/// Say who may sign in on the dashboard, and which sessions their groups see.
#[derive(Debug, Subcommand)]
pub enum UserCommand {
    /// Add a person, or give one a new role, groups and password; open pages of theirs end.
    #[command(after_help = "Examples:\n  tidegate user add ada --role Admin < password.txt\n  \
        tidegate user add ben --group line-1-crew --password-file ben.txt")]
    Add(Add),
    /// Remove a person, who is signed out at once.
    #[command(after_help = "Example:\n  tidegate user remove ben")]
    Remove(Remove),
    /// Show people and what their groups are granted.
    #[command(after_help = "Example:\n  tidegate user list --json")]
    List(Local),
    /// Let a group see the sessions of a tag; open pages follow at once.
    #[command(after_help = "Examples:\n  tidegate user grant line-1-crew line-1\n  \
        tidegate user grant line-1-crew line-1 --remove")]
    Grant(Grant),
}

/// A person.
#[derive(Args, Debug)]
pub struct Add {
    /// The name to sign in with.
    #[arg(value_name = "NAME")]
    name: String,
    /// What the person may do.
    #[arg(long, value_enum, value_name = "ROLE", default_value = "Viewer", ignore_case = true)]
    role: Role,
    /// A group the person is in; may be given several times.
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// The file whose first line is the password [default: standard input].
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    #[command(flatten)]
    local: Local,
}

/// Roles of the dashboard.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Role {
    /// Sees what the policy says, and changes things.
    #[value(name = "Admin")]
    Admin,
    /// Sees what the policy says.
    #[value(name = "Viewer")]
    Viewer,
}

/// A person to remove.
#[derive(Args, Debug)]
pub struct Remove {
    /// The name.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    local: Local,
}

/// What a group may see.
#[derive(Args, Debug)]
pub struct Grant {
    /// The group.
    #[arg(value_name = "GROUP")]
    group: String,
    /// The sessions' tag.
    #[arg(value_name = "TAG")]
    tag: String,
    /// Take it away again.
    #[arg(long)]
    remove: bool,
    #[command(flatten)]
    local: Local,
}

// === impl UserCommand ===

impl UserCommand {
    pub(super) fn json(&self) -> bool {
        match self {
            Self::Add(Add { local, .. })
            | Self::Remove(Remove { local, .. })
            | Self::List(local)
            | Self::Grant(Grant { local, .. }) => local.json,
        }
    }
}

pub(super) async fn run(command: UserCommand) -> anyhow::Result<()> {
    match command {
        UserCommand::Add(args) => add(args).await,
        UserCommand::Remove(Remove { name, local }) => {
            local.people_admin().await?.remove(&name).await?;
            said(&local, json!({ "removed": name }), &format!("removed {name}"))
        }
        UserCommand::List(local) => list(&local).await,
        UserCommand::Grant(Grant { group, tag, remove, local }) => {
            local.people_admin().await?.set_grant(&group, &tag, remove).await?;
            let verb = if remove { "no longer sees" } else { "sees" };
            said(&local, json!({ "group": group, "tag": tag, "granted": !remove }), &format!("{group} {verb} {tag}"))
        }
    }
}

async fn add(args: Add) -> anyhow::Result<()> {
    let password = match &args.password_file {
        Some(file) => {
            let text = files::secret_text(file)?;
            text.lines().next().unwrap_or_default().to_owned()
        }
        None => {
            let mut line = String::new();
            io::stdin().lock().take(LINE_BYTES_MAX).read_line(&mut line).context("cannot read the password")?;
            line.trim_end_matches(['\r', '\n']).to_owned()
        }
    };
    if password.is_empty() {
        return Err(Usage("the first line of the input is the password, and it is empty".into()).into());
    }
    let role = args.role.to_possible_value().map(|role| role.get_name().to_owned()).unwrap_or_default();
    let request = PutPersonRequest { name: args.name.clone(), role: role.clone(), groups: args.groups, password };
    args.local.people_admin().await?.put(request).await?;
    said(&args.local, json!({ "name": args.name, "role": role }), &format!("{} may sign in as {role}", args.name))
}

async fn list(local: &Local) -> anyhow::Result<()> {
    let all = local.people_admin().await?.list().await?;
    if local.json {
        let person = |person: &tidegate_client::wire::PersonSummary| json!({ "name": person.name, "role": person.role, "groups": person.groups, "in_log": person.in_log });
        let grant = |grant: &tidegate_client::wire::GroupGrant| json!({ "group": grant.group, "tag": grant.tag });
        output::line(json!({
            "people": all.people.iter().map(person).collect::<Vec<_>>(),
            "grants": all.grants.iter().map(grant).collect::<Vec<_>>(),
        }))?;
        return Ok(());
    }
    let rows: Vec<_> = all
        .people
        .iter()
        .map(|person| {
            let granted = |grant: &&tidegate_client::wire::GroupGrant| person.groups.contains(&grant.group);
            let tags: Vec<_> = all.grants.iter().filter(granted).map(|grant| grant.tag.as_str()).collect();
            [person.name.clone(), person.role.clone(), person.groups.join(" "), tags.join(" "), person.in_log.clone()]
        })
        .collect();
    output::table(["NAME", "ROLE", "GROUPS", "GRANTED TAGS", "IN THE LOG"], &rows)?;
    Ok(())
}

fn said(local: &Local, json: serde_json::Value, words: &str) -> anyhow::Result<()> {
    if local.json {
        output::line(json)?
    } else {
        output::line(words)?
    }
    Ok(())
}
