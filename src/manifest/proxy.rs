//! `proxy` of `bottle.yaml`: by which proxy sidecars reach upstreams.

use std::net::IpAddr;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::Zeroizing;

use super::cred_proxy::token;
use super::field::{Field, Section, shorten};
use super::guard::Guard;
use super::host;
use super::keys::{Key, Shape, Table};
use super::source::{Findings, shorten_path};
use super::tree::{self, Dir, Kind, Links, ReadError};
use super::yaml::Value;
use crate::model::policy::{CaFile, Hidden, Login, Proxy, Resolve, TokenSource};
use crate::model::{Place, SpecHash, Use};

/// The keys of `proxy`.
pub(super) static TABLE: Table = Table {
    what: "`proxy`",
    keys: &[
        Key::required(
            "url",
            Shape::Text(Some("^https?://")),
            "`http://host:port`, or `https://host:port` of a proxy that speaks TLS",
        ),
        Key::new(
            "password_ref",
            Shape::Text(Some(host::ENV_NAME)),
            "the name of its password: in the `--env-file`, else of the host's variable that holds it; where the URL names no user, of `user:password`",
        ),
        Key::new(
            "password_from",
            Shape::Section(&PASSWORD),
            "instead of `password_ref`: a command that writes the password, or a file that holds it",
        ),
        Key::new(
            "no_proxy",
            Shape::List(&Shape::Text(None)),
            "what is reached without it: `host`, `*.host`, `**.host`, `10.0.0.0/8`",
        ),
        Key::new(
            "ca",
            Shape::Text(None),
            "a file of certificates in PEM that are trusted as well: the authority of a proxy that looks into TLS",
        ),
        Key::new(
            "resolve",
            Shape::Word(&["here", "proxy"]),
            "who resolves the names of upstreams (default `here`, where every address is checked)",
        ),
    ],
    removed: &[],
    instead: &[
        ("https_proxy", "use `url`"),
        ("http_proxy", "use `url`"),
        ("noproxy", "use `no_proxy`"),
        ("exclude", "use `no_proxy`"),
        ("user", "write it into the URL: `http://user@host:port`"),
        ("username", "write it into the URL: `http://user@host:port`"),
        ("password", "use `password_ref` or `password_from`: a tree holds no password"),
        ("token_ref", "use `password_ref`"),
        ("token_from", "use `password_from`"),
        ("cafile", "use `ca`"),
        ("ca_file", "use `ca`"),
    ],
};

/// The keys of `password_from`.
static PASSWORD: Table = Table {
    what: "`password_from`",
    keys: &[
        Key::new(
            "command",
            Shape::List(&Shape::Text(None)),
            "a program and its arguments: what it writes to its standard output is the password",
        ),
        Key::new("file", Shape::Text(None), "a file that holds the password and nothing else"),
    ],
    removed: &[],
    instead: token::INSTEAD,
};

/// Larger than any bundle of certificates.
const MAX_CA: u64 = 2 << 20;

