//! `setup` of a bottle: what is run once in a new machine.

use super::field::Field;
use super::keys::Shape;
use super::source::Findings;
use super::yaml::Value;
use crate::model::setup::{Setup, SetupCommand};

/// What `setup` may be.
pub(super) const SHAPE: Shape =
    Shape::List(&Shape::Either(&[Shape::Text(None), Shape::List(&Shape::Text(None))]));

/// For editors.
pub(super) const DOC: &str = "lines of shell, or lists of a program and its arguments, that are run once as root when \
                              the machine is made, before `command` starts";

/// More than that is a script, or an image.
const MOST: usize = 64;

/// The longest command, in bytes: engines keep it with the machine.
const LONGEST: usize = 4096;

/// Reads it.
pub(super) fn read(field: &Field<'_>, findings: &mut Findings<'_>) -> Setup {
    let mut setup = Setup { file: findings.source().name().to_owned(), commands: Vec::new() };
    let items = field.list(findings).unwrap_or_default();
    if items.len() > MOST {
        let message = format!("`setup` has {} items, and takes {MOST}", items.len());
        findings.add(
            field
                .error(message)
                .hint("put them into a script, or into an image: `image: {build: ./FOLDER}`"),
        );
        return setup;
    }
    for (index, node) in items.iter().enumerate() {
        let item = field.item(index, node);
        let argv = match &node.value {
            Value::List(_) => item.argv(findings),
            Value::Text(text) if !text.trim().is_empty() => {
                ["sh", "-c", text].map(str::to_owned).to_vec()
            }
            Value::Text(_) => Vec::new(),
            _ => {
                let problem =
                    item.mismatch("a line of shell, or a list of a program and its arguments");
                findings.add(problem.hint("quote it: `setup: [\"npm install -g tool\"]`"));
                continue;
            }
        };
        let (line, _) = findings.source().position(item.span().start);
        if argv.is_empty() {
            findings.add(item.error("this command is empty").hint("leave it out"));
        } else if argv.iter().map(String::len).sum::<usize>() > LONGEST {
            let message = format!("this command is longer than {LONGEST} bytes");
            findings.add(item.error(message).hint("put it into a script that an image brings"));
        } else if argv.iter().any(|word| word.contains('\0')) {
            findings.add(item.error("a command cannot hold a NUL"));
        } else {
            setup.commands.push(SetupCommand { argv, line });
        }
    }
    setup
}
