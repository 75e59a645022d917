//! Data flows one way, and imports follow it: the compiler does not hold that inside one package,
//! so this does. Every path in the sources is read, and an arrow that goes up or sideways fails.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

mod source;

use source::{paths, tokens};

/// What each module of the crate's root may import, beside itself: the table of `lib.rs`.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("manifest", &["model"]),
    ("plan", &["model"]),
    ("backend", &["model"]),
    ("sidecar", &["model"]),
    ("apply", &["model", "plan", "backend"]),
    ("work", &["model", "plan", "backend"]),
    ("reconcile", &["model", "manifest", "plan", "backend", "sidecar", "apply", "work"]),
    ("dashboard", &["model", "manifest", "plan", "backend", "sidecar", "apply", "reconcile"]),
    (
        "cli",
        &[
            "model",
            "manifest",
            "plan",
            "backend",
            "sidecar",
            "apply",
            "work",
            "reconcile",
            "dashboard",
        ],
    ),
];

/// The pure modules, and what may not be named in them: no I/O, no clock, no randomness.
const PURE: &[&str] = &["model", "plan"];
const IMPURE: &[&str] = &[
    "std::fs",
    "std::time",
    "std::env",
    "std::process",
    "std::thread",
    "std::io",
    "std::net::TcpStream",
    "std::net::TcpListener",
    "std::net::UdpSocket",
    "std::os::unix::net",
    "std::hash::RandomState",
    "rand",
    "getrandom",
    "tokio",
    "futures_util",
    "rustix",
    "libc",
    "bollard",
    "notify",
];

/// Where effects live: the only files (or folders of files) that may lift clippy's ban on them.
const EFFECTS: &[&str] = &[
    "apply/run.rs",
    "apply/workspace.rs",
    "backend/docker/",
    "backend/durable.rs",
    "backend/reserve.rs",
    "backend/hostside/",
    "backend/native/",
    "backend/smolmachines/",
    "backend/stamp.rs",
    "cli/",
    "dashboard/tui/terminal.rs",
    "dashboard/web/serve.rs",
    "manifest/inputs.rs",
    "manifest/tree.rs",
    "manifest/trust.rs",
    "reconcile/accepted.rs",
    "reconcile/authorities.rs",
    "reconcile/daemon.rs",
    "reconcile/detached/",
    "reconcile/files.rs",
    "reconcile/git.rs",
    "reconcile/lock.rs",
    "reconcile/lookout.rs",
    "reconcile/names.rs",
    "reconcile/owners.rs",
    "reconcile/pass.rs",
    "reconcile/renames.rs",
    "reconcile/requests/",
    "reconcile/settle.rs",
    "reconcile/sidecars.rs",
    "reconcile/socket.rs",
    "reconcile/state.rs",
    "reconcile/status/",
    "reconcile/still.rs",
    "reconcile/tokens.rs",
    "reconcile/tokens/ask.rs",
    "reconcile/values.rs",
    "sidecar/confine.rs",
    "sidecar/ca.rs",
    "sidecar/clock.rs",
    "sidecar/egress/",
    "sidecar/git/",
    "sidecar/pages.rs",
    "sidecar/record.rs",
    "sidecar/start.rs",
    "work/extract/tests.rs",
    "work/git.rs",
    "work/listing.rs",
    "work/snapshot/",
    "work/undo.rs",
    "work/way.rs",
];

/// All that is wrong with one source file, a line each.
fn check(file: &str, text: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let module = source::module_of(file);
    let tokens = tokens(text);
    let found = paths(&tokens, &module);
    if let Some(own) = module.first() {
        let allowed = MAY_IMPORT.iter().find(|(name, _)| name == own).map(|(_, allowed)| *allowed);
        if allowed.is_none() {
            wrong.push(format!("{file}: the module `{own}` is in no layer"));
        }
        for path in found.iter().filter_map(|path| path.strip_prefix("crate::")) {
            let target = path.split("::").next().unwrap_or_default();
            if target != own && !allowed.unwrap_or_default().contains(&target) {
                wrong.push(format!("{file}: `{own}` may not import `{path}`"));
            }
        }
    }
    if module.first().is_some_and(|own| PURE.contains(&own.as_str())) {
        for path in &found {
            let inside = |root: &&&str| path == **root || path.starts_with(&format!("{root}::"));
            if let Some(root) = IMPURE.iter().find(inside) {
                wrong.push(format!("{file}: `{path}`: nothing of {root} in a pure module"));
            }
        }
        if tokens.iter().any(|token| token == "async") {
            wrong.push(format!("{file}: nothing async in a pure module"));
        }
    }
    for pair in tokens.windows(6) {
        let lifted = pair[1] == "(" && pair[2..] == ["clippy", "::", "disallowed_methods", ","];
        let plain = pair[1] == "(" && pair[2..5] == ["clippy", "::", "disallowed_methods"];
        if plain && (pair[0] == "allow" || !lifted) {
            wrong.push(format!("{file}: disallowed_methods are lifted by expect, with a reason"));
        } else if lifted && pair[0] == "expect" {
            let known =
                |place: &&str| *place == file || place.ends_with('/') && file.starts_with(*place);
            if !EFFECTS.iter().any(known) {
                wrong.push(format!("{file}: is no module with effects (see EFFECTS)"));
            }
        }
    }
    if tokens.windows(4).any(|window| window == ["#", "[", "path", "="]) {
        wrong.push(format!("{file}: `#[path]` hides where a module stands"));
    }
    wrong
}

/// Every source file below `src`, with its path relative to it.
fn sources() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut folders: Vec<PathBuf> = vec![root.clone()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("the sources can be read") {
            let path = entry.expect("the sources can be read").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).expect("the sources are UTF-8");
                let file = path.strip_prefix(&root).expect("it is below");
                found.push((file.to_str().expect("the name is UTF-8").to_owned(), text));
            }
        }
    }
    found.sort();
    found
}

