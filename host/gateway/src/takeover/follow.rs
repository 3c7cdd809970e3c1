//! The side that follows: prepares itself beside the gateway that serves, takes what that lets go, and accepts only when
//! it was told to go. Knows `App` as a whole. Invariants: nothing that only one gateway may have is opened before it was let
//! go; and whatever goes wrong before `Go` leaves every worker to the gateway before.

use super::{
    PROTOCOL,
    line::{Line, Word, broken, result, unexpected},
    socket,
    sockets::Given,
};
use crate::{
    app::{App, Beginning},
    config::ServeConfig,
    data_dir::DataDir,
    error::{CODES, Code, Error, Result},
    policies::{self, Waiting},
    storage,
    tls::Tls,
};
use std::{io, time::Duration};
use tokio::{
    net::UnixStream,
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// A gateway that answers at all answers within that.
const STEP: Duration = Duration::from_secs(10);
/// From `Ready` to `Released`: commands and streams have their last words, tasks are joined. All of that has bounds of
/// its own; this is more than their sum.
const RELEASE: Duration = Duration::from_secs(60);
/// After the gateway before has ended, the lock is free at once.
const LOCK: Duration = Duration::from_secs(3);
const LOCK_PAUSE: Duration = Duration::from_millis(5);
/// From `Started` to an answer. Who does not answer has nothing any more that we could wait for.
const ANSWER: Duration = Duration::from_secs(10);

/// How the gateway came to serve.
#[derive(Debug)]
pub enum Followed {
    /// There was none before it.
    Nobody(Box<App>),
    /// How long no connection was accepted.
    Gateway(Box<App>, Duration),
    /// It was asked to stop before it let anybody in, and the one before goes on.
    Stopped,
}

/// Follows the gateway that works on the folder; without one it starts as usual. `waiting.stop`: it is asked to end; once it has let
/// somebody in that is the caller's business.
pub async fn follow(config: ServeConfig, waiting: &Waiting) -> Result<Followed> {
    let Some((data, mut line)) = call(&config).await? else {
        return alone(config, waiting).await;
    };
    match Box::pin(take(&config, &data, &mut line, waiting)).await {
        Ok(Some(followed)) => Ok(followed),
        Ok(None) => {
            tracing::warn!("the gateway before has died; starting as usual");
            // What a process had open goes one after the other.
            drop(locked(&config).await?);
            alone(config, waiting).await
        }
        Err(error) => {
            // For the log of the other one. It may be gone, or have refused.
            let _gone = line.say(&Word::Failed { message: error.to_string() }).await;
            if waiting.stop.is_cancelled() {
                tracing::info!(%error, "does not take over");
                return Ok(Followed::Stopped);
            }
            Err(error)
        }
    }
}

/// Starts as usual.
async fn alone(config: ServeConfig, waiting: &Waiting) -> Result<Followed> {
    let given = Given::by_service_manager(&config)?;
    let mut app = match App::begin(config, Beginning::Afresh(given), waiting).await {
        Ok(app) => app,
        Err(error) if error.code() == Code::Draining => return Ok(Followed::Stopped),
        Err(error) if error.code() == Code::DataFolderLocked => {
            let why = "and does not hand over: it is of an earlier version, or ending";
            return Err(Error::new(Code::DataFolderLocked, format!("{}, {why}", error.message())));
        }
        Err(error) => return Err(error),
    };
    app.open();
    Ok(Followed::Nobody(Box::new(app)))
}

/// The gateway that serves, if there is one.
async fn call(config: &ServeConfig) -> Result<Option<(DataDir, Line)>> {
    if !config.data.exists() {
        return Ok(None);
    }
    let data = DataDir::peek(&config.data)?;
    let nobody = |error: &io::Error| matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused);
    match UnixStream::connect(socket(&data)).await {
        Ok(stream) => Ok(Some((data, Line::new(stream).map_err(|error| broken(&error))?))),
        Err(error) if nobody(&error) => Ok(None),
        Err(error) => Err(broken(&error)),
    }
}

