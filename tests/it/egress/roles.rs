//! Tools that find their credential route by themselves: the upstream sees the operator's credential
//! and nothing of the agent's.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bottle::model::policy::{AuthScheme, CredentialRoute, RouteRole};
use bottle::model::{BackendKind, roles};
use serde_json::{Value, json};

use super::internet::{Arrived, GIT};
use super::place::{Place, has};
use super::tools::{NPM, npm_registry, repository};
use crate::support::{Cli, TempTree};

const LLM: &str = "llm.example.com";
const TOKEN: &str = "operators-own-0123456789-abcdefghijk";

const ROUTES: &str = "\
cred_proxy:
  routes:
    - path: /llm/
      upstream: https://llm.example.com
      auth_scheme: Bearer
      token_ref: ROLES_TOKEN
      role: anthropic-base-url
    - path: /npm/
      upstream: https://registry.example.com
      auth_scheme: Bearer
      token_ref: ROLES_TOKEN
      role: npm-registry
    - path: /git/
      upstream: https://git.example.com
      auth_scheme: token
      token_ref: ROLES_TOKEN
      role: [git-insteadof, tea-login]
";

/// A git server that takes Basic only, as GitHub and GitLab do.
const BASIC: &str = "\
cred_proxy:
  routes:
    - path: /git/
      upstream: https://git.example.com
      auth_scheme: basic
      auth_user: x-access-token
      token_ref: ROLES_TOKEN
      role: git-insteadof
";

fn place(what: &str) -> Vec<Place> {
    let mut places = Place::each(what);
    for place in &mut places {
        place.cli.env("ROLES_TOKEN", TOKEN);
        place.one(&[], ROUTES);
    }
    places
}

#[track_caller]
fn all_with(arrived: &[Arrived], scheme: &str) {
    assert!(!arrived.is_empty());
    for one in arrived {
        assert_eq!(one.authorization(), [format!("{scheme} {TOKEN}")], "{one:?}");
    }
}

#[test]
fn the_agents_own_api() {
    for place in place("llm") {
        place.internet.put(LLM, "/v1/messages", "{}");
        // As its client does it, and as one that brings a key of its own.
        for header in ["Authorization: Bearer $ANTHROPIC_AUTH_TOKEN", "Authorization: Bearer mine"]
        {
            let ask =
                format!("curl -sS -H \"{header}\" -d '{{}}' \"$ANTHROPIC_BASE_URL/v1/messages\"");
            assert_eq!(place.say("ada", &ask), "{}");
        }
        all_with(&place.internet.arrived(), "Bearer");
        let env = place.say("ada", "env");
        assert!(!env.contains("ROLES_TOKEN") && !env.contains(TOKEN), "{env}");
    }
}

#[test]
fn npm() {
    if !has("npm view", "npm") {
        return;
    }
    for place in place("npmrole") {
        npm_registry(&place.internet);
        assert_eq!(place.say("ada", "cd && npm view greet version"), "1.2.3");
        let install = "mkdir -p ~/work && cd ~/work && echo '{}' >package.json && \
                       npm install --no-audit --no-fund greet 2>&1";
        place.say("ada", install);
        let arrived = place.internet.arrived();
        assert!(arrived.iter().any(|one| one.target.ends_with(".tgz")), "{arrived:#?}");
        assert!(arrived.iter().all(|one| one.host == NPM), "{arrived:#?}");
        all_with(&arrived, "Bearer");
        place.nothing_was_refused("ada");
    }
}

/// C21: a clone goes by the route, a push does not.
#[test]
fn git() {
    for place in place("gitrole") {
        repository(&place.internet, "site.git");
        let refs = place.say("ada", &format!("git ls-remote https://{GIT}/site.git"));
        assert!(refs.contains("refs/heads/main"), "{refs}");
        place.say("ada", &format!("cd && git clone -q https://{GIT}/site.git"));
        all_with(&place.internet.arrived(), "token");
        place.nothing_was_refused("ada");
        let push = "cd ~/site && git -c user.name=a -c user.email=a@example.com \
                    commit -q --allow-empty -m two && git push 2>&1";
        let pushed = place.sh("ada", push);
        assert_ne!(pushed.code, Some(0));
        assert!(pushed.stdout.contains("403"), "{pushed:?}");
        assert!(pushed.stdout.contains("push by the `ssh` URL of a repository"), "{pushed:?}");
        assert!(place.internet.arrived().is_empty(), "nothing of it arrives");
        let record = place.record("ada");
        assert_eq!(record.last().unwrap()["code"], "use_git_gate", "{record:#?}");
    }
}

/// A private repository of a server that takes Basic only is cloned with nothing set by hand.
#[test]
fn git_with_basic() {
    for mut place in Place::each("gitbasic") {
        place.cli.env("ROLES_TOKEN", TOKEN);
        place.one(&[], BASIC);
        repository(&place.internet, "site.git");
        place.say("ada", &format!("cd && git clone -q https://{GIT}/site.git"));
        let expected = format!("Basic {}", BASE64.encode(format!("x-access-token:{TOKEN}")));
        let arrived = place.internet.arrived();
        assert!(!arrived.is_empty());
        for one in &arrived {
            assert_eq!(one.authorization(), std::slice::from_ref(&expected), "{one:?}");
        }
        place.nothing_was_refused("ada");
    }
}

