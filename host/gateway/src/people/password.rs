//! Passwords: hashed and compared off the runtime's threads, a few at a time. Knows Argon2id, not people.
//! Invariant: comparing with a person who does not exist costs what any other comparison costs.

use super::invalid;
use crate::error::{Code, Error, Result};
use argon2::{
    Argon2,
    password_hash::{PasswordHasher as _, PasswordVerifier as _, phc::PasswordHash},
};
use std::sync::OnceLock;
use tokio::sync::Semaphore;

/// Each takes 19 MiB and some ten milliseconds of a processor.
const AT_ONCE: usize = 2;
const LENGTH: std::ops::RangeInclusive<usize> = 8..=256;

/// Hashes and compares.
#[derive(Debug)]
pub(super) struct Passwords {
    places: Semaphore,
}

// === impl Passwords ===

impl Default for Passwords {
    fn default() -> Self {
        Self { places: Semaphore::new(AT_ONCE) }
    }
}

impl Passwords {
    /// The PHC form, with a salt of its own.
    pub(super) async fn hash(&self, password: String) -> Result<String> {
        if !LENGTH.contains(&password.chars().count()) {
            let (least, most) = (LENGTH.start(), LENGTH.end());
            return Err(invalid("password", format!("a password has {least} to {most} characters")));
        }
        self.work(move || hash(&password)).await?
    }

    /// Whether `password` is the one of `stored`; without one the answer is no, after the same work.
    pub(super) async fn verify(&self, stored: Option<String>, password: String) -> Result<bool> {
        if password.chars().count() > *LENGTH.end() {
            return Ok(false);
        }
        self.work(move || {
            let known = stored.is_some();
            let stored = match stored {
                Some(stored) => stored,
                None => nobody()?.to_owned(),
            };
            let parsed = PasswordHash::new(&stored)
                .map_err(|_| Error::new(Code::StorageCorrupt, "the stored hash of a password is damaged"))?;
            Ok(Argon2::default().verify_password(password.as_bytes(), &parsed).is_ok() && known)
        })
        .await?
    }

    async fn work<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let _place = self.places.acquire().await.expect("the semaphore is never closed");
        let panicked = |_| Error::new(Code::Internal, "hashing a password panicked");
        tokio::task::spawn_blocking(work).await.map_err(panicked)
    }
}

fn hash(password: &str) -> Result<String> {
    let failed = |error| Error::new(Code::Internal, format!("a password cannot be hashed: {error}"));
    Ok(Argon2::default().hash_password(password.as_bytes()).map_err(failed)?.to_string())
}

/// A hash that no password of a person is compared with.
fn nobody() -> Result<&'static str> {
    static NOBODY: OnceLock<String> = OnceLock::new();
    if let Some(hash) = NOBODY.get() {
        return Ok(hash);
    }
    let made = hash("nobody has this password")?;
    Ok(NOBODY.get_or_init(|| made))
}
