//! Which tree is meant: never one that was found by looking around.

use std::fs;

use bottle::manifest::{LocateError, Surroundings, locate};

use crate::manifest::Scratch;

fn around(scratch: &Scratch) -> Surroundings {
    fs::create_dir_all(scratch.path("current")).expect("a folder");
    Surroundings {
        home: Some(scratch.path("home")),
        current: Some(scratch.path("current")),
        ..Surroundings::default()
    }
}

#[test]
fn the_command_line_comes_first_then_the_environment_then_home() {
    let scratch = Scratch::new();
    for tree in ["home/.bottle/agents", "env/agents", "current/named/agents"] {
        fs::create_dir_all(scratch.path(tree)).expect("folders");
    }
    let mut around = around(&scratch);
    let tree = |around: &Surroundings| locate(around).expect("a tree").tree;
    assert_eq!(tree(&around), scratch.path("home/.bottle"));
    around.bottle_tree = Some("".into());
    assert_eq!(tree(&around), scratch.path("home/.bottle"));
    around.bottle_tree = Some(scratch.path("env").into());
    assert_eq!(tree(&around), scratch.path("env"));
    around.path = Some("named".into());
    assert_eq!(tree(&around), scratch.path("current/named"));
}

#[test]
fn the_current_folder_is_never_taken_for_a_tree() {
    let scratch = Scratch::new();
    let mut around = around(&scratch);
    fs::create_dir_all(scratch.path("current/agents")).expect("folders");
    fs::create_dir_all(scratch.path("current/bottles")).expect("folders");
    fs::create_dir_all(scratch.path("current/.bottle/agents")).expect("folders");
    let path = scratch.path("home/.bottle");
    assert_eq!(locate(&around), Err(LocateError::Missing { path }));
    around.home = None;
    assert_eq!(locate(&around), Err(LocateError::NoHome));
}

#[test]
fn a_project_brings_an_overlay_unless_a_tree_was_named() {
    let scratch = Scratch::new();
    let mut around = around(&scratch);
    fs::create_dir_all(scratch.path("home/.bottle/agents")).expect("folders");
    fs::create_dir_all(scratch.path("current/.bottle")).expect("folders");
    let overlay = |around: &Surroundings| locate(around).expect("a tree").overlay;
    assert_eq!(overlay(&around), None);
    fs::create_dir_all(scratch.path("current/.bottle/agents")).expect("folders");
    let found = scratch.path("current/.bottle");
    assert_eq!(overlay(&around), Some(found.clone()));
    around.bottle_tree = Some(scratch.path("tree").into());
    assert_eq!(overlay(&around), Some(found.clone()));
    around.path = Some(scratch.path("tree"));
    assert_eq!(overlay(&around), None);
    around.overlay = Some(".bottle".into());
    assert_eq!(overlay(&around), Some(found));
    around.overlay = Some("nowhere".into());
    assert!(matches!(locate(&around), Err(LocateError::NoOverlay { .. })));
    // The project's own folder says it as well.
    around.overlay = Some(around.current.clone().unwrap());
    assert_eq!(overlay(&around), Some(scratch.path("current/.bottle")));
    // In the home folder the overlay would be the tree itself.
    let home = Surroundings {
        home: Some(scratch.path("home")),
        current: Some(scratch.path("home")),
        ..Surroundings::default()
    };
    assert_eq!(overlay(&home), None);
    // And it is nobody else's, whichever tree is meant.
    let named = Surroundings { bottle_tree: Some(scratch.path("tree").into()), ..home };
    assert_eq!(overlay(&named), None);
}

#[test]
fn an_older_layout_is_recognised_where_there_is_no_tree() {
    let scratch = Scratch::new();
    let around = around(&scratch);
    let found = |around: &Surroundings| match locate(around) {
        Err(error @ LocateError::OldLayout { .. }) => Some(format!("{error}; {}", error.hint())),
        _ => None,
    };
    assert_eq!(found(&around), None);
    for place in
        ["current/claude-bottle.json", "home/claude-bottle.json", "home/.bottle/claude-bottle.json"]
    {
        let path = scratch.write(place, "{}");
        let said = found(&around).unwrap_or_else(|| panic!("{place}"));
        assert!(said.contains(place) && said.contains("bottle init --from"), "{said}");
        fs::remove_file(path).expect("it was there");
    }
    fs::create_dir_all(scratch.path("home/.claude-bottle/agents")).expect("folders");
    let said = found(&around).expect("it is recognised");
    assert!(said.contains("bottle --tree"), "{said}");
    // As a tree that was named it just works.
    let named = Surroundings { path: Some(scratch.path("home/.claude-bottle")), ..around.clone() };
    assert!(locate(&named).is_ok());
    // Where there is a tree, what is left of the older layout does not matter.
    fs::create_dir_all(scratch.path("home/.bottle/agents")).expect("folders");
    assert!(locate(&around).is_ok());
}

#[test]
fn what_is_no_folder_is_no_tree() {
    let scratch = Scratch::new();
    let path = scratch.write("current/plan.json", "{}");
    let around = Surroundings { path: Some(path), ..around(&scratch) };
    assert!(matches!(locate(&around), Err(LocateError::NotAFolder { .. })));
}

#[test]
fn a_current_folder_that_is_gone_matters_to_relative_paths_only() {
    let scratch = Scratch::new();
    let mut around = around(&scratch);
    fs::create_dir_all(scratch.path("home/.bottle/agents")).expect("folders");
    around.current = None;
    let located = locate(&around).expect("a tree");
    assert_eq!((located.tree, located.overlay), (scratch.path("home/.bottle"), None));
    around.path = Some("named".into());
    let error = locate(&around).expect_err("it is relative");
    assert_eq!(error, LocateError::NoCurrent { path: "named".into() });
}
