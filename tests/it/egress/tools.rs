//! Tools that nobody has told anything reach what is allowed, and raise no alarm.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;
use sha2::{Digest as _, Sha256, Sha512};

use super::internet::{GIT, Internet};
use super::place::{Place, has, host_program};
use crate::support;

const API: &str = "api.example.com";
const CRATES: &str = "crates.example.com";
pub(super) const NPM: &str = "registry.example.com";
pub(super) const PYPI: &str = "packages.example.com";

/// D18: and nothing they do is refused.
#[test]
fn curl_and_wget() {
    for place in Place::each("curl") {
        place.one(&[API, "\"api.example.com:80\""], "");
        place.internet.put(API, "/x", "it is here\n");
        for scheme in ["https", "http"] {
            assert_eq!(place.say("ada", &format!("curl -sS {scheme}://{API}/x")), "it is here");
            if has("wget", "wget") {
                assert_eq!(
                    place.say("ada", &format!("wget -qO- {scheme}://{API}/x")),
                    "it is here"
                );
            }
        }
        place.nothing_was_refused("ada");
        // What is not allowed is answered, in words.
        let refused =
            place.sh("ada", "curl -sS -w '%header{x-bottle-block}' http://other.example.org/");
        assert!(refused.stdout.contains("host_not_allowed"), "{refused:?}");
        assert!(refused.stdout.contains("ask the operator"), "{refused:?}");
        let asked = place.internet.asked();
        assert!(asked.contains(&API.to_owned()), "{asked:?}");
        assert!(!asked.contains(&"other.example.org".to_owned()), "{asked:?}");
    }
}

/// A bare repository with one commit.
pub(super) fn repository(internet: &Internet, name: &str) {
    let bare = internet.repositories().join(name);
    let work = tempfile::tempdir().unwrap();
    let git = |folder: &Path, args: &[&str]| {
        let mut command = Command::new("git");
        command.arg("-C").arg(folder).args(args).env_clear();
        command.env("PATH", std::env::var_os("PATH").unwrap()).env("HOME", work.path());
        for role in ["AUTHOR", "COMMITTER"] {
            command.env(format!("GIT_{role}_NAME"), "Ada");
            command.env(format!("GIT_{role}_EMAIL"), "ada@example.com");
        }
        let output = command.output().expect("git is there");
        assert!(output.status.success(), "git {args:?}: {output:?}");
    };
    std::fs::create_dir_all(&bare).unwrap();
    git(&bare, &["init", "-q", "--bare", "-b", "main"]);
    git(&bare, &["config", "http.receivepack", "true"]);
    git(work.path(), &["init", "-q", "-b", "main"]);
    let mut text = Vec::new();
    for number in 0..2000 {
        writeln!(text, "{number} {}", hex(&Sha256::digest(format!("{number}")))).unwrap();
    }
    std::fs::write(work.path().join("README"), text).unwrap();
    git(work.path(), &["add", "."]);
    git(work.path(), &["commit", "-qm", "one"]);
    git(work.path(), &["push", "-q", bare.to_str().unwrap(), "main"]);
}

#[test]
fn git_clone() {
    for place in Place::each("git") {
        repository(&place.internet, "site.git");
        place.one(&[GIT], "");
        place.say(
            "ada",
            &format!("cd && git clone -q https://{GIT}/site.git && cd site && git pull -q"),
        );
        assert_eq!(place.say("ada", "wc -l <~/site/README"), "2000");
        place.nothing_was_refused("ada");
    }
}

