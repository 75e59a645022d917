//! What a sandbox may reach, asked without a sandbox.

use serde_json::json;

use crate::support::{Cli, Ended, TempTree};

const BOTTLE: &str = r#"
image: host
cred_proxy:
  routes:
    - path: /gh/
      upstream: https://api.example.com
      auth_scheme: Bearer
      token_ref: CLI_POLICY_TOKEN
egress:
  allowlist:
    - packages.example.org
    - "*.example.net:8443"
    - host: git.example.org
      methods: [GET, HEAD]
      paths: ["/repos/**"]
      cidr: 10.1.0.0/16
  dlp_action: warn
  dlp_allow:
    - rule: aws-access-key-id
      host: packages.example.org
      reason: test data
      expires: 2027-01-31
"#;

fn tree() -> TempTree {
    let tree = TempTree::new("policy");
    tree.bottle("dev", BOTTLE).agent("ada", "dev", "", "You are ada.");
    tree.bottle("shut", "image: host").agent("ken", "shut", "", "You are ken.");
    tree.agent("bad", "none", "", "");
    tree
}

fn run(tree: &TempTree, args: &[&str]) -> Ended {
    let tree = tree.path().to_str().expect("temporary paths are UTF-8");
    Cli::new().run([&["--tree", tree, "policy"], args].concat())
}

#[test]
fn a_request_that_would_pass_exits_0() {
    let tree = tree();
    let ended = run(&tree, &["check", "ada", "https://packages.example.org/simple/"]).exits(0);
    let expected = "allowed: GET https://packages.example.org/simple/\n  \
                    by         packages.example.org:443\n";
    assert_eq!((ended.stdout.as_str(), ended.stderr.as_str()), (expected, ""));
    let ended = run(&tree, &["check", "ada", "https://git.example.org/repos/x"]).exits(0);
    assert!(ended.stdout.contains("public, and within 10.1.0.0/16"), "{}", ended.stdout);
    run(&tree, &["check", "ada", "https://a.example.net:8443"]).exits(0);
    let url = "https://api.example.com/user";
    let json = run(&tree, &["check", "ada", url, "--method", "POST", "-o", "json"]).exits(0).json();
    let expected = json!({
        "version": 1, "sandbox": "ada", "method": "POST", "url": url, "allowed": true,
        "by": "route /gh/", "route": "/gh/", "credential": "CLI_POLICY_TOKEN",
        "upstream": null, "exceptions": [], "code": null, "status": null, "next": null,
    });
    assert_eq!(json, expected);
    // The other door to the same route.
    for door in ["sidecar", "127.0.0.1", "100.96.0.1"] {
        let url = format!("http://{door}:3128/gh/user?x=y");
        let ended = run(&tree, &["check", "ada", &url]).exits(0);
        assert!(ended.stdout.contains("https://api.example.com/user?x=y"), "{}", ended.stdout);
    }
}

#[test]
fn a_request_that_would_be_refused_exits_1_and_says_what_to_ask_for() {
    let tree = tree();
    let ended = run(&tree, &["check", "ada", "https://evil.test/"]).exits(1);
    let expected = "denied: GET https://evil.test/\n  code       host_not_allowed, HTTP 403\n  \
                    next       ask the operator to add this host to `egress.allowlist` of the\n";
    assert!(ended.stdout.starts_with(expected), "{}", ended.stdout);
    assert_eq!(ended.stderr, "");
    for (method, url, code) in [
        ("GET", "https://packages.example.org:22/", "port_not_allowed"),
        ("GET", "http://packages.example.org/", "port_not_allowed"),
        ("TRACE", "https://packages.example.org/", "method_not_allowed"),
        ("POST", "https://git.example.org/repos/x", "method_not_allowed"),
        ("GET", "https://git.example.org/other", "path_not_allowed"),
        ("GET", "https://a.b.example.net:8443/", "host_not_allowed"),
        ("GET", "https://example.net:8443/", "host_not_allowed"),
        ("GET", "https://127.0.0.1/", "ssrf_denied"),
        ("GET", "https://2130706433/", "ambiguous_ip"),
        ("GET", "https://packages.example.org@evil.test/", "userinfo_forbidden"),
        ("GET", "https://packages.example.org/a/../b", "path_not_canonical"),
        ("GET", "https://packages.example.org/a#b", "path_not_canonical"),
        ("GET", "https://evil.test\\.packages.example.org/", "malformed_authority"),
        ("GET", "ftp://packages.example.org/", "malformed_request"),
        ("get", "https://packages.example.org/", "malformed_request"),
        ("POST", "https://api.example.com/o/r.git/git-receive-pack", "use_git_gate"),
        ("GET", "http://sidecar:3128/ghx/user", "route_not_found"),
    ] {
        let json = run(&tree, &["-o", "json", "check", "ada", url, "--method", method]);
        let json = json.exits(1).json();
        assert_eq!((&json["code"], &json["allowed"]), (&json!(code), &json!(false)), "{url}");
        assert!(json["next"].as_str().is_some_and(|next| !next.is_empty()), "{url}");
    }
    run(&tree, &["check", "ken", "https://packages.example.org/"]).exits(1);
}

