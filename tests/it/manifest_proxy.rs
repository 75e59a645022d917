//! `proxy` of `bottle.yaml`: what it may say, where it is wrong, and that no message holds a password.

use bottle::manifest::diagnostic::{Drawing, render_all};
use bottle::manifest::{LoadError, load};
use bottle::model::Diagnostic;
use bottle::model::policy::{Login, Resolve};

use crate::manifest::{Scratch, id, said};

fn with_egress() -> Scratch {
    let scratch = Scratch::with_good_agent();
    let bottle = "---\nimage: alpine\negress:\n  allowlist: [api.example.com]\n---\n";
    scratch.write("tree/bottles/dev.md", bottle);
    scratch
}

#[test]
fn every_sidecar_of_the_tree_is_given_it() {
    let scratch = with_egress();
    scratch.write("tree/bottles/still.md", "---\nimage: alpine\n---\n");
    scratch.write("tree/agents/still.md", "---\nbottle: still\n---\n");
    scratch.write(
        "tree/bottle.yaml",
        "name: team\nproxy:\n  url: http://ada@Proxy.Corp.Example:3128\n  password_ref: PW\n  \
         no_proxy: [.corp.example, 10.0.0.0/8]\n  resolve: here\n",
    );
    let desired = scratch.load();
    assert_eq!(said(&desired), Vec::<String>::new());
    let spec = &desired.sandboxes[&id("good")];
    let sidecar = spec.sidecar.as_ref().expect("it has egress");
    let proxy = sidecar.proxy.as_ref().expect("the tree has one");
    assert_eq!(proxy.url(), "http://proxy.corp.example:3128");
    assert_eq!(proxy.no_proxy, ["**.corp.example", "10.0.0.0/8"]);
    assert_eq!((proxy.resolve, proxy.place.line), (Resolve::Here, 3));
    assert!(matches!(&proxy.login, Login::Referred { name, from: None, .. } if name == "PW"));
    assert!(desired.sandboxes[&id("still")].sidecar.is_none());
    assert!(!format!("{desired:?}").contains("ada"), "who logs in is nobody else's");

    // What it says is part of what the sidecar is given, and of nothing else.
    let (content, made) = (sidecar.content_hash(), sidecar.hash());
    scratch
        .write("tree/bottle.yaml", "name: team\nproxy: {url: 'http://proxy.corp.example:3129'}\n");
    let desired = scratch.load();
    let other = desired.sandboxes[&id("good")].sidecar.as_ref().expect("it has egress");
    assert_ne!(other.content_hash(), content);
    assert_eq!(other.hash(), made);
}

/// What is wrong, as `line:column message`, and how it is drawn.
fn refused(scratch: &Scratch, proxy: &str) -> (Vec<String>, String) {
    scratch.write("tree/bottle.yaml", format!("name: team\nproxy:\n{proxy}"));
    let Err(LoadError::Settings { diagnostics }) = load(&scratch.options()) else {
        panic!("it loads: {proxy}")
    };
    let line = |d: &Diagnostic| format!("{}:{} {}", d.line, d.column, d.message);
    (diagnostics.iter().map(line).collect(), render_all(&diagnostics, Drawing::default()))
}