/// `None`: the other one has died before it let anything go.
async fn take(config: &ServeConfig, data: &DataDir, line: &mut Line, waiting: &Waiting) -> Result<Option<Followed>> {
    let stop = &waiting.stop;
    let instance = data.instance().ok_or_else(|| Error::new(Code::TakeOverFailed, "the folder has no instance id"))?;
    let hello = Word::Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        instance: instance.as_str().to_owned(),
        schema: storage::SCHEMA,
        pipe: tidegate_pipe::PROTOCOL_VERSION,
    };
    line.say(&hello).await.map_err(|error| broken(&error))?;
    let (grpc, http, within) = match next(line, STEP, stop).await? {
        Some(Word::Welcome { pid, version, schema, grpc, http, within_ms }) => {
            tracing::info!(pid, version, schema, "preparing to take over");
            if schema > storage::SCHEMA {
                let message = format!("the database has schema {schema}; this program knows up to {}", storage::SCHEMA);
                return Err(Error::new(Code::StorageNewer, message));
            }
            (grpc, http, Duration::from_millis(within_ms))
        }
        Some(Word::Refused { code, message }) => {
            let code = CODES.iter().find(|row| row.text == code).map_or(Code::TakeOverRefused, |row| row.code);
            return Err(Error::new(code, message));
        }
        None if has_died(data) => return Ok(None),
        other => return Err(unexpected(other)),
    };
    let prepare = async {
        if config.workers.orphan_lifetime.is_zero() {
            let why = "this gateway has no --enable-orphan-reattach: sessions would end with the one before";
            return Err(Error::new(Code::TakeOverRefused, why));
        }
        let given = Given::others(config, grpc, http).await?;
        if let Some(settings) = config.tls.clone() {
            // Read again at the start; what is wrong with it is to be known now.
            drop(Tls::load(settings, crate::telemetry::Metrics::new().tls)?);
        }
        let warm = policies::warm(config, data.policy_store(), waiting).await?;
        match warm.refused() {
            [] => Ok((given, warm)),
            refused => {
                let message = format!("policies that serve now would not: {}", refused.join("; "));
                Err(Error::new(Code::PolicyRefused, message))
            }
        }
    };
    let (mut given, warm) = tokio::select! {
        prepared = prepare => prepared?,
        // It has nothing to say before we are ready.
        heard = line.hear() => return match result(heard)? {
            None if has_died(data) => Ok(None),
            other => Err(unexpected(other)),
        },
        () = stop.cancelled() => return Err(stopped()),
    };
    // Whether it is gone is heard in a moment.
    let _gone = line.say(&Word::Ready).await;
    match next(line, RELEASE, stop).await? {
        Some(Word::Sockets { names }) => given.received(&names, line.take_descriptors(), config)?,
        None if has_died(data) => return Ok(None),
        other => return Err(unexpected(other)),
    }
    let received = Instant::now();
    let paused = match next(line, RELEASE, stop).await? {
        Some(Word::Released { paused_ms }) => Duration::from_millis(paused_ms),
        // It died on the way: what it had is free, and what it left waits.
        None => received.elapsed(),
        other => return Err(unexpected(other)),
    };
    let released = Instant::now();
    let data = locked(config).await?;
    let mut app =
        App::begin(config.clone(), Beginning::Following { data, given, warm: Box::new(warm) }, waiting).await?;
    match agreed(&app, line, released + within, stop).await {
        // Until the doors are open the other one takes a word to the contrary.
        Ok(()) if !stop.is_cancelled() => {}
        Ok(()) => {
            app.give_up().await;
            return Err(stopped());
        }
        Err(error) => {
            app.give_up().await;
            return Err(error);
        }
    }
    app.open();
    let paused = paused + released.elapsed();
    // Whether it hears that or not: it has let everything go.
    let _gone = line.say(&Word::Serving).await;
    Ok(Some(Followed::Gateway(Box::new(app), paused)))
}

/// Whether one that hung up has died: who ends in order takes the socket's file along, and was asked not to be followed.
fn has_died(data: &DataDir) -> bool {
    socket(data).exists()
}

/// Returns when the workers are back and the other one has said `Go`, or has ended.
async fn agreed(app: &App, line: &mut Line, deadline: Instant, stop: &CancellationToken) -> Result<()> {
    tokio::select! {
        adopted = timeout_at(deadline, app.adopted()) => match adopted {
            Ok(adopted) => adopted?,
            Err(_elapsed) => return Err(Error::new(Code::TakeOverFailed, "workers did not come back in time")),
        },
        // `None`: it died; whoever has the folder goes on.
        heard = said(line) => return Err(heard?),
        () = stop.cancelled() => return Err(stopped()),
    }
    if line.say(&Word::Started).await.is_err() {
        return Ok(());
    }
    let answered = tokio::select! {
        answered = timeout(ANSWER, line.hear()) => answered,
        () = stop.cancelled() => return Err(stopped()),
    };
    match answered {
        Ok(heard) => match result(heard)? {
            Some(Word::Go) | None => Ok(()),
            other => Err(unexpected(other)),
        },
        Err(_elapsed) => {
            tracing::warn!("the gateway before does not answer; going on without its word");
            Ok(())
        }
    }
}

/// What is said while workers are awaited, which is nothing, or the way back. Pends once the other one has ended.
async fn said(line: &mut Line) -> Result<Error> {
    match result(line.hear().await)? {
        None => std::future::pending().await,
        other => Ok(unexpected(other)),
    }
}

async fn next(line: &mut Line, within: Duration, stop: &CancellationToken) -> Result<Option<Word>> {
    let heard = tokio::select! {
        heard = timeout(within, line.hear()) => heard,
        () = stop.cancelled() => return Err(stopped()),
    };
    let late = |_elapsed| Error::new(Code::TakeOverFailed, "the gateway that serves does not answer");
    result(heard.map_err(late)?)
}

/// The folder with its lock, which the gateway before has let go, or lost with its life.
async fn locked(config: &ServeConfig) -> Result<DataDir> {
    let until = Instant::now() + LOCK;
    loop {
        match DataDir::open(&config.data) {
            Err(error) if error.code() == Code::DataFolderLocked && Instant::now() < until => sleep(LOCK_PAUSE).await,
            opened => return opened,
        }
    }
}

fn stopped() -> Error {
    Error::new(Code::TakeOverFailed, "the gateway that was to take over was asked to stop")
}
