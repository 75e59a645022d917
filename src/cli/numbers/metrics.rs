//! `bottle metrics`: the status in the text format of Prometheus.

use std::fmt::Write as _;

use super::super::args::{Global, LookArgs, WhichArgs};
use super::super::error::{CliError, Exit};
use super::super::ui::Ui;
use super::super::{setup, status};
use crate::plan::Verdict;
use crate::reconcile::status::{SandboxStatus, Status};

pub(in crate::cli) async fn run(
    ui: &Ui,
    global: &Global,
    args: &WhichArgs,
) -> Result<Exit, CliError> {
    let only = status::only(args)?;
    let load = setup::load_options(global, args.path.as_deref(), &args.read)?;
    let reconciler = setup::onlooker(load, &LookArgs::default(), None)?;
    let status = status::newest(&reconciler, &only).await?;
    ui.data(&text(&status))?;
    Ok(Exit::Done)
}

/// A number, with its labels beside the tree's and the sandbox's.
type Value = (Vec<(&'static str, String)>, f64);

/// One family of numbers, a sandbox after the other.
struct Family {
    name: &'static str,
    kind: &'static str,
    help: &'static str,
    values: fn(&SandboxStatus) -> Vec<Value>,
}

fn one(value: Option<u64>) -> Vec<Value> {
    // Above 2^53 a number is rounded, as it is by whoever reads it.
    value.map(|value| (Vec::new(), value as f64)).into_iter().collect()
}

const FAMILIES: [Family; 13] = [
    Family {
        name: "bottle_sandbox_state",
        kind: "gauge",
        help: "1 for the state that the sandbox is in.",
        values: |it| {
            let backend = it.backend.map_or_else(String::new, |kind| kind.to_string());
            vec![(vec![("backend", backend), ("state", it.state.clone())], 1.0)]
        },
    },
    Family {
        name: "bottle_sandbox_drift",
        kind: "gauge",
        help: "1 where the sandbox is not as the tree says.",
        values: |it| one(Some(u64::from(it.verdict != Verdict::Keep))),
    },
    Family {
        name: "bottle_sandbox_last_failed",
        kind: "gauge",
        help: "1 where the last pass that did something for the sandbox failed.",
        values: |it| one(it.last.as_ref().map(|last| u64::from(last.error.is_some()))),
    },
    Family {
        name: "bottle_sandbox_created_timestamp_seconds",
        kind: "gauge",
        help: "When the machine was made, in seconds since the epoch.",
        values: |it| one(it.created),
    },
    Family {
        name: "bottle_sandbox_cpu_seconds_total",
        kind: "counter",
        help: "Time of a core that the machine has taken since it was started.",
        values: |it| {
            let taken = it.usage.as_ref().and_then(|usage| usage.cpu_milliseconds);
            taken.map(|taken| (Vec::new(), taken as f64 / 1000.0)).into_iter().collect()
        },
    },
    Family {
        name: "bottle_sandbox_memory_bytes",
        kind: "gauge",
        help: "Memory of the machine that could not be dropped.",
        values: |it| one(it.usage.as_ref().and_then(|usage| usage.memory_bytes)),
    },
    Family {
        name: "bottle_sandbox_memory_limit_bytes",
        kind: "gauge",
        help: "Memory that the machine may have.",
        values: |it| one(it.usage.as_ref().and_then(|usage| usage.memory_limit_bytes)),
    },
    Family {
        name: "bottle_sandbox_pids",
        kind: "gauge",
        help: "Processes and threads of the machine.",
        values: |it| one(it.usage.as_ref().and_then(|usage| usage.pids)),
    },
    Family {
        name: "bottle_sandbox_pids_limit",
        kind: "gauge",
        help: "Processes and threads that there may be in the machine.",
        values: |it| one(it.usage.as_ref().and_then(|usage| usage.pids_limit)),
    },
    Family {
        name: "bottle_sandbox_egress_allowed_total",
        kind: "counter",
        help: "Requests that the sidecar let through since it was started.",
        values: |it| one(it.sidecar.as_ref().map(|sidecar| sidecar.allowed)),
    },
    Family {
        name: "bottle_sandbox_egress_denied_total",
        kind: "counter",
        help: "Requests and connections that the sidecar refused since it was started, by why.",
        values: |it| {
            let denied = it.sidecar.iter().flat_map(|sidecar| &sidecar.denied);
            denied.map(|(code, count)| (vec![("code", code.clone())], *count as f64)).collect()
        },
    },
    Family {
        name: "bottle_sandbox_git_denied_total",
        kind: "counter",
        help: "What the git gate refused since it was started, by why.",
        values: |it| {
            let denied = it.git.iter().flat_map(|gate| &gate.denied);
            denied.map(|(code, count)| (vec![("code", code.clone())], *count as f64)).collect()
        },
    },
    Family {
        name: "bottle_sandbox_requests_pending",
        kind: "gauge",
        help: "Requests of the agent that wait for a decision.",
        values: |it| {
            let pending = it.requests.as_ref().map(|requests| requests.pending);
            one(pending.and_then(|pending| u64::try_from(pending).ok()))
        },
    },
];

fn text(status: &Status) -> String {
    let mut out = String::new();
    let tree = ("tree", status.tree.name.clone());
    for family in &FAMILIES {
        let mut lines = String::new();
        for sandbox in &status.sandboxes {
            for (more, value) in (family.values)(sandbox) {
                let mut labels = vec![tree.clone(), ("sandbox", sandbox.sandbox.to_string())];
                labels.extend(more);
                line(&mut lines, family.name, &labels, value);
            }
        }
        put(&mut out, family.name, family.kind, family.help, &lines);
    }
    let watch = status.watch.as_ref();
    let count = |list: Option<usize>| list.map(|count| count as f64);
    let of_watch: [(&str, &str, Option<f64>); 4] = [
        ("bottle_watch_up", "1 where a watch works on the tree.", Some(f64::from(watch.is_some()))),
        (
            "bottle_watch_last_pass_timestamp_seconds",
            "When it last looked at everything, in seconds since the epoch.",
            watch.and_then(|watch| watch.last_pass).map(|at| at as f64),
        ),
        (
            "bottle_watch_sandboxes_running",
            "Sandboxes for which something is being done.",
            count(watch.and_then(|watch| Some(watch.running.as_ref()?.len()))),
        ),
        (
            "bottle_watch_sandboxes_waiting",
            "Sandboxes that have failed and are tried again.",
            count(watch.and_then(|watch| Some(watch.waiting.as_ref()?.len()))),
        ),
    ];
    for (name, help, value) in of_watch {
        let mut lines = String::new();
        if let Some(value) = value {
            line(&mut lines, name, std::slice::from_ref(&tree), value);
        }
        put(&mut out, name, "gauge", help, &lines);
    }
    out
}

/// A family of which nothing is known is left out.
fn put(out: &mut String, name: &str, kind: &str, help: &str, lines: &str) {
    if !lines.is_empty() {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{lines}");
    }
}

fn line(out: &mut String, name: &str, labels: &[(&str, String)], value: f64) {
    let labels: Vec<String> =
        labels.iter().map(|(label, value)| format!("{label}=\"{}\"", escaped(value))).collect();
    let _ = writeln!(out, "{name}{{{}}} {value}", labels.join(","));
}

/// A label's value, as the format wants it.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(sandboxes: &str, watch: &str) -> Status {
        let text = format!(
            r#"{{"version":1,"tree":{{"name":"team","path":"/t","commit":null,"dirty":false}},"last_commit":null,
                "sandboxes":{sandboxes},"watch":{watch},"diagnostics":[]}}"#
        );
        serde_json::from_str(&text).unwrap()
    }

    #[test]
    fn what_is_known_has_a_line_and_nothing_else_has() {
        let ada = r#"[{"sandbox":"ada","backend":"native","state":"running","code":null,"verdict":"keep","drift":[],
            "age":9,"created":1700000000,"last":null,"notes":[],
            "usage":{"cpu_milliseconds":1500,"memory_bytes":4096,"memory_limit_bytes":null,"pids":3,"pids_limit":64},
            "sidecar":{"started_at":"x","loaded":true,"allowed":7,"warned":0,"redacted":0,"denied":{"a\"b\\c\n":2}}},
            {"sandbox":"new","backend":null,"state":"missing","code":null,"verdict":"create","drift":[],
            "age":null,"last":null,"notes":[]}]"#;
        let expected = r#"# HELP bottle_sandbox_state 1 for the state that the sandbox is in.
