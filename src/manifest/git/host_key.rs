//! `KnownHostKey`: what an upstream's host has to show.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::manifest::field::{Field, shorten};
use crate::manifest::source::Findings;
use crate::manifest::yaml::Value;

const KEY_TYPES: [&str; 7] = [
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
    "sk-ssh-ed25519@openssh.com",
    "sk-ecdsa-sha2-nistp256@openssh.com",
];

/// The server that a key is of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Server<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
}

impl Server<'_> {
    /// As `known_hosts` names it.
    pub(super) fn known(&self) -> String {
        match self.port {
            22 => self.host.to_owned(),
            port => format!("[{}]:{port}", self.host),
        }
    }

    /// How its keys are asked for, and compared.
    pub(super) fn scan(&self) -> String {
        let port = if self.port == 22 { String::new() } else { format!("-p {} ", self.port) };
        let scan = format!("ssh-keyscan {port}{}", self.host);
        format!(
            "`{scan}` prints its keys, `{scan} | ssh-keygen -lf -` their fingerprints, to compare with what \
                 whoever runs it says"
        )
    }

    fn is_called(&self, name: &str) -> bool {
        name.eq_ignore_ascii_case(&self.known())
            || self.port == 22 && name.eq_ignore_ascii_case(&format!("[{}]:22", self.host))
    }
}

/// One key, or a list of them.
pub(super) fn read(
    field: &Field<'_>,
    server: Option<Server<'_>>,
    findings: &mut Findings<'_>,
) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    let mut add = |item: &Field<'_>, findings: &mut Findings<'_>| {
        let Some(text) = item.word(findings) else { return };
        match parse(text, server) {
            Err(refused) => findings.add(item.error(refused.message).hint(refused.hint)),
            Ok(key) if keys.contains(&key) => {
                findings.add(item.warning("this key stands here twice"))
            }
            Ok(key) => keys.push(key),
        }
    };
    match &field.node.value {
        Value::List(items) => {
            for (index, node) in items.iter().enumerate() {
                add(&field.item(index, node), findings);
            }
        }
        _ => add(field, findings),
    }
    keys
}

struct Refused {
    message: String,
    hint: String,
}

/// `type base64`, of that or of a line of `known_hosts`.
fn parse(text: &str, server: Option<Server<'_>>) -> Result<String, Refused> {
    let scan = server.map(|server| server.scan());
    let scan = || {
        let plain = "expected `ssh-ed25519 AAAA…`, as `ssh-keyscan HOST` prints it after the host";
        scan.clone().unwrap_or_else(|| plain.to_owned())
    };
    let refused = |message: &str| Refused { message: message.to_owned(), hint: scan() };
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (kind, body) = match words[..] {
        [first, ..] if first.starts_with("SHA256:") || first.starts_with("MD5:") => {
            return Err(refused("this is a fingerprint, and the key itself is wanted"));
        }
        [first, ..] if first.starts_with('@') => {
            return Err(refused("this is a line of known_hosts with a mark, and a key is wanted"));
        }
        [kind, body, ..] if KEY_TYPES.contains(&kind) => (kind, body),
        [names, kind, body, ..] if KEY_TYPES.contains(&kind) => {
            if names.starts_with("|1|") {
                return Err(Refused {
                    message: "the host's name is hashed in this line".to_owned(),
                    hint: format!("leave the first word out: `{kind} {}`", shorten(body)),
                });
            }
            let is_its = |server: Server<'_>| names.split(',').any(|name| server.is_called(name));
            if let Some(server) = server.filter(|server| !is_its(*server)) {
                let message = format!(
                    "this is a key of `{}`, and not of `{}`",
                    shorten(names),
                    server.known()
                );
                return Err(Refused { message, hint: scan() });
            }
            (kind, body)
        }
        _ => return Err(refused("this is not an SSH public key")),
    };
    match type_of(body) {
        Some(of) if of == kind => Ok(format!("{kind} {body}")),
        Some(of) => Err(refused(&format!(
            "this says it is `{kind}`, and the key in it is `{}`",
            shorten(&of)
        ))),
        None => Err(refused("this is not an SSH public key")),
    }
}

/// What a public key in base64 says it is.
fn type_of(body: &str) -> Option<String> {
    let bytes = STANDARD.decode(body).ok()?;
    let (length, rest) = bytes.split_at_checked(4)?;
    let length = u32::from_be_bytes(length.try_into().ok()?);
    let kind = rest.get(..usize::try_from(length).ok()?)?;
    // There is more to a key than its type.
    (rest.len() > kind.len() + 4).then(|| String::from_utf8(kind.to_vec()).ok())?
}

/// The keys of this server in a `known_hosts`, as far as it names hosts in the clear: each as a manifest takes it.
pub(super) fn known(text: &str, server: Server<'_>) -> Vec<String> {
    let plain = |line: &&str| !line.starts_with(['#', '@', '|']) && !line.trim().is_empty();
    let lines = text.lines().filter(plain);
    let ours = lines.filter(|line| {
        line.split(' ')
            .next()
            .is_some_and(|names| names.split(',').any(|name| server.is_called(name)))
    });
    ours.filter_map(|line| parse(line, Some(server)).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str =
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    fn server(port: u16) -> Option<Server<'static>> {
        Some(Server { host: "git.example", port })
    }

    #[test]
    fn a_key_and_a_line_of_known_hosts() {
        for (text, port) in [
            (KEY.to_owned(), 22),
            (format!("{KEY} a comment"), 22),
            (format!("git.example {KEY}"), 22),
            (format!("other,git.example,10.0.0.1 {KEY} x"), 22),
            (format!("[git.example]:2222 {KEY}"), 2222),
            (format!("[GIT.example]:22 {KEY}"), 22),
        ] {
            assert_eq!(parse(&text, server(port)).ok().as_deref(), Some(KEY), "{text}");
        }
    }

    #[test]
    fn what_is_no_key_of_this_host_is_refused() {
        let body = KEY.split_once(' ').unwrap().1;
        for (text, about) in [
            ("SHA256:+DiY3wvvV6TuJJhbpZisF/zLDA0zPMSvHdkr4UvCOqU".to_owned(), "fingerprint"),
            (format!("other.example {KEY}"), "not of `git.example`"),
            (format!("[git.example]:2222 {KEY}"), "not of `git.example`"),
            (format!("@cert-authority *.example {KEY}"), "mark"),
            (format!("|1|abc=|def= {KEY}"), "hashed"),
            (format!("ssh-rsa {body}"), "`ssh-ed25519`"),
            ("ssh-ed25519 AAAA".to_owned(), "not an SSH public key"),
            ("ssh-ed25519".to_owned(), "not an SSH public key"),
            ("no key at all".to_owned(), "not an SSH public key"),
            (body.to_owned(), "not an SSH public key"),
        ] {
            let Err(refused) = parse(&text, server(22)) else { panic!("{text}") };
            assert!(refused.message.contains(about), "{text}: {}", refused.message);
        }
        let Err(refused) = parse("SHA256:x", server(2222)) else { panic!() };
        assert!(refused.hint.contains("ssh-keyscan -p 2222 git.example | ssh-keygen -lf -"));
    }

    #[test]
    fn the_operator_s_own_line_is_found() {
        let text = format!("# x\n|1|a|b {KEY}\nother {KEY}\ngit.example,10.0.0.1 {KEY}\n");
        assert_eq!(known(&text, server(22).unwrap()), [KEY]);
        assert!(known(&text, server(2222).unwrap()).is_empty());
    }
}
