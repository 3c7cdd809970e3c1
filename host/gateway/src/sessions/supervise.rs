//! The life of one worker from proof to reaped process: owns the process, watches pipe, heartbeats and
//! requests to stop, and is the only place that moves a session's state. Knows no readers.
//! Invariant: when this task ends the process is reaped, the log is closed and no command waits.

use super::{
    ending::elsewhere,
    pump::{self, PumpEnd},
    session::{Session, State, Stop},
};
use crate::{
    error::{Code, Error},
    telemetry::CloseReason,
    workers::Worker,
};
use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};
use tidegate_proto::worker::v1::{FromGateway, Shutdown, from_gateway};
use tokio::sync::mpsc;

/// How long a worker may stay silent, hang in one command, or take to end.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Beyond the heartbeat interval (15 s by default).
    pub silence: Duration,
    /// A command that runs longer is hung, whatever the heartbeats say (75 s by default).
    pub stuck: Duration,
    /// From the request to end until the kill.
    pub shutdown: Duration,
}

/// After one sign of the end, how long to wait for the other (pipe and process).
const SETTLE: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A look that comes later than this means that the gateway stood still (stopped, suspended, starved). Guessed.
const STOOD_STILL: Duration = Duration::from_secs(2);
/// How long commands may still be answered before a worker is left to another gateway: everybody else waits for that
/// one meanwhile. Guessed.
const ANSWERS: Duration = Duration::from_secs(2);

/// Why the worker's life ended.
enum End {
    Stop(Stop),
    Fault { cause: String, protocol: bool },
}

pub(super) async fn run(
    session: Arc<Session>,
    worker: Worker,
    frames: mpsc::Receiver<FromGateway>,
    to_worker: mpsc::Sender<FromGateway>,
    mut stops: mpsc::Receiver<Stop>,
    patience: Patience,
) {
    let Worker { reader, writer, mut process, .. } = worker;
    let pumped = session.clone();
    let mut pump = tokio::spawn(async move { pump::run(&pumped, reader).await });
    let write = tokio::spawn(pump::write(frames, writer));

    let end = loop {
        break tokio::select! {
            biased;
            stop = stops.recv() => match stop {
                // A reader came while the sweep's word was on its way: what ran out runs again (S-12).
                Some(stop) if stop.is_sweep() && session.readers() > 0 => continue,
                Some(stop) if stop.why == CloseReason::Fault => End::Fault { cause: stop.reason, protocol: false },
                Some(stop) => End::Stop(stop),
                // The session holds a sender, so this arm is for the type only.
                None => End::Stop(Stop { kill: true, why: CloseReason::Shutdown, reason: "dropped".into() }),
            },
            ended = &mut pump => {
                // The exit tells more than the broken pipe: give it a moment.
                let exit = tokio::time::timeout(SETTLE, process.wait()).await.ok();
                fault(ended.unwrap_or_else(|panic| PumpEnd::Protocol(format!("the pump failed: {panic}"))), exit)
            }
            exit = process.wait() => {
                // What the worker wrote before it died is still in the pipe.
                let ended = tokio::time::timeout(SETTLE, &mut pump).await.ok().and_then(Result::ok);
                fault(ended.unwrap_or(PumpEnd::Closed), Some(exit))
            }
            cause = watch(&session, patience) => End::Fault { cause, protocol: false },
        };
    };

    match end {
        End::Stop(stop) if stop.why == CloseReason::Left => {
            session.state.send_replace(State::Leaving(stop.reason.clone()));
            // At once: should this task be ended while it waits, the worker is not.
            process.release();
            // Nothing new is sent; what is on its way gets its answer, or its outcome is unknown.
            let _late = tokio::time::timeout(ANSWERS, session.until_idle()).await;
            // Here the pipe ends. What was not pumped is in the worker's tail.
            pump.abort();
            write.abort();
            let _gone = tokio::join!(pump, write);
            session.end_commands(elsewhere(Code::Draining, &stop.reason));
            session.end_streams(elsewhere(Code::StreamDraining, &stop.reason));
            session.state.send_replace(State::Closed(stop.why, stop.reason));
        }
        End::Stop(stop) => {
            session.state.send_replace(State::Closing(stop.reason.clone()));
            if !stop.kill {
                let deadline_ms = patience.shutdown.as_millis() as u32;
                let shutdown = Shutdown { deadline_ms, reason: stop.reason.clone() };
                // Full: the worker does not read, and the kill below is what is left.
                let _full = to_worker.try_send(FromGateway { frame: Some(from_gateway::Frame::Shutdown(shutdown)) });
                tokio::select! {
                    _exit = process.wait() => {}
                    () = tokio::time::sleep(patience.shutdown) => { session.metrics.workers.killed.inc(); },
                    () = hurried(&mut stops) => { session.metrics.workers.killed.inc(); },
                }
            }
            process.kill().await;
            settle(&mut pump, &write).await;
            session.end_commands(Error::new(Code::SessionClosed, format!("the session was closed: {}", stop.reason)));
            session.end_streams(if stop.why == CloseReason::Shutdown {
                let message = format!("the session ends with its gateway: {}", stop.reason);
                Error::new(Code::StreamDraining, message).with("session_goes_on", false)
            } else {
                Error::new(Code::StreamSessionEnded, format!("the session was closed: {}", stop.reason))
            });
            session.state.send_replace(State::Closed(stop.why, stop.reason));
        }
        End::Fault { cause, protocol } => {
            process.kill().await;
            settle(&mut pump, &write).await;
            let words = process.last_words();
            let cause = if words.is_empty() { cause } else { format!("{cause}; it said: {words}") };
            tracing::warn!(session = %session.identity.id, cause, "session faulted");
            session.metrics.sessions.faulted.inc();
            if protocol {
                session.metrics.workers.protocol_errors.inc();
            }
            session.state.send_replace(State::Faulted(cause.clone()));
            session.end_commands(Error::new(Code::SessionFaulted, format!("the session is faulted: {cause}")));
            session.end_streams(Error::new(Code::SessionFaulted, format!("the session is faulted: {cause}")));
            let reason = stops.recv().await.map_or_else(String::new, |stop| stop.reason);
            session.state.send_replace(State::Closed(CloseReason::Fault, reason));
        }
    }
}

