//! Ports of a microVM. The program publishes ports only of a machine that is being made, so each connection is a command
//! in it: whatever of the guest's can connect its stdin and stdout with a port.

use std::process::Stdio;
use std::time::Duration;

use async_trait::async_trait;
use tokio::io::AsyncReadExt as _;

use super::{Smolmachines, command, exec, observe};
use crate::backend::port::{Port, Stream, joined};
use crate::backend::{BackendError, ExecSpec, Scope, dial};
use crate::model::Instance;

/// What the script below ends with when nothing listens, and when the guest has no program for it.
const REFUSED: i32 = 97;
const NO_PROGRAM: i32 = 98;

/// `PORT`. The kernel's table says whether something listens, and on which loopback. The `+` is what tells that there is a
/// connection.
const CONNECT_SH: &str = r#"hex=$(printf %04X "$1")
listens() { grep -q ": [0-9A-F]*:$hex 0*:0000 0A " "$1" 2>/dev/null; }
if listens /proc/net/tcp; then at=127.0.0.1
elif listens /proc/net/tcp6; then at=::1
else exit 97; fi
has() { command -v "$1" >/dev/null 2>&1; }
if has socat; then printf +; exec socat -t 86400 - "TCP:[$at]:$1"; fi
if has python3; then exec python3 -c '
import os, socket, sys, threading
s = socket.create_connection((sys.argv[1], int(sys.argv[2])))
os.write(1, b"+")
def send():
    while True:
        data = os.read(0, 65536)
        if not data: break
        s.sendall(data)
    try: s.shutdown(socket.SHUT_WR)
    except OSError: pass
threading.Thread(target=send, daemon=True).start()
while True:
    data = s.recv(65536)
    if not data: break
    while data: data = data[os.write(1, data):]
' "$at" "$1"; fi
if has nc; then printf +; exec nc "$at" "$1"; fi
if has busybox && busybox nc --help >/dev/null 2>&1; then printf +; exec busybox nc "$at" "$1"; fi
exit 98"#;

/// A port of one microVM.
pub(super) struct OfMicroVm {
    pub(super) backend: Smolmachines,
    pub(super) scope: Scope,
    pub(super) machine: Instance,
    pub(super) port: u16,
}

/// How long a guest may take to say whether something listens, and to end when nothing does.
const ANSWERING: Duration = Duration::from_secs(20);

/// So much of its words is shown, in bytes.
const WORDS: u64 = 4096;

#[async_trait]
impl Port for OfMicroVm {
    async fn connect(&self) -> Result<Option<Box<dyn Stream>>, BackendError> {
        let Self { backend, scope, machine, port } = self;
        let port = port.to_string();
        let spec = ExecSpec::new(["sh", "-c", CONNECT_SH, "sh", &port]);
        let args = exec::args(backend, scope, machine, &spec, &["-i", "--stream"]).await?;
        let program = backend.settings.find().map_err(command::unreachable)?;
        let mut command = command::command(&backend.settings, &program, &args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command::spawn(&mut command, &program)?;
        let (Some(input), Some(mut output)) = (child.stdin.take(), child.stdout.take()) else {
            return Ok(None);
        };
        let mut words = child.stderr.take();
        let first = tokio::time::timeout(ANSWERING, output.read_u8()).await;
        if first.is_ok_and(|first| first.is_ok_and(|first| first == dial::CONNECTED)) {
            let until = async move {
                // What the guest says beside it is nobody's, and must not hold it up.
                if let Some(words) = &mut words {
                    drop(tokio::io::copy(words, &mut tokio::io::sink()).await);
                }
                drop(child.wait().await);
            };
            return Ok(Some(Box::new(joined(output, input, until))));
        }
        let what = format!("connecting to port {port} of {}", machine.name);
        drop((input, output));
        // All of it is the guest's word: so much is read, and so long is waited.
        let mut said = Vec::new();
        let ending = async {
            if let Some(words) = &mut words {
                words.take(WORDS).read_to_end(&mut said).await?;
            }
            child.wait().await
        };
        let ended = tokio::time::timeout(ANSWERING, ending).await;
        let code = match ended {
            Ok(ended) => ended.map_err(|error| BackendError::failed(&what, error))?.code(),
            Err(_) => {
                drop(child.start_kill());
                None
            }
        };
        match code {
            Some(REFUSED) => Ok(None),
            Some(NO_PROGRAM) => Err(BackendError::Unsupported(format!(
                "{} has none of socat, python3, nc and busybox, by one of which a port of a microVM is reached: \
                 put one into its image",
                machine.name
            ))),
            _ => {
                // A machine that went away meanwhile is told apart by the listing.
                observe::running(backend, scope, machine).await?;
                let said = String::from_utf8_lossy(&said).trim().to_owned();
                let words =
                    if said.is_empty() { "it ended without a word".to_owned() } else { said };
                Err(BackendError::failed(what, anyhow::Error::msg(words)))
            }
        }
    }
}
