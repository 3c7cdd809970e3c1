//! The first key of an installation: made once, shown on a terminal or left in a 0600 file. It never
//! reaches a log. Invariant: a first key that is live was shown or is in the file.

use super::{Keys, NewKey, Scope, draft};
use crate::{
    data_dir::{DataDir, write_private},
    error::{Code, Error, Result},
    ids::KeyId,
};
use std::{
    fmt,
    io::{IsTerminal as _, Write},
    path::PathBuf,
};

/// Where the first key goes.
pub enum FirstKeyOut {
    /// To a person who looks on.
    Terminal(Box<dyn Write + Send>),
    /// To `<data>/first-key`.
    File,
}

// === impl FirstKeyOut ===

impl FirstKeyOut {
    /// The terminal if standard error is one.
    pub fn choose() -> Self {
        let stderr = std::io::stderr();
        if stderr.is_terminal() { Self::Terminal(Box::new(stderr)) } else { Self::File }
    }
}

impl fmt::Debug for FirstKeyOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Terminal(_) => "Terminal",
            Self::File => "File",
        })
    }
}

// === impl Keys ===

impl Keys {
    /// Makes a key with the scopes `sessions:all` and `admin` if none was ever made. Operators who revoked
    /// all keys do not get one behind their backs. Returns its id and, if it went there, the file.
    pub async fn ensure_first_key(&self, data: &DataDir, out: FirstKeyOut) -> Result<Option<(KeyId, Option<PathBuf>)>> {
        if self.shared.storage.has_keys().await? {
            return Ok(None);
        }
        let path = data.first_key();
        let unwritable = |e: std::io::Error| {
            Error::new(Code::DataFolderUnusable, format!("cannot leave the first key in {}: {e}", path.display()))
        };
        let scopes = [Scope::SessionsAll, Scope::Admin].map(|scope| scope.as_str().to_owned()).to_vec();
        let (row, secret) = draft(NewKey { name: "first".into(), scopes, ..NewKey::default() })?;
        let id = row.id.clone();
        let line = format!("{}\n", secret.expose());
        if matches!(out, FirstKeyOut::File) {
            // Before it is committed: a crash in between leaves a useless file, not a lost key.
            write_private(&path, line.as_bytes()).map_err(unwritable)?;
        }
        if let Err(error) = self.to_the_end(async move |keys| keys.add(row).await).await {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        let shown = match out {
            FirstKeyOut::Terminal(mut out) => {
                let text = format!("\n  The first key, shown once (scopes sessions:all, admin):\n\n    {line}\n");
                out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
            }
            FirstKeyOut::File => return Ok(Some((id, Some(path)))),
        };
        if shown {
            return Ok(Some((id, None)));
        }
        // The terminal has gone meanwhile.
        write_private(&path, line.as_bytes()).map_err(unwritable)?;
        Ok(Some((id, Some(path))))
    }
}
