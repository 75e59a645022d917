//! Where a route's token comes from.

use std::path::{Path, PathBuf};

use crate::manifest::field::{Field, Section};
use crate::manifest::guard::Guard;
use crate::manifest::keys::{Key, Shape, Table};
use crate::manifest::source::{Findings, shorten_path};
use crate::manifest::yaml::Value;
use crate::manifest::{host, tree};
use crate::model::policy::{TokenFrom, TokenSource};
use crate::model::{Place, SpecHash, Use};

/// The keys of `token_from`.
pub(super) static TABLE: Table = Table {
    what: "`token_from`",
    keys: &[
        Key::new(
            "command",
            Shape::List(&Shape::Text(None)),
            "a program and its arguments: what it writes to its standard output is the token",
        ),
        Key::new("file", Shape::Text(None), "a file that holds the token and nothing else"),
    ],
    removed: &[],
    instead: INSTEAD,
};

/// What other tools call the same.
pub(in crate::manifest) const INSTEAD: &[(&str, &str)] = &[
    ("env", "name the environment variable beside it, with the key that ends in `_ref`"),
    ("exec", "use `command`: a list of the program and its arguments"),
    ("path", "use `file`"),
];

/// How tokens begin: what begins so is no name of a variable.
const TOKEN_PREFIXES: [&str; 15] = [
    "ghp_",
    "gho_",
    "ghu_",
    "ghs_",
    "ghr_",
    "github_pat_",
    "glpat",
    "npm_",
    "sk_",
    "sk-",
    "xox",
    "hf_",
    "pypi",
    "AKIA",
    "eyJ",
];

/// The token's name, and where it comes from when that is not its name.
pub(super) fn read(
    route: &Field<'_>,
    section: &Section<'_>,
    path: Option<&str>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<(String, Option<TokenFrom>)> {
    match (section.get("token_ref"), section.get("token_from")) {
        (Some(name), None) => token_ref(&name, findings).map(|name| (name, None)),
        (None, Some(from)) => {
            let from = source(&from, &TABLE, guard, findings)?;
            Some((named(path?, &from.source), Some(from)))
        }
        (Some(_), Some(from)) => {
            let message = "`token_from` stands instead of `token_ref`, and both are here";
            findings.add(from.error(message).hint("keep one of them"));
            None
        }
        (None, None) => {
            let message = "a route needs the key `token_ref`, or `token_from`";
            let hint = "`token_ref: NAME` is a variable of the host or a line of the `--env-file`; \
                        `token_from` is `{command: [gh, auth, token]}` or `{file: ~/token}`";
            findings.add(route.error(message).hint(hint));
            None
        }
    }
}

fn token_ref(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = match field.node.value {
        Value::Text(_) => field.word(findings)?,
        _ => {
            findings.add(field.mismatch("the name of an environment variable").secret());
            return None;
        }
    };
    let token = TOKEN_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
    if token || !host::is_env_name(text) {
        // It may be the token itself: it must not end up in a log.
        let problem = field
            .error("this cannot name an environment variable")
            .hint("`token_ref` is the name of the host's variable, never the token itself")
            .secret();
        findings.add(problem);
        return None;
    }
    Some(text.to_owned())
}

/// Reads what gives a secret, under the keys of `table`.
pub(in crate::manifest) fn source(
    field: &Field<'_>,
    table: &'static Table,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<TokenFrom> {
    let section = field.section(table, findings)?;
    let (command, file) = (section.get("command"), section.get("file"));
    let source = match (command, file) {
        (Some(command), None) => {
            let mut argv = command.argv(findings);
            if argv.iter().any(|word| TOKEN_PREFIXES.iter().any(|prefix| word.starts_with(prefix)))
            {
                let problem = command.error("a word of this command looks like a token itself");
                findings.add(problem.hint("name what gives the token, never the token").secret());
                return None;
            }
            let Some(program) = argv.first_mut() else {
                if matches!(&command.node.value, Value::List(items) if items.is_empty()) {
                    let problem = command.error("`command` names no program");
                    findings.add(problem.hint("write [gh, auth, token]"));
                }
                return None;
            };
            if program.contains('/') {
                let path = absolute(&command, program, guard, findings)?;
                owned(&command, &path, guard, findings);
                *program = text_of(&path, &command, findings)?;
            }
            for word in argv.iter().skip(1).filter(|word| word.contains('/')) {
                // A script, or a file of its own: who could change it would choose what is done here.
                let there = guard.tree().join(word);
                if tree::stat(&there).is_ok_and(|stat| stat.kind == tree::Kind::File) {
                    owned(&command, &there, guard, findings);
                }
            }
            TokenSource::Command(argv)
        }
        (None, Some(file)) => {
            let text = file.word(findings)?;
            let path = absolute(&file, text, guard, findings)?;
            owned(&file, &path, guard, findings);
            TokenSource::File(path)
        }
        (command, _) => {
            let problem = match command {
                Some(_) => field.error(format!("{} has both a `command` and a `file`", table.what)),
                None => field.error(format!("{} needs `command` or `file`", table.what)),
            };
            findings.add(problem.hint("write `{command: [gh, auth, token]}` or `{file: ~/token}`"));
            return None;
        }
    };
    let (line, column) = findings.source().position(field.span().start);
    let place = Place { file: findings.source().name().to_owned(), line, column };
    Some(TokenFrom { source, tree: guard.tree().to_owned(), place })
}

/// A path as the manifest has it: of a relative one the tree is the start.
fn absolute(
    field: &Field<'_>,
    text: &str,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<PathBuf> {
    let relative = !text.starts_with(['/', '~', '.']);
    let text = if relative { format!("./{text}") } else { text.to_owned() };
    match host::host_path(&text, guard.tree(), guard.home) {
        Ok(path) => Some(path),
        Err(reason) => {
            findings.add(field.error(reason));
            None
        }
    }
}

fn text_of(path: &Path, field: &Field<'_>, findings: &mut Findings<'_>) -> Option<String> {
    let text = path.to_str().map(str::to_owned);
    if text.is_none() {
        let message = format!("`{}` is a path that is not UTF-8", shorten_path(path));
        findings.add(field.error(message).hint("rename it"));
    }
    text
}

/// What is there already is judged now, so that `check` says what is wrong with it; all of it is judged again
/// when the token is asked for. What is not there yet may come.
fn owned(field: &Field<'_>, path: &Path, guard: &Guard<'_>, findings: &mut Findings<'_>) {
    if tree::stat(path).is_ok() {
        // An error is one of looking: it will be told when the token is asked for.
        let _ = guard.resolve(field, path, Use::Define, findings);
    }
}

/// A name for a token that the manifest gives none: by its route, and different wherever the source is.
fn named(path: &str, source: &TokenSource) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '_' };
    let words: String = path.trim_matches('/').chars().map(plain).take(40).collect();
    let digest = SpecHash::of_bytes(source.to_string().as_bytes()).short();
    format!("token_of_{words}_{digest}").replace("__", "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_that_of_a_variable_and_says_the_route() {
        let command = |word: &str| TokenSource::Command(vec![word.to_owned()]);
        let name = named("/gh/api/", &command("gh"));
        assert!(name.starts_with("token_of_gh_api_") && host::is_env_name(&name), "{name}");
        assert_ne!(name, named("/gh/api/", &command("glab")));
        assert!(host::is_env_name(&named("/", &command("gh"))));
        assert!(host::is_env_name(&named("/0;'$/", &command("gh"))));
    }
}
