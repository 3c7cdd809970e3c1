//! `policy keygen|sign|verify`: a word for a component with its settings that gateways can check (minisign's format).
//! Knows files; what a signature covers stands in the policy crate. Invariant: what `verify` accepts, a gateway that
//! trusts the same key accepts, and a secret key is written for its owner alone.

use crate::cli::{Usage, files, output};
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};
use tidegate_policy::{TrustedKeys, new_keys, settings_json, sign as seal, sign_settings};

/// Where a new pair of keys goes.
#[derive(Args, Debug)]
pub struct Keygen {
    /// Makes NAME.pub, for gateways, and NAME.key, for whoever signs.
    #[arg(value_name = "NAME")]
    name: PathBuf,
    /// A file with the password of the secret key; absent: it has none.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What to sign, and with what.
#[derive(Args, Debug)]
pub struct Sign {
    /// A component; or the settings of an embedded policy, such as access.toml.
    file: PathBuf,
    /// Settings that stand beside the component, TOML or JSON.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// The secret key, in minisign's format.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// A file with its password.
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

/// What to verify, and by which keys.
#[derive(Args, Debug)]
pub struct Verify {
    /// A component, or the settings of an embedded policy; the signature stands beside it as FILE.minisig.
    file: PathBuf,
    /// Settings that stand beside the component, TOML or JSON.
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// A public key, or a folder of them, as `serve --policy-keys` takes it.
    #[arg(long, value_name = "PATH")]
    keys: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub(super) json: bool,
}

pub(super) fn keygen(args: &Keygen) -> anyhow::Result<()> {
    let (public, secret) = new_keys(password(args.password_file.as_deref())?)?;
    let (pub_path, key_path) = (with(&args.name, ".pub"), with(&args.name, ".key"));
    create(&key_path, &secret, 0o600)?;
    create(&pub_path, &public, 0o644)?;
    if args.json {
        output::line(json!({ "public": pub_path, "secret": key_path }))?;
    } else {
        output::line(format_args!("{}: give it to gateways, `serve --policy-keys`", pub_path.display()))?;
        output::line(format_args!("{}: keep it; `policy sign --key`", key_path.display()))?;
    }
    Ok(())
}

pub(super) fn sign(args: &Sign) -> anyhow::Result<()> {
    let secret = files::secret_text(&args.key)?;
    let password = password(args.password_file.as_deref())?;
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let signature = match name.rsplit_once('.') {
        Some((stem, "toml" | "json")) => {
            let text = files::settings(&args.file)?;
            // Settings that a gateway could not read are not worth a signature.
            json_of(&args.file)?;
            sign_settings(&secret, password, stem, &text)?
        }
        _ => {
            let bytes = files::component(&args.file)?;
            seal(&secret, password, &bytes, &settings(args.settings.as_deref())?)?
        }
    };
    let path = with(&args.file, ".minisig");
    // Whole or not at all: a gateway may be looking.
    let part = with(&args.file, ".minisig.part");
    let _left_by_one_that_was_killed = fs::remove_file(&part);
    create(&part, &signature, 0o644)?;
    fs::rename(&part, &path).with_context(|| path.display().to_string())?;
    if args.json {
        output::line(json!({ "signature": path }))?;
    } else {
        output::line(path.display())?;
    }
    Ok(())
}

pub(super) fn verify(args: &Verify) -> anyhow::Result<()> {
    let keys = TrustedKeys::read(&args.keys)?;
    let path = with(&args.file, ".minisig");
    let signature = files::seal(&path)?;
    let name = args.file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let signer = match name.rsplit_once('.') {
        Some((stem, "toml" | "json")) if args.settings.is_none() => {
            json_of(&args.file)?;
            keys.verify_settings(stem, &files::settings(&args.file)?, &signature)?
        }
        Some((_, "toml" | "json")) => {
            return Err(Usage("the file is settings itself; --settings is for a component's".to_owned()).into());
        }
        _ => keys.verify(&files::component(&args.file)?, &settings(args.settings.as_deref())?, &signature)?,
    };
    if args.json {
        output::line(json!({ "signer": &*signer }))?;
    } else {
        output::line(format_args!("signed by {signer}"))?;
    }
    Ok(())
}

fn settings(path: Option<&Path>) -> anyhow::Result<String> {
    path.map_or_else(|| Ok("{}".to_owned()), json_of)
}

fn json_of(path: &Path) -> anyhow::Result<String> {
    let text = files::settings(path)?;
    let name = path.to_string_lossy();
    Ok(settings_json(&name, &text).map_err(|message| Usage(format!("{name}: {message}")))?)
}

fn password(path: Option<&Path>) -> anyhow::Result<Option<String>> {
    let Some(path) = path else { return Ok(None) };
    let text = files::secret_text(path)?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

fn with(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// A new file: neither key is ever written over.
fn create(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = file.with_context(|| format!("making {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| path.display().to_string())
}
