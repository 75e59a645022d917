//! What works on this engine, what does not, and what to do about it.
#![expect(clippy::disallowed_methods, reason = "looks at the engine's socket")]

use bollard::body_full;
use bollard::models::{ContainerCreateBody, HostConfig, SystemInfo};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, CreateImageOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveImageOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;

use super::engine::{Engine, GVISOR, Traits};
use crate::backend::{BackendError, Finding, Health};

/// The engine's own init, which it puts into every machine: the one program that is sure to be there.
const INIT: &str = "/sbin/docker-init";

/// The lowest version of the API that has all that is asked for.
const LOWEST_API: (usize, usize) = (1, 41);

/// `program` is what sidecars run, or why they cannot.
pub(super) async fn findings(
    engine: Result<std::sync::Arc<Engine>, BackendError>,
    program: Result<(), String>,
    boot: bool,
) -> Vec<Finding> {
    let engine = match engine {
        Ok(engine) => engine,
        Err(error) => return vec![unreachable(&error)],
    };
    let info = match engine.client.info().await {
        Ok(info) => info,
        Err(e) => return vec![unreachable(&engine.failed("asking the engine", e))],
    };
    let version = match engine.client.clone().negotiate_version().await {
        Ok(client) => client.client_version(),
        Err(e) => return vec![unreachable(&engine.failed("asking the engine", e))],
    };
    let api = (version.major_version, version.minor_version);
    let mut findings = judge(&info, &engine.endpoint.describe(), api);
    findings.push(sidecars(program));
    if boot {
        findings.push(match try_boot(&engine).await {
            Ok(()) => finding("machine", Health::Works, "made, started, ended and removed", None),
            Err(error) => {
                let error = anyhow::Error::from(error);
                finding(
                    "machine",
                    Health::Broken,
                    &format!("{error:#}"),
                    Some("see the engine's own log"),
                )
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

fn unreachable(error: &BackendError) -> Finding {
    let detail = match error {
        BackendError::Unreachable { reason, .. } => reason.clone(),
        other => other.to_string(),
    };
    let start = "start the Docker engine, or name one with DOCKER_HOST or `docker context use`";
    let fix = refused(&detail).unwrap_or_else(|| start.to_owned());
    finding("engine", Health::Absent, &detail, Some(&fix))
}

/// Whether this build can make sidecars.
fn sidecars(program: Result<(), String>) -> Finding {
    let Err(reason) = program else {
        return finding("sidecars", Health::Works, "their program is a static bottle", None);
    };
    let (why, fix) = reason.split_once("; ").unwrap_or((&reason, ""));
    let detail = format!("no bottle with `egress` or `cred_proxy` can be made: {why}");
    finding("sidecars", Health::Limited, &detail, Some(fix).filter(|fix| !fix.is_empty()))
}

/// What to do where the engine's socket is there and this user may not use it.
fn refused(detail: &str) -> Option<String> {
    use std::os::unix::fs::MetadataExt;
    if !detail.to_lowercase().contains("permission denied") {
        return None;
    }
    // The path of the socket stands in the error.
    let words = detail.split([' ', '`', ':', ',', '(', ')', '"', '\'']);
    let socket = words.filter(|word| word.starts_with('/')).find_map(|word| {
        let path = format!("/{}", word.trim_matches('/'));
        let group = std::fs::metadata(&path).ok()?.gid();
        Some((path, group))
    });
    let (path, group) = socket?;
    let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
    let name = groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(group)).then(|| name.to_owned())
    });
    let name = name.unwrap_or_else(|| group.to_string());
    Some(format!(
        "{path} belongs to the group {name}: have this user added (`usermod -aG {name} USER`) and log in \
         again; whoever is in it can become root"
    ))
}

/// What the engine says of itself, judged. Pure.
fn judge(info: &SystemInfo, endpoint: &str, api: (usize, usize)) -> Vec<Finding> {
    let traits = Traits::of(info);
    let options = |name: &str| {
        info.security_options.iter().flatten().any(|option| {
            option.split(',').any(|part| part == name || part == format!("name={name}"))
        })
    };
    let mut findings = Vec::new();
    let about = format!("{} at {endpoint}, API {}.{}", traits.version, api.0, api.1);
    findings.push(if info.os_type.as_deref().is_some_and(|os| os != "linux") {
        finding("engine", Health::Broken, &about, Some("switch it to Linux containers"))
    } else if api < LOWEST_API {
        let fix = format!("install an engine with API {}.{}", LOWEST_API.0, LOWEST_API.1);
        finding("engine", Health::Broken, &about, Some(&fix))
    } else {
        finding("engine", Health::Works, &about, None)
    });
    let unconfined = info
        .security_options
        .iter()
        .flatten()
        .any(|option| option.contains("name=seccomp") && option.contains("profile=unconfined"));
    findings.push(if options("seccomp") && !unconfined {
        finding("seccomp", Health::Works, "the engine's own profile", None)
    } else {
        finding(
            "seccomp",
            Health::Limited,
            "the engine filters no system calls",
            Some("use a kernel and an engine with seccomp, without seccomp-profile=unconfined"),
        )
    });
    findings.push(if traits.gvisor {
        finding("gvisor", Health::Works, "runsc is registered and used for new machines", None)
    } else {
        finding(
            "gvisor",
            Health::Absent,
            &format!("the engine has no runtime {GVISOR}"),
            Some("optional: install gVisor and register runsc with the engine"),
        )
    });
    let drivers = info.plugins.as_ref().and_then(|plugins| plugins.network.as_ref());
    let macvlan = drivers.is_some_and(|drivers| drivers.iter().any(|name| name == "macvlan"));
    findings.push(if macvlan {
        finding("networks", Health::Works, "the engine makes macvlans for sidecars", None)
    } else {
        finding(
            "networks",
            Health::Limited,
            "the engine makes no macvlan, so no sandbox can have a sidecar",
            Some("use an engine with the macvlan driver, on a kernel that has it"),
        )
    });
    let unenforced = traits.facts().unenforced;
    findings.push(if unenforced.is_empty() {
        finding("limits", Health::Works, "memory, cpus, pids and disk are enforced", None)
    } else {
        finding("limits", Health::Limited, &unenforced.join("; "), None)
    });
    if options("rootless") {
        findings.push(finding("rootless", Health::Works, "the engine runs without root", None));
    }
    findings
}

/// Makes a machine of an empty image, runs the engine's own init in it, and removes both.
async fn try_boot(engine: &Engine) -> Result<(), BackendError> {
    let mut random = [0u8; 6];
    getrandom::fill(&mut random)
        .map_err(|e| BackendError::failed("naming a machine", anyhow::anyhow!("{e}")))?;
    let name = format!("bottle_doctor_{}", hex::encode(random));
    let result = boot(engine, &name).await;
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    drop(engine.client.remove_container(&name, Some(options)).await);
    let options = RemoveImageOptionsBuilder::new().force(true).build();
    drop(engine.client.remove_image(&name, Some(options), None).await);
    result
}

async fn boot(engine: &Engine, name: &str) -> Result<(), BackendError> {
    let empty = tar::Builder::new(Vec::new())
        .into_inner()
        .map_err(|e| BackendError::failed("making an empty image", e))?;
    let options = CreateImageOptionsBuilder::new().from_src("-").repo(name).tag("latest").build();
    let body = Some(body_full(empty.into()));
    let mut stream = engine.client.create_image(Some(options), body, None);
    while let Some(line) = stream.next().await {
        line.map_err(|e| engine.failed("importing an empty image", e))?;
    }
    let traits = engine.traits().await?;
    let body = ContainerCreateBody {
        image: Some(name.to_owned()),
        entrypoint: Some(vec![INIT.to_owned(), "--version".to_owned()]),
        user: Some("1000:1000".to_owned()),
        host_config: Some(HostConfig {
            init: Some(true),
            network_mode: Some("none".to_owned()),
            cap_drop: Some(vec!["ALL".to_owned()]),
            security_opt: Some(vec!["no-new-privileges".to_owned()]),
            memory: traits.memory.then_some(64 << 20),
            pids_limit: traits.pids.then_some(16),
            runtime: traits.gvisor.then(|| GVISOR.to_owned()),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::new().name(name).build();
    let made = engine.client.create_container(Some(options), body).await;
    made.map_err(|e| engine.failed("making a machine", e))?;
    let started = engine.client.start_container(name, None::<StartContainerOptions>).await;
    started.map_err(|e| engine.failed("starting a machine", e))?;
    let mut ended = engine.client.wait_container(name, None::<WaitContainerOptions>);
    while let Some(end) = ended.next().await {
        end.map_err(|e| engine.failed("running a machine", e))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bollard::models::PluginsInfo;

    use super::*;

    fn health(findings: &[Finding], what: &str) -> Health {
        findings.iter().find(|finding| finding.what == what).unwrap().health
    }

    #[test]
    fn a_socket_that_may_not_be_used_names_its_group() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("docker.sock");
        std::fs::write(&socket, "").unwrap();
        let said = |what: &str| refused(&format!("unix://{}: {what}", socket.display()));
        let group = if rustix::process::getegid().is_root() { "root" } else { "" };
        let fix = said("Permission denied (os error 13)").unwrap();
        assert!(
            fix.contains(&format!("the group {group}")) && fix.contains("usermod -aG"),
            "{fix}"
        );
        assert_eq!(said("Connection refused (os error 111)"), None);
    }

    #[test]
    fn a_build_that_makes_no_sidecars_says_so() {
        assert_eq!(sidecars(Ok(())).health, Health::Works);
        let told = sidecars(Err("this bottle is linked to libraries; use a static one".to_owned()));
        assert_eq!(told.health, Health::Limited);
        assert!(told.detail.ends_with("can be made: this bottle is linked to libraries"));
        assert_eq!(told.fix.as_deref(), Some("use a static one"));
    }

    #[test]
    fn an_engine_is_judged_by_what_it_says() {
        let mut info = SystemInfo {
            driver: Some("btrfs".into()),
            security_options: Some(vec!["name=seccomp,profile=default".into()]),
            ..SystemInfo::default()
        };
        let findings = judge(&info, "unix:///x", (1, 41));
        for what in ["engine", "seccomp", "limits"] {
            assert_eq!(health(&findings, what), Health::Works, "{what}");
        }
        assert_eq!(health(&findings, "networks"), Health::Limited);
        info.plugins = Some(PluginsInfo {
            network: Some(vec!["bridge".into(), "macvlan".into()]),
            ..PluginsInfo::default()
        });
        assert_eq!(health(&judge(&info, "unix:///x", (1, 41)), "networks"), Health::Works);
        assert_eq!(health(&findings, "gvisor"), Health::Absent);
        info.security_options = Some(vec!["name=seccomp,profile=unconfined".into()]);
        info.pids_limit = Some(false);
        let findings = judge(&info, "unix:///x", (1, 40));
        assert_eq!(health(&findings, "engine"), Health::Broken);
        assert_eq!(health(&findings, "seccomp"), Health::Limited);
        assert_eq!(health(&findings, "limits"), Health::Limited);
    }
}
