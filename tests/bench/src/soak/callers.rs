//! Commands, each of which asks the access policy: no answer of it is kept. A denial is an answer; anything else that
//! is not a result is a failure. Knows no settings.

use super::{Area, Swaps};
use crate::gateway::Session;
use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};
use tidegate_client::{
    Gateway,
    wire::{Value, value::Kind},
};

/// What callers saw.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// Begin and end of each, microseconds since 1970.
    times: Vec<(u64, u64)>,
    /// Which generation denied which half.
    pub(super) denials: HashSet<(u64, Area)>,
    pub(super) failed: u64,
}

/// One write after the other, until told to stop.
pub(super) async fn run(
    client: Gateway,
    session: Session,
    (area, handle): (Area, i32),
    stop: Arc<AtomicBool>,
) -> anyhow::Result<Calls> {
    let mut calls = Calls::default();
    let mut value = 0.0;
    while !stop.load(Ordering::Relaxed) {
        value += 1.0;
        let written = Value { kind: Some(Kind::Double(value)), data_type: 0 };
        let begin = now_us();
        let answer = client.write(&session.id, session.server, handle, written, 0).await;
        calls.times.push((begin, now_us()));
        let Err(error) = answer else { continue };
        let generation = error.fault().and_then(|fault| fault.details.get("generation")?.parse().ok());
        match (error.reason(), generation) {
            (Some("policy.denied"), Some(generation)) => {
                calls.denials.insert((generation, area));
            }
            _ => {
                if calls.failed < 5 {
                    eprintln!("a command failed: {error}");
                }
                calls.failed += 1;
            }
        }
    }
    Ok(calls)
}

fn now_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64
}

// === impl Calls ===

impl Calls {
    pub(super) fn add(&mut self, other: Self) {
        self.times.extend(other.times);
        self.denials.extend(other.denials);
        self.failed += other.failed;
    }

    pub(super) fn answered(&self) -> usize {
        self.times.len()
    }

    /// How long those took that were under way when a swap was recorded; its time is in whole milliseconds.
    pub(super) fn across(&self, swaps: &Swaps) -> Vec<u64> {
        let mut flips: Vec<u64> = swaps.good.iter().map(|swap| swap.at_unix_ms * 1_000).collect();
        flips.sort_unstable();
        let meets = |(begin, end): &&(u64, u64)| {
            let next = flips.partition_point(|flip| flip + 1_000 < *begin);
            flips.get(next).is_some_and(|flip| flip <= end)
        };
        self.times.iter().filter(meets).map(|(begin, end)| end.saturating_sub(*begin)).collect()
    }
}
