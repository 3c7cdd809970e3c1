//! How a command finds its gateway, its key and its certificates. It knows the files that a gateway leaves in its
//! data folder (`addresses.json`, `first-key`, `admin.sock`), nothing of how they are made. Invariant: an operator's
//! command goes over the network only where an endpoint is named.

use super::{Usage, files};
use anyhow::Context as _;
use clap::Args;
use std::{
    env,
    ffi::OsString,
    fs,
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
};
use tidegate_client::{Admin, Alarms, Connect, Gateway, NodeAdmin, Nodes, PeopleAdmin};

const NO_ANSWER: &str =
    "the gateway of this folder does not answer; operators' commands work only for its own user, or root";
const NO_ANSWER_THERE: &str = "the gateway of --endpoint does not answer";
const NO_GATEWAY: &str = "is a gateway running there? `tidegate serve` starts one; --endpoint names another";
const DEFAULT_ENDPOINT: &str = "127.0.0.1:7410";
const KEY_VARIABLE: &str = "TIDEGATE_KEY";

/// Where bundles of the authorities that everybody trusts lie: Debian and Alpine, Fedora, openSUSE.
const BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem"];

/// Which gateway to use, and as whom.
#[derive(Args, Clone, Debug)]
pub struct Remote {
    #[command(flatten)]
    pub local: Local,
}

/// The gateway of this machine, or the one that is named.
#[derive(Args, Clone, Debug)]
pub struct Local {
    /// The gateway's data folder.
    #[arg(long, value_name = "DIR", default_value = "data", env = "TIDEGATE_DATA")]
    pub data: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub network: Network,
}

/// A data folder that no gateway works in.
#[derive(Args, Clone, Debug)]
pub struct Folder {
    /// The gateway's data folder.
    #[arg(long, value_name = "DIR", default_value = "data", env = "TIDEGATE_DATA")]
    pub data: PathBuf,
    /// Print JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

/// A gateway over the network.
#[derive(Args, Clone, Debug, Default)]
pub struct Network {
    /// The gateway's address, with TLS as https://HOST:PORT; operators' commands use the socket in the data folder
    /// without it, clients' commands the address that the gateway wrote there, else 127.0.0.1:7410.
    #[arg(long, value_name = "HOST:PORT", env = "TIDEGATE_ENDPOINT", help_heading = "Connection")]
    pub endpoint: Option<String>,
    /// The API key. Others on this machine can see arguments; prefer a file or the variable [env: TIDEGATE_KEY].
    // Read where it is used: a file that is named wins over the variable, which clap cannot tell from the flag.
    #[arg(long, id = "api_key", value_name = "KEY", conflicts_with = "key_file", help_heading = "Connection")]
    pub key: Option<String>,
    /// A file that holds the API key [default: `first-key` in the data folder].
    #[arg(long, value_name = "FILE", visible_alias = "api-key-file", help_heading = "Connection")]
    pub key_file: Option<PathBuf>,
    /// The authorities, PEM, that the gateway's certificate may be of [default: those of this system].
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CA", help_heading = "Connection")]
    pub ca: Option<PathBuf>,
    /// A certificate of your own, PEM, for gateways that ask for one.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CERT", requires = "cert_key", help_heading = "Connection")]
    pub cert: Option<PathBuf>,
    /// The private key of that certificate.
    #[arg(long, value_name = "FILE", env = "TIDEGATE_CERT_KEY", requires = "cert", help_heading = "Connection")]
    pub cert_key: Option<PathBuf>,
}

/// What `serve` tells about itself once it listens.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct Addresses {
    pub grpc: String,
    pub http: String,
    #[serde(default)]
    pub tls: bool,
}

// === impl Remote ===

impl Remote {
    pub async fn connect(&self) -> anyhow::Result<Gateway> {
        self.client()?.gateway().await.context(NO_GATEWAY)
    }

    pub async fn alarms(&self) -> anyhow::Result<Alarms> {
        self.client()?.alarms().await.context(NO_GATEWAY)
    }

    pub async fn nodes(&self) -> anyhow::Result<Nodes> {
        self.client()?.nodes().await.context(NO_GATEWAY)
    }

    /// What connects; nothing is tried yet.
    pub fn client(&self) -> anyhow::Result<Connect> {
        let Local { data, network, .. } = &self.local;
        let endpoint = match (&network.endpoint, Addresses::read(data)?) {
            (Some(endpoint), _) => endpoint.clone(),
            (None, Some(Addresses { grpc, tls: true, .. })) => format!("https://{}", from_here(&grpc)),
            (None, Some(found)) => from_here(&found.grpc),
            (None, None) => DEFAULT_ENDPOINT.to_owned(),
        };
        network.connect(&endpoint, data)
    }
}

// === impl Local ===

impl Local {
    pub async fn admin(&self) -> anyhow::Result<Admin> {
        self.operator()?.admin().await.context(self.no_answer())
    }

    pub async fn node_admin(&self) -> anyhow::Result<NodeAdmin> {
        self.operator()?.node_admin().await.context(self.no_answer())
    }

    pub async fn people_admin(&self) -> anyhow::Result<PeopleAdmin> {
        self.operator()?.people_admin().await.context(self.no_answer())
    }

