//! Many ways to write the same bottle, and edits of each: what is meant is reached, and nothing else moves.

use super::*;

/// Ways to write a bottle, by name. The last has what is refused.
const FILES: [(&str, &str); 19] = [
    (
        "block with comments",
        "---\n# what it is\nimage: node:22-slim # pinned\negress:\n  # mirrors\n  allowlist:\n    - packages.example.org # why\n    # the next one\n    - registry.example.org:8443\n  dlp_action: block\n\n# limits\nresources:\n  memory: 1G # enough\nenv:\n  LANG: C.UTF-8\n---\nBody: stays.\n",
    ),
    (
        "flow on one line",
        "---\nimage: node:22-slim\negress: {allowlist: [a.example.org, b.example.org], dlp_action: warn}\nresources: {memory: 1G, cpus: 2}\nenv: {LANG: C}\ncred_proxy: {routes: [{path: /gh/, upstream: \"https://api.example.com/\", auth_scheme: Bearer, token_ref: GH_TOKEN}]}\n---\n",
    ),
    (
        "flow over lines, with a trailing comma",
        "---\negress:\n  allowlist: [\n    a.example.org, # one\n    b.example.org, # two\n  ]\nresources: {\n  memory: 1G,\n  cpus: 2,\n}\nenv: {\n  A: b\n}\n---\nx",
    ),
    (
        "flow over lines, without one",
        "---\negress:\n  allowlist: [\n    a.example.org, # one\n    b.example.org # two\n  ]\n---\n",
    ),
    (
        "empty with a comment",
        "---\negress:\n  allowlist: [] # nothing yet\nenv: {} # none\ncred_proxy: {routes: [ ]}\nresources: {}\n---\n",
    ),
    (
        "null sections",
        "---\negress: # later\n  # really\nresources:\nenv: ~\ncred_proxy: null # none\nimage: host\n---\n",
    ),
    ("sections missing", "---\nimage: node:22-slim\n---\nbody\n"),
    (
        "CRLF",
        "---\r\nimage: node:22-slim\r\negress:\r\n  allowlist:\r\n    - a.example.org\r\nresources:\r\n  memory: 1G\r\n---\r\nbody\r\n",
    ),
    (
        "quoted",
        "---\n\"egress\":\n  'allowlist': [\"a.example.org\", 'b.example.org']\nresources:\n  memory: \"1G\"\nenv:\n  LANG: 'C'\n---\n",
    ),
    (
        "items not indented",
        "---\negress:\n  allowlist:\n  - a.example.org\n  - b.example.org\nresources:\n  memory: 1G\n---\n",
    ),
    (
        "four spaces, with comments inside and after",
        "---\negress:\n    allowlist:\n        # first\n        - a.example.org\n        # last\n    # of egress\n# of all\nresources:\n    # inside\n    memory: 1G\n    # after\n---\n",
    ),
    (
        "items that are maps",
        "---\negress:\n  allowlist:\n    - host: a.example.org\n      methods:\n        - GET\n        - HEAD\n      paths: [/x/**]\n    - host: b.example.org\n      port: 8443\ncred_proxy:\n  routes:\n    - path: /gh/\n      upstream: https://api.example.com/\n      auth_scheme: Bearer\n      token_ref: GH_TOKEN\n---\n",
    ),
    ("empty front matter", "---\n---\nbody\n"),
    (
        "comments at the tail",
        "---\nimage: host\negress:\n  allowlist:\n    - a.example.org\n# one\n\n# two\n---\n",
    ),
    (
        "a byte order mark and blank lines",
        "\u{feff}---\n\nimage: host\n\negress:\n\n  allowlist:\n\n    - a.example.org\n\n---\n\nbody\n",
    ),
    (
        "blocks of text that look like YAML",
        "---\nenv:\n  TEXT: |\n    egress:\n      allowlist:\n        - evil.example.org\n  OTHER: >-\n    folded # no comment\n\nresources:\n  memory: 1G\n---\n",
    ),
    (
        "wide gaps behind dashes",
        "---\negress:\n  allowlist:\n    -   a.example.org\n    -   host:   b.example.org\n        port:   8443\nresources:  {  memory:   1G  }\n---\n",
    ),
    (
        "braces of maps over lines",
        "---\negress:\n  {\n    allowlist: [ a.example.org ],\n    dlp_action: block\n  }\nenv:\n  { A: b }\n---\n",
    ),
    (
        "anchors",
        "---\negress: &e\n  allowlist:\n    - a.example.org\nresources: &r {memory: 1G}\n---\n",
    ),
];

