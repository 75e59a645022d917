//! Images that the engine builds of a folder beside the tree.

use super::rig::{Rig, docker, verdicts};

pub(super) fn a_change_of_what_is_built_replaces_and_keeps_the_work(rig: &Rig) {
    let images = || {
        let name = format!("bottle-{}", rig.tree.owner);
        docker(&["images", "--format", "{{.Tag}}", &name]).split_whitespace().count()
    };
    let dockerfile = |line: &str| {
        rig.tree.write("images/dev/Dockerfile", &format!("FROM bottle-test-busybox:1\n{line}\n"));
    };
    let bottle = |more: &str| {
        rig.tree.bottle(
            "dev",
            &format!(
                "backend: docker\nimage: {{build: ../images/dev, args: {{V: \"1\"}}}}\n{more}"
            ),
        );
    };
    rig.tree.write("images/dev/tool", "echo one\n");
    dockerfile("ARG V\nCOPY tool /bin/tool\nRUN chmod 755 /bin/tool && echo \"$V\" > /version");
    let work = rig.cli.home().join("work");
    std::fs::create_dir(&work).unwrap();
    std::fs::write(work.join("file"), "mine\n").unwrap();
    bottle(&format!("workspace: {{path: {}}}", work.display()));
    rig.agents(1);
    let planned = rig.plan().exits(2).json();
    assert_eq!(verdicts(&planned), ["a0 create"]);
    assert_eq!(images(), 0, "a plan builds nothing");
    rig.apply(0);
    assert_eq!(rig.inside("a0", "sh /bin/tool; cat /version"), "one\n1");
    rig.inside("a0", "echo done >> /workspace/file");
    rig.converged();
    // A build that fails touches nothing.
    let before = rig.container("a0");
    dockerfile("RUN echo the reason; false");
    let done = rig.apply(3);
    let error = done["outcomes"][0]["error"].as_str().unwrap_or_default().to_owned();
    assert!(error.contains("the build failed") && error.contains("| the reason"), "{error}");
    assert_eq!(rig.container("a0"), before);
    // Another content makes another machine, of another image, with the work of the old one.
    dockerfile("COPY tool /bin/tool");
    rig.tree.write("images/dev/tool", "echo two\n");
    let done = rig.apply(0);
    assert_eq!(verdicts(&done), ["a0 replace"]);
    assert_eq!(done["changes"][0]["fields"][0]["path"], "image", "{done}");
    assert_eq!(rig.inside("a0", "sh /bin/tool; cat /workspace/file"), "two\nmine\ndone");
    rig.apply(0);
    assert_eq!(images(), 1, "the old image is gone");
    rig.converged();
    // No sandbox can write what another one's image is built of.
    let context = rig.tree.path().join("images");
    let outside = rig.cli.home().join("context");
    std::fs::rename(&context, &outside).unwrap();
    rig.tree.bottle(
        "dev",
        &format!("backend: docker\nimage: {{build: {}}}", outside.join("dev").display()),
    );
    rig.tree.bottle(
        "writes",
        &format!(
            "backend: docker\nimage: bottle-test-busybox:1\nworkspace: {{path: {}, mode: mount}}",
            outside.display()
        ),
    );
    rig.tree.agent("a1", "writes", "", "hello");
    let held = rig.plan().json().to_string();
    assert!(held.contains("a sandbox") || held.contains("can write"), "{held}");
    assert!(verdicts(&rig.plan().json()).iter().any(|verdict| verdict == "a0 hold"), "{held}");
    rig.tree.remove("agents/a1.md").remove("bottles/writes.md");
    bottle("");
    std::fs::rename(&outside, &context).unwrap();
}