#[test]
fn imports_go_down_and_effects_stay_at_the_edges() {
    let sources = sources();
    assert!(sources.len() > 20, "the sources were not found");
    let mut report = String::new();
    for line in sources.iter().flat_map(|(file, text)| check(file, text)) {
        writeln!(report, "{line}").expect("a string takes a line");
    }
    assert!(report.is_empty(), "\n{report}");
}

#[test]
fn every_module_of_the_root_is_in_a_layer() {
    let (_, lib) = sources().into_iter().find(|(file, _)| file == "lib.rs").expect("it is there");
    let tokens = tokens(&lib);
    let modules: Vec<&str> = tokens
        .windows(3)
        .filter(|window| window[0] == "mod" && window[2] == ";")
        .map(|window| window[1].as_str())
        .collect();
    assert!(modules.contains(&"plan"), "{modules:?}");
    for module in modules {
        assert!(MAY_IMPORT.iter().any(|(name, _)| *name == module), "{module} is in no layer");
    }
}

#[track_caller]
fn passes(file: &str, text: &str) {
    assert_eq!(check(file, text), Vec::<String>::new());
}

#[track_caller]
fn fails(file: &str, text: &str, says: &str) {
    let wrong = check(file, text);
    assert!(wrong.iter().any(|line| line.contains(says)), "{wrong:?} does not say {says}");
}

#[test]
fn arrows_that_go_down_pass() {
    passes("apply/run.rs", "use crate::{plan::{Plan, Step}, model::*, backend::Backend};");
    passes("plan/order.rs", "use super::decide::Decision; use crate::model as m; use super::*;");
    passes(
        "backend/docker/mod.rs",
        "use super::super::model::Instance; pub(in crate::backend) fn f() {}",
    );
    passes("cli/plan.rs", "fn f() { crate::reconcile::pass(); crate::dashboard::x::<u8>() }");
    passes("main.rs", "use bottle::cli; fn main() { bottle::cli::run() }");
    passes("plan/mod.rs", "mod tests { use super::*; mod deeper { use super::super::Plan; } }");
}

#[test]
fn arrows_that_go_up_or_sideways_fail() {
    fails("model/id.rs", "use crate::plan::Plan;", "`model` may not import `plan::Plan`");
    fails("plan/mod.rs", "use super::backend::Backend;", "may not import `backend::Backend`");
    fails("plan/a/b.rs", "use super::super::super::manifest;", "may not import `manifest`");
    fails("backend/mod.rs", "fn f(x: crate::manifest::Tree) {}", "may not import `manifest::Tree`");
    fails("apply/run.rs", "use crate::{model, reconcile::{state, lock}};", "`reconcile::lock`");
    fails("reconcile/mod.rs", "use crate::{\n cli as c,\n};", "may not import `cli`");
    fails("plan/mod.rs", "mod tests { use super::super::backend::memory; }", "`backend::memory`");
    fails("plan/mod.rs", "use super::*;", "may not import `*`");
    fails("plan/mod.rs", "macro_rules! m { () => { $crate::cli::run() } }", "`cli::run`");
    // Inside the library the crate is `crate`; `bottle` is the module of that name.
    passes("manifest/resolve.rs", "fn f() { bottle::read() }");
    fails("novel/mod.rs", "", "is in no layer");
    fails("model/a.rs", "#[path = \"../plan/mod.rs\"] mod plan;", "`#[path]`");
}

#[test]
fn comments_and_strings_import_nothing() {
    passes("model/a.rs", "//! [`crate::plan`]\n/* crate::cli /* crate::cli */ crate::cli */");
    passes(
        "model/a.rs",
        r###"const A: &str = "crate::plan \" crate::cli"; const B: &str = r#"crate::cli""#;"###,
    );
    passes("model/a.rs", "fn f<'a>(x: &'a str) -> char { '\"' } const C: char = '\\'';");
    fails("model/a.rs", "const A: char = '\"'; use crate::plan; const B: char = '\"';", "`plan`");
    fails("model/a.rs", "fn f<'a>(x: &'a str) { crate::plan::f(\"'\") }", "`plan::f`");
}

#[test]
fn a_pure_module_is_pure() {
    fails("plan/mod.rs", "use std::{collections::BTreeMap, fs};", "`std::fs`");
    fails("plan/mod.rs", "fn f() { std::time::Instant::now(); }", "nothing of std::time");
    fails("model/a.rs", "use std::env::var;", "nothing of std::env");
    fails("model/a.rs", "use tokio::sync::Mutex;", "nothing of tokio");
    fails("plan/a/b.rs", "use ::rand::random;", "nothing of rand");
    fails("plan/mod.rs", "pub async fn plan() {}", "nothing async");
    passes("plan/mod.rs", "use std::{collections::BTreeMap, fmt}; fn randomize(async_: u8) {}");
    passes("apply/run.rs", "use tokio::sync::Mutex; async fn f() { std::time::Duration::ZERO; }");
}

#[test]
fn effects_are_lifted_where_effects_live() {
    let lifted = "#![expect(clippy::disallowed_methods, reason = \"reads the clock\")]";
    passes("reconcile/state.rs", lifted);
    passes("backend/docker/connect.rs", lifted);
    fails("plan/mod.rs", lifted, "no module with effects");
    fails("reconcile/trigger.rs", lifted, "no module with effects");
    fails(
        "reconcile/state.rs",
        "#![allow(clippy::disallowed_methods, reason = \"x\")]",
        "by expect",
    );
    fails("reconcile/state.rs", "#![expect(clippy::disallowed_methods)] mod x;", "with a reason");
}
