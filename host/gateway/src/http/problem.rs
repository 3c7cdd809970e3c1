//! Errors as problem+json (RFC 9457): class to status, code to type. Invariant: the only projection
//! of `error::Error` to HTTP.

use crate::error::{Class, Error};
use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::{Map, Value, json};

/// The response for an error.
pub fn problem(error: &Error) -> Response {
    with_status(status(error.code().class()), error)
}

/// For what HTTP has a finer number for.
pub(super) fn with_status(status: StatusCode, error: &Error) -> Response {
    let code = error.code().as_str();
    let details: Map<String, Value> =
        error.details().iter().map(|(key, value)| ((*key).to_owned(), Value::from(value.as_str()))).collect();
    let body = json!({
        "type": format!("urn:tidegate:error:{code}"),
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": error.message(),
        "code": code,
        "details": details,
    });
    let mut response = (status, body.to_string()).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

/// The status of a class.
pub fn status(class: Class) -> StatusCode {
    match class {
        Class::InvalidArgument => StatusCode::BAD_REQUEST,
        Class::Unauthenticated => StatusCode::UNAUTHORIZED,
        Class::PermissionDenied => StatusCode::FORBIDDEN,
        Class::NotFound => StatusCode::NOT_FOUND,
        Class::AlreadyExists | Class::FailedPrecondition | Class::Aborted => StatusCode::CONFLICT,
        Class::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Class::OutOfRange => StatusCode::RANGE_NOT_SATISFIABLE,
        Class::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Class::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Class::DataLoss | Class::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        Class::Unimplemented => StatusCode::NOT_IMPLEMENTED,
    }
}
