//! What a command watches goes on under the next gateway: owns the one loop of next, lost, wait, open again. Knows no kind of
//! message and prints nothing but that the gateway is gone.

use std::time::Duration;
use tidegate_client::{
    AlarmStream, ClientError, NodeWatch, Patience,
    wire::{WatchNodesResponse, stream_alarms_response::Message as AlarmMessage},
};

/// How long to look for a gateway that has gone. Guessed: longer than a restart takes.
const GIVE_UP_AFTER: Duration = Duration::from_secs(60);

/// A stream that one gateway tells.
pub(super) trait Watched {
    type Message;

    /// The next message; `None` when there is no more to come under any gateway.
    async fn next(&mut self) -> Result<Option<Self::Message>, ClientError>;
}

/// A stream over as many gateways as it takes.
pub(super) struct Follow<S> {
    stream: Option<S>,
    patience: Patience,
}

pub(super) enum Told<M> {
    Message(M),
    /// Another gateway, or the same one anew: what comes now is the beginning of a new stream.
    Again,
}

// === impl Follow ===

impl<S: Watched> Follow<S> {
    /// The first stream is the caller's to open: a gateway that is not there in the first place is said at once.
    pub(super) fn new(first: S) -> Self {
        Self { stream: Some(first), patience: Patience::new(GIVE_UP_AFTER) }
    }

    /// The next message, or that it begins anew; `None` at the end. An error is for good, or has stood for a minute.
    pub(super) async fn next(
        &mut self,
        open: impl AsyncFn() -> Result<S, ClientError>,
    ) -> Result<Option<Told<S::Message>>, ClientError> {
        loop {
            let error = match &mut self.stream {
                Some(stream) => match stream.next().await {
                    Ok(told) => {
                        self.patience.works();
                        return Ok(told.map(Told::Message));
                    }
                    Err(error) => error,
                },
                None => match open().await {
                    Ok(opened) => {
                        self.stream = Some(opened);
                        return Ok(Some(Told::Again));
                    }
                    Err(error) => error,
                },
            };
            if !error.passes() {
                return Err(error);
            }
            if self.stream.take().is_some() {
                eprintln!("{error}; connecting again");
            }
            self.patience.wait(error).await?;
        }
    }
}

// === impl Watched ===

impl Watched for AlarmStream {
    type Message = AlarmMessage;

    async fn next(&mut self) -> Result<Option<AlarmMessage>, ClientError> {
        self.next().await
    }
}

impl Watched for NodeWatch {
    type Message = WatchNodesResponse;

    /// Nodes are the gateway's: that a stream of them ends says only that this gateway does.
    async fn next(&mut self) -> Result<Option<WatchNodesResponse>, ClientError> {
        self.next().await?.map(Some).ok_or(ClientError::Incomplete("the next change"))
    }
}
