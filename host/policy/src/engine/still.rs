//! What WASI offers a guest that could make its thread wait: streams, pollables and the clock to wait by. Here everything
//! answers at once or is a trap. Knows no store. Invariant: nothing waits and nothing enters a runtime, because a guest
//! may be asked on a thread that drives one.

use std::future::{Future, pending};
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use wasmtime::component::{HasData, Linker, Resource, ResourceTable};
use wasmtime_wasi::p2::bindings::clocks::monotonic_clock;
use wasmtime_wasi::p2::bindings::sync::io::{poll, streams};
use wasmtime_wasi::p2::{DynInputStream, DynOutputStream, DynPollable, Pollable, StreamError, StreamResult, subscribe};
use wasmtime_wasi_io::bindings::wasi::io::poll::{Host as Polls, HostPollable as Pollables};
use wasmtime_wasi_io::bindings::wasi::io::streams::{
    Host as Streams, HostInputStream as InputStreams, HostOutputStream as OutputStreams,
};

use super::GuestState;

/// Raised where a guest would have made its thread wait.
#[derive(Debug, thiserror::Error)]
#[error("a policy must not wait: {0} is not offered")]
pub(crate) struct Waited(&'static str);

/// A guest's streams and pollables.
struct Still<'a>(&'a mut ResourceTable);

/// Names `Still` to the linker.
struct Offered;

/// When a time comes. The clock stands, so it is now or never.
struct Due {
    now: bool,
}

/// In place of what would wait in the host, where no epoch reaches, or enter a runtime, which panics on a thread that is in
/// one. Files are left as they are: nobody has a descriptor to call them with.
pub(super) fn add_to_linker(linker: &mut Linker<GuestState>) -> wasmtime::Result<()> {
    linker.allow_shadowing(true);
    poll::add_to_linker::<GuestState, Offered>(linker, still)?;
    streams::add_to_linker::<GuestState, Offered>(linker, still)?;
    monotonic_clock::add_to_linker::<GuestState, Offered>(linker, still)?;
    linker.allow_shadowing(false);
    Ok(())
}

fn still(state: &mut GuestState) -> Still<'_> {
    Still(&mut state.table)
}

/// What is there without waiting.
fn at_once<T>(what: &'static str, answer: impl Future<Output = T>) -> Result<T, Waited> {
    match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(answer) => Ok(answer),
        Poll::Pending => Err(Waited(what)),
    }
}

fn streamed<T>(what: &'static str, answer: impl Future<Output = StreamResult<T>>) -> StreamResult<T> {
    at_once(what, answer).unwrap_or_else(|waited| Err(StreamError::Trap(waited.into())))
}

// === impl Still ===

impl HasData for Offered {
    type Data<'a> = Still<'a>;
}

impl poll::Host for Still<'_> {
    fn poll(&mut self, of: Vec<Resource<DynPollable>>) -> wasmtime::Result<Vec<u32>> {
        at_once("wasi:io/poll poll", Polls::poll(self.0, of))?
    }
}

impl poll::HostPollable for Still<'_> {
    fn ready(&mut self, of: Resource<DynPollable>) -> wasmtime::Result<bool> {
        at_once("wasi:io/poll ready", Pollables::ready(self.0, of))?
    }

    fn block(&mut self, of: Resource<DynPollable>) -> wasmtime::Result<()> {
        at_once("wasi:io/poll block", Pollables::block(self.0, of))?
    }

    fn drop(&mut self, of: Resource<DynPollable>) -> wasmtime::Result<()> {
        Pollables::drop(self.0, of)
    }
}

impl streams::Host for Still<'_> {
    fn convert_stream_error(&mut self, error: StreamError) -> wasmtime::Result<streams::StreamError> {
        Ok(Streams::convert_stream_error(self.0, error)?.into())
    }
}

