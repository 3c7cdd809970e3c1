//! A reader that outlives its connections: when a stream breaks in a way that passes, it waits a little, connects again
//! and resumes where its account stands. Knows which ends pass and which are for good; keeps no events. Invariant: over all
//! its streams the account is one, so that it closes or says what is missing.

use crate::{Account, ClientError, Connect, EventStream, Message, Patience, Position, Start, StreamOptions};
use std::{fmt, time::Duration};
use tidegate_proto::v1::StreamStatus;

/// What such a reader wishes for.
#[derive(Clone, Debug)]
pub struct ReaderOptions {
    /// Where the first stream begins; those after it go on where it ended.
    pub start: Start,
    /// As in `StreamOptions`.
    pub linger_ms: Option<u32>,
    pub reader_name: String,
    pub status_every_ms: u32,
    /// For how long to try again without one message before the last error is handed out.
    pub give_up_after: Duration,
    /// An unknown session may be one that a starting gateway has not taken back yet, so ask again.
    pub session_may_return: bool,
}

/// A stream of events that reconnects.
pub struct AutoReader {
    dial: Box<dyn FnMut() -> Connect + Send>,
    session: String,
    options: ReaderOptions,
    stream: Option<EventStream>,
    /// While no stream has it.
    account: Account,
    token: Option<String>,
    patience: Patience,
    reconnects: u64,
}

// === impl ReaderOptions ===

impl Default for ReaderOptions {
    fn default() -> Self {
        Self {
            start: Start::Live,
            linger_ms: None,
            reader_name: String::new(),
            status_every_ms: 1_000,
            give_up_after: Duration::from_secs(60),
            session_may_return: false,
        }
    }
}

// === impl AutoReader ===

impl AutoReader {
    /// `dial` says anew where the gateway is each time there is no connection. Nothing happens before `next`.
    pub fn new(
        dial: impl FnMut() -> Connect + Send + 'static,
        session: impl Into<String>,
        options: ReaderOptions,
    ) -> Self {
        Self {
            dial: Box::new(dial),
            session: session.into(),
            patience: Patience::new(options.give_up_after),
            options,
            stream: None,
            account: Account::new(),
            token: None,
            reconnects: 0,
        }
    }

    /// The next batch or gap, over as many connections as it takes. An error is for good: the session ended, the key was
    /// revoked, the account broke, another stream took over, or nothing came for as long as `give_up_after`.
    pub async fn next(&mut self) -> Result<Message, ClientError> {
        loop {
            let broken = match &mut self.stream {
                None => match self.connect().await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Some(stream) => match stream.next().await {
                    Ok(Some(message)) => {
                        self.patience.works();
                        return Ok(message);
                    }
                    Ok(None) => ClientError::Incomplete("a reason for the stream's end"),
                    Err(error) => error,
                },
            };
            self.pass_over(broken).await?;
        }
    }

    /// Connects now, if there is no stream; `next` does it as well.
    pub async fn connect(&mut self) -> Result<(), ClientError> {
        if self.stream.is_some() {
            return Ok(());
        }
        let gateway = (self.dial)().gateway().await?;
        let start = self.account.position().map_or(self.options.start, Start::Resume);
        let options = StreamOptions {
            linger_ms: self.options.linger_ms,
            reader_name: self.options.reader_name.clone(),
            status_every_ms: self.options.status_every_ms,
            resume_token: self.token.clone(),
            account: self.account.clone(),
        };
        self.stream = Some(gateway.stream(&self.session, start, options).await?);
        Ok(())
    }

    /// Drops the connection as if it had broken; the next call makes another.
    pub fn disconnect(&mut self) {
        if let Some(stream) = self.stream.take() {
            self.keep(stream);
            self.reconnects += 1;
        }
    }

    /// The account over all streams.
    pub fn account(&self) -> &Account {
        self.stream.as_ref().map_or(&self.account, EventStream::account)
    }

    /// Where it stands; `None` before the first stream.
    pub fn position(&self) -> Option<Position> {
        self.account().position()
    }

    /// How it stood when the gateway last said so.
    pub fn status(&self) -> Option<&StreamStatus> {
        self.stream.as_ref().and_then(EventStream::status)
    }

    /// How many streams were lost so far.
    pub fn reconnects(&self) -> u64 {
        self.reconnects
    }

    /// Waits before the next try, or hands the error out.
    async fn pass_over(&mut self, error: ClientError) -> Result<(), ClientError> {
        if let Some(stream) = self.stream.take() {
            self.keep(stream);
            self.reconnects += 1;
        }
        if let Some(newer) = error.fault().and_then(|fault| fault.resume_token()) {
            self.token = Some(newer.to_owned());
        }
        if is_token_refused(&error) && self.token.take().is_some() {
            // By epoch and sequence then: the owner may always.
            return Ok(());
        }
        if error.passes() || (self.options.session_may_return && is_unknown(&error)) {
            return self.patience.wait(error).await;
        }
        Err(error)
    }

    fn keep(&mut self, stream: EventStream) {
        if !stream.resume_token().is_empty() {
            self.token = Some(stream.resume_token().to_owned());
        }
        self.account = stream.into_account();
    }
}

impl fmt::Debug for AutoReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AutoReader")
            .field("session", &self.session)
            .field("position", &self.position())
            .field("reconnects", &self.reconnects)
            .finish_non_exhaustive()
    }
}

/// There is no such session, as far as this key is told.
fn is_unknown(error: &ClientError) -> bool {
    matches!(error.reason(), Some("session.not_permitted" | "session.unknown"))
}

fn is_token_refused(error: &ClientError) -> bool {
    let position = error.fault().is_some_and(|fault| fault.details.get("field").is_some_and(|field| field == "after"));
    position || error.reason().is_some_and(|reason| reason.starts_with("stream.token_"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Fault, GrpcCode};

    fn fault(code: GrpcCode, reason: &str) -> ClientError {
        let (message, details) = (String::new(), std::collections::BTreeMap::new());
        ClientError::Fault(Box::new(Fault { code, reason: reason.into(), message, details }))
    }

    #[test]
    fn tokens_that_are_refused_and_sessions_that_are_unknown_are_told_apart() {
        assert!(is_unknown(&fault(GrpcCode::PermissionDenied, "session.not_permitted")));
        assert!(!is_unknown(&fault(GrpcCode::PermissionDenied, "policy.denied")));
        assert!(is_token_refused(&fault(GrpcCode::PermissionDenied, "stream.token_revoked")));
    }

    #[tokio::test]
    async fn it_gives_up_in_the_end_and_says_why() {
        let options = ReaderOptions { give_up_after: Duration::from_millis(200), ..Default::default() };
        let mut reader = AutoReader::new(|| Connect::socket("/nonexistent/gateway.sock"), "session-x", options);
        let error = reader.next().await.expect_err("nobody is there");
        assert!(matches!(error, ClientError::Connect { .. }), "{error}");
        assert!(reader.position().is_none());
    }
}
