//! The main process of a machine, as provisioning puts it in: a few lines of shell, which a supervisor that is
//! a shell loads, and one that is none reads as they are written here.

use std::fmt::Write as _;

use super::change::quoted;
use super::hash::Fields;
use super::spec::Restart;

/// What a machine's supervisor runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Main {
    /// The command; empty: none.
    pub command: Vec<String>,
    /// When it ends.
    pub restart: Restart,
    /// It waits until asked-for values were delivered in this run of the machine.
    pub waits_for_env: bool,
}

/// The id of no command.
const IDLE: &str = "idle";
const RESTART: &str = "main_restart=";
const WAITS: &str = "main_waits=";
const BEGIN: &str = "main() {\nset --\n";
const ARGUMENT: &str = "set -- \"$@\" ";
const END: &str = "exec \"$@\"\n}\n";
/// What a shell ends the command with, and all that this has started: it is no part of the supervisor's own script,
/// which an engine repeats in every listing.
const ENDING: &str = include_str!("end.sh");
const ID: &str = "main_id=";

impl Main {
    /// By the names that the manifest uses.
    #[must_use]
    pub fn fields(&self) -> Fields {
        fields(&self.command, self.restart, self.waits_for_env)
    }

    /// Names what takes a restart of the command to change.
    #[must_use]
    pub fn id(&self) -> String {
        match self.command.as_slice() {
            [] => IDLE.to_owned(),
            command => fields(command, self.restart, false).hash("bottle.main.v1").short(),
        }
    }

    /// As a supervisor reads it. The id comes last: without it, it is half of one.
    #[must_use]
    pub fn script(&self) -> String {
        let (restart, waits) = (self.restart.as_str(), u8::from(self.waits_for_env));
        let mut lines = format!("{RESTART}{restart}\n{WAITS}{waits}\n{BEGIN}");
        for argument in &self.command {
            let _ = writeln!(lines, "{ARGUMENT}{}", quoted(argument));
        }
        lines + END + ENDING + ID + &self.id() + "\n"
    }

    /// What [`Self::script`] wrote; anything else is `None`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (restart, rest) = text.strip_prefix(RESTART)?.split_once('\n')?;
        let restart = [Restart::Always, Restart::OnFailure, Restart::Never]
            .into_iter()
            .find(|one| one.as_str() == restart)?;
        let (waits, rest) = rest.strip_prefix(WAITS)?.split_once('\n')?;
        let mut rest = rest.strip_prefix(BEGIN)?;
        let mut command = Vec::new();
        while let Some(after) = rest.strip_prefix(ARGUMENT) {
            let (argument, after) = unquoted(after)?;
            command.push(argument);
            rest = after.strip_prefix('\n')?;
        }
        let main = Self { command, restart, waits_for_env: waits == "1" };
        // Another version ends it in another way.
        let (_, last) = rest.strip_prefix(END)?.strip_suffix('\n')?.rsplit_once('\n')?;
        (last.strip_prefix(ID)? == main.id()).then_some(main)
    }
}

/// What [`quoted`] wrote, and what follows it.
fn unquoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.strip_prefix('\'')?;
    loop {
        let (part, after) = rest.split_once('\'')?;
        value.push_str(part);
        match after.strip_prefix("\\''") {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None => return Some((value, after)),
        }
    }
}

fn fields(command: &[String], restart: Restart, waits_for_env: bool) -> Fields {
    let mut fields = Fields::default();
    if !command.is_empty() {
        fields.set_list("command", command);
        fields.set("restart", restart.as_str());
        if waits_for_env {
            fields.set("command.waits_for_env", "true");
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    fn main(command: &[&str]) -> Main {
        let command = command.iter().map(|word| (*word).to_owned()).collect();
        Main { command, restart: Restart::Never, waits_for_env: true }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let commands: [&[&str]; 4] = [
            &[],
            &["serve"],
            &["sh", "-c", "it's 'a' $HOME\n}\nmain_id=x", "", "'", "\\''"],
            &["set -- \"$@\" 'x'"],
        ];
        for command in commands {
            let script = main(command).script();
            assert_eq!(Main::parse(&script), Some(main(command)), "{script}");
            for cut in 0..script.len() {
                let cut = script.get(..cut).unwrap_or_default();
                assert_eq!(Main::parse(cut), None, "{cut}");
            }
        }
    }

    #[test]
    fn what_waits_is_no_other_command() {
        let waits = main(&["a"]);
        let at_once = Main { waits_for_env: false, ..waits.clone() };
        let always = Main { restart: Restart::Always, ..waits.clone() };
        assert_eq!(waits.id(), at_once.id());
        assert_ne!(waits.id(), always.id());
        assert_ne!(waits.id(), main(&["b"]).id());
        assert_eq!(main(&[]).id(), Main { restart: Restart::Always, ..main(&[]) }.id());
    }
}
