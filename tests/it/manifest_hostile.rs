//! Hostile manifests, generated: each is a clear error with a place, or correct; never a panic, a
//! hang, an absence, or harm to the good sandbox beside it.

use std::fs;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use bottle::manifest::diagnostic::{Drawing, render_all};
use bottle::manifest::{LoadOptions, load, schema};
use bottle::model::{AgentsFolder, Desired, Severity};
use serde_json::{Value, json};

use crate::manifest::{Scratch, id, said};

/// Loads, or fails loudly where a hang would leave the test run waiting.
fn load_in_time(what: &str, options: &LoadOptions) -> Desired {
    let (send, receive) = mpsc::channel();
    let options = options.clone();
    std::thread::spawn(move || {
        // Nobody listens any more once the time is over.
        let _ = send.send(load(&options));
    });
    let loaded = receive.recv_timeout(Duration::from_secs(20));
    let loaded = loaded.unwrap_or_else(|error| panic!("{what}: {error}"));
    loaded.unwrap_or_else(|error| panic!("{what}: {error}"))
}

/// What must hold of any tree with the good agent and one that may be anything.
fn check(what: &str, desired: &Desired, hostile: &str) {
    assert_eq!(desired.agents, AgentsFolder::Present, "{what}");
    assert!(desired.sandboxes.contains_key(&id("good")), "{what}: {:?}", said(desired));
    let held = desired.held.get(&id(hostile));
    let declared = desired.sandboxes.contains_key(&id(hostile));
    assert!(held.is_some() != declared, "{what}: it is absent, or both held and declared");
    for found in desired.diagnostics.iter().filter(|d| d.severity == Severity::Error) {
        assert!(!found.message.is_empty() && found.message.len() < 400, "{what}: {found:?}");
        let whole = found.message.starts_with("this file cannot be read")
            || found.message.ends_with("are not shown");
        assert!(
            whole || (found.line > 0 && found.column > 0 && found.width > 0),
            "{what}: {found:?}"
        );
    }
    if let Some(held) = held {
        assert!(!held.is_empty(), "{what}: it is held and nobody says why");
        assert!(held.iter().all(|found| found.severity == Severity::Error), "{what}");
    }
    let drawn = render_all(&desired.diagnostics, Drawing::default());
    let bad = drawn.chars().find(|c| c.is_control() && *c != '\n');
    assert_eq!(bad, None, "{what}: {drawn:?}");
}

