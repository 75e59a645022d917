//! Sessions in the documentation, run as they are written.
//!
//! The `console` blocks of a page are one session of a shell, in the order of the page. What a block shows after a
//! command has to be what the command prints. Numbers that differ from run to run (times, ids, commits) count as
//! equal, and a line `…` stands for any lines.
//!
//! The session starts in `~/bottle`, a checkout as far as documentation needs one, as a user who has a repository
//! `~/code/site` and a `claude` on `PATH`, which here is a program of a few lines: it needs no vendor. Manifests that the
//! page shows under a path (`markdown agents/ada.md`) are written into `~/agents` when the page comes to them.

use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::manifests::is_manifest;
use super::markdown::{Fence, Page, pages, root};

/// Longer than any command of a page takes.
const DEADLINE: Duration = Duration::from_secs(120);

/// Stands for an agent: it commits a file where it is given a task, and else says how it was called.
const AGENT: &str = r#"#!/bin/sh
case " $* " in
*" -p "*)
    printf 'The site is under the MIT license.\n' >LICENSE
    git add LICENSE && git commit --quiet --message 'Add a license'
    echo 'I added LICENSE and committed it.'
    ;;
*) echo "claude $*" ;;
esac
"#;

/// What a person has before a page begins.
const SETUP: &str = r#"
set -e
git config --global user.name 'A. Person'
git config --global user.email person@example.com
git config --global init.defaultBranch main
git init --quiet ~/code/site && cd ~/code/site
echo '# Site' >README.md && echo '<h1>Hello</h1>' >index.html
git add . && git commit --quiet --message 'A site'
cd ~/bottle && git init --quiet && echo target >.gitignore
git add . && git commit --quiet --message 'A checkout'
"#;

/// A home folder of the session's own.
struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        let home = Self(tempfile::tempdir().expect("a temporary folder can be made"));
        for folder in ["code/site", "bottle/target/release", ".local/bin"] {
            std::fs::create_dir_all(home.join(folder)).expect("a folder");
        }
        copy(&root().join("examples"), &home.join("bottle/examples"));
        let program = crate::native::program();
        for path in ["bottle/target/release/bottle", ".local/bin/bottle"] {
            symlink(&program, home.join(path)).expect("a link");
        }
        let agent = home.join(".local/bin/claude");
        std::fs::write(&agent, AGENT).expect("a file");
        std::fs::set_permissions(&agent, std::fs::Permissions::from_mode(0o755)).expect("a mode");
        let made = home.command("bash").args(["-c", SETUP]).status().expect("bash");
        assert!(made.success(), "setting the home folder up: {made}");
        home
    }

    fn join(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    /// A program in this home, with nothing of the caller's environment but where programs are.
    fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.0.path()).env("NO_COLOR", "1").env("LC_ALL", "C");
        command.env("PATH", format!("{}:{path}", self.join(".local/bin").display()));
        command.current_dir(self.join("bottle")).stdin(Stdio::null());
        command
    }

    /// Writes a manifest that a page shows.
    fn write(&self, path: &str, fence: &Fence) {
        let path = self.join("agents").join(path);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, super::manifests::file_of(fence)).expect("a manifest");
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        for tree in ["agents", "bottle/examples/quickstart"] {
            let tree = self.join(tree);
            let mut down = self.command("bottle");
            down.args(["down", "--yes", "--allow-teardown", "all", "--discard", "all", "--tree"]);
            // A tree that the page never made has nothing to take away.
            drop(down.arg(tree).output());
        }
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder of examples") {
        let (from, to) = {
            let entry = entry.expect("a folder of examples");
            (entry.path(), to.join(entry.file_name()))
        };
        if from.is_dir() {
            copy(&from, &to);
        } else {
            std::fs::copy(&from, &to).expect("a file");
        }
    }
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o755)).expect("a mode");
}

/// A shell that a page's session runs in.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    out: Arc<Mutex<String>>,
    err: Arc<Mutex<String>>,
    count: usize,
    /// Something runs beside the commands, and prints when it pleases.
    beside: bool,
}

/// What `cargo run` is here: the program under test.
const PRELUDE: &str = r#"
set -m
cargo() { if [ "$1 $2 $3" = 'run --release --' ]; then shift 3; bottle "$@"; else command cargo "$@"; fi; }
"#;

