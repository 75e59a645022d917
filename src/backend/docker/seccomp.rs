//! The seccomp profile of a machine with a mounted workspace: the engine's default, and no set-id files.
//!
//! An engine adds nothing to a profile that is sent, and hands its own out to nobody, so the default is
//! carried here: `seccomp.json` is `profiles/seccomp/default.json` of Moby 20.10.24 (Apache License 2.0),
//! unchanged. What later engines up to 28.5 let through in addition stands below, so that a program
//! finds the same calls on each; what they stopped letting through is taken out.

use std::sync::LazyLock;

use bollard::models::SystemInfo;
use serde_json::{Value, json};

use crate::backend::setid::{self, CALLS, Says};

const DEFAULT: &str = include_str!("seccomp.json");

/// Let through by Moby 28.5 and not by 20.10. Names that an engine's libseccomp does not know are passed over.
const LATER: [&str; 21] = [
    "cachestat",
    "futex_requeue",
    "futex_wait",
    "futex_wake",
    "getxattrat",
    "listmount",
    "listxattrat",
    "map_shadow_stack",
    "mseal",
    "name_to_handle_at",
    "pkey_alloc",
    "pkey_free",
    "pkey_mprotect",
    "process_vm_readv",
    "process_vm_writev",
    "removexattrat",
    "riscv_hwprobe",
    "setxattrat",
    "statmount",
    "swapcontext",
    "uretprobe",
];

/// `AF_ALG` and `AF_VSOCK`: the first reaches deep into the kernel, the second a hypervisor. Between them
/// stands one that nobody minds.
const FAMILIES: [(&str, u64); 3] = [("SCMP_CMP_LT", 38), ("SCMP_CMP_EQ", 39), ("SCMP_CMP_GT", 40)];

const ENOSYS: u64 = 38;

/// The profile, as the engine takes it in `HostConfig.SecurityOpt`.
pub(super) fn option() -> &'static str {
    static OPTION: LazyLock<String> = LazyLock::new(|| format!("seccomp={}", profile()));
    &OPTION
}

fn allow(names: &[&str], arguments: Vec<Value>) -> Value {
    json!({ "names": names, "action": "SCMP_ACT_ALLOW", "args": arguments })
}

/// Lets the call through where none of these bits of the argument is set.
fn none_of(argument: u8, bits: u32) -> Value {
    // The mask, and what is left of the argument under it.
    json!({ "index": argument, "value": bits, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" })
}

fn profile() -> Value {
    let mut profile: Value = serde_json::from_str(DEFAULT).unwrap_or_default();
    let Some(rules) = profile["syscalls"].as_array_mut() else { return profile };
    let ours = |name: &str| name == "socket" || CALLS.iter().any(|(call, _)| *call == name);
    for rule in rules.iter_mut() {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(|name| !name.as_str().is_some_and(ours));
        }
    }
    rules.push(allow(&LATER, Vec::new()));
    for (op, family) in FAMILIES {
        rules.push(allow(&["socket"], vec![json!({ "index": 0, "value": family, "op": op })]));
    }
    // Whatever no rule lets through is answered with EPERM.
    for (name, says) in CALLS {
        match says {
            Says::Mode(mode) => rules.push(allow(&[name], vec![none_of(mode, setid::BITS)])),
            Says::Flags(flags) => {
                rules.push(allow(&[name], vec![none_of(flags, setid::MAKING)]));
                rules.push(allow(&[name], vec![none_of(flags + 1, setid::BITS)]));
            }
            Says::Unseen => rules.push(json!({
                "names": [name], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS, "args": []
            })),
        }
    }
    profile
}

/// Whether the engine takes a profile of ours: it has seccomp, and the operator gave it no profile that
/// ours would stand in the place of.
pub(super) fn takes_ours(info: &SystemInfo) -> bool {
    let options = info.security_options.iter().flatten();
    options.filter_map(|option| option.strip_prefix("name=seccomp")).any(|rest| {
        let profile = rest.strip_prefix(",profile=").unwrap_or("default");
        matches!(profile, "default" | "builtin" | "unconfined")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_for(profile: &Value, name: &str) -> Vec<Value> {
        let rules = profile["syscalls"].as_array().unwrap().iter();
        let named = |rule: &&Value| {
            rule["names"].as_array().unwrap().iter().any(|found| found.as_str() == Some(name))
        };
        rules.filter(named).cloned().collect()
    }

    #[test]
    fn no_call_that_sets_a_mode_passes_unseen() {
        let profile = profile();
        assert_eq!(profile["defaultAction"], "SCMP_ACT_ERRNO");
        for (name, says) in CALLS {
            let rules = rules_for(&profile, name);
            assert!(!rules.is_empty(), "{name}");
            for rule in rules {
                let unconditional = rule["args"].as_array().is_none_or(Vec::is_empty);
                let allowed = rule["action"] == "SCMP_ACT_ALLOW";
                assert!(!(allowed && unconditional), "{name}: {rule}");
                assert_eq!(says == Says::Unseen, !allowed, "{name}: {rule}");
            }
        }
        assert_eq!(rules_for(&profile, "openat").len(), 2);
    }

    #[test]
    fn the_rest_is_the_engines_default() {
        let (ours, default) = (profile(), serde_json::from_str::<Value>(DEFAULT).unwrap());
        for name in ["clone", "clone3", "ptrace", "personality", "unshare", "setns", "bpf"] {
            assert_eq!(rules_for(&ours, name), rules_for(&default, name), "{name}");
        }
        for name in ["read", "execve", "rename", "mseal"] {
            let rules = rules_for(&ours, name);
            let free = rules.iter().any(|rule| rule["args"].as_array().is_some_and(Vec::is_empty));
            assert!(free, "{name}: {rules:?}");
        }
        assert_eq!(ours["archMap"], default["archMap"]);
        assert!(option().starts_with("seccomp={"));
        assert!(option().len() < 20_000, "{}", option().len());
    }

    #[test]
    fn an_operators_own_profile_stays() {
        let engine = |options: &[&str]| SystemInfo {
            security_options: Some(options.iter().map(|option| (*option).to_owned()).collect()),
            ..SystemInfo::default()
        };
        for (options, taken) in [
            (&["name=apparmor", "name=seccomp,profile=default"][..], true),
            (&["name=seccomp,profile=builtin", "name=rootless"], true),
            (&["name=seccomp,profile=unconfined"], true),
            (&["name=seccomp,profile=/etc/docker/ours.json"], false),
            (&["name=rootless"], false),
            (&[], false),
        ] {
            assert_eq!(takes_ours(&engine(options)), taken, "{options:?}");
        }
    }
}