/// Whole files, and whether an agent may be made of them.
fn texts() -> Vec<(&'static str, Vec<u8>, Option<bool>)> {
    let agent = "---\nbottle: dev\n---\nbody\n";
    let yaml = |text: &str| format!("---\nbottle: dev\n{text}\n---\nbody\n").into_bytes();
    let (held, fine) = (Some(false), Some(true));
    vec![
        ("an empty file", Vec::new(), held),
        ("blanks", b" \n\t\n".to_vec(), held),
        ("no front matter", b"body\n".to_vec(), held),
        ("no closing line", b"---\nbottle: dev\n".to_vec(), held),
        ("only an opening line", b"---".to_vec(), held),
        ("empty front matter", b"---\n---\n".to_vec(), held),
        ("a blank line first", format!("\n{agent}").into_bytes(), held),
        ("line feeds of Windows", agent.replace('\n', "\r\n").into_bytes(), fine),
        ("line feeds of an old Mac", agent.replace('\n', "\r").into_bytes(), held),
        ("a byte-order mark", format!("\u{feff}{agent}").into_bytes(), fine),
        ("two byte-order marks", format!("\u{feff}\u{feff}{agent}").into_bytes(), held),
        (
            "UTF-16, little",
            [b"\xff\xfe".to_vec(), agent.encode_utf16().flat_map(u16::to_le_bytes).collect()]
                .concat(),
            held,
        ),
        (
            "UTF-16, big",
            [b"\xfe\xff".to_vec(), agent.encode_utf16().flat_map(u16::to_be_bytes).collect()]
                .concat(),
            held,
        ),
        ("Latin-1 in the body", b"---\nbottle: dev\n---\nk\xe4se\n".to_vec(), held),
        ("Latin-1 in a value", b"---\nbottle: d\xe4v\n---\n".to_vec(), held),
        ("an overlong encoding", b"---\nbottle: dev\nname: \xc0\xaf\n---\n".to_vec(), held),
        ("a surrogate", b"---\nbottle: dev\nname: \xed\xa0\x80\n---\n".to_vec(), held),
        ("a NUL in a value", yaml("name: a\0b"), held),
        ("a NUL in a key", yaml("na\0me: a"), held),
        ("a NUL in the body", b"---\nbottle: dev\n---\na\0b".to_vec(), held),
        ("an escaped NUL", yaml("run: [\"a\\0b\"]"), held),
        ("an escape sequence", yaml("name: \u{1b}[2J"), held),
        ("an escape sequence in the body", b"---\nbottle: dev\n---\n\x1b[2J".to_vec(), fine),
        ("a bidirectional override", yaml("name: \u{202e}x"), held),
        ("a zero-width space in a key", yaml("run\u{200b}: [x]"), held),
        ("all control bytes", yaml(&(1u8..32).map(char::from).collect::<String>()), held),
        ("a duplicate key", yaml("bottle: dev"), held),
        ("a duplicate key, quoted", yaml("\"bottle\": dev"), held),
        ("an anchor", yaml("name: &a x"), held),
        ("an alias", yaml("name: *a"), held),
        ("an anchor and an alias", yaml("name: &a x\nmodel: *a"), held),
        ("a merge", yaml("name: &a {run: [x]}\n<<: *a"), held),
        ("a merge without an alias", yaml("<<: {run: [x]}"), held),
        ("a billion laughs", yaml(&laughs()), held),
        ("a tag", yaml("name: !!binary aGk="), held),
        ("a tag of our own", yaml("name: !include /etc/passwd"), held),
        ("a directive", b"---\n%YAML 1.2\nbottle: dev\n---\n".to_vec(), held),
        ("a second document", b"---\nbottle: dev\n...\nbottle: dev\n---\n".to_vec(), held),
        ("a list", b"---\n- bottle\n---\n".to_vec(), held),
        ("a word", b"---\nbottle\n---\n".to_vec(), held),
        ("a number", b"---\n5\n---\n".to_vec(), held),
        ("a key that is a list", yaml("? [a, b]\n: c"), held),
        ("a key that is a map", yaml("{a: b}: c"), held),
        ("a key that is null", yaml("~: c"), held),
        ("an empty key", yaml(": c"), held),
        ("a tab for indentation", yaml("run:\n\t- x"), held),
        ("an open quote", yaml("name: \"x"), held),
        ("an open bracket", yaml("run: [x"), held),
        ("a closed bracket", yaml("run: x]"), held),
        ("crossed brackets", yaml("run: [x}"), held),
        ("a colon too many", yaml("name: a: b"), held),
        ("a bad escape", yaml("name: \"\\q\""), held),
        ("a bad indentation", yaml("run:\n    - x\n  - y"), held),
        ("a reserved character", yaml("name: @x"), held),
        ("a hundred thousand brackets", yaml(&format!("name: {}", "[".repeat(100_000))), held),
        (
            "a hundred thousand brackets, closed",
            yaml(&format!("name: {}{}", "[".repeat(100_000), "]".repeat(100_000))),
            held,
        ),
        ("fifty thousand braces", yaml(&format!("name: {}", "{a: ".repeat(50_000))), held),
        ("a hundred thousand dashes", yaml(&format!("name:\n  {}", "- ".repeat(100_000))), held),
        ("a hundred thousand question marks", yaml(&"? ".repeat(100_000)), held),
        (
            "deep indentation",
            yaml(&(0..2000).map(|n| format!("{}a:\n", " ".repeat(n % 500))).collect::<String>()),
            held,
        ),
        ("seventeen levels", yaml(&format!("name: {}{}", "[".repeat(17), "]".repeat(17))), held),
        ("ten levels", yaml(&format!("name: {}{}", "[".repeat(10), "]".repeat(10))), fine),
        ("many values", yaml(&format!("name: [{}]", "1,".repeat(100_000))), held),
        (
            "many unknown keys",
            yaml(&(0..15_000).map(|n| format!("k{n}: 1\n")).collect::<String>()),
            held,
        ),
        ("many duplicate keys", yaml(&"x: 1\n".repeat(9_000)), held),
        ("a very long key", yaml(&format!("{}: 1", "k".repeat(900_000))), held),
        (
            "a very long unknown bottle",
            format!("---\nbottle: {}\n---\n", "b".repeat(900_000)).into_bytes(),
            held,
        ),
        ("a very long scalar", yaml(&format!("name: {}", "x".repeat(900_000))), fine),
        ("a very long body", [agent.as_bytes(), &vec![b'x'; 900_000]].concat(), fine),
        ("ten megabytes of body", [agent.as_bytes(), &vec![b'x'; 10 << 20]].concat(), held),
        ("ten megabytes of NUL", vec![0; 10 << 20], held),
        ("ten megabytes of dashes", b"---\n".repeat(5 << 19), held),
        ("many comments", yaml(&"# x\n".repeat(100_000)), fine),
        ("many blank lines", yaml(&"\n".repeat(500_000)), fine),
        ("a block scalar", yaml("name: |\n  ---\n  x"), fine),
        ("another bottle's path", b"---\nbottle: ../bottles/dev\n---\n".to_vec(), held),
        ("a bottle with a suffix", b"---\nbottle: dev.md\n---\n".to_vec(), held),
        ("an absolute bottle", b"---\nbottle: /etc/passwd\n---\n".to_vec(), held),
        ("an escape in the bottle's name", b"---\nbottle: \"\\e[31mdev\"\n---\n".to_vec(), held),
    ]
}

