//! Where a bottle's policy cannot lead: C, G27, H, N.

use bottle::model::{BackendKind, ResourceKind, ResourceSpec};

use crate::manifest::{Scratch, id, said};

/// Holds the agent of a bottle with this front matter, and says something about it.
fn refused(scratch: &Scratch, yaml: &str) {
    scratch.write("tree/bottles/w.md", format!("---\nimage: alpine\n{yaml}---\n"));
    scratch.write("tree/agents/w.md", "---\nbottle: w\n---\n");
    let desired = scratch.load();
    assert!(desired.held.contains_key(&id("w")), "{yaml}: {:?}", said(&desired));
    assert!(!desired.sandboxes.contains_key(&id("w")), "{yaml}");
}

/// C18, C19: each field of a route.
#[test]
fn a_route_leads_to_one_place() {
    let scratch = Scratch::with_good_agent();
    let good = [
        ("path", "/gh/"),
        ("upstream", "https://api.example.com"),
        ("auth_scheme", "Bearer"),
        ("token_ref", "GH_TOKEN"),
    ];
    let route = |field: &str, value: &str| {
        let fields = good.iter().map(|(name, fine)| {
            let value = if *name == field { value } else { fine };
            format!("{name}: {}", serde_json::Value::from(value))
        });
        let more = if good.iter().any(|(name, _)| *name == field) {
            String::new()
        } else {
            format!(", {field}: {}", serde_json::Value::from(value))
        };
        let fields: Vec<String> = fields.collect();
        format!("cred_proxy:\n  routes:\n    - {{{}{more}}}\n", fields.join(", "))
    };
    for (field, values) in [
        (
            "upstream",
            &[
                "http://api.example.com",
                "HTTP://api.example.com",
                "ftp://api.example.com",
                "api.example.com",
                "//api.example.com",
                "https://",
                "https:///x",
                "https://user@api.example.com",
                "https://user:pass@api.example.com",
                "https://api.example.com@evil.test",
                "https://api.example.com?x=y",
                "https://api.example.com/#x",
                "https://api.example.com:0",
                "https://api.example.com:65536",
                "https://api.example.com:",
                "https://api.example.com:443:80",
                "https://127.0.0.1",
                "https://2130706433",
                "https://0x7f.1",
                "https://127.1",
                "https://169.254.169.254/latest",
                "https://[::1]",
                "https://[::ffff:127.0.0.1]",
                "https://*.example.com",
                "https://bücher.example",
                "https://api.example.com/../x",
                "https://api.example.com/%2e%2e",
                "https://api.example.com//x",
                "https://api.example.com\\x",
                "https://api.example.com /",
                "https://api.example.com\r\nX: y",
                "https://api.example.com\0",
                "file:///etc/passwd",
            ][..],
        ),
        (
            "auth_scheme",
            &["Bearer x", "Bearer x\r\n", "Bearer\r\nX-Evil: y", "bearer", "Basic", "", "Bearer "],
        ),
        (
            "path",
            &[
                "gh", "/gh", "gh/", "", "//", "/a/../b/", "/a%2fb/", "/a b/", "/a?b/", "/a/#/",
                "/\n/",
            ],
        ),
        (
            "token_ref",
            &["", "GH TOKEN", "GH-TOKEN", "1GH", "GH=x", "$GH", "GH\nX", "ghp_0123-4567", "a.b"],
        ),
        ("auth_user", &["x", "a:b", ""]),
        ("auth_header", &["x-api-key", ""]),
        ("role", &["root", ""]),
        ("value", &["x"]),
        ("token", &["x"]),
        ("headers", &["x"]),
    ] {
        for value in values {
            refused(&scratch, &route(field, value));
        }
    }
    scratch
        .write("tree/bottles/w.md", format!("---\nimage: alpine\n{}---\n", route("path", "/gh/")));
    assert_eq!(said(&scratch.load()), Vec::<String>::new());
}

