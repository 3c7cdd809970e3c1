//! What is fuzzed, and what a plain reading of the same bytes would say. Each target answers with a word about how it took the
//! input, so that inputs answered in a new way are kept as seeds.

use bytes::Bytes;
use prost::Message as _;
use std::{
    pin::Pin,
    task::{Context, Poll},
};
use tidegate::{
    error::Error,
    events::{
        BatchHeader,
        wire::{EVENT_TAG, Indexed, walk},
    },
    ids::{KeyId, SessionId},
    keys::resume::{Claim, Holder, ResumeTokens},
    sessions::{
        alarms,
        commands::{self, Targets},
        items::Items,
    },
    telemetry::Metrics,
};
use tidegate_pipe::FrameReader;
use tidegate_proto::{
    v1::{self, Command, EventBatch, StreamEventsResponse, command::Method, stream_events_response},
    worker::v1::{
        AlarmChange, AlarmTable, Events, FromGateway, FromWorker, Heartbeat, Hello, alarm_change, from_worker,
    },
};
use tokio::io::{AsyncRead, ReadBuf};

/// One thing that reads bytes of others.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    pub(crate) corpus: &'static str,
    pub(crate) seeds: fn() -> Vec<Vec<u8>>,
    pub(crate) target: fn(&[u8]) -> String,
}

pub(crate) const TARGETS: &[Target] = &[
    Target { name: "events", corpus: include_str!("corpus/events.hex"), seeds: event_seeds, target: events },
    Target { name: "frames", corpus: include_str!("corpus/frames.hex"), seeds: frame_seeds, target: frames },
    Target { name: "worker", corpus: include_str!("corpus/worker.hex"), seeds: worker_seeds, target: worker },
    Target { name: "commands", corpus: include_str!("corpus/commands.hex"), seeds: command_seeds, target: command },
    Target { name: "tokens", corpus: include_str!("corpus/tokens.hex"), seeds: token_seeds, target: token },
];

const FIRST: u64 = 41;
const FRAME_MAX: usize = 1 << 10;

fn batch(events: u64) -> Vec<u8> {
    let event = |nth: u64| v1::Event {
        sequence: FIRST + nth,
        item_key: nth % 3,
        server_handle: 1,
        item_handle: nth as i32,
        body: Some(match nth % 3 {
            0 => v1::event::Body::DataChange(v1::DataChange { quality: 192, ..Default::default() }),
            1 => v1::event::Body::WriteComplete(v1::WriteComplete::default()),
            _ => v1::event::Body::OperationComplete(v1::OperationComplete::default()),
        }),
    };
    EventBatch { events: (0..events).map(event).collect(), ..Default::default() }.encode_to_vec()
}

fn event_seeds() -> Vec<Vec<u8>> {
    [1, 2, 7, 40].map(|count| [vec![count as u8], batch(count)].concat()).to_vec()
}

/// The first byte is how many events the frame says it has.
fn events(input: &[u8]) -> String {
    let Some((count, bytes)) = input.split_first() else { return "empty".into() };
    let mut found: Vec<Indexed> = Vec::new();
    match walk(bytes, FIRST, u32::from(*count), |indexed| found.push(indexed)) {
        Err(error) => {
            let text = error.to_string();
            text.chars().filter(|c| !c.is_ascii_digit()).collect()
        }
        Ok(()) => {
            assert_eq!(found.len(), usize::from(*count));
            assert!(found.iter().all(|one| bytes[one.offset as usize] == EVENT_TAG));
            let header = BatchHeader {
                epoch: 1,
                from: FIRST,
                to: FIRST + u64::from(*count) - 1,
                generation: 300,
                filtered: 0,
                conflated: 0,
                lag: u64::MAX,
            };
            let message = [header.encode(bytes.len()).message(), bytes].concat();
            // What is inside of an event is the client's to read; at the top level both readings agree.
            let Ok(read) = StreamEventsResponse::decode(&*message) else { return "walked, not decoded".into() };
            let Some(stream_events_response::Message::Batch(read)) = read.message else { panic!("not a batch") };
            assert_eq!((read.from, read.to, read.lag), (header.from, header.to, header.lag));
            assert_eq!(read.events.len(), found.len());
            for (nth, (event, indexed)) in read.events.iter().zip(&found).enumerate() {
                assert_eq!((event.sequence, event.item_key), (FIRST + nth as u64, indexed.item));
            }
            format!("{} events", read.events.len().min(4))
        }
    }
}

