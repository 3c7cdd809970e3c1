//! The side that hands over: lets everything go, waits for the one that follows, and goes back to work when that comes
//! to nothing. Knows `App` as a whole. Invariants: nothing is written between `Released` and the way back; and the way back
//! begins when the follower has ended, if need be by force.

use super::{
    desk::Standby,
    line::{Line, Peer, Word, broken, result, unexpected},
    sockets::{NAMES, Sockets},
};
use crate::{
    app::{App, Beginning},
    config::ServeConfig,
    error::{Code, Error, Result},
    policies::Waiting,
};
use std::{sync::Arc, time::Duration};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// From `Go` to `Serving`: starts a few tasks, so longer means that it hangs, and it has everything by then.
const SERVING: Duration = Duration::from_secs(10);
/// From `Back` to the end of the follower by itself. It has workers to leave.
const FAREWELL: Duration = Duration::from_secs(5);
/// How long the way back is tried: a disk may be full just now.
const BACK: Duration = Duration::from_secs(30);
/// How long workers are awaited before clients are let in again. Guessed.
const RETURN: Duration = Duration::from_secs(2);
const BACK_PAUSE: Duration = Duration::from_millis(100);

/// What became of a hand-over.
#[derive(Debug)]
pub enum Outcome {
    /// The other one serves; this process has nothing left to do.
    Gone,
    /// This one serves on.
    Back(Box<App>),
}

/// Why a hand-over came to nothing.
#[derive(Debug)]
struct Undone {
    error: Error,
    /// The follower is silent past its time, so there is nobody to say farewell to.
    hangs: bool,
}

/// How long a follower may take: workers must not give up meanwhile, nor on the way back.
pub(super) fn within(config: &ServeConfig) -> Duration {
    config.take_over.min(config.workers.orphan_lifetime / 2)
}

/// Hands everything over. `succeeded` is called with the follower's process once it serves. `stop`: this gateway is asked to
/// end; until the follower is ready that takes everything back, so that it ends here as at any other time. An error: there is
/// no way back either, and nobody serves.
pub async fn give(
    app: App,
    standby: Standby,
    stop: &CancellationToken,
    succeeded: impl FnOnce(u32),
) -> Result<Outcome> {
    let Standby { mut line, peer, version, schema, _place } = standby;
    let (config, sockets) = (app.config().clone(), app.sockets());
    let pid = peer.pid;
    let names = NAMES.map(str::to_owned).to_vec();
    if let Err(error) = line.say_with(&Word::Sockets { names }, &sockets.descriptors()).await {
        tracing::warn!(%error, pid, "the gateway that wanted to take over is gone");
        return Ok(Outcome::Back(Box::new(app)));
    }
    tracing::info!(pid, version, "handing over");
    let paused = Instant::now();
    app.hand_over(schema).await;
    match follow_up(&mut line, pid, paused, within(&config), stop).await {
        Ok(()) => {
            sockets.leave();
            succeeded(pid);
            tracing::info!(pid, version, "handed over");
            Ok(Outcome::Gone)
        }
        Err(Undone { error, hangs }) => {
            tracing::error!(%error, pid, version, "the hand-over came to nothing; this gateway goes on");
            let _gone = line.say(&Word::Back { message: error.message().to_owned() }).await;
            // Nobody is served meanwhile.
            end(&mut line, &peer, if hangs { Duration::ZERO } else { FAREWELL }).await;
            let app = back(&config, &sockets, &peer).await?;
            let paused_ms = paused.elapsed().as_millis() as u64;
            tracing::info!(paused_ms, "serving again");
            Ok(Outcome::Back(Box::new(app)))
        }
    }
}

async fn follow_up(
    line: &mut Line,
    pid: u32,
    paused: Instant,
    within: Duration,
    stop: &CancellationToken,
) -> Result<(), Undone> {
    let failed = |why: String| Error::new(Code::TakeOverFailed, why);
    let stopped = || failed("the gateway that was to hand over was asked to stop".into());
    if stop.is_cancelled() {
        return Err(stopped().into());
    }
    let paused_ms = paused.elapsed().as_millis() as u64;
    line.say(&Word::Released { paused_ms }).await.map_err(|error| broken(&error))?;
    let started = tokio::select! {
        started = timeout(within, line.hear()) => Some(started),
        () = stop.cancelled() => None,
    };
    let started = match started {
        Some(started) => started,
        // Who is ready goes on after a while without our word, and is not to be ended then.
        None => match line.at_hand() {
            Ok(Some(word)) => Ok(Ok(Some(word))),
            _ => return Err(stopped().into()),
        },
    };
    let started = match started {
        Ok(heard) => heard,
        // This one may have stood still itself.
        Err(_elapsed) => match line.at_hand() {
            Ok(Some(word)) => Ok(Some(word)),
            _ => {
                let error = failed(format!("it was not ready within {} ms", within.as_millis()));
                return Err(Undone { error, hangs: true });
            }
        },
    };
    match result(started)? {
        Some(Word::Started) => {}
        other => return Err(unexpected(other).into()),
    }
    if let Err(error) = line.say(&Word::Go).await {
        // One that waited in vain for our word serves without it: what it said before it hung up is there to be read.
        return match timeout(SERVING, line.hear()).await {
            Ok(Ok(Some(Word::Serving))) => Ok(()),
            _ => Err(broken(&error).into()),
        };
    }
    match timeout(SERVING, line.hear()).await {
        Ok(heard) => match result(heard)? {
            Some(Word::Serving) => Ok(()),
            other => Err(unexpected(other).into()),
        },
        // It has been told to go, so it is not taken back; whoever supervises it sees that it hangs.
        Err(_elapsed) => {
            tracing::warn!(pid, "the gateway that took over does not say that it serves");
            Ok(())
        }
    }
}