/// What goes with a scheme, and which scheme a vendor takes.
#[test]
fn a_scheme_is_what_the_upstream_takes() {
    let scratch = Scratch::with_good_agent();
    let route = |host: &str, more: &str| {
        format!(
            "cred_proxy:\n  routes:\n    - {{path: /r/, upstream: https://{host}, \
             token_ref: GH_TOKEN, {more}}}\n"
        )
    };
    let any = "api.example.com";
    for (host, more) in [
        (any, "auth_scheme: basic"),
        (any, "auth_scheme: basic, auth_user: 'a:b'"),
        (any, "auth_scheme: basic, auth_user: 'a b'"),
        (any, "auth_scheme: basic, auth_user: oauth2, auth_header: api-key"),
        (any, "auth_scheme: header"),
        (any, "auth_scheme: header, auth_user: x"),
        (any, "auth_scheme: header, auth_header: 'x y'"),
        (any, "auth_scheme: header, auth_header: Host"),
        (any, "auth_scheme: header, auth_header: Transfer-Encoding"),
        (any, "auth_scheme: header, auth_header: Content-Length"),
        (any, "auth_scheme: header, auth_header: Connection"),
        (any, "auth_scheme: header, auth_header: HTTP2-Settings"),
        (any, "auth_scheme: header, auth_header: Proxy-Authorization"),
        (any, "auth_scheme: header, auth_header: TE"),
        (any, "auth_scheme: header, auth_header: Upgrade"),
        (any, "auth_scheme: header, auth_header: \":authority\""),
        ("github.com", "auth_scheme: Bearer, role: git-insteadof"),
        ("gitlab.com", "auth_scheme: token, role: git-insteadof"),
        ("api.anthropic.com", "auth_scheme: token, role: anthropic-base-url"),
        ("api.anthropic.com", "auth_scheme: basic, auth_user: x, role: anthropic-base-url"),
    ] {
        refused(&scratch, &route(host, more));
    }
    for (host, more) in [
        (any, "auth_scheme: basic, auth_user: oauth2, role: git-insteadof"),
        (any, "auth_scheme: token, role: git-insteadof"),
        (any, "auth_scheme: header, auth_header: PRIVATE-TOKEN"),
        ("github.com", "auth_scheme: basic, auth_user: x-access-token, role: git-insteadof"),
        ("api.anthropic.com", "auth_scheme: x-api-key, role: anthropic-base-url"),
        ("api.anthropic.com", "auth_scheme: Bearer, role: anthropic-base-url"),
        ("gateway.example.com", "auth_scheme: token, role: anthropic-base-url"),
    ] {
        scratch
            .write("tree/bottles/w.md", format!("---\nimage: alpine\n{}---\n", route(host, more)));
        assert_eq!(said(&scratch.load()), Vec::<String>::new(), "{more}");
    }
}

/// A route whose scheme its roles know needs none; where nobody knows it, it has to be said.
#[test]
fn a_scheme_may_be_left_out_where_it_is_known() {
    let scratch = Scratch::with_good_agent();
    let route = |host: &str, more: &str| {
        format!(
            "cred_proxy:\n  routes:\n    - {{path: /r/, upstream: https://{host}, \
             token_ref: GH_TOKEN, {more}}}\n"
        )
    };
    let any = "api.example.com";
    for (host, more) in [
        (any, ""),
        ("api.anthropic.com", ""),
        (any, "auth_user: oauth2, role: npm-registry"),
        (any, "auth_header: x-key, role: npm-registry"),
        (any, "role: anthropic-base-url"),
        (any, "role: git-insteadof"),
        (any, "role: [npm-registry, tea-login]"),
        (any, "role: opencode"),
        (any, "auth_scheme: Bearer, role: opencode"),
    ] {
        refused(&scratch, &route(host, more));
    }
    for (host, more) in [
        ("api.anthropic.com", "role: anthropic-base-url"),
        ("api.anthropic.com", "role: [anthropic-base-url, opencode]"),
        ("api.openai.com", "role: [opencode]"),
        ("github.com", "role: git-insteadof"),
        ("gitlab.example.com", "role: git-insteadof"),
        ("gitlab.example.com", "auth_scheme: Bearer, role: git-insteadof"),
        (any, "role: openai-base-url"),
        (any, "role: [openai-base-url, opencode]"),
        (any, "role: gemini-base-url"),
        (any, "auth_scheme: header, auth_header: api-key, role: openai-base-url"),
    ] {
        scratch
            .write("tree/bottles/w.md", format!("---\nimage: alpine\n{}---\n", route(host, more)));
        assert_eq!(said(&scratch.load()), Vec::<String>::new(), "{more}");
    }
    let two = |role: &str, host: &str| {
        let route = |path: &str| {
            format!(
                "    - {{path: /{path}/, upstream: https://{host}, token_ref: T, auth_scheme: Bearer, \
                 role: {role}}}\n"
            )
        };
        format!("cred_proxy:\n  routes:\n{}{}", route("a"), route("b"))
    };
    refused(&scratch, &two("openai-base-url", any));
    refused(&scratch, &two("gemini-base-url", any));
    refused(&scratch, &two("opencode", "api.openai.com"));
}

