use super::*;
use crate::sidecar::part::AllowPart;

fn allow(host: &str, port: u16) -> AllowPart {
    let (methods, paths) = (Vec::new(), Vec::new());
    AllowPart {
        host: host.into(),
        port,
        methods,
        paths,
        cidr: None,
        encoded_slash: false,
        expires: None,
    }
}

fn to(path: &str, host: &str, upstream_path: &str, credential: &str) -> RoutePart {
    RoutePart {
        path: path.into(),
        host: host.into(),
        port: 443,
        upstream_path: upstream_path.into(),
        auth_scheme: Scheme::Bearer,
        auth_user: None,
        auth_header: None,
        credential: credential.into(),
        expires: None,
    }
}

fn part() -> PolicyPart {
    PolicyPart {
        allow: vec![
            allow("pypi.example", 443),
            allow("plain.example", 80),
            allow("both.example", 443),
            AllowPart {
                methods: vec!["GET".into()],
                paths: vec!["/pub/**".into()],
                cidr: Some("10.0.0.0/8".into()),
                ..allow("api.example.com", 443)
            },
        ],
        routes: vec![
            to("/gh/", "api.example.com", "", "GH"),
            to("/gh/graphql/", "api.example.com", "/graphql", "GQL"),
            to("/anthropic/", "llm.example", "/v1", "LLM"),
            to("/gh-git/", "git.example", "", "GH"),
            to("/both/", "both.example", "/private", "BOTH"),
        ],
        ..PolicyPart::default()
    }
}

fn policy() -> Policy {
    Policy::compile(&part()).unwrap()
}

fn path(text: &str) -> CanonicalPath {
    CanonicalPath::parse(text.as_bytes()).unwrap()
}

/// What the proxy door says to `METHOD URL`: the credential, `-` for none, or the code.
fn ask(policy: &Policy, method: &str, url: &str) -> String {
    let (transport, rest) = match url.strip_prefix("https://") {
        Some(rest) => (Transport::Https, rest),
        None => (Transport::Http, url.strip_prefix("http://").unwrap()),
    };
    let (authority, target) = rest.split_at(rest.find('/').unwrap());
    let port = transport.default_port();
    let authority = Authority::parse(authority.as_bytes(), Some(port)).unwrap();
    match decide(policy, &authority, transport, method, &path(target)) {
        Ok(Allowed { route: Some(route), .. }) => route.credential().to_owned(),
        Ok(_) => "-".into(),
        Err(code) => code.to_string(),
    }
}

#[test]
fn the_proxy_door() {
    let policy = policy();
    for (method, url, expected) in [
        ("GET", "https://pypi.example/simple/", "-"),
        ("OPTIONS", "https://pypi.example/", "-"),
        ("GET", "http://pypi.example/", "port_not_allowed"),
        ("GET", "http://plain.example/", "-"),
        ("GET", "https://plain.example/", "port_not_allowed"),
        ("GET", "https://evil.test/", "host_not_allowed"),
        ("GET", "http://evil.test/", "host_not_allowed"),
        ("GET", "https://127.0.0.1/", "ssrf_denied"),
        ("GET", "http://[::ffff:127.0.0.1]:8081/", "ssrf_denied"),
        // TRACE is 405, whatever else would be wrong.
        ("TRACE", "http://pypi.example/", "method_not_allowed"),
        ("TRACE", "https://evil.test/", "method_not_allowed"),
        ("TRACE", "https://api.example.com/user", "method_not_allowed"),
        ("CONNECT", "https://pypi.example/", "method_not_allowed"),
        ("trace", "https://pypi.example/", "method_not_allowed"),
        ("Trace", "https://api.example.com/user", "method_not_allowed"),
        ("get", "https://pypi.example/", "method_not_allowed"),
        ("TRACK", "https://llm.example/v1/messages", "method_not_allowed"),
        ("TRACK", "https://both.example/private/x", "-"),
        // A route alone grants its upstream's host, port and path.
        ("GET", "https://llm.example/v1/messages", "LLM"),
        ("POST", "https://LLM.example./v1", "LLM"),
        ("GET", "https://llm.example/v1/?x=../..", "LLM"),
        ("GET", "https://llm.example/v1x", "path_not_allowed"),
        ("GET", "https://llm.example/", "path_not_allowed"),
        ("GET", "https://llm.example/%76%31/messages", "path_not_allowed"),
        ("GET", "https://llm.example:8443/v1/messages", "port_not_allowed"),
        ("GET", "http://llm.example:443/v1/messages", "plain_http_refused"),
        ("GET", "http://llm.example/v1/messages", "port_not_allowed"),
        ("OPTIONS", "https://llm.example/v1/messages", "method_not_allowed"),
        ("GET", "https://a.llm.example/v1/messages", "host_not_allowed"),
        // The longest prefix wins, at a boundary.
        ("GET", "https://api.example.com/user", "GH"),
        ("GET", "https://api.example.com/graphql", "GQL"),
        ("POST", "https://api.example.com/graphql/x", "GQL"),
        ("POST", "https://api.example.com/graphqlx", "GH"),
        ("POST", "https://api.example.com/%67raphql", "GH"),
        ("OPTIONS", "https://api.example.com/user", "method_not_allowed"),
        ("GET", "https://both.example/private/x", "BOTH"),
        ("GET", "https://both.example/public", "-"),
        ("OPTIONS", "https://both.example/private/x", "-"),
        ("GET", "http://both.example/private/x", "port_not_allowed"),
        ("GET", "http://both.example:443/private/x", "plain_http_refused"),
    ] {
        assert_eq!(ask(&policy, method, url), expected, "{method} {url}");
    }
}

