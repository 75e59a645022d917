//! What a change of a machine costs: which of its fields can change while it stays, and which only
//! creation can set.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::hash::{Fields, SpecHash};
use super::id::BackendKind;
use super::tool;

/// What a change costs those who work in the sandbox.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// It is made in place: nothing restarts.
    Hot,
    /// The sandbox stays, and what runs in it ends; it may start anew.
    Restart,
    /// A new machine takes the place of the old one.
    Replace,
}

impl Class {
    /// As JSON spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hot => "hot",
            Self::Restart => "restart",
            Self::Replace => "replace",
        }
    }
}

/// The encoding of a machine's hash.
pub(super) const MACHINE: &str = "bottle.machine.v2";

/// The one of earlier versions, whose supervisors are given the command when a machine is made.
const EARLIER: &str = "bottle.machine.v1";

/// Limits that most backends can change while a machine runs.
const LIMITS: [&str; 3] = ["resources.cpus", "resources.memory", "resources.pids"];

/// Variables that are set when a machine is made: `HOME` says where its user's files are, and the
/// others are a shell's own, which it lets nobody set.
const MADE_WITH: [&str; 8] =
    ["HOME", "BASHOPTS", "BASH_VERSINFO", "EUID", "OPTIND", "PPID", "SHELLOPTS", "UID"];

/// Whether only creation can set this variable.
#[must_use]
pub fn is_made_with(name: &str) -> bool {
    MADE_WITH.contains(&name)
}

/// Whether this field changes in place: a limit does, and where a tool lies, which the next start of its sandbox shows.
#[must_use]
pub fn is_hot(backend: BackendKind, path: &str) -> bool {
    is_hot_limit(backend, path) || tool::named(path).is_some()
}

/// Whether this is a limit that changes in place. smolvm changes those of a stopped machine only.
#[must_use]
pub fn is_hot_limit(backend: BackendKind, path: &str) -> bool {
    backend != BackendKind::Smolmachines && LIMITS.contains(&path)
}

/// Whether this field says what the main process is, and when it starts.
#[must_use]
pub fn is_main(path: &str) -> bool {
    matches!(path, "command" | "restart" | "command.waits_for_env")
}

/// The name of a variable that does not belong to the machine itself, if this is the field of one.
#[must_use]
pub fn variable(path: &str) -> Option<&str> {
    path.strip_prefix("env.").filter(|name| !is_made_with(name))
}

/// Of a machine's fields those that only creation can set.
#[must_use]
pub fn making(backend: BackendKind, fields: &Fields) -> Fields {
    let mut fields = earlier_making(backend, fields);
    fields.0.retain(|path, _| !is_main(path));
    // Another place of a tool makes no other machine.
    for (path, value) in &mut fields.0 {
        if tool::named(path).is_some() {
            *value = "read-only".to_owned();
        }
    }
    fields
}

/// Those of an earlier version: the main process was one of them.
fn earlier_making(backend: BackendKind, fields: &Fields) -> Fields {
    let mut fields = fields.clone();
    fields.0.retain(|path, _| !is_hot_limit(backend, path) && variable(path).is_none());
    fields
}

/// Whether a machine was made, as its hash and its fields say, by an earlier version: its supervisor starts
/// the command that it was made with, and no other.
#[must_use]
pub fn is_earlier(backend: BackendKind, hash: SpecHash, fields: &Fields) -> bool {
    // The first of them hashed all of it.
    [fields.hash(EARLIER), earlier_making(backend, fields).hash(EARLIER)].contains(&hash)
}

/// The hash and the fields of a machine that has other limits now. Of one that a first version made the
/// hash covers them, too: it gets the one that a later version gave to the same machine.
#[must_use]
pub fn adjusted(
    backend: BackendKind,
    hash: SpecHash,
    fields: &Fields,
    limits: &Fields,
) -> (SpecHash, Fields) {
    let first = fields.hash(EARLIER) == hash;
    let hash = if first { earlier_making(backend, fields).hash(EARLIER) } else { hash };
    let mut fields = fields.clone();
    fields.0.extend(limits.0.clone());
    (hash, fields)
}

/// Of a machine's fields those that change in place.
#[must_use]
pub fn hot_fields(backend: BackendKind, fields: &Fields) -> Fields {
    let mut fields = fields.clone();
    fields.0.retain(|path, _| is_hot(backend, path));
    fields
}

