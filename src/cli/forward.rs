//! `bottle forward`: a port of this machine's loopback leads into a sandbox for as long as this runs.

use std::net::Ipv4Addr;
use std::sync::Arc;

use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use super::args::{ForwardArgs, Global, Ports};
use super::error::{CliError, Exit, Kind};
use super::target::{self, Target};
use super::ui::Ui;
use crate::backend::BackendError;
use crate::backend::port::Port;
use crate::model::text::harmless_line;

/// Connections at once. The next one waits until one has ended.
const CONNECTIONS: usize = 256;

/// What leads where, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Forwarded<'a> {
    version: u32,
    sandbox: &'a str,
    port: u16,
    /// Where it is on this machine.
    address: String,
}

pub(super) async fn run(ui: &Ui, global: &Global, args: &ForwardArgs) -> Result<Exit, CliError> {
    let Ports { port, host } = args.ports;
    // From here on: whoever asks it to end while it begins does not leave anything behind.
    let mut ended = signal(SignalKind::interrupt())?;
    let mut asked = signal(SignalKind::terminate())?;
    let target = Target::find(global, &args.name).await?;
    target.must_run()?;
    let listener = listen(&args.name, port, host).await?;
    let address = listener.local_addr()?;
    let opened = target.backend.port(&target.scope, &target.machine, port).await;
    let door: Arc<dyn Port> = Arc::from(opened.map_err(target::explain)?);
    let sandbox = target.sandbox.as_str();
    let forwarded = Forwarded { version: 1, sandbox, port, address: address.to_string() };
    if ui.json() {
        ui.document(&forwarded)?;
    } else {
        ui.data(&format!("{address}\n"))?;
    }
    ui.say(&format!("{address} leads to port {port} of {sandbox}, until Ctrl-C"));
    let what = format!("port {port} of {sandbox}");
    let result = tokio::select! {
        _ = ended.recv() => Ok(Exit::Done),
        _ = asked.recv() => Ok(Exit::Done),
        gone = serve(ui, &listener, &door, &what) => Err(gone),
    };
    door.close().await;
    result
}

/// The port of this machine.
async fn listen(name: &str, port: u16, host: u16) -> Result<TcpListener, CliError> {
    let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, host)).await;
    bound.map_err(|error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AddrInUse => "something else listens there: name another port",
            std::io::ErrorKind::PermissionDenied => {
                "it is not yours to use: name a port from 1024 on"
            }
            _ => "name another port",
        };
        let other = if host < 60_000 { host.max(1023) + 1 } else { 8080 };
        let error = anyhow::Error::from(error).context(format!("listening on 127.0.0.1:{host}"));
        CliError::new(Kind::Failed, error)
            .hint(format!("{hint}: `bottle forward {name} {port}:{other}`"))
    })
}

/// Leads connections there until the machine ends: why.
async fn serve(ui: &Ui, listener: &TcpListener, door: &Arc<dyn Port>, what: &str) -> CliError {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let (tell, mut told) = mpsc::channel::<Result<(), BackendError>>(16);
    loop {
        let accepting = async {
            // It is never closed.
            let place = Arc::clone(&room).acquire_owned().await.ok();
            (listener.accept().await, place)
        };
        tokio::select! {
            (accepted, place) = accepting => match accepted {
                Ok((socket, _)) => {
                    let (door, tell) = (Arc::clone(door), tell.clone());
                    tokio::spawn(async move {
                        let _place = place;
                        let failed = match lead(socket, &*door).await {
                            Ok(Some(())) => return,
                            Ok(None) => Ok(()),
                            Err(error) => Err(error),
                        };
                        let _ = tell.send(failed).await;
                    });
                }
                Err(error) => ui.warn(&harmless_line(&format!("a connection was not accepted: {error}"))),
            },
            Some(failed) = told.recv() => match failed {
                Ok(()) => ui.warn(&format!("nothing listens on {what}")),
                Err(error @ BackendError::NotRunning { .. }) => return target::explain(error),
                Err(error) => {
                    let error = target::explain(error);
                    ui.warn(&harmless_line(&error.chain().join(": ")));
                }
            },
        }
    }
}

/// Leads one connection there, to its end. `None`: nothing listens.
async fn lead(mut socket: TcpStream, door: &dyn Port) -> Result<Option<()>, BackendError> {
    let Some(mut inside) = door.connect().await? else { return Ok(None) };
    // What is small is not waited for, and how it ends is seen by both ends.
    let _ = socket.set_nodelay(true);
    let _ = tokio::io::copy_bidirectional(&mut socket, &mut inside).await;
    Ok(Some(()))
}
