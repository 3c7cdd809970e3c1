//! What `wire` promises: it agrees with prost on what is right, names what is wrong, and survives
//! anything. Also makes frames for the tests of its neighbours.

use super::*;
use bytes::BufMut as _;
use proptest::prelude::*;
use prost::Message as _;
use tidegate_proto::v1;

/// One event as a worker sends it, with its tag and length.
pub(in crate::events) fn prefixed(event: &v1::Event) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.put_u8(EVENT_TAG);
    event.encode_length_delimited(&mut bytes).expect("a vector grows");
    bytes
}

/// An event of a kind, with `filler` bytes of text in it where the kind carries a value.
pub(in crate::events) fn event(sequence: u64, item: u64, kind: Kind, filler: usize) -> v1::Event {
    use v1::{event::Body, value};
    let value = v1::Value { kind: Some(value::Kind::Text("x".repeat(filler))), data_type: 0 };
    let body = match kind {
        Kind::Other => None,
        Kind::DataChange => Some(Body::DataChange(v1::DataChange {
            value: Some(value),
            quality: 192,
            time: None,
            statuses: vec![v1::MxStatus { success: 1, ..Default::default() }],
        })),
        Kind::WriteComplete => Some(Body::WriteComplete(v1::WriteComplete { statuses: vec![] })),
        Kind::OperationComplete => Some(Body::OperationComplete(v1::OperationComplete { statuses: vec![] })),
        Kind::BufferedDataChange => Some(Body::BufferedDataChange(v1::BufferedDataChange {
            data_type: 1,
            values: vec![value],
            ..Default::default()
        })),
    };
    v1::Event { sequence, item_key: item, server_handle: 1, item_handle: 300, body }
}

const KINDS: [Kind; 5] =
    [Kind::Other, Kind::DataChange, Kind::WriteComplete, Kind::OperationComplete, Kind::BufferedDataChange];

fn index(bytes: &[u8], first: u64, count: u32) -> Result<Vec<Indexed>, FrameError> {
    let mut found = Vec::new();
    walk(bytes, first, count, |entry| found.push(entry)).map(|()| found)
}

fn frame(first: u64, shapes: &[(u64, usize, usize)]) -> Vec<u8> {
    let events = shapes.iter().enumerate();
    events
        .flat_map(|(nth, (item, kind, size))| prefixed(&event(first + nth as u64, *item, KINDS[*kind], *size)))
        .collect()
}

// shows: S-17
#[test]
fn each_kind_of_event_is_found_where_it_is() {
    let shapes: Vec<_> = (0..5).map(|kind| (kind as u64 * 7, kind, 20)).collect();
    let bytes = frame(9, &shapes);
    let found = index(&bytes, 9, 5).expect("a right frame");
    for (nth, entry) in found.iter().enumerate() {
        assert_eq!((entry.item, entry.kind), (nth as u64 * 7, KINDS[nth]));
        let end = found.get(nth + 1).map_or(bytes.len(), |next| next.offset as usize);
        let alone = &bytes[entry.offset as usize..end];
        let decoded = v1::Event::decode(&alone[strip_prefix_len(alone)..]).expect("an event");
        assert_eq!(decoded, event(9 + nth as u64, nth as u64 * 7, KINDS[nth], 20));
    }
}

#[test]
fn what_is_wrong_is_named() {
    let bytes = frame(5, &[(1, 1, 3), (1, 1, 3)]);
    assert_eq!(index(&bytes, 6, 2), Err(FrameError::Hole { expected: 6, got: 5 }));
    assert_eq!(index(&bytes, 5, 1), Err(FrameError::Count { declared: 1, found: 2 }));
    assert_eq!(index(&bytes, 5, 3), Err(FrameError::Count { declared: 3, found: 2 }));
    assert_eq!(index(&bytes, 5, 0), Err(FrameError::Count { declared: 0, found: 0 }));
    assert!(matches!(index(&bytes, 5, u32::MAX), Err(FrameError::Count { .. })));
    assert_eq!(index(&bytes, u64::MAX, 2), Err(FrameError::Exhausted));
    let jump: Vec<u8> = [frame(5, &[(1, 1, 3)]), frame(7, &[(1, 1, 3)])].concat();
    assert_eq!(index(&jump, 5, 2), Err(FrameError::Hole { expected: 6, got: 7 }));
    let last = frame(u64::MAX, &[(1, 1, 3)]);
    assert_eq!(index(&last, u64::MAX, 1).map(|found| found.len()), Ok(1));
}