fn laughs() -> String {
    let mut text = String::from("a: &a [lol, lol]\n");
    for pair in ('a'..'k').zip('b'..'l') {
        text += &format!("{1}: &{1} [*{0}, *{0}, *{0}, *{0}]\n", pair.0, pair.1);
    }
    text
}

#[test]
fn hostile_files() {
    let scratch = Scratch::with_good_agent();
    let texts = texts();
    let count = texts.len();
    for (what, bytes, fine) in texts {
        scratch.write("tree/agents/hostile.md", &bytes);
        let desired = load_in_time(what, &scratch.options());
        check(what, &desired, "hostile");
        if let Some(fine) = fine {
            let declared = desired.sandboxes.contains_key(&id("hostile"));
            assert_eq!(declared, fine, "{what}: {:?}", said(&desired));
        }
        // The same bytes as a bottle: whoever names it is held with it, or fine with it.
        fs::remove_file(scratch.path("tree/agents/hostile.md")).expect("it was there");
        scratch.write("tree/bottles/hostile.md", &bytes);
        scratch.write("tree/agents/user.md", "---\nbottle: hostile\n---\n");
        check(what, &load_in_time(what, &scratch.options()), "user");
        fs::remove_file(scratch.path("tree/bottles/hostile.md")).expect("it was there");
        fs::remove_file(scratch.path("tree/agents/user.md")).expect("it was there");
    }
    assert!(count > 75, "{count}");
}

/// Every place in a schema where a value stands, wrapped in what leads there.
fn places(schema: &Value, wrap: &dyn Fn(Value) -> Value, found: &mut Vec<Value>) {
    let samples = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1e300),
        json!("\u{7}"),
        json!(""),
        json!("../../x"),
        json!("x".repeat(5000)),
        json!([]),
        json!([[]]),
        json!([null]),
        json!({}),
        json!({"": ""}),
    ];
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let wrap_key = |value: Value| wrap(json!({ key.as_str(): value }));
        found.extend(samples.iter().cloned().map(wrap_key));
        places(property, &wrap_key, found);
    }
    if schema["items"].is_object() {
        places(&schema["items"], &|value| wrap(json!([value])), found);
    }
    for any in schema["anyOf"].as_array().into_iter().flatten() {
        places(any, wrap, found);
    }
}

