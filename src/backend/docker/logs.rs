//! The main process's output, and hints that something moved.

use std::collections::HashMap;

use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, LogsOptionsBuilder};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::engine::Engine;
use super::exec;
use crate::backend::{BackendError, Hint, LogOptions, Scope, label};
use crate::model::{BackendKind, Instance};

pub(super) async fn logs(
    engine: &Engine,
    instance: &Instance,
    options: LogOptions,
    out: &mut (dyn AsyncWrite + Send + Unpin),
) -> Result<(), BackendError> {
    let tail = options.tail.map_or_else(|| "all".to_owned(), |lines| lines.to_string());
    let asked = LogsOptionsBuilder::new()
        .stdout(true)
        .stderr(true)
        .follow(options.follow)
        .tail(&tail)
        .build();
    let mut stream = engine.client.logs(&instance.id.0, Some(asked));
    let writing = |e: std::io::Error| BackendError::failed("writing the log", e);
    while let Some(chunk) = stream.next().await {
        let chunk = chunk.map_err(|e| exec::not_running(engine, instance, e))?;
        out.write_all(chunk.as_ref()).await.map_err(writing)?;
        if options.follow {
            out.flush().await.map_err(writing)?;
        }
    }
    out.flush().await.map_err(writing)
}

/// What moves a machine. Commands that run in it are no reason to look again: ours are among them.
const ACTIONS: [&str; 9] =
    ["die", "start", "pause", "unpause", "destroy", "rename", "update", "oom", "create"];

pub(super) async fn events(
    engine: &Engine,
    scope: &Scope,
) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
    // The stream connects when it is first polled; whether anybody is there should be known now.
    engine.client.ping().await.map_err(|e| engine.failed("asking for events", e))?;
    let filters: HashMap<String, Vec<String>> = HashMap::from([
        ("type".to_owned(), vec!["container".to_owned()]),
        ("label".to_owned(), vec![format!("{}={}", label::OWNER, scope.owner)]),
        ("event".to_owned(), ACTIONS.map(str::to_owned).to_vec()),
    ]);
    let options = EventsOptionsBuilder::new().filters(&filters).build();
    let endpoint = engine.endpoint.describe();
    let ended = BackendError::Unreachable {
        backend: BackendKind::Docker,
        reason: format!("{endpoint}: the stream of events ended"),
    };
    let hints = engine.client.events(Some(options)).filter_map(move |event| {
        let hint = match event {
            Ok(event) => Some(Ok(hint(event))),
            // Whatever broke it, nothing more will come: the one error at the end says so.
            Err(error) => {
                tracing::debug!(%error, "the stream of events broke");
                None
            }
        };
        std::future::ready(hint)
    });
    Ok(hints.chain(futures_util::stream::once(std::future::ready(Err(ended)))).boxed())
}

fn hint(event: EventMessage) -> Hint {
    let name = event
        .actor
        .and_then(|actor| actor.attributes)
        .and_then(|mut attributes| attributes.remove("name"))
        .unwrap_or_default();
    Hint { what: format!("container {} {name}", event.action.unwrap_or_default()) }
}
