//! Package managers with nothing set up but where their mirror is: each installs through the sidecar, and raises no alarm.
//! What npm, pip, cargo and Maven do is in `tools` and `java`.

use std::path::PathBuf;
use std::process::Command;

use sha2::{Digest as _, Sha256};

use super::java::CENTRAL;
use super::place::{Place, has};
use super::tools::{NPM, PYPI, hex, npm_registry, pip_index, zip};
use crate::support;

const GO: &str = "modules.example.com";
const DEB: &str = "packages.example.com";

/// A sandbox with the package managers that `tests/run` fetches; where they are not there, `what` is said to be left out.
fn place(what: &str, host: &str) -> Option<(Place, PathBuf)> {
    let Some(folder) = std::env::var_os("BOTTLE_TEST_TOOLS").map(PathBuf::from) else {
        support::left_out(what, "BOTTLE_TEST_TOOLS names no folder with package managers");
        return None;
    };
    let place = Place::native(what);
    // As root inside, because the folders above may be the host's root's alone.
    place.one(&[host], &format!("user: root\nhost_paths: [{:?}]\n", folder.display().to_string()));
    Some((place, folder))
}

#[test]
fn pnpm_install() {
    let Some((place, folder)) = place("pnpm", NPM) else { return };
    npm_registry(&place.internet);
    let install = format!(
        "mkdir -p ~/work && cd ~/work && echo '{{}}' >package.json && \
         {}/node_modules/.bin/pnpm add --registry=https://{NPM}/ greet 2>&1",
        folder.display()
    );
    place.say("ada", &install);
    let run = "cd ~/work && node -p 'require(\"greet\")' && find node_modules/.pnpm -name index.js | wc -l";
    assert_eq!(place.say("ada", run), "hello\n2");
    place.nothing_was_refused("ada");
}

#[test]
fn yarn_add() {
    let Some((place, folder)) = place("yarn", NPM) else { return };
    npm_registry(&place.internet);
    let install = format!(
        "mkdir -p ~/work && cd ~/work && echo '{{}}' >package.json && \
         {}/node_modules/.bin/yarn add --registry https://{NPM}/ greet 2>&1",
        folder.display()
    );
    place.say("ada", &install);
    let run = "cd ~/work && node -p 'require(\"greet\") + require(\"@team/words\")'";
    assert_eq!(place.say("ada", run), "hellohello");
    place.nothing_was_refused("ada");
}

#[test]
fn uv_pip_install() {
    if !has("uv", "python3") {
        return;
    }
    let Some((place, folder)) = place("uv", PYPI) else { return };
    pip_index(&place.internet);
    let install = format!(
        "cd && {}/bin/uv pip install -q --python /usr/bin/python3 --target lib \
         --default-index https://{PYPI}/simple greet 2>&1",
        folder.display()
    );
    place.say("ada", &install);
    let run = "cd && PYTHONPATH=lib /usr/bin/python3 -c 'import greet; print(greet.WORD)'";
    assert_eq!(place.say("ada", run), "hello");
    place.nothing_was_refused("ada");
}

#[test]
fn go_get() {
    if !has("go", "go") {
        return;
    }
    let place = Place::native("go");
    let module = "module example.com/greet\n\ngo 1.19\n";
    let at = |file: &str| format!("/example.com/greet/@v/{file}");
    place.internet.put(GO, &at("list"), "v1.2.3\n");
    let info = "{\"Version\":\"v1.2.3\",\"Time\":\"2026-01-01T00:00:00Z\"}";
    place.internet.put(GO, &at("v1.2.3.info"), info);
    place.internet.put(GO, &at("v1.2.3.mod"), module);
    let files = [
        ("example.com/greet@v1.2.3/go.mod", module),
        ("example.com/greet@v1.2.3/greet.go", "package greet\n\nconst Word = \"hello\"\n"),
    ];
    place.internet.put(GO, &at("v1.2.3.zip"), zip(&files));
    place.one(&[GO], "");
    // A module of one's own is in no public log of sums.
    let script = format!(
        "mkdir -p ~/work && cd ~/work && export GOPROXY=https://{GO} GONOSUMDB='*' GOFLAGS=-mod=mod && \
         printf 'module w\\n\\ngo 1.19\\n' >go.mod && \
         printf 'package main\\nimport \"example.com/greet\"\\nfunc main() {{ println(greet.Word) }}\\n' >main.go && \
         go get example.com/greet && go run . 2>&1"
    );
    let said = place.say("ada", &script);
    assert!(said.ends_with("hello"), "{said}");
    place.nothing_was_refused("ada");
}