#[test]
fn wrong_values_at_every_key() {
    let scratch = Scratch::with_good_agent();
    let mut agents = Vec::new();
    places(&schema::agent(), &|value| value, &mut agents);
    let mut bottles = Vec::new();
    places(&schema::bottle(), &|value| value, &mut bottles);
    assert!(agents.len() > 100 && bottles.len() > 400, "{} {}", agents.len(), bottles.len());
    for value in agents {
        let mut value = value;
        if value.get("bottle").is_none() {
            value["bottle"] = json!("dev");
        }
        let text = format!("---\n{value}\n---\n");
        scratch.write("tree/agents/hostile.md", &text);
        check(&text, &load_in_time(&text, &scratch.options()), "hostile");
    }
    scratch.write("tree/agents/hostile.md", "---\nbottle: hostile\n---\n");
    for value in bottles {
        let text = format!("---\n{value}\n---\n");
        scratch.write("tree/bottles/hostile.md", &text);
        check(&text, &load_in_time(&text, &scratch.options()), "hostile");
    }
}

/// One byte of a right file, put otherwise, at every place.
#[test]
fn one_wrong_byte_anywhere() {
    let scratch = Scratch::with_good_agent();
    let right = b"---\nbottle: dev\nrun: [a, \"b\"]\nsuspend: false\n---\nbody\n";
    for at in 0..right.len() {
        for byte in [0, b'\t', b'\n', b'"', b'*', b'&', b'{', b']', b':', 0x80, 0xff] {
            let mut bytes = right.to_vec();
            bytes[at] = byte;
            scratch.write("tree/agents/hostile.md", &bytes);
            let what = format!("byte {at} is {byte}");
            check(&what, &load_in_time(&what, &scratch.options()), "hostile");
        }
        scratch.write("tree/agents/hostile.md", &right[..at]);
        let what = format!("cut at {at}");
        check(&what, &load_in_time(&what, &scratch.options()), "hostile");
    }
}

/// Makes something that is no file under a name.
type Make = fn(&Scratch, &std::path::Path);

#[test]
fn what_is_no_file_is_held() {
    let kinds: [(&str, Make); 11] = [
        ("a folder", |_, path| fs::create_dir(path).expect("a folder")),
        ("a FIFO", |_, path| {
            assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
        }),
        ("a socket", |_, path| drop(UnixListener::bind(path).expect("a socket"))),
        ("a link to nowhere", |_, path| symlink("nowhere", path).expect("a link")),
        ("a link to itself", |_, path| symlink(path, path).expect("a link")),
        ("a loop of links", |scratch, path| {
            symlink(path, scratch.path("loop")).expect("a link");
            symlink(scratch.path("loop"), path).expect("a link");
        }),
        ("a link to a folder", |_, path| symlink("..", path).expect("a link")),
        ("a device", |_, path| symlink("/dev/zero", path).expect("a link")),
        ("a terminal", |_, path| symlink("/dev/tty", path).expect("a link")),
        ("a file of the kernel that blocks", |_, path| {
            symlink("/proc/kmsg", path).expect("a link")
        }),
        ("a link through a file", |scratch, path| {
            symlink(scratch.path("tree/agents/good.md").join("x"), path).expect("a link");
        }),
    ];
    for (what, make) in kinds {
        let scratch = Scratch::with_good_agent();
        make(&scratch, &scratch.path("tree/agents/hostile.md"));
        let desired = load_in_time(what, &scratch.options());
        check(what, &desired, "hostile");
        assert!(desired.held.contains_key(&id("hostile")), "{what}");
        let scratch = Scratch::with_good_agent();
        make(&scratch, &scratch.path("tree/bottles/hostile.md"));
        scratch.write("tree/agents/user.md", "---\nbottle: hostile\n---\n");
        let desired = load_in_time(what, &scratch.options());
        check(what, &desired, "user");
        assert!(desired.held.contains_key(&id("user")), "{what}");
    }
}

/// A file that is replaced all the time while the tree is read is held or declared, never gone.
#[test]
fn a_file_that_is_being_saved_is_never_absent() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let scratch = Scratch::with_good_agent();
    let agent = scratch.write("tree/agents/hostile.md", "---\nbottle: dev\n---\n");
    let aside = scratch.path("aside");
    let stop = AtomicBool::new(false);
    let options = scratch.options();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                fs::write(&agent, "---\nbottle: dev\n---\nbody").expect("a file");
                fs::write(&aside, "---\nbottle: dev\n---\n").expect("a file");
                fs::rename(&aside, &agent).expect("a file");
            }
        });
        for _ in 0..300 {
            check("being saved", &load(&options).expect("the tree can be read"), "hostile");
        }
        stop.store(true, Ordering::Relaxed);
    });
}
