//! The main process's output, and hints that something moved.

use std::collections::HashMap;

use bollard::container::LogOutput;
use bollard::models::{EventMessage, EventMessageTypeEnum};
use bollard::query_parameters::{EventsOptionsBuilder, LogsOptionsBuilder};
use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::engine::Engine;
use super::exec;
use super::transport::Pieces;
use crate::backend::timed::Timed;
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
        .timestamps(options.timed())
        // Whole seconds, as engines take them: what is left of the first one is left out below.
        .since(options.since.map_or(0, |since| i32::try_from(since.seconds()).unwrap_or(i32::MAX)))
        .build();
    let (pieces, client) = Pieces::of(&engine.client);
    let mut stream = client.logs(&instance.id.0, Some(asked));
    let writing = |e: std::io::Error| BackendError::failed("writing the log", e);
    // An engine sends a line, or a part of a long one, as a piece. Each stream has lines of its own.
    let mut timed = [Timed::new(options), Timed::new(options)];
    let mut shown = Vec::new();
    while let Some(chunk) = stream.next().await {
        let chunk = pieces.next(chunk).map_err(|e| exec::not_running(engine, instance, e))?;
        if options.timed() {
            shown.clear();
            let stream = usize::from(matches!(chunk, LogOutput::StdErr { .. }));
            timed[stream].push_stamped(chunk.as_ref(), &mut shown);
            out.write_all(&shown).await.map_err(writing)?;
        } else {
            out.write_all(chunk.as_ref()).await.map_err(writing)?;
        }
        if options.follow {
            out.flush().await.map_err(writing)?;
        }
    }
    out.flush().await.map_err(writing)
}

/// What moves a machine. Commands that run in it are no reason to look again: ours are among them.
const ACTIONS: [&str; 11] = [
    "die",
    "start",
    "pause",
    "unpause",
    "destroy",
    "rename",
    "update",
    "oom",
    "create",
    // Of a network.
    "connect",
    "disconnect",
];

pub(super) async fn events(
    engine: &Engine,
    scope: &Scope,
) -> Result<BoxStream<'static, Result<Hint, BackendError>>, BackendError> {
    // The stream connects when it is first polled; whether anybody is there should be known now.
    engine.client.ping().await.map_err(|e| engine.failed("asking for events", e))?;
    let filters: HashMap<String, Vec<String>> = HashMap::from([
        // An event of a network carries no labels: what is ours is told apart here.
        ("type".to_owned(), vec!["container".to_owned(), "network".to_owned()]),
        ("event".to_owned(), ACTIONS.map(str::to_owned).to_vec()),
    ]);
    let options = EventsOptionsBuilder::new().filters(&filters).build();
    let endpoint = engine.endpoint.describe();
    let ended = BackendError::Unreachable {
        backend: BackendKind::Docker,
        reason: format!("{endpoint}: the stream of events ended"),
    };
    let (owner, client) = (scope.owner.to_string(), engine.client.clone());
    let hints = engine.client.events(Some(options)).filter_map(move |event| {
        let (owner, client) = (owner.clone(), client.clone());
        async move {
            match event {
                Ok(event) if concerns(&client, &event, &owner).await => Some(Ok(hint(event))),
                Ok(_) => None,
                // Whatever broke it, nothing more will come: the one error at the end says so.
                Err(error) => {
                    tracing::debug!(%error, "the stream of events broke");
                    None
                }
            }
        }
    });
    Ok(hints.chain(futures_util::stream::once(std::future::ready(Err(ended)))).boxed())
}

/// Whether an event is about something of this owner.
async fn concerns(client: &bollard::Docker, event: &EventMessage, owner: &str) -> bool {
    let attributes = event.actor.as_ref().and_then(|actor| actor.attributes.as_ref());
    let attribute = |name: &str| attributes.and_then(|all| all.get(name)).map(String::as_str);
    if event.typ == Some(EventMessageTypeEnum::CONTAINER) {
        return attribute(label::OWNER) == Some(owner);
    }
    let ours = |name: &str| {
        let rest = name.strip_prefix("bottle-").and_then(|name| name.strip_prefix(owner));
        rest.is_some_and(|rest| rest.starts_with(['-', '.']))
    };
    if attribute("name").is_some_and(ours) {
        return true;
    }
    // Another's network, attached to a machine of ours or taken off it.
    let Some(container) = attribute("container") else { return false };
    let found = client.inspect_container(container, None).await;
    let labels = found.ok().and_then(|found| found.config?.labels);
    labels.is_some_and(|labels| labels.get(label::OWNER).map(String::as_str) == Some(owner))
}

fn hint(event: EventMessage) -> Hint {
    let what = match event.typ {
        Some(EventMessageTypeEnum::NETWORK) => "network",
        _ => "container",
    };
    let name = event
        .actor
        .and_then(|actor| actor.attributes)
        .and_then(|mut attributes| attributes.remove("name"))
        .unwrap_or_default();
    Hint { what: format!("{what} {} {name}", event.action.unwrap_or_default()) }
}