fn framed(payload: &[u8]) -> Vec<u8> {
    [&(payload.len() as u32).to_le_bytes()[..], payload].concat()
}

fn frame_seeds() -> Vec<Vec<u8>> {
    let two = [framed(b"first"), framed(b""), framed(&[7; 300])].concat();
    vec![vec![3], [vec![1], framed(b"one")].concat(), [vec![200], two].concat()]
}

/// Gives a few bytes at a time.
struct Dribble<'a>(&'a [u8], usize);

impl AsyncRead for Dribble<'_> {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let (now, later) = self.0.split_at(self.1.min(into.remaining()).min(self.0.len()));
        into.put_slice(now);
        self.0 = later;
        Poll::Ready(Ok(()))
    }
}

/// The first byte is how many bytes come at a time.
fn frames(input: &[u8]) -> String {
    let Some((step, bytes)) = input.split_first() else { return "empty".into() };
    let mut plain = Vec::new();
    let mut rest = bytes;
    let ending = loop {
        let Some((length, after)) = rest.split_first_chunk::<4>() else {
            break if rest.is_empty() { "ends" } else { "is cut" };
        };
        let length = u32::from_le_bytes(*length) as usize;
        if length > FRAME_MAX {
            break "is too large";
        }
        let Some((frame, after)) = after.split_at_checked(length) else { break "is cut" };
        plain.push(Bytes::copy_from_slice(frame));
        rest = after;
    };
    let mut reader = FrameReader::new(Dribble(bytes, usize::from(*step).max(1)), FRAME_MAX);
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut read = Vec::new();
    let ended = runtime.block_on(async {
        loop {
            match reader.read_frame().await {
                Ok(Some(frame)) => read.push(frame),
                Ok(None) => return true,
                Err(_) => return false,
            }
        }
    });
    assert_eq!((&read, ended), (&plain, ending == "ends"), "{ending}");
    format!("{} frames, then {ending}", read.len().min(4))
}

fn alarm(alarm_id: u64) -> v1::Alarm {
    v1::Alarm { alarm_id, tag: "Area1.Level".into(), state: 1, ..Default::default() }
}

fn alarm_table() -> AlarmTable {
    AlarmTable { revision: 5, provider: None, alarms: vec![alarm(1)], first: true, last: true }
}

/// A table of alarms takes it or refuses it, and holds no more than it may.
fn alarms(frame: &from_worker::Frame) {
    const MAX: usize = 2;
    let table = alarms::AlarmTable::new(true, MAX, METRICS.with(|metrics| metrics.alarms.clone()));
    table.part(alarm_table()).expect("a table");
    let _taken = match frame {
        from_worker::Frame::AlarmTable(part) => table.part(part.clone()),
        from_worker::Frame::AlarmChange(change) => table.change(change.clone()).map(drop),
        _ => return,
    };
    assert!(table.standing().alarms.len() <= MAX);
}

thread_local! {
    static METRICS: Metrics = Metrics::new();
}

fn worker_seeds() -> Vec<Vec<u8>> {
    let hello = Hello { protocol_version: 1, session_id: "session-0".into(), epoch: 7, ..Default::default() };
    let events = Events { epoch: 7, first: FIRST, count: 3, events: batch(3).into() };
    let frames = [
        from_worker::Frame::Hello(hello),
        from_worker::Frame::Events(events),
        from_worker::Frame::Heartbeat(Heartbeat { head: 9, busy_ms: 1 }),
        from_worker::Frame::AlarmTable(alarm_table()),
        from_worker::Frame::AlarmChange(AlarmChange {
            revision: 6,
            what: Some(alarm_change::What::Transition(v1::AlarmTransition { kind: 1, alarm: Some(alarm(2)) })),
        }),
    ];
    frames.map(|frame| FromWorker { frame: Some(frame) }.encode_to_vec()).to_vec()
}