    fn no_answer(&self) -> &'static str {
        if self.network.endpoint.is_some() { NO_ANSWER_THERE } else { NO_ANSWER }
    }

    fn operator(&self) -> anyhow::Result<Connect> {
        if let Some(endpoint) = &self.network.endpoint {
            return self.network.connect(endpoint, &self.data);
        }
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

// === impl Network ===

impl Network {
    fn connect(&self, endpoint: &str, data: &Path) -> anyhow::Result<Connect> {
        let mut connect = Connect::to(endpoint).key(self.find_key(data, env::var_os(KEY_VARIABLE))?);
        if endpoint.starts_with("https:") {
            connect = connect.authorities(self.authorities()?);
        } else if self.ca.is_some() || self.cert.is_some() {
            return Err(Usage(format!("--ca and --cert are for TLS; write --endpoint https://{endpoint}")).into());
        }
        if let (Some(certificate), Some(key)) = (&self.cert, &self.cert_key) {
            connect = connect.certificate(files::secret(certificate)?, files::secret(key)?);
        }
        Ok(connect)
    }

    fn authorities(&self) -> anyhow::Result<Vec<u8>> {
        let bundle = || BUNDLES.iter().map(PathBuf::from).find(|path| path.exists());
        let path = self.ca.clone().or_else(bundle).ok_or_else(|| {
            Usage("this system has no bundle of authorities; name the gateway's own with --ca".to_owned())
        })?;
        files::secret(&path)
    }

    /// `--key` or `--key-file`, then the variable, then the first key of a gateway on this machine.
    fn find_key(&self, data: &Path, variable: Option<OsString>) -> anyhow::Result<String> {
        if let Some(key) = &self.key {
            return checked(key, "--key");
        }
        let variable = variable.filter(|key| !key.is_empty());
        let file = match (&self.key_file, variable) {
            (Some(file), _) => file.clone(),
            (None, Some(key)) => return checked(&key.to_string_lossy(), KEY_VARIABLE),
            (None, None) => data.join("first-key"),
        };
        if self.key_file.is_none() && !file.exists() {
            return Err(Usage(format!(
                "no API key: give --key-file, set {KEY_VARIABLE}, or name the gateway's folder with --data \
                 ({} does not exist); `tidegate key create` makes one",
                file.display()
            ))
            .into());
        }
        let text = files::secret_text(&file).with_context(|| format!("cannot read the key in {}", file.display()))?;
        checked(&text, &file.display().to_string())
    }
}

// === impl Addresses ===

impl Addresses {
    /// `None` when no gateway of this folder told where it listens.
    pub fn read(data: &Path) -> anyhow::Result<Option<Self>> {
        let file = data.join("addresses.json");
        match fs::symlink_metadata(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
            Ok(_) => {
                let text = files::source(&file)?;
                serde_json::from_str(&text).map(Some).with_context(|| format!("{} is not readable", file.display()))
            }
        }
    }
}

/// A gateway that listens on every address of this machine is called by the name that its certificate is likely to have.
fn from_here(listens: &str) -> String {
    match listens.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_unspecified() => format!("localhost:{}", address.port()),
        _ => listens.to_owned(),
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

    #[test]
    fn the_key_is_looked_for_in_the_told_order() {
        let folder = tempfile::tempdir().expect("a folder");
        let mut network = Network::default();
        let find =
            |network: &Network, variable: Option<&str>| network.find_key(folder.path(), variable.map(Into::into));
        let error = find(&network, None).expect_err("no key anywhere");
        assert!(error.is::<Usage>() && error.to_string().contains(KEY_VARIABLE), "{error}");
        fs::write(folder.path().join("first-key"), "first\n").expect("written");
        assert_eq!(find(&network, Some("")).expect("found"), "first");
        assert_eq!(find(&network, Some("second")).expect("found"), "second");
        fs::write(folder.path().join("mine"), "third\n").expect("written");
        network.key_file = Some(folder.path().join("mine"));
        assert_eq!(find(&network, Some("second")).expect("found"), "third");
        network = Network { key: Some("fourth".into()), ..Network::default() };
        assert_eq!(find(&network, Some("second")).expect("found"), "fourth");
        network.key = Some("not a key".into());
        let error = find(&network, None).expect_err("has a blank");
        assert!(!error.to_string().contains("not a key"), "a wrong key is not repeated: {error}");
    }

    #[test]
    fn a_key_and_a_file_with_one_are_a_mistake() {
        let command = Local::augment_args(clap::Command::new("status").no_binary_name(true));
        let both = command.try_get_matches_from(["--key", "k", "--api-key-file", "f"]).expect_err("which?");
        assert_eq!(both.kind(), clap::error::ErrorKind::ArgumentConflict);
    }

    #[test]
    fn a_gateway_on_every_address_is_called_by_a_name() {
        let called = ["0.0.0.0:7410", "[::]:7410", "127.0.0.1:7410", "10.1.2.3:7410"].map(from_here);
        assert_eq!(called, ["localhost:7410", "localhost:7410", "127.0.0.1:7410", "10.1.2.3:7410"]);
    }

    #[test]
    fn certificates_without_tls_are_a_mistake() {
        let ca = Some(PathBuf::from("ca.pem"));
        let network = Network { key: Some("k".into()), ca, ..Network::default() };
        let error = network.connect("127.0.0.1:1", Path::new("data")).expect_err("plain text");
        assert!(error.is::<Usage>() && error.to_string().contains("https://127.0.0.1:1"), "{error}");
    }

    #[tokio::test]
    async fn a_missing_gateway_is_said_plainly() {
        let folder = tempfile::tempdir().expect("a folder");
        let local = Local { data: folder.path().to_owned(), json: false, network: Network::default() };
        let error = local.admin().await.expect_err("nothing there");
        assert!(error.to_string().contains("no gateway runs"), "{error}");
    }
}
