//! How a stream begins and how it tells where it stands: start positions, resume tokens, the clock of status messages.
//! Knows what a request may ask for, not what is sent. Invariant: a start that is refused here has changed nothing.

use crate::{
    error::{Code, Error, Result},
    events::Start,
    ids::{KeyId, random},
    keys::resume::{Claim, Holder, ResumeTokens},
    sessions::{Caller, Session},
};
use std::{future::Future as _, pin::Pin, task::Context, time::Duration};
use tidegate_proto::v1::stream_events_request;
use tokio::time::{Instant, Sleep};

/// When to tell a reader how it stands.
pub(super) struct Status {
    every: Duration,
    due: Pin<Box<Sleep>>,
}

/// Makes the tokens of one reader.
pub(super) struct Signer {
    pub(super) tokens: ResumeTokens,
    pub(super) key: KeyId,
    pub(super) reader: u64,
}

/// A start that was checked, as far as it can be without a place.
pub(super) struct Beginning {
    pub(super) start: Start,
    /// The reader's own number; of an earlier stream of it when it came with a token.
    pub(super) reader: u64,
}

// === impl Beginning ===

impl Beginning {
    pub(super) fn check(
        tokens: &ResumeTokens,
        caller: &Caller,
        session: &Session,
        asked: Option<stream_events_request::Start>,
    ) -> Result<Self> {
        let fresh = |start| Self { start, reader: u64::from_be_bytes(random()) };
        Ok(match asked {
            None | Some(stream_events_request::Start::Live(_)) => fresh(Start::Live),
            Some(stream_events_request::Start::Oldest(_)) => fresh(Start::Oldest),
            Some(stream_events_request::Start::Resume(at)) => fresh(Start::Resume { epoch: at.epoch, after: at.after }),
            Some(stream_events_request::Start::ResumeByToken(at)) => {
                let holder = Holder { key: &caller.key.id, session: &session.identity.id };
                let epoch = session.identity.epoch;
                let claim = tokens.check(holder, epoch, &at.token, session.unix_ms())?;
                let after = at.after.unwrap_or(claim.after);
                if after < claim.after {
                    return Err(Error::new(
                        Code::RequestInvalid,
                        format!("the token was made at {}, and `after` is before that", claim.after),
                    )
                    .with("field", "after"));
                }
                // Asked here already, so that a stream that is refused has not ended the older one.
                let head = session.log.head();
                if after > head {
                    return Err(beyond_head(session, head));
                }
                Self { start: Start::Resume { epoch, after }, reader: claim.reader }
            }
        })
    }
}

// === impl Status ===

impl Status {
    pub(super) fn wanted(every_ms: u32) -> Option<Self> {
        let every = Duration::from_millis(u64::from(every_ms));
        (every_ms != 0).then(|| Self { every, due: Box::pin(tokio::time::sleep(every)) })
    }

    pub(super) fn is_due(&mut self, cx: &mut Context<'_>) -> bool {
        let due = self.due.as_mut().poll(cx).is_ready();
        if due {
            self.due.as_mut().reset(Instant::now() + self.every);
        }
        due
    }
}

// === impl Signer ===

impl Signer {
    pub(super) fn token(&self, session: &Session, after: u64) -> String {
        let holder = Holder { key: &self.key, session: &session.identity.id };
        let claim = Claim { reader: self.reader, epoch: session.identity.epoch, after };
        self.tokens.mint(holder, claim, session.unix_ms())
    }
}

pub(super) fn beyond_head(session: &Session, head: u64) -> Error {
    Error::new(Code::StreamPositionBeyondHead, format!("the session has seen events up to {head} only"))
        .with("head", head)
        .with("epoch", session.identity.epoch)
}
