//! A stream of events whose account is kept. It never reconnects by itself: whoever wants to go on
//! resumes at `position`. Invariant: what `next` returns has passed the account.

use crate::{Account, ClientError, Gateway, Position};
use tidegate_proto::v1::{
    EventBatch, Gap, StreamEventsRequest, StreamEventsResponse, StreamOpened, StreamStatus,
    stream_events_request as request, stream_events_response as response,
};
use tonic::Streaming;

/// Where a stream begins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// After the newest event there is.
    #[default]
    Live,
    /// The oldest event still kept.
    Oldest,
    /// After a position that this reader had.
    Resume(Position),
}

/// What a reader may wish for.
#[derive(Clone, Debug, Default)]
pub struct StreamOptions {
    /// How long the gateway may gather events, at most 1000; 0: not at all. `None`: as it is set to.
    pub linger_ms: Option<u32>,
    /// For people; at most 64 characters.
    pub reader_name: String,
    /// The account of the stream that this one continues.
    pub account: Account,
    /// The newest resume token of this reader, for `Start::Resume`: an older stream of it that is still open gives way.
    pub resume_token: Option<String>,
    /// How often the gateway is to tell how this reader stands; 0: never. 100 to 60000.
    pub status_every_ms: u32,
}

/// What a stream carries after it opened.
#[derive(Clone, Debug, PartialEq)]
pub enum Message {
    Batch(EventBatch),
    Gap(Gap),
}

/// An open stream and its account.
#[derive(Debug)]
pub struct EventStream {
    inner: Streaming<StreamEventsResponse>,
    opened: StreamOpened,
    status: Option<StreamStatus>,
    account: Account,
}

// === impl EventStream ===

impl EventStream {
    pub(crate) async fn open(
        gateway: &Gateway,
        session_id: &str,
        start: Start,
        options: StreamOptions,
    ) -> Result<Self, ClientError> {
        let start = match start {
            Start::Live => request::Start::Live(request::Live {}),
            Start::Oldest => request::Start::Oldest(request::Oldest {}),
            Start::Resume(Position { epoch, after }) => match options.resume_token {
                Some(token) => request::Start::ResumeByToken(request::ResumeByToken { token, after: Some(after) }),
                None => request::Start::Resume(request::Resume { epoch, after }),
            },
        };
        let message = StreamEventsRequest {
            session_id: session_id.into(),
            start: Some(start),
            max_linger_ms: options.linger_ms,
            reader_name: options.reader_name,
            status_every_ms: options.status_every_ms,
        };
        let mut inner = gateway.client().stream_events(gateway.request(message)).await?.into_inner();
        let mut account = options.account;
        account.ended();
        let first = inner.message().await?.ok_or(ClientError::Incomplete("its first message"))?;
        account.take(&first)?;
        let Some(response::Message::Opened(opened)) = first.message else {
            return Err(ClientError::Incomplete("`opened` as its first message"));
        };
        Ok(Self { inner, opened, status: None, account })
    }

    /// The next batch or gap; `None` when the gateway ended the stream without an error. A stream
    /// that broke its account returns the violation and can still be read on.
    pub async fn next(&mut self) -> Result<Option<Message>, ClientError> {
        loop {
            let Some(message) = self.inner.message().await? else { return Ok(None) };
            self.account.take(&message)?;
            return Ok(match message.message {
                Some(response::Message::Batch(batch)) => Some(Message::Batch(batch)),
                Some(response::Message::Gap(gap)) => Some(Message::Gap(gap)),
                Some(response::Message::Status(status)) => {
                    self.status = Some(status);
                    continue;
                }
                // The account refuses both: they are violations.
                Some(response::Message::Opened(_)) | None => None,
            });
        }
    }

    /// What the stream said when it opened.
    pub fn opened(&self) -> &StreamOpened {
        &self.opened
    }

    /// How this reader stood when it was last told, if it asked to be.
    pub fn status(&self) -> Option<&StreamStatus> {
        self.status.as_ref()
    }

    /// The newest token that resumes this reader, or an empty text from a gateway that makes none.
    pub fn resume_token(&self) -> &str {
        self.status.as_ref().map_or(&self.opened.resume_token, |status| &status.resume_token)
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Ends the stream and keeps its account, to be continued.
    pub fn into_account(self) -> Account {
        self.account
    }

    /// Everything up to here was received.
    pub fn position(&self) -> Position {
        self.account.position().unwrap_or(Position { epoch: self.opened.epoch, after: self.opened.after })
    }
}