impl Shell {
    fn new(home: &Home) -> Self {
        let mut command = home.command("bash");
        command.args(["--noprofile", "--norc"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("bash");
        let stdin = child.stdin.take().expect("a pipe");
        let out = collect(child.stdout.take().expect("a pipe"));
        let err = collect(child.stderr.take().expect("a pipe"));
        let mut shell = Self { child, stdin, out, err, count: 0, beside: false };
        shell.write(PRELUDE);
        shell
    }

    fn write(&mut self, text: &str) {
        self.stdin.write_all(text.as_bytes()).expect("the shell reads");
    }

    /// Runs one command. What it printed is compared with what is shown, where anything is.
    fn run(&mut self, home: &Path, command: &str, shown: &[&str]) -> Result<(), String> {
        self.count += 1;
        self.beside |= command.trim_end().ends_with('&');
        let mark = format!("\u{1}{}:", self.count);
        let from = (read(&self.out).len(), read(&self.err).len());
        self.write(&format!(
            "{{ {command}\n}} </dev/null\nprintf '{mark}%s\\n' $?; printf '{mark}\\n' >&2\n"
        ));
        let begun = Instant::now();
        loop {
            let (out, err) =
                (read(&self.out)[from.0..].to_owned(), read(&self.err)[from.1..].to_owned());
            let ended = out.split_once(&mark).filter(|_| err.contains(&mark));
            let verdict = match ended {
                None => Err("it has not ended".to_owned()),
                Some((before, after)) => {
                    let code = after.lines().next().unwrap_or_default();
                    let out =
                        format!("{before}{}", after.split_once('\n').map_or("", |(_, rest)| rest));
                    judge(home, command, code, &out, &err.replace(&mark, ""), shown)
                }
            };
            let waits = ended.is_none() || self.beside;
            match verdict {
                Err(_) if waits && begun.elapsed() < DEADLINE => {
                    std::thread::sleep(Duration::from_millis(20));
                }
                verdict => return verdict,
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.stdin.write_all(b"kill $(jobs -p) 2>/dev/null; exit\n");
        let begun = Instant::now();
        while self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            if begun.elapsed() > Duration::from_secs(10) {
                drop(self.child.kill());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn read(text: &Mutex<String>) -> std::sync::MutexGuard<'_, String> {
    text.lock().unwrap_or_else(PoisonError::into_inner)
}

fn collect(mut from: impl Read + Send + 'static) -> Arc<Mutex<String>> {
    let text: Arc<Mutex<String>> = Arc::default();
    let into = text.clone();
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            bytes.extend_from_slice(&buffer[..count]);
            // A character may come in two parts.
            let whole = match std::str::from_utf8(&bytes) {
                Ok(all) => all.len(),
                Err(error) => error.valid_up_to(),
            };
            let text = String::from_utf8_lossy(&bytes[..whole]).into_owned();
            read(&into).push_str(&text);
            bytes.drain(..whole);
        }
    });
    text
}

/// Commands that say something by another code than 0.
const SPEAKING: [&str; 4] = ["bottle plan", "bottle check", "bottle policy check", "bottle diff"];

fn judge(
    home: &Path,
    command: &str,
    code: &str,
    out: &str,
    err: &str,
    shown: &[&str],
) -> Result<(), String> {
    let speaks = SPEAKING.iter().any(|words| command.starts_with(words));
    if code != "0" && !(speaks && matches!(code, "1" | "2" | "3")) {
        return Err(format!("it exits with {code}\n{out}{err}"));
    }
    // What is done is said on stderr while it is done; on a terminal it goes again.
    let kept = |line: &&str| !line.contains(": done in ") && !line.trim().is_empty();
    let lines = |text: &str| -> Vec<String> {
        text.lines().filter(kept).map(|line| masked(home, line)).collect()
    };
    let shown = lines(&shown.join("\n"));
    if shown.is_empty() {
        return Ok(());
    }
    let (out, both) = (lines(out), lines(&format!("{out}\n{err}")));
    if alike(&shown, &out) || alike(&shown, &both) {
        return Ok(());
    }
    Err(format!("it is shown to print\n{}\nand prints\n{}", shown.join("\n"), both.join("\n")))
}

/// Whether these lines are those; `…` stands for any.
fn alike(shown: &[String], is: &[String]) -> bool {
    match shown {
        [] => is.is_empty(),
        [any] if any == "…" => true,
        [any, rest @ ..] if any == "…" => (0..=is.len()).any(|skip| alike(rest, &is[skip..])),
        [first, rest @ ..] => is.first() == Some(first) && alike(rest, &is[1..]),
    }
}

const NAMES: [&str; 19] = [
    "Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun", "Jan", "Feb", "Mar", "Apr", "May", "Jun",
    "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// A line without what differs from run to run, and without how it is spaced.
fn masked(home: &Path, line: &str) -> String {
    let line = line.replace(&home.display().to_string(), "/home/me");
    let words: Vec<&str> = line.split_whitespace().collect();
    let is_clock = |word: &&str| word.bytes().filter(|b| *b == b':').count() == 2;
    let dated = words.iter().any(is_clock);
    let words = words.iter().map(|word| {
        // Word characters that belong together: `main@7238460`, `ada/20261201T022453Z`, `0.17`.
        let mut masked = String::new();
        for part in word.split_inclusive(|c: char| !(c.is_ascii_alphanumeric() || c == '.')) {
            let end = part.trim_end_matches(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
            masked.push_str(if varies(end, dated) { "#" } else { end });
            masked.push_str(&part[end.len()..]);
        }
        masked
    });
    words.collect::<Vec<_>>().join(" ")
}

fn varies(part: &str, dated: bool) -> bool {
    let digits = part.bytes().filter(u8::is_ascii_digit).count();
    let hex = |text: &str| text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let id = part.len() >= 7 && (hex(part) || hex(part.trim_start_matches('t')));
    let time = part.len() >= 15 && part.contains('T') && part.ends_with('Z');
    let number = part.contains('.') && part.parse::<f64>().is_ok();
    let age = part.len() <= 4
        && part.ends_with(['s', 'm'])
        && part[..part.len() - 1].bytes().all(|b| b.is_ascii_digit())
        && digits > 0;
    let date = dated && (digits == part.len() && digits > 0 || NAMES.contains(&part));
    id || time || number || age || date
}

/// The commands of a block, each with the lines that follow it. A line that begins with `> ` goes on with a command.
fn commands(fence: &Fence) -> Vec<(String, Vec<&str>)> {
    let mut commands: Vec<(String, Vec<&str>)> = Vec::new();
    for line in fence.content.lines() {
        match (line.strip_prefix("$ "), commands.last_mut()) {
            (Some(command), _) => commands.push((command.to_owned(), Vec::new())),
            (None, Some((command, shown))) => match line.strip_prefix("> ") {
                Some(more) if shown.is_empty() => *command = format!("{command}\n{more}"),
                _ => shown.push(line),
            },
            (None, None) => panic!("a console block begins with `$ `: {line}"),
        }
    }
    commands
}

/// What is wrong with a page's session.
fn played(page: &Page) -> Vec<String> {
    let home = Home::new();
    let mut shell = Shell::new(&home);
    let mut wrong = Vec::new();
    for fence in page.fences() {
        let words: Vec<&str> = fence.info.split_whitespace().collect();
        if let ["yaml" | "markdown", path] = words[..]
            && is_manifest(path)
        {
            home.write(path, &fence);
        }
        if words != ["console"] {
            continue;
        }
        for (command, shown) in commands(&fence) {
            if let Err(why) = shell.run(home.0.path(), &command, &shown) {
                wrong.push(format!("{}:{}: `{command}`: {why}", page.path.display(), fence.line));
                // What follows stands on it.
                return wrong;
            }
        }
    }
    wrong
}

#[test]
fn every_session_that_is_shown_goes_as_it_is_shown() {
    let with_sessions = |page: &Page| page.fences().iter().any(|fence| fence.info == "console");
    let pages: Vec<Page> = pages().into_iter().filter(with_sessions).collect();
    let wrong: Vec<String> = std::thread::scope(|scope| {
        let played: Vec<_> = pages.iter().map(|page| scope.spawn(move || played(page))).collect();
        played.into_iter().flat_map(|page| page.join().expect("a page is played")).collect()
    });
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    for path in ["README.md", "docs/tutorial.md"] {
        assert!(pages.iter().any(|page| page.path == Path::new(path)), "{path} shows no session");
    }
}

#[test]
fn what_differs_from_run_to_run_is_equal_and_nothing_else() {
    let same = |one: &str, other: &str| {
        masked(Path::new("/tmp/x"), one) == masked(Path::new("/tmp/x"), other)
    };
    for (one, other) in [
        ("  ✓ ada   created    0.54 s", "✓ ada created 1.2 s"),
        ("tree tae88ae67dd98 · main@7238460 · 2", "tree t0011223344ff · main@abcdefa · 2"),
        ("Fri Nov 20 06:21:54 UTC 2026", "Tue Dec 1 02:24:26 UTC 2031"),
        ("ada/20261201T022453Z    1s", "ada/20261202T030000Z 15s"),
        ("in /tmp/x/code/site; its", "in /home/me/code/site; its"),
    ] {
        assert!(same(one, other), "{one} / {other}");
    }
    for (one, other) in [
        ("plan: 1 create", "plan: 2 create"),
        ("ada created", "bob created"),
        ("main@7238460 with", "dev@7238460 with"),
    ] {
        assert!(!same(one, other), "{one} / {other}");
    }
    let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>();
    assert!(
        alike(&lines("a\n…\nd"), &lines("a\nb\nc\nd")) && !alike(&lines("a\n…\ne"), &lines("a\nd"))
    );
}
