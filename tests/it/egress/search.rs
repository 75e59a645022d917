//! A search for a secret, in every usual spelling, wherever it could have gone.

use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::{Command, Stdio};

use aho_corasick::AhoCorasick;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};

use super::place::Place;

/// Prints the guest's files and their names. The host's programs are left out: what was written
/// there is in the state folder, or in what `docker export` says. Of devices some never end.
const FILES: &str = "all() { find $0 /dev/shm \\( -path /proc -o -path /sys -o -path /usr -o -path /opt \
                     -o -path /dev \\) -prune -o \"$@\" 2>/dev/null; }; \
                     all -print; all -type f -exec cat {} +; true";

/// Prints what `/proc` says of the guest and its processes, but for what never ends.
const PROCESSES: &str = "for folder in /proc/[0-9]*; do \
     for name in environ cmdline comm status stat maps mountinfo mounts limits cgroup auxv wchan \
     attr/current net/tcp net/unix net/route net/udp; do cat $folder/$name 2>/dev/null; done; \
     ls -l $folder/fd $folder/cwd $folder/exe 2>/dev/null; done; \
     for file in $(find /proc/[a-z]* -maxdepth 2 -type f ! -name kmsg ! -name kcore ! -name 'kpage*' \
     ! -name kallsyms ! -path '/proc/self/*' ! -path '/proc/thread-self/*' 2>/dev/null); do timeout 5 cat $file 2>/dev/null; done; true";

pub(super) struct Search {
    forms: Vec<(String, Vec<u8>)>,
    finder: AhoCorasick,
    longest: usize,
    found: Vec<String>,
    /// How many bytes were looked at.
    pub(super) seen: u64,
}

impl Search {
    /// For one value: raw, its halves, in hexadecimal, and in base64 at every offset.
    pub(super) fn of(secret: &str) -> Self {
        let (first, second) = secret.split_at(secret.len() / 2);
        let hex: String = secret.bytes().map(|byte| format!("{byte:02x}")).collect();
        let mut forms = vec![
            ("raw, its first half".to_owned(), first.as_bytes().to_vec()),
            ("raw, its second half".to_owned(), second.as_bytes().to_vec()),
            ("in hex".to_owned(), hex.to_uppercase().into_bytes()),
            ("in hex".to_owned(), hex.into_bytes()),
        ];
        for offset in 0..3 {
            let padded = [&[0; 3][..offset], secret.as_bytes()].concat();
            // The characters at both ends also depend on what stands beside it.
            let (from, to) = ([0, 2, 3][offset], padded.len() * 8 / 6);
            for text in [STANDARD_NO_PAD.encode(&padded), URL_SAFE_NO_PAD.encode(&padded)] {
                forms.push(("in base64".to_owned(), text.as_bytes()[from..to].to_vec()));
            }
        }
        Self::of_forms(forms)
    }

    /// For these bytes.
    pub(super) fn of_forms(forms: Vec<(String, Vec<u8>)>) -> Self {
        let finder = AhoCorasick::new(forms.iter().map(|(_, bytes)| bytes)).unwrap();
        let longest = forms.iter().map(|(_, bytes)| bytes.len()).max().unwrap_or_default();
        Self { forms, finder, longest, found: Vec::new(), seen: 0 }
    }

    /// Where it was found since the last call.
    pub(super) fn found(&mut self) -> Vec<String> {
        std::mem::take(&mut self.found)
    }

    pub(super) fn bytes(&mut self, what: &str, bytes: &[u8]) {
        self.stream(what, bytes);
    }

    pub(super) fn stream(&mut self, what: &str, mut stream: impl Read) {
        let mut window = Vec::new();
        let mut chunk = vec![0; 1 << 20];
        loop {
            let read = match stream.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(read) => read,
            };
            self.seen += read as u64;
            window.extend_from_slice(&chunk[..read]);
            for hit in self.finder.find_iter(&window) {
                let form = &self.forms[hit.pattern().as_usize()].0;
                let line = format!("{what}: {form}");
                if self.found.last() != Some(&line) {
                    self.found.push(line);
                }
            }
            window.drain(..window.len().saturating_sub(self.longest));
        }
    }

    /// What a program prints.
    pub(super) fn command(&mut self, what: &str, command: &mut Command) {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (stdout, stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let said = std::thread::spawn(move || {
            let mut all = Vec::new();
            std::io::BufReader::new(stderr).read_to_end(&mut all).unwrap();
            all
        });
        self.stream(what, stdout);
        let said = said.join().unwrap();
        self.bytes(what, &said);
        let status = child.wait().unwrap();
        let said = String::from_utf8_lossy(&said);
        assert!(status.success(), "{what}: {command:?}: {status} {said}");
    }

    /// A folder of the host's: names, links and contents.
    pub(super) fn folder(&mut self, folder: &Path) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let what = path.display().to_string();
            self.bytes("a name", what.as_bytes());
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                self.folder(&path);
            } else if kind.is_symlink() {
                let to = std::fs::read_link(&path).unwrap_or_default();
                self.bytes(&what, to.as_os_str().as_encoded_bytes());
            } else if kind.is_file()
                && let Ok(file) = File::open(&path)
            {
                self.stream(&what, file);
            }
        }
    }

    /// Arguments and environments of all processes of the host but this one, which knows what it
    /// looks for.
    pub(super) fn processes(&mut self) {
        let own = std::process::id().to_string();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == own || !name.bytes().all(|byte| byte.is_ascii_digit()) {
                continue;
            }
            for part in ["cmdline", "environ", "comm"] {
                if let Ok(file) = File::open(entry.path().join(part)) {
                    self.stream(&format!("{part} of process {name}"), file);
                }
            }
        }
    }

    /// A guest's files and processes, as its user sees them.
    pub(super) fn guest(&mut self, place: &Place, agent: &str) {
        let tree = place.tree.path().to_str().unwrap();
        // What a microVM says at once may be eleven megabytes, and it also shows its image's layers.
        let (parts, script) = if place.backend == "smolmachines" {
            let all = place.say(agent, "for one in /* /.[!.]*; do echo $one; done");
            let parts: Vec<String> = all.lines().map(str::to_owned).collect();
            let deeper = |script: String, name| {
                script.replace(&format!("-path /{name}"), &format!("-path '*/{name}'"))
            };
            (parts, ["proc", "sys", "usr", "dev"].into_iter().fold(FILES.to_owned(), deeper))
        } else {
            (vec!["/".to_owned()], FILES.to_owned())
        };
        let files = parts.iter().map(|part| ("files", script.as_str(), part.as_str()));
        for (what, script, part) in files.chain([("processes", PROCESSES, "sh")]) {
            let args = ["--tree", tree, "exec", agent, "--", "sh", "-c", script, part];
            self.command(&format!("{what} in {agent}"), &mut place.cli.command(args));
        }
    }
}
