//! The edit of the tree that a yes means. Pure.

pub mod entry;

use super::delta::Expected;
use super::record::Record;
use crate::manifest::edit::{self, Edit, Item};
use crate::model::Moment;
use crate::model::supervise::{Ask, CapabilityAsk, CredentialAsk, EgressAsk, Problem, What};

/// What the operator says beside yes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// The grant ends then.
    pub until: Option<Moment>,
    /// So the operator said it, where that counts from now: a moment later it is another moment, and the same word.
    pub within: Option<std::time::Duration>,
    /// These methods, rather than those that were asked for.
    pub methods: Option<Vec<String>>,
    /// These paths.
    pub paths: Option<Vec<String>>,
    /// Every path of the host.
    pub whole_host: bool,
    /// The name of the token. It never comes from an agent.
    pub token_ref: Option<String>,
    /// Also where that is not set, which holds every sandbox of the bottle.
    pub even_unset: bool,
    /// The word to the agent.
    pub message: Option<String>,
    /// The entry that is added, in the operator's own words.
    pub entry: Option<Item>,
}

/// What is granted, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proposal {
    /// What is granted.
    pub granted: Ask,
    /// The edits of the bottle's file; none where only a pass is needed.
    pub edits: Vec<Edit>,
    /// What they are to change.
    pub expected: Expected,
    /// In a few words, for the commit.
    pub title: String,
}

/// Why a request cannot be granted like this.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotProposed {
    /// An option that is for something else.
    #[error("{0} is not for this request")]
    Option(&'static str),
    /// The name of the token is missing.
    #[error("which token? `--token-ref NAME` names the variable of this machine that holds it")]
    Token,
    /// What the agent wrote is no such value.
    #[error("what was asked for cannot be written into the manifest: {0}")]
    Value(String),
    /// What the operator wrote is no entry for it.
    #[error("the entry is not for this request: {0}")]
    Entry(String),
    /// No edit says it.
    #[error(
        "no field of the manifest says `{0}` by itself: change the bottle, and tell the agent with \
         `bottle requests resolve {1} --message TEXT`"
    )]
    ByHand(&'static str, String),
}

/// The proposal for a request; `text` is what its bottle's file says.
///
/// # Errors
/// [`NotProposed`].
pub fn propose(record: &Record, terms: &Terms, text: &str) -> Result<Proposal, NotProposed> {
    let proposal = as_asked(record, terms, text)?;
    match &terms.entry {
        Some(entry) => entry::instead(record, &proposal, entry),
        None => Ok(proposal),
    }
}

fn as_asked(record: &Record, terms: &Terms, text: &str) -> Result<Proposal, NotProposed> {
    match &record.ask {
        Ask::Egress(ask) => {
            if terms.token_ref.is_some() {
                return Err(NotProposed::Option("--token-ref"));
            }
            Ok(egress(ask, terms))
        }
        Ask::Credential(ask) => {
            no_paths(terms)?;
            credential(ask, terms, text)
        }
        Ask::Capability(ask) => {
            no_paths(terms)?;
            if terms.until.is_some() {
                return Err(NotProposed::Option("--until"));
            }
            if terms.token_ref.is_some() {
                return Err(NotProposed::Option("--token-ref"));
            }
            capability(record, ask)
        }
    }
}

fn no_paths(terms: &Terms) -> Result<(), NotProposed> {
    match () {
        () if terms.methods.is_some() => Err(NotProposed::Option("--methods")),
        () if terms.paths.is_some() => Err(NotProposed::Option("--paths")),
        () if terms.whole_host => Err(NotProposed::Option("--whole-host")),
        () => Ok(()),
    }
}

fn set(entries: &mut Vec<(String, Item)>, key: &str, item: Item) {
    entries.push((key.to_owned(), item));
}

fn until(entries: &mut Vec<(String, Item)>, terms: &Terms) {
    if let Some(until) = terms.until {
        set(entries, "expires", Item::text(until.in_seconds()));
    }
}

fn egress(ask: &EgressAsk, terms: &Terms) -> Proposal {
    let mut granted = ask.clone();
    if let Some(methods) = &terms.methods {
        granted.methods = methods.clone();
    }
    if let Some(paths) = &terms.paths {
        granted.paths = paths.clone();
    }
    if terms.whole_host {
        granted.paths = Vec::new();
    }
    let mut entries = Vec::new();
    set(&mut entries, "host", Item::text(&*granted.host));
    if granted.port != 443 {
        set(&mut entries, "port", Item::Number(granted.port.to_string()));
    }
    if !granted.methods.is_empty() {
        set(&mut entries, "methods", Item::texts(granted.methods.iter().cloned()));
    }
    if !granted.paths.is_empty() {
        set(&mut entries, "paths", Item::texts(granted.paths.iter().cloned()));
    }
    until(&mut entries, terms);
    let plain = granted.methods.is_empty() && granted.paths.is_empty() && terms.until.is_none();
    let item = match (plain, granted.port) {
        (true, 443) => Item::text(&*granted.host),
        (true, port) => Item::text(format!("{}:{port}", granted.host)),
        (false, _) => Item::Map(entries),
    };
    let field = format!("egress.allowlist.{}:{}", granted.host, granted.port);
    Proposal {
        title: format!("allow {granted}"),
        granted: Ask::Egress(granted),
        edits: vec![Edit::append(&["egress", "allowlist"], item)],
        expected: Expected { fields: [field].into(), variables: false },
    }
}

