//! `tidegate tls`: a set of certificates to try TLS with, as files. Knows folders and modes; what is in the files is
//! made elsewhere. Invariant: private keys are readable for their owner only, and no file is written over.

use super::{Usage, output};
use crate::{
    data_dir::write_private,
    tls::{DevFiles, DevRequest},
};
use anyhow::Context as _;
use clap::{Args, Subcommand};
use serde_json::json;
use std::{
    fs::{DirBuilder, OpenOptions},
    io::Write as _,
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::PathBuf,
};

/// Make certificates.
#[derive(Debug, Subcommand)]
pub enum TlsCommand {
    /// Make an authority of your own, a certificate for the gateway and one for a client, to try TLS with.
    #[command(
        after_help = "Examples:\n  tidegate tls dev\n  tidegate tls dev --dir /etc/tidegate/tls --name gate.plant.example --name 10.1.2.3"
    )]
    Dev(DevArgs),
}

/// Which certificates.
#[derive(Args, Debug)]
pub struct DevArgs {
    /// Folder for the files; made when missing.
    #[arg(long, value_name = "DIR", default_value = "tls")]
    dir: PathBuf,
    /// A name or address of the gateway, beside localhost and this machine's name; may be repeated.
    #[arg(long, value_name = "HOST")]
    name: Vec<String>,
    /// The common name of the client's certificate.
    #[arg(long, value_name = "NAME", default_value = "tidegate-client")]
    client: String,
    /// Print the paths as JSON, for programs.
    #[arg(long)]
    json: bool,
}

// === impl TlsCommand ===

impl TlsCommand {
    pub(super) fn json(&self) -> bool {
        let Self::Dev(args) = self;
        args.json
    }
}

pub(super) fn run(command: TlsCommand) -> anyhow::Result<()> {
    let TlsCommand::Dev(args) = command;
    dev(args)
}

fn dev(args: DevArgs) -> anyhow::Result<()> {
    let DevArgs { dir, name, client, json } = args;
    if let Some(wrong) = name.iter().find(|name| !is_host(name)) {
        return Err(Usage(format!(
            "{wrong:?} is no name of a host; write a name or an address alone, e.g. gate.plant.example or 10.1.2.3"
        ))
        .into());
    }
    let mut names: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
    names.extend(rustix::system::uname().nodename().to_str().ok().filter(|name| is_host(name)).map(str::to_owned));
    names.extend(name);
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    let made = DevFiles::make(&DevRequest { names: names.clone(), client: client.clone() })?;
    let files = [
        ("ca.pem", &made.ca, false),
        ("ca.key", &made.ca_key, true),
        ("server.pem", &made.server, false),
        ("server.key", &made.server_key, true),
        ("client.pem", &made.client, false),
        ("client.key", &made.client_key, true),
    ];
    if let Some((name, ..)) = files.iter().find(|(name, ..)| dir.join(name).exists()) {
        let there = dir.join(name);
        return Err(Usage(format!("{} is there already; name another folder with --dir", there.display())).into());
    }
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    for (name, text, private) in files {
        let path = dir.join(name);
        let written = if private {
            write_private(&path, text.as_bytes())
        } else {
            let opened = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path);
            opened.and_then(|mut file| file.write_all(text.as_bytes()))
        };
        written.with_context(|| format!("cannot write {}", path.display()))?;
    }
    let path = |name: &str| dir.join(name).display().to_string();
    if json {
        return Ok(output::line(json!({
            "ca": path("ca.pem"), "cert": path("server.pem"), "key": path("server.key"), "names": names,
            "client_cert": path("client.pem"), "client_key": path("client.key"), "client": client,
        }))?);
    }
    output::line(format_args!(
        "Certificates for {} and for the client {client}, good for a year; for trying, not for a plant.\n\n\
         The gateway:\n  tidegate serve --tls-cert {} --tls-key {}\n\
         with clients that must show a certificate, too:\n  … --tls-client-ca {} --tls-client-auth required\n\n\
         Its clients:\n  tidegate client open --endpoint https://localhost:7410 --ca {} --cert {} --cert-key {}\n\n\
         Keep ca.key to yourself: whoever has it can be anybody.",
        names.join(", "),
        path("server.pem"),
        path("server.key"),
        path("ca.pem"),
        path("ca.pem"),
        path("client.pem"),
        path("client.key"),
    ))?;
    Ok(())
}

/// An address, or a name as certificates have it (RFC 5280, section 4.2.1.6), `*.` in front allowed: clients compare letters, so
/// a port or a scheme in it would match nothing.
fn is_host(name: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    let plain = name.strip_prefix("*.").unwrap_or(name);
    name.parse::<IpAddr>().is_ok() || (name.len() <= 253 && plain.split('.').all(label))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_hosts_are_put_into_a_certificate() {
        for good in ["localhost", "gate.plant.example", "*.plant.example", "10.1.2.3", "::1", "HMI_7"] {
            assert!(is_host(good), "{good}");
        }
        for wrong in ["", "https://x", "gate:7410", "a b", "a..b", ".", "gate.", "*", &"a".repeat(64)] {
            assert!(!is_host(wrong), "{wrong}");
        }
    }
}
