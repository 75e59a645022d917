//! What a container was asked to be, flat and by name, and the same read back from `inspect`:
//! whatever differs was changed from outside. Pure.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

use bollard::models::{
    ContainerConfig, ContainerCreateBody, ContainerInspectResponse, ContainerUpdateBody,
    HostConfig, RestartPolicy, RestartPolicyNameEnum,
};

use super::labels::{Set, Settings};
use crate::model::spec::human_bytes;
use crate::model::{FieldChange, Fields, SpecHash};

/// Names that the engine gives to what was left out, so that they say nothing.
const UNSET: [&str; 6] = ["", "0", "-1", "false", "default", "no"];

#[derive(Default)]
struct Flat(Settings);

impl Flat {
    fn put(&mut self, name: &str, value: Option<impl Display>) {
        if let Some(value) = value.map(|value| value.to_string())
            && !UNSET.contains(&value.as_str())
        {
            self.0.insert(name.to_owned(), value);
        }
    }

    fn list(&mut self, name: &str, values: Option<&Vec<String>>) {
        let mut values = values.cloned().unwrap_or_default();
        values.sort_unstable();
        self.put(name, Some(values.join(" ")));
    }

    fn map(&mut self, name: &str, values: Option<&HashMap<String, String>>) {
        let sorted: BTreeMap<_, _> = values.into_iter().flatten().collect();
        let pairs: Vec<String> =
            sorted.iter().map(|(key, value)| format!("{key}={value}")).collect();
        self.put(name, Some(pairs.join(" ")));
    }

    /// Long text by its digest: what matters is that it is the same.
    fn digest(&mut self, name: &str, values: Option<&Vec<String>>) {
        let joined = values.map(|values| values.join("\0")).filter(|joined| !joined.is_empty());
        self.put(name, joined.map(|joined| SpecHash::of_bytes(joined.as_bytes()).short()));
    }
}

/// What a container is asked to be. Plain environment values stand in the fields already.
pub(super) fn of_body(body: &ContainerCreateBody) -> Settings {
    let config = ContainerConfig {
        hostname: body.hostname.clone(),
        user: body.user.clone(),
        entrypoint: body.entrypoint.clone(),
        cmd: body.cmd.clone(),
        working_dir: body.working_dir.clone(),
        stop_signal: body.stop_signal.clone(),
        ..ContainerConfig::default()
    };
    flatten(&config, body.host_config.as_ref().unwrap_or(&HostConfig::default()))
}

fn flatten(config: &ContainerConfig, host: &HostConfig) -> Settings {
    let mut flat = Flat::default();
    flat.put("hostname", config.hostname.as_ref());
    flat.put("user", config.user.as_ref());
    flat.digest("entrypoint", config.entrypoint.as_ref());
    flat.digest("command", config.cmd.as_ref());
    flat.put("working_dir", config.working_dir.as_ref());
    flat.put("stop_signal", config.stop_signal.as_ref());
    limits(&mut flat, host);
    flat.put("init", host.init);
    flat.put("privileged", host.privileged);
    flat.list("cap_add", host.cap_add.as_ref());
    flat.list("cap_drop", host.cap_drop.as_ref());
    flat.list(
        "security_opt",
        Some(&host.security_opt.iter().flatten().map(|option| shorten(option)).collect()),
    );
    let core = host.ulimits.iter().flatten().find(|limit| limit.name.as_deref() == Some("core"));
    flat.put("core", core.and_then(|limit| limit.hard));
    flat.list("group_add", host.group_add.as_ref());
    flat.put("runtime", host.runtime.as_ref());
    flat.put("network_mode", host.network_mode.as_ref());
    flat.list("dns", host.dns.as_ref());
    flat.list("dns_options", host.dns_options.as_ref());
    flat.list("dns_search", host.dns_search.as_ref());
    flat.list("extra_hosts", host.extra_hosts.as_ref());
    flat.list("links", host.links.as_ref());
    flat.put("ipc_mode", host.ipc_mode.as_ref());
    flat.put("pid_mode", host.pid_mode.as_ref());
    flat.put("uts_mode", host.uts_mode.as_ref());
    flat.put("userns_mode", host.userns_mode.as_ref());
    flat.put("cgroupns_mode", host.cgroupns_mode.map(|mode| mode.as_ref().to_owned()));
    flat.map("tmpfs", host.tmpfs.as_ref());
    flat.map("sysctls", host.sysctls.as_ref());
    flat.map("storage_opt", host.storage_opt.as_ref());
    flat.list("binds", host.binds.as_ref());
    flat.list("volumes_from", host.volumes_from.as_ref());
    let mounts = host.mounts.iter().flatten().map(|mount| {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let mode = if mount.read_only == Some(true) { "ro" } else { "rw" };
        format!("{}:{}:{mode}", text(&mount.source), text(&mount.target))
    });
    flat.list("mounts", Some(&mounts.collect()));
    let devices = host.devices.iter().flatten();
    let devices = devices.map(|device| device.path_on_host.clone().unwrap_or_default()).collect();
    flat.list("devices", Some(&devices));
    flat.list("device_cgroup_rules", host.device_cgroup_rules.as_ref());
    let ports = host.port_bindings.iter().flatten().map(|(port, _)| port.clone()).collect();
    flat.list("ports", Some(&ports));
    flat.put("publish_all_ports", host.publish_all_ports);
    flat.put("readonly_rootfs", host.readonly_rootfs);
    flat.put("auto_remove", host.auto_remove);
    let policy = host.restart_policy.as_ref().and_then(|policy| policy.name);
    flat.put("restart_policy", policy.map(|policy| policy.as_ref().to_owned()));
    flat.put("log_driver", host.log_config.as_ref().and_then(|log| log.typ.as_ref()));
    flat.map("log_opt", host.log_config.as_ref().and_then(|log| log.config.as_ref()));
    flat.0
}

