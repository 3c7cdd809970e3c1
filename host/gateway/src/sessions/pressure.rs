//! The task that looks at a session's readers when the log's alarm says so: asks the back-pressure policy
//! about those that fall behind and tells them what to do; once a second it also gives memory back. Knows
//! lags and answers, no events. Invariant: the pump never waits for it, and a policy that does not answer
//! leaves a reader where it is: in the log up to the hard bounds.

use super::{
    Caller,
    session::{Session, Stop},
};
use crate::{
    error::{Code, Error},
    events::{
        Order, ReaderControl,
        pressure::{Answered, Ask, PressureBook, ReaderLag},
    },
    ids::KeyId,
    policies::Policies,
    telemetry::CloseReason,
    tls::Certificate,
};
use std::{collections::HashMap, sync::Arc, time::Duration};
use tidegate_policy::{Pressure, PressureAnswer, Principal};

const TRIM_EVERY: Duration = Duration::from_secs(1);

/// Runs until cancelled, with the session.
pub(super) async fn run(session: Arc<Session>, policies: Policies) {
    let log = &session.log;
    let mut book = PressureBook::new(session.lag_events_max);
    let mut tick = tokio::time::interval(TRIM_EVERY);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            () = log.pressure_alarm() => {}
            () = session.policy_changed.notified() => book.re_ask_all(),
            _ = tick.tick() => {
                log.trim();
                let floor = log.stats().held_after;
                session.with_items(|items| items.sweep(floor));
            }
        }
        let attached = log.readers();
        gather(&session, &attached);
        let readers: HashMap<u64, Arc<ReaderControl>> =
            attached.into_iter().filter(|reader| reader.is_external()).map(|reader| (reader.id(), reader)).collect();
        let lags = lags(&session, &readers);
        for ask in book.look(session.clock.monotonic_ms(), &lags) {
            let Some(reader) = readers.get(&ask.reader) else { continue };
            let answer = policies.host().backpressure(question(&session, reader, ask, readers.len())).await.value;
            book.answered(ask.reader, follow(&session, reader, answer, ask.lag));
        }
        log.set_next_alarm(book.next_alarm(log.head(), &self::lags(&session, &readers)));
    }
}

/// Lets the worker gather events for as long as every reader lingers: what it does not send by itself is not woken
/// for, read and written by itself either.
fn gather(session: &Session, readers: &[Arc<ReaderControl>]) {
    let wanted = readers.iter().map(|reader| reader.max_linger_ms()).min().unwrap_or(0);
    // Full: the next look tries again.
    if wanted != session.log.gather_ms() && session.tell_gather(wanted) {
        session.log.set_gather_ms(wanted);
    }
}

fn lags(session: &Session, readers: &HashMap<u64, Arc<ReaderControl>>) -> Vec<ReaderLag> {
    let head = session.log.head();
    readers
        .values()
        .map(|reader| ReaderLag { reader: reader.id(), lag: head.saturating_sub(reader.position()) })
        .collect()
}

fn question(session: &Session, reader: &ReaderControl, ask: Ask, readers: usize) -> Pressure {
    let stats = session.log.stats();
    Pressure {
        now: session.clock.unix_ms(),
        who: principal(session, reader),
        session: session.facts.clone(),
        reader: reader.name().to_owned(),
        lag_events: ask.lag,
        lag_events_max: session.lag_events_max,
        log_bytes: stats.bytes,
        log_bytes_max: stats.bytes_max,
        asked: ask.asked,
        since_ms: ask.since_ms,
        readers: readers as u32,
    }
}

fn principal(session: &Session, reader: &ReaderControl) -> Principal {
    let key = KeyId::parse(reader.key_id()).and_then(|id| session.key(&id));
    match key {
        Some(key) => Caller { key, peer: None, certificate: Certificate::default() }.principal(),
        // Revoked a moment ago: its stream is ending.
        None => Principal::new(reader.key_id(), Vec::new(), Vec::new(), Vec::new(), ""),
    }
}

/// Turns an answer into an order. Nothing here waits for the reader.
fn follow(session: &Session, reader: &ReaderControl, answer: PressureAnswer, lag: u64) -> Answered {
    match answer {
        PressureAnswer::Wait => Answered::Stays,
        PressureAnswer::Skip { keep_newest } => {
            reader.order(Order::Skip { keep_newest });
            Answered::Stays
        }
        PressureAnswer::Conflate => {
            reader.order(Order::Conflate);
            Answered::Stays
        }
        PressureAnswer::Disconnect { reason } => {
            let message = format!("EventQueueOverflow: {lag} events behind: {reason}");
            reader.order(Order::End(Error::new(Code::StreamPressure, message).with("lag", lag)));
            Answered::Leaves
        }
        PressureAnswer::FaultSession { reason } => {
            let reason = format!("a reader fell {lag} events behind and the back-pressure policy faults: {reason}");
            // Full: it is ending already.
            let _ending = session.stop.try_send(Stop { kill: true, why: CloseReason::Fault, reason });
            Answered::Leaves
        }
    }
}
