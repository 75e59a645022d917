//! What stands on the virtual engine: objects, images, and how a machine's command runs.

use super::files::{Entry, Files};
use crate::backend::{Identity, MainState, guest_path};
use crate::model::{
    FieldChange, Fields, InstanceId, InstanceState, Leftover, MachineSpec, Main, OwnerId,
    ResourceKind, Restart, SandboxId, SpecHash,
};

/// What `bottle` writes on an object that it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// The tree.
    pub owner: OwnerId,
    /// The state folder.
    pub state: String,
    /// The sandbox.
    pub sandbox: SandboxId,
    /// The content hash; `None` where somebody removed the label.
    pub hash: Option<SpecHash>,
    /// The fields of that hash.
    pub fields: Fields,
    /// The overlay's folder.
    pub overlay: Option<String>,
}

/// An object of the engine, whoever made it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The engine's id.
    pub id: InstanceId,
    /// Its name, unique on the engine.
    pub name: String,
    /// What it is.
    pub resource: ResourceKind,
    /// `None`: somebody else made it.
    pub labels: Option<Labels>,
    /// What it does.
    pub state: InstanceState,
    /// The current run.
    pub boot: Option<String>,
    /// What was changed from outside, as the listing shows it.
    pub drift: Vec<FieldChange>,
    /// What was changed from outside, as only an inspection shows it.
    pub deep_drift: Vec<FieldChange>,
    /// What was changed from outside and can be set right in place.
    pub mendable: Vec<FieldChange>,
    /// The source of the imported image under it.
    pub image: Option<SpecHash>,
    /// When it was made.
    pub created: u64,
    /// What it was made from, where it is a machine of ours.
    pub spec: Option<MachineSpec>,
    /// The sandbox's user.
    pub user: Identity,
    /// Its files.
    pub files: Files,
    /// What its command is doing.
    pub main: MainState,
    /// The id of the command that this is of, once it was read.
    pub command: Option<String>,
    /// What its command wrote.
    pub log: Vec<u8>,
    /// What a sidecar was given in this run of it.
    pub loaded: Option<Vec<u8>>,
}

/// What an image brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Image {
    /// Its files, `/etc/passwd` among them.
    pub files: Files,
    /// The user that it names.
    pub user: Option<String>,
}

impl Image {
    /// A small root with these users (name, uid; the homes lie in `/home`) beside root.
    #[must_use]
    pub fn with_users(users: &[(&str, u32)]) -> Self {
        let mut passwd = "root:x:0:0:root:/root:/bin/sh\n".to_owned();
        let mut entries = vec![
            ("/etc".to_owned(), Entry::folder(0o755, 0, 0)),
            ("/home".to_owned(), Entry::folder(0o755, 0, 0)),
            ("/root".to_owned(), Entry::folder(0o700, 0, 0)),
            ("/run".to_owned(), Entry::folder(0o755, 0, 0)),
            ("/tmp".to_owned(), Entry::folder(0o1777, 0, 0)),
        ];
        for (name, uid) in users {
            passwd.push_str(&format!("{name}:x:{uid}:{uid}:{name}:/home/{name}:/bin/sh\n"));
            entries.push((format!("/home/{name}"), Entry::folder(0o755, *uid, *uid)));
        }
        entries.push(("/etc/passwd".to_owned(), Entry::file(passwd, 0o644, 0, 0)));
        let mut files = Files::default();
        for (path, entry) in entries {
            files.put(&path, entry).expect("the paths are plain and their parents come first");
        }
        Self { files, user: None }
    }
}

impl Default for Image {
    fn default() -> Self {
        Self::with_users(&[("node", 1000)])
    }
}

/// What belongs to no sandbox, and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Left {
    /// The tree.
    pub owner: OwnerId,
    /// The state folder.
    pub state: String,
    /// What it is.
    pub leftover: Leftover,
}

