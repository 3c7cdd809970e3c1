//! Gathers what one poll of a connection writes into one write of its socket. HTTP/2 cuts a message into frames of
//! 16 KiB, and h2 writes each by itself; over loopback a write costs as much as copying 30 KiB, so a copy is cheaper.
//! Knows bytes only. Invariant: when a poll of the connection has ended, everything it wrote is in the socket, or
//! the task is woken when the socket has room again.

use parking_lot::Mutex;
use pin_project_lite::pin_project;
use std::{
    cell::RefCell,
    future::Future,
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Gathered before a write, at most; more than this makes a write slower by the byte (measured), and it stays within
/// a second-level cache.
const GATHER_BYTES: usize = 64 << 10;
/// Written as it is when nothing is gathered: by then a copy costs what it saves. (Guessed.)
const STRAIGHT_BYTES: usize = 8 << 10;
/// What h2 writes for a frame of the size that most clients allow: more of the same message follows it, often a few
/// bytes only.
const FULL_FRAME: usize = 9 + (16 << 10);
/// Buffers that a thread keeps for its connections. One is in use at a time, unless sockets are full.
const SPARE: usize = 2;

thread_local! {
    /// Empty buffers. A connection that has written everything holds none, however many there are.
    static SPARES: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

/// The connection's end of a socket, as hyper sees it.
#[derive(Debug)]
pub(super) struct Gather<S> {
    shared: Arc<Mutex<Gathered<S>>>,
}

pin_project! {
    /// A connection that writes when its poll ends.
    #[derive(Debug)]
    pub(super) struct Gathering<C, S> {
        #[pin]
        connection: C,
        shared: Arc<Mutex<Gathered<S>>>,
    }
}

/// Never contended: hyper and `Gathering` use it in turns, in one task.
#[derive(Debug)]
struct Gathered<S> {
    io: S,
    bytes: Vec<u8>,
    written: usize,
    /// Something was written and not flushed since: TLS keeps records back.
    unflushed: bool,
}

// === impl Gathered ===

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Takes bytes: copied, or written at once when nothing waits and there are many.
    fn poll_take(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let total: usize = slices.iter().map(|slice| slice.len()).sum();
        if self.waiting() > 0 && self.waiting() + total > GATHER_BYTES {
            ready!(self.poll_drain(cx))?;
        }
        if self.waiting() == 0 && total >= STRAIGHT_BYTES && total != FULL_FRAME {
            self.unflushed = true;
            return Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        }
        if self.bytes.capacity() == 0 {
            self.bytes = SPARES.with_borrow_mut(Vec::pop).unwrap_or_else(|| Vec::with_capacity(GATHER_BYTES));
        }
        slices.iter().for_each(|slice| self.bytes.extend_from_slice(slice));
        Poll::Ready(Ok(total))
    }

    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.waiting() > 0 {
            self.unflushed = true;
            match ready!(Pin::new(&mut self.io).poll_write(cx, &self.bytes[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                count => self.written += count,
            }
        }
        self.give_back();
        if self.unflushed {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }

    fn waiting(&self) -> usize {
        self.bytes.len() - self.written
    }

    fn give_back(&mut self) {
        self.written = 0;
        let mut spare = std::mem::take(&mut self.bytes);
        if spare.capacity() == 0 {
            return;
        }
        spare.clear();
        SPARES.with_borrow_mut(|spares| {
            if spares.len() < SPARE && spare.capacity() <= GATHER_BYTES {
                spares.push(spare);
            }
        });
    }
}

// === impl Gather ===

impl<S: AsyncRead + Unpin> AsyncRead for Gather<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.shared.lock().io).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gather<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_take(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.shared.lock().poll_take(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// `Gathering` flushes at the end of the poll; h2 asks for it after each frame.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.shared.lock();
        ready!(shared.poll_drain(cx))?;
        Pin::new(&mut shared.io).poll_shutdown(cx)
    }
}

// === impl Gathering ===

impl<C, S> Gathering<C, S> {
    /// `connect` makes the connection over the wrapped socket.
    pub(super) fn new(io: S, connect: impl FnOnce(Gather<S>) -> C) -> Self {
        let shared = Arc::new(Mutex::new(Gathered { io, bytes: Vec::new(), written: 0, unflushed: false }));
        Self { connection: connect(Gather { shared: shared.clone() }), shared }
    }

    pub(super) fn connection(self: Pin<&mut Self>) -> Pin<&mut C> {
        self.project().connection
    }
}

impl<C, S> Future for Gathering<C, S>
where
    C: Future<Output = hyper::Result<()>>,
    S: AsyncWrite + Unpin,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.project();
        let polled = this.connection.poll(cx);
        let drained = this.shared.lock().poll_drain(cx);
        if let Poll::Ready(Err(error)) = polled {
            tracing::debug!(%error, "a connection ended with an error");
            return Poll::Ready(());
        }
        if let Poll::Ready(Err(error)) = drained {
            tracing::debug!(%error, "a connection takes nothing any more");
            return Poll::Ready(());
        }
        polled.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::VecDeque, future::poll_fn};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// Writes what it is told to, poll by poll, as h2 does: frame after frame, flushed each.
    struct Frames {
        io: Gather<tokio::io::DuplexStream>,
        left: VecDeque<Vec<u8>>,
    }

    impl Future for Frames {
        type Output = hyper::Result<()>;

        fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<hyper::Result<()>> {
            while let Some(mut frame) = self.left.pop_front() {
                match Pin::new(&mut self.io).poll_write(cx, &frame) {
                    Poll::Ready(written) => {
                        let rest = frame.split_off(written.expect("the other end reads"));
                        if !rest.is_empty() {
                            self.left.push_front(rest);
                        }
                        assert!(Pin::new(&mut self.io).poll_flush(cx).is_ready());
                    }
                    Poll::Pending => {
                        self.left.push_front(frame);
                        return Poll::Pending;
                    }
                }
            }
            Pin::new(&mut self.io).poll_shutdown(cx).map(|ended| {
                ended.expect("the other end reads");
                Ok(())
            })
        }
    }

    #[tokio::test]
    async fn every_byte_comes_in_order_however_small_the_socket_and_large_the_frames() {
        for capacity in [1 << 10, 40 << 10, 1 << 20] {
            let sizes = [9, 16_393, 16_393, 40, 13_000, 50_000, 1, 8_192, 70_000, 16_393, 7];
            let frames: VecDeque<Vec<u8>> = (1..).zip(sizes).map(|(n, size)| vec![n; size]).collect();
            let wanted: Vec<u8> = frames.iter().flatten().copied().collect();
            let (near, mut far) = tokio::io::duplex(capacity);
            let writing = Gathering::new(near, |io| Frames { io, left: frames });
            let mut got = Vec::new();
            let ((), read) = tokio::join!(writing, far.read_to_end(&mut got));
            read.expect("the end");
            assert!(got == wanted, "{capacity}");
        }
    }

    #[tokio::test]
    async fn what_one_poll_writes_goes_at_its_end_and_no_buffer_stays() {
        let (near, mut far) = tokio::io::duplex(1 << 20);
        let mut gathered = Gathered { io: near, bytes: Vec::new(), written: 0, unflushed: false };
        poll_fn(|cx| gathered.poll_take(cx, &[IoSlice::new(b"one "), IoSlice::new(b"two ")])).await.expect("room");
        poll_fn(|cx| gathered.poll_take(cx, &[IoSlice::new(b"three")])).await.expect("room");
        assert_eq!(gathered.waiting(), 13);
        poll_fn(|cx| gathered.poll_drain(cx)).await.expect("room");
        assert_eq!((gathered.waiting(), gathered.bytes.capacity()), (0, 0));
        let mut got = [0; 13];
        far.read_exact(&mut got).await.expect("it is there");
        assert_eq!(&got, b"one two three");
        drop(far);
        gathered.io.write_all(b"x").await.expect_err("nobody reads");
    }
}