impl streams::HostInputStream for Still<'_> {
    fn read(&mut self, of: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        InputStreams::read(self.0, of, len)
    }

    fn blocking_read(&mut self, of: Resource<DynInputStream>, len: u64) -> StreamResult<Vec<u8>> {
        streamed("wasi:io/streams blocking-read", InputStreams::blocking_read(self.0, of, len))
    }

    fn skip(&mut self, of: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        InputStreams::skip(self.0, of, len)
    }

    fn blocking_skip(&mut self, of: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        streamed("wasi:io/streams blocking-skip", InputStreams::blocking_skip(self.0, of, len))
    }

    fn subscribe(&mut self, of: Resource<DynInputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        InputStreams::subscribe(self.0, of)
    }

    fn drop(&mut self, of: Resource<DynInputStream>) -> wasmtime::Result<()> {
        at_once("wasi:io/streams drop", InputStreams::drop(self.0, of))?
    }
}

impl streams::HostOutputStream for Still<'_> {
    fn check_write(&mut self, of: Resource<DynOutputStream>) -> StreamResult<u64> {
        OutputStreams::check_write(self.0, of)
    }

    fn write(&mut self, of: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        OutputStreams::write(self.0, of, bytes)
    }

    fn blocking_write_and_flush(&mut self, of: Resource<DynOutputStream>, bytes: Vec<u8>) -> StreamResult<()> {
        let written = OutputStreams::blocking_write_and_flush(self.0, of, bytes);
        streamed("wasi:io/streams blocking-write-and-flush", written)
    }

    fn flush(&mut self, of: Resource<DynOutputStream>) -> StreamResult<()> {
        OutputStreams::flush(self.0, of)
    }

    fn blocking_flush(&mut self, of: Resource<DynOutputStream>) -> StreamResult<()> {
        streamed("wasi:io/streams blocking-flush", OutputStreams::blocking_flush(self.0, of))
    }

    fn subscribe(&mut self, of: Resource<DynOutputStream>) -> wasmtime::Result<Resource<DynPollable>> {
        OutputStreams::subscribe(self.0, of)
    }

    fn write_zeroes(&mut self, of: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        OutputStreams::write_zeroes(self.0, of, len)
    }

    fn blocking_write_zeroes_and_flush(&mut self, of: Resource<DynOutputStream>, len: u64) -> StreamResult<()> {
        let written = OutputStreams::blocking_write_zeroes_and_flush(self.0, of, len);
        streamed("wasi:io/streams blocking-write-zeroes-and-flush", written)
    }

    fn splice(&mut self, of: Resource<DynOutputStream>, from: Resource<DynInputStream>, len: u64) -> StreamResult<u64> {
        OutputStreams::splice(self.0, of, from, len)
    }

    fn blocking_splice(
        &mut self,
        of: Resource<DynOutputStream>,
        from: Resource<DynInputStream>,
        len: u64,
    ) -> StreamResult<u64> {
        streamed("wasi:io/streams blocking-splice", OutputStreams::blocking_splice(self.0, of, from, len))
    }

    fn drop(&mut self, of: Resource<DynOutputStream>) -> wasmtime::Result<()> {
        at_once("wasi:io/streams drop", OutputStreams::drop(self.0, of))?
    }
}

impl monotonic_clock::Host for Still<'_> {
    fn now(&mut self) -> wasmtime::Result<monotonic_clock::Instant> {
        Ok(0)
    }

    fn resolution(&mut self) -> wasmtime::Result<monotonic_clock::Duration> {
        Ok(1_000_000)
    }

    fn subscribe_instant(&mut self, when: monotonic_clock::Instant) -> wasmtime::Result<Resource<DynPollable>> {
        self.subscribe_duration(when)
    }

    fn subscribe_duration(&mut self, when: monotonic_clock::Duration) -> wasmtime::Result<Resource<DynPollable>> {
        let due = self.0.push(Due { now: when == 0 })?;
        subscribe(self.0, due)
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Due {
    async fn ready(&mut self) {
        if !self.now {
            pending().await
        }
    }
}
