//! StreamEvents, from the request to the trailers. Does what tonic's codec cannot: hands a segment's bytes to the
//! connection as they are. Knows cursors, verdicts and the gRPC framing; neither workers nor sockets.
//! Invariant: a batch is handed over only if, after its position was published, the stamp that
//! made its verdicts was still the current one; so a flip that does not see the position is seen by the stream.

mod start;

use super::{
    body::{Chunk, Message},
    edge::{Connection, OnConnection},
    status::status,
};
use crate::{
    error::{Code, Error, Result},
    events::{self, AttachError, BatchHeader, Cursor, Next, ReaderControl, ReaderMode, ReaderSpec, Start, View},
    policies::{Policies, Rate},
    sessions::{
        Caller, Session, Sessions, Share,
        session::{GiveWay, ReaderSlot},
        verdicts::{self, Class, Verdicts},
    },
    telemetry::{GapReason, Metrics, StreamEnd},
};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http_body::Frame;
use parking_lot::Mutex;
use prost::Message as _;
use start::{Beginning, Signer, Status, beyond_head};
use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};
use tidegate_policy::Action;
use tidegate_proto::v1::{
    self, StreamEventsRequest, StreamEventsResponse, StreamOpened, StreamStatus, stream_events_response,
};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Length of a gRPC message prefix: a flag and a big-endian length.
const PREFIX: usize = 5;
/// The longest request of StreamEvents. It has a few short fields.
pub(super) const REQUEST_BYTES_MAX: usize = 4096;
/// As in events.proto.
const LINGER_MS_MAX: u32 = 1000;
const READER_NAME_CHARS_MAX: usize = 64;
/// As in events.proto.
const STATUS_EVERY_MS: std::ops::RangeInclusive<u32> = 100..=60_000;
/// How long a peer that takes no bytes may keep a stream that is to end, and how often that is looked at. Guessed.
const STALL: Duration = Duration::from_secs(10);
/// How long a connection may live on with nothing but streams of that kind. Guessed.
const CUT: Duration = Duration::from_secs(60);
const STALL_LOOK: Duration = Duration::from_secs(1);

/// A stream under way; a body that hyper polls whenever the connection has room, so that one message is in
/// flight and the socket's pace is the reader's lag.
pub(super) struct EventStream {
    /// Shared with the watch for stalls only; never contended otherwise.
    state: Arc<Mutex<State>>,
    over: bool,
    _watched: DropGuard,
}

enum State {
    Live(Box<Live>),
    /// Its peer took nothing when it was to end: place and memory are given back, and the peer hears why and where
    /// to resume when it reads again.
    Released(Error),
    /// The body is gone.
    Dropped,
}

/// What a stream holds while it may deliver.
struct Live {
    session: Arc<Session>,
    policies: Policies,
    class: Arc<Class>,
    verdicts: Arc<Verdicts>,
    cursor: Cursor,
    /// The first message, until it is sent.
    opened: Option<Bytes>,
    judging: Option<Judging>,
    /// For those who asked to be told how they stand.
    status: Option<Status>,
    signer: Signer,
    /// Of the connection's task, when it waits: whoever gives this stream's place away wakes it.
    waiting: Option<Waker>,
    told: bool,
    metrics: Metrics,
    _slot: ReaderSlot,
    _share: Share,
    _on_connection: OnConnection,
}

/// What one poll gives.
enum Polled {
    Chunk(Chunk),
    End(Error),
}

type Judging = Pin<Box<dyn Future<Output = Arc<Verdicts>> + Send>>;

// === impl EventStream ===