/// Both directions of the pipe read it; what was read is written and read again as the same.
fn worker(input: &[u8]) -> String {
    let ours = match FromWorker::decode(input) {
        Ok(message) => {
            assert_eq!(FromWorker::decode(&*message.encode_to_vec()).expect("our own bytes"), message);
            match &message.frame {
                Some(frame) => {
                    alarms(frame);
                    format!("{frame:?}").chars().take_while(char::is_ascii_alphabetic).collect()
                }
                None => "none".to_owned(),
            }
        }
        Err(_) => "refused".into(),
    };
    if let Ok(message) = FromGateway::decode(input) {
        assert_eq!(FromGateway::decode(&*message.encode_to_vec()).expect("our own bytes"), message);
    }
    ours
}

fn command_seeds() -> Vec<Vec<u8>> {
    let definitions = vec!["Area1.X".into(), String::new(), "Area2.Y".into()];
    let one = |item_handle| v1::write_bulk::One { item_handle, ..Default::default() };
    let methods = [
        Method::AddItem(v1::AddItem { server_handle: 1, definition: "Area1.Pump7.Flow".into() }),
        Method::SubscribeBulk(v1::SubscribeBulk { server_handle: 1, definitions, supervisory: true }),
        Method::WriteBulk(v1::WriteBulk { server_handle: 1, writes: vec![one(1), one(-1)] }),
        Method::AdviseBulk(v1::AdviseBulk { server_handle: 1, item_handles: vec![1, 2, -3], supervisory: false }),
    ];
    methods.map(|method| Command { method: Some(method) }.encode_to_vec()).to_vec()
}

/// Whatever can be decoded is judged: one target for each element, or a typed refusal, and elements that were refused are the
/// ones that are taken out.
fn command(input: &[u8]) -> String {
    const BULK_MAX: usize = 8;
    let Ok(Command { method: Some(method) }) = Command::decode(input) else { return "no command".into() };
    let name = commands::name(&method);
    match commands::inspect(&method, &Items::default(), BULK_MAX) {
        Err(error) => format!("{name} {}", Error::code(&error).as_str()),
        Ok(Targets::Bulk(tags)) => {
            assert!(tags.len() <= BULK_MAX);
            let all: Vec<usize> = (0..tags.len()).collect();
            let nothing = commands::without(method.clone(), &all);
            let Ok(Targets::Bulk(left)) = commands::inspect(&nothing, &Items::default(), BULK_MAX) else {
                panic!("a bulk command stays one")
            };
            assert!(left.is_empty() && commands::without(method.clone(), &[]) == method);
            format!("{name} bulk")
        }
        Ok(_) => name.into(),
    }
}

fn holders() -> (KeyId, SessionId, ResumeTokens, String) {
    let key = KeyId::parse("k0123456789abcdef").expect("an id");
    let session = SessionId::parse("session-0123456789abcdef0123456789abcdef").expect("an id");
    let dir = tempfile::tempdir().expect("a folder");
    // Always the same signing key, so that a corpus line means the same tomorrow.
    let file = dir.path().join("resume-keys");
    std::fs::write(&file, format!("{:016x} {} 0\n", 5, "ab".repeat(32))).expect("written");
    let tokens = ResumeTokens::load(file, 0).expect("keys");
    let claim = Claim { reader: 1, epoch: 2, after: 3 };
    let made = tokens.mint(Holder { key: &key, session: &session }, claim, 0);
    (key, session, tokens, made)
}

thread_local! {
    static HOLDERS: (KeyId, SessionId, ResumeTokens, String) = holders();
}

fn token_seeds() -> Vec<Vec<u8>> {
    HOLDERS.with(|(.., made)| vec![made.clone().into_bytes(), vec![b'0'; made.len()]])
}

/// Only the token that was made is taken.
fn token(input: &[u8]) -> String {
    HOLDERS.with(|(key, session, tokens, made)| {
        let text = String::from_utf8_lossy(input);
        match tokens.check(Holder { key, session }, 2, &text, 0) {
            Ok(claim) => {
                assert_eq!((&*text, claim), (made.as_str(), Claim { reader: 1, epoch: 2, after: 3 }));
                "taken".into()
            }
            Err(error) => error.code().as_str().into(),
        }
    })
}