/// Reads it. What is wrong is told, and holds the whole tree.
pub(super) fn read(
    field: &Field<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<Proxy> {
    if let Value::Text(text) = &field.node.value {
        let problem = field.mismatch("a map with the key `url`").secret();
        let hint = match text.contains('@') {
            true => "write `proxy: {url: …}`".to_owned(),
            false => format!("write `proxy: {{url: {:?}}}`", shorten(text)),
        };
        findings.add(problem.hint(hint));
        return None;
    }
    let section = field.section(&TABLE, findings)?;
    let url = section.get("url");
    let place = url.as_ref().map_or(field.span(), Field::span);
    let (line, column) = findings.source().position(place.start);
    let place = Place { file: findings.source().name().to_owned(), line, column };
    let at = url.and_then(|field| location(&field, findings));
    let choices = [("here", Resolve::Here), ("proxy", Resolve::Proxy)];
    let resolve = section.get("resolve").and_then(|field| field.choice(&choices, findings));
    let resolve = resolve.unwrap_or_default();
    let no_proxy = section
        .get("no_proxy")
        .map(|field| no_proxy(&field, resolve, findings))
        .unwrap_or_default();
    let ca = section.get("ca").and_then(|field| ca(&field, guard, findings));
    let user = at.as_ref().map_or(&User::None, |at| &at.user);
    let login = login(&section, user, guard, findings);
    let At { secure, host, port, .. } = at?;
    Some(Proxy { host, port, secure, login: login?, no_proxy, ca, resolve, place })
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct At {
    secure: bool,
    host: String,
    port: u16,
    user: User,
}

/// What stands before the `@`.
#[derive(Debug, PartialEq, Eq)]
enum User {
    None,
    Name(Hidden),
    /// `user:password`.
    Login(Hidden),
}

fn location(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<At> {
    let text = field.word(findings)?;
    match parse(text) {
        Ok(at) => Some(at),
        Err((reason, hint)) => {
            let problem = match text.contains('@') {
                true => field.error(format!("this URL {reason}")).secret(),
                false => field.error(format!("`{}` {reason}", shorten(text))),
            };
            findings.add(problem.hint(hint));
            None
        }
    }
}

/// Reads a URL, or says what is wrong with it and what to write. Nothing that is said holds what stands before
/// an `@`.
fn parse(text: &str) -> Result<At, (String, String)> {
    const FORM: &str = "expected `http://host:port`";
    let wrong = |reason: &str| (reason.to_owned(), FORM.to_owned());
    let (secure, rest) = match text.split_once("://") {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
        Some((scheme, _)) if scheme.to_ascii_lowercase().starts_with("socks") => {
            let hint = "only HTTP proxies are spoken to, by CONNECT; many SOCKS proxies have a port for that";
            return Err(("is a SOCKS proxy".to_owned(), hint.to_owned()));
        }
        Some(_) => return Err(wrong("is neither an `http://` nor an `https://` URL")),
        None if text.contains('@') => return Err(wrong("has no scheme")),
        None => {
            return Err(("has no scheme".to_owned(), format!("write `http://{}`", shorten(text))));
        }
    };
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    if login.is_some_and(|login| login.contains(['/', '?', '#'])) {
        let hint =
            "write `/` as `%2F`, `?` as `%3F`, `#` as `%23`, `@` as `%40` in a user or a password";
        return Err((
            "has a user or a password with a `/`, `?` or `#`".to_owned(),
            hint.to_owned(),
        ));
    }
    let place = place.strip_suffix('/').unwrap_or(place);
    if place.contains(['/', '?', '#']) {
        return Err(wrong("has a path: a proxy is a host and a port"));
    }
    let (name, digits) = match place.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, rest)) => (address, rest.strip_prefix(':')),
        None => match place.split_once(':') {
            Some((name, digits)) => (name, Some(digits)),
            None => (place, None),
        },
    };
    let port = match digits {
        Some(digits) => host::port(digits)
            .ok_or_else(|| wrong("has a port that is not a number from 1 to 65535"))?,
        None => {
            let hint = format!("write it: `http://{}:3128`, or whichever it is", shorten(place));
            let reason = "names no port, and programs disagree about which it is then";
            return Err((reason.to_owned(), hint));
        }
    };
    let host = match name.parse::<IpAddr>() {
        Ok(address) => address.to_string(),
        Err(_) => host::dns_name(name).map_err(|reason| {
            let reason =
                if host::looks_numeric(name) { "is no address".to_owned() } else { reason };
            (format!("has a host that {reason}"), FORM.to_owned())
        })?,
    };
    let user = match login {
        None => User::None,
        Some(login) => user(login).map_err(wrong)?,
    };
    Ok(At { secure, host, port, user })
}

