//! `setup`: what it may be, and what it is to a machine.

use bottle::model::BackendKind;

use crate::manifest::{Scratch, id, said};

#[test]
fn lines_of_shell_and_lists_are_commands() {
    let scratch = Scratch::with_good_agent();
    let bottle = "---\nimage: alpine\nsetup:\n  - npm i -g tool\n  - [pip, install, 'a b']\n  - |\n    one\n    two\n---\n";
    scratch.write("tree/bottles/dev.md", bottle);
    let desired = scratch.load();
    assert_eq!(said(&desired), Vec::<String>::new());
    let spec = &desired.sandboxes[&id("good")];
    let commands: Vec<_> =
        spec.setup.commands.iter().map(|command| (command.line, command.argv.join("|"))).collect();
    assert_eq!(
        commands,
        [
            (4, "sh|-c|npm i -g tool".to_owned()),
            (5, "pip|install|a b".to_owned()),
            (7, "sh|-c|one\ntwo\n".to_owned()),
        ]
    );
    assert_eq!(spec.setup.file, "bottles/dev.md");
    // It is a part of the machine, and none of the guest.
    let machine = |kind| spec.machine(kind).expect("a machine");
    let mut without = spec.clone();
    without.setup = Default::default();
    for kind in [BackendKind::Docker, BackendKind::Smolmachines] {
        assert_ne!(machine(kind).hash(), without.machine(kind).expect("a machine").hash());
        assert_eq!(spec.guest(kind).hash(), without.guest(kind).hash());
        assert_eq!(machine(kind).fields().0["setup.02"], "pip install 'a b'");
    }
}

#[test]
fn what_is_no_command_says_so() {
    let scratch = Scratch::with_good_agent();
    let long = "x".repeat(5000);
    let many = "a, ".repeat(65);
    for (setup, words) in [
        ("npm i", "expected a list"),
        ("[1]", "expected a line of shell, or a list"),
        ("[{run: x}]", "expected a line of shell, or a list"),
        ("[[]]", "this command is empty"),
        ("[\" \"]", "this command is empty"),
        ("[['']]", "the program's name is empty"),
        (&format!("[{long}]"), "longer than 4096 bytes"),
        (&format!("[{many}]"), "takes 64"),
    ] {
        scratch.write("tree/bottles/dev.md", format!("---\nimage: alpine\nsetup: {setup}\n---\n"));
        let said = said(&scratch.load()).join("\n");
        assert!(said.contains(words), "{setup}: {said}");
    }
}
