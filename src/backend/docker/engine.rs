//! A connected engine: its client, and what is true of it as a whole.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::errors::Error;
use bollard::models::SystemInfo;

use super::connect::Endpoint;
use super::{error, seccomp};
use crate::backend::BackendError;
use crate::model::{BackendFacts, BackendKind};

/// The runtime of gVisor, by the name that its own installer registers.
pub(super) const GVISOR: &str = "runsc";

/// For calls whose answer begins only when the work is done: a load, an upload.
const LONG: Duration = Duration::from_secs(3600);

/// How long it may take until an engine says that it is there.
const GREETING: Duration = Duration::from_secs(5);

/// An engine that answered.
pub(super) struct Engine {
    pub client: bollard::Docker,
    pub endpoint: Endpoint,
    /// As they were when last asked for.
    traits: Mutex<Option<Arc<Traits>>>,
}

/// What is true of an engine as a whole, and matters to us.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "independent capabilities of an engine")]
pub(super) struct Traits {
    pub version: String,
    /// It runs in a virtual machine of this one.
    pub desktop: bool,
    pub gvisor: bool,
    /// It takes a seccomp profile of ours.
    pub seccomp: bool,
    /// The log driver is the one whose files grow without bounds.
    pub json_logs: bool,
    pub memory: bool,
    pub swap: bool,
    pub cpu: bool,
    pub pids: bool,
    /// CPUs of its machine: no limit may be above.
    pub cpus: Option<i64>,
    /// The storage driver, when it can bound a container's own layer.
    pub disk: bool,
    /// The storage driver and what is under it: `overlay2 on extfs`.
    pub storage: String,
    /// `amd64`, `arm64`, as images spell it.
    pub architecture: String,
    /// Where it keeps what is its own.
    pub root: Option<String>,
}

impl Traits {
    pub(super) fn of(info: &SystemInfo) -> Self {
        let driver = info.driver.clone().unwrap_or_default();
        let backing = info.driver_status.iter().flatten().find_map(|row| match row.as_slice() {
            [name, value] if name == "Backing Filesystem" => Some(value.as_str()),
            _ => None,
        });
        let yes = |flag: Option<bool>| flag.unwrap_or(true);
        Self {
            version: format!("docker {}", info.server_version.as_deref().unwrap_or("?")),
            desktop: info.operating_system.as_deref() == Some("Docker Desktop"),
            gvisor: info.runtimes.as_ref().is_some_and(|runtimes| runtimes.contains_key(GVISOR)),
            seccomp: seccomp::takes_ours(info),
            json_logs: info.logging_driver.as_deref() == Some("json-file"),
            memory: yes(info.memory_limit),
            swap: yes(info.swap_limit),
            cpu: yes(info.cpu_cfs_quota),
            pids: yes(info.pids_limit),
            cpus: info.ncpu.filter(|cpus| *cpus > 0),
            // overlay2 can on xfs with project quotas, which nothing in the answer tells apart.
            disk: ["btrfs", "zfs", "windowsfilter"].contains(&driver.as_str()),
            storage: match backing {
                Some(backing) => format!("{driver} driver on {backing}"),
                None => format!("{driver} driver"),
            },
            architecture: match info.architecture.as_deref() {
                Some("x86_64") => "amd64".to_owned(),
                Some("aarch64") => "arm64".to_owned(),
                other => other.unwrap_or("amd64").to_owned(),
            },
            root: info.docker_root_dir.clone(),
        }
    }

    pub(super) fn facts(&self) -> BackendFacts {
        let mut unenforced = Vec::new();
        let mut missing = |present: bool, limit: &str, why: &str| {
            if !present {
                unenforced.push(format!("{limit} is not enforced: {why}"));
            }
        };
        missing(self.memory, "resources.memory", "the engine has no memory control group");
        missing(self.cpu, "resources.cpus", "the engine has no cpu quota control group");
        missing(self.pids, "resources.pids", "the engine has no pids control group");
        missing(self.disk, "resources.disk", &format!("the {} cannot bound a layer", self.storage));
        if !self.seccomp || self.gvisor {
            unenforced.push(format!(
                "workspace: a mounted folder can be given set-id files: {}",
                if self.gvisor {
                    "gVisor looks at no seccomp profile"
                } else {
                    "the engine has no seccomp, or a profile of its operator's"
                }
            ));
        }
        BackendFacts {
            version: self.version.clone(),
            elsewhere: self.desktop,
            gvisor: self.gvisor,
            unenforced,
            ..BackendFacts::default()
        }
    }
}

