//! `services` of a bottle: single ports of this machine's loopback that a sandbox may reach.

use super::field::Field;
use super::host;
use super::keys::{Key, Shape, Table};
use super::source::Findings;
use super::yaml::Value;
use crate::model::policy::Service;

/// The keys of a service.
static TABLE: Table = Table {
    what: "a service",
    keys: &[
        Key::required(
            "name",
            Shape::Text(Some("^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$")),
            "the sandbox reaches it as `NAME.host:PORT`",
        ),
        Key::required(
            "port",
            Shape::Whole { min: 1, max: 65_535 },
            "the port on 127.0.0.1 of this machine",
        ),
    ],
    removed: &[],
    instead: &[
        (
            "host",
            "a service is on 127.0.0.1 of this machine; name another host in `egress.allowlist`",
        ),
        ("url", "write `name` and `port`: a service is on 127.0.0.1 of this machine"),
    ],
};

/// What `services` may be.
pub(super) const SHAPE: Shape = Shape::List(&Shape::Section(&TABLE));

/// For editors.
pub(super) const DOC: &str = "ports on 127.0.0.1 of this machine that the sandbox reaches as `NAME.host:PORT` (not with Docker)";

/// More than that are no longer single ports.
const MOST: usize = 32;

/// Reads it.
pub(super) fn read(field: &Field<'_>, findings: &mut Findings<'_>) -> Vec<Service> {
    let mut all: Vec<Service> = Vec::new();
    let items = field.list(findings).unwrap_or_default();
    if items.len() > MOST {
        let message = format!("`services` has {} items, and takes {MOST}", items.len());
        findings.add(field.error(message).hint("name those that are needed"));
        return all;
    }
    for (index, node) in items.iter().enumerate() {
        let item = field.item(index, node);
        let Some(section) = item.section(&TABLE, findings) else { continue };
        let name = section.get("name").and_then(|field| {
            let text = field.word(findings)?;
            if !is_name(text) {
                let problem = field.refused(text, "cannot name a service");
                findings.add(problem.hint(
                    "expected lower-case letters, digits and `-`, a letter first, such as `ollama`; the sandbox \
                     asks for `ollama.host`",
                ));
                return None;
            }
            if all.iter().any(|other| other.name == text) {
                let problem = field.refused(text, "names two services");
                findings.add(problem.hint("give each port a name of its own"));
                return None;
            }
            Some(text.to_owned())
        });
        let port = section.get("port").and_then(|field| {
            let port = match &field.node.value {
                Value::Number(text) => host::port(text),
                _ => None,
            };
            if port.is_none() {
                findings.add(field.mismatch("a port from 1 to 65535"));
            }
            port
        });
        if let (Some(name), Some(port)) = (name, port) {
            all.push(Service { name, port });
        }
    }
    all
}

/// A label of a host's name that begins with a letter.
fn is_name(text: &str) -> bool {
    text.len() <= 63
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && !text.ends_with('-')
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
}

/// Why the name of a service cannot stand where DNS is asked, as the end of a sentence.
pub(super) fn refuse_reserved(name: &str) -> Result<(), String> {
    if crate::model::policy::service_of(name).is_none() {
        return Ok(());
    }
    Err("is never asked of DNS: `NAME.host` is a port of this machine, which `services: [{name, port}]` opens".into())
}
