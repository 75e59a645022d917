//! `setup` reaches what its sandbox may reach, and nothing else: what package managers and a download need.

use super::place::{Place, has};
use super::tools::{NPM, PYPI, npm_registry, pip_index};

const FILES: &str = "files.example.com";

/// A tar of these files.
fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// With an archive, npm and pip, each into a place of its own, without a capability.
#[test]
fn packages_come_in_when_the_machine_is_made() {
    let (npm, pip) = (has("setup with npm", "npm"), has("setup with pip", "pip"));
    for place in Place::each("setup") {
        place.internet.put(FILES, "/tool.tar", tar(&[("tool/run", "echo packed\n")]));
        let mut lines = vec![format!(
            "mkdir -p /opt/own && curl -fsS https://{FILES}/tool.tar | tar -x --no-same-owner -C /opt/own"
        )];
        if npm {
            npm_registry(&place.internet);
            lines.push(format!(
                "npm install --global --prefix /opt/own/npm --no-audit --no-fund --registry=https://{NPM}/ greet"
            ));
        }
        if pip {
            pip_index(&place.internet);
            lines.push(format!(
                "PYTHONUSERBASE=/opt/own/pip pip install -q --user --break-system-packages \
                 --disable-pip-version-check --index-url https://{PYPI}/simple greet"
            ));
        }
        lines.push("! curl -fsS https://other.example.org/ 2>/dev/null".to_owned());
        let lines: Vec<String> = lines.iter().map(|line| format!("  - {line:?}\n")).collect();
        place.one(&[FILES, NPM, PYPI], &format!("setup:\n{}", lines.concat()));
        assert_eq!(place.say("ada", "sh /opt/own/tool/run"), "packed");
        if npm {
            let run = "cd /opt/own/npm/lib && node -p 'require(\"greet\")'";
            assert_eq!(place.say("ada", run), "hello");
        }
        if pip {
            let run = "PYTHONUSERBASE=/opt/own/pip python3 -c 'import greet; print(greet.WORD)'";
            assert_eq!(place.say("ada", run), "hello");
        }
        let refused = place.record("ada").iter().filter(|line| line["event"] == "deny").count();
        assert!(refused > 0, "the other host was asked for");
        assert!(place.apply().stdout.contains("no changes"));
    }
}