/// What tea would read: a login whose URL leads to the route.
#[test]
fn tea() {
    for place in place("tea") {
        let login = place.say("ada", "cat ~/.config/tea/config.yml");
        let value = |key: &str| {
            let line = login.lines().find_map(|line| line.trim().strip_prefix(key));
            line.unwrap_or_else(|| panic!("no {key} in {login}"))
                .trim_matches(['"', ' ', ':'])
                .to_owned()
        };
        assert!(login.contains("ssh_host: \"git.example.com\""), "{login}");
        let (url, token) = (value("url: "), value("token: "));
        // git's server knows no such path, which is none of this test's business.
        place.sh("ada", &format!("curl -sS -H 'Authorization: token {token}' {url}/api/v1/user"));
        let arrived = place.internet.arrived();
        assert_eq!(arrived[0].target, "/api/v1/user");
        all_with(&arrived, "token");
    }
}

/// The paths that a route with every role may have, each with one character of its own; and all of
/// these together.
fn paths() -> Vec<String> {
    let tree = TempTree::new("paths");
    let path = |character: char| format!("/a{character}b/");
    let name = |character: char| format!("c{:02x}", u32::from(character));
    for character in ' '..='~' {
        let path = serde_json::to_string(&path(character)).unwrap();
        let bottle = format!(
            "backend: native\ncred_proxy:\n  routes:\n    - path: {path}\n      \
             upstream: https://host.example\n      auth_scheme: Bearer\n      \
             token_ref: A_TOKEN\n      role: [npm-registry, git-insteadof, tea-login]\n"
        );
        tree.bottle(&name(character), &bottle);
    }
    let checked = Cli::new().run(["--tree", tree.path().to_str().unwrap(), "check"]);
    let said = format!("{}{}", checked.stdout, checked.stderr);
    let fine = |character: &char| !said.contains(&format!("bottles/{}.md", name(*character)));
    let fine: Vec<char> = (' '..='~').filter(fine).collect();
    let text: String = fine.iter().collect();
    for (character, may) in [(';', true), ('\'', true), ('$', true), ('#', false), ('"', false)] {
        assert_eq!(text.contains(character), may, "{character} in {text}: {said}");
    }
    assert!(!text.contains(['=', ' ', '\\']), "npm cannot read these: {text}");
    let all: String = fine.iter().filter(|one| !"/.%".contains(**one)).collect();
    fine.iter().map(|one| path(*one)).chain([format!("/{all}/"), "/;/'/".to_owned()]).collect()
}

/// Whatever a route is called, each tool reads from its file what was meant: by npm's own parser, by
/// git itself, and by a parser of YAML.
#[test]
fn tools_read_what_was_written_for_them() {
    let paths = paths();
    let folder = tempfile::tempdir().unwrap();
    let mut npmrcs = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let route = CredentialRoute {
            path: path.clone(),
            host: "host.example".to_owned(),
            port: 443,
            upstream_path: String::new(),
            auth_scheme: AuthScheme::Bearer,
            token_ref: "A_TOKEN".to_owned(),
            token_from: None,
            roles: vec![RouteRole::NpmRegistry, RouteRole::GitInsteadof, RouteRole::TeaLogin],
            expires: None,
        };
        let url = format!("http://127.0.0.1:3128{path}");
        let files = roles::files(&[route], BackendKind::Native, None);
        let content =
            |path: &str| files.iter().find(|file| file.path == path).unwrap().content.clone();
        let file = folder.path().join(format!("git-{number}"));
        std::fs::write(&file, content(".config/git/config")).unwrap();
        let listed = std::process::Command::new("git")
            .args(["config", "-z", "--list", "-f"])
            .arg(&file)
            .output()
            .unwrap();
        let expected = format!("url.{url}.insteadof\nhttps://host.example/\0");
        assert_eq!(String::from_utf8(listed.stdout).unwrap(), expected, "{path}");
        let logins: Value = serde_yaml::from_str(&content(".config/tea/config.yml")).unwrap();
        assert_eq!(logins["logins"][0]["url"], url.trim_end_matches('/'), "{path}");
        let file = folder.path().join(format!("npmrc-{number}"));
        std::fs::write(&file, content(".npmrc")).unwrap();
        npmrcs.push(json!([file, url]));
    }
    if !has("npm's parser of .npmrc", "npm") {
        return;
    }
    let script = r#"
        const fs = require('fs'), npm = fs.realpathSync(process.argv[1]);
        const of = require('module').createRequire(npm);
        const ini = of('ini'), auth = of('npm-registry-fetch/lib/auth.js');
        for (const [file, url] of JSON.parse(process.argv[2])) {
            const read = ini.parse(fs.readFileSync(file, 'utf8'));
            const keys = Object.keys(read).length;
            const token = (auth.getAuth || auth)(read.registry + 'name', read).token;
            if (keys !== 2 || read.registry !== url || token !== 'added-by-the-sidecar')
                console.log(url, read, token);
        }"#;
    let npm = super::place::host_program("npm").unwrap();
    let files = Value::from(npmrcs).to_string();
    let ended = std::process::Command::new("node")
        .args(["-e", script, npm.to_str().unwrap(), &files])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(ended.status.success() && said.is_empty(), "{said}");
    // And the program itself.
    for (number, path) in [(0, &paths[0]), (paths.len() - 2, &paths[paths.len() - 2])] {
        let file = folder.path().join(format!("npmrc-{number}"));
        let ended = std::process::Command::new(&npm)
            .args(["config", "get", "registry", "--userconfig"])
            .arg(file)
            .current_dir(folder.path())
            .output()
            .unwrap();
        let said = String::from_utf8(ended.stdout).unwrap();
        assert_eq!(said.trim(), format!("http://127.0.0.1:3128{path}"), "{:?}", ended.stderr);
    }
}
