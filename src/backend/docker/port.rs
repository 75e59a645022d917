//! Ports of a machine: a container of the sidecar's image stands in the machine's network for as long as
//! they are forwarded, and each connection is a command in it that dials there. So also what listens on the
//! machine's loopback alone is reached, whatever the image has, on any engine; and the engine publishes nothing.
//!
//! That container waits on its stdin, which ends with this process, and is removed by the engine when it ends.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bollard::container::LogOutput;
use bollard::models::{ContainerCreateBody, HostConfig, HostConfigLogConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptionsBuilder, InspectContainerOptions,
    RemoveContainerOptionsBuilder,
};
use futures_util::StreamExt as _;
use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio_util::io::StreamReader;

use super::engine::Engine;
use super::sidecar_image::{self, PROGRAM_PATH, USER};
use super::{Docker, create, exec, sidecar};
use crate::backend::port::{Port, Stream};
use crate::backend::{BackendError, ExecSpec, Progress, Scope, dial};
use crate::model::{Instance, InstanceId};

/// By this label it is known what the container is for. It has none of those by which machines are found.
const LABEL: &str = "io.bottle.forward";

/// Its name behind the machine's. A dot cannot stand in a sandbox's name.
const NAME: &str = "forward";

/// What it may hold: each connection is a small process.
const MEMORY: i64 = 128 << 20;
const PIDS: i64 = 1024;

/// The port, and the container by which it is reached.
struct OfMachine {
    engine: Arc<Engine>,
    machine: Instance,
    /// The container, as what commands are run in.
    beside: Instance,
    port: u16,
    /// What the container is made from.
    image: String,
    /// While it is open, the container runs.
    _input: Mutex<Pin<Box<dyn AsyncWrite + Send>>>,
}

pub(super) async fn open(
    docker: &Docker,
    engine: Arc<Engine>,
    scope: &Scope,
    machine: &Instance,
    port: u16,
) -> Result<Box<dyn Port>, BackendError> {
    let what = format!("reaching port {port} of {}", machine.name);
    let failed = |e| engine.failed(&what, e);
    let inspected = engine.client.inspect_container(&machine.id.0, None::<InspectContainerOptions>);
    let found = inspected.await.map_err(|e| exec::not_running(&engine, machine, e))?;
    if found.state.as_ref().and_then(|state| state.running) != Some(true) {
        let (name, state) = (machine.name.clone(), "stopped".to_owned());
        return Err(BackendError::NotRunning { name, state });
    }
    let runtime = found.host_config.as_ref().and_then(|host| host.runtime.clone());
    if runtime.as_deref().is_some_and(|runtime| runtime.contains("runsc")) {
        return Err(BackendError::Unsupported(format!(
            "{} runs under gVisor, whose network nothing outside it can enter: its ports cannot be forwarded",
            machine.name
        )));
    }
    let program = sidecar::program(docker).await?;
    let silent = Progress::silent();
    let image = sidecar_image::ready(docker, &engine, scope, &program, &silent).await?;
    let traits = engine.traits().await?;
    let unique = uuid();
    let name = format!("{}.{NAME}.{unique}", machine.name);
    let options = CreateContainerOptionsBuilder::new().name(&name).build();
    let made = engine
        .client
        .create_container(Some(options), body(machine, &image, traits.memory, traits.pids));
    let id = made.await.map_err(failed)?.id;
    let beside = Instance { id: InstanceId(id.clone()), name: name.clone(), ..machine.clone() };
    let begun = async {
        let options = AttachContainerOptionsBuilder::new().stdin(true).stream(true).build();
        let attached = engine.client.attach_container(&id, Some(options)).await?;
        engine.client.start_container(&id, None).await?;
        Ok::<_, bollard::errors::Error>(attached.input)
    };
    match begun.await {
        Ok(input) => Ok(Box::new(OfMachine {
            engine: engine.clone(),
            machine: machine.clone(),
            beside,
            port,
            image,
            _input: Mutex::new(input),
        })),
        Err(error) => {
            remove(&engine, &id, &image).await;
            Err(failed(error))
        }
    }
}

