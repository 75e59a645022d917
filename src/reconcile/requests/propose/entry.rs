//! What the operator grants in words of his own: the entry that a yes adds, as he wrote it. It has to be about what
//! was asked for; how wide it is, is his decision. Pure.

use std::collections::BTreeSet;

use super::super::delta::Expected;
use super::super::record::Record;
use super::{NotProposed, Proposal, capability};
use crate::manifest::edit::{Edit, Item};
use crate::model::Moment;
use crate::model::supervise::{Ask, CapabilityAsk, CredentialAsk, EgressAsk, What};

const HTTPS: u16 = 443;

impl Proposal {
    /// The entry that the operator may write anew, as a map; nothing where a yes adds none.
    #[must_use]
    pub fn entry(&self) -> Option<Item> {
        let [edit] = &self.edits[..] else { return None };
        let (path, value) = match edit {
            Edit::Append { path, value } | Edit::Set { path, value } => (path, value),
            Edit::Remove { .. } => return None,
        };
        let named = |key: &str, item: &Item| Item::Map(vec![(key.to_owned(), item.clone())]);
        match (edit, value, &self.granted) {
            (Edit::Set { .. }, value, _) => Some(named(path.last()?, value)),
            (_, Item::Text(_), Ask::Egress(ask)) => {
                let mut entries = vec![("host".to_owned(), Item::text(&*ask.host))];
                if ask.port != HTTPS {
                    entries.push(("port".to_owned(), Item::Number(ask.port.to_string())));
                }
                Some(Item::Map(entries))
            }
            (_, value, _) => Some(value.clone()),
        }
    }
}

/// When an entry ends, where it says so.
#[must_use]
pub fn end(entry: &Item) -> Option<Moment> {
    text_of(entry, "expires").and_then(Moment::parse)
}

/// The token that an entry names.
#[must_use]
pub fn token(entry: &Item) -> Option<String> {
    text_of(entry, "token_ref").map(str::to_owned)
}

fn text_of<'i>(entry: &'i Item, key: &str) -> Option<&'i str> {
    match entry.get(key) {
        Some(Item::Text(text)) => Some(text),
        _ => None,
    }
}

fn texts_of(entry: &Item, key: &str) -> Result<Vec<String>, NotProposed> {
    let wrong = || NotProposed::Entry(format!("`{key}` is a list of words"));
    match entry.get(key) {
        None => Ok(Vec::new()),
        Some(Item::List(items)) => items
            .iter()
            .map(|item| match item {
                Item::Text(text) => Ok(text.clone()),
                _ => Err(wrong()),
            })
            .collect(),
        Some(_) => Err(wrong()),
    }
}

/// The proposal with the operator's own entry.
pub(super) fn instead(
    record: &Record,
    proposal: &Proposal,
    entry: &Item,
) -> Result<Proposal, NotProposed> {
    match &proposal.granted {
        _ if proposal.edits.is_empty() => Err(NotProposed::Option("--edit")),
        Ask::Egress(ask) => {
            let granted = ask.clone();
            egress(granted, entry)
        }
        Ask::Credential(ask) => {
            let granted = ask.clone();
            credential(granted, entry)
        }
        Ask::Capability(ask) => {
            let value = value(ask, entry)?;
            let granted = CapabilityAsk { what: ask.what, value };
            Ok(Proposal {
                granted: Ask::Capability(granted.clone()),
                ..capability(record, &granted)?
            })
        }
    }
}

