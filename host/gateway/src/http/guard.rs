//! What every request passes and every response carries: Host check, a body's size and time, headers. Knows no
//! page. Invariant: a refused request has reached no handler.

use super::{
    accept::Patience,
    problem::{problem, with_status},
};
use crate::error::{Code, Error};
use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::Next,
    response::Response,
};
use http_body_util::Limited;
use std::net::IpAddr;

/// Bytes of a request's body: a form's.
pub(super) const BODY_MAX: usize = 64 << 10;

/// A page in somebody's browser can make its own name resolve to 127.0.0.1 (DNS rebinding); it cannot
/// choose the Host header that the browser then sends.
pub(super) async fn loopback_host(request: Request, next: Next) -> Response {
    if is_loopback(request.uri().host(), request.headers()) {
        return next.run(request).await;
    }
    problem(&Error::new(Code::HttpHostRefused, "the Host header does not name this machine's loopback"))
}

pub(super) async fn body_limit(request: Request, next: Next) -> Response {
    let announced = request.headers().get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > BODY_MAX as u64) {
        let error = Error::new(Code::HttpTooLarge, "the body is too large").with("limit_bytes", BODY_MAX);
        return with_status(StatusCode::PAYLOAD_TOO_LARGE, &error);
    }
    // What is not announced is cut off while a handler reads it; so is what does not come.
    let patience = request.extensions().get::<Patience>().cloned();
    let limited = request.map(|body| match patience {
        Some(patience) => Body::new(Limited::new(patience.with(body), BODY_MAX)),
        None => Body::new(Limited::new(body, BODY_MAX)),
    });
    next.run(limited).await
}

/// What a path or a query does not fit is answered by the framework in its own words; here they become a problem.
pub(super) async fn no_plain_refusal(response: Response) -> Response {
    let status = response.status();
    let plain =
        response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if !status.is_client_error() || !plain {
        return response;
    }
    with_status(status, &Error::new(Code::RequestInvalid, "the address or the form cannot be read"))
}

pub(super) async fn security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn is_loopback(target: Option<&str>, headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    // An absolute target replaces the header for the handlers, so both must be right.
    host.to_str().is_ok_and(names_loopback) && target.is_none_or(names_loopback)
}

/// `localhost`, `127.x.y.z` or `[::1]`, with or without a port.
fn names_loopback(authority: &str) -> bool {
    let name = match authority.strip_prefix('[') {
        Some(rest) => rest.split_once(']').map_or("", |(name, _)| name),
        None => authority.split_once(':').map_or(authority, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_names_pass() {
        for right in ["localhost", "LOCALHOST:1", "127.0.0.1:7411", "127.9.9.9", "[::1]:7411", "[::1]"] {
            assert!(names_loopback(right), "{right}");
        }
        for wrong in ["", "evil.example", "evil.example:7411", "127.0.0.1.evil.example", "10.0.0.1", "[::2]", "[::1"] {
            assert!(!names_loopback(wrong), "{wrong}");
        }
    }

    #[test]
    fn two_or_no_host_headers_and_a_foreign_target_are_refused() {
        let mut headers = HeaderMap::new();
        assert!(!is_loopback(None, &headers));
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(is_loopback(None, &headers));
        assert!(!is_loopback(Some("evil.example"), &headers));
        headers.append(header::HOST, HeaderValue::from_static("localhost"));
        assert!(!is_loopback(None, &headers));
    }
}
