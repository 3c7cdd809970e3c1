//! Health over gRPC (grpc.health.v1), for everybody and without a key: whether each service that reflection lists takes
//! calls. Knows names and the beginning of the end, no part of the gateway; what is degraded is told elsewhere. Invariant: at
//! the end every watch is told so and ends, so that none holds up a drain.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus, health_server::Health,
};

/// The gateway as a whole; the protocol's name for it.
const ALL: &str = "";

#[derive(Clone, Debug)]
pub(super) struct HealthService {
    /// Beside the gateway as a whole.
    pub(super) services: Vec<&'static str>,
    /// Cancelled: the end has begun.
    pub(super) stopping: CancellationToken,
}

/// The stream of a watch: what holds now, then what holds at the end.
pub(super) struct Watch {
    now: Option<ServingStatus>,
    then: Option<ServingStatus>,
    end: Pin<Box<WaitForCancellationFutureOwned>>,
}

// === impl HealthService ===

impl HealthService {
    fn is_served(&self, service: &str) -> bool {
        service == ALL || self.services.contains(&service)
    }
}

#[tonic::async_trait]
impl Health for HealthService {
    type WatchStream = Watch;

    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if !self.is_served(&request.get_ref().service) {
            return Err(Status::not_found("no such service is served here"));
        }
        let over = self.stopping.is_cancelled();
        Ok(Response::new(told(if over { ServingStatus::NotServing } else { ServingStatus::Serving })))
    }

    /// A service that is not served stays unknown on this connection: what comes with another version comes with another
    /// process.
    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Watch>, Status> {
        let (now, then) = if self.is_served(&request.get_ref().service) {
            // Told once when the end has begun already.
            ((!self.stopping.is_cancelled()).then_some(ServingStatus::Serving), Some(ServingStatus::NotServing))
        } else {
            (Some(ServingStatus::ServiceUnknown), None)
        };
        Ok(Response::new(Watch { now, then, end: Box::pin(self.stopping.clone().cancelled_owned()) }))
    }
}

// === impl Watch ===

impl Stream for Watch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(now) = self.now.take() {
            return Poll::Ready(Some(Ok(told(now))));
        }
        ready!(self.end.as_mut().poll(context));
        Poll::Ready(self.then.take().map(|then| Ok(told(then))))
    }
}

fn told(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse { status: status.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_stream::StreamExt as _;

    fn of(service: &str) -> Request<HealthCheckRequest> {
        Request::new(HealthCheckRequest { service: service.to_owned() })
    }

    #[tokio::test]
    async fn each_service_has_its_status_and_a_watch_ends_with_the_gateway() {
        let health = HealthService { services: vec!["a.A", "b.B"], stopping: CancellationToken::new() };
        let check = async |service| health.check(of(service)).await.map(|status| status.into_inner().status());
        for service in ["", "a.A", "b.B"] {
            assert_eq!(check(service).await.expect("known"), ServingStatus::Serving, "{service}");
        }
        assert_eq!(check("c.C").await.expect_err("unknown").code(), tonic::Code::NotFound);
        let mut watches = Vec::new();
        for (service, now) in [("b.B", ServingStatus::Serving), ("c.C", ServingStatus::ServiceUnknown)] {
            let mut watch = health.watch(of(service)).await.expect("a watch").into_inner();
            let first = watch.next().await.expect("what holds now").expect("told").status();
            assert_eq!(first, now, "{service}");
            watches.push(watch);
        }
        health.stopping.cancel();
        assert_eq!(check("").await.expect("known"), ServingStatus::NotServing);
        watches.push(health.watch(of("")).await.expect("a watch").into_inner());
        let mut last = Vec::new();
        for watch in watches {
            let rest: Vec<_> = watch.map(|status| status.expect("told").status()).collect().await;
            last.push(rest);
        }
        assert_eq!(last, [vec![ServingStatus::NotServing], vec![], vec![ServingStatus::NotServing]]);
    }
}
