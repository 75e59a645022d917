//! `was` of an agent, among the files of a tree.

use crate::manifest::{Scratch, id, said};

/// A tree of these agents, by name and what stands beside `bottle: dev`: what is said of it, and what agents
/// were called.
fn read(agents: &[(&str, &str)]) -> (Vec<String>, Vec<String>, Vec<String>) {
    let scratch = Scratch::with_good_agent();
    for (name, more) in agents {
        scratch
            .write(&format!("tree/agents/{name}.md"), format!("---\nbottle: dev\n{more}\n---\n"));
    }
    let desired = scratch.load();
    let was = desired.was.iter().map(|(id, was)| format!("{id} was {}", was.name)).collect();
    let unread = desired.unread.keys().map(ToString::to_string).collect();
    (said(&desired), was, unread)
}

#[test]
fn it_is_what_an_agent_was_called() {
    let (said, was, unread) = read(&[("ada", "was: old"), ("bob", "was: 'older' # once")]);
    assert_eq!((said.len(), unread.len()), (0, 0), "{said:?}");
    assert_eq!(was, ["ada was old", "bob was older"]);
    assert_eq!(read(&[("ada", "was:")]).1, [""; 0], "a null is as good as nothing");
}

#[test]
fn what_cannot_be_is_an_error_that_names_both() {
    for (agents, says) in [
        (&[("ada", "was: ada")][..], "agents/ada.md:3:6 error `was: ada` is the name that it has"),
        (
            &[("ada", "was: Old One")],
            "agents/ada.md:3:6 error `Old One` is not the name of a sandbox",
        ),
        (&[("ada", "was: [x]")], "agents/ada.md:3:6 error expected text"),
        (
            &[("ada", "was: good")],
            "agents/ada.md:3:6 error `was: good`, and agents/good.md still declares good",
        ),
        (
            &[("ada", "was: bob"), ("bob", "skils: []")],
            "agents/ada.md:3:6 error `was: bob`, and agents/bob.md still declares bob",
        ),
        (
            &[("ada", "was: old"), ("bob", "run: [x]\nwas: old")],
            "agents/ada.md:3:6 error `was: old` stands in agents/bob.md:4 too",
        ),
        (
            &[("ada", "was: old"), ("bob", "run: [x]\nwas: old")],
            "agents/bob.md:4:6 error `was: old` stands in agents/ada.md:3 too",
        ),
    ] {
        let (said, was, _) = read(agents);
        assert!(said.iter().any(|line| line.contains(says)), "{says}: {said:?}");
        assert_eq!(was, [""; 0], "{says}");
    }
    // The other one would be made of what exists under that name.
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/agents/ada.md", "---\nbottle: dev\nwas: good\n---\n");
    let desired = scratch.load();
    assert_eq!(desired.held.keys().map(ToString::to_string).collect::<Vec<_>>(), ["ada", "good"]);
    assert!(desired.sandboxes.is_empty());
    // What exists under a name that two claim is nobody's to remove.
    assert_eq!(read(&[("ada", "was: old"), ("bob", "was: old")]).2, ["old"]);
}

#[test]
fn it_counts_also_where_its_file_does_not_hold() {
    for broken in ["was: old\nskils: []", "was: \"old\"\n  bad: [", "bad: [\nwas: old"] {
        let scratch = Scratch::with_good_agent();
        scratch
            .write("tree/agents/ada.md", format!("---\nbottle: dev\n{broken}\n---\nwas: prompt\n"));
        let desired = scratch.load();
        assert!(desired.held.contains_key(&id("ada")), "{broken}");
        assert_eq!(desired.was[&id("ada")].name, id("old"), "{broken}");
    }
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/agents/ada.md", "---\nbottle: [\n---\nwas: prompt\n");
    assert!(scratch.load().was.is_empty());
}