/// A profile by its digest: an engine shows the whole of it.
fn shorten(option: &str) -> String {
    match option.strip_prefix("seccomp=").filter(|profile| profile.starts_with('{')) {
        Some(profile) => format!("seccomp={}", SpecHash::of_bytes(profile.as_bytes()).short()),
        None => option.to_owned(),
    }
}

/// What `docker update` can change while a container runs.
fn limits(flat: &mut Flat, host: &HostConfig) {
    let bytes =
        |bytes: Option<i64>| bytes.and_then(|bytes| u64::try_from(bytes).ok()).map(human_bytes);
    flat.put("resources.memory", bytes(host.memory));
    flat.put("memory_swap", host.memory_swap);
    flat.put("memory_reservation", host.memory_reservation);
    let cpus = host.nano_cpus.map(|nano| nano as f64 / 1e9);
    flat.put("resources.cpus", cpus);
    flat.put("cpu_shares", host.cpu_shares);
    flat.put("cpu_period", host.cpu_period);
    flat.put("cpu_quota", host.cpu_quota);
    flat.put("cpuset_cpus", host.cpuset_cpus.as_ref());
    flat.put("cpuset_mems", host.cpuset_mems.as_ref());
    flat.put("resources.pids", host.pids_limit);
    flat.put("blkio_weight", host.blkio_weight);
    flat.put("oom_kill_disable", host.oom_kill_disable);
}

/// The limits that a container was made with, and that can be others while it runs.
pub(super) const LIMITS: [&str; 4] =
    ["resources.memory", "memory_swap", "resources.cpus", "resources.pids"];

/// These limits, by name.
pub(super) fn of_limits(host: &HostConfig) -> Settings {
    let mut flat = Flat::default();
    limits(&mut flat, host);
    flat.0
}

/// What can be set again while a container runs.
pub(super) const MENDABLE: [&str; 5] =
    ["resources.memory", "memory_swap", "resources.cpus", "resources.pids", "restart_policy"];

/// The limits as they were set.
pub(super) fn update(set: &Settings) -> ContainerUpdateBody {
    let number = |name: &str| set.get(name)?.parse().ok();
    let cpus: Option<f64> = set.get("resources.cpus").and_then(|cpus| cpus.parse().ok());
    #[expect(clippy::cast_possible_truncation, reason = "a few thousand CPUs at most")]
    let nano_cpus = cpus.map(|cpus| (cpus * 1e9).round() as i64);
    ContainerUpdateBody {
        memory: set.get("resources.memory").and_then(|text| parse_bytes(text)),
        memory_swap: number("memory_swap"),
        nano_cpus,
        pids_limit: number("resources.pids"),
        restart_policy: set.contains_key("restart_policy").then_some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::ALWAYS),
            maximum_retry_count: None,
        }),
        ..ContainerUpdateBody::default()
    }
}

/// Whether the engine starts a container again that has ended, also when the engine itself begins anew.
pub(super) fn restarts(restarts: bool) -> ContainerUpdateBody {
    let name = if restarts { RestartPolicyNameEnum::ALWAYS } else { RestartPolicyNameEnum::NO };
    ContainerUpdateBody {
        restart_policy: Some(RestartPolicy { name: Some(name), maximum_retry_count: None }),
        ..ContainerUpdateBody::default()
    }
}

/// What [`human_bytes`] wrote.
fn parse_bytes(text: &str) -> Option<i64> {
    let shift = match text.bytes().last()? {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        _ => return text.parse().ok(),
    };
    text[..text.len() - 1].parse::<i64>().ok()?.checked_shl(shift)
}

/// What the engine chooses where nothing was sent: no drift, whatever it is.
const ENGINES_CHOICE: [&str; 7] =
    ["runtime", "log_driver", "log_opt", "working_dir", "cgroupns_mode", "memory_swap", "core"];

