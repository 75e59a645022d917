//! Trees for agents that log in: those of `examples/agents`, as they stand there.

use std::path::PathBuf;

use super::File;
use crate::cli::args::{Backend, InitAgent};
use crate::cli::error::CliError;

/// A tree of an agent: where its examples are, the variable with its token, and its files.
struct Example {
    agent: InitAgent,
    token: &'static str,
    native: &'static [(&'static str, &'static str)],
    docker: &'static [(&'static str, &'static str)],
}

macro_rules! example {
    ($agent:ident, $name:literal, $token:literal) => {
        Example {
            agent: InitAgent::$agent,
            token: $token,
            native: &[
                ("bottle.yaml", include_str!("bottle.yaml")),
                (
                    concat!("bottles/", $name, ".md"),
                    include_str!(concat!(
                        "../../../examples/agents/",
                        $name,
                        "-native/bottles/",
                        $name,
                        ".md"
                    )),
                ),
                (
                    "agents/ada.md",
                    include_str!(concat!(
                        "../../../examples/agents/",
                        $name,
                        "-native/agents/ada.md"
                    )),
                ),
            ],
            docker: &[
                ("bottle.yaml", include_str!("bottle.yaml")),
                (
                    concat!("bottles/", $name, ".md"),
                    include_str!(concat!(
                        "../../../examples/agents/",
                        $name,
                        "-docker/bottles/",
                        $name,
                        ".md"
                    )),
                ),
                (
                    "agents/ada.md",
                    include_str!(concat!(
                        "../../../examples/agents/",
                        $name,
                        "-docker/agents/ada.md"
                    )),
                ),
                (
                    concat!("images/", $name, "/Dockerfile"),
                    include_str!(concat!(
                        "../../../examples/agents/",
                        $name,
                        "-docker/images/",
                        $name,
                        "/Dockerfile"
                    )),
                ),
            ],
        }
    };
}

const EXAMPLES: [Example; 4] = [
    example!(Claude, "claude", "ANTHROPIC_TOKEN"),
    example!(Codex, "codex", "OPENAI_TOKEN"),
    example!(Gemini, "gemini", "GEMINI_TOKEN"),
    example!(Opencode, "opencode", "ANTHROPIC_TOKEN"),
];

/// The files of a tree for this agent, and the variable that its token is to be in.
pub(super) fn files(
    agent: InitAgent,
    backend: Option<Backend>,
) -> Result<(Vec<File>, &'static str), CliError> {
    let found = EXAMPLES.iter().find(|example| example.agent == agent);
    let example = found.ok_or_else(|| CliError::failed("there is no tree for this agent"))?;
    let files = match backend {
        None | Some(Backend::Native) => example.native,
        Some(Backend::Docker) => example.docker,
        Some(_) => {
            return Err(CliError::failed("`init --agent` writes trees for native and docker")
                .hint(
                    "write the one for docker, and then `backend: smolmachines` into its bottle",
                ));
        }
    };
    let own = |(path, text): &(&str, &str)| (PathBuf::from(path), text.as_bytes().to_vec());
    Ok((files.iter().map(own).collect(), example.token))
}