/// Returns when a second request to stop asks for a kill, and soon when everybody waits for another gateway.
async fn hurried(stops: &mut mpsc::Receiver<Stop>) {
    while let Some(stop) = stops.recv().await {
        if stop.kill {
            return;
        }
        if stop.why == CloseReason::Left {
            return tokio::time::sleep(ANSWERS).await;
        }
    }
    std::future::pending().await
}

/// Ends both tasks; the pump first gets what is left in the pipe.
async fn settle(
    pump: &mut tokio::task::JoinHandle<PumpEnd>,
    write: &tokio::task::JoinHandle<Result<(), tidegate_pipe::PipeError>>,
) {
    if !pump.is_finished() && tokio::time::timeout(SETTLE, &mut *pump).await.is_err() {
        pump.abort();
    }
    write.abort();
}

fn fault(ended: PumpEnd, exit: Option<String>) -> End {
    let protocol = matches!(ended, PumpEnd::Protocol(_));
    let cause = match (ended, exit) {
        (PumpEnd::Closed, Some(exit)) => format!("the worker {exit}"),
        (ended, Some(exit)) => format!("{ended}, then {exit}"),
        (ended, None) => ended.to_string(),
    };
    End::Fault { cause, protocol }
}

/// Returns with the cause when the worker is silent or hung. Time in which the gateway itself stood still is nobody's
/// silence: what the worker said meanwhile waits to be read.
async fn watch(session: &Session, patience: Patience) -> String {
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    let mut looked = Instant::now();
    let mut listens_since = 0;
    loop {
        look.tick().await;
        let now = session.clock.monotonic_ms();
        if looked.elapsed() > LOOK_EVERY + STOOD_STILL {
            tracing::warn!(session = %session.identity.id, "the gateway stood still; its worker is not blamed for it");
            listens_since = now;
        }
        looked = Instant::now();
        let silent = now.saturating_sub(session.beat_at.load(Ordering::Relaxed).max(listens_since));
        if silent > patience.silence.as_millis() as u64 {
            return format!("the worker was silent for {silent} ms");
        }
        let busy = session.busy_ms.load(Ordering::Relaxed);
        if busy > 0 && busy + silent > patience.stuck.as_millis() as u64 {
            return format!("the worker hung in one command for {} ms", busy + silent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // shows: S-14
    #[tokio::test(start_paused = true)]
    async fn a_session_that_is_being_closed_holds_up_no_other_gateway_for_long() {
        let (ask, mut stops) = mpsc::channel(4);
        let stop = |kill, why| ask.try_send(Stop { kill, why, reason: String::new() }).expect("room");
        let began = tokio::time::Instant::now();
        stop(false, CloseReason::Client);
        let patience = tokio::time::timeout(ANSWERS * 2, hurried(&mut stops));
        assert!(patience.await.is_err(), "who asks once more hurries nobody");
        stop(false, CloseReason::Left);
        hurried(&mut stops).await;
        assert_eq!(began.elapsed(), ANSWERS * 3);
        stop(true, CloseReason::Kill);
        hurried(&mut stops).await;
        assert_eq!(began.elapsed(), ANSWERS * 3, "at once");
    }
}
