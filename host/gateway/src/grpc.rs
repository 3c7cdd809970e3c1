//! The gRPC surface: the only module that knows tonic. Translates requests into calls of `sessions` and
//! `policies`, and errors into rich statuses; decides nothing. Invariant: whatever reaches `tidegate.v1.Gateway`
//! carries a key that was checked, and `tidegate.v1.Admin` answers on the
//! machine's own socket, or to keys with the scope `admin` over connections that nobody overhears.

mod admin;
mod alarms;
mod backup;
mod body;
mod decisions;
mod edge;
mod gateway;
mod gather;
mod health;
mod nodes;
mod overview;
mod people;
mod policies;
mod shadow;
mod snapshot;
mod status;
mod stream;

pub use admin::AdminContext;
pub use edge::{Edge, EdgeBounds, Listener, Listening};
pub use overview::Overview;
