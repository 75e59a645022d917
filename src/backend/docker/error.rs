//! What the engine's errors mean to the layers above.

use bollard::errors::Error;

use crate::backend::BackendError;
use crate::model::BackendKind;

/// What an engine says while it, or the containerd under it, goes down or comes up. Such an answer
/// is about the engine and not about the object that was asked for.
const GOING_DOWN: [&str; 6] = [
    "client connection is closing",
    "transport is closing",
    "connection is shut down",
    "containerd.sock",
    "context canceled",
    "daemon is shutting down",
];

/// The status and the message, where the engine answered at all.
pub(super) fn answer(error: &Error) -> Option<(u16, &str)> {
    match error {
        Error::DockerResponseServerError { status_code, message } => Some((*status_code, message)),
        _ => None,
    }
}

/// The engine answered with this status.
pub(super) fn is_status(error: &Error, status: u16) -> bool {
    answer(error).is_some_and(|(found, _)| found == status)
}

/// Whether this is about the engine as a whole, and in which words.
pub(super) fn unreachable(error: &Error) -> Option<String> {
    match error {
        Error::DockerResponseServerError { status_code: 502..=504, message } => {
            Some(format!("it is not ready: {}", message.trim()))
        }
        Error::DockerResponseServerError { status_code: 500, message }
            if GOING_DOWN.iter().any(|text| message.contains(text)) =>
        {
            Some(format!("it is going down or coming up: {}", message.trim()))
        }
        Error::RequestTimeoutError => Some("it did not answer in time".to_owned()),
        Error::SocketNotFoundError(path) => Some(format!("there is no socket {path}")),
        Error::HyperLegacyError { .. }
        | Error::HyperResponseError { .. }
        | Error::IOError { .. } => Some(connection_text(error)),
        Error::JsonSerdeError { err } if err.is_eof() => {
            Some("it closed the connection in the middle of its answer".to_owned())
        }
        _ => None,
    }
}

/// The innermost cause says it best: `No such file or directory`, `Permission denied`.
fn connection_text(error: &Error) -> String {
    let text = innermost(error);
    if text.contains("ermission denied") {
        format!("{text}: is this user in the group that owns the socket?")
    } else {
        text
    }
}

fn innermost(error: &dyn std::error::Error) -> String {
    let mut deepest = error;
    while let Some(source) = deepest.source() {
        deepest = source;
    }
    deepest.to_string()
}

/// The engine's own words where it answered, without the client's frame around them.
pub(super) fn words(error: &Error) -> String {
    match error {
        Error::DockerResponseServerError { message, .. } => message.trim().to_owned(),
        Error::DockerStreamError { error } => error.trim().to_owned(),
        other => other.to_string(),
    }
}

/// An error in the middle of `what` (a gerund), on the engine at `endpoint`.
pub(super) fn failed(endpoint: &str, what: impl Into<String>, error: Error) -> BackendError {
    match unreachable(&error) {
        Some(reason) => BackendError::Unreachable {
            backend: BackendKind::Docker,
            reason: format!("{endpoint}: {reason}"),
        },
        None => match answer(&error) {
            Some(_) => BackendError::failed(what, anyhow::anyhow!(words(&error))),
            None => BackendError::failed(what, error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(status_code: u16, message: &str) -> Error {
        Error::DockerResponseServerError { status_code, message: message.to_owned() }
    }

    #[test]
    fn an_engine_that_goes_down_is_unreachable_and_a_refusal_is_not() {
        for error in [
            server(503, "starting"),
            server(500, "grpc: the client connection is closing: unknown"),
            server(500, "dial unix /run/containerd/containerd.sock: connect: refused"),
            Error::RequestTimeoutError,
            Error::SocketNotFoundError("/run/x".into()),
            Error::IOError { err: std::io::ErrorKind::UnexpectedEof.into() },
        ] {
            let text = error.to_string();
            let error = failed("unix:///run/x", "listing", error);
            let BackendError::Unreachable { reason, .. } = error else {
                panic!("{text} should be unreachable: {error}");
            };
            assert!(reason.starts_with("unix:///run/x: "), "{reason}");
        }
        for error in [server(500, "OCI runtime create failed"), server(404, "no such container")] {
            assert!(matches!(failed("x", "starting", error), BackendError::Failed { .. }));
        }
    }

    #[test]
    fn the_engines_words_come_without_a_frame() {
        let error = failed("x", "creating the container", server(400, "bad mount\n"));
        let BackendError::Failed { what, source } = error else { panic!("{error}") };
        assert_eq!(
            (what.as_str(), source.to_string().as_str()),
            ("creating the container", "bad mount")
        );
    }
}
