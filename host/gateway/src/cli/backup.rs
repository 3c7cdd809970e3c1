//! `tidegate backup` and `tidegate restore`: the first over the operators' socket from a gateway that goes on
//! working, the second in a data folder that nobody works in. What a backup is, `backup` knows.

use super::{
    Usage, output,
    remote::{Folder, Local},
    status::bytes,
};
use crate::backup::{self, MANIFEST, Manifest, Restored};
use crate::data_dir::write_private;
use anyhow::Context as _;
use clap::Args;
use serde_json::json;
use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};
use tidegate_client::{Admin, wire::backup_part::Part};

/// Where to.
#[derive(Args, Debug)]
pub struct BackupArgs {
    /// Folder for the backup; made, must be empty. Secrets of keys are not in it, their digests are.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    #[command(flatten)]
    pub(super) local: Local,
}

/// From where and where to.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// Folder that `tidegate backup` made.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// Move what the data folder holds into a folder within it, before-…; nothing is removed.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    pub(super) local: Folder,
}

pub(super) async fn back_up(args: BackupArgs) -> anyhow::Result<()> {
    let folder = &args.folder;
    match fs::read_dir(folder).map(|mut entries| entries.next().is_some()) {
        Ok(true) => {
            return Err(Usage(format!("{} is not empty; a backup wants a folder of its own", folder.display())).into());
        }
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot read {}", folder.display()));
        }
        _ => {}
    }
    let admin = args.local.admin().await?;
    backup::private_folder(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let manifest = fetch(&admin, folder).await?;
    // What is on this disk counts, not what was sent.
    manifest.verify(folder)?;
    write_private(&folder.join(MANIFEST), &manifest.to_text()).context("cannot write the manifest")?;
    report("backed up to", folder, &manifest, None, &[], args.local.json)
}

/// Takes the files as they come; the manifest comes last.
async fn fetch(admin: &Admin, folder: &Path) -> anyhow::Result<Manifest> {
    let mut parts = admin.backup().await?;
    let mut open: Option<fs::File> = None;
    while let Some(part) = parts.next().await? {
        match part.part {
            Some(Part::Begin(path)) => {
                finish(open.take())?;
                // The gateway is trusted with its data, not with this machine's other files.
                let listed = Manifest::allows(&path)
                    .then_some(&path)
                    .context("the gateway sent a file that is no part of a backup")?;
                let target = folder.join(listed);
                if let Some(parent) = target.parent() {
                    backup::private_folder(parent)?;
                }
                open = Some(OpenOptions::new().write(true).create_new(true).mode(0o600).open(&target)?);
            }
            Some(Part::Data(data)) => open.as_mut().context("the gateway sent data of no file")?.write_all(&data)?,
            Some(Part::Manifest(text)) => {
                finish(open.take())?;
                return Ok(Manifest::parse(&text)?);
            }
            None => anyhow::bail!("the gateway sent something this program does not know"),
        }
    }
    anyhow::bail!("the gateway ended the backup before it was whole")
}

fn finish(file: Option<fs::File>) -> anyhow::Result<()> {
    Ok(file.map_or(Ok(()), |file| file.sync_all())?)
}

pub(super) fn restore(args: &RestoreArgs) -> anyhow::Result<()> {
    let data = &args.local.data;
    let Restored { manifest, aside, left } = backup::restore(&args.folder, data, args.replace)?;
    report("restored to", data, &manifest, aside.as_deref(), &left, args.local.json)
}

fn report(
    what: &str,
    folder: &Path,
    manifest: &Manifest,
    aside: Option<&Path>,
    left: &[&str],
    json: bool,
) -> anyhow::Result<()> {
    if json {
        return Ok(output::line(json!({
            "done": what, "folder": folder, "files": manifest.files.len(), "bytes": manifest.bytes(),
            "instance": manifest.instance, "schema": manifest.schema, "tidegate": manifest.tidegate,
            "created_at_unix_ms": manifest.created_unix_ms, "moved_aside": aside, "left": left, "verified": true,
        }))?);
    }
    output::line(format_args!(
        "{what} {}: {} files, {}, verified; schema {}, made by tidegate {}",
        folder.display(),
        manifest.files.len(),
        bytes(manifest.bytes()),
        manifest.schema,
        manifest.tidegate
    ))?;
    if let Some(aside) = aside {
        output::line(format_args!("what was there is in {}", aside.display()))?;
    }
    if !left.is_empty() {
        output::line(format_args!("left as it was, because the backup has none: {}", left.join(", ")))?;
    }
    Ok(())
}
