//! Passwords: hashed and compared on two threads of their own, each with memory that it keeps. Knows Argon2id, not people.
//! Invariants: comparing with a person who does not exist costs what any other comparison costs; however many passwords are
//! tried at once, they take the memory of the two threads and no more.

use super::invalid;
use crate::error::{Code, Error, Result};
use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use parking_lot::Mutex;
use std::{
    fmt::{self, Display},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, OnceLock,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
};
use subtle::ConstantTimeEq as _;
use tokio::sync::oneshot;

/// Each takes 19 MiB, from its first password on, and some ten milliseconds of a processor for each.
const AT_ONCE: usize = 2;
/// How many may wait for one of them: a second or less. Who finds no place is told to come again.
const WAITING_MAX: usize = 32;
/// When to come again.
const RETRY_MS: u64 = 1_000;
const LENGTH: std::ops::RangeInclusive<usize> = 8..=256;

/// Hashes and compares.
#[derive(Default)]
pub(super) struct Passwords {
    /// `None` until somebody has a password.
    queue: Mutex<Option<SyncSender<Work>>>,
}

type Work = Box<dyn FnOnce(&mut Memory) + Send>;

/// What one thread works in. As large as the largest hash so far, and never given back: the allocator would keep it for
/// each thread that had it once.
#[derive(Default)]
struct Memory(Vec<Block>);

// === impl Passwords ===

impl Passwords {
    /// The PHC form, with a salt of its own.
    pub(super) async fn hash(&self, password: String) -> Result<String> {
        if !LENGTH.contains(&password.chars().count()) {
            let (least, most) = (LENGTH.start(), LENGTH.end());
            return Err(invalid("password", format!("a password has {least} to {most} characters")));
        }
        self.work(move |memory| memory.hash(&password)).await?
    }

    /// Whether `password` is the one of `stored`; without one the answer is no, after the same work.
    pub(super) async fn verify(&self, stored: Option<String>, password: String) -> Result<bool> {
        if password.chars().count() > *LENGTH.end() {
            return Ok(false);
        }
        self.work(move |memory| {
            let known = stored.is_some();
            let stored = match stored {
                Some(stored) => stored,
                None => nobody(memory)?.to_owned(),
            };
            Ok(memory.is_of(&password, &stored)? && known)
        })
        .await?
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce(&mut Memory) -> T + Send + 'static) -> Result<T> {
        let (answer, answered) = oneshot::channel();
        let work: Work = Box::new(move |memory| {
            // Nobody may wait for it any more; whether it was right does not matter then.
            if !answer.is_closed() {
                let _gone = answer.send(work(memory));
            }
        });
        self.queue()?.try_send(work).map_err(|_full| {
            let message = "too many passwords are being checked just now; try again in a moment";
            Error::new(Code::RateLimited, message).with("retry_ms", RETRY_MS)
        })?;
        answered.await.map_err(|_| Error::new(Code::Internal, "hashing a password panicked"))
    }

    /// The threads begin with the first password; they end with this queue.
    fn queue(&self) -> Result<SyncSender<Work>> {
        let mut queue = self.queue.lock();
        if let Some(queue) = &*queue {
            return Ok(queue.clone());
        }
        let (send, receive) = sync_channel(WAITING_MAX);
        let receive = Arc::new(Mutex::new(receive));
        for n in 0..AT_ONCE {
            let receive = Arc::clone(&receive);
            let thread = thread::Builder::new().name(format!("password-{n}"));
            let failed = |error| Error::new(Code::Internal, format!("no thread hashes passwords: {error}"));
            thread.spawn(move || serve(&receive)).map_err(failed)?;
        }
        *queue = Some(send.clone());
        Ok(send)
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}

fn serve(queue: &Mutex<Receiver<Work>>) {
    let mut memory = Memory::default();
    loop {
        let next = queue.lock().recv();
        let Ok(work) = next else { return };
        // Who waits for it hears of it by the answer that does not come.
        let _panicked = catch_unwind(AssertUnwindSafe(|| work(&mut memory)));
    }
}

// === impl Memory ===

impl Memory {
    fn hash(&mut self, password: &str) -> Result<String> {
        let failed = |why: &dyn Display| Error::new(Code::Internal, format!("a password cannot be hashed: {why}"));
        let argon2 = Argon2::default();
        let mut salt = [0; Salt::RECOMMENDED_LENGTH];
        getrandom::fill(&mut salt).map_err(|error| failed(&error))?;
        let mut made = [0; Params::DEFAULT_OUTPUT_LEN];
        self.fill(&argon2, password, &salt, &mut made).map_err(|error| failed(&error))?;
        let hash = PasswordHash {
            algorithm: Algorithm::default().ident(),
            version: Some(Version::default().into()),
            params: ParamsString::try_from(argon2.params()).map_err(|error| failed(&error))?,
            salt: Some(Salt::new(&salt).map_err(|error| failed(&error))?),
            hash: Some(Output::new(&made).map_err(|error| failed(&error))?),
        };
        Ok(hash.to_string())
    }