impl EventStream {
    /// Checks the request and attaches a reader.
    pub(super) async fn open(
        sessions: &Sessions,
        caller: &Caller,
        request: StreamEventsRequest,
        connection: Arc<Connection>,
    ) -> Result<Self> {
        let session = sessions.get(caller, &request.session_id)?;
        session.check_ready()?;
        if request.max_linger_ms.is_some_and(|linger_ms| linger_ms > LINGER_MS_MAX) {
            return Err(Error::new(Code::RequestInvalid, format!("max_linger_ms may be {LINGER_MS_MAX} at most"))
                .with("field", "max_linger_ms"));
        }
        let every = request.status_every_ms;
        if every != 0 && !STATUS_EVERY_MS.contains(&every) {
            return Err(Error::new(
                Code::RequestInvalid,
                format!("status_every_ms is 0, or {} to {}", STATUS_EVERY_MS.start(), STATUS_EVERY_MS.end()),
            )
            .with("field", "status_every_ms"));
        }
        let name = &request.reader_name;
        if name.chars().count() > READER_NAME_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(Error::new(
                Code::LimitText,
                format!("reader_name must have at most {READER_NAME_CHARS_MAX} characters and no control characters"),
            )
            .with("field", "reader_name"));
        }
        let policies = sessions.policies().clone();
        policies.admit(&caller.principal(), &caller.key.id, Rate::Stream).await?;
        let class = session.class(caller);
        let verdicts = verdicts::fresh(&class, &session, &policies).await?;
        let beginning = Beginning::check(sessions.resume_tokens(), caller, &session, request.start)?;
        if let Start::Resume { epoch, after } = beginning.start {
            // Of another epoch everything is missing.
            let after = if epoch == session.identity.epoch { after } else { 0 };
            let what = Action::Resume { behind: session.log.head().saturating_sub(after) };
            policies.authorize(&caller.principal(), &session.facts, what).await?;
        }
        let Beginning { start, reader: number } = beginning;
        // Held until this stream has the seat: of two that resume one reader the later one keeps it.
        let mut seats = session.seats();
        if let Some(older) = seats.take(number) {
            older.give_way();
        }
        let on_connection = connection.stream(&session.metrics)?;
        let share = sessions.stream_share(&caller.key.id)?;
        let slot = session.take_slot()?;
        session.touch();
        let spec = ReaderSpec {
            name: request.reader_name,
            key_id: caller.key.id.to_string(),
            external: true,
            max_linger_ms: request.max_linger_ms.map_or(session.bounds.linger.as_millis() as u64, u64::from),
        };
        let cursor = session.log.attach(spec, start).map_err(|error| match error {
            AttachError::BeyondHead { head } => beyond_head(&session, head),
        })?;
        let signer = Signer { tokens: sessions.resume_tokens().clone(), key: caller.key.id.clone(), reader: number };
        let opened = StreamOpened {
            epoch: session.identity.epoch,
            after: cursor.position(),
            head: session.log.head(),
            generation: verdicts.stamp.generation,
            resume_token: signer.token(&session, cursor.position()),
        };
        let opened = plain(stream_events_response::Message::Opened(opened));
        let reader = cursor.control().clone();
        let metrics = session.metrics.clone();
        metrics.streams.opened.inc();
        metrics.streams.open.inc();
        tracing::info!(session = %session.identity.id, key = %caller.key.id, reader = reader.name(),
            after = cursor.position(), head = session.log.head(), "reader attached");
        let live = Live {
            session: session.clone(),
            policies,
            class,
            verdicts,
            cursor,
            opened: Some(opened),
            judging: None,
            status: Status::wanted(request.status_every_ms),
            signer,
            waiting: None,
            told: false,
            metrics,
            _slot: slot,
            _share: share,
            _on_connection: on_connection,
        };
        let state = Arc::new(Mutex::new(State::Live(Box::new(live))));
        let seat: Arc<dyn GiveWay> = state.clone();
        seats.put(number, &seat);
        drop(seats);
        let watched = watch_for_stall(session, reader, state.clone(), connection);
        Ok(Self { state, over: false, _watched: watched })
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Chunk>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let polled = match &mut *self.state.lock() {
            State::Live(live) => match live.poll(cx) {
                Poll::Ready(polled) => polled,
                Poll::Pending => {
                    live.wait(cx.waker());
                    return Poll::Pending;
                }
            },
            State::Released(error) => Polled::End(error.clone()),
            State::Dropped => return Poll::Ready(None),
        };
        match polled {
            Polled::Chunk(chunk) => Poll::Ready(Some(Frame::data(chunk))),
            Polled::End(error) => {
                self.over = true;
                Poll::Ready(Some(Frame::trailers(trailers(&error))))
            }
        }
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        // At once, not when the watch for stalls has noticed: the place is free for the next reader.
        *self.state.lock() = State::Dropped;
    }
}

