//! One gateway follows another on the same folder without a client noticing more than a pause: the listening sockets go
//! from process to process, and the data folder's lock with them. Knows `App` and processes, no session. Invariants: at
//! every moment one gateway at most has the folder; and until the new one has been told to go, the old one can go back.
//!
//! ```text
//! the one that serves (give.rs)              the one that follows (follow.rs)
//!                                            Hello: versions, schema, instance
//! Welcome, or Refused                        compiles policies, checks everything
//!                                            Ready
//! Sockets, with the descriptors
//! takes nothing new, streams told, workers
//! left, database closed, lock let go
//! Released                                   takes the lock, opens the database, adopts the workers
//!                                            Started, or Failed
//! Go, or Back                                accepts
//!                                            Serving
//! ```

mod desk;
mod follow;
mod give;
mod line;
mod sockets;
mod successor;

pub use desk::{Desk, Standby};
pub use follow::{Followed, follow};
pub use give::{Outcome, give};
pub use sockets::{Given, Sockets};
pub use successor::Successor;

use crate::data_dir::DataDir;
use std::path::PathBuf;

/// Of the words below. Another one is refused.
const PROTOCOL: u32 = 1;

/// Where a gateway that serves is asked to hand over (0600).
fn socket(data: &DataDir) -> PathBuf {
    data.root().join("takeover.sock")
}
