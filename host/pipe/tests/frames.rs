//! Frames: what goes in comes out, whatever the sizes and however the bytes are cut up; what is not a frame is a
//! typed error; and the events of a frame are a slice of its one allocation.

use bytes::Bytes;
use proptest::prelude::*;
use prost::Message as _;
use std::time::Duration;
use tidegate_pipe::{FrameReader, FrameWriter, MAX_FRAME, MAX_FRAME_BEFORE_ACCEPT, MessageReader, PipeError};
use tidegate_proto::worker::v1::{Events, FromGateway, FromWorker, Goodbye, from_worker};
use tokio::io::AsyncWriteExt as _;

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(future)
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(payload);
    bytes
}

fn goodbye(reason: &str) -> FromWorker {
    FromWorker { frame: Some(from_worker::Frame::Goodbye(Goodbye { reason: reason.to_owned() })) }
}

fn events(bytes: Vec<u8>) -> FromWorker {
    let frame = Events { epoch: 7, first: 1, count: 1, events: Bytes::from(bytes) };
    FromWorker { frame: Some(from_worker::Frame::Events(frame)) }
}

#[test]
fn the_events_of_a_frame_are_a_slice_of_its_one_allocation() {
    let message = events(vec![9; 300_000]);
    let bytes = framed(&message.encode_to_vec());
    run(async {
        let mut frames = FrameReader::new(bytes.as_slice(), MAX_FRAME);
        let frame = frames.read_frame().await.unwrap().unwrap();
        let range = frame.as_ptr_range();
        let decoded = FromWorker::decode(frame.clone()).unwrap();
        assert_eq!(decoded, message);
        let Some(from_worker::Frame::Events(events)) = decoded.frame else { panic!("not events") };
        let slice = events.events.as_ptr_range();
        assert!(range.start <= slice.start && slice.end <= range.end);
        assert!(frames.read_frame().await.unwrap().is_none());
    });
}

#[test]
fn a_frame_that_is_too_large_is_refused_before_it_is_read() {
    run(async {
        let header = (MAX_FRAME_BEFORE_ACCEPT as u32 + 1).to_le_bytes();
        let mut frames = FrameReader::new(header.as_slice(), MAX_FRAME_BEFORE_ACCEPT);
        match frames.read_frame().await {
            Err(PipeError::TooLarge { len, max }) => {
                assert_eq!((len, max), (MAX_FRAME_BEFORE_ACCEPT + 1, MAX_FRAME_BEFORE_ACCEPT));
            }
            other => panic!("{other:?}"),
        }
        let mut frames = FrameReader::new([0xFF; 4].as_slice(), MAX_FRAME);
        assert!(matches!(frames.read_frame().await, Err(PipeError::TooLarge { .. })));
    });
}

#[test]
fn a_writer_refuses_what_a_reader_would_and_goes_on() {
    run(async {
        let mut written = Vec::new();
        let mut frames = FrameWriter::new(&mut written, 64);
        assert!(matches!(frames.push(&goodbye(&"x".repeat(64))), Err(PipeError::TooLarge { max: 64, .. })));
        assert_eq!(frames.pending(), 0);
        frames.push(&goodbye("bye")).unwrap();
        assert!(frames.pending() > 0);
        frames.flush().await.unwrap();
        assert_eq!(frames.pending(), 0);
        drop(frames);
        assert_eq!(written, framed(&goodbye("bye").encode_to_vec()));
    });
}

#[test]
fn an_end_within_a_header_or_a_payload_is_not_an_end_in_order() {
    let whole = framed(b"payload");
    for len in 1..whole.len() {
        run(async {
            let mut frames = FrameReader::new(&whole[..len], MAX_FRAME);
            assert!(matches!(frames.read_frame().await, Err(PipeError::Truncated)), "{len}");
        });
    }
}

#[test]
fn a_cancelled_read_and_a_cancelled_write_lose_nothing() {
    run(async {
        let (mut far, near) = tokio::io::duplex(16);
        let message = goodbye("a reason that takes several rounds through sixteen bytes");
        let bytes = framed(&message.encode_to_vec());
        let mut reader = MessageReader::<_, FromWorker>::new(FrameReader::new(near, MAX_FRAME));
        for piece in bytes.chunks(3) {
            let pause = tokio::time::timeout(Duration::from_millis(1), reader.recv()).await;
            assert!(pause.is_err(), "nothing whole has come yet");
            far.write_all(piece).await.unwrap();
        }
        assert_eq!(reader.recv().await.unwrap().unwrap(), message);

        let (near, far) = tokio::io::duplex(16);
        let mut writer = FrameWriter::new(near, MAX_FRAME);
        let mut reader = MessageReader::<_, FromWorker>::new(FrameReader::new(far, MAX_FRAME));
        writer.push(&message).unwrap();
        assert!(tokio::time::timeout(Duration::from_millis(1), writer.flush()).await.is_err());
        writer.push(&message).unwrap();
        let (flushed, both) = tokio::join!(writer.flush(), async {
            (reader.recv().await.unwrap().unwrap(), reader.recv().await.unwrap().unwrap())
        });
        flushed.unwrap();
        assert_eq!(both, (message.clone(), message));
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
        run(async {
            let mut worker = MessageReader::<_, FromWorker>::new(FrameReader::new(bytes.as_slice(), 256));
            while let Ok(Some(_)) = worker.recv().await {}
            let mut gateway = MessageReader::<_, FromGateway>::new(FrameReader::new(bytes.as_slice(), 256));
            while let Ok(Some(_)) = gateway.recv().await {}
        });
        // And behind a header that fits, so that the decoder sees them.
        let whole = framed(&bytes);
        run(async {
            let mut worker = MessageReader::<_, FromWorker>::new(FrameReader::new(whole.as_slice(), MAX_FRAME));
            let _any = worker.recv().await;
            let mut gateway = MessageReader::<_, FromGateway>::new(FrameReader::new(whole.as_slice(), MAX_FRAME));
            let _any = gateway.recv().await;
        });
    }

    #[test]
    fn frames_round_trip_however_the_bytes_are_cut_up(
        sizes in proptest::collection::vec(prop_oneof![0usize..40, 8_000usize..9_000, 16_000usize..70_000], 1..8),
        room in prop_oneof![1usize..8, 1_000usize..100_000],
    ) {
        let messages: Vec<_> = sizes.iter().map(|&size| events((0..size).map(|n| n as u8).collect())).collect();
        let (near, far) = tokio::io::duplex(room.max(if sizes.iter().sum::<usize>() > 1_000 { 997 } else { 1 }));
        let received = run(async {
            let mut writer = FrameWriter::new(near, MAX_FRAME);
            let mut reader = MessageReader::<_, FromWorker>::new(FrameReader::new(far, MAX_FRAME));
            let send = async {
                for message in &messages {
                    writer.push(message).unwrap();
                }
                writer.flush().await.unwrap();
                drop(writer);
            };
            let receive = async {
                let mut received = Vec::new();
                while let Some(message) = reader.recv().await.unwrap() {
                    received.push(message);
                }
                received
            };
            tokio::join!(send, receive).1
        });
        prop_assert_eq!(received, messages);
    }
}
