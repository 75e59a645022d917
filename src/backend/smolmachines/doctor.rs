//! Whether microVMs can boot here, and what to change.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::command::{self, Call, Settings};
use super::create::nonce;
use super::{Smolmachines, parse, version};
use crate::backend::{BackendError, Finding, Health};

/// A machine without an image boots in less than a second, where the hardware helps.
const BOOT_DEADLINE: Duration = Duration::from_secs(120);

const KVM: &str = "/dev/kvm";

pub(super) async fn findings(backend: &Smolmachines, boot: bool) -> Vec<Finding> {
    let program = match backend.settings.find() {
        Ok(program) => program,
        Err(reason) => {
            let fix = "optional: install smolvm 1.32 or later, or name it with BOTTLE_SMOLVM";
            let named = backend.settings.program.is_some();
            let health = if named { Health::Broken } else { Health::Absent };
            return vec![finding("smolvm", health, &reason, Some(fix))];
        }
    };
    let asked = match version::ask(&backend.settings).await {
        Ok(version) => version.usable().map_err(command::unreachable),
        Err(error) => Err(error),
    };
    let version = match asked {
        Ok(version) => version,
        Err(error) => {
            let detail = match error {
                BackendError::Unreachable { reason, .. } => reason,
                other => format!("{:#}", anyhow::Error::from(other)),
            };
            let fix = "install a smolvm of 1.9 or later, and before 2.0";
            return vec![finding("smolvm", Health::Broken, &detail, Some(fix))];
        }
    };
    let about = format!("{version} at {}", program.display());
    let mut findings = vec![if version.exec_user() && version.logs() {
        finding("smolvm", Health::Works, &about, None)
    } else {
        let detail = format!(
            "{about}: it runs commands as root only, so another user needs `su` in the image, and \
             it keeps no log of a stopped machine"
        );
        finding("smolvm", Health::Limited, &detail, Some("install 1.32 or later"))
    }];
    findings.extend(kvm());
    findings.push(finding(
        "limits",
        Health::Works,
        "memory and whole CPUs are the machine's own; resources.pids is kept by the guest's kernel",
        None,
    ));
    if boot {
        findings.push(match try_boot(&backend.settings).await {
            Ok(()) => finding("machine", Health::Works, "made, started, used and removed", None),
            Err(error) => {
                let fix = "microVMs need a machine on which KVM works in full: bare metal, or a \
                           virtual machine with nested virtualisation";
                let error = format!("{:#}", anyhow::Error::from(error));
                finding("machine", Health::Broken, &error, Some(fix))
            }
        });
    }
    findings
}

fn finding(what: &str, health: Health, detail: &str, fix: Option<&str>) -> Finding {
    Finding {
        what: what.to_owned(),
        health,
        detail: detail.to_owned(),
        fix: fix.map(str::to_owned),
    }
}

/// Whether the device is there, and opens to whoever will use it. Elsewhere than on Linux the
/// program brings another way.
fn kvm() -> Option<Finding> {
    if !cfg!(target_os = "linux") {
        return None;
    }
    Some(match usable_kvm() {
        Ok(()) => finding(KVM, Health::Works, "it can be opened", None),
        Err((why, fix)) => finding(KVM, Health::Broken, &why, Some(fix)),
    })
}

fn usable_kvm() -> Result<(), (String, &'static str)> {
    match OpenOptions::new().read(true).write(true).open(KVM) {
        Err(e) if e.kind() == ErrorKind::NotFound => Err((
            "it does not exist".to_owned(),
            "switch virtualisation on in the firmware, or in the host of this virtual machine, and \
             load kvm_intel or kvm_amd",
        )),
        Err(e) if e.kind() == ErrorKind::PermissionDenied => Err((
            "this user may not open it".to_owned(),
            "add the user to the group of /dev/kvm: `usermod -aG kvm USER`, then log in again",
        )),
        Err(e) => Err((format!("it cannot be opened: {e}"), "see the kernel's log")),
        Ok(device) if rustix::process::geteuid().is_root() => {
            // As root each machine's process becomes a user of its own.
            let mode = device.metadata().map(|found| found.permissions().mode()).unwrap_or(0o666);
            if mode & 0o006 == 0o006 || mode & 0o060 == 0o060 {
                return Ok(());
            }
            Err((
                format!(
                    "its mode is {:o}, and as root smolvm opens it as another user",
                    mode & 0o777
                ),
                "`chmod 666 /dev/kvm`, or run bottle as an ordinary user",
            ))
        }
        Ok(_) => Ok(()),
    }
}

/// Whether a machine has a chance to boot here: asked before anything is removed for one.
pub(super) fn can_boot() -> Result<(), BackendError> {
    if !cfg!(target_os = "linux") {
        return Ok(());
    }
    usable_kvm().map_err(|(why, fix)| {
        BackendError::Unsupported(format!("microVMs cannot boot here: {KVM}: {why}; {fix}"))
    })
}

/// Makes a bare machine, runs a command in it, and removes it.
async fn try_boot(settings: &Settings) -> Result<(), BackendError> {
    let nonce = nonce().map_err(|e| BackendError::failed("naming a machine", e))?;
    let name = format!("bottle-doctor-{nonce}");
    let call = |what: &str, args: &[&str]| {
        let args = ["machine"].iter().chain(args).map(|word| (*word).to_owned());
        Call::new(what, BOOT_DEADLINE, args)
    };
    let step = async |what: &str, args: &[&str]| {
        let ended = command::run(settings, call(what, args)).await?;
        if ended.code == 0 {
            return Ok(());
        }
        let words = parse::words(&ended.stderr);
        Err(BackendError::failed(
            what,
            anyhow::anyhow!("smolvm ended with {}: {words}", ended.code),
        ))
    };
    let booted = async {
        let create = ["create", "--name", &name, "--cpus", "1", "--mem", "256"];
        step("making a machine", &create).await?;
        step("starting a machine", &["start", "--name", &name]).await?;
        step("running a command", &["exec", "--name", &name, "--", "true"]).await
    }
    .await;
    let gone =
        command::run(settings, call("removing a machine", &["delete", "--force", "--name", &name]));
    if let Err(error) = gone.await {
        tracing::warn!(machine = name, %error, "cannot remove it");
    }
    booted
}