# TYPE bottle_sandbox_state gauge
bottle_sandbox_state{tree="team",sandbox="ada",backend="native",state="running"} 1
bottle_sandbox_state{tree="team",sandbox="new",backend="",state="missing"} 1
# HELP bottle_sandbox_drift 1 where the sandbox is not as the tree says.
# TYPE bottle_sandbox_drift gauge
bottle_sandbox_drift{tree="team",sandbox="ada"} 0
bottle_sandbox_drift{tree="team",sandbox="new"} 1
# HELP bottle_sandbox_created_timestamp_seconds When the machine was made, in seconds since the epoch.
# TYPE bottle_sandbox_created_timestamp_seconds gauge
bottle_sandbox_created_timestamp_seconds{tree="team",sandbox="ada"} 1700000000
# HELP bottle_sandbox_cpu_seconds_total Time of a core that the machine has taken since it was started.
# TYPE bottle_sandbox_cpu_seconds_total counter
bottle_sandbox_cpu_seconds_total{tree="team",sandbox="ada"} 1.5
# HELP bottle_sandbox_memory_bytes Memory of the machine that could not be dropped.
# TYPE bottle_sandbox_memory_bytes gauge
bottle_sandbox_memory_bytes{tree="team",sandbox="ada"} 4096
# HELP bottle_sandbox_pids Processes and threads of the machine.
# TYPE bottle_sandbox_pids gauge
bottle_sandbox_pids{tree="team",sandbox="ada"} 3
# HELP bottle_sandbox_pids_limit Processes and threads that there may be in the machine.
# TYPE bottle_sandbox_pids_limit gauge
bottle_sandbox_pids_limit{tree="team",sandbox="ada"} 64
# HELP bottle_sandbox_egress_allowed_total Requests that the sidecar let through since it was started.
# TYPE bottle_sandbox_egress_allowed_total counter
bottle_sandbox_egress_allowed_total{tree="team",sandbox="ada"} 7
# HELP bottle_sandbox_egress_denied_total Requests and connections that the sidecar refused since it was started, by why.
# TYPE bottle_sandbox_egress_denied_total counter
bottle_sandbox_egress_denied_total{tree="team",sandbox="ada",code="a\"b\\c\n"} 2
# HELP bottle_watch_up 1 where a watch works on the tree.
# TYPE bottle_watch_up gauge
bottle_watch_up{tree="team"} 1
"#;
        let watch =
            r#"{"pid":7,"since":null,"last_pass":null,"running":null,"waiting":null,"error":null}"#;
        assert_eq!(text(&status(ada, watch)), expected);
        assert!(text(&status("[]", "null")).ends_with("bottle_watch_up{tree=\"team\"} 0\n"));
    }
}
