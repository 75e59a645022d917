//! The few programs that a virtual machine has. Anything else does not exist: 127.
//!
//! Not a shell: the scripts that `sh -c` understands are spelled out, one by one.

use bytes::Bytes;

use super::files::{Entry, Files, FilesError, Node};
use crate::backend::exec::load_values;
use crate::backend::{ExecOutput, Identity, guest_path};

/// How much of each stream of a command is kept, as the trait says.
const KEPT: usize = 1 << 20;

/// The scripts by which provisioning delivers asked-for values: all of them, or some more.
const DELIVER_ALL: &str =
    "umask 077; cd /run/bottle && new=env.new.$$ && rm -rf $new && cat > $new && mv -f $new env";
const DELIVER_MORE: &str = "umask 077; cat >> /run/bottle/env";

/// What a program sees.
pub(super) struct Process<'a> {
    pub(super) files: &'a mut Files,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) home: &'a str,
    pub(super) workdir: &'a str,
    pub(super) env: Vec<(String, String)>,
    pub(super) stdin: Bytes,
}

/// What a program wrote and how it ended.
struct Ended {
    code: i32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Ended {
    fn code(code: i32) -> Self {
        Self { code, stdout: Vec::new(), stderr: Vec::new() }
    }

    fn says(stdout: impl Into<Vec<u8>>) -> Self {
        Self { code: 0, stdout: stdout.into(), stderr: Vec::new() }
    }

    fn fails(code: i32, stderr: String) -> Self {
        Self { code, stdout: Vec::new(), stderr: (stderr + "\n").into_bytes() }
    }
}

impl From<Result<Vec<u8>, FilesError>> for Ended {
    fn from(result: Result<Vec<u8>, FilesError>) -> Self {
        match result {
            Ok(stdout) => Self::says(stdout),
            Err(error) => Self::fails(1, error.to_string()),
        }
    }
}

/// Runs `argv`.
pub(super) fn run(mut process: Process<'_>, argv: &[String]) -> ExecOutput {
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let Ended { code, mut stdout, mut stderr } = process.run(&words);
    stdout.truncate(KEPT);
    stderr.truncate(KEPT);
    ExecOutput { code, stdout, stderr }
}

impl Process<'_> {
    fn run(&mut self, argv: &[&str]) -> Ended {
        match argv {
            ["true"] => Ended::code(0),
            ["false"] => Ended::code(1),
            ["echo", words @ ..] => Ended::says(words.join(" ") + "\n"),
            ["pwd"] => Ended::says(format!("{}\n", self.workdir)),
            ["id", "-u"] => Ended::says(format!("{}\n", self.uid)),
            ["id", "-g"] => Ended::says(format!("{}\n", self.gid)),
            ["printenv", name] => match self.variable(name) {
                Some(value) => Ended::says(value + "\n"),
                None => Ended::code(1),
            },
            ["cat"] => Ended::says(self.stdin.to_vec()),
            ["cat", paths @ ..] => self.cat(paths).into(),
            ["wc", "-c"] => Ended::says(format!("{}\n", self.stdin.len())),
            ["ls", path] => self.ls(path).into(),
            ["stat", "-c", "%a %u %g", path] => self.stat(path).into(),
            ["rm", "-f", path] => self.rm(path).into(),
            ["test", "-e", path] => Ended::code(i32::from(self.open(path, 0).is_err())),
            ["sh", "-c", script, _, argv @ ..] if *script == load_values() => {
                self.load();
                self.run(argv)
            }
            ["sh", "-c", script] => self.shell(script),
            ["sleep", _] => Ended::code(0),
            [program, ..] if program.contains('/') && self.open(program, 0).is_ok() => {
                Ended::fails(126, format!("{program}: permission denied"))
            }
            [program, ..] => Ended::fails(127, format!("{program}: not found")),
            [] => Ended::fails(127, "no program was named".to_owned()),
        }
    }

    fn shell(&mut self, script: &str) -> Ended {
        match script {
            DELIVER_ALL => return self.write(guest_path::ENV, 0o600, false).into(),
            DELIVER_MORE => return self.write(guest_path::ENV, 0o600, true).into(),
            _ => {}
        }
        let words: Vec<&str> = script.split_ascii_whitespace().collect();
        match words.as_slice() {
            ["exit", code] => match code.parse() {
                Ok(code) => Ended::code(code),
                Err(_) => Ended::fails(2, format!("exit: {code}: bad number")),
            },
            ["kill", signal, "$$"] => match signal.trim_start_matches('-') {
                "9" | "KILL" => Ended::code(137),
                "15" | "TERM" => Ended::code(143),
                other => Ended::fails(1, format!("kill: {other}: unknown signal")),
            },
            ["cat", ">", path] => self.write(path, 0o644, false).into(),
            ["echo", word, ">&2"] => Ended::fails(0, (*word).to_owned()),
            _ => Ended::fails(2, format!("sh: this machine does not understand `{script}`")),
        }
    }

    fn variable(&self, name: &str) -> Option<String> {
        let set = self.env.iter().rev().find(|(key, _)| key == name);
        set.map(|(_, value)| value.clone()).or((name == "HOME").then(|| self.home.to_owned()))
    }

    fn absolute(&self, path: &str) -> String {
        if path.starts_with('/') { path.to_owned() } else { format!("{}/{path}", self.workdir) }
    }