/// A token has one source.
#[test]
fn a_token_comes_from_one_place() {
    let scratch = Scratch::with_good_agent();
    let route = |more: &str| {
        format!(
            "cred_proxy:\n  routes:\n    - {{path: /r/, upstream: 'https://api.example.com', \
             auth_scheme: Bearer{more}}}\n"
        )
    };
    for more in [
        "",
        ", token_ref: A, token_from: {file: x}",
        ", token_from: {}",
        ", token_from: x",
        ", token_from: {file: x, command: [y]}",
        ", token_from: {file: [x]}",
        ", token_from: {command: []}",
        ", token_from: {command: gh auth token}",
        ", token_from: {command: ['']}",
        ", token_from: {env: A}",
        ", token_from: {command: [echo, ghp_0123456789]}",
        ", token_from: {command: [echo, sk-ant-api03-0123456789]}",
        ", token_from: {file: \"a\\u0007b\"}",
    ] {
        refused(&scratch, &route(more));
    }
    for more in [
        ", token_from: {file: there/is/none/yet}",
        ", token_from: {file: /run/secrets/none-yet}",
        ", token_from: {file: ~/none-yet}",
        ", token_from: {command: [gh, auth, token]}",
        ", token_from: {command: [./none-yet, a]}",
    ] {
        scratch.write("tree/bottles/w.md", format!("---\nimage: alpine\n{}---\n", route(more)));
        assert_eq!(said(&scratch.load()), Vec::<String>::new(), "{more}");
    }
    // What might be the token itself is not shown.
    scratch.write(
        "tree/bottles/w.md",
        format!(
            "---\nimage: alpine\n{}---\n",
            route(", token_from: {command: [echo, ghp_S3cret]}")
        ),
    );
    let desired = scratch.load();
    assert!(!format!("{:?}", desired.diagnostics).contains("ghp_S3cret"));
}

/// H12, H20, N01, T11: what cannot be listed.
#[test]
fn an_allowlist_names_hosts() {
    let scratch = Scratch::with_good_agent();
    for entry in [
        "bücher.example",
        "exаmple.com",
        "*",
        "**",
        "*.com",
        "*.co.uk",
        "a*.example.com",
        "*.*.example.com",
        "127.0.0.1",
        "127.0.0.1:8081",
        "10.0.0.0/8",
        "169.254.169.254",
        "2130706433",
        "0x7f000001",
        "127.1",
        "::1",
        "[::1]:443",
        "https://api.example.com",
        "api.example.com/x",
        "user@api.example.com",
        "api.example.com:0",
        "api.example.com:70000",
        "api.example.com:443:80",
        "api example.com",
        "api%2eexample.com",
        "",
    ] {
        refused(
            &scratch,
            &format!("egress: {{allowlist: [{}]}}\n", serde_json::Value::from(entry)),
        );
    }
    for (key, value) in [
        ("cidr", "0.0.0.0/0"),
        ("cidr", "127.0.0.0/8"),
        ("cidr", "169.254.0.0/16"),
        ("cidr", "::1/128"),
        ("cidr", "fe80::/10"),
        ("cidr", "93.184.216.0/24"),
        ("methods", "[TRACE]"),
        ("methods", "[CONNECT]"),
        // TLS is looked into for every host: nothing is passed through as it is.
        ("passthrough", "true"),
        ("tls", "skip"),
        ("insecure", "true"),
        ("verify", "false"),
        ("websocket", "true"),
    ] {
        let entry = format!("egress: {{allowlist: [{{host: api.example.com, {key}: {value}}}]}}\n");
        refused(&scratch, &entry);
    }
    for section in ["passthrough: [api.example.com]", "tls_passthrough: [a.b]", "dlp_action: off"] {
        refused(&scratch, &format!("egress: {{{section}}}\n"));
    }
    // An empty list is one, and grants nothing.
    scratch.write("tree/bottles/w.md", "---\nimage: alpine\negress: {allowlist: []}\n---\n");
    let desired = scratch.load();
    assert!(desired.sandboxes[&id("w")].policy.egress.allowlist.is_empty());
}

/// G27: what would reach the command line of git or ssh.
#[test]
fn a_git_upstream_is_an_ssh_url() {
    let scratch = Scratch::with_good_agent();
    scratch.write("home/.ssh/key", "x");
    for url in [
        "ssh://-oProxyCommand=x/y",
        "ssh://-oX:y/z",
        "-oProxyCommand=x",
        "ssh://git@-oProxyCommand=x/y",
        "ssh://git@h/-oProxyCommand=x/../y",
        "ext::sh -c id",
        "ext::sh",
        "fd::17/x",
        "file:///etc/passwd",
        "/etc/passwd",
        "../x",
        "git@github.com:a/b",
        "git://github.com/a/b",
        "https://github.com/a/b",
        "ssh://git@h/a\nb",
        "ssh://git@h/a\r\nProxyCommand x",
        "ssh://git@h\0/a",
        "ssh://h:-1/x",
        "ssh://git@h:-1/x",
        "ssh://git@h:+22/x",
        "ssh://git@h/`id`",
        "ssh://git@h/$(id)",
        "ssh://git@h/a;id",
        "ssh://git@127.1/x",
        "ssh+git://git@h/x",
    ] {
        let url = serde_json::Value::from(url);
        refused(
            &scratch,
            &format!("git:\n  - {{Name: a, Upstream: {url}, IdentityFile: ~/.ssh/key}}\n"),
        );
    }
    for name in ["-x", "../x", "a/b", "a b", "", ".", "--upload-pack=x"] {
        let name = serde_json::Value::from(name);
        refused(
            &scratch,
            &format!(
                "git:\n  - {{Name: {name}, Upstream: 'ssh://git@h/x', IdentityFile: ~/.ssh/key}}\n"
            ),
        );
    }
}

