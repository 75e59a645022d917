//! The command line that cannot be understood: says what was probably meant.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory as _, Error, Parser as _};

use super::args::Cli;
use crate::manifest::nearest;

/// Words that other tools have for what is done here by another one.
const WORDS: [(&[&str], &str); 9] = [
    (&["version"], "`bottle --version` prints it"),
    (&["shell", "sh", "bash", "enter", "ssh"], "`bottle exec -it NAME -- sh` opens a shell"),
    (&["up", "create", "deploy", "sync-all"], "`bottle apply` makes and starts what the tree says"),
    (&["ps", "ls", "list"], "`bottle status` shows every sandbox"),
    (
        &["rm", "delete", "destroy", "remove", "kill"],
        "`bottle down --only NAME` removes a sandbox, `bottle down` all",
    ),
    (&["validate", "lint"], "`bottle check` tells all that is wrong with a tree"),
    (&["diff"], "`bottle plan --diff` shows what `apply` would change"),
    (&["copy"], "`bottle cp NAME:PATH DEST` copies files out, `bottle cp SRC NAME:PATH` in"),
    (
        &["backup", "snapshots", "restore"],
        "`bottle snapshot --help` tells how work is kept and brought back",
    ),
];

/// Reads the command line. What cannot be understood is told, and ends the program.
#[must_use]
pub fn parse() -> Cli {
    let asked = helped(std::env::args_os().collect());
    Cli::try_parse_from(&asked).unwrap_or_else(|error| {
        let words = asked.iter().skip(1).map(|word| word.to_string_lossy().into_owned());
        explained(error, &words.collect::<Vec<_>>()).exit()
    })
}

/// `help COMMAND` is `COMMAND --help`, and `help` alone `--help`.
fn helped(mut words: Vec<OsString>) -> Vec<OsString> {
    if words.get(1).is_some_and(|word| word == "help") {
        words.remove(1);
        words.push("--help".into());
    }
    words
}

/// The same error with a tip that helps, and without one that does not.
fn explained(mut error: Error, words: &[String]) -> Error {
    let tip = match error.kind() {
        ErrorKind::InvalidSubcommand => instead(&named(&error, ContextKind::InvalidSubcommand)),
        ErrorKind::UnknownArgument => {
            let argument = named(&error, ContextKind::InvalidArg);
            // Only what is handed on to a program may look like an option and be none.
            error.remove(ContextKind::Suggested);
            unknown(&argument, words)
        }
        _ => None,
    };
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    error
}

fn named(error: &Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        _ => String::new(),
    }
}

fn instead(word: &str) -> Option<String> {
    let found = WORDS.iter().find(|(words, _)| words.contains(&word));
    found.map(|(_, tip)| (*tip).to_owned())
}

fn unknown(argument: &str, words: &[String]) -> Option<String> {
    let at = words.iter().position(|word| word == argument)?;
    let root = Cli::command();
    let command = words[..at].iter().find_map(|word| root.find_subcommand(word))?;
    let name = command.get_name();
    if let Some(option) = argument.strip_prefix("--") {
        let option = option.split('=').next().unwrap_or(option);
        let known =
            command.get_arguments().chain(root.get_arguments().filter(|a| a.is_global_set()));
        let known: Vec<&str> =
            known.filter(|a| !a.is_hide_set()).filter_map(|a| a.get_long()).collect();
        let near = nearest(option, known.into_iter())?;
        return (near != option).then(|| format!("a similar option exists: `--{near}`"));
    }
    if argument.starts_with('-') {
        return None;
    }
    match name {
        "exec" | "run" => {
            let (before, after) = (words[..at].join(" "), words[at..].join(" "));
            Some(format!("write `--` before the command: `bottle {before} -- {after}`"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(line: &str) -> String {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let all = std::iter::once("bottle".to_owned()).chain(words.iter().cloned());
        let error = Cli::try_parse_from(all).expect_err(line);
        explained(error, &words).to_string()
    }

    #[test]
    fn what_was_meant_is_told() {
        for (line, tip) in [
            ("version", "bottle --version"),
            ("shell ada", "bottle exec -it NAME -- sh"),
            ("up", "bottle apply"),
            ("ls", "bottle status"),
            ("rm ada", "bottle down --only"),
            ("exec ada sh -c ls", "`bottle exec ada -- sh -c ls`"),
            ("exec -i ada sh", "`bottle exec -i ada -- sh`"),
            ("apply --allow-teardwn 3", "`--allow-teardown`"),
            ("plan --onyl ada", "`--only`"),
        ] {
            let said = said(line);
            assert!(said.contains(tip), "{line}: {said}");
        }
    }

    #[test]
    fn help_of_a_command_is_that_of_the_command() {
        let said = |words: &[&str]| {
            let all = std::iter::once("bottle").chain(words.iter().copied()).map(OsString::from);
            let error = Cli::try_parse_from(helped(all.collect())).expect_err("help is no command");
            (error.kind(), error.to_string())
        };
        for (words, usage) in [
            (&["help"][..], "Usage: bottle [OPTIONS] <COMMAND>"),
            (&["help", "exec"], "Usage: bottle exec"),
            (&["help", "policy", "check"], "Usage: bottle policy check"),
            (&["-o", "json", "exec", "--help"], "Usage: bottle exec"),
        ] {
            let (kind, text) = said(words);
            assert_eq!(kind, ErrorKind::DisplayHelp, "{words:?}");
            assert!(text.contains(usage), "{words:?}: {text}");
        }
        assert_eq!(said(&["help", "nothing"]).0, ErrorKind::InvalidSubcommand);
    }

    #[test]
    fn a_tip_that_leads_nowhere_is_not_given() {
        for line in ["apply --forse", "status --frobnicate", "doctor x y"] {
            let said = said(line);
            assert!(!said.contains("-- --") && !said.contains("tip:"), "{line}: {said}");
        }
        assert!(said("aply").contains("'apply'"), "clap's own tip stays");
    }
}
