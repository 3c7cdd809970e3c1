//! A thin client: connects, carries the key, decodes errors, and checks of every stream that the
//! ranges join and each sequence is accounted for once. It keeps no session state; only `AutoReader`
//! tries again by itself. Invariant: an event reaches the caller only after the account has taken its batch.
//!
//! ```no_run
//! # async fn read() -> Result<(), tidegate_client::ClientError> {
//! use tidegate_client::{Connect, Start};
//!
//! let gateway = Connect::to("127.0.0.1:7410").key("…").gateway().await?;
//! let session = gateway.open(Default::default()).await?;
//! let handle = gateway.register(&session.session_id, "example").await?;
//! gateway.subscribe(&session.session_id, handle, &["Area1.Pump1.Flow"]).await?;
//! let mut stream = gateway.stream(&session.session_id, Start::Live, Default::default()).await?;
//! while let Some(message) = stream.next().await? {
//!     println!("{message:?}");
//! }
//! println!("{:?}", stream.account().counts());
//! # Ok(()) }
//! ```

pub mod account;
mod admin;
mod alarms;
mod connect;
mod error;
mod gateway;
mod nodes;
mod patience;
mod people;
mod reader;
mod stream;
pub mod values;

pub use account::{Account, Counts, Position, Violation};
pub use admin::{Admin, BackupStream};
pub use alarms::{AlarmStream, Alarms};
pub use connect::{Connect, Target};
pub use error::{ClientError, Fault, GrpcCode};
pub use gateway::{Advised, Gateway};
pub use nodes::{NodeAdmin, NodeWatch, Nodes};
pub use patience::Patience;
pub use people::PeopleAdmin;
pub use reader::{AutoReader, ReaderOptions};
pub use stream::{EventStream, Message, Start, StreamOptions};
/// The messages of the wire, for callers that need one without a wrapper.
pub use tidegate_proto::v1 as wire;
