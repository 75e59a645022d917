//! What is run once in a new machine before anything else: the commands of `setup`. Pure.

use super::hash::{Fields, SpecHash};

/// The commands, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Setup {
    /// The file that has them, as findings name it.
    pub file: String,
    /// Each of them.
    pub commands: Vec<SetupCommand>,
}

/// One command of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetupCommand {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// The line on which it stands.
    pub line: usize,
}

/// The names of its fields start so.
const FIELD: &str = "setup.";

impl Setup {
    /// Whether there is nothing to run.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// By the names that plans use. Where a command stands is no part of it.
    #[must_use]
    pub fn fields(&self) -> Fields {
        let mut fields = Fields::default();
        for (index, command) in self.commands.iter().enumerate() {
            fields.set_list(format!("{FIELD}{:02}", index + 1), &command.argv);
        }
        fields
    }

    /// The hash of what it runs.
    #[must_use]
    pub fn hash(&self) -> SpecHash {
        self.fields().hash("bottle.setup.v1")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_run_counts_and_not_where_it_stands() {
        let command = |words: &[&str], line| SetupCommand {
            argv: words.iter().map(ToString::to_string).collect(),
            line,
        };
        let setup =
            |commands: &[SetupCommand]| Setup { file: "x".to_owned(), commands: commands.to_vec() };
        let one = setup(&[command(&["sh", "-c", "npm i"], 3)]);
        assert_eq!(one.hash(), setup(&[command(&["sh", "-c", "npm i"], 9)]).hash());
        assert_ne!(one.hash(), setup(&[command(&["sh", "-c", "npm ci"], 3)]).hash());
        assert_ne!(one.hash(), setup(&[command(&["sh", "-c", "npm", "i"], 3)]).hash());
        let two = [command(&["a"], 1), command(&["b"], 2)];
        let swapped = [two[1].clone(), two[0].clone()];
        assert_ne!(setup(&two).hash(), setup(&swapped).hash());
        assert_eq!(one.fields().0["setup.01"], "sh -c 'npm i'");
    }
}
