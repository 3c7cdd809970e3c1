//! Projects the one error type to gRPC: a status with google.rpc.Status details. Knows no causes.

use crate::error::{Class, Error};
use prost::Message as _;
use tidegate_proto::rpc::{Any, ErrorInfo, Status as RpcStatus};
use tonic::{Code, Status};

/// The longest message that goes into a header; longer ones are cut.
const MESSAGE_BYTES_MAX: usize = 2048;

/// Code, message and an `ErrorInfo` with the dotted code as its reason.
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
    let details = RpcStatus {
        code: code as i32,
        message: message.to_owned(),
        details: vec![Any { type_url: ErrorInfo::TYPE_URL.to_owned(), value: info.encode_to_vec() }],
    };
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
    fn a_long_message_is_cut_at_a_character() {
        let error = Error::new(OurCode::Internal, "ä".repeat(MESSAGE_BYTES_MAX));
        assert_eq!(status(&error).message().len(), MESSAGE_BYTES_MAX);
    }
}