impl GiveWay for Mutex<State> {
    /// Another stream of the same reader takes over: place and cursor are free when this returns, and this stream's
    /// client hears why when it reads.
    fn give_way(&self) {
        let mut state = self.lock();
        let waiting = match &mut *state {
            State::Live(live) if live.told => {
                *state = State::Dropped;
                None
            }
            State::Live(live) => {
                let error = live.ended(Error::new(Code::StreamTakenOver, "this reader resumed elsewhere"));
                let waiting = live.waiting.take();
                tracing::info!(session = %live.session.identity.id, reader = live.cursor.control().name(),
                    "a reader took over from an older stream of its own");
                *state = State::Released(error);
                waiting
            }
            State::Released(_) | State::Dropped => None,
        };
        drop(state);
        if let Some(waiting) = waiting {
            waiting.wake();
        }
    }
}

// === impl Live ===

impl Live {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Polled> {
        if let Some(opened) = self.opened.take() {
            return Poll::Ready(Polled::Chunk(Chunk::Plain(opened)));
        }
        if self.status.as_mut().is_some_and(|status| status.is_due(cx)) {
            return Poll::Ready(Polled::Chunk(Chunk::Plain(self.standing())));
        }
        loop {
            if let Some(judging) = &mut self.judging {
                let Poll::Ready(verdicts) = judging.as_mut().poll(cx) else { return Poll::Pending };
                self.verdicts = verdicts;
                self.judging = None;
            }
            if let Some(error) = &self.verdicts.refused {
                let error = error.clone();
                return Poll::Ready(Polled::End(self.ended(error)));
            }
            if self.stale() {
                self.judge();
                continue;
            }
            let verdicts = &self.verdicts;
            let sees = |item_key| verdicts.sees(item_key);
            let view = if verdicts.all { View::All } else { View::Filtered(&sees) };
            let Poll::Ready(next) = self.cursor.poll_next(cx, view) else { return Poll::Pending };
            match &next {
                Next::Batch(batch) => {
                    // Published first, then compared: see the invariant above.
                    self.cursor.intend(batch.to);
                    if self.stale() {
                        // Nothing was sent: a fence read from now on must not name these events.
                        self.cursor.intend(self.cursor.position());
                        self.judge();
                        continue;
                    }
                }
                Next::Gap(_) => {}
                Next::Ended(reason) => {
                    let reason = reason.clone();
                    return Poll::Ready(Polled::End(self.ended(reason)));
                }
            }
            self.cursor.commit(&next);
            return Poll::Ready(Polled::Chunk(self.message(next)));
        }
    }

    /// The end of a stream whose peer takes nothing: the order's reason, without what could still be read.
    fn give_up(&mut self) -> Error {
        let mut nobody = Context::from_waker(Waker::noop());
        let reason = match self.cursor.poll_next(&mut nobody, View::Filtered(&|_| false)) {
            Poll::Ready(Next::Ended(reason)) => reason,
            _ => Error::new(Code::StreamSessionEnded, "the session ended while this reader took nothing"),
        };
        self.ended(reason)
    }

    fn wait(&mut self, waker: &Waker) {
        match &self.waiting {
            Some(old) if old.will_wake(waker) => {}
            _ => self.waiting = Some(waker.clone()),
        }
    }

    /// How this reader stands.
    fn standing(&self) -> Bytes {
        let pace = self.cursor.pace();
        let mode = match self.cursor.control().mode() {
            ReaderMode::Normal => "normal",
            ReaderMode::Conflating => "conflating",
        };
        let after = self.cursor.position();
        plain(stream_events_response::Message::Status(StreamStatus {
            epoch: self.session.identity.epoch,
            after,
            resume_token: self.signer.token(&self.session, after),
            lag: pace.lag,
            lag_high_water: pace.lag_high_water,
            lag_bound: pace.lag_bound,
            seconds_until_gap: pace.seconds_until_gap,
            mode: mode.into(),
        }))
    }