    fn is_of(&mut self, password: &str, stored: &str) -> Result<bool> {
        let damaged = || Error::new(Code::StorageCorrupt, "the stored hash of a password is damaged");
        let stored = PasswordHash::new(stored).map_err(|_| damaged())?;
        let (Some(salt), Some(expected)) = (&stored.salt, &stored.hash) else { return Err(damaged()) };
        let algorithm = Algorithm::try_from(stored.algorithm.as_str()).map_err(|_| damaged())?;
        let version = stored.version.map(Version::try_from).transpose().map_err(|_| damaged())?.unwrap_or_default();
        let params = Params::try_from(&stored).map_err(|_| damaged())?;
        let mut made = vec![0; expected.len()];
        self.fill(&Argon2::new(algorithm, version, params), password, salt, &mut made).map_err(|_| damaged())?;
        Ok(made.ct_eq(expected.as_bytes()).into())
    }

    /// The first pass writes every block before it is read, so nothing of the password before has a part in it.
    fn fill(&mut self, argon2: &Argon2<'_>, password: &str, salt: &[u8], made: &mut [u8]) -> argon2::Result<()> {
        let blocks = argon2.params().block_count();
        if self.0.len() < blocks {
            self.0.resize(blocks, Block::new());
        }
        argon2.hash_password_into_with_memory(password.as_bytes(), salt, made, self.0.as_mut_slice())
    }
}

/// A hash that no password of a person is compared with.
fn nobody(memory: &mut Memory) -> Result<&'static str> {
    static NOBODY: OnceLock<String> = OnceLock::new();
    if let Some(hash) = NOBODY.get() {
        return Ok(hash);
    }
    let made = memory.hash("nobody has this password")?;
    Ok(NOBODY.get_or_init(|| made))
}

#[cfg(test)]
mod tests {
    use super::*;
    use argon2::password_hash::{PasswordHasher as _, PasswordVerifier as _};
    use std::collections::HashSet;

    #[test]
    fn a_hash_is_what_the_library_makes_of_it_and_memory_used_before_changes_nothing() {
        let mut memory = Memory::default();
        for _ in 0..2 {
            let made = memory.hash("correct horse").expect("hashed");
            assert!(made.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{made}");
            Argon2::default().verify_password(b"correct horse", made.as_str()).expect("the same");
            assert!(Argon2::default().verify_password(b"a wrong one", made.as_str()).is_err());
        }
        let theirs = Argon2::default().hash_password(b"battery staple").expect("hashed").to_string();
        assert!(memory.is_of("battery staple", &theirs).expect("compared"));
        assert!(!memory.is_of("battery stable", &theirs).expect("compared"));
        let shorter = theirs.rsplit_once('$').expect("parts").0;
        assert_eq!(memory.is_of("x", shorter).expect_err("no hash").code(), Code::StorageCorrupt);
    }

    // A thousand wrong passwords had each its 19 MiB, and the allocator kept them for good.
    #[tokio::test]
    async fn however_many_passwords_are_tried_two_threads_work_in_their_own_memory_and_the_rest_is_told_to_come_again()
    {
        let passwords = Arc::new(Passwords::default());
        let (busy, free) = (Arc::new(tokio::sync::Mutex::new(())), Arc::clone(&passwords));
        let held = busy.lock().await;
        let tries: Vec<_> = (0..200)
            .map(|_| {
                let (passwords, busy) = (Arc::clone(&free), Arc::clone(&busy));
                tokio::spawn(async move {
                    let of = move |memory: &mut Memory| {
                        drop(busy.blocking_lock());
                        // As a password's, only small: it is the memory that counts here.
                        let small = Argon2::from(Params::new(64, 1, 1, None).expect("parameters"));
                        memory.fill(&small, "a wrong one", b"salt and pepper", &mut [0; 32]).expect("hashed");
                        (thread::current().id(), memory.0.as_ptr().addr())
                    };
                    passwords.work(of).await
                })
            })
            .collect();
        // Who is in the queue waits for the lock, so whoever finds no place is told before anything is worked.
        while tries.iter().filter(|one| one.is_finished()).count() < 200 - AT_ONCE - WAITING_MAX {
            tokio::task::yield_now().await;
        }
        drop(held);
        let (mut done, mut refused) = (HashSet::new(), 0);
        for one in tries {
            match one.await.expect("no panic") {
                Ok(worked) => drop(done.insert(worked)),
                Err(error) => {
                    assert_eq!(error.code(), Code::RateLimited);
                    refused += 1;
                }
            }
        }
        assert!((1..=AT_ONCE).contains(&done.len()), "{done:?}");
        assert!((200 - AT_ONCE - WAITING_MAX..200).contains(&refused), "{refused}");
        assert!(passwords.verify(None, "nobody has this password".into()).await.is_ok_and(|right| !right));
    }
}