/// `git` has its gate, and alone no other way out; to ask the operator there is a sidecar, which grants nothing.
#[test]
fn who_may_ask_has_a_sidecar_and_no_more() {
    let scratch = Scratch::with_good_agent();
    scratch.write("home/.ssh/key", "x");
    scratch.write("tree/agents/w.md", "---\nbottle: w\n---\n");
    let git = "git:\n  - {Name: a, Upstream: 'ssh://git@h/x', IdentityFile: ~/.ssh/key}\n";
    for (supervise, yaml) in [(false, ""), (true, "supervise: true\n")] {
        scratch.write("tree/bottles/w.md", format!("---\nimage: alpine\n{yaml}{git}---\n"));
        let desired = scratch.load();
        let spec = &desired.sandboxes[&id("w")];
        let beside = |backend| -> Vec<ResourceKind> {
            let mut of = spec.clone();
            of.image = of.image.filter(|_| backend == BackendKind::Docker);
            let all = of.resources(backend).unwrap();
            all.iter().map(ResourceSpec::kind).collect()
        };
        let native = beside(BackendKind::Native);
        assert_eq!(native.contains(&ResourceKind::Sidecar), supervise, "{native:?}");
        assert!(native.contains(&ResourceKind::Gate), "{native:?}");
        // With Docker one leads to the gate, and lets nothing else through.
        let there = [
            ResourceKind::Network,
            ResourceKind::Sidecar,
            ResourceKind::Gate,
            ResourceKind::Machine,
        ];
        assert_eq!(beside(BackendKind::Docker), there);
        let sidecar = spec.sidecar(BackendKind::Docker).unwrap();
        assert_eq!((sidecar.policy.needs_sidecar(), sidecar.proxy.is_some()), (supervise, false));
        assert!(spec.policy.egress.allowlist.is_empty() && spec.policy.routes.is_empty());
    }
}

/// When a grant ends is a moment, or a day to its end.
#[test]
fn a_grant_ends_at_a_moment() {
    let scratch = Scratch::with_good_agent();
    scratch.write("tree/agents/w.md", "---\nbottle: w\n---\n");
    let ends = |end: &str| {
        let yaml = format!(
            "---\nimage: alpine\negress:\n  allowlist:\n    - {{host: a.example, expires: {end}}}\n\
             cred_proxy:\n  routes:\n    - {{path: /gh/, upstream: 'https://api.example.com', auth_scheme: Bearer, \
             token_ref: T, expires: {end}}}\n---\n"
        );
        scratch.write("tree/bottles/w.md", yaml);
        let desired = scratch.load();
        let spec = desired.sandboxes.get(&id("w"))?;
        let route = spec.policy.routes[0].expires;
        assert_eq!(spec.policy.egress.allowlist[0].expires, route);
        assert!(spec.policy.fields().0["egress.allowlist.a.example:443"].contains(" until "));
        route.map(|end| end.in_seconds())
    };
    for (text, end) in [
        ("2026-11-28T21:00:00Z", "2026-11-28T21:00:00Z"),
        ("'2026-11-28T21:00:00+01:00'", "2026-11-28T20:00:00Z"),
        ("2026-11-28", "2026-11-29T00:00:00Z"),
    ] {
        assert_eq!(ends(text).as_deref(), Some(end), "{text}");
    }
    for text in ["tomorrow", "2026-02-30", "10m", "2026-11-28T25:00:00Z", "20261128", "''"] {
        assert_eq!(ends(text), None, "{text}");
    }
}

/// Where an agent asks its operator no route stands.
#[test]
fn no_route_has_the_sidecars_own_paths() {
    let scratch = Scratch::with_good_agent();
    for path in ["/.bottle/", "/.bottle/mcp/"] {
        let route = format!(
            "cred_proxy:\n  routes:\n    - {{path: {path}, upstream: 'https://api.example.com', auth_scheme: Bearer, \
             token_ref: T}}\n"
        );
        refused(&scratch, &route);
    }
}