impl Object {
    /// A new run: what lay on tmpfs is gone, the command begins again.
    pub(super) fn start(&mut self, boot: String) {
        self.state = InstanceState::Running;
        self.boot = Some(boot);
        (self.main, self.command) = (MainState::Waiting, None);
        self.loaded = None;
        let run = Entry::folder(0o700, self.user.uid, self.user.gid);
        let made =
            self.files.remove(guest_path::RUN).and_then(|()| self.files.put(guest_path::RUN, run));
        if let Err(error) = made {
            self.state = InstanceState::Broken(error.to_string());
        }
        self.advance();
    }

    pub(super) fn stop(&mut self, code: Option<i32>) {
        self.state = InstanceState::Stopped { code };
        self.boot = None;
    }

    /// Its supervisor reads the command anew.
    pub(super) fn reread(&mut self) {
        if self.main_process().is_some_and(|main| Some(main.id()) != self.command) {
            self.main = MainState::Waiting;
        }
        self.advance();
    }

    /// What its supervisor runs: what was put in, else what it was made with.
    fn main_process(&self) -> Option<Main> {
        let spec = self.spec.as_ref()?;
        let inside = self.files.read(guest_path::COMMAND).ok();
        let inside = inside.and_then(|bytes| Main::parse(std::str::from_utf8(&bytes).ok()?));
        Some(inside.unwrap_or_else(|| Main {
            command: spec.command.clone(),
            restart: spec.restart,
            waits_for_env: spec.waits_for_env,
        }))
    }

    /// Lets the command begin once nothing holds it back, and says so where the guest would.
    pub(super) fn advance(&mut self) {
        let Some(process) = self.main_process() else { return };
        if self.state != InstanceState::Running {
            return;
        }
        let held = !self.files.exists(guest_path::READY)
            || (process.waits_for_env && !self.files.exists(guest_path::ENV));
        let command: Vec<&str> = process.command.iter().map(String::as_str).collect();
        match command.as_slice() {
            [] if matches!(self.main, MainState::Waiting | MainState::Idle) => {
                (self.main, self.command) = (MainState::Idle, Some(process.id()));
            }
            command if self.main == MainState::Waiting && !held => {
                self.main = outcome(command, process.restart, &mut self.log);
                self.command = Some(process.id());
            }
            _ => {}
        }
        let line = match &self.main {
            MainState::Idle => "idle\n".to_owned(),
            MainState::Waiting => "waiting\n".to_owned(),
            MainState::Running => "running\n".to_owned(),
            MainState::Completed => "completed\n".to_owned(),
            MainState::Failed(code) => format!("failed {code}\n"),
            MainState::BackingOff { code, times } => format!("backoff {code} {times}\n"),
        };
        let entry = Entry::file(line, 0o644, self.user.uid, self.user.gid);
        // The guest may have put something else in its place: then nobody learns the state.
        self.files.put(guest_path::MAIN, entry).ok();
    }
}

/// How a command ends. Those that the machine does not know run on.
fn outcome(command: &[&str], restart: Restart, log: &mut Vec<u8>) -> MainState {
    let code = match command {
        ["true"] => 0,
        ["false"] => 1,
        ["echo", words @ ..] => {
            log.extend_from_slice((words.join(" ") + "\n").as_bytes());
            0
        }
        ["sh", "-c", script] => {
            let mut code = None;
            for part in script.split(';').map(str::trim) {
                match part.split_once(' ') {
                    Some(("echo", words)) => {
                        log.extend_from_slice(words.as_bytes());
                        log.push(b'\n');
                    }
                    Some(("exit", number)) => code = number.parse().ok(),
                    _ => return MainState::Running,
                }
            }
            code.unwrap_or(0)
        }
        _ => return MainState::Running,
    };
    match (restart, code) {
        (Restart::Never | Restart::OnFailure, 0) => MainState::Completed,
        (Restart::Never, code) => MainState::Failed(code),
        (Restart::Always | Restart::OnFailure, code) => MainState::BackingOff { code, times: 1 },
    }
}