fn map(entries: &[(&str, Item)]) -> Item {
    Item::Map(entries.iter().map(|(key, item)| ((*key).to_owned(), item.clone())).collect())
}

fn edits() -> Vec<Edit> {
    let list = ["egress", "allowlist"];
    vec![
        Edit::append(&list, Item::text("index.example.org")),
        Edit::append(&list, Item::text("*.cdn.example.net:443")),
        Edit::append(
            &list,
            map(&[
                ("host", Item::text("index.example.org")),
                ("methods", Item::texts(["GET", "HEAD"])),
                ("paths", Item::texts(["/simple/**"])),
                ("expires", Item::text("2026-11-28T21:00:00Z")),
            ]),
        ),
        Edit::append(
            &["cred_proxy", "routes"],
            map(&[
                ("path", Item::text("/npm/")),
                ("upstream", Item::text("https://npm.example.org/")),
                ("auth_scheme", Item::text("Bearer")),
                ("token_ref", Item::text("NPM_TOKEN")),
            ]),
        ),
        Edit::set(&["resources", "memory"], Item::text("4G")),
        Edit::set(&["env", "NOTE"], Item::text("a: # \"b\" 'c', [d] {e}")),
    ]
}

/// The reverse of an edit that succeeded, where there is one.
fn backwards(before: &str, edit: &Edit) -> Edit {
    match edit {
        Edit::Append { path, value } => Edit::Remove { path: path.clone(), matches: value.clone() },
        Edit::Set { path, value } => {
            let keys: Vec<&str> = path.iter().map(String::as_str).collect();
            match look(before, &keys).unwrap() {
                Item::Null => Edit::Remove { path: path.clone(), matches: value.clone() },
                old => Edit::Set { path: path.clone(), value: old },
            }
        }
        Edit::Remove { .. } => unreachable!("not made here"),
    }
}

/// Each line of `before` that is in `after` too, in this order; what is left over of `before`.
fn lost<'t>(before: &'t str, after: &str) -> Vec<&'t str> {
    let mut rest = after.split_inclusive('\n');
    let mut lost = Vec::new();
    for line in before.split_inclusive('\n') {
        let mut trial = rest.clone();
        if trial.any(|other| other == line) {
            rest = trial;
        } else {
            lost.push(line);
        }
    }
    lost
}

#[test]
fn each_file_takes_each_edit_and_nothing_else_moves() {
    let (mut done, mut refused) = (0, 0);
    for (name, text) in FILES {
        for edit in edits() {
            let after = match super::edit(text, std::slice::from_ref(&edit)) {
                Ok(after) => after,
                Err(error) => {
                    assert_eq!(name, "anchors", "{name}: {edit:?}: {error}\n{text}");
                    assert!(matches!(error, EditError::Unreadable(_)));
                    refused += 1;
                    continue;
                }
            };
            done += 1;
            let crlf = text.matches("\r\n").count() == text.matches('\n').count();
            if crlf {
                assert_eq!(after.matches("\r\n").count(), after.matches('\n').count(), "{name}");
            } else {
                assert!(!after.contains('\r'), "{name}");
            }
            // At most the line that was asked for goes, and no comment does.
            let lost = lost(text, &after);
            assert!(lost.len() <= 1, "{name}: {edit:?}: {lost:?}\n{after}");
            let comments = |text: &str| text.matches('#').count();
            let more = usize::from(after.contains("a: # "));
            assert_eq!(comments(&after), comments(text) + more, "{name}: {edit:?}\n{after}");
            // Backwards it means what it did.
            let undone = super::edit(&after, &[backwards(text, &edit)]);
            let undone = undone.unwrap_or_else(|error| panic!("{name}: {error}\n{after}"));
            let meaning = |text: &str| pruned(look(text, &[]).unwrap());
            assert!(meaning(&undone).means(&meaning(text)), "{name}: {edit:?}\n{undone}");
        }
    }
    assert_eq!((done, refused), (18 * 6, 6));
}