fn credential(ask: &CredentialAsk, terms: &Terms, text: &str) -> Result<Proposal, NotProposed> {
    let granted = Ask::Credential(ask.clone());
    if ask.problem == Problem::Rejected {
        for (given, name) in
            [(terms.token_ref.is_some(), "--token-ref"), (terms.until.is_some(), "--until")]
        {
            if given {
                return Err(NotProposed::Option(name));
            }
        }
        let title = format!("give {} its credential anew", ask.host);
        return Ok(Proposal { granted, edits: Vec::new(), expected: Expected::default(), title });
    }
    let token = terms.token_ref.as_deref().ok_or(NotProposed::Token)?;
    let path = route_path(&ask.host, text)?;
    let port = if ask.port == 443 { String::new() } else { format!(":{}", ask.port) };
    let mut entries = Vec::new();
    set(&mut entries, "path", Item::text(&*path));
    set(&mut entries, "upstream", Item::text(format!("https://{}{port}{}", ask.host, ask.path)));
    set(&mut entries, "auth_scheme", Item::text("Bearer"));
    set(&mut entries, "token_ref", Item::text(token));
    if let Some(role) = &ask.role {
        set(&mut entries, "role", Item::text(&**role));
    }
    until(&mut entries, terms);
    let mut fields = std::collections::BTreeSet::from([format!("cred_proxy.routes.{path}.")]);
    if let Some(role) = &ask.role {
        fields.insert(format!("{role}."));
    }
    Ok(Proposal {
        title: format!("route {path} to {}", ask.host),
        granted,
        edits: vec![Edit::append(&["cred_proxy", "routes"], Item::Map(entries))],
        expected: Expected { fields, variables: ask.role.is_some() },
    })
}

/// `/api/` for `api.example.com`; another where that is taken.
fn route_path(host: &str, text: &str) -> Result<String, NotProposed> {
    let unreadable = |error: edit::EditError| NotProposed::Value(error.to_string());
    let routes = edit::look(text, &["cred_proxy", "routes"]).map_err(unreadable)?;
    let taken = |path: &str| match &routes {
        Item::List(routes) => {
            routes.iter().any(|route| route.get("path") == Some(&Item::text(path)))
        }
        _ => false,
    };
    let label = host.split('.').next().unwrap_or("route");
    let paths =
        std::iter::once(format!("/{label}/")).chain((2..).map(|n| format!("/{label}-{n}/")));
    let mut free = paths.filter(|path| !taken(path));
    free.next().ok_or(NotProposed::Token)
}

fn capability(record: &Record, ask: &CapabilityAsk) -> Result<Proposal, NotProposed> {
    let wrong = |what: &str| NotProposed::Value(what.to_owned());
    let value = ask.value.trim();
    let number = |text: &str| {
        !text.is_empty()
            && text.len() <= 12
            && text.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    let (path, item) = match ask.what {
        What::Memory | What::Disk => {
            let amount = crate::manifest::amount(value);
            amount.ok_or_else(|| wrong("expected an amount such as `512M` or `4G`"))?;
            (["resources", ask.what.as_str()], Item::text(value))
        }
        What::Cpus | What::Pids if number(value) => {
            (["resources", ask.what.as_str()], Item::Number(value.to_owned()))
        }
        What::Cpus | What::Pids => return Err(wrong("expected a number")),
        What::Env => {
            let (name, value) =
                ask.value.split_once('=').ok_or_else(|| wrong("expected NAME=value"))?;
            let named = name.bytes().enumerate().all(|(at, b)| {
                b == b'_' || b.is_ascii_alphabetic() || (at > 0 && b.is_ascii_digit())
            });
            if name.is_empty() || !named {
                return Err(wrong("a name has letters, digits and `_`"));
            }
            if crate::model::text::first_unseen(value, "").is_some() {
                return Err(wrong("the value holds what is not seen"));
            }
            // What is asked for is asked of the operator, and not of an agent.
            if value == "?" {
                return Err(wrong("`?` stands for a value that is asked for"));
            }
            (["env", name], Item::text(value))
        }
        What::Image | What::Mount | What::Package | What::Tool | What::Other => {
            return Err(NotProposed::ByHand(ask.what.as_str(), record.id.to_string()));
        }
    };
    let field = path.join(".");
    Ok(Proposal {
        title: format!("{} is asked for by {}", field, record.sandbox),
        granted: record.ask.clone(),
        edits: vec![Edit::set(&path, item)],
        expected: Expected {
            fields: std::collections::BTreeSet::from([field]),
            variables: ask.what == What::Env,
        },
    })
}
