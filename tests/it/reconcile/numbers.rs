//! What sandboxes use, as `status --wide`, `top` and `metrics` tell it.

use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::rig::{Rig, wait_for};

/// Takes a core until it is ended: where there are no cgroups, only what runs still is counted.
const BUSY: &str = "timeout 100 sh -c 'while :; do :; done'";

/// A command that is ended when this is dropped.
struct Running(Child);

impl Running {
    fn begin(mut command: Command) -> Self {
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

pub(super) fn what_is_used_is_told(rig: &Rig) {
    let tree = rig.tree_path();
    rig.agents(2);
    rig.apply(0);
    rig.cli.run(["--tree", &tree, "stop", "a1"]).exits(0);
    let busy = rig.cli.command(["--tree", &tree, "exec", "a0", "--", "sh", "-c", BUSY]);
    let _busy = Running::begin(busy);
    let of = |status: &Value, name: &str| -> Value {
        let mut all = status["sandboxes"].as_array().unwrap().iter();
        all.find(|it| it["sandbox"] == name).unwrap_or_else(|| panic!("{status}"))["usage"].clone()
    };
    let status = || rig.cli.run(["-o", "json", "status", &tree]).exits(0).json();
    wait_for("what it took", || of(&status(), "a0")["cpu_milliseconds"].as_u64() > Some(0));
    let told = status();
    let used = of(&told, "a0");
    assert!(used["memory_bytes"].as_u64() > Some(0), "{used}");
    assert!(used["pids"].as_u64() > Some(0), "{used}");
    assert_eq!(of(&told, "a1"), Value::Null, "what is stopped uses nothing that is known");
    if rig.backend == "docker" {
        assert_eq!(used["memory_limit_bytes"], 128 << 20, "{used}");
        assert_eq!(used["pids_limit"], 64, "{used}");
    }
    // Without it the table is as it was.
    let plain = rig.cli.run(["status", &tree]).exits(0).stdout;
    assert!(!plain.contains("MEMORY"), "{plain}");
    let wide = rig.cli.run(["status", "--wide", &tree]).exits(0).stdout;
    let head = wide.lines().find(|line| line.contains("NAME")).unwrap();
    let words: Vec<&str> = head.split_ascii_whitespace().collect();
    let expected = "NAME BACKEND STATE AGE LAST CPU MEMORY PIDS ALLOWED DENIED DRIFT";
    assert_eq!(words.join(" "), expected, "{wide}");
    let top = rig.cli.run(["top", &tree]).exits(0).stdout;
    let row = |name: &str| {
        let row = top.lines().find(|line| line.starts_with(name));
        row.unwrap_or_else(|| panic!("{top}")).to_owned()
    };
    assert!(row("a0").contains('%') && !row("a1").contains('%'), "{top}");
    let top = rig.cli.run(["-o", "json", "top", &tree, "--only", "a0"]).exits(0).json();
    assert_eq!(top["sandboxes"].as_array().map(Vec::len), Some(1), "{top}");
    assert!(top["sandboxes"][0]["cpu_percent"].is_number(), "{top}");
    let metrics = rig.cli.run(["metrics", &tree]).exits(0).stdout;
    let owner = &rig.tree.owner;
    for name in ["cpu_seconds_total", "memory_bytes", "pids", "drift"] {
        let line = format!("bottle_sandbox_{name}{{tree=\"{owner}\",sandbox=\"a0\"}} ");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
    let stopped = format!("bottle_sandbox_pids{{tree=\"{owner}\",sandbox=\"a1\"}}");
    assert!(!metrics.contains(&stopped), "{metrics}");
    assert!(metrics.contains(&format!("bottle_watch_up{{tree=\"{owner}\"}} 0\n")), "{metrics}");
    let wrong = rig.cli.run(["top", &tree, "--only", "nobody"]).exits(1);
    assert!(wrong.stderr.contains("there is no sandbox nobody"), "{}", wrong.stderr);
}