/// A tar.gz of these files.
fn tgz(files: &[(&str, &str)]) -> Vec<u8> {
    let writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    let mut tar = tar::Builder::new(writer);
    for (path, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap().finish().unwrap()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A registry with `greet` and what that depends on.
pub(super) fn npm_registry(internet: &Internet) {
    for (name, needs) in [("greet", json!({"@team/words": "^1.0.0"})), ("@team/words", json!({}))] {
        let package = json!({"name": name, "version": "1.2.3", "dependencies": needs});
        let code = "module.exports = 'hello';\n";
        let packed =
            tgz(&[("package/package.json", &package.to_string()), ("package/index.js", code)]);
        let file = format!("/{name}/-/{}-1.2.3.tgz", name.rsplit('/').next().unwrap());
        let mut version = package.clone();
        version["dist"] = json!({
            "tarball": format!("https://{NPM}{file}"),
            "integrity": format!("sha512-{}", STANDARD.encode(Sha512::digest(&packed))),
        });
        internet.put(NPM, &file, packed);
        let listing = json!({
            "name": name,
            "dist-tags": {"latest": "1.2.3"},
            "versions": {"1.2.3": version},
        });
        // npm writes the slash of a scope as %2f, pnpm as %2F; this server takes a path as it is written.
        let spelled = |slash| format!("/{}", name.replace('/', slash));
        let spellings = [format!("/{name}/index"), spelled("%2f"), spelled("%2F")];
        let count = if name.starts_with('@') { spellings.len() } else { 1 };
        for path in &spellings[..count] {
            internet.put_json(NPM, path, &listing);
        }
    }
}

#[test]
fn npm_install() {
    if !has("npm install", "npm") {
        return;
    }
    for place in Place::each("npm") {
        npm_registry(&place.internet);
        place.one(&[NPM], "");
        let install = format!(
            "mkdir -p ~/work && cd ~/work && echo '{{}}' >package.json && \
             npm install --no-audit --no-fund --registry=https://{NPM}/ greet 2>&1"
        );
        place.say("ada", &install);
        let run = "cd ~/work && node -p 'require(\"greet\") + require(\"@team/words\")'";
        assert_eq!(place.say("ada", run), "hellohello");
        place.nothing_was_refused("ada");
    }
}

/// A zip of these files, as they are.
pub(super) fn zip(files: &[(&str, &str)]) -> Vec<u8> {
    let (mut zip, mut directory) = (Vec::new(), Vec::new());
    for (name, content) in files {
        let mut crc = flate2::Crc::new();
        crc.update(content.as_bytes());
        let size = u32::try_from(content.len()).unwrap().to_le_bytes();
        let offset = u32::try_from(zip.len()).unwrap().to_le_bytes();
        let length = u16::try_from(name.len()).unwrap().to_le_bytes();
        // Version, flags, method, time and date; the sums; how long the name and the rest are.
        let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        common.extend(crc.sum().to_le_bytes());
        common.extend([size, size].concat());
        common.extend(length);
        common.extend([0, 0]);
        zip.extend(b"PK\x03\x04");
        zip.extend(&common);
        zip.extend(name.as_bytes());
        zip.extend(content.as_bytes());
        directory.extend(b"PK\x01\x02\x14\0");
        directory.extend(&common);
        directory.extend([0; 10]);
        directory.extend(offset);
        directory.extend(name.as_bytes());
    }
    let count = u16::try_from(files.len()).unwrap().to_le_bytes();
    let size = u32::try_from(directory.len()).unwrap().to_le_bytes();
    let offset = u32::try_from(zip.len()).unwrap().to_le_bytes();
    zip.extend(directory);
    zip.extend(b"PK\x05\x06\0\0\0\0");
    zip.extend([count, count].concat());
    zip.extend([size, offset].concat());
    zip.extend([0, 0]);
    zip
}

/// An index of Python's packages with `greet`.
pub(super) fn pip_index(internet: &Internet) {
    let files = [
        ("greet.py", "WORD = 'hello'\n"),
        ("greet-1.2.3.dist-info/METADATA", "Metadata-Version: 2.1\nName: greet\nVersion: 1.2.3\n"),
        (
            "greet-1.2.3.dist-info/WHEEL",
            "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        ),
        (
            "greet-1.2.3.dist-info/RECORD",
            "greet.py,,\ngreet-1.2.3.dist-info/METADATA,,\ngreet-1.2.3.dist-info/WHEEL,,\n\
             greet-1.2.3.dist-info/RECORD,,\n",
        ),
    ];
    let (wheel, name) = (zip(&files), "greet-1.2.3-py3-none-any.whl");
    let sum = hex(&Sha256::digest(&wheel));
    let page = format!("<a href=\"/files/{name}#sha256={sum}\">{name}</a>\n");
    internet.put(PYPI, "/simple/greet/index", page);
    internet.put(PYPI, &format!("/files/{name}"), wheel);
}

#[test]
fn pip_install() {
    if !has("pip install", "pip") {
        return;
    }
    for place in Place::each("pip") {
        pip_index(&place.internet);
        place.one(&[PYPI], "");
        let install = format!(
            "cd && pip install -q --disable-pip-version-check --target lib \
             --index-url https://{PYPI}/simple greet 2>&1"
        );
        place.say("ada", &install);
        let run = "cd && PYTHONPATH=lib python3 -c 'import greet; print(greet.WORD)'";
        assert_eq!(place.say("ada", run), "hello");
        place.nothing_was_refused("ada");
    }
}

#[test]
fn python() {
    if !has("python", "python3") {
        return;
    }
    // The second as Python does it from 3.13 on.
    let script = "\
import ssl, urllib.request as web
url = 'https://api.example.com/x'
print(web.urlopen(url).read().decode(), end='')
strict = ssl.create_default_context()
strict.verify_flags |= ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN
print(web.urlopen(url, context=strict).read().decode(), end='')
try:
    import requests
except ImportError:
    pass
else:
    assert requests.get(url).text == 'it is here\\n'
";
    for place in Place::each("python") {
        place.one(&[API], "");
        place.internet.put(API, "/x", "it is here\n");
        assert_eq!(place.say("ada", &format!("python3 -c \"{script}\"")), "it is here\nit is here");
        place.nothing_was_refused("ada");
    }
}

#[test]
fn cargo_build() {
    let cargo = std::fs::canonicalize(env!("CARGO")).unwrap();
    let toolchain = cargo.parent().and_then(Path::parent).unwrap().to_owned();
    let place = Place::native("cargo");
    let packed = tgz(&[
        (
            "greet-1.2.3/Cargo.toml",
            "[package]\nname = 'greet'\nversion = '1.2.3'\nedition = '2021'\n",
        ),
        ("greet-1.2.3/src/lib.rs", "pub const WORD: &str = \"hello\";\n"),
    ]);
    let line = json!({
        "name": "greet", "vers": "1.2.3", "deps": [], "features": {}, "yanked": false,
        "cksum": hex(&Sha256::digest(&packed)),
    });
    place.internet.put_json(
        CRATES,
        "/index/config.json",
        &json!({"dl": format!("https://{CRATES}/files/{{crate}}-{{version}}.crate")}),
    );
    place.internet.put(CRATES, "/index/gr/ee/greet", format!("{line}\n"));
    place.internet.put(CRATES, "/files/greet-1.2.3.crate", packed);
    // As root inside, because the folders above a toolchain may be the host's root's alone.
    let mut more = "user: root\n".to_owned();
    if !toolchain.starts_with("/usr") {
        more += &format!("host_paths: [{:?}]\n", toolchain.display().to_string());
    }
    if host_program("cc").is_none() {
        support::left_out("linking with cargo", "there is no C compiler");
    }
    place.one(&[CRATES], &more);
    let build = format!(
        "export PATH={}/bin:$PATH && mkdir -p ~/work/src ~/work/.cargo && cd ~/work && \
         printf '[package]\\nname = \"w\"\\nedition = \"2021\"\\n[dependencies]\\ngreet = \"1\"\\n' >Cargo.toml && \
         printf '[source.crates-io]\\nreplace-with = \"mirror\"\\n[source.mirror]\\nregistry = \"sparse+https://{CRATES}/index/\"\\n' >.cargo/config.toml && \
         echo 'pub fn word() -> &'\\''static str {{ greet::WORD }}' >src/lib.rs && cargo build --lib 2>&1",
        toolchain.display()
    );
    let built = place.say("ada", &build);
    assert!(built.contains("Compiling greet v1.2.3"), "{built}");
    place.nothing_was_refused("ada");
}