#[test]
fn nothing_is_granted_by_default() {
    for policy in [Policy::default(), Policy::compile(&PolicyPart::default()).unwrap()] {
        assert_eq!(ask(&policy, "GET", "https://example.com/"), "host_not_allowed");
        let door = decide_path_door(&policy, "GET", &path("/"));
        assert_eq!(door, Err(Code::RouteNotFound));
    }
}

#[test]
fn tunnels() {
    let policy = policy();
    let connect = |raw: &str| {
        let authority = Authority::parse(raw.as_bytes(), None).unwrap();
        decide_connect(&policy, &authority).map(|grant| grant.entry.into_string())
    };
    assert_eq!(connect("pypi.example:443"), Ok("pypi.example:443".into()));
    assert_eq!(connect("llm.example:443"), Ok("route /anthropic/".into()));
    assert_eq!(connect("llm.example:22"), Err(Code::PortNotAllowed));
    assert_eq!(connect("pypi.example:22"), Err(Code::PortNotAllowed));
    assert_eq!(connect("evil.test:443"), Err(Code::HostNotAllowed));
    assert_eq!(connect("127.0.0.1:443"), Err(Code::SsrfDenied));
    assert_eq!(connect("[fc00::1]:443"), Err(Code::SsrfDenied));
}

#[test]
fn a_declared_range_goes_with_host_and_port() {
    let policy = policy();
    let at = |raw: &str| Authority::parse(raw.as_bytes(), Some(443)).unwrap();
    let api = at("api.example.com");
    assert_eq!(decide_connect(&policy, &api).unwrap().exceptions.len(), 1);
    let user = decide(&policy, &api, Transport::Https, "GET", &path("/user")).unwrap();
    assert_eq!(user.grant.exceptions.len(), 1);
    let other = decide(&policy, &at("pypi.example"), Transport::Https, "GET", &path("/")).unwrap();
    assert!(other.grant.exceptions.is_empty());
}

