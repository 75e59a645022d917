//! `bottle run`: starts the agent's program in its sandbox.

use std::io::IsTerminal as _;
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;

use super::args::{Global, RunArgs};
use super::error::{CliError, Exit};
use super::runs;
use super::target::Target;
use super::ui::Ui;
use crate::backend::{Attach, guest_path};
use crate::model::SandboxSpec;
use crate::model::supervise::guest::CLAUDE;
use crate::model::text::harmless_line;
use crate::reconcile::status::missing::{NOT_FOUND, brings};

pub(super) async fn run(ui: &Ui, global: &Global, args: &RunArgs) -> Result<Exit, CliError> {
    if args.list {
        return runs::list(ui, global, args).await;
    }
    let target = Target::find(global, args.name.as_deref().unwrap_or_default()).await?;
    let desired = target.desired().await?;
    let Some(spec) = desired.sandboxes.get(&target.sandbox) else {
        let name = &target.sandbox;
        let why = match desired.held.contains_key(name) {
            true => format!("the manifest of {name} does not hold, so its program is not known"),
            false => format!("the tree does not declare {name}, so its program is not known"),
        };
        return Err(CliError::failed(why)
            .hint("`bottle check` tells what is wrong")
            .hint(format!("`bottle exec {name} -- CMD` runs any command in it")));
    };
    let argv = program(spec, &args.args);
    if args.detach {
        return runs::detach(ui, global, &target, argv).await;
    }
    let command = target.command(&argv);
    // With a terminal on one side only, its control characters would end up in a file.
    let tty = std::io::stdin().is_terminal() && std::io::stdout().is_terminal();
    let exit = target.attach(&command, Attach { stdin: true, tty }).await?;
    if matches!(exit, Exit::Of(NOT_FOUND)) {
        let program = command.argv.first().map_or("", String::as_str);
        let bottle = Some(spec.bottle.as_str());
        missing(ui, &target, &spec.source, bottle, program).await;
    }
    Ok(exit)
}

/// Says where a program was looked for that is not in the sandbox, and what to do. `bottle`: the name of its bottle,
/// where that is known.
pub(super) async fn missing(
    ui: &Ui,
    target: &Target,
    source: &str,
    bottle: Option<&str>,
    program: &str,
) {
    let name = &target.sandbox;
    let looked = match search_path(target).await {
        Some(path) if !program.contains('/') => format!(", which was looked for on PATH, `{path}`"),
        _ => String::new(),
    };
    let file =
        bottle.map_or_else(|| "the bottle".to_owned(), |bottle| format!("bottles/{bottle}.md"));
    let lines = [
        format!("hint: the sandbox {name} may not have `{program}`{looked}"),
        format!("hint: {}", brings(&target.machine, program, &file)),
        format!(
            "hint: `run:` in {source} names another program; `bottle exec {name} -- CMD` runs any"
        ),
    ];
    for line in lines {
        ui.warn(&harmless_line(&line));
    }
}

/// The longest `PATH` that is shown, in bytes.
const LONGEST: usize = 1000;

/// How long a guest is asked for it.
const ANSWERING: Duration = Duration::from_secs(5);

/// Where programs are looked for inside, as its own shell says: for people alone.
async fn search_path(target: &Target) -> Option<String> {
    let command = target.command(&["sh", "-c", "printf %s \"$PATH\""].map(str::to_owned));
    let asked = target.backend.exec(&target.scope, &target.machine, &command, Bytes::new());
    let output = tokio::time::timeout(ANSWERING, asked).await.ok()?.ok()?;
    let path = String::from_utf8(output.stdout.to_vec()).ok()?;
    (output.code == 0 && !path.is_empty() && path.len() <= LONGEST).then(|| harmless_line(&path))
}

/// What to start. Only `claude` knows the flags, and an empty prompt is none.
fn program(spec: &SandboxSpec, args: &[String]) -> Vec<String> {
    let mut argv = spec.run.clone();
    let name = argv.first().map(Path::new).and_then(Path::file_name).map(ToOwned::to_owned);
    let name = name.as_deref();
    if !spec.prompt.is_empty() && name.is_some_and(|name| name == "claude") {
        argv.extend(["--append-system-prompt-file", guest_path::PROMPT].map(str::to_owned));
    }
    if spec.policy.supervise && name.is_some_and(|name| name == "claude") {
        // In one word: of several it would take what follows for more of them.
        argv.push(format!("--mcp-config={CLAUDE}"));
    }
    argv.extend(args.iter().cloned());
    argv
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{BackendChoice, Policy, Resources, Restart, SandboxId};

    fn spec(run: &[&str], prompt: &str) -> SandboxSpec {
        SandboxSpec {
            id: SandboxId::new("ada").unwrap(),
            host_name: SandboxId::new("ada").unwrap(),
            bottle: "dev".to_owned(),
            source: "agents/ada.md".to_owned(),
            overlay: None,
            backend: BackendChoice::Auto { default: None },
            image: None,
            host_paths: Vec::new(),
            tools: Default::default(),
            setup: Default::default(),
            sources: Vec::new(),
            env: Default::default(),
            asked_env: Default::default(),
            resources: Resources::default(),
            workspace: None,
            keep: Default::default(),
            user: None,
            policy: Policy::default(),
            command: Vec::new(),
            restart: Restart::default(),
            network: None,
            sidecar: None,
            gate: None,
            run: run.iter().map(|&word| word.to_owned()).collect(),
            suspend: false,
            prompt: prompt.into(),
            skills: Default::default(),
            skills_dir: None,
        }
    }

    #[test]
    fn only_claude_with_a_prompt_is_given_it() {
        const FLAG: &str = "--append-system-prompt-file /etc/bottle/prompt.md";
        for (run, prompt, expected) in [
            (&["claude", "-c"][..], "You are ada.", format!("claude -c {FLAG} -p hi")),
            (&["/opt/bin/claude"], "x", format!("/opt/bin/claude {FLAG} -p hi")),
            (&["claude"], "", "claude -p hi".to_owned()),
            (&["claude-code"], "x", "claude-code -p hi".to_owned()),
            (&["sh", "claude"], "x", "sh claude -p hi".to_owned()),
        ] {
            let argv = program(&spec(run, prompt), &["-p".to_owned(), "hi".to_owned()]);
            assert_eq!(argv.join(" "), expected);
        }
        let mut asks = spec(&["claude"], "");
        asks.policy.supervise = true;
        let argv = program(&asks, &["hi".to_owned()]);
        assert_eq!(argv.join(" "), "claude --mcp-config=/etc/bottle/mcp.json hi");
    }
}
