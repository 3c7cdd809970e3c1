//! The start of a pipe against peers that are wrong in every way we could think of. Streams are in memory, time is
//! paused: silence costs nothing here.

use bytes::Bytes;
use std::time::Duration;
use tidegate_pipe::{
    FrameReader, FrameWriter, HelloFields, MAX_FRAME, MAX_FRAME_BEFORE_ACCEPT, MessageReader, MessageWriter,
    PROTOCOL_VERSION, PipeError, Secret, handshake, proof,
};
use tidegate_proto::worker::v1::{
    Accept, Adopt, Answer, Challenge, CommandFrame, Events, FromGateway, FromWorker, Heartbeat, Hello, from_gateway,
    from_worker,
};
use tokio::io::{AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf};

const SESSION: &str = "session-00112233445566778899aabbccddeeff";
const LIMIT: Duration = Duration::from_secs(5);

type Incoming = handshake::Incoming<ReadHalf<DuplexStream>, WriteHalf<DuplexStream>>;

/// A worker that says what the test tells it to.
struct FakeWorker {
    reader: MessageReader<ReadHalf<DuplexStream>, FromGateway>,
    writer: MessageWriter<WriteHalf<DuplexStream>, FromWorker>,
}

impl FakeWorker {
    fn pair() -> (Self, Incoming) {
        let (near, far) = tokio::io::duplex(1 << 20);
        let ((read, write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
        let reader = MessageReader::new(FrameReader::new(read, MAX_FRAME));
        let writer = MessageWriter::new(FrameWriter::new(write, MAX_FRAME));
        (Self { reader, writer }, Incoming::new(far_read, far_write, None))
    }

    async fn say(&mut self, frame: from_worker::Frame) {
        self.writer.send(&FromWorker { frame: Some(frame) }).await.unwrap();
    }

    async fn hear(&mut self) -> Option<from_gateway::Frame> {
        self.reader.recv().await.unwrap().and_then(|message| message.frame)
    }

    async fn hear_challenge(&mut self) -> Challenge {
        match self.hear().await {
            Some(from_gateway::Frame::Challenge(challenge)) => challenge,
            other => panic!("{other:?}"),
        }
    }

    async fn hear_reject(&mut self) -> String {
        match self.hear().await {
            Some(from_gateway::Frame::Reject(reject)) => reject.code,
            other => panic!("{other:?}"),
        }
    }
}

fn hello() -> Hello {
    Hello {
        protocol_version: PROTOCOL_VERSION,
        session_id: SESSION.to_owned(),
        challenge: Bytes::from_static(&[1; 32]),
        pid: 1,
        backend: "simulator".to_owned(),
        version: "0".to_owned(),
        epoch: 42,
        adopt: None,
        alarms: false,
    }
}

fn fields() -> HelloFields {
    HelloFields { backend: "simulator".to_owned(), version: "0".to_owned(), epoch: 42, adopt: None, alarms: false }
}

fn answer(proof: &[u8]) -> from_worker::Frame {
    from_worker::Frame::Answer(Answer { proof: Bytes::copy_from_slice(proof) })
}

#[tokio::test(start_paused = true)]
async fn both_ends_prove_themselves_and_large_frames_pass_after_accept_only() {
    let secret = Secret::mint().unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
    let fields = HelloFields { adopt: Some(Adopt { head: 9, tail: 3, command: 4 }), ..fields() };
    let worker = handshake::start_worker(near_read, near_write, SESSION, &secret, fields, LIMIT);
    let gateway = async {
        let pending = Incoming::new(far_read, far_write, Some(7)).hello(LIMIT).await.unwrap();
        assert_eq!((pending.hello.epoch, pending.peer_pid), (42, Some(7)));
        assert_eq!(pending.hello.adopt, Some(Adopt { head: 9, tail: 3, command: 4 }));
        let proven = pending.challenge(&secret, LIMIT).await.unwrap();
        let accept = Accept { heartbeat_ms: 5_000, settings: "rate=1".to_owned(), ..Accept::default() };
        proven.accept(accept, LIMIT).await.unwrap().split()
    };
    let (worker, (mut reader, mut writer)) = tokio::join!(worker, gateway);
    let mut worker = worker.unwrap();
    assert_eq!((worker.accept.settings.as_str(), worker.accept.max_frame_bytes as usize), ("rate=1", MAX_FRAME));

    let large = Bytes::from(vec![5; 2 * MAX_FRAME_BEFORE_ACCEPT]);
    let events = Events { epoch: 42, first: 1, count: 1, events: large.clone() };
    worker.writer.send(&FromWorker { frame: Some(from_worker::Frame::Events(events)) }).await.unwrap();
    match reader.recv().await.unwrap().unwrap().frame {
        Some(from_worker::Frame::Events(events)) => assert_eq!(events.events, large),
        other => panic!("{other:?}"),
    }
    let command = CommandFrame { id: 1, command: None };
    writer.send(&FromGateway { frame: Some(from_gateway::Frame::Command(command)) }).await.unwrap();
    assert!(worker.reader.recv().await.unwrap().is_some());
    drop((reader, writer));
    assert!(worker.reader.recv().await.unwrap().is_none(), "the end of the pipe is the end");
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_the_secret_is_told_and_refused() {
    let (mut worker, incoming) = FakeWorker::pair();
    let secret = Secret::mint().unwrap();
    worker.say(from_worker::Frame::Hello(hello())).await;
    let pending = incoming.hello(LIMIT).await.unwrap();
    let (proven, ()) = tokio::join!(pending.challenge(&secret, LIMIT), async {
        worker.hear_challenge().await;
        worker.say(answer(&[0; 32])).await;
        assert_eq!(worker.hear_reject().await, "pipe.proof");
    });
    assert!(matches!(proven, Err(PipeError::WrongProof)), "{proven:?}");
}

#[tokio::test(start_paused = true)]
async fn neither_a_replayed_proof_nor_the_gateways_own_opens_the_door() {
    let secret = Secret::mint().unwrap();
    let mut recorded = Vec::new();
    for round in ["record", "replay", "echo"] {
        let (mut worker, incoming) = FakeWorker::pair();
        worker.say(from_worker::Frame::Hello(hello())).await;
        let pending = incoming.hello(LIMIT).await.unwrap();
        let (proven, ()) = tokio::join!(pending.challenge(&secret, LIMIT), async {
            let theirs = worker.hear_challenge().await;
            if round == "record" {
                recorded = proof::worker(&secret, SESSION, &[1; 32], &theirs.challenge).to_vec();
            }
            let shown = if round == "echo" { theirs.proof.to_vec() } else { recorded.clone() };
            worker.say(answer(&shown)).await;
        });
        match (round, proven) {
            ("record", Ok(_)) | (_, Err(PipeError::WrongProof)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_worker_says_nothing_to_a_gateway_that_cannot_prove_itself() {
    let secret = Secret::mint().unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
    let mut reader = MessageReader::<_, FromWorker>::new(FrameReader::new(far_read, MAX_FRAME));
    let mut writer = MessageWriter::<_, FromGateway>::new(FrameWriter::new(far_write, MAX_FRAME));
    let worker = handshake::start_worker(near_read, near_write, SESSION, &secret, fields(), LIMIT);
    let impostor = async {
        reader.recv().await.unwrap().unwrap();
        let challenge = Challenge { challenge: Bytes::from_static(&[2; 32]), proof: Bytes::from_static(&[3; 32]) };
        writer.send(&FromGateway { frame: Some(from_gateway::Frame::Challenge(challenge)) }).await.unwrap();
        reader.recv().await.unwrap()
    };
    let (worker, said) = tokio::join!(worker, impostor);
    assert!(matches!(worker, Err(PipeError::WrongProof)), "{worker:?}");
    assert_eq!(said, None);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_worker_learns_why() {
    let secret = Secret::mint().unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
    let worker = handshake::start_worker(near_read, near_write, SESSION, &secret, fields(), LIMIT);
    let gateway = async {
        let pending = Incoming::new(far_read, far_write, None).hello(LIMIT).await.unwrap();
        pending.reject("session.unknown", "no such session").await;
    };
    match tokio::join!(worker, gateway).0 {
        Err(PipeError::Rejected { code, message }) => {
            assert_eq!((code.as_str(), message.as_str()), ("session.unknown", "no such session"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn silence_ends_at_each_step() {
    let secret = Secret::mint().unwrap();
    let (_worker, incoming) = FakeWorker::pair();
    assert!(matches!(incoming.hello(LIMIT).await, Err(PipeError::Timeout { awaited: "Hello" })));

    let (mut worker, incoming) = FakeWorker::pair();
    worker.say(from_worker::Frame::Hello(hello())).await;
    let pending = incoming.hello(LIMIT).await.unwrap();
    assert!(matches!(pending.challenge(&secret, LIMIT).await, Err(PipeError::Timeout { awaited: "Answer" })));

    let (near, _far) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(near);
    let worker = handshake::start_worker(read, write, SESSION, &secret, fields(), LIMIT).await;
    assert!(matches!(worker, Err(PipeError::Timeout { awaited: "Challenge" })), "{worker:?}");
}

#[tokio::test(start_paused = true)]
async fn a_drip_of_bytes_does_not_extend_the_deadline() {
    let (near, far) = tokio::io::duplex(1 << 10);
    let (read, write) = tokio::io::split(far);
    let drip = async {
        let mut near = near;
        let header = 200u32.to_le_bytes();
        for byte in header.into_iter().chain(std::iter::repeat(0)) {
            near.write_all(&[byte]).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let incoming = Incoming::new(read, write, None);
    tokio::select! {
        () = drip => panic!("the drip has no end"),
        done = incoming.hello(LIMIT) => assert!(matches!(done, Err(PipeError::Timeout { .. })), "{done:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_that_cannot_be_is_refused() {
    for (bad, what) in [
        (Hello { session_id: String::new(), ..hello() }, "session"),
        (Hello { session_id: "s".repeat(129), ..hello() }, "session"),
        (Hello { challenge: Bytes::from_static(&[1; 31]), ..hello() }, "challenge"),
        (Hello { epoch: 0, ..hello() }, "epoch"),
        (Hello { backend: "b".repeat(65), ..hello() }, "backend"),
    ] {
        let (mut worker, incoming) = FakeWorker::pair();
        worker.say(from_worker::Frame::Hello(bad)).await;
        match incoming.hello(LIMIT).await {
            Err(PipeError::Handshake(why)) => assert!(why.contains(what), "{why}"),
            other => panic!("{other:?}"),
        }
    }
    let (mut worker, incoming) = FakeWorker::pair();
    worker.say(from_worker::Frame::Hello(Hello { protocol_version: 2, ..hello() })).await;
    assert!(matches!(incoming.hello(LIMIT).await, Err(PipeError::Version { theirs: 2, ours: PROTOCOL_VERSION })));
    assert_eq!(worker.hear_reject().await, "pipe.version");
}

#[tokio::test(start_paused = true)]
async fn frames_out_of_order_garbage_and_early_ends_are_told_apart() {
    let (mut worker, incoming) = FakeWorker::pair();
    worker.say(from_worker::Frame::Heartbeat(Heartbeat::default())).await;
    let done = incoming.hello(LIMIT).await;
    assert!(matches!(done, Err(PipeError::WrongOrder { awaited: "Hello", got: "Heartbeat" })), "{done:?}");

    let (mut worker, incoming) = FakeWorker::pair();
    worker.writer.push_raw(b"\x03\0\0\0\xff\xff\xff");
    worker.writer.flush().await.unwrap();
    assert!(matches!(incoming.hello(LIMIT).await, Err(PipeError::Malformed(_))));

    let (mut worker, incoming) = FakeWorker::pair();
    worker.writer.push_raw(b"\0\0\0\0");
    worker.writer.flush().await.unwrap();
    assert!(matches!(incoming.hello(LIMIT).await, Err(PipeError::WrongOrder { got: "an unknown frame", .. })));

    let (mut worker, incoming) = FakeWorker::pair();
    let over = "s".repeat(MAX_FRAME_BEFORE_ACCEPT);
    worker.say(from_worker::Frame::Hello(Hello { session_id: over, ..hello() })).await;
    assert!(matches!(incoming.hello(LIMIT).await, Err(PipeError::TooLarge { .. })));

    let (worker, incoming) = FakeWorker::pair();
    drop(worker);
    assert!(matches!(incoming.hello(LIMIT).await, Err(PipeError::Closed { awaited: "Hello" })));
}

#[tokio::test(start_paused = true)]
async fn a_worker_refuses_frame_limits_that_cannot_be() {
    let secret = Secret::mint().unwrap();
    let (near, far) = tokio::io::duplex(1 << 20);
    let ((near_read, near_write), (far_read, far_write)) = (tokio::io::split(near), tokio::io::split(far));
    let mut reader = MessageReader::<_, FromWorker>::new(FrameReader::new(far_read, MAX_FRAME));
    let mut writer = MessageWriter::<_, FromGateway>::new(FrameWriter::new(far_write, MAX_FRAME));
    let worker = handshake::start_worker(near_read, near_write, SESSION, &secret, fields(), LIMIT);
    let gateway = async {
        let Some(from_worker::Frame::Hello(hello)) = reader.recv().await.unwrap().unwrap().frame else { panic!() };
        let shown = proof::gateway(&secret, SESSION, &hello.challenge, &[2; 32]);
        let challenge = Challenge { challenge: Bytes::from_static(&[2; 32]), proof: shown.to_vec().into() };
        writer.send(&FromGateway { frame: Some(from_gateway::Frame::Challenge(challenge)) }).await.unwrap();
        reader.recv().await.unwrap().unwrap();
        let accept = Accept { max_frame_bytes: 1, ..Accept::default() };
        writer.send(&FromGateway { frame: Some(from_gateway::Frame::Accept(accept)) }).await.unwrap();
    };
    let worker = tokio::join!(worker, gateway).0;
    assert!(matches!(worker, Err(PipeError::Handshake(_))), "{worker:?}");
}
