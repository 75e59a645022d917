//! `bottle run`: starts the agent's program in its sandbox.

use std::io::IsTerminal as _;
use std::path::Path;

use super::args::{Global, RunArgs};
use super::error::{CliError, Exit};
use super::runs;
use super::target::Target;
use super::ui::Ui;
use crate::backend::{Attach, guest_path};
use crate::model::text::harmless_line;
use crate::model::{BackendKind, SandboxSpec};

/// How a shell, and what starts programs in sandboxes, says that there is no such program.
const NOT_FOUND: i32 = 127;

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
        missing(ui, &target, &spec.source, program);
    }
    Ok(exit)
}

/// Says what to do where the program is not in the sandbox.
pub(super) fn missing(ui: &Ui, target: &Target, source: &str, program: &str) {
    let name = &target.sandbox;
    let brings = match target.machine.backend {
        BackendKind::Native => format!(
            "name its folder under `host_paths` of the bottle, and put it on PATH by `env`, where \
             `command -v {program}` is not in a folder of the system"
        ),
        _ => "use an image that has it".to_owned(),
    };
    let lines = [
        format!("hint: if `{program}` is not in the sandbox {name}: {brings}"),
        format!(
            "hint: `run:` in {source} names another program; `bottle exec {name} -- CMD` runs any"
        ),
    ];
    for line in lines {
        ui.warn(&harmless_line(&line));
    }
}

/// What to start. Only `claude` knows the flag, and an empty prompt is none.
fn program(spec: &SandboxSpec, args: &[String]) -> Vec<String> {
    let mut argv = spec.run.clone();
    let name = argv.first().map(Path::new).and_then(Path::file_name);
    if !spec.prompt.is_empty() && name.is_some_and(|name| name == "claude") {
        argv.extend(["--append-system-prompt-file", guest_path::PROMPT].map(str::to_owned));
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
            bottle: "dev".to_owned(),
            source: "agents/ada.md".to_owned(),
            overlay: None,
            backend: BackendChoice::Auto { default: None },
            image: None,
            host_paths: Vec::new(),
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
    }
}
