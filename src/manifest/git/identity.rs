//! `IdentityFile` and `IdentityAgent`: by which key an upstream is spoken to, and whether it can work at all.
//!
//! Of a private key no more is read than what everybody may know: which kind of file it is, and its public half.

use std::path::Path;

use zeroize::Zeroizing;

use crate::manifest::field::{Field, Section};
use crate::manifest::guard::Guard;
use crate::manifest::source::Findings;
use crate::manifest::tree::{self, Dir, Kind, Links, ReadError};
use crate::model::Use;
use crate::model::key::{Key, parse};
use crate::model::policy::Identity;

/// No key is larger.
const LARGEST: u64 = 64 << 10;

/// Reads both keys of an upstream's section.
pub(super) fn read(
    section: &Section<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<Identity> {
    let agent = section.get("IdentityAgent").and_then(|field| agent(&field, guard, findings));
    let field = section.get("IdentityFile")?;
    let file = guard.path(&field, findings)?;
    let found = guard.resolve(&field, &file, Use::Define, findings);
    // The gate uses what was looked at here, and not whatever a link on the way leads to then.
    let used = found.as_ref().map_or(file, Clone::clone);
    let stat = found.and_then(|found| tree::stat(&found).map(|stat| (found, stat)));
    let mut identity = Identity { file: used, agent, fingerprint: None };
    match stat {
        Ok((path, stat)) if stat.kind == Kind::File => match look(&path) {
            Ok((key, beside)) => {
                let readable = stat.mode & 0o077 != 0;
                identity.fingerprint =
                    check(&field, &key, readable, identity.agent.is_some(), findings);
                identity.fingerprint = identity.fingerprint.or(beside);
            }
            Err(error) => findings
                .add(field.warning(format!("the key cannot be read on this machine: {error}"))),
        },
        Ok((_, stat)) => {
            findings.add(field.error(format!("it is {}, not a key", stat.kind.describe())));
        }
        // The tree may be checked on a machine that has no keys.
        Err(error) => findings.add(field.warning(format!(
            "the key cannot be used on this machine: {}",
            tree::describe(&error)
        ))),
    }
    Some(identity)
}

fn agent(
    field: &Field<'_>,
    guard: &Guard<'_>,
    findings: &mut Findings<'_>,
) -> Option<std::path::PathBuf> {
    let path = guard.path(field, findings)?;
    let found = guard.resolve(field, &path, Use::Define, findings);
    match found.and_then(|found| tree::stat(&found)) {
        Ok(stat) if stat.kind == Kind::Socket => {}
        Ok(stat) => findings.add(
            field
                .error(format!("it is {}, not the socket of an ssh-agent", stat.kind.describe()))
                .hint("`echo $SSH_AUTH_SOCK` says where yours is; a key of its own is better than all of yours"),
        ),
        Err(error) => findings.add(field.warning(format!(
            "the agent cannot be used on this machine: {}",
            tree::describe(&error)
        ))),
    }
    Some(path)
}

/// Says what of a key will not work, and gives its fingerprint.
fn check(
    field: &Field<'_>,
    key: &Key,
    others_read: bool,
    agent: bool,
    findings: &mut Findings<'_>,
) -> Option<String> {
    match key {
        Key::Public { fingerprint } => {
            if !agent {
                findings.add(field.warning("this is the public half of a key, and the private one is wanted").hint(
                    "leave `.pub` out; or name the socket of an ssh-agent that has it in `IdentityAgent`",
                ));
            }
            Some(fingerprint.clone())
        }
        Key::Private { fingerprint, encrypted } => {
            if *encrypted && !agent {
                findings.add(
                    field.warning("the key has a passphrase, and nobody is there who could be asked for it").hint(
                        "name the socket of an ssh-agent that has it in `IdentityAgent`, or a key of its own without \
                         a passphrase",
                    ),
                );
            }
            if others_read {
                findings.add(
                    field
                        .warning("others may read this key, and ssh uses none that they may")
                        .hint(format!("`chmod 600 {}`", text(field))),
                );
            }
            fingerprint.clone()
        }
        Key::Unknown => {
            findings.add(field.warning("this is no key that ssh would read"));
            None
        }
    }
}

fn text<'a>(field: &Field<'a>) -> &'a str {
    match &field.node.value {
        crate::manifest::yaml::Value::Text(text) => text,
        _ => "KEY",
    }
}

/// What the file is; and, where it does not say so itself, the fingerprint of the public half beside it.
fn look(path: &Path) -> Result<(Key, Option<String>), ReadError> {
    let (folder, name) =
        path.parent().zip(path.file_name()).ok_or(ReadError::Kind(Kind::Folder))?;
    let folder = Dir::open(folder, Links::Follow)?;
    let (bytes, _) = folder.read(name, LARGEST)?;
    let bytes = Zeroizing::new(bytes);
    let key = parse(std::str::from_utf8(&bytes).unwrap_or_default());
    let mut beside = name.to_owned();
    beside.push(".pub");
    let beside = match &key {
        Key::Private { fingerprint: None, .. } => folder.read(&beside, LARGEST).ok(),
        _ => None,
    };
    let beside = beside.and_then(|(bytes, _)| match parse(std::str::from_utf8(&bytes).ok()?) {
        Key::Public { fingerprint } => Some(fingerprint),
        _ => None,
    });
    Ok((key, beside))
}