    /// The entry at `path`, if this user has the permission `bit` on it; 0 asks for none.
    fn open(&self, path: &str, bit: u32) -> Result<&Entry, FilesError> {
        let path = self.absolute(path);
        let entry = self.files.get(&path)?;
        let place = self.files.resolve(&path, true)?;
        let allowed = self.files.reachable(&place, self.uid, self.gid)
            && (bit == 0 || entry.permits(self.uid, self.gid, bit));
        if allowed { Ok(entry) } else { Err(FilesError::Denied(path)) }
    }

    fn cat(&self, paths: &[&str]) -> Result<Vec<u8>, FilesError> {
        let mut out = Vec::new();
        for path in paths {
            match &self.open(path, 4)?.node {
                Node::File(bytes) => out.extend_from_slice(bytes),
                Node::Folder => return Err(FilesError::IsAFolder((*path).to_owned())),
                Node::Symlink(_) => return Err(FilesError::NotAFile((*path).to_owned())),
            }
        }
        Ok(out)
    }

    fn ls(&self, path: &str) -> Result<Vec<u8>, FilesError> {
        if self.open(path, 4)?.node != Node::Folder {
            return Ok(format!("{path}\n").into_bytes());
        }
        let place = self.files.resolve(&self.absolute(path), true)?;
        let children = self.files.tree(&place).map(|(rest, _)| rest);
        let names = children.filter(|rest| !rest.is_empty() && !rest.contains('/'));
        Ok(names.flat_map(|name| format!("{name}\n").into_bytes()).collect())
    }

    fn stat(&self, path: &str) -> Result<Vec<u8>, FilesError> {
        let Entry { mode, uid, gid, .. } = self.open(path, 0)?;
        Ok(format!("{mode:o} {uid} {gid}\n").into_bytes())
    }

    /// Who may write an entry at `path` may remove it, too, in this machine.
    fn rm(&mut self, path: &str) -> Result<Vec<u8>, FilesError> {
        match self.open(path, 2) {
            Ok(_) => self.files.remove(&self.absolute(path)).map(|()| Vec::new()),
            Err(FilesError::NotFound(_)) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    /// The values that were put in, as far as their lines are those that provisioning writes.
    fn load(&mut self) {
        let files = [guest_path::ENV, guest_path::VALUES];
        let scripts: Vec<u8> = files.iter().flat_map(|file| self.cat(&[file])).flatten().collect();
        for line in String::from_utf8_lossy(&scripts).lines() {
            if let Some(name) = line.strip_prefix("unset ") {
                self.env.retain(|(key, _)| key != name);
            } else if let Some((name, value)) =
                line.strip_prefix("export ").and_then(|line| line.split_once('='))
            {
                self.env.push((name.to_owned(), unquoted(value)));
            }
        }
    }

    /// `cat > path`, or `>>`: a file that is there keeps its owner and mode.
    fn write(&mut self, path: &str, mode: u32, append: bool) -> Result<Vec<u8>, FilesError> {
        let path = self.absolute(path);
        let stdin = std::mem::take(&mut self.stdin);
        let entry = match self.open(&path, 2) {
            Ok(Entry { node: Node::File(old), .. }) if append => {
                let bytes = [old.as_ref(), stdin.as_ref()].concat();
                Entry { node: Node::File(bytes.into()), ..self.open(&path, 2)?.clone() }
            }
            Ok(Entry { node: Node::Folder, .. }) => return Err(FilesError::IsAFolder(path)),
            Ok(old) => Entry { node: Node::File(stdin), ..old.clone() },
            Err(FilesError::NotFound(_)) => {
                let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
                self.open(if parent.is_empty() { "/" } else { parent }, 2)?;
                Entry::file(stdin, mode, self.uid, self.gid)
            }
            Err(error) => return Err(error),
        };
        let place = self.files.resolve(&path, true)?;
        self.files.put(&place, entry)?;
        Ok(Vec::new())
    }
}

/// A word of shell: single quotes, and backslashes outside them.
fn unquoted(word: &str) -> String {
    let (mut text, mut quoted, mut escaped) = (String::new(), false, false);
    for c in word.chars() {
        match c {
            c if escaped => {
                text.push(c);
                escaped = false;
            }
            '\'' => quoted = !quoted,
            '\\' if !quoted => escaped = true,
            c => text.push(c),
        }
    }
    text
}

/// The user that `name` (a name, a uid, or either with `:gid`) means in this machine. A number need
/// not be known to it.
pub(super) fn find_user(files: &Files, name: &str) -> Option<Identity> {
    let (name, group) = name.split_once(':').map_or((name, None), |(n, g)| (n, Some(g)));
    let mut identity = match find_named(files, name) {
        Some(identity) => identity,
        None => Identity { uid: name.parse().ok()?, gid: 0, home: "/".to_owned() },
    };
    if let Some(group) = group {
        identity.gid = group.parse().ok()?;
    }
    Some(identity)
}

/// The user of this name or uid in the machine's `/etc/passwd`.
pub(super) fn find_named(files: &Files, name: &str) -> Option<Identity> {
    let passwd = files.read("/etc/passwd").ok()?;
    String::from_utf8_lossy(&passwd).lines().find_map(|line| {
        let columns: Vec<&str> = line.split(':').collect();
        let [user, _, uid, gid, _, home, ..] = columns.as_slice() else { return None };
        let found = *user == name || *uid == name;
        let identity =
            Identity { uid: uid.parse().ok()?, gid: gid.parse().ok()?, home: (*home).to_owned() };
        found.then_some(identity)
    })
}