fn user(login: &str) -> Result<User, &'static str> {
    let (name, password) = match login.split_once(':') {
        Some((name, password)) => (name, Some(password)),
        None => (login, None),
    };
    let broken = "has a `%` in its user or password that begins no encoded character: write `%25`";
    let name = decoded(name).ok_or(broken)?;
    if name.is_empty() {
        return Err("has an `@` and no user before it");
    }
    if name.contains(':') || name.chars().any(char::is_control) {
        return Err("has a user with a `:` or a control character, which no login can hold");
    }
    let Some(password) = password else {
        return Ok(User::Name(Hidden::new(name.to_string())));
    };
    let password = decoded(password).ok_or(broken)?;
    if password.chars().any(char::is_control) {
        return Err("has a password with a control character, which no login can hold");
    }
    Ok(User::Login(Hidden::new(format!("{}:{}", *name, *password))))
}

/// Without percent-encoding.
fn decoded(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte != b'%' {
            bytes.push(*byte);
            continue;
        }
        let (digits, after) = rest.split_at_checked(2)?;
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return None;
        }
        bytes.push(u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?);
        rest = after;
    }
    std::str::from_utf8(&bytes).ok().map(|text| Zeroizing::new(text.to_owned()))
}

/// `None`: what is wrong was told.
fn login(
    section: &Section<'_>,
    user: &User,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<Login> {
    let (name, from) = (section.get("password_ref"), section.get("password_from"));
    let given = name.as_ref().or(from.as_ref());
    if let (User::Login(_), Some(given)) = (user, given) {
        let message = "the URL has a password, and here is where another one comes from";
        findings.add(given.error(message).hint("leave one of them out"));
        return None;
    }
    let of = |user: &User| match user {
        User::Name(name) => Some(name.clone()),
        User::None | User::Login(_) => None,
    };
    match (name, from) {
        (Some(_), Some(from)) => {
            let message = "`password_from` stands instead of `password_ref`, and both are here";
            findings.add(from.error(message).hint("keep one of them"));
            None
        }
        (Some(field), None) => {
            let name = match &field.node.value {
                Value::Text(text) if host::is_env_name(text) => Some(text.clone()),
                _ => None,
            };
            if name.is_none() {
                // It may be the password itself.
                let problem = field.error("this cannot name an environment variable").hint(
                    "`password_ref` is the name of the host's variable, never the password itself",
                );
                findings.add(problem.secret());
            }
            Some(Login::Referred { user: of(user), name: name?, from: None })
        }
        (None, Some(field)) => {
            let from = token::source(&field, &PASSWORD, guard, findings)?;
            let name = named(&from.source);
            Some(Login::Referred { user: of(user), name, from: Some(from) })
        }
        (None, None) => Some(match user {
            User::None => Login::None,
            User::Login(login) => Login::Written(login.clone()),
            // A user without a password is one with an empty one.
            User::Name(name) => Login::Written(Hidden::new(format!("{}:", name.reveal()))),
        }),
    }
}

/// A name for a password that the manifest gives none.
fn named(source: &TokenSource) -> String {
    format!("password_of_the_proxy_{}", SpecHash::of_bytes(source.to_string().as_bytes()).short())
}

fn no_proxy(field: &Field<'_>, resolve: Resolve, findings: &mut Findings<'_>) -> Vec<String> {
    if let Value::Text(text) = &field.node.value {
        let items: Vec<&str> = text.split(',').map(str::trim).filter(|it| !it.is_empty()).collect();
        let hint = format!("write [{}]", shorten(&items.join(", ")));
        findings.add(field.mismatch("a list").hint(hint));
        return Vec::new();
    }
    let mut all = Vec::new();
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        let text = match &node.value {
            // An address without quotes may read as a number.
            Value::Number(text) => text.as_str(),
            _ => match item.word(findings) {
                Some(text) => text,
                None => continue,
            },
        };
        match direct(text) {
            Ok(Direct::Network(_)) if resolve == Resolve::Proxy => {
                let message = format!(
                    "`{}` is a network, and with `resolve: proxy` no address of an upstream is known here",
                    shorten(text)
                );
                findings.add(item.error(message).hint("name the hosts: `**.corp.example`"));
            }
            Ok(Direct::Name(text) | Direct::Network(text)) => all.push(text),
            Err(reason) => findings.add(item.error(format!("`{}` {reason}", shorten(text)))),
        }
    }
    all
}

/// In its one form.
#[derive(Debug, PartialEq, Eq)]
enum Direct {
    Name(String),
    Network(String),
}

