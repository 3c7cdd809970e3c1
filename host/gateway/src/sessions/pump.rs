//! The one task that drains a worker's frames, in order, once (S-03). Knows the log and the session's
//! replies; never looks at readers and never waits for anybody but the worker. Invariant: what a reply
//! says of items is known before any event that follows it is in the log.

use super::session::Session;
use std::{fmt, sync::atomic::Ordering};
use tidegate_pipe::{GatewayReader, GatewayWriter, PipeError};
use tidegate_proto::worker::v1::{FromGateway, from_worker};
use tokio::sync::mpsc;

/// Why a pump stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum PumpEnd {
    /// The worker closed the pipe, or died.
    Closed,
    /// It said goodbye first.
    Goodbye(String),
    /// It broke the contract; the text says how.
    Protocol(String),
}

/// Runs until the pipe ends or the worker breaks the contract.
pub(super) async fn run(session: &Session, mut reader: GatewayReader) -> PumpEnd {
    let mut farewell = None;
    loop {
        let frame = match reader.recv().await {
            Ok(Some(message)) => message.frame,
            Ok(None) => return farewell.map_or(PumpEnd::Closed, PumpEnd::Goodbye),
            Err(error) if error.is_protocol() => return PumpEnd::Protocol(error.to_string()),
            Err(PipeError::Truncated) => return PumpEnd::Protocol("the pipe ended within a frame".into()),
            Err(_broken) => return farewell.map_or(PumpEnd::Closed, PumpEnd::Goodbye),
        };
        match frame {
            Some(from_worker::Frame::Events(events)) => {
                let bytes = events.events.len() as u64;
                match session.log.append(events.epoch, events.first, events.count, events.events) {
                    Ok(_) => {
                        session.metrics.events.appended.inc_by(u64::from(events.count));
                        session.metrics.events.appended_bytes.inc_by(bytes);
                    }
                    Err(error) => return PumpEnd::Protocol(error.to_string()),
                }
            }
            Some(from_worker::Frame::Reply(reply)) => {
                let Some(result) = reply.result else {
                    return PumpEnd::Protocol("a reply has no result".into());
                };
                if !session.replied(reply.id, result) {
                    return PumpEnd::Protocol(format!("a reply to command {} that nobody sent", reply.id));
                }
            }
            Some(from_worker::Frame::Heartbeat(beat)) => {
                // Events alone are no sign of life: they may come from a thread of their own.
                session.beat_at.store(session.clock.monotonic_ms(), Ordering::Relaxed);
                session.busy_ms.store(u64::from(beat.busy_ms), Ordering::Relaxed);
            }
            Some(from_worker::Frame::AlarmTable(part)) => {
                if let Err(broken) = session.alarms.part(part) {
                    return PumpEnd::Protocol(broken.into());
                }
            }
            Some(from_worker::Frame::AlarmChange(change)) => match session.alarms.change(change) {
                Ok(ask) => session.alarms_taken(ask),
                Err(broken) => return PumpEnd::Protocol(broken.into()),
            },
            Some(from_worker::Frame::LastValues(told)) => {
                if let Err(error) = session.log.restore(told.epoch, &told.events) {
                    return PumpEnd::Protocol(error.to_string());
                }
            }
            Some(from_worker::Frame::Goodbye(goodbye)) => farewell = Some(goodbye.reason),
            Some(
                other @ (from_worker::Frame::Hello(_) | from_worker::Frame::Answer(_) | from_worker::Frame::Resend(_)),
            ) => {
                let name = tidegate_pipe::handshake::name(&other);
                return PumpEnd::Protocol(format!("{name} has no place in a running session"));
            }
            None => return PumpEnd::Protocol("a frame of an unknown kind".into()),
        }
    }
}

/// Writes what the session sends to its worker; several waiting frames go out in one write. Ends when the
/// session drops its side or the pipe breaks.
pub(super) async fn write(mut frames: mpsc::Receiver<FromGateway>, mut writer: GatewayWriter) -> Result<(), PipeError> {
    /// What may gather before a flush.
    const GATHER_BYTES: usize = 1 << 20;
    while let Some(frame) = frames.recv().await {
        writer.push(&frame)?;
        while writer.pending() < GATHER_BYTES {
            let Ok(frame) = frames.try_recv() else { break };
            writer.push(&frame)?;
        }
        writer.flush().await?;
    }
    Ok(())
}

impl fmt::Display for PumpEnd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the worker closed the pipe"),
            Self::Goodbye(reason) => write!(f, "the worker said goodbye: {reason}"),
            Self::Protocol(what) => write!(f, "the worker broke the protocol: {what}"),
        }
    }
}