#[test]
fn apt_update_and_download() {
    if !has("apt", "apt-get") || !has("apt", "dpkg-deb") {
        return;
    }
    let place = Place::native("apt");
    let folder = tempfile::tempdir().unwrap();
    let control = folder.path().join("greet/DEBIAN");
    std::fs::create_dir_all(&control).unwrap();
    let about = "Package: greet\nVersion: 1.2.3\nArchitecture: all\nMaintainer: Ada <ada@example.com>\nDescription: it greets\n";
    std::fs::write(control.join("control"), about).unwrap();
    let packed = folder.path().join("greet.deb");
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.args(["--root-owner-group", "--build"]).arg(folder.path().join("greet")).arg(&packed);
    assert!(dpkg.output().unwrap().status.success());
    let packed = std::fs::read(packed).unwrap();
    let file = "pool/greet_1.2.3_all.deb";
    let entry = format!(
        "{about}Filename: {file}\nSize: {}\nSHA256: {}\n\n",
        packed.len(),
        hex(&Sha256::digest(&packed))
    );
    let release = format!(
        "Suite: stable\nCodename: stable\nArchitectures: all amd64 arm64\nComponents: main\n\
         Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n {} {} main/binary-all/Packages\n",
        hex(&Sha256::digest(&entry)),
        entry.len()
    );
    place.internet.put(DEB, "/debian/dists/stable/InRelease", release);
    place.internet.put(DEB, "/debian/dists/stable/main/binary-all/Packages", entry);
    place.internet.put(DEB, &format!("/debian/{file}"), &packed);
    place.one(&[DEB], "");
    // The lists are the user's own; how apt speaks to its mirror is as it comes.
    let script = format!(
        "mkdir -p ~/apt/lists/partial ~/apt/cache/archives/partial && cd ~/apt && : >status && \
         echo 'deb [trusted=yes arch=all] https://{DEB}/debian stable main' >sources.list && \
         set -- -q -o Dir::Etc::SourceList=$HOME/apt/sources.list -o Dir::Etc::SourceParts=/dev/null \
         -o Dir::State=$HOME/apt -o Dir::State::Status=$HOME/apt/status -o Dir::Cache=$HOME/apt/cache \
         -o APT::Architecture=all -o Acquire::Languages=none && \
         apt-get \"$@\" update 2>&1 && apt-get \"$@\" download greet 2>&1 && sha256sum greet_1.2.3_all.deb"
    );
    let said = place.say("ada", &script);
    assert!(said.contains(&hex(&Sha256::digest(&packed))), "{said}");
    place.nothing_was_refused("ada");
}

#[test]
fn gradle_finds_its_repository() {
    if !has("Gradle", "gradle") || !has("Gradle", "java") {
        return;
    }
    let place = Place::native("gradle");
    let at = |file: &str| format!("/maven2/org/example/greet/1/{file}");
    let pom = "<project><modelVersion>4.0.0</modelVersion><groupId>org.example</groupId>\
               <artifactId>greet</artifactId><version>1</version></project>";
    place.internet.put(CENTRAL, &at("greet-1.pom"), pom);
    place.internet.put(CENTRAL, &at("greet-1.jar"), zip(&[("greet.txt", "hello\n")]));
    place.one(&[CENTRAL], "");
    let build = format!(
        "repositories {{ maven {{ url 'https://{CENTRAL}/maven2' }} }}\n\
         configurations {{ greeting }}\n\
         dependencies {{ greeting 'org.example:greet:1' }}\n\
         task show {{ doLast {{ configurations.greeting.each {{ println it.name }} }} }}\n"
    );
    let write = "mkdir -p ~/work && cat >~/work/build.gradle && : >~/work/settings.gradle";
    place.run_with(&["exec", "-i", "ada", "--", "sh", "-c", write], build.as_bytes()).exits(0);
    let said = place.say("ada", "cd ~/work && gradle -q --no-daemon show 2>&1");
    assert!(said.contains("greet-1.jar"), "{said}");
    let arrived = place.internet.arrived();
    assert!(arrived.iter().any(|one| one.target.ends_with("/greet-1.jar")), "{arrived:?}");
}
