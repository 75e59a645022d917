//! `bottle doctor`: what works on this machine, what does not, and what to do about it.
#![expect(clippy::disallowed_methods, reason = "asks git, the kernel and the state folder")]

mod proxy;

use std::fmt::Write as _;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::json;

use super::args::{DoctorArgs, Global};
use super::error::{CliError, Exit};
use super::setup;
use super::text::wrap;
use super::ui::{Ui, harmless, paint, style};
#[cfg(target_os = "linux")]
use crate::backend::native::filesystem::{ELSEWHERE, unsuited};
use crate::backend::{Finding, Health, reserve};
use crate::reconcile::State;

#[cfg(not(target_os = "linux"))]
const ELSEWHERE: &str = "";

/// There is no native backend.
#[cfg(not(target_os = "linux"))]
fn unsuited(_: &std::path::Path) -> Option<&'static str> {
    None
}

/// Findings under one heading.
struct Group {
    name: String,
    /// It makes machines; `None` for what is no backend.
    works: Option<bool>,
    findings: Vec<Finding>,
}

pub(super) async fn run(ui: &Ui, global: &Global, args: &DoctorArgs) -> Result<Exit, CliError> {
    let backends = setup::backends();
    let asked = backends.iter().map(async |(kind, backend)| {
        let findings =
            in_time(backend.doctor(args.boot), if args.boot { BOOTING } else { PATIENCE }).await;
        Group { name: kind.to_string(), works: Some(works(&findings)), findings }
    });
    let (host, backends) = tokio::join!(host(global), join_all(asked));
    let mut groups = vec![host];
    groups.extend(backends);
    if ui.json() {
        ui.document(&document(&groups))?;
    } else {
        ui.data(&text(&groups, ui.width()))?;
    }
    let any = groups.iter().any(|group| group.works == Some(true));
    Ok(if any { Exit::Done } else { Exit::Failed })
}

/// How long a backend has to answer; longer where it makes a machine.
const PATIENCE: Duration = Duration::from_secs(5);
const BOOTING: Duration = Duration::from_secs(180);

async fn in_time(asked: impl Future<Output = Vec<Finding>>, patience: Duration) -> Vec<Finding> {
    tokio::time::timeout(patience, asked).await.unwrap_or_else(|_| {
        let detail = format!("it does not answer: nothing came within {} s", patience.as_secs());
        vec![finding(
            "answer",
            Health::Broken,
            detail,
            Some("look whether it hangs, and restart it"),
        )]
    })
}

/// Something of it works and nothing of it is broken. What is merely absent is an extra.
fn works(findings: &[Finding]) -> bool {
    let has = |health| findings.iter().any(|finding| finding.health == health);
    (has(Health::Works) || has(Health::Limited)) && !has(Health::Broken)
}

async fn host(global: &Global) -> Group {
    let mut findings = vec![kernel(), state_folder(global), git().await];
    #[cfg(target_os = "linux")]
    if let Ok(state) = setup::state_dir(global) {
        findings.extend(crate::backend::native::astray::finding(&state));
    }
    findings.retain(|finding| !finding.what.is_empty());
    findings.extend(proxy::look(global).await);
    Group { name: "this machine".to_owned(), works: None, findings }
}

fn finding(what: &str, health: Health, detail: impl Into<String>, fix: Option<&str>) -> Finding {
    Finding { what: what.to_owned(), health, detail: detail.into(), fix: fix.map(str::to_owned) }
}

fn kernel() -> Finding {
    let uname = rustix::system::uname();
    let detail = [uname.sysname(), uname.release(), uname.machine()]
        .map(|part| part.to_string_lossy().into_owned())
        .join(" ");
    finding("kernel", Health::Works, detail, None)
}

