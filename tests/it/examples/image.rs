//! An example whose image is built, from a base that is on the engine already: nothing is fetched.

use std::process::Command;

use super::*;

/// A base image in which what the Dockerfiles of examples call is there and needs no network: what `npm` installs is
/// a program that says how it was called.
const BASE: [(&str, &str); 4] = [
    (
        "Dockerfile",
        "FROM bottle-test-busybox:1\nCOPY apt-get npm useradd /usr/local/bin/\nRUN mkdir -p /var/lib/apt/lists\n",
    ),
    ("apt-get", "#!/bin/sh\n"),
    (
        "npm",
        r#"#!/bin/sh
# install --global @anthropic-ai/claude-code@2.1.197
name=${3##*/}
name=${name%%[-@]*}
printf '#!/bin/sh\necho "%s: $*"\n' "$3" >/usr/local/bin/$name
chmod 755 /usr/local/bin/$name
"#,
    ),
    (
        "useradd",
        r#"#!/bin/sh
# --create-home agent
mkdir -p "/home/$2" && chown 1001:1001 "/home/$2"
echo "$2:x:1001:1001::/home/$2:/bin/sh" >>/etc/passwd
"#,
    ),
];

/// An image of the engine's, which goes with the test.
struct Image(String);

impl Image {
    fn build() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, text) in BASE {
            let path = folder.path().join(name);
            fs::write(&path, text).expect("a file");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        let image = Self(format!("bottle-{}:1", support::unique("base")));
        let mut build = Command::new("docker");
        build.args(["build", "--quiet", "--network", "none", "--tag", &image.0]).arg(folder.path());
        let built = build.env("DOCKER_BUILDKIT", "0").output().expect("docker");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        image
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        drop(Command::new("docker").args(["image", "rm", "--force", &self.0]).output());
    }
}

/// All of them, but for what they fetch: their Dockerfiles are built as they stand, from another base.
#[test]
fn agents_live_in_images_that_are_built() {
    if !support::docker("examples::image::agents_live_in_images_that_are_built") {
        return;
    }
    let base = Image::build();
    for (agent, variable, package) in [
        ("claude", "ANTHROPIC_TOKEN", "@anthropic-ai/claude-code@"),
        ("codex", "OPENAI_TOKEN", "@openai/codex@"),
        ("gemini", "GEMINI_TOKEN", "@google/gemini-cli@"),
        ("opencode", "ANTHROPIC_TOKEN", "opencode-ai@"),
    ] {
        let mut example = Example::named(&format!("agents/{agent}-docker"));
        let file = format!("images/{agent}/Dockerfile");
        example.edit(&file, "node:24-bookworm-slim", &base.0);
        example
            .cli
            .env("BOTTLE_SIDECAR_PROGRAM", sidecar_program())
            .env(variable, "sk-ant-api03-a1B2c3D4e5F6g7H8i9J0-kLmNoPqRsT");
        example.lives(1, |example| {
            let said = example.run(&["run", "ada", "--", "hello"]).exits(0).stdout;
            assert!(said.contains(package) && said.trim_end().ends_with("hello"), "{said}");
            let who = example.run(&["exec", "ada", "--", "sh", "-c", "echo $HOME"]).exits(0).stdout;
            assert_eq!(who.trim(), "/home/agent", "`user:` of the bottle");
        });
    }
}
