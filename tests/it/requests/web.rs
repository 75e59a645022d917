//! The dashboard in the browser, as a plain client meets it: who gets in, and what a page may ask for.

mod browser;

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use super::desk::{Desk, capability, index};
use crate::support::Screen;

const PATIENCE: Duration = Duration::from_secs(60);

/// A page that is served, and the link to it.
struct Page<'d> {
    desk: &'d Desk,
    screen: Screen,
    port: u16,
    token: String,
}

/// An answer.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    #[track_caller]
    fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}\n{}", self.head, self.body);
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    /// The value of a field.
    fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

impl<'d> Page<'d> {
    fn open(desk: &'d Desk) -> Self {
        let tree = desk.path().to_str().unwrap();
        let screen = Screen::open(&desk.cli.command(["dashboard", "--web", tree]), PATIENCE);
        screen.shows("http://127.0.0.1:");
        let rest = screen.rest_of_line();
        let (port, token) = rest.split_once("/?t=").unwrap_or_else(|| panic!("{rest}"));
        assert!(token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{rest}");
        Self { desk, screen, port: port.parse().unwrap(), token: token.to_owned() }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Sends this, with a `Host` of its own where none is among the fields.
    fn send(&self, first: &str, fields: &[(&str, &str)], body: &str) -> TcpStream {
        let mut text = format!("{first} HTTP/1.1\r\n");
        if !fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            text.push_str(&format!("Host: 127.0.0.1:{}\r\n", self.port));
        }
        for (name, value) in fields {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if first.starts_with("POST") {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut stream = self.connect();
        stream.write_all((text + body).as_bytes()).unwrap();
        stream
    }

    fn ask(&self, first: &str, fields: &[(&str, &str)], body: &str) -> Answer {
        let with = [fields, &[("Connection", "close")]].concat();
        let mut bytes = Vec::new();
        let read = self.send(first, &with, body).read_to_end(&mut bytes);
        // Whoever is answered before all was read may see the connection reset behind the answer.
        assert!(read.is_ok() || !bytes.is_empty(), "{read:?}");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text:?}"));
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
        Answer { status, head: head.to_owned(), body: body.to_owned() }
    }

    /// Goes by the link, and returns what the browser sends from then on.
    fn enter(&self) -> String {
        let answer = self.ask(&format!("GET /?t={}", self.token), &[], "").is(303);
        assert_eq!(answer.field("location"), Some("/"));
        let cookie = answer.field("set-cookie").unwrap().to_owned();
        let (pair, rest) = cookie.split_once(';').unwrap();
        assert_eq!(rest.trim(), "HttpOnly; SameSite=Strict; Path=/; Max-Age=43200");
        assert!(pair.starts_with(&format!("bottle-{}=", self.port)), "{cookie}");
        pair.to_owned()
    }

    fn get(&self, cookie: &str, path: &str) -> Answer {
        self.ask(&format!("GET {path}"), &[("Cookie", cookie)], "")
    }

    fn own(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn post(&self, cookie: &str, path: &str, body: &Value) -> Answer {
        let origin = self.own();
        let fields = [
            ("Cookie", cookie),
            ("Origin", origin.as_str()),
            ("Content-Type", "application/json"),
            ("X-Bottle", "1"),
            ("Sec-Fetch-Site", "same-origin"),
        ];
        self.ask(&format!("POST {path}"), &fields, &body.to_string())
    }

    /// What was seen of it, as the page has it.
    fn token(&self, cookie: &str, id: &str) -> String {
        let shown = self.get(cookie, &format!("/api/requests/{id}")).is(200).json();
        shown["review"].as_str().unwrap_or_else(|| panic!("{shown}")).to_owned()
    }
}

impl Drop for Page<'_> {
    fn drop(&mut self) {
        // A person's Ctrl-C ends it.
        self.screen.type_in("\x03");
        if !std::thread::panicking() {
            assert_eq!(self.screen.ended(), Some(0), "{}", self.desk.tree.owner);
        }
    }
}

#[test]
fn the_link_opens_it_once() {
    let desk = Desk::new("weblink");
    let page = Page::open(&desk);
    for path in [
        "/",
        "/app.js",
        "/app.css",
        "/api/events",
        "/api/history",
        "/api/requests/r-aaaaaaaa",
        "/x",
    ] {
        let answer = page.get("a=b", path).is(401);
        assert!(answer.body.contains("bottle dashboard --web"), "{}", answer.body);
    }
    page.ask(&format!("GET /?t={}", "0".repeat(64)), &[], "").is(401);
    let cookie = page.enter();
    page.ask(&format!("GET /?t={}", page.token), &[], "").is(401);
    page.ask(&format!("GET /?t={}", page.token), &[("Cookie", &cookie)], "").is(401);
    for (path, kind) in
        [("/", "text/html"), ("/app.js", "text/javascript"), ("/app.css", "text/css")]
    {
        let answer = page.get(&cookie, path).is(200);
        assert!(answer.field("content-type").unwrap().starts_with(kind), "{}", answer.head);
    }
    page.get(&cookie, "/x").is(404);
    page.get(&cookie, "/api/sandboxes/No%20name").is(404);
    // The cookie of one port is none of another.
    let other = cookie.replace(&format!("bottle-{}", page.port), "bottle-1");
    page.get(&other, "/").is(401);
    page.get(&format!("{cookie}0"), "/").is(401);
}

#[test]
fn every_answer_says_what_the_page_may_do() {
    let desk = Desk::new("webheads");
    let page = Page::open(&desk);
    let cookie = page.enter();
    for answer in
        [page.get(&cookie, "/"), page.get("", "/"), page.get(&cookie, "/api/requests/r-bbbbbbbb")]
    {
        let policy = answer.field("content-security-policy").unwrap();
        for part in [
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ] {
            assert!(policy.contains(part), "{policy}");
        }
        for (name, value) in [
            ("x-content-type-options", "nosniff"),
            ("referrer-policy", "no-referrer"),
            ("cache-control", "no-store"),
            ("cross-origin-opener-policy", "same-origin"),
            ("cross-origin-resource-policy", "same-origin"),
        ] {
            assert_eq!(answer.field(name), Some(value), "{}", answer.head);
        }
        assert_eq!(answer.field("access-control-allow-origin"), None);
    }
}

#[test]
fn another_page_gets_nothing() {
    let desk = Desk::new("webother");
    desk.ask_egress("r-aaaaaaaa");
    let page = Page::open(&desk);
    let cookie = page.enter();
    let get = |fields: &[(&str, &str)]| {
        page.ask("GET /", &[&[("Cookie", cookie.as_str())], fields].concat(), "").status
    };
    let near = format!("localhost:{}", page.port);
    assert_eq!(get(&[]), 200);
    assert_eq!(get(&[("Host", &near)]), 200);
    for host in ["evil.test", "127.0.0.1", &format!("evil.test:{}", page.port), "127.0.0.1:1"] {
        assert_eq!(get(&[("Host", host)]), 421, "{host}");
    }
    // Another port of this machine is `same-site`, and cookies do not tell ports apart.
    for site in ["same-site", "cross-site"] {
        assert_eq!(get(&[("Sec-Fetch-Site", site)]), 403, "{site}");
    }
    let token = page.token(&cookie, "r-aaaaaaaa");
    let body = json!({ "review": token }).to_string();
    let own = page.own();
    let right = [
        ("Cookie", cookie.as_str()),
        ("Origin", own.as_str()),
        ("Content-Type", "application/json"),
        ("X-Bottle", "1"),
    ];
    let post = |change: (&str, Option<&str>)| {
        let fields: Vec<(&str, &str)> = right
            .iter()
            .filter_map(|&(name, value)| match name == change.0 {
                true => Some((name, change.1?)),
                false => Some((name, value)),
            })
            .collect();
        page.ask("POST /api/requests/r-aaaaaaaa/approve", &fields, &body).status
    };
    for (change, status) in [
        (("Origin", None), 403),
        (("Origin", Some("null")), 403),
        (("Origin", Some("http://evil.test")), 403),
        (("Origin", Some("http://127.0.0.1:1")), 403),
        (("X-Bottle", None), 403),
        (("Content-Type", Some("application/x-www-form-urlencoded")), 415),
        (("Content-Type", Some("text/plain")), 415),
        (("Content-Type", None), 415),
        (("Cookie", None), 401),
    ] {
        assert_eq!(post(change), status, "{change:?}");
    }
    for method in ["PUT", "DELETE", "OPTIONS", "PATCH"] {
        page.ask(&format!("{method} /"), &[("Cookie", &cookie)], "").is(405);
    }
    let long = json!({ "review": token, "message": "x".repeat(17 << 10) });
    page.post(&cookie, "/api/requests/r-aaaaaaaa/approve", &long).is(413);
    for bad in [json!({}), json!([]), json!({ "review": token, "sandbox": "grace" })] {
        page.post(&cookie, "/api/requests/r-aaaaaaaa/approve", &bad).is(400);
    }
    page.post(&cookie, "/api/requests/r-aaaaaaaa/nothing", &json!({})).is(404);
    page.post(&cookie, "/api/requests/R%20/approve", &json!({ "review": token })).is(404);
    assert_eq!(desk.state("r-aaaaaaaa"), "pending", "nothing of all that decided anything");
    assert_eq!(desk.git(&["status", "--porcelain"]), "");
}

#[test]
fn whoever_guesses_ends_it() {
    let desk = Desk::new("webguess");
    let tree = desk.path().to_str().unwrap();
    let mut screen = Screen::open(&desk.cli.command(["dashboard", "--web", tree]), PATIENCE);
    screen.shows("http://127.0.0.1:");
    let rest = screen.rest_of_line();
    let port: u16 = rest.split('/').next().unwrap().parse().unwrap();
    for _ in 0..10 {
        // The last one may find it ended.
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { break };
        let ask =
            format!("GET /?t=0 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        stream.write_all(ask.as_bytes()).ok();
        stream.read_to_end(&mut Vec::new()).ok();
    }
    screen.shows("somebody tried tokens");
    assert_eq!(screen.ended(), Some(1));
}

#[test]
fn the_link_is_for_a_terminal() {
    let desk = Desk::new("webpipe");
    let tree = desk.path().to_str().unwrap();
    let ended = desk.cli.run(["dashboard", "--web", tree]);
    assert_ne!(ended.code, Some(0));
    assert!(!ended.stdout.contains("?t=") && !ended.stderr.contains("?t="), "{}", ended.stderr);
    assert!(ended.stderr.contains("terminal"), "{}", ended.stderr);
}

#[test]
fn what_is_seen_is_approved_or_nothing_is() {
    let desk = Desk::new("webyes");
    desk.ask_egress("r-aaaaaaaa");
    desk.ask("r-bbbbbbbb", "grace", "capability", capability("memory", "4G"));
    let page = Page::open(&desk);
    let cookie = page.enter();
    let shown = page.get(&cookie, "/api/requests/r-aaaaaaaa").is(200).json();
    let printed = desk.show("r-aaaaaaaa");
    for key in ["version", "request", "review", "edit", "delta", "blocked"] {
        assert_eq!(shown[key], printed[key], "{key}");
    }
    let yes = "/api/requests/r-aaaaaaaa/approve";
    page.post(&cookie, yes, &json!({ "review": "0123456789ab" })).is(409);
    // Somebody edits the file meanwhile.
    let token = page.token(&cookie, "r-aaaaaaaa");
    let before = desk.file();
    desk.tree.write("bottles/dev.md", &before.replace("memory: 1G", "memory: 2G"));
    desk.git(&["commit", "-qam", "more memory"]);
    let stale = page.post(&cookie, yes, &json!({ "review": token })).is(409).json();
    assert!(stale["error"].as_str().unwrap().contains("has changed"), "{stale}");
    assert_eq!(desk.state("r-aaaaaaaa"), "pending");
    let bad = json!({ "review": page.token(&cookie, "r-aaaaaaaa"), "message": "two\nlines" });
    page.post(&cookie, yes, &bad).is(422);
    let token = page.token(&cookie, "r-aaaaaaaa");
    let record = page.post(&cookie, yes, &json!({ "review": token })).is(200).json();
    assert_eq!(
        (record["id"].as_str(), &record["decision"]["via"]),
        (Some("r-aaaaaaaa"), &json!("web"))
    );
    assert!(desk.file().contains("index.example.org"), "{}", desk.file());
    let again = page.post(&cookie, yes, &json!({ "review": token })).is(409).json();
    assert!(again["error"].as_str().unwrap().contains("by op"), "{again}");
    page.post(&cookie, "/api/requests/r-zzzzzzzz/approve", &json!({ "review": token })).is(404);
    // What another request would do is known anew, too, and it can be refused.
    let no = "/api/requests/r-bbbbbbbb/deny";
    page.post(&cookie, no, &json!({ "review": token, "message": "no" })).is(409);
    let token = page.token(&cookie, "r-bbbbbbbb");
    page.post(&cookie, no, &json!({ "review": token, "message": "\u{1b}[2J" })).is(422);
    let denied =
        page.post(&cookie, no, &json!({ "review": token, "message": "ask grace" })).is(200).json();
    assert_eq!(
        (&denied["state"], &denied["decision"]["message"]),
        (&json!("denied"), &json!("ask grace"))
    );
    let commits = page.get(&cookie, "/api/history").is(200).json();
    let subjects: Vec<&str> = commits["commits"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|it| it["subject"].as_str())
        .collect();
    assert_eq!(subjects[1..], ["more memory", "begin"], "{commits}");
    let record = page.post(&cookie, "/api/requests/r-aaaaaaaa/undo", &json!({}));
    // It may not be in force yet; then it is taken back all the same.
    assert_eq!(record.is(200).json()["state"], "undone");
    assert!(!desk.file().contains("index.example.org"), "{}", desk.file());
    page.post(&cookie, "/api/requests/r-aaaaaaaa/undo", &json!({})).is(422);
    drop(page);
    // What was approved was applied, too.
    let tree = desk.path().to_str().unwrap();
    desk.cli.run(["down", tree, "--yes", "--allow-teardown", "all", "--discard", "all"]).exits(0);
}

#[test]
fn what_changes_is_told() {
    let desk = Desk::new("webevents");
    let hostile = "</script><img src=x onerror=alert(1)>\u{1b}[2J\u{202e}";
    desk.ask_with("r-aaaaaaaa", "ada", "egress", index(), hostile);
    let page = Page::open(&desk);
    let cookie = page.enter();
    let mut streams = Vec::new();
    for _ in 0..8 {
        let stream = page.send("GET /api/events", &[("Cookie", &cookie)], "");
        let mut lines = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            assert!(lines.read_line(&mut head).unwrap() > 0, "{head}");
        }
        assert!(head.starts_with("HTTP/1.1 200") && head.contains("text/event-stream"), "{head}");
        streams.push(lines);
    }
    page.get(&cookie, "/api/events").is(503);
    let mut next = || -> Value {
        loop {
            let mut line = String::new();
            assert!(streams[0].read_line(&mut line).unwrap() > 0, "it ended");
            if let Some(data) = line.strip_prefix("data: ") {
                return serde_json::from_str(data).unwrap_or_else(|_| panic!("{line}"));
            }
        }
    };
    let first = next();
    assert_eq!(first["requests"][0]["reason"], hostile, "it comes as data, whole");
    assert_eq!(first["sandboxes"].as_array().map(Vec::len), Some(2), "{first}");
    desk.ask_egress("r-bbbbbbbb");
    while next()["requests"].as_array().map(Vec::len) != Some(2) {}
    drop(streams);
}
