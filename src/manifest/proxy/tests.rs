use super::*;

fn at(text: &str) -> (bool, String, u16) {
    let At { secure, host, port, .. } = parse(text).unwrap_or_else(|why| panic!("{text}: {why:?}"));
    (secure, host, port)
}

#[test]
fn urls() {
    assert_eq!(at("http://proxy:3128"), (false, "proxy".into(), 3128));
    assert_eq!(at("HTTPS://Proxy.Corp.Example:443/"), (true, "proxy.corp.example".into(), 443));
    assert_eq!(at("http://10.0.0.1:8080"), (false, "10.0.0.1".into(), 8080));
    assert_eq!(at("http://[2001:DB8::1]:8080"), (false, "2001:db8::1".into(), 8080));
    for (bad, what, hint) in [
        ("proxy:3128", "no scheme", "http://proxy:3128"),
        ("socks5://proxy:1080", "SOCKS", "only HTTP"),
        ("socks5h://proxy:1080", "SOCKS", "only HTTP"),
        ("ftp://proxy:3128", "neither", "http://host:port"),
        ("http://proxy", "no port", "http://proxy:3128"),
        ("http://proxy:0", "port", "http://"),
        ("http://proxy:+1", "port", "http://"),
        ("http://proxy:3128/x", "path", "http://"),
        ("http://proxy:3128?x", "path", "http://"),
        ("http://", "port", "http://"),
        ("http://:3128", "is empty", "http://"),
        ("http://127.1:3128", "no address", "http://"),
        ("http://0x7f000001:3128", "no address", "http://"),
        ("http://a b:3128", "not a host name", "http://"),
        ("http://[::1:3128", "port", "http://"),
        ("http://[proxy]x:3128", "", "http://"),
    ] {
        let (reason, said) = parse(bad).expect_err(bad);
        assert!(reason.contains(what) && said.contains(hint), "{bad}: {reason}; {said}");
    }
}

#[test]
fn a_login_is_read_and_never_told() {
    let login = |text: &str| match parse(text).unwrap_or_else(|why| panic!("{why:?}")).user {
        User::None => String::new(),
        User::Name(name) => format!("name {}", name.reveal()),
        User::Login(login) => format!("login {}", login.reveal()),
    };
    assert_eq!(login("http://ada@proxy:1"), "name ada");
    assert_eq!(login("http://CORP%5Cada:p%40ss%3Aw%2Frd@proxy:1"), "login CORP\\ada:p@ss:w/rd");
    assert_eq!(login("http://ada:p@ss@proxy:1"), "login ada:p@ss");
    assert_eq!(login("http://ada:@proxy:1"), "login ada:");
    for bad in [
        "http://ada:sesame/x@proxy:1",
        "http://ada:sesame%zz@proxy:1",
        "http://ada:sesame%0ax@proxy:1",
        "http://a%3Ada:sesame@proxy:1",
        "http://:sesame@proxy:1",
        "http://ada:sesame@proxy",
        "http://ada:sesame@proxy:99999",
        "ada:sesame@proxy:1",
        "socks5://ada:sesame@proxy:1",
    ] {
        let said = format!("{:?}", parse(bad).expect_err(bad));
        assert!(!said.contains("sesame"), "{said}");
    }
    assert!(!format!("{:?}", parse("http://ada:sesame@proxy:1")).contains("sesame"));
}

#[test]
fn what_is_reached_directly() {
    let said = |text: &str| match direct(text).unwrap_or_else(|why| panic!("{text}: {why}")) {
        Direct::Name(text) | Direct::Network(text) => text,
    };
    for (text, expected) in [
        ("localhost", "localhost"),
        ("Git.Corp.Example", "git.corp.example"),
        (".corp.example", "**.corp.example"),
        ("*.corp.example", "*.corp.example"),
        ("**.corp.example", "**.corp.example"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.1.2.3", "10.1.2.3/32"),
        ("::1", "::1/128"),
        ("[::1]", "::1/128"),
        ("fd00::/8", "fd00::/8"),
    ] {
        assert_eq!(said(text), expected, "{text}");
    }
    for bad in ["*", "http://a.b", "a.b:443", "10.0.0.1/8", "a b", "*.*.b", "127.1", "a..b", "*b.c"]
    {
        assert!(direct(bad).is_err(), "{bad}");
    }
}

#[test]
fn a_file_of_authorities_holds_them_and_nothing_else() {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).expect("a certificate").pem();
    let two = format!("words before\n{ca}\n{ca}");
    assert_eq!(certificates(two.as_bytes()).map(|all| all.len()), Ok(2));
    let key = key.serialize_pem();
    for (bad, why) in [
        (String::new(), "no certificate"),
        ("MIIB".to_owned(), "no certificate"),
        (format!("{ca}\n{key}"), "private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n".to_owned(), "number 1"),
        (format!("{ca}-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n"), "number 2"),
    ] {
        let said = certificates(bad.as_bytes()).expect_err(&bad);
        assert!(said.contains(why), "{said}");
    }
}

#[test]
fn logins_are_found_in_whatever_is_no_yaml() {
    let text = "name: x\nproxy: {url: http://ada:sesame@proxy:1, url\n# see https://a.b\n";
    let found: Vec<&str> = logins(text).into_iter().map(|range| &text[range]).collect();
    assert_eq!(found, ["ada:sesame"]);
}