fn egress(mut granted: EgressAsk, entry: &Item) -> Result<Proposal, NotProposed> {
    let (host, port) = match entry {
        Item::Text(text) => {
            let (host, port) = text.split_once(':').unwrap_or((text, "443"));
            (host.to_owned(), port.parse::<u16>().ok())
        }
        Item::Map(_) => {
            let host = text_of(entry, "host");
            let host =
                host.ok_or_else(|| NotProposed::Entry("it has to name the `host`".to_owned()))?;
            let port = match entry.get("port") {
                None => Some(HTTPS),
                Some(Item::Number(port)) => port.parse().ok(),
                Some(_) => None,
            };
            (host.to_owned(), port)
        }
        _ => return Err(NotProposed::Entry("expected a host, or a map with `host`".to_owned())),
    };
    let port = port.ok_or_else(|| NotProposed::Entry("`port` is a number to 65535".to_owned()))?;
    if port != granted.port || !covers(&host.to_ascii_lowercase(), &granted.host) {
        return Err(NotProposed::Entry(format!(
            "it does not cover {}:{}, which was asked for",
            granted.host, granted.port
        )));
    }
    (granted.methods, granted.paths) = (texts_of(entry, "methods")?, texts_of(entry, "paths")?);
    let field = format!("egress.allowlist.{}:{port}", host.to_ascii_lowercase());
    let plain = match entry {
        Item::Map(entries) => entries.iter().all(|(key, _)| key == "host" || key == "port"),
        _ => true,
    };
    let item = match (plain, port) {
        (true, HTTPS) => Item::text(&*host),
        (true, port) => Item::text(format!("{host}:{port}")),
        (false, _) => entry.clone(),
    };
    let wider = if host == granted.host { String::new() } else { format!(" (as {host})") };
    Ok(Proposal {
        title: format!("allow {granted}{wider}"),
        granted: Ask::Egress(granted),
        edits: vec![Edit::append(&["egress", "allowlist"], item)],
        expected: Expected { fields: [field].into(), variables: false },
    })
}

/// Whether a host of the allowlist covers this name.
fn covers(pattern: &str, name: &str) -> bool {
    let labels_before = |end: &str| {
        let before = name.strip_suffix(end)?.strip_suffix('.')?;
        (!before.is_empty()).then(|| before.split('.').count())
    };
    match (pattern.strip_prefix("**."), pattern.strip_prefix("*.")) {
        (Some(end), _) => labels_before(end).is_some(),
        (_, Some(end)) => labels_before(end) == Some(1),
        _ => pattern == name,
    }
}

fn credential(mut granted: CredentialAsk, entry: &Item) -> Result<Proposal, NotProposed> {
    let has = |key: &str| {
        text_of(entry, key).ok_or_else(|| NotProposed::Entry(format!("it has to name the `{key}`")))
    };
    let (path, upstream) = (has("path")?, has("upstream")?);
    has("token_ref")?;
    let port = if granted.port == HTTPS { String::new() } else { format!(":{}", granted.port) };
    let origin = format!("https://{}{port}", granted.host);
    let rest =
        upstream.strip_prefix(&origin).filter(|rest| rest.is_empty() || rest.starts_with('/'));
    let rest = rest.ok_or_else(|| {
        NotProposed::Entry(format!("its `upstream` is not on {origin}, which was asked for"))
    })?;
    granted.path = rest.trim_end_matches('/').to_owned();
    granted.role = text_of(entry, "role").map(str::to_owned);
    let mut fields = BTreeSet::from([format!("cred_proxy.routes.{path}.")]);
    fields.extend(granted.role.iter().map(|role| format!("{role}.")));
    Ok(Proposal {
        title: format!("route {path} to {}", granted.host),
        expected: Expected { fields, variables: granted.role.is_some() },
        granted: Ask::Credential(granted),
        edits: vec![Edit::append(&["cred_proxy", "routes"], entry.clone())],
    })
}

/// What a capability's entry grants, as the agent would ask for it.
fn value(ask: &CapabilityAsk, entry: &Item) -> Result<String, NotProposed> {
    let name = match ask.what {
        What::Env => ask.value.split_once('=').map_or(&*ask.value, |(name, _)| name),
        what => what.as_str(),
    };
    let entries = match entry {
        Item::Map(entries) => &entries[..],
        _ => &[],
    };
    let value = match entries {
        [(key, Item::Text(text) | Item::Number(text))] if key == name => text,
        _ => return Err(NotProposed::Entry(format!("expected `{name}: VALUE`, and nothing else"))),
    };
    Ok(match ask.what {
        What::Env => format!("{name}={value}"),
        _ => value.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::covers;

    #[test]
    fn a_pattern_covers_what_the_sidecar_would_let_it_cover() {
        for (pattern, name, so) in [
            ("a.example", "a.example", true),
            ("a.example", "b.a.example", false),
            ("*.example", "a.example", true),
            ("*.example", "b.a.example", false),
            ("**.example", "b.a.example", true),
            ("**.example", "example", false),
            ("**.example", "anexample", false),
            ("*.example", ".example", false),
        ] {
            assert_eq!(covers(pattern, name), so, "{pattern} {name}");
        }
    }
}
