//! The baseline that anyone would write first: a tonic stream of one prost message for each event, cloned into a
//! channel for each subscriber and encoded by each of them. Publishes at the offered rate from a task of its own.
//! A full channel holds the publisher up, so nothing is lost.

use crate::event::{self, Pace};
use serde_json::json;
use std::{
    convert::Infallible,
    future::{Ready, ready},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};
use tidegate_proto::v1::Event;
use tokio::{
    net::TcpListener,
    sync::mpsc::{Receiver, Sender, channel},
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Request, Response, Status,
    body::Body,
    server::{Grpc, NamedService, ServerStreamingService},
    transport::Server,
};
use tonic_prost::ProstCodec;

/// The one method, for readers.
pub(crate) const METHOD: &str = "/tidegate.bench.Plain/Subscribe";
/// As many events as the gateway lets a reader lag by default.
const CHANNEL: usize = 10_000;

type Subscribers = Arc<Mutex<Vec<Sender<Result<Event, Status>>>>>;

#[derive(Clone, Debug, Default)]
struct Plain {
    subscribers: Subscribers,
}

/// Serves until it is killed.
pub(crate) async fn serve(rate: u32, grain_us: u32) -> anyhow::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let plain = Plain::default();
    tokio::spawn(publish(plain.subscribers.clone(), rate, grain_us));
    println!("{}", json!({ "address": address.to_string() }));
    Server::builder()
        .tcp_nodelay(true)
        .add_service(plain)
        .serve_with_incoming(TcpListenerStream::new(listener))
        .await?;
    Ok(())
}

async fn publish(subscribers: Subscribers, rate: u32, grain_us: u32) {
    let mut pace = Pace::new(rate, grain_us);
    loop {
        for (sequence, late) in pace.due().await {
            let event = event::make_late(sequence, late);
            let now: Vec<_> = subscribers.lock().map(|all| all.clone()).unwrap_or_default();
            let mut gone = false;
            for to in &now {
                gone |= to.send(Ok(event.clone())).await.is_err();
            }
            if gone && let Ok(mut all) = subscribers.lock() {
                all.retain(|to| !to.is_closed());
            }
        }
    }
}

// === impl Plain ===

impl ServerStreamingService<()> for Plain {
    type Response = Event;
    type ResponseStream = ReceiverStream<Result<Event, Status>>;
    type Future = Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let (to, from): (_, Receiver<_>) = channel(CHANNEL);
        if let Ok(mut all) = self.subscribers.lock() {
            all.push(to);
        }
        ready(Ok(Response::new(ReceiverStream::new(from))))
    }
}

impl NamedService for Plain {
    const NAME: &'static str = "tidegate.bench.Plain";
}

impl tonic::codegen::Service<http::Request<Body>> for Plain {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let plain = self.clone();
        Box::pin(
            async move { Ok(Grpc::new(ProstCodec::<Event, ()>::default()).server_streaming(plain, request).await) },
        )
    }
}
