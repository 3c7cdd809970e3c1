//! Where the gateway listens, told to others in a file: whoever starts it with port 0, and the command line. Knows the file.
//! Invariant: what is there is whole; that it could not be written is kept until it is.

use super::Addresses;
use crate::{
    data_dir::{DataDir, write_private},
    error::{Code, Error, Result},
};
use parking_lot::Mutex;
use std::{path::PathBuf, sync::Arc};

/// Why addresses.json could not be written, while that is so.
pub(super) type Unannounced = Arc<Mutex<Option<Error>>>;

/// What others read where it listens.
#[derive(Debug)]
pub(super) struct Announcement {
    pub(super) file: PathBuf,
    pub(super) addresses: Addresses,
    pub(super) failing: Unannounced,
}

impl Announcement {
    pub(super) fn write(&self) -> Result<()> {
        let text = serde_json::to_vec(&self.addresses).unwrap_or_default();
        let written = write_private(&self.file, &text).map_err(|error| {
            let full = error.kind() == std::io::ErrorKind::StorageFull;
            let code = if full { Code::StorageFull } else { Code::DataFolderUnusable };
            Error::new(code, format!("cannot write {}: {error}", self.file.display()))
        });
        *self.failing.lock() = written.as_ref().err().cloned();
        written
    }
}

pub(super) fn addresses_file(data: &DataDir) -> PathBuf {
    data.root().join("addresses.json")
}