impl From<Error> for Undone {
    fn from(error: Error) -> Self {
        Self { error, hangs: false }
    }
}

/// Returns when the follower has gone by itself: ended, or hung up after it let the folder go. Otherwise, after `farewell`,
/// it is ended; its workers are orphans then, as after any end.
async fn end(line: &mut Line, peer: &Peer, farewell: Duration) {
    let gone = async {
        // Words that crossed ours mean nothing any more.
        while let Ok(Some(_)) = line.hear().await {}
    };
    if timeout(farewell, gone).await.is_err() {
        tracing::warn!(pid = peer.pid, "the gateway that was to take over hangs and is ended");
        peer.kill();
        if timeout(FAREWELL, peer.ended()).await.is_err() {
            tracing::error!(pid = peer.pid, "it does not end; while it has the folder this gateway cannot go on");
        }
    }
}

async fn back(config: &ServeConfig, sockets: &Arc<Sockets>, follower: &Peer) -> Result<App> {
    let (until, patience) = (Instant::now() + BACK, Instant::now() + FAREWELL);
    loop {
        let begun = App::begin(config.clone(), Beginning::Returning(sockets.clone()), &Waiting::patiently()).await;
        match begun {
            Ok(mut app) => {
                // So that nobody who comes now is told that his session is on its way; who does not come back is given up.
                let _late = timeout(RETURN, app.adopted()).await;
                app.open();
                return Ok(app);
            }
            Err(error) if Instant::now() < until => {
                if error.code() == Code::DataFolderLocked && Instant::now() > patience {
                    // It hung up and has not ended.
                    follower.kill();
                }
                tracing::warn!(%error, "this gateway cannot go on yet");
                sleep(BACK_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UnixStream;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn lines() -> (Line, Line) {
        let (one, other) = UnixStream::pair().expect("a pair");
        (Line::new(one).expect("ours"), Line::new(other).expect("ours"))
    }

    /// A follower that hears what was let go, says these words at once and hangs up.
    async fn says(words: &[Word]) -> Result<(), Undone> {
        let (mut line, mut follower) = lines();
        let stop = CancellationToken::new();
        let follow_up = follow_up(&mut line, 1, Instant::now(), PATIENCE, &stop);
        let follower = async move {
            assert!(matches!(follower.hear().await, Ok(Some(Word::Released { .. }))));
            for word in words {
                follower.say(word).await.expect("said");
            }
        };
        // On one thread and polled in this order: it has hung up before its words are heard.
        let (followed, ()) = tokio::join!(follow_up, follower);
        followed
    }

    // shows: W-08
    #[tokio::test]
    async fn who_went_on_without_our_word_has_taken_over_and_who_hung_up_before_has_not() {
        says(&[Word::Started, Word::Serving]).await.expect("it serves, whatever became of `Go`");
        let Undone { error, hangs } = says(&[Word::Started]).await.expect_err("it does not serve");
        assert_eq!((error.code(), hangs), (Code::TakeOverFailed, false));
        let why = Word::Failed { message: "its certificate".into() };
        let undone = says(&[Word::Started, why.clone()]).await.expect_err("it changed its mind");
        assert_eq!(undone.error.code(), Code::TakeOverFailed);
        assert_eq!(says(&[why]).await.expect_err("it gave up").error.message(), "its certificate");
    }

    // shows: W-08
    #[tokio::test]
    async fn who_is_silent_past_its_time_hangs_and_gets_no_farewell() {
        let (mut line, _follower) = lines();
        let (stop, within) = (CancellationToken::new(), Duration::from_millis(1));
        let undone = follow_up(&mut line, 1, Instant::now(), within, &stop).await.expect_err("nobody answers");
        assert!(undone.hangs && undone.error.message().contains("not ready within 1 ms"), "{undone:?}");

        let asleep = || std::process::Command::new("sleep").arg("3600").spawn().expect("a process");
        let mut child = asleep();
        let peer = Peer::of(child.id()).expect("its descriptor");
        // Says nothing and does not hang up; only a signal ends it.
        end(&mut line, &peer, Duration::ZERO).await;
        let ended = child.wait().expect("it has ended");
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&ended), Some(9));
    }

    // shows: W-08, E-16
    #[tokio::test]
    async fn asked_to_stop_it_takes_everything_back_unless_the_follower_is_ready() {
        let (mut line, mut follower) = lines();
        let stop = CancellationToken::new();
        let (followed, ()) =
            tokio::join!(follow_up(&mut line, 1, Instant::now(), PATIENCE, &stop), async { stop.cancel() });
        assert!(followed.expect_err("asked to stop").error.message().contains("asked to stop"));
        assert!(matches!(follower.hear().await, Ok(Some(Word::Released { .. }))));

        let (mut line, mut follower) = lines();
        let stop = CancellationToken::new();
        let ready = async {
            assert!(matches!(follower.hear().await, Ok(Some(Word::Released { .. }))));
            follower.say(&Word::Started).await.expect("said");
            stop.cancel();
            assert_eq!(follower.hear().await.expect("heard"), Some(Word::Go));
            follower.say(&Word::Serving).await.expect("said");
        };
        let (followed, ()) = tokio::join!(follow_up(&mut line, 1, Instant::now(), PATIENCE, &stop), ready);
        followed.expect("it serves");
        let (mut line, _follower) = lines();
        let early = follow_up(&mut line, 1, Instant::now(), PATIENCE, &stop).await;
        assert!(early.is_err(), "nothing is let go");
    }
}