#[test]
fn the_path_door() {
    let policy = policy();
    let ask = |method: &str, text: &str| match decide_path_door(&policy, method, &path(text)) {
        Ok(RouteRequest { route, upstream_path, .. }) => {
            format!("{} {}{upstream_path}", route.credential(), route.upstream())
        }
        Err(code) => code.to_string(),
    };
    for (method, text, expected) in [
        ("GET", "/gh/user", "GH api.example.com:443/user"),
        ("GET", "/gh/", "GH api.example.com:443/"),
        ("GET", "/gh/a?b=c/../d", "GH api.example.com:443/a?b=c/../d"),
        (
            "POST",
            "/anthropic/v1/messages?beta=true",
            "LLM llm.example:443/v1/v1/messages?beta=true",
        ),
        ("POST", "/gh/graphql/x", "GQL api.example.com:443/graphql/x"),
        ("POST", "/gh/graphql", "GH api.example.com:443/graphql"),
        ("POST", "/gh/graphqlx/y", "GH api.example.com:443/graphqlx/y"),
        ("GET", "/ghx/y", "route_not_found"),
        ("GET", "/gh", "route_not_found"),
        ("GET", "/GH/user", "route_not_found"),
        ("GET", "/%67h/user", "route_not_found"),
        ("GET", "/", "route_not_found"),
        ("GET", "/?/gh/", "route_not_found"),
        ("TRACE", "/gh/", "method_not_allowed"),
        ("trace", "/gh/", "method_not_allowed"),
        ("options", "/gh/", "method_not_allowed"),
        ("TRACK", "/gh/", "method_not_allowed"),
        ("OPTIONS", "/gh/", "method_not_allowed"),
        ("CONNECT", "/gh/", "method_not_allowed"),
        ("TRACE", "/nothing", "method_not_allowed"),
    ] {
        assert_eq!(ask(method, text), expected, "{method} {text}");
    }
}

/// G31.
#[test]
fn what_lfs_asks_of_the_gate_is_answered_and_goes_nowhere() {
    let policy = policy();
    let gate = Authority::parse(b"git.bottle:443", None).unwrap();
    assert!(decide_connect(&policy, &gate).is_ok(), "or nobody would see an answer");
    for method in ["GET", "POST"] {
        let asked = path("/git@git.example/o/app.git/info/lfs/objects/batch");
        let answer = decide(&policy, &gate, Transport::Https, method, &asked).map(drop);
        assert_eq!(answer, Err(Code::LargeFiles), "{method}");
    }
    let plain = Authority::parse(b"git.bottle:80", None).unwrap();
    assert!(decide_connect(&policy, &plain).is_err());
}

#[test]
fn a_push_is_refused_in_every_spelling() {
    let policy = policy();
    let git = Authority::parse(b"git.example:443", None).unwrap();
    let both = |method: &str, rest: &str| {
        let door = decide_path_door(&policy, method, &path(&format!("/gh-git{rest}")));
        let proxy = decide(&policy, &git, Transport::Https, method, &path(rest));
        let (door, proxy) = (door.map(drop), proxy.map(drop));
        assert_eq!(door, proxy, "{method} {rest}");
        door
    };
    for (method, rest) in [
        ("POST", "/o/r.git/git-receive-pack"),
        ("GET", "/o/r.git/info/refs?service=git-receive-pack"),
        ("POST", "/o/r.git/GIT-Receive-Pack"),
        ("POST", "/o/r.git/git-receive-pack/"),
        ("POST", "/o/r.git/git%2dreceive%2Dpack"),
        ("POST", "/o/r.git/%67it-receive-pack"),
        ("POST", "/o/r.git/git%252dreceive-pack"),
        ("POST", "/o/r.git/git-receive-pack;x"),
        ("POST", "/o/r.git/git-receive-pack%3fx"),
        ("POST", "/o/r.git/git-receive-pack%20"),
        ("POST", "/o/r.git/git-receive-pack?x=y"),
        ("POST", "/o/r.git/git-receive-pack/x"),
        ("GET", "/git-receive-pack"),
        ("GET", "/o/r.git/info/refs?service=git%2Dreceive%2dpack"),
        ("GET", "/o/r.git/info/refs?service=git%252Dreceive-pack"),
        ("GET", "/o/r.git/info/refs?SERVICE=GIT-RECEIVE-PACK"),
        ("GET", "/o/r.git/info/refs?%73ervice=git-receive-pack"),
        ("GET", "/o/r.git/info/refs?service=git-upload-pack&service=git-receive-pack"),
        ("GET", "/o/r.git/info/refs?service=git-receive-pack&service=git-upload-pack"),
        ("GET", "/o/r.git/info/refs?a;service=git-receive-pack"),
        ("GET", "/o/r.git/info/refs?service=+git-receive-pack+"),
        ("GET", "/o/r.git/info/refs?git-receive-pack"),
        ("GET", "/o/r.git/info/refs?x=git-receive-pack"),
        ("GET", "/o/r.git/info/refs/?service=git-receive-pack"),
        ("GET", "/o/r.git/info/%72efs?x=git-receive-pack"),
        ("GET", "/o/r.git?service=git-receive-pack"),
        ("PUT", "/o/r.git/info/refs?service%3Dgit-receive-pack"),
    ] {
        assert_eq!(both(method, rest), Err(Code::UseGitGate), "{method} {rest}");
    }
    for (method, rest) in [
        ("POST", "/o/r.git/git-upload-pack"),
        ("GET", "/o/r.git/info/refs?service=git-upload-pack"),
        ("GET", "/o/r.git/HEAD"),
        ("GET", "/search?q=git-receive-pack"),
        ("GET", "/git/git/contents/git-receive-pack.txt"),
        ("GET", "/git/git/contents/builtin-git-receive-pack"),
    ] {
        assert_eq!(both(method, rest), Ok(()), "{method} {rest}");
    }
    // Nor without a route: what is pushed is compressed, and nobody would look at it.
    for (method, rest, expected) in [
        ("POST", "/o/r.git/git-receive-pack", "use_git_gate"),
        ("POST", "/o/r.git/git%2dreceive-pack", "use_git_gate"),
        ("PUT", "/o/r.git/GIT-RECEIVE-PACK/", "use_git_gate"),
        ("GET", "/o/r.git/info/refs?service=git-receive-pack", "use_git_gate"),
        ("HEAD", "/o/r.git/info/refs/?service=git%2Dreceive-pack", "use_git_gate"),
        ("GET", "/o/r.git/info/refs?service=git-upload-pack", "-"),
        ("POST", "/o/r.git/git-upload-pack", "-"),
        ("GET", "/docs/git-receive-pack", "-"),
        ("GET", "/search?q=git-receive-pack", "-"),
    ] {
        assert_eq!(
            ask(&policy, method, &format!("https://pypi.example{rest}")),
            expected,
            "{rest}"
        );
        assert_eq!(
            ask(&policy, method, &format!("http://plain.example{rest}")),
            expected,
            "{rest}"
        );
    }
    // An OPTIONS is no way around the question either.
    let options = "https://git.example/o/r.git/git-receive-pack";
    assert_eq!(ask(&policy, "OPTIONS", options), "use_git_gate");
}