#[test]
fn what_a_sandbox_may_reach_is_shown() {
    let tree = tree();
    let expected = "\
ada of bottle dev may reach
  host       packages.example.org:443
  host       *.example.net:8443
  host       git.example.org:443, GET HEAD, /repos/**, also within 10.1.0.0/16
  route      /gh/ is https://api.example.com:443/ with Bearer CLI_POLICY_TOKEN
  leaks      a request that holds a secret passes and is logged; credentials
             never do
  leaks      not aws-access-key-id to packages.example.org until 2027-01-31:
             test data
";
    assert_eq!(run(&tree, &["show", "ada"]).exits(0).stdout, expected);
    let ken = run(&tree, &["show", "ken"]).exits(0).stdout;
    assert_eq!(ken, "ken of bottle shut may reach nothing\n");
    let json = run(&tree, &["show", "ada", "-o", "json"]).exits(0).json();
    assert_eq!((&json["version"], &json["bottle"]), (&json!(1), &json!("dev")));
    assert_eq!(json["policy"]["allow"][1], json!({ "host": "*.example.net", "port": 8443 }));
    assert_eq!(json["policy"]["routes"][0]["credential"], "CLI_POLICY_TOKEN");
    assert_eq!(json["policy"]["dlp"]["action"], "warn");
}

/// How a token is written may be decided by the token, which is not asked for here.
#[test]
fn a_route_whose_scheme_follows_its_token_is_asked_about() {
    let tree = tree();
    let bottle = "image: host\ncred_proxy:\n  routes:\n    - path: /a/\n      \
                  upstream: https://api.anthropic.com\n      role: anthropic-base-url\n      \
                  token_from: {command: [touch, asked]}\n";
    tree.bottle("dev", bottle);
    let shown = run(&tree, &["show", "ada"]).exits(0).stdout;
    assert!(shown.contains("as its kind wants it"), "{shown}");
    let json = run(&tree, &["show", "ada", "-o", "json"]).exits(0).json();
    assert_eq!(json["policy"]["routes"][0]["auth_scheme"], "of-token");
    let checked = run(&tree, &["check", "ada", "https://api.anthropic.com/v1/messages"]).exits(0);
    assert!(checked.stdout.contains("by         route /a/"), "{}", checked.stdout);
    assert!(!tree.join("asked").exists(), "a command was run");
}

#[test]
fn a_sandbox_that_has_no_policy_is_an_error() {
    let tree = tree();
    for command in [&["show", "nobody"][..], &["check", "nobody", "https://a.example/"]] {
        let ended = run(&tree, command).exits(1);
        assert!(ended.stderr.contains("the tree has no agent nobody"), "{}", ended.stderr);
        assert!(ended.stderr.contains("it has: ada, ken"), "{}", ended.stderr);
    }
    let ended = run(&tree, &["show", "bad"]).exits(1);
    assert!(ended.stderr.contains("the manifests of bad do not hold"), "{}", ended.stderr);
    assert!(ended.stderr.contains("none"), "{}", ended.stderr);
    run(&tree, &["show", "No Name"]).exits(1);
    run(&tree, &["check", "ada"]).exits(2);
}

#[test]
fn words_that_are_no_request_are_told_what_to_write() {
    let tree = tree();
    for (method, url, next) in [
        ("GET", "packages.example.org", "write a URL: `https://packages.example.org`"),
        ("GET", "ftp://packages.example.org/x", "write a URL: `https://packages.example.org/x`"),
        ("post", "https://packages.example.org/", "write the method in capitals: `--method POST`"),
        ("P0ST", "https://packages.example.org/", "write a method such as `--method POST`"),
        ("GET", "https://93.184.216.34/", "name the host: an address is never dialled as such"),
        ("GET", "localhost:3000", "inside ada this is ada itself"),
        ("GET", "http://127.0.0.1:8080/x", "inside ada this is ada itself"),
        ("GET", "http://ada:8080/x", "inside ada this is ada itself"),
        (
            "GET",
            "github.com:22",
            "SSH is not passed on, whatever the bottle grants: clone by `https",
        ),
        ("GET", "git@github.com:o/r.git", "SSH is not passed on"),
        ("GET", "https://db.example.org:5432/", "PostgreSQL is not passed on"),
    ] {
        let json = run(&tree, &["-o", "json", "check", "ada", url, "--method", method]);
        let json = json.exits(1).json();
        assert!(json["next"].as_str().is_some_and(|text| text.starts_with(next)), "{json}");
    }
}

#[test]
fn an_exception_is_from_a_rule_that_there_is_and_on_a_day_that_comes() {
    let tree = TempTree::new("exceptions");
    let own = tree.path().join("rules.toml");
    std::fs::write(&own, "[[rules]]\nid = \"own-rule\"\nregex = 'own-[0-9]{8}'\n").unwrap();
    let exception = |rule: &str, more: &str| {
        format!("    - {{rule: {rule}, host: packages.example.org, reason: why{more}}}\n")
    };
    let write = |exceptions: &[String]| {
        let (own, list) = (own.display(), exceptions.concat());
        let egress = format!("egress:\n  dlp_rules: {own}\n  dlp_allow:\n{list}");
        tree.bottle("dev", &format!("image: host\n{egress}"));
    };
    tree.agent("ada", "dev", "", "").agent("bob", "dev", "", "");
    let path = tree.path().to_str().expect("temporary paths are UTF-8");
    let check = || Cli::new().run(["-o", "json", "--tree", path, "check"]);
    write(&[exception("aws-access-key-id", ", expires: 2999-01-31"), exception("own-rule", "")]);
    assert_eq!(check().exits(0).json()["diagnostics"], json!([]));
    for (rule, meant) in [
        ("aws-acces-key-id", Some("did you mean `aws-access-key-id`?")),
        ("dlp:github-token", Some("did you mean `github-token`?")),
        ("own-rul", Some("did you mean `own-rule`?")),
        ("nothing-of-that-kind-at-all", None),
    ] {
        write(&[exception("own-rule", ""), exception(rule, "")]);
        let json = check().exits(1).json();
        let [told] = json["diagnostics"].as_array().unwrap().as_slice() else {
            panic!("each exception is told once: {json}");
        };
        let message = told["message"].as_str().unwrap();
        assert!(message.starts_with(&format!("`{rule}` is no leak rule")), "{told}");
        assert_eq!((&told["file"], &told["line"]), (&json!("bottles/dev.md"), &json!(7)));
        assert_eq!(told["label"].as_str(), meant, "{told}");
    }
    write(&[exception("own-rule", ", expires: 2020-02-29")]);
    let json = check().exits(0).json();
    let told = &json["diagnostics"][0];
    let message = "the exception for `own-rule` is over since 2020-02-29: it excuses nothing";
    assert_eq!((&told["message"], &told["severity"]), (&json!(message), &json!("warning")));
    assert_eq!((&told["line"], &json["summary"]["warnings"]), (&json!(6), &json!(1)));
}