#[test]
fn malformed_events_are_refused() {
    let whole = |body: &[u8]| [&[EVENT_TAG, (9 + body.len()) as u8, 0x09, 1, 0, 0, 0, 0, 0, 0, 0], body].concat();
    for (body, what) in [
        (&[0x09, 1, 0, 0, 0, 0, 0, 0, 0][..], "a second sequence"),
        (&[0x18, 1, 0x11, 1, 0, 0, 0, 0, 0, 0, 0], "an item key that is late"),
        (&[0x19, 1, 0, 0, 0, 0, 0, 0, 0], "a handle of fixed size"),
        (&[0x28, 1], "a body that is a number"),
        (&[0x2A, 0, 0x32, 0], "two bodies"),
        (&[0x2A, 5, 0], "a body longer than its event"),
        (&[0x00, 0], "field zero"),
        (&[0x4B, 0x4C], "a group"),
        (&[0x48, 0x80], "a number without end"),
        (&[0x48, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x02], "a number of more than 64 bits"),
    ] {
        assert!(matches!(index(&whole(body), 1, 1), Err(FrameError::Malformed { .. })), "{what}");
    }
    // An unknown field of a later version is passed on.
    assert_eq!(index(&whole(&[0x4D, 1, 2, 3, 4]), 1, 1).map(|found| found.len()), Ok(1));
}

proptest! {
    #[test]
    fn hostile_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), first: u64, count in 0u32..40) {
        let _ = index(&bytes, first, count);
    }

    #[test]
    fn mutated_frames_never_panic_and_what_passes_has_its_sequences(
        shapes in prop::collection::vec((0u64..5, 0usize..5, 0usize..200), 1..12),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = frame(3, &shapes);
        let untouched = changes.is_empty() && cut.is_none();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let found = index(&bytes, 3, shapes.len() as u32);
        prop_assert!(found.is_ok() || !untouched);
        if let Ok(found) = found {
            prop_assert_eq!(found.len(), shapes.len());
            for (nth, entry) in found.iter().enumerate() {
                let alone = &bytes[entry.offset as usize..];
                let start = strip_prefix_len(alone);
                prop_assert_eq!(&alone[start + 1..start + 9], &(3 + nth as u64).to_le_bytes()[..]);
            }
        }
    }

    #[test]
    fn header_and_events_are_one_message(
        epoch: u64, from: u64, to: u64, generation: u64, filtered: u64, conflated: u64, lag: u64,
        zeroes in 0u8..128, shapes in prop::collection::vec((0u64..5, 0usize..5, 0usize..200), 0..20),
    ) {
        let keep = |bit: u8, value: u64| if zeroes >> bit & 1 == 1 { 0 } else { value };
        let header = BatchHeader {
            epoch: keep(0, epoch), from: keep(1, from), to: keep(2, to), generation: keep(3, generation),
            filtered: keep(4, filtered), conflated: keep(5, conflated), lag: keep(6, lag),
        };
        let payload = frame(1, &shapes);
        let encoded = header.encode(payload.len());
        let message = [encoded.message(), &payload].concat();
        prop_assert_eq!(encoded.grpc()[0], 0);
        prop_assert_eq!(&encoded.grpc()[1..5], &(message.len() as u32).to_be_bytes()[..]);
        let expected = v1::StreamEventsResponse {
            message: Some(v1::stream_events_response::Message::Batch(v1::EventBatch {
                epoch: header.epoch, from: header.from, to: header.to, generation: header.generation,
                filtered: header.filtered, conflated: header.conflated, lag: header.lag,
                events: shapes.iter().enumerate()
                    .map(|(nth, (item, kind, size))| event(1 + nth as u64, *item, KINDS[*kind], *size)).collect(),
            })),
        };
        prop_assert_eq!(v1::StreamEventsResponse::decode(&message[..]).expect("a message"), expected.clone());
        prop_assert_eq!(message, expected.encode_to_vec());
    }
}