fn body(machine: &Instance, image: &str, memory: bool, pids: bool) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(image.to_owned()),
        user: Some(format!("{USER}:{USER}")),
        entrypoint: Some(vec![PROGRAM_PATH.to_owned()]),
        cmd: Some(["sidecar", "wait"].map(str::to_owned).to_vec()),
        open_stdin: Some(true),
        stdin_once: Some(true),
        labels: Some(HashMap::from([(LABEL.to_owned(), machine.name.clone())])),
        host_config: Some(HostConfig {
            network_mode: Some(format!("container:{}", machine.id.0)),
            auto_remove: Some(true),
            readonly_rootfs: Some(true),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            ulimits: Some(vec![create::no_core()]),
            privileged: Some(false),
            memory: memory.then_some(MEMORY),
            pids_limit: pids.then_some(PIDS),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Enough to tell those of one machine apart.
fn uuid() -> String {
    let mut random = [0; 6];
    // Without randomness the name may be taken, which is said then.
    let _ = getrandom::fill(&mut random);
    hex::encode(random)
}

/// Removes the container, and its image where no sidecar stands on that.
async fn remove(engine: &Engine, id: &str, image: &str) {
    let options = RemoveContainerOptionsBuilder::new().force(true).build();
    // It goes by itself, too, and the next pass removes an image that is left over.
    if let Err(error) = engine.client.remove_container(id, Some(options)).await {
        tracing::debug!(%error, "what forwarded a port is not removed");
    }
    if let Err(error) = sidecar_image::remove(engine, image).await {
        tracing::debug!(%error, "the image of what forwarded a port is not removed");
    }
}

#[async_trait]
impl Port for OfMachine {
    async fn connect(&self) -> Result<Option<Box<dyn Stream>>, BackendError> {
        let port = self.port.to_string();
        let spec = ExecSpec::new([PROGRAM_PATH, "sidecar", "dial", &port]);
        let begun = async {
            let id = exec::create(&self.engine, &self.beside, &spec, true, false).await?;
            exec::start(&self.engine, &self.beside, &id, false).await
        };
        let (output, input) = match begun.await {
            Ok(streams) => streams,
            // Where the machine has ended, that is what there is to say.
            Err(error) => return Err(self.ended().await.unwrap_or(error)),
        };
        let bytes = output.map(|piece| match piece {
            Ok(LogOutput::StdErr { message }) => {
                tracing::debug!(said = %String::from_utf8_lossy(&message), "dialling within a machine");
                Ok(bytes::Bytes::new())
            }
            Ok(other) => Ok(other.into_bytes()),
            Err(error) => Err(std::io::Error::other(error)),
        });
        let mut read = StreamReader::new(Box::pin(bytes));
        match read.read_u8().await {
            Ok(dial::CONNECTED) => {}
            Ok(_) | Err(_) => {
                return match self.ended().await {
                    Some(error) => Err(error),
                    None => Ok(None),
                };
            }
        }
        Ok(Some(Box::new(dial::unframed(read, input))))
    }

    async fn close(&self) {
        remove(&self.engine, &self.beside.id.0, &self.image).await;
    }
}

impl OfMachine {
    /// Whether the machine, or what reaches into it, does not run any more.
    async fn ended(&self) -> Option<BackendError> {
        for instance in [&self.machine, &self.beside] {
            let inspected = self
                .engine
                .client
                .inspect_container(&instance.id.0, None::<InspectContainerOptions>);
            let state = match inspected.await {
                Ok(found) if found.state.as_ref().and_then(|s| s.running) == Some(true) => continue,
                Ok(_) => "stopped",
                Err(e) if super::error::is_status(&e, 404) => "gone",
                Err(e) => return Some(self.engine.failed("looking for the machine", e)),
            };
            let (name, state) = (instance.name.clone(), state.to_owned());
            return Some(BackendError::NotRunning { name, state });
        }
        None
    }
}
