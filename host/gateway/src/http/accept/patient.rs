//! How long is waited for who is slow: a body has to come, an answer has to be taken. Knows bytes and time, no request.
//! Invariant: behind the limit there is an error, never a wait.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

/// How long a body may take, in a request's extensions.
#[derive(Clone, Debug)]
pub(in super::super) struct Patience {
    pub(super) limit: Duration,
    /// Nobody waits long for what has not come by then.
    pub(super) stopping: CancellationToken,
    /// How long after that.
    pub(super) then: Duration,
}

/// A body that comes in time or fails.
pub(in super::super) struct InTime<B> {
    body: B,
    late: Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// A connection whose other side takes what is written to it, or loses it.
pub(super) struct Taken<S> {
    io: S,
    limit: Duration,
    /// Runs while something waits to be taken.
    late: Option<Pin<Box<Sleep>>>,
}

// === impl Patience ===

impl Patience {
    pub(in super::super) fn with<B>(self, body: B) -> InTime<B> {
        let late = async move {
            let at_the_end = async {
                self.stopping.cancelled().await;
                sleep(self.then).await;
            };
            tokio::select! {
                () = sleep(self.limit) => {}
                () = at_the_end => {}
            }
        };
        InTime { body, late: Box::pin(late) }
    }
}

// === impl InTime ===

impl<B> Body for InTime<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<axum::BoxError>,
{
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(context) {
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        ready!(self.late.as_mut().poll(context));
        Poll::Ready(Some(Err("the body did not come in time".into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

// === impl Taken ===

impl<S> Taken<S> {
    pub(super) fn new(io: S, limit: Duration) -> Self {
        Self { io, limit, late: None }
    }

    fn judge<T>(&mut self, polled: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            self.late = None;
            return polled;
        }
        let limit = self.limit;
        ready!(self.late.get_or_insert_with(|| Box::pin(sleep(limit))).as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing of the answer was taken")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Taken<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Taken<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write(context, bytes);
        self.judge(polled, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.judge(polled, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_flush(context);
        self.judge(polled, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.io).poll_shutdown(context);
        self.judge(polled, context)
    }
}