#[test]
fn routes_that_do_not_compile() {
    let with = |change: fn(&mut RoutePart)| {
        let mut part = to("/gh/", "api.example.com", "/v3", "GH");
        change(&mut part);
        let routes = vec![part];
        Policy::compile(&PolicyPart { routes, ..PolicyPart::default() }).map(drop)
    };
    assert_eq!(with(|_| ()), Ok(()));
    let changes: &[fn(&mut RoutePart)] = &[
        |r| r.auth_scheme = Scheme::OfToken,
        |r| r.path = "gh/".into(),
        |r| r.path = "/gh".into(),
        |r| r.path = "".into(),
        |r| r.path = "//".into(),
        |r| r.path = "/a/../b/".into(),
        |r| r.path = "/a%20b/".into(),
        |r| r.path = "/a/?b/".into(),
        |r| r.host = "127.0.0.1".into(),
        |r| r.host = "2130706433".into(),
        |r| r.host = "[::1]".into(),
        |r| r.host = "u@api.example.com".into(),
        |r| r.host = "api.example.com:444".into(),
        |r| r.host = "API.example.com".into(),
        |r| r.host = "//host".into(),
        |r| r.host = "".into(),
        |r| r.port = 0,
        |r| r.upstream_path = "/".into(),
        |r| r.upstream_path = "v3".into(),
        |r| r.upstream_path = "/v3/".into(),
        |r| r.upstream_path = "/v3?x".into(),
        |r| r.upstream_path = "/v3#x".into(),
        |r| r.upstream_path = "/a/%2e%2e".into(),
        |r| r.credential = "".into(),
        |r| r.credential = "GH TOKEN".into(),
        |r| r.credential = "ghp-0123456789".into(),
    ];
    for change in changes {
        let error = with(*change).unwrap_err();
        assert!(error.starts_with("route `") && !error.contains("0123456789"), "{error}");
    }
    let twice = vec![to("/a/", "a.example", "", "A"), to("/a/", "b.example", "", "B")];
    assert!(Policy::compile(&PolicyPart { routes: twice, ..PolicyPart::default() }).is_err());
    let allow = vec![allow("A.example", 443)];
    assert!(Policy::compile(&PolicyPart { allow, ..PolicyPart::default() }).is_err());
}