fn direct(text: &str) -> Result<Direct, String> {
    if text == "*" {
        return Err("is everything: then leave `proxy` out".to_owned());
    }
    if text.contains("://") {
        return Err("has a scheme: name only the host".to_owned());
    }
    if text.contains('/') {
        let (address, length) = host::cidr(text)?;
        return Ok(Direct::Network(format!("{address}/{length}")));
    }
    if let Ok(address) = text.trim_matches(['[', ']']).parse::<IpAddr>() {
        let length = if address.is_ipv4() { 32 } else { 128 };
        return Ok(Direct::Network(format!("{address}/{length}")));
    }
    if text.contains(':') {
        return Err("has a port: without the proxy all ports of a host are reached".to_owned());
    }
    let (prefix, name) = match (text.strip_prefix("**."), text.strip_prefix("*.")) {
        (Some(name), _) => ("**.", name),
        (None, Some(name)) => ("*.", name),
        // As the variable of that name has it.
        (None, None) => match text.strip_prefix('.') {
            Some(name) => ("**.", name),
            None => ("", text),
        },
    };
    Ok(Direct::Name(format!("{prefix}{}", host::dns_name(name)?)))
}

fn ca(field: &Field<'_>, guard: &Guard<'_>, findings: &mut Findings<'_>) -> Option<CaFile> {
    let text = field.word(findings)?;
    let relative = !text.starts_with(['/', '~', '.']);
    let text = if relative { format!("./{text}") } else { text.to_owned() };
    let path = match host::host_path(&text, guard.base, guard.home) {
        Ok(path) => path,
        Err(reason) => {
            findings.add(field.error(reason));
            return None;
        }
    };
    let path = guard.resolve(field, &path, Use::Define, findings).unwrap_or(path);
    let read = || -> Result<Vec<u8>, ReadError> {
        let path = tree::canonical(&path)?;
        let (folder, name) =
            path.parent().zip(path.file_name()).ok_or(ReadError::Kind(Kind::Folder))?;
        Ok(Dir::open(folder, Links::Follow)?.read(name, MAX_CA)?.0)
    };
    let shown = shorten_path(&path);
    let found = read().map_err(|error| error.to_string());
    match found.and_then(|bytes| certificates(&bytes)) {
        Ok(certificates) => Some(CaFile { path, certificates: certificates.into() }),
        Err(reason) => {
            let problem = field.error(format!("`{shown}`: {reason}"));
            findings.add(problem.hint(
                "expected certificates of authorities in PEM, `-----BEGIN CERTIFICATE-----`, as \
                 whoever runs the proxy gives them out",
            ));
            None
        }
    }
}

/// The certificates of a file, each of which can be trusted.
fn certificates(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    if PrivateKeyDer::from_pem_slice(bytes).is_ok() {
        return Err("it holds a private key, which belongs elsewhere".to_owned());
    }
    let mut all = Vec::new();
    for found in CertificateDer::pem_slice_iter(bytes) {
        let number = all.len() + 1;
        let der = found.map_err(|_| format!("its certificate number {number} is broken"))?;
        if webpki::anchor_from_trusted_cert(&der).is_err() {
            return Err(format!("its certificate number {number} cannot be read"));
        }
        all.push(der.to_vec());
    }
    if all.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(all) }
}

/// Where in a file a login may stand, whether or not the file can be read: no message shows it.
pub(super) fn logins(text: &str) -> Vec<std::ops::Range<usize>> {
    let mut all = Vec::new();
    let mut start = 0;
    for line in text.split_inclusive('\n') {
        if let Some(scheme) = line.find("://")
            && let Some(at) = line.rfind('@').filter(|at| *at > scheme)
        {
            all.push(start + scheme + 3..start + at);
        }
        // It is no key, which is told; what somebody wrote behind it is not.
        if let Some(at) = line.find("password:") {
            all.push(start + at + "password:".len()..start + line.trim_end().len());
        }
        start += line.len();
    }
    all
}

#[cfg(test)]
mod tests;
