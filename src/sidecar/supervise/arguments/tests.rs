use serde_json::json;

use super::*;

fn own() -> Vec<Host> {
    ["sidecar", "localhost", "127.0.0.1"].map(|name| Host::parse(name.as_bytes()).unwrap()).into()
}

fn called(arguments: Value) -> Map<String, Value> {
    json!({"name": "x", "arguments": arguments}).as_object().unwrap().clone()
}

fn url(url: &str) -> Result<Asked, Wrong> {
    let arguments = json!({"failed_url": url, "reason": "it fails"});
    egress(&called(arguments), &Evidence::default(), &own())
}

fn asked(text: &str) -> EgressAsk {
    match url(text).unwrap_or_else(|wrong| panic!("{text}: {wrong}")).ask {
        Ask::Egress(ask) => ask,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_url_becomes_the_narrowest_ask_that_is_of_use() {
    for (url, said) in [
        ("https://index.example.org/simple/x/", "index.example.org:443 GET, HEAD /simple/**"),
        ("https://INDEX.example.org./simple", "index.example.org:443 GET, HEAD /simple/**"),
        ("https://a.example/x/y/z/w?q=1#f", "a.example:443 GET, HEAD /x/y/**"),
        ("https://a.example:8443/", "a.example:8443 GET, HEAD /"),
        ("https://a.example", "a.example:443 GET, HEAD /"),
        ("http://a.example/x", "a.example:80 GET, HEAD /x/**"),
        ("https://a.example/@s%2fp/-/p.tgz", "a.example:443 GET, HEAD /@s%2fp/-/**"),
    ] {
        assert_eq!(asked(url).to_string(), said, "{url}");
    }
    let arguments = json!({"failed_url": "https://a.example/x/y", "whole_host": true,
        "methods": ["PUT", "GET", "PUT"], "reason": "it fails", "wait_seconds": 7.0});
    let found = egress(&called(arguments), &Evidence::default(), &own()).unwrap();
    assert_eq!(found.ask.to_string(), "a.example:443 GET, PUT");
    assert_eq!(found.wait, 7);
}

#[test]
fn what_is_no_canonical_name_never_becomes_an_ask() {
    for wrong in [
        "http://0x7f.1/",
        "https://2130706433/",
        "https://127.1/",
        "https://\u{430}pi.example.com/",
        "https://u@h/",
        "https://u:p@h.example/",
        "https://169.254.169.254/",
        "https://[::1]/",
        "https://8.8.8.8/",
        "https://*.com/",
        "https://**/",
        "https://a.example:0/",
        "https://a.example:443:443/",
        "https://a.example\\@b.example/",
        "https://a.example/../x",
        "https://a.example/%2e%2e/x",
        "https://a.example/a%2fb/c",
        "https://a.example//x",
        "https://a.example/x y",
        "https://a.example/\u{202e}x",
        "https://a.example?x",
        "https://a.example/*/x",
        "https://a.example/**",
        "https:///x",
        "https://",
        "HTTPS://a.example/",
        "file:///etc/passwd",
        "a.example",
        " https://a.example/",
        "https://sidecar:3128/.bottle/mcp",
        "http://localhost/",
        "https://ollama.host:11434/",
        "https://git.bottle/x",
        "https://a.example\n.evil/",
    ] {
        assert!(url(wrong).is_err(), "{wrong} became {:?}", url(wrong));
    }
    let long = format!("https://a.example/{}", "x".repeat(URL));
    assert!(url(&long).unwrap_err().contains("too long"));
}

#[test]
fn what_the_schema_does_not_know_is_refused() {
    let good = json!({"failed_url": "https://a.example/", "reason": "it fails"});
    let with = |name: &str, value: Value| {
        let mut all = good.clone();
        all[name] = value;
        egress(&called(all), &Evidence::default(), &own())
    };
    for (name, value) in [
        ("approved", json!(true)),
        ("sandbox", json!("grace")),
        ("methods", json!(["get"])),
        ("methods", json!(["CONNECT"])),
        ("methods", json!("GET")),
        ("methods", json!(vec!["GET"; METHODS + 1])),
        ("methods", json!(["X".repeat(17)])),
        ("whole_host", json!("true")),
        ("wait_seconds", json!(241)),
        ("wait_seconds", json!(-1)),
        ("wait_seconds", json!(1.5)),
        ("wait_seconds", json!("1")),
        ("reason", json!("x")),
        ("reason", json!("   \n  ")),
        ("reason", json!("x".repeat(REASON + 1))),
        ("reason", json!(["it fails"])),
        ("request_id", json!("x".repeat(REQUEST_ID + 1))),
    ] {
        assert!(with(name, value.clone()).is_err(), "{name}: {value}");
    }
    assert!(with("reason", json!("é".repeat(REASON))).is_ok());
    let unknown = with("approved", json!(true)).unwrap_err();
    assert_eq!(unknown, "unknown argument `approved`");
    let mut params = called(good);
    params["arguments"] = json!([]);
    assert!(egress(&params, &Evidence::default(), &own()).is_err());
}

#[test]
fn a_long_reason_is_cut_to_its_first_lines() {
    let cut = lines(&"x\n".repeat(300));
    assert_eq!(cut.lines().count(), REASON_LINES);
    assert!(cut.ends_with("(281 more lines)"), "{cut}");
    assert_eq!(lines("a\nb"), "a\nb");
}

#[test]
fn a_credential_is_asked_for_and_never_brought() {
    let call = |arguments: Value| credential(&called(arguments), &own());
    let good = json!({"upstream": "https://api.example.com/v1/", "problem": "missing",
        "role": "openai-base-url", "reason": "no key"});
    let found = call(good.clone()).unwrap();
    let Ask::Credential(ask) = found.ask else { panic!() };
    assert_eq!((ask.host.as_str(), ask.port, ask.path.as_str()), ("api.example.com", 443, "/v1"));
    for (name, value) in [
        ("token", json!("x")),
        ("token_ref", json!("GH_TOKEN")),
        ("auth_header", json!("x")),
        ("upstream", json!("http://api.example.com/")),
        ("upstream", json!("https://api.example.com/a%20b")),
        ("upstream", json!("https://api.example.com/a?token=x")),
        ("upstream", json!("https://10.0.0.1/")),
        ("problem", json!("stolen")),
        ("role", json!("root")),
    ] {
        let mut all = good.clone();
        all[name] = value.clone();
        assert!(call(all).is_err(), "{name}: {value}");
    }
}

#[test]
fn only_what_the_backend_can_change_is_asked_for() {
    let section = Section::new(vec![What::Memory, What::Package]);
    let call = |what: &str, value: &str| {
        capability(&called(json!({"what": what, "value": value, "reason": "it fails"})), &section)
    };
    let found = call("memory", " 4G ").unwrap().unwrap();
    assert_eq!(
        found.ask,
        Ask::Capability(CapabilityAsk { what: What::Memory, value: "4G".into() })
    );
    assert_eq!(call("disk", "4G"), Ok(Err(What::Disk)));
    assert!(call("root", "x").unwrap_err().contains("memory, package"));
    for value in ["", " ", "a\nb", "\u{1b}[2J", "a\u{202e}", &"é".repeat(VALUE)] {
        assert!(call("package", value).is_err(), "{value:?}");
    }
}

#[test]
fn a_status_is_of_one_request_or_of_all() {
    let call = |arguments: Value| status(&called(arguments));
    let id = RequestId::of([7; 5]);
    assert_eq!(call(json!({})), Ok((None, 0)));
    assert_eq!(call(json!({"id": id.as_str()})), Ok((Some(id.clone()), CAP)));
    assert_eq!(call(json!({"id": id.as_str(), "wait_seconds": 0})), Ok((Some(id), 0)));
    assert!(call(json!({"id": "r-../../x"})).is_err());
    assert!(call(json!({"sandbox": "grace"})).is_err());
}