fn state_folder(global: &Global) -> Finding {
    let opened = setup::state_dir(global).and_then(|dir| Ok(State::open(&dir)?));
    match opened {
        Ok(state) if reserve::is_low(state.root()) => finding(
            "state folder",
            Health::Limited,
            format!("{}: less than {} MiB are free", state.root().display(), reserve::LOW >> 20),
            Some("make room: look which sandbox fills it (`du -s`, below `trees/*/native`)"),
        ),
        Ok(state) => match unsuited(state.root()) {
            Some(name) => finding(
                "state folder",
                Health::Limited,
                format!(
                    "{}: on {name}, where no native sandbox can be made",
                    state.root().display()
                ),
                Some(ELSEWHERE),
            ),
            None => {
                finding("state folder", Health::Works, state.root().display().to_string(), None)
            }
        },
        Err(error) => finding(
            "state folder",
            Health::Broken,
            error.chain().join(": "),
            Some("name a folder that can be written: `--state-dir DIR`"),
        ),
    }
}

async fn git() -> Finding {
    let asked = tokio::process::Command::new("git").arg("--version").output().await;
    match asked {
        Ok(output) if output.status.success() => {
            let version = String::from_utf8_lossy(&output.stdout);
            let version = version.trim().trim_start_matches("git version ").to_owned();
            finding("git", Health::Works, version, None)
        }
        _ => finding(
            "git",
            Health::Absent,
            "the commit of a tree is not shown",
            Some("install git, if your trees are tracked by it"),
        ),
    }
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Works => "works",
        Health::Limited => "limited",
        Health::Broken => "broken",
        Health::Absent => "absent",
    }
}

fn document(groups: &[Group]) -> serde_json::Value {
    let findings = |group: &Group| -> Vec<serde_json::Value> {
        let one = |f: &Finding| json!({ "what": f.what, "health": word(f.health), "detail": f.detail, "fix": f.fix });
        group.findings.iter().map(one).collect()
    };
    let backends: Vec<serde_json::Value> = groups
        .iter()
        .filter(|group| group.works.is_some())
        .map(|g| json!({ "backend": g.name, "works": g.works, "findings": findings(g) }))
        .collect();
    let host: Vec<serde_json::Value> =
        groups.iter().filter(|group| group.works.is_none()).flat_map(findings).collect();
    json!({ "version": 1, "host": host, "backends": backends })
}

fn text(groups: &[Group], width: usize) -> String {
    let mut text = String::new();
    let names = groups.iter().flat_map(|group| &group.findings);
    let column = names.map(|finding| finding.what.chars().count()).max().unwrap_or(0).min(24);
    let indent = 4 + column + 2;
    for group in groups {
        let verdict = match group.works {
            None => String::new(),
            Some(true) => format!(" {}", paint(style::GOOD, "works")),
            Some(false) => format!(" {}", paint(style::BAD, "does not work here")),
        };
        let _ = writeln!(text, "{}{verdict}", paint(style::BOLD, &group.name));
        for finding in &group.findings {
            let (symbol, colour) = match finding.health {
                Health::Works => ("✓", style::GOOD),
                Health::Limited => ("!", style::CHANGE),
                Health::Broken => ("✗", style::BAD),
                Health::Absent => ("-", style::DIM),
            };
            let over = finding.what.chars().count().saturating_sub(column);
            let detail = harmless(&finding.detail).replace(['\n', '\t'], " ");
            let detail = wrap(&detail, width.saturating_sub(indent).max(30), over);
            let detail = detail.join(&format!("\n{:indent$}", ""));
            let _ =
                writeln!(text, "  {} {:column$}  {detail}", paint(colour, symbol), finding.what);
            if let Some(fix) = &finding.fix {
                let fix = wrap(&harmless(fix), width.saturating_sub(indent + 2).max(28), 0);
                let fix = fix.join(&format!("\n{:indent$}  ", ""));
                let _ = writeln!(text, "{:indent$}{} {fix}", "", paint(style::HINT, "→"));
            }
        }
        text.push('\n');
    }
    let working: Vec<&str> = groups
        .iter()
        .filter(|group| group.works == Some(true))
        .map(|group| group.name.as_str())
        .collect();
    let _ = match working.as_slice() {
        [] => writeln!(text, "no backend works here: no sandbox can be made"),
        some => writeln!(text, "sandboxes can be made with: {}", some.join(", ")),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_hangs_is_said_within_seconds() {
        let findings = in_time(std::future::pending(), Duration::from_millis(1)).await;
        assert!(!works(&findings));
        assert!(findings[0].detail.starts_with("it does not answer"), "{}", findings[0].detail);
        assert!(PATIENCE <= Duration::from_secs(5));
    }
}