/// Without what says nothing: an undone edit may leave an empty section.
fn pruned(item: Item) -> Item {
    match item {
        Item::Map(entries) => {
            let entries = entries.into_iter().map(|(key, item)| (key, pruned(item)));
            let entries: Vec<_> = entries.filter(|(_, item)| *item != Item::Null).collect();
            if entries.is_empty() { Item::Null } else { Item::Map(entries) }
        }
        Item::List(items) if items.is_empty() => Item::Null,
        other => other,
    }
}

#[test]
fn an_entry_looks_as_a_person_writes_it() {
    let after = edit(FILES[0].1, &edits()[2..3]).unwrap();
    let added = "    - registry.example.org:8443\n    - host: index.example.org\n      methods: [GET, HEAD]\n      paths: [/simple/**]\n      expires: 2026-11-28T21:00:00Z\n  dlp_action";
    assert!(after.contains(added), "{after}");
    let after = edit(FILES[1].1, &edits()[2..3]).unwrap();
    let added = "b.example.org, {host: index.example.org, methods: [GET, HEAD], paths: [/simple/**], expires: \"2026-11-28T21:00:00Z\"}], dlp";
    assert!(after.contains(added), "{after}");
    let after = edit(FILES[12].1, &edits()[..1]).unwrap();
    assert_eq!(after, "---\negress:\n  allowlist:\n    - index.example.org\n---\nbody\n");
    let after = edit(FILES[5].1, &edits()[..1]).unwrap();
    let added = "egress: # later\n  allowlist:\n    - index.example.org\n  # really\n";
    assert!(after.contains(added), "{after}");
    let after = edit(FILES[8].1, &edits()[4..5]).unwrap();
    assert!(after.contains("memory: \"4G\"\n"), "{after}");
}

#[test]
fn what_is_taken_out_is_exactly_what_was_put_in() {
    for (name, text) in &FILES[..18] {
        for edit in &edits()[..4] {
            let Edit::Append { path, value } = edit else { panic!("{edit:?}") };
            let after = super::edit(text, std::slice::from_ref(edit)).unwrap();
            let again = super::edit(&after, std::slice::from_ref(edit)).unwrap();
            let one = Edit::Remove { path: path.clone(), matches: value.clone() };
            let once = super::edit(&again, std::slice::from_ref(&one)).unwrap();
            assert_eq!(once, after, "{name}");
            let none = super::edit(&once, std::slice::from_ref(&one)).unwrap();
            let keys: Vec<&str> = path.iter().map(String::as_str).collect();
            if matches!(look(text, &keys).unwrap(), Item::List(items) if !items.is_empty()) {
                assert_eq!(none, *text, "{name}");
            }
            let gone = super::edit(&none, &[one]);
            assert!(matches!(gone, Err(EditError::NotFound(_))), "{name}: {gone:?}");
        }
    }
}

#[test]
fn what_cannot_be_edited_is_refused() {
    let list = ["egress", "allowlist"];
    for (text, edit) in [
        ("---\negress: no\n---\n", Edit::append(&list, Item::text("a"))),
        ("---\negress: [a]\n---\n", Edit::append(&list, Item::text("a"))),
        ("---\negress: {allowlist: a}\n---\n", Edit::append(&list, Item::text("a"))),
        ("---\negress: {allowlist: [a]}\n---\n", Edit::set(&list, Item::text("a"))),
        ("---\nenv: {A: b}\n---\n", Edit::set(&["env"], Item::text("a"))),
        ("---\nenv:\n  A: |\n    x\n---\n", Edit::set(&["env", "A"], Item::text("a"))),
        ("---\nenv:\n  A: x\n    y\n---\n", Edit::set(&["env", "A"], Item::text("a"))),
        ("---\negress: {allowlist: [a]}\n---\n", Edit::remove(&list, Item::text("b"))),
        ("---\nenv: {A: b, A: c}\n---\n", Edit::set(&["env", "B"], Item::text("a"))),
        ("---\na: 1\n", Edit::set(&["env", "B"], Item::text("a"))),
        ("no front matter", Edit::set(&["env", "B"], Item::text("a"))),
        ("---\n- a\n---\n", Edit::set(&["env", "B"], Item::text("a"))),
        ("---\na: 1\n---\n", Edit::set(&[], Item::text("a"))),
    ] {
        let done = super::edit(text, std::slice::from_ref(&edit));
        assert!(done.is_err(), "{text:?}: {edit:?}: {done:?}");
    }
}