    fn stale(&self) -> bool {
        self.session.stamp(&self.policies) != self.verdicts.stamp
    }

    /// Takes what the class knows already, or has it judge again while this stream pauses.
    fn judge(&mut self) {
        let known = self.class.current();
        if known.stamp == self.session.stamp(&self.policies) {
            self.verdicts = known;
            return;
        }
        let (class, session, policies) = (self.class.clone(), self.session.clone(), self.policies.clone());
        self.judging = Some(Box::pin(async move { class.refresh(&session, &policies).await }));
    }

    fn message(&self, next: Next) -> Chunk {
        let epoch = self.session.identity.epoch;
        match next {
            Next::Batch(batch) => {
                let events = &self.metrics.events;
                events.delivered.inc_by(batch.events);
                events.delivered_bytes.inc_by(batch.payload.len() as u64);
                events.filtered.inc_by(batch.filtered);
                events.conflated.inc_by(batch.conflated);
                let header = BatchHeader {
                    epoch,
                    from: batch.from,
                    to: batch.to,
                    generation: self.verdicts.stamp.generation,
                    filtered: batch.filtered,
                    conflated: batch.conflated,
                    lag: batch.lag,
                };
                Chunk::Message(Message::new(header.encode(batch.payload.len()), batch.payload))
            }
            Next::Gap(gap) => {
                let reason = match gap.reason {
                    events::GapReason::Evicted => GapReason::Evicted,
                    events::GapReason::Skipped => GapReason::Skipped,
                    events::GapReason::Restarted => GapReason::Restarted,
                };
                self.metrics.events.gapped.of(reason).inc_by(gap.to - gap.from + 1);
                let gap = v1::Gap { epoch, from: gap.from, to: gap.to, reason: gap.reason as i32 };
                Chunk::Plain(plain(stream_events_response::Message::Gap(gap)))
            }
            // Turned into trailers by the caller.
            Next::Ended(_) => Chunk::Plain(Bytes::new()),
        }
    }

    /// Counts the end and adds the position to resume at.
    fn ended(&mut self, error: Error) -> Error {
        self.told = true;
        self.metrics.streams.ended.of(end_label(error.code())).inc();
        let after = self.cursor.position();
        self.log_end(error.code().as_str());
        let over = is_over(&error);
        let error = error.with("resume_epoch", self.session.identity.epoch).with("resume_after", after);
        // The position says up to where the reader has everything; a token would promise that there is more to come.
        if over { error } else { error.with("resume_token", self.signer.token(&self.session, after)) }
    }

    /// Once for each stream, like its attaching.
    fn log_end(&self, reason: &str) {
        let (session, reader) = (&self.session, self.cursor.control());
        tracing::info!(session = %session.identity.id, key = reader.key_id(), reader = reader.name(), reason,
            after = self.cursor.position(), head = session.log.head(), "reader detached");
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.told {
            self.metrics.streams.ended.of(StreamEnd::Client).inc();
            self.log_end("client");
        }
        self.metrics.streams.open.dec();
    }
}

impl fmt::Debug for EventStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventStream").field("over", &self.over).finish_non_exhaustive()
    }
}

