//! Projects the one error type to gRPC: a status with google.rpc.Status details. Knows no causes.

use crate::error::{Class, Error};
use prost::Message as _;
use tidegate_proto::rpc::{
    Any, BadRequest, Duration, ErrorInfo, FieldViolation, QuotaFailure, QuotaViolation, RetryInfo, Status as RpcStatus,
};
use tonic::{Code, Status};

/// The longest message that goes into a header; longer ones are cut.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Code, message and an `ErrorInfo` with the dotted code as its reason; a `RetryInfo` when the error says after how many
/// milliseconds to try again, a `BadRequest` when it names the field, a `QuotaFailure` when it names whose bound it is.
pub(super) fn status(error: &Error) -> Status {
    let code = match error.code().class() {
        Class::InvalidArgument => Code::InvalidArgument,
        Class::Unauthenticated => Code::Unauthenticated,
        Class::PermissionDenied => Code::PermissionDenied,
        Class::NotFound => Code::NotFound,
        Class::AlreadyExists => Code::AlreadyExists,
        Class::ResourceExhausted => Code::ResourceExhausted,
        Class::FailedPrecondition => Code::FailedPrecondition,
        Class::OutOfRange => Code::OutOfRange,
        Class::DeadlineExceeded => Code::DeadlineExceeded,
        Class::Unavailable => Code::Unavailable,
        Class::Aborted => Code::Aborted,
        Class::DataLoss => Code::DataLoss,
        Class::Internal => Code::Internal,
        Class::Unimplemented => Code::Unimplemented,
    };
    let message = cut(error.message());
    let info = ErrorInfo {
        reason: error.code().as_str().to_owned(),
        domain: ErrorInfo::DOMAIN.to_owned(),
        metadata: error.details().iter().map(|(key, value)| ((*key).to_owned(), cut(value).to_owned())).collect(),
    };
    let any = |url: &str, value: Vec<u8>| Any { type_url: url.to_owned(), value };
    let mut details = vec![any(ErrorInfo::TYPE_URL, info.encode_to_vec())];
    let detail = |name: &str| error.details().iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str());
    if let Some(ms) = detail("retry_ms").and_then(|ms| ms.parse::<u32>().ok()) {
        // Below a thousand times a million: both fit.
        let delay = Duration { seconds: i64::from(ms / 1000), nanos: (ms % 1000) as i32 * 1_000_000 };
        details.push(any(RetryInfo::TYPE_URL, RetryInfo { retry_delay: Some(delay) }.encode_to_vec()));
    }
    if let Some(subject) = detail("quota") {
        let violation = QuotaViolation { subject: cut(subject).to_owned(), description: message.to_owned() };
        details.push(any(QuotaFailure::TYPE_URL, QuotaFailure { violations: vec![violation] }.encode_to_vec()));
    }
    if let Some(field) = detail("field").filter(|_| code == Code::InvalidArgument) {
        let violation = FieldViolation { field: cut(field).to_owned(), description: message.to_owned() };
        details.push(any(BadRequest::TYPE_URL, BadRequest { field_violations: vec![violation] }.encode_to_vec()));
    }
    let details = RpcStatus { code: code as i32, message: message.to_owned(), details };
    Status::with_details(code, message, details.encode_to_vec().into())
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(MESSAGE_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code as OurCode;

    #[test]
    fn details_carry_the_dotted_code_and_its_details() {
        let error = Error::new(OurCode::StreamPressure, "too slow").with("resume_after", 7);
        let status = status(&error);
        assert_eq!(status.code(), Code::ResourceExhausted);
        let details = RpcStatus::decode(status.details()).unwrap();
        let info = ErrorInfo::decode(&*details.details[0].value).unwrap();
        assert_eq!((info.reason.as_str(), info.metadata["resume_after"].as_str()), ("stream.pressure", "7"));
    }

    #[test]
    fn when_to_try_again_and_which_field_have_details_of_their_own() {
        let details = |error: &Error| RpcStatus::decode(status(error).details()).unwrap().details;
        let limited = details(&Error::new(OurCode::RateLimited, "later").with("retry_ms", 1500));
        assert_eq!((limited.len(), limited[1].type_url.as_str()), (2, RetryInfo::TYPE_URL));
        let delay = RetryInfo::decode(&*limited[1].value).unwrap().retry_delay.unwrap();
        assert_eq!((delay.seconds, delay.nanos), (1, 500_000_000));
        let bound = Error::new(OurCode::StreamKeyLimit, "no more").with("retry_ms", 1000).with("quota", "key:k1");
        let bound = details(&bound);
        assert_eq!((bound.len(), bound[2].type_url.as_str()), (3, QuotaFailure::TYPE_URL));
        assert_eq!(QuotaFailure::decode(&*bound[2].value).unwrap().violations[0].subject, "key:k1");
        let invalid = details(&Error::new(OurCode::RequestInvalid, "no").with("field", "reason"));
        assert_eq!((invalid.len(), invalid[1].type_url.as_str()), (2, BadRequest::TYPE_URL));
        let bad = BadRequest::decode(&*invalid[1].value).unwrap();
        assert_eq!(bad.field_violations[0].field, "reason");
    }

    #[test]
    fn a_long_message_is_cut_at_a_character() {
        let error = Error::new(OurCode::Internal, "ä".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(status(&error).message().len(), MESSAGE_BYTES_MAX);
    }
}
