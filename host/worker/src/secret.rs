//! Reads the session's secret from the worker's standard input, the one channel that other users of the machine cannot
//! look into. Invariant: at most one line of bounded length is read, and neither it nor a part of it reaches an error.

use anyhow::{Context as _, bail};
use std::{io::Read, time::Duration};
use tidegate_pipe::Secret;
use tokio::sync::oneshot;

/// 64 digits and the newline.
const LINE: usize = 65;

/// The reading happens on a thread of its own that nobody joins: a standard input that stays silent must not keep
/// the process from ending.
pub async fn read_secret<R: Read>(
    open: impl FnOnce() -> R + Send + 'static,
    timeout: Duration,
) -> anyhow::Result<Secret> {
    let (done, secret) = oneshot::channel();
    std::thread::Builder::new()
        .name("secret".to_owned())
        .spawn(move || {
            // Fails when the time was up, and then nobody wants it.
            let _late = done.send(read_line(open()));
        })
        .context("starting the thread that reads the secret")?;
    tokio::time::timeout(timeout, secret)
        .await
        .context("no secret came on the standard input in time")?
        .context("the thread that reads the secret died")?
}

fn read_line(mut input: impl Read) -> anyhow::Result<Secret> {
    let mut line = Vec::with_capacity(LINE);
    let mut byte = [0];
    while line.len() < LINE {
        if input.read(&mut byte).context("reading the secret from the standard input")? == 0 {
            bail!("the standard input ended before the secret's newline");
        }
        if byte[0] == b'\n' {
            let digits = std::str::from_utf8(&line).context("the secret on the standard input is not text")?;
            return Ok(Secret::from_hex(digits)?);
        }
        line.push(byte[0]);
    }
    bail!("the line on the standard input is longer than a secret")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    const LIMIT: Duration = Duration::from_secs(10);

    #[tokio::test]
    async fn one_line_is_read_and_no_more() {
        let text = "0a".repeat(32);
        let secret = read_secret(move || Cursor::new(format!("{text}\nnext")), LIMIT).await.unwrap();
        assert_eq!(secret.to_hex(), "0a".repeat(32));
    }

    #[tokio::test]
    async fn what_is_not_a_secret_is_refused_without_showing_it() {
        for bad in [String::new(), "ab".repeat(32), "zz".repeat(32) + "\n", "ab".repeat(40) + "\n", "ab\n".to_owned()] {
            let error = read_secret(move || Cursor::new(bad), LIMIT).await.unwrap_err();
            let text = format!("{error:#}");
            assert!(!text.contains("abab") && !text.contains("zz"), "{text}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn silence_has_an_end() {
        struct Silent(std::sync::mpsc::Receiver<()>);
        impl Read for Silent {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                // Ends with the test, when the sender goes.
                Ok(self.0.recv().map_or(0, |()| 0))
            }
        }
        let (_open, silent) = std::sync::mpsc::channel();
        let error = read_secret(move || Silent(silent), LIMIT).await.unwrap_err();
        assert!(error.to_string().contains("in time"), "{error}");
    }
}
