//! How a command finds its gateway and its key. It knows the files that a gateway leaves in its
//! data folder (`addresses.json`, `first-key`, `admin.sock`), nothing of how they are made.

use super::Usage;
use anyhow::Context as _;
use clap::Args;
use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
};
use tidegate_client::{Admin, Connect, Gateway, NodeAdmin, PeopleAdmin};

const NO_ANSWER: &str =
    "the gateway of this folder does not answer; operators' commands work only for its own user, or root";
const DEFAULT_ENDPOINT: &str = "127.0.0.1:7410";

/// Which gateway to use, and as whom.
#[derive(Args, Clone, Debug)]
pub struct Remote {
    /// The gateway's address [default: what the gateway wrote into its data folder, else 127.0.0.1:7410].
    #[arg(long, value_name = "HOST:PORT", env = "TIDEGATE_ENDPOINT")]
    pub endpoint: Option<String>,
    /// The API key. Others on this machine can see arguments; prefer the variable or a file.
    #[arg(long, value_name = "KEY", env = "TIDEGATE_KEY", hide_env_values = true)]
    pub key: Option<String>,
    /// A file that holds the API key [default: `first-key` in the data folder].
    #[arg(long, value_name = "FILE")]
    pub key_file: Option<PathBuf>,
    #[command(flatten)]
    pub local: Local,
}

/// The gateway of this machine.
#[derive(Args, Clone, Debug)]
pub struct Local {
    /// The gateway's data folder.
    #[arg(long, value_name = "DIR", default_value = "data", env = "TIDEGATE_DATA")]
    pub data: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// What `serve` tells about itself once it listens.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Addresses {
    pub grpc: String,
    pub http: String,
}

// === impl Remote ===

impl Remote {
    pub async fn connect(&self) -> anyhow::Result<Gateway> {
        let endpoint = match &self.endpoint {
            Some(endpoint) => endpoint.clone(),
            None => Addresses::read(&self.local.data)?.map_or(DEFAULT_ENDPOINT.to_owned(), |found| found.grpc),
        };
        let key = self.find_key()?;
        let gateway = Connect::to(&endpoint).key(key).gateway().await;
        gateway.context("is a gateway running there? `tidegate serve` starts one; --endpoint names another")
    }

    /// `--key` or its variable, then `--key-file`, then the first key of a gateway on this machine.
    fn find_key(&self) -> anyhow::Result<String> {
        if let Some(key) = &self.key {
            return checked(key, "--key");
        }
        let file = self.key_file.clone().unwrap_or_else(|| self.local.data.join("first-key"));
        match fs::read_to_string(&file) {
            Ok(text) => checked(&text, &file.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound && self.key_file.is_none() => Err(Usage(format!(
                "no API key: give --key-file, set TIDEGATE_KEY, or name the gateway's folder with --data \
                 ({} does not exist); `tidegate key create` makes one",
                file.display()
            ))
            .into()),
            Err(error) => Err(error).with_context(|| format!("cannot read the key in {}", file.display())),
        }
    }
}

// === impl Local ===

impl Local {
    pub async fn admin(&self) -> anyhow::Result<Admin> {
        self.socket()?.admin().await.context(NO_ANSWER)
    }

    pub async fn node_admin(&self) -> anyhow::Result<NodeAdmin> {
        self.socket()?.node_admin().await.context(NO_ANSWER)
    }

    pub async fn people_admin(&self) -> anyhow::Result<PeopleAdmin> {
        self.socket()?.people_admin().await.context(NO_ANSWER)
    }

    fn socket(&self) -> anyhow::Result<Connect> {
        let socket = self.data.join("admin.sock");
        if !socket.exists() {
            anyhow::bail!(
                "no gateway runs on the data folder {}: it has no admin.sock; `tidegate serve` starts one, --data names another folder",
                self.data.display()
            );
        }
        Ok(Connect::socket(&socket))
    }
}

// === impl Addresses ===

impl Addresses {
    /// `None` when no gateway of this folder told where it listens.
    pub fn read(data: &Path) -> anyhow::Result<Option<Self>> {
        let file = data.join("addresses.json");
        match fs::read(&file) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).with_context(|| format!("{} is not readable", file.display()))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
        }
    }
}

fn checked(text: &str, from: &str) -> anyhow::Result<String> {
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Usage(format!("what {from} gives is not an API key")).into());
    }
    Ok(key.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remote(data: &Path) -> Remote {
        Remote { endpoint: None, key: None, key_file: None, local: Local { data: data.to_owned(), json: false } }
    }

    #[test]
    fn the_key_is_looked_for_in_the_told_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut remote = remote(folder.path());
        let error = remote.find_key().expect_err("no key anywhere");
        assert!(error.is::<Usage>() && error.to_string().contains("TIDEGATE_KEY"), "{error}");
        fs::write(folder.path().join("first-key"), "first\n").expect("written");
        assert_eq!(remote.find_key().expect("found"), "first");
        fs::write(folder.path().join("mine"), "second\n").expect("written");
        remote.key_file = Some(folder.path().join("mine"));
        assert_eq!(remote.find_key().expect("found"), "second");
        remote.key = Some("third".into());
        assert_eq!(remote.find_key().expect("found"), "third");
        remote.key = Some("not a key".into());
        let error = remote.find_key().expect_err("has a blank");
        assert!(!error.to_string().contains("not a key"), "a wrong key is not repeated: {error}");
    }

    #[tokio::test]
    async fn a_missing_gateway_is_said_plainly() {
        let folder = tempfile::tempdir().expect("a folder");
        let error = remote(folder.path()).local.admin().await.expect_err("nothing there");
        assert!(error.to_string().contains("no gateway runs"), "{error}");
    }
}