#[test]
fn an_encoded_slash_passes_where_an_entry_says_so() {
    let mut part = part();
    part.allow.push(AllowPart {
        paths: vec!["/projects/*/issues".into(), "/private/**".into()],
        encoded_slash: true,
        ..allow("git.example", 443)
    });
    part.allow.push(allow("git.example", 443));
    let policy = Policy::compile(&part).unwrap();
    let ask = |url: &str| {
        let (host, target) = url.split_at(url.find('/').unwrap());
        let authority = Authority::parse(host.as_bytes(), Some(443)).unwrap();
        let path = match policy.path(target.as_bytes()) {
            Ok(path) => path,
            Err(code) => return code.to_string(),
        };
        match decide(&policy, &authority, Transport::Https, "GET", &path) {
            Ok(allowed) => allowed.route.map_or("-".to_owned(), |route| route.credential().into()),
            Err(code) => code.to_string(),
        }
    };
    // The host has a route for all of it, which alone lets none pass.
    assert_eq!(ask("git.example/projects/a%2Fb/issues"), "GH");
    assert_eq!(ask("git.example/projects/a/b/issues"), "GH");
    for refused in [
        "git.example/projects/a%2Fb/other",
        "git.example/projects/a%2Fb",
        "git.example/a%2Fb",
        "git.example/projects/a%2F..%2Fb/issues",
        "pypi.example/a%2Fb",
        "api.example.com/pub/a%2Fb",
        "llm.example/v1/a%2Fb",
    ] {
        assert_eq!(ask(refused), "path_not_canonical", "{refused}");
    }
    // What a lenient reader makes of it is a push all the same.
    assert_eq!(ask("git.example/private/r%2Fgit-receive-pack"), "use_git_gate");
    let door = |path: &str| {
        let path = policy.path(path.as_bytes()).unwrap();
        decide_path_door(&policy, "GET", &path).map(|request| request.upstream_path.to_string())
    };
    assert_eq!(door("/gh-git/projects/a%2Fb/issues"), Ok("/projects/a%2Fb/issues".into()));
    for refused in ["/gh-git/a%2Fb", "/gh/a%2Fb", "/gh%2Fuser", "/anthropic/a%2Fb"] {
        assert_eq!(door(refused), Err(Code::PathNotCanonical), "{refused}");
    }
}

#[test]
fn a_route_that_has_ended_adds_nothing() {
    let mut part = part();
    let ends = |part: &mut PolicyPart, seconds| {
        let end = crate::model::Moment::of_seconds(seconds);
        part.routes.iter_mut().filter(|r| r.path == "/gh/").for_each(|r| r.expires = Some(end));
        Policy::compile(part).unwrap()
    };
    let asked = CanonicalPath::parse(b"/gh/user").unwrap();
    let policy = ends(&mut part, 4_000_000_000);
    assert!(decide_path_door(&policy, "GET", &asked).is_ok());
    assert!(policy.ends().is_some());
    let policy = ends(&mut part, 1_600_000_000);
    assert_eq!(decide_path_door(&policy, "GET", &asked).unwrap_err(), Code::GrantExpired);
    assert_eq!(policy.ends(), None, "there is nothing to wait for");
    // By the proxy it gets no credential, and is let through by the allowlist alone.
    let authority = Authority::parse(b"api.example.com", Some(443)).unwrap();
    let path = CanonicalPath::parse(b"/pub/x").unwrap();
    let allowed = decide(&policy, &authority, Transport::Https, "GET", &path).unwrap();
    assert_eq!(allowed.route, None);
    part.allow.clear();
    let policy = Policy::compile(&part).unwrap();
    let other = CanonicalPath::parse(b"/user").unwrap();
    let refused = decide(&policy, &authority, Transport::Https, "GET", &other).unwrap_err();
    assert!(matches!(refused, Code::GrantExpired | Code::PathNotAllowed), "{refused}");
}