/// A body is polled only while its peer takes bytes, so a stalled peer would never hear that its stream ended, and
/// keep its place and its slice for ever. When an end has been due for `STALL`, this takes both back; the peer hears
/// the reason when it reads again. A connection on which nothing but such streams is left for `CUT` is cut.
fn watch_for_stall(
    session: Arc<Session>,
    reader: Arc<ReaderControl>,
    state: Arc<Mutex<State>>,
    connection: Arc<Connection>,
) -> DropGuard {
    let over = CancellationToken::new();
    let ended = over.clone();
    let live = connection.live_stream();
    let watch = async move {
        let mut due_since = None;
        let mut look = tokio::time::interval(STALL_LOOK);
        loop {
            look.tick().await;
            if !(reader.is_told_to_end() || session.log.is_closed()) {
                due_since = None;
                continue;
            }
            let since: Instant = *due_since.get_or_insert_with(Instant::now);
            if since.elapsed() > STALL {
                break;
            }
        }
        {
            let mut state = state.lock();
            if let State::Live(stalled) = &mut *state {
                let error = stalled.give_up();
                tracing::warn!(session = %session.identity.id, reader = reader.name(), code = error.code().as_str(),
                    "a reader that takes nothing lost its place");
                *state = State::Released(error);
            }
        }
        drop((live, state, session, reader));
        loop {
            tokio::time::sleep(CUT).await;
            if connection.is_idle() {
                tracing::warn!("a connection with nothing but stalled streams is cut");
                connection.cut();
                return;
            }
        }
    };
    tokio::spawn(async move {
        tokio::select! {
            () = ended.cancelled() => {}
            () = watch => {}
        }
    });
    over.drop_guard()
}

fn trailers(error: &Error) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status(error).add_header(&mut trailers).is_err() {
        // Cannot happen with a cut message; the plain status says the same without details.
        trailers.insert("grpc-status", http::HeaderValue::from_static("13"));
    }
    trailers
}

/// The stream ends because its session does.
fn is_over(error: &Error) -> bool {
    match error.code() {
        Code::StreamSessionEnded | Code::SessionFaulted => true,
        Code::StreamDraining => {
            error.details().iter().any(|(key, value)| *key == "session_goes_on" && value == "false")
        }
        _ => false,
    }
}

/// How the metrics call the end of a stream.
fn end_label(code: Code) -> StreamEnd {
    match code {
        Code::StreamPressure => StreamEnd::Pressure,
        Code::StreamSessionEnded => StreamEnd::SessionEnded,
        Code::SessionFaulted => StreamEnd::SessionFaulted,
        Code::PolicyDenied | Code::PolicyFailed | Code::AuthInvalid => StreamEnd::Denied,
        Code::StreamDraining => StreamEnd::Draining,
        Code::StreamTakenOver => StreamEnd::TakenOver,
        _ => StreamEnd::Error,
    }
}

/// A whole message with its prefix.
fn plain(message: stream_events_response::Message) -> Bytes {
    let message = StreamEventsResponse { message: Some(message) };
    let length = message.encoded_len();
    let mut bytes = BytesMut::with_capacity(PREFIX + length);
    bytes.put_u8(0);
    bytes.put_u32(length as u32);
    message.encode_raw(&mut bytes);
    bytes.freeze()
}

/// Reads the one message of a request.
pub(super) fn request(body: &Bytes) -> Result<StreamEventsRequest> {
    let wrong = |what: &str| Error::new(Code::RequestInvalid, format!("the request of StreamEvents {what}"));
    let Some((prefix, message)) = body.split_at_checked(PREFIX) else {
        return Err(wrong("is shorter than a gRPC prefix"));
    };
    if prefix[0] != 0 {
        return Err(wrong("is compressed; the gateway takes plain messages"));
    }
    let length = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
    if length != message.len() {
        return Err(wrong("has another length than its prefix says"));
    }
    StreamEventsRequest::decode(message).map_err(|error| wrong(&format!("cannot be read: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read_and_broken_ones_refused() {
        let message = StreamEventsRequest { session_id: "s".into(), ..Default::default() };
        let mut good = BytesMut::new();
        good.put_u8(0);
        good.put_u32(message.encoded_len() as u32);
        message.encode_raw(&mut good);
        assert_eq!(request(&good.clone().freeze()).unwrap().session_id, "s");
        let mut compressed = good.clone();
        compressed[0] = 1;
        let mut longer = good.clone();
        longer.put_u8(0);
        for bad in [compressed.freeze(), longer.freeze(), Bytes::new(), Bytes::from_static(&[0, 0, 0, 0, 1, 0xff])] {
            assert_eq!(request(&bad).unwrap_err().code(), Code::RequestInvalid);
        }
    }
}