#[test]
fn what_is_wrong_is_said_with_its_place() {
    let scratch = with_egress();
    for (proxy, expected) in [
        ("  resolve: here\n", "2:1 `proxy` needs the key `url`"),
        ("  url: proxy.corp:3128\n", "3:8 `proxy.corp:3128` has no scheme"),
        ("  url: socks5://proxy.corp:1080\n", "3:8 `socks5://proxy.corp:1080` is a SOCKS proxy"),
        ("  url: http://proxy.corp\n", "3:8 `http://proxy.corp` names no port, and programs"),
        ("  url: http://p:1\n  user: ada\n", "4:3 unknown key `user`"),
        ("  url: http://p:1\n  password: sesame\n", "4:3 unknown key `password`"),
        ("  url: http://p:1\n  resolve: there\n", "4:12 `there` is none of `here`, `proxy`"),
        ("  url: http://p:1\n  no_proxy: a.b,c.d\n", "4:13 expected a list, found"),
        ("  url: http://p:1\n  no_proxy: ['*']\n", "4:14 `*` is everything: then leave"),
        ("  url: http://p:1\n  no_proxy: ['a.b:80']\n", "4:14 `a.b:80` has a port"),
        (
            "  url: http://p:1\n  no_proxy: [10.0.0.0/8]\n  resolve: proxy\n",
            "4:14 `10.0.0.0/8` is a network, and with `resolve: proxy`",
        ),
        ("  url: http://p:1\n  ca: nowhere.pem\n", "4:7 `"),
        ("  url: http://p:1\n  ca: bottle.yaml\n", "4:7 `"),
        ("  url: http://ada:sesame@p:1\n  password_ref: PW\n", "4:17 the URL has a password"),
        (
            "  url: http://p:1\n  password_ref: PW\n  password_from: {file: x}\n",
            "5:18 `password_from` stands instead",
        ),
        ("  url: http://p:1\n  password_from: {}\n", "4:18 `password_from` needs `command`"),
    ] {
        let (said, drawn) = refused(&scratch, proxy);
        assert!(said.iter().any(|line| line.starts_with(expected)), "{proxy}: {said:?}");
        assert!(!drawn.contains("sesame"), "{drawn}");
    }
}

/// C23: whatever is wrong around it, what stands before an `@` is shown by no message.
#[test]
fn no_message_holds_a_password() {
    let scratch = with_egress();
    for proxy in [
        "  url: ada:sesame@p:1\n",
        "  url: http://ada:sesame@p\n",
        "  url: http://ada:sesame@p:1/x\n",
        "  url: http://ada:ses/ame@p:1\n",
        "  url: socks5://ada:sesame@p:1\n",
        "  url: [http://ada:sesame@p:1]\n",
        "  url: http://ada:sesame@p:1: x\n",
        "  {url: http://ada:sesame@p:1, ulr: x}\n",
        "  - http://ada:sesame@p:1\n",
        "  http://ada:sesame@p:1\n",
        "  password_ref: 'sesame open'\n  url: http://p:1\n",
    ] {
        let (said, drawn) = refused(&scratch, proxy);
        for text in [said.join("\n"), drawn] {
            let shown = ["sesame", "ses/ame"].iter().any(|secret| text.contains(secret));
            // Without a scheme and a key nobody can tell it from any other text.
            assert!(!shown, "{proxy}: {text}");
        }
    }
}

#[test]
fn certificates_are_read_once_and_from_nobody_elses_file() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = with_egress();
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).expect("a certificate").pem();
    let file = scratch.write("tree/corp.pem", &pem);
    scratch.write("tree/bottle.yaml", "proxy: {url: 'http://p:1', ca: corp.pem}\n");
    let desired = scratch.load();
    let spec = &desired.sandboxes[&id("good")];
    let proxy = spec.sidecar.as_ref().and_then(|sidecar| sidecar.proxy.as_ref()).expect("one");
    assert_eq!(proxy.ca.as_ref().expect("it names one").certificates.len(), 1);
    // No sandbox may be given the folder of a file that decides whom sidecars trust.
    assert!(spec.sources.iter().any(|source| source.field == "proxy.ca"), "{:?}", spec.sources);
    let mode = |mode| std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode));
    mode(0o666).expect("it is ours");
    assert!(matches!(load(&scratch.options()), Err(LoadError::Settings { .. })));
    mode(0o644).expect("it is ours");
    scratch.write("tree/corp.pem", format!("{pem}{}", key.serialize_pem()));
    let (said, _) = refused(&scratch, "  url: http://p:1\n  ca: corp.pem\n");
    assert!(said[0].contains("private key"), "{said:?}");
}
