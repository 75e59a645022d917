//! Tools that find their credential route by themselves: the upstream sees the operator's credential
//! and nothing of the agent's.

use super::internet::{Arrived, GIT};
use super::place::{Place, has};
use super::tools::{NPM, npm_registry, repository};

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
        assert!(pushed.stdout.contains("push through the git gate"), "{pushed:?}");
        assert!(place.internet.arrived().is_empty(), "nothing of it arrives");
        let record = place.record("ada");
        assert_eq!(record.last().unwrap()["code"], "use_git_gate", "{record:#?}");
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