/// Why a change of this field of a machine needs a new one.
#[must_use]
pub fn why_replace(path: &str) -> &'static str {
    let part = path.split('.').next().unwrap_or(path);
    match part {
        "image" => "the image is what a machine is made from",
        "user" => "the owner of its files is set when a machine is made",
        "backend" => "another backend makes machines of its own",
        "host_paths" | "tools" | "workspace" | "mounts" => {
            "folders are mounted when a machine is made"
        }
        "setup" => "its setup is run when a machine is made",
        "network" | "networks" => "a machine's way out is set when it is made",
        "ca" => "what runs would go on to trust the certificate authority that is lost",
        "command" | "restart" => "an earlier version of bottle built its command in",
        "resources" if path == "resources.disk" => "a disk's size is set when a machine is made",
        "resources" => "smolvm changes the limits of a stopped machine only",
        "env" if variable(path).is_some() => "an earlier version of bottle built its values in",
        "env" => "this variable is set when a machine is made",
        _ => "it is set when a machine is made",
    }
}

/// The lines of shell that set these values and unset these names.
#[must_use]
pub fn script<'a>(
    env: &BTreeMap<String, String>,
    unset: impl IntoIterator<Item = &'a String>,
) -> String {
    let mut lines = String::new();
    for name in unset {
        // Without it a shell looks where it was built to, and other programs nowhere.
        let _ = match name.as_str() {
            "PATH" => writeln!(lines, "export PATH='{PATH}'"),
            _ => writeln!(lines, "unset {name}"),
        };
    }
    for (name, value) in env {
        let _ = writeln!(lines, "export {name}={}", quoted(value));
    }
    lines
}

/// One word of a shell.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// Where programs are looked for when nothing else says so.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
mod tests {
    use super::*;

    fn fields() -> Fields {
        let mut fields = Fields::default();
        for path in [
            "backend",
            "command",
            "command.waits_for_env",
            "env.A",
            "env.HOME",
            "image",
            "resources.cpus",
            "resources.disk",
            "resources.memory",
            "resources.pids",
            "restart",
        ] {
            fields.set(path, "x");
        }
        fields
    }

    fn paths(fields: &Fields) -> Vec<&str> {
        fields.0.keys().map(String::as_str).collect()
    }

    #[test]
    fn what_changes_in_place_is_no_part_of_the_making() {
        for backend in [BackendKind::Native, BackendKind::Docker] {
            let made = ["backend", "env.HOME", "image", "resources.disk"];
            assert_eq!(paths(&making(backend, &fields())), made, "{backend}");
            assert_eq!(paths(&hot_fields(backend, &fields())), LIMITS, "{backend}");
        }
        let made = paths(&making(BackendKind::Smolmachines, &fields())).join(" ");
        assert!(made.contains("resources.memory") && !made.contains("env.A"), "{made}");
        assert_eq!(paths(&hot_fields(BackendKind::Smolmachines, &fields())), [""; 0]);
    }

    #[test]
    fn other_limits_make_no_other_machine() {
        let backend = BackendKind::Docker;
        let made = making(backend, &fields()).hash(MACHINE);
        let earlier = earlier_making(backend, &fields()).hash(EARLIER);
        let mut limits = Fields::default();
        limits.set("resources.memory", "y");
        let cases = [(made, made), (earlier, earlier), (fields().hash(EARLIER), earlier)];
        for (hash, stays) in cases {
            let (now, adjusted) = adjusted(backend, hash, &fields(), &limits);
            assert_eq!((now, adjusted.0["resources.memory"].as_str()), (stays, "y"));
            assert_eq!(adjusted.0["env.A"], "x", "what is built in is not forgotten");
            assert_eq!(is_earlier(backend, now, &adjusted), now != made);
        }
        let another = SpecHash::of_bytes(b"another");
        assert_eq!(super::adjusted(backend, another, &fields(), &limits).0, another);
    }

    #[test]
    fn values_are_quoted_for_a_shell() {
        let env = BTreeMap::from([("A".to_owned(), "it's $HOME\n".to_owned())]);
        let unset = ["B".to_owned(), "PATH".to_owned()];
        let lines = script(&env, &unset);
        let first = format!("unset B\nexport PATH='{PATH}'\n");
        assert_eq!(lines, first + "export A='it'\\''s $HOME\n'\n");
    }
}