/// What differs between the container that was found and what was set when it was made.
pub(super) fn drift(
    found: &ContainerInspectResponse,
    set: &Set,
    fields: &Fields,
) -> Vec<FieldChange> {
    let (config, host) = (found.config.clone().unwrap_or_default(), found.host_config.clone());
    let now = flatten(&config, &host.unwrap_or_default());
    let mut changes = Vec::new();
    let mut compare = |path: &str, from: Option<&String>, to: Option<&String>| {
        if from != to {
            changes.push(FieldChange {
                path: path.to_owned(),
                from: from.cloned(),
                to: to.cloned(),
            });
        }
    };
    let names: std::collections::BTreeSet<&String> =
        now.keys().chain(set.settings.keys()).collect();
    for name in names {
        let was = set.settings.get(name);
        if was.is_none() && ENGINES_CHOICE.contains(&name.as_str()) {
            continue;
        }
        compare(name, now.get(name), was);
    }
    for (path, value) in &fields.0 {
        let Some(name) = path.strip_prefix("env.") else { continue };
        let start = format!("{name}=");
        let env = config.env.iter().flatten().find_map(|line| line.strip_prefix(start.as_str()));
        compare(path, env.map(str::to_owned).as_ref(), Some(value));
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostConfig {
        HostConfig {
            memory: Some(1 << 30),
            cap_drop: Some(vec!["ALL".into()]),
            privileged: Some(false),
            restart_policy: Some(RestartPolicy {
                name: Some(RestartPolicyNameEnum::ALWAYS),
                maximum_retry_count: None,
            }),
            ..HostConfig::default()
        }
    }

    fn set() -> Set {
        let body =
            ContainerCreateBody { host_config: Some(host()), ..ContainerCreateBody::default() };
        let settings = of_body(&body);
        Set { uid: 0, gid: 0, home: "/".into(), address: None, image: None, settings }
    }

    fn found(host: HostConfig) -> ContainerInspectResponse {
        ContainerInspectResponse { host_config: Some(host), ..ContainerInspectResponse::default() }
    }

    #[test]
    fn the_engines_way_to_write_defaults_is_no_drift() {
        let mut host = host();
        host.cpu_shares = Some(0);
        host.runtime = Some("runc".into());
        host.binds = Some(Vec::new());
        host.pid_mode = Some(String::new());
        host.oom_kill_disable = Some(false);
        assert_eq!(drift(&found(host), &set(), &Fields::default()), []);
    }

    #[test]
    fn what_was_updated_from_outside_is_drift() {
        let mut host = host();
        host.memory = Some(2 << 30);
        host.privileged = Some(true);
        host.cap_drop = None;
        let changes = drift(&found(host), &set(), &Fields::default());
        let shown: Vec<_> =
            changes.iter().map(|c| (c.path.as_str(), c.from.as_deref(), c.to.as_deref())).collect();
        assert_eq!(
            shown,
            [
                ("cap_drop", None, Some("ALL")),
                ("privileged", Some("true"), None),
                ("resources.memory", Some("2G"), Some("1G")),
            ]
        );
    }

    #[test]
    fn limits_are_set_again_as_they_were() {
        let limits = HostConfig {
            memory: Some(256 << 20),
            memory_swap: Some(256 << 20),
            nano_cpus: Some(1_250_000_000),
            pids_limit: Some(64),
            ..host()
        };
        let body =
            ContainerCreateBody { host_config: Some(limits), ..ContainerCreateBody::default() };
        let update = update(&of_body(&body));
        assert_eq!((update.memory, update.memory_swap), (Some(256 << 20), Some(256 << 20)));
        assert_eq!((update.nano_cpus, update.pids_limit), (Some(1_250_000_000), Some(64)));
        assert!(update.restart_policy.is_some());
        assert_eq!(update_of_nothing().memory, None);
        assert_eq!(parse_bytes("1000"), Some(1000));
    }

    fn update_of_nothing() -> ContainerUpdateBody {
        update(&Settings::new())
    }

    #[test]
    fn environment_is_compared_by_name() {
        let mut fields = Fields::default();
        fields.set("env.A", "1");
        fields.set("image", "x");
        let mut found = found(host());
        let env = |env: &[&str]| Some(env.iter().map(|line| (*line).to_owned()).collect());
        let config = |env| Some(ContainerConfig { env, ..ContainerConfig::default() });
        found.config = config(env(&["PATH=/bin", "A=1"]));
        assert_eq!(drift(&found, &set(), &fields), []);
        found.config = config(env(&["AA=1", "A=2"]));
        let changes = drift(&found, &set(), &fields);
        assert_eq!((changes.len(), changes[0].from.as_deref()), (1, Some("2")));
    }
}