impl Engine {
    /// Connects, by the one call that costs an engine nothing: `/version` and `/info` have it run
    /// programs. Requests name no version of the API, so there is none to agree on: the engine
    /// answers each in the newest that it has.
    pub(super) async fn connect(endpoint: Endpoint) -> Result<Self, BackendError> {
        let unreachable = |reason: String| BackendError::Unreachable {
            backend: BackendKind::Docker,
            reason: format!("{}: {reason}", endpoint.describe()),
        };
        let client = endpoint.client().map_err(unreachable)?;
        let greeted = tokio::time::timeout(GREETING, client.ping()).await.map_err(|_| {
            unreachable(format!("it does not answer: nothing came within {} s", GREETING.as_secs()))
        })?;
        greeted.map_err(|error| {
            // Whatever speaks there, it is no engine that we can talk to.
            unreachable(error::unreachable(&error).unwrap_or_else(|| error::words(&error)))
        })?;
        Ok(Self::of(endpoint, client))
    }

    /// One that may answer.
    pub(super) fn of(endpoint: Endpoint, client: bollard::Docker) -> Self {
        Self { client, endpoint, traits: Mutex::default() }
    }

    /// Asks again what the engine is: gVisor may have been installed since. And how many containers it has,
    /// of all owners, where it says.
    pub(super) async fn refresh(&self) -> Result<(Arc<Traits>, Option<usize>), BackendError> {
        let info = self.client.info().await.map_err(|e| self.failed("asking the engine", e))?;
        let traits = Arc::new(Traits::of(&info));
        *self.traits.lock().unwrap_or_else(PoisonError::into_inner) = Some(traits.clone());
        let containers = info.containers.and_then(|count| usize::try_from(count).ok());
        Ok((traits, containers))
    }

    /// What the engine was when it was last asked: it is asked now if it never was.
    pub(super) async fn traits(&self) -> Result<Arc<Traits>, BackendError> {
        let known = self.traits.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match known {
            Some(traits) => Ok(traits),
            None => Ok(self.refresh().await?.0),
        }
    }

    /// The client for calls that may take long before they answer.
    pub(super) fn patient(&self) -> bollard::Docker {
        self.client.clone().with_timeout(LONG)
    }

    /// An error in the middle of `what`, a gerund.
    pub(super) fn failed(&self, what: impl Into<String>, error: Error) -> BackendError {
        error::failed(&self.endpoint.describe(), what, error)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::backend::docker) fn traits() -> Traits {
        Traits::of(&SystemInfo {
            server_version: Some("20.10.24".into()),
            driver: Some("overlay2".into()),
            driver_status: Some(vec![vec!["Backing Filesystem".into(), "extfs".into()]]),
            logging_driver: Some("json-file".into()),
            ncpu: Some(4),
            security_options: Some(vec!["name=seccomp,profile=default".into()]),
            architecture: Some("x86_64".into()),
            ..SystemInfo::default()
        })
    }

    #[test]
    fn what_the_engine_cannot_bound_is_said() {
        let facts = traits().facts();
        assert_eq!(facts.version, "docker 20.10.24");
        assert!(!facts.gvisor);
        assert_eq!(
            facts.unenforced,
            ["resources.disk is not enforced: the overlay2 driver on extfs cannot bound a layer"]
        );
    }

    #[test]
    fn gvisor_is_known_by_its_runtime() {
        let runtimes = Some([(GVISOR.to_owned(), bollard::models::Runtime::default())].into());
        let info = SystemInfo { runtimes, memory_limit: Some(false), ..SystemInfo::default() };
        let facts = Traits::of(&info).facts();
        assert!(facts.gvisor);
        assert!(facts.unenforced[0].starts_with("resources.memory"));
    }
}