/// What a crafted value would say if it were written as it came.
#[test]
fn a_value_stays_a_value() {
    let crafted = [
        "x\n    - evil.example.org",
        "x]\negress: {allowlist: [evil]}",
        "a # b",
        "a: b",
        "- a",
        "*.example.org",
        "&a",
        "!!str x",
        "---",
        "...",
        "yes",
        "null",
        "~",
        "1e5",
        "0x10",
        "",
        " a ",
        "a,b",
        "{a}",
        "\"",
        "'",
        "\\",
        "\t",
        "käse",
        "%a",
        "@a",
        "`a",
        "|",
        ">",
        "?",
        "<<",
        "=",
    ];
    for (name, text) in &FILES[..18] {
        for value in crafted {
            for edit in [
                Edit::append(&["egress", "allowlist"], Item::text(value)),
                Edit::set(&["env", "CRAFTED"], Item::text(value)),
                Edit::append(&["egress", "allowlist"], map(&[("host", Item::text(value))])),
                Edit::append(&["egress", "allowlist"], map(&[("paths", Item::texts([value]))])),
            ] {
                let before = look(text, &[]).unwrap();
                let Ok(after) = super::edit(text, std::slice::from_ref(&edit)) else {
                    // What no manifest may hold is not written at all.
                    assert!(value.chars().any(char::is_control), "{name}: {value:?}");
                    continue;
                };
                let after = look(&after, &[]).unwrap();
                let (Item::Map(before), Item::Map(after)) = (before, after) else { panic!() };
                for (key, item) in before {
                    if key != edit.path()[0] {
                        assert!(after.contains(&(key, item)), "{name}: {value:?}");
                    }
                }
            }
        }
    }
}

/// Random edits in a random order, each compared with what is meant: `edit` itself does so, and here it is seen
/// that it is not for want of doing anything that nothing goes wrong.
#[test]
fn random_edits_never_write_something_else() {
    let mut random = Random(0x5eed_0b07);
    let (mut done, mut refused) = (0_u32, Vec::new());
    for _ in 0..40 {
        for (name, text) in &FILES[..18] {
            let mut text = (*text).to_owned();
            let mut put = Vec::new();
            for _ in 0..6 {
                let edit = random.edit(&mut put);
                match super::edit(&text, std::slice::from_ref(&edit)) {
                    Ok(after) => {
                        let lf = after.matches('\n').count() - after.matches("\r\n").count();
                        assert!(lf == 0 || !after.contains('\r'), "{name}: {after:?}");
                        done += 1;
                        text = after;
                    }
                    Err(error) => refused.push((*name, edit, error, text.clone())),
                }
            }
        }
    }
    // A value that was replaced is not there to be taken out, and a block of text is not edited.
    let unsure = refused.iter().filter(|it| matches!(it.2, EditError::Unsure(_)));
    let unsure: Vec<_> = unsure.collect();
    assert!(unsure.is_empty(), "{} of {done}, first {:#?}", unsure.len(), unsure[0]);
    assert!(refused.len() < done as usize / 4, "{} of {done}", refused.len());
}

/// xorshift: the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }

    fn pick<'t, T>(&mut self, of: &'t [T]) -> &'t T {
        &of[self.below(of.len())]
    }

    fn text(&mut self) -> String {
        let words = ["a.example.org", "b: c", "# d", "4G", "7", "true", "'", "\"q\"", "x,y", "[z]"];
        self.pick(&words).to_string()
    }

    fn edit(&mut self, put: &mut Vec<Edit>) -> Edit {
        if !put.is_empty() && self.below(3) == 0 {
            let at = self.below(put.len());
            return put.swap_remove(at);
        }
        let made = match self.below(4) {
            0 => Edit::append(&["egress", "allowlist"], Item::text(self.text())),
            1 => {
                let (host, path) = (self.text(), self.text());
                let entry = [("host", Item::text(host)), ("paths", Item::texts([path]))];
                Edit::append(&["egress", "allowlist"], map(&entry))
            }
            2 => {
                let entry = [("path", Item::text(self.text())), ("role", Item::Bool(true))];
                Edit::append(&["cred_proxy", "routes"], map(&entry))
            }
            _ => {
                let name = *self.pick(&["A", "B", "LANG"]);
                Edit::set(&["env", name], Item::text(self.text()))
            }
        };
        if let Edit::Append { path, value } | Edit::Set { path, value } = &made {
            put.push(Edit::Remove { path: path.clone(), matches: value.clone() });
        }
        made
    }
}
