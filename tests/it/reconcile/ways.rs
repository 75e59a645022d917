//! Paths of the operator's that lead through a folder that a sandbox can write: what the guest put there
//! says nothing of where they lead.

use super::rig::Rig;
use crate::support::Alias;

pub(super) fn a_link_of_a_guest_leads_no_copy_elsewhere(rig: &Rig) {
    let site = rig.cli.home().join("site");
    let secret = rig.cli.home().join("secret");
    for folder in [&site, &secret] {
        std::fs::create_dir(folder).unwrap();
    }
    std::fs::write(secret.join("key"), "top secret").unwrap();
    rig.bottle(&format!("workspace:\n  path: {}\n  mode: mount\n", site.display()));
    rig.agents(1);
    rig.apply(0);
    // What a guest can make of a name in its own folder.
    std::os::unix::fs::symlink(&secret, site.join("ld")).unwrap();
    rig.inside("a0", "mkdir -p /tmp/in && echo planted > /tmp/planted");
    let tree = rig.tree.path().display().to_string();
    let run = |args: &[&str]| rig.cli.run(["--tree", &tree].iter().chain(args));
    let at = |path: &str| site.join(path).display().to_string();
    for src in ["ld/", "ld/.", "ld/key", "ld"] {
        let refused = run(&["cp", &at(src), "a0:/tmp/in/"]).exits(1);
        assert!(refused.stderr.contains("is a link"), "{src}: {}", refused.stderr);
    }
    assert_eq!(rig.inside("a0", "ls /tmp/in"), "");
    for dest in ["ld", "ld/", "ld/key", "ld/new"] {
        let refused = run(&["cp", "a0:/tmp/planted", &at(dest)]).exits(1);
        assert!(refused.stderr.contains("which a sandbox can write"), "{dest}: {}", refused.stderr);
    }
    run(&["snapshot", "save", "a0"]).exits(0);
    let refused = run(&["snapshot", "restore", "a0", "--to", &at("ld")]).exits(1);
    assert!(refused.stderr.contains("which a sandbox can write"), "{}", refused.stderr);
    assert_eq!(std::fs::read_to_string(secret.join("key")).unwrap(), "top secret");
    assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 1);
    // The operator's own links, and the folder itself, are no matter.
    std::os::unix::fs::symlink(&site, rig.cli.home().join("own")).unwrap();
    let own = rig.cli.home().join("own/taken").display().to_string();
    run(&["cp", "a0:/tmp/planted", &own]).exits(0);
    assert_eq!(std::fs::read_to_string(site.join("taken")).unwrap(), "planted\n");
    // Nor is a second mount of the folder, or of one inside it, a way around.
    std::fs::create_dir(site.join("sub")).unwrap();
    std::os::unix::fs::symlink(&secret, site.join("sub/ld")).unwrap();
    for (name, of) in [("whole", site.clone()), ("part", site.join("sub"))] {
        let alias = rig.cli.home().join(name);
        let Some(_alias) = Alias::new(&of, &alias) else { break };
        let through = alias.join("ld").display().to_string();
        for more in [&["cp", "a0:/tmp/planted"][..], &["snapshot", "restore", "a0", "--to"]] {
            let refused = run(&[more, &[&through]].concat()).exits(1);
            let said = refused.stderr.replace("\n  ", " ");
            assert!(said.contains("which a sandbox can write"), "{name}: {said}");
        }
        let refused = run(&["cp", &format!("{through}/key"), "a0:/tmp/in/"]).exits(1);
        assert!(refused.stderr.contains("is a link"), "{name}: {}", refused.stderr);
        run(&["cp", "a0:/tmp/planted", &alias.join("sent").display().to_string()]).exits(0);
        assert_eq!(std::fs::read_to_string(of.join("sent")).unwrap(), "planted\n");
    }
    assert_eq!(rig.inside("a0", "ls /tmp/in"), "");
    assert_eq!(std::fs::read_dir(&secret).unwrap().count(), 1);
    // Where a record cannot be read, nobody knows what a sandbox can write.
    let lost = rig.memory().parent().unwrap().join("lost");
    std::fs::create_dir(&lost).unwrap();
    std::fs::write(lost.join("sources.json"), "{").unwrap();
    let refused = run(&["cp", "a0:/tmp/planted", &own]).exits(1);
    assert!(refused.stderr.contains("sources.json"), "{}", refused.stderr);
    std::fs::remove_dir_all(&lost).unwrap();
    run(&["cp", "a0:/tmp/planted", &own]).exits(0);
}
