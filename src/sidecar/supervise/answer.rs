//! What an agent is told: one text, whose first word says how it stands.

use super::evidence::Refusal;
use super::queue::{DENIED, Entry, Outcome};
use crate::model::Moment;
use crate::model::supervise::{Ask, EgressAsk, RequestId, Standing, What};

/// How a request stands.
#[must_use]
pub fn of(entry: &Entry) -> String {
    match entry.state {
        Standing::Pending | Standing::Approved => pending(&entry.id),
        Standing::Applied => format!("applied: {}{}", granted(entry.granted()), notes(entry)),
        Standing::Denied => format!("denied: by the operator.{}", quoted(entry)),
        Standing::Expired => {
            "expired: nobody decided within 24 h. Ask again if it still matters.".to_owned()
        }
        Standing::Failed => {
            "failed: the operator approved it, and it could not be applied; the operator sees why."
                .to_owned()
        }
        Standing::Undone => {
            format!("undone: the operator has taken back what was applied.{}", quoted(entry))
        }
        Standing::Unsupported => match &entry.ask {
            Ask::Capability(ask) => format!("{}{}", unsupported(ask.what), quoted(entry)),
            _ => format!("unsupported: this sandbox cannot get this.{}", quoted(entry)),
        },
    }
}

/// It waits.
#[must_use]
pub fn pending(id: &RequestId) -> String {
    format!(
        "pending: {id} waits for the operator. It is not denied. Go on with other work; request-status \
         {{\"id\":\"{id}\"}} waits again."
    )
}

/// What progress says meanwhile.
#[must_use]
pub fn waiting(id: &RequestId) -> String {
    format!("{id} waits for the operator")
}

/// This sandbox cannot get it.
#[must_use]
pub fn unsupported(what: What) -> String {
    let what = what.as_str();
    format!(
        "unsupported: this sandbox cannot get `{what}` without being made anew by the operator."
    )
}

/// Why a question leads to no request that waits; `None`: it does.
#[must_use]
pub fn refused(outcome: &Outcome, now: Moment) -> Option<String> {
    match outcome {
        Outcome::New(_) | Outcome::Again(_) => None,
        Outcome::Denied(entry) => {
            let ago = now.seconds().saturating_sub(entry.at.seconds());
            let left = DENIED.saturating_sub(ago).div_ceil(60).max(1);
            let said = entry.message.as_ref().map(|message| format!(": \"{message}\""));
            Some(format!(
                "denied: by the operator {} min ago, for the same thing{}. It will not be asked again for {left} min.",
                ago / 60,
                said.unwrap_or_default()
            ))
        }
        Outcome::Muted(until) => {
            Some(format!("denied: the operator takes no requests until {}.", clock(*until)))
        }
        Outcome::Busy(ids) => {
            let ids: Vec<&str> = ids.iter().map(RequestId::as_str).collect();
            Some(format!(
                "busy: {} requests of this sandbox wait already ({}). Wait for one of them.",
                ids.len(),
                ids.join(", ")
            ))
        }
        Outcome::TooMany(seconds) => Some(format!(
            "busy: this sandbox has asked too often. Nothing new is asked for {} more.",
            duration(*seconds)
        )),
    }
}

/// What is asked for is allowed by now.
#[must_use]
pub fn unchanged(ask: &EgressAsk, last: Option<&Refusal>) -> String {
    let there = format!("{}:{}", ask.host, ask.port);
    let last = last.map(|last| {
        let path = last.path.as_ref().map(|path| format!(" for {path}")).unwrap_or_default();
        format!("; the last refusal was {}{path}", last.code)
    });
    format!("unchanged: {there} is allowed already{}.", last.unwrap_or_default())
}

/// One line of a list.
#[must_use]
pub fn line(entry: &Entry) -> String {
    let state = if entry.state == Standing::Approved { Standing::Pending } else { entry.state };
    let at = entry.at.in_seconds();
    format!("{state}: {} {}, {at}{}", entry.id, entry.ask, notes(entry))
}

/// What is granted, as a sentence.
fn granted(ask: &Ask) -> String {
    match ask {
        Ask::Egress(ask) => {
            let methods = if ask.methods.is_empty() {
                String::new()
            } else {
                format!(" {}", ask.methods.join(", "))
            };
            let paths: Vec<String> = ask.paths.iter().map(|path| place(path)).collect();
            let paths =
                if paths.is_empty() { String::new() } else { format!(" {}", paths.join(", ")) };
            format!("{}:{}{methods}{paths} is allowed now. Try again.", ask.host, ask.port)
        }
        Ask::Credential(ask) => {
            let port = if ask.port == 443 { String::new() } else { format!(":{}", ask.port) };
            format!(
                "requests to https://{}{port}{}/ get their credential now. Try again.",
                ask.host, ask.path
            )
        }
        Ask::Capability(_) => format!("{ask} is set now."),
    }
}

/// `below /simple/`, or the path itself.
fn place(pattern: &str) -> String {
    match pattern.strip_suffix("**") {
        Some(prefix) => format!("below {prefix}"),
        None => format!("at {pattern}"),
    }
}

fn notes(entry: &Entry) -> String {
    let until = entry.until.map(|until| format!("only until {}", clock(until)));
    let message = entry.message.as_ref().map(|message| format!("\"{message}\""));
    let notes: Vec<String> = until.into_iter().chain(message).collect();
    if notes.is_empty() { String::new() } else { format!(" [operator: {}]", notes.join("; ")) }
}

fn quoted(entry: &Entry) -> String {
    entry.message.as_ref().map(|message| format!(" \"{message}\"")).unwrap_or_default()
}

/// A moment for somebody who may be in any time zone.
fn clock(moment: Moment) -> String {
    let text = moment.in_seconds();
    match (text.get(..10), text.get(11..16)) {
        (Some(day), Some(time)) => format!("{time} UTC on {day}"),
        _ => text,
    }
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..=90 => format!("{seconds} s"),
        91..=5400 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::supervise::{CapabilityAsk, Decided, Section};
    use crate::sidecar::supervise::queue::Queue;

    fn entry(state: Standing, message: Option<&str>, until: Option<Moment>) -> Entry {
        let ask = Ask::Egress(EgressAsk {
            host: "index.example.org".into(),
            port: 443,
            methods: vec!["GET".into(), "HEAD".into()],
            paths: vec!["/simple/**".into()],
        });
        let id = RequestId::of([7; 5]);
        let message = message.map(str::to_owned);
        let at = Moment::of_seconds(1_796_059_524);
        let decided = Decided { id: id.clone(), ask, state, granted: None, until, message, at };
        let section = Section { requests: vec![decided], ..Section::default() };
        let mut queue = Queue::default();
        queue.sync(&section, 1);
        queue.get(&id, at).unwrap().clone()
    }

    #[test]
    fn the_first_word_is_the_state() {
        use Standing::{Applied, Approved, Denied, Expired, Failed, Pending, Undone, Unsupported};
        for state in [Pending, Applied, Denied, Expired, Failed, Undone, Unsupported] {
            let text = of(&entry(state, None, None));
            assert!(text.starts_with(&format!("{state}: ")), "{text}");
            assert_eq!(text.lines().count(), 1);
        }
        assert!(of(&entry(Approved, None, None)).starts_with("pending: "));
    }

    #[test]
    fn answers_say_what_the_contract_says() {
        assert_eq!(
            of(&entry(Standing::Applied, None, None)),
            "applied: index.example.org:443 GET, HEAD below /simple/ is allowed now. Try again."
        );
        let until = Some(Moment::of_seconds(1_796_061_600));
        assert_eq!(
            of(&entry(Standing::Applied, None, until)),
            "applied: index.example.org:443 GET, HEAD below /simple/ is allowed now. Try again. \
             [operator: only until 18:00 UTC on 2026-11-30]"
        );
        let denied =
            entry(Standing::Denied, Some("use packages.example.org, it mirrors PyPI"), None);
        assert_eq!(
            of(&denied),
            "denied: by the operator. \"use packages.example.org, it mirrors PyPI\""
        );
        let now = Moment::of_seconds(denied.at.seconds() + 250);
        assert_eq!(
            refused(&Outcome::Denied(Box::new(denied)), now).unwrap(),
            "denied: by the operator 4 min ago, for the same thing: \"use packages.example.org, it mirrors \
             PyPI\". It will not be asked again for 26 min."
        );
        let ids = vec![RequestId::of([1; 5]), RequestId::of([2; 5])];
        assert_eq!(
            refused(&Outcome::Busy(ids), now).unwrap(),
            "busy: 2 requests of this sandbox wait already (r-aeaqcaib, r-aibaeaqc). Wait for one of them."
        );
        let id = RequestId::of([1; 5]);
        assert_eq!(
            pending(&id),
            "pending: r-aeaqcaib waits for the operator. It is not denied. Go on with other work; \
             request-status {\"id\":\"r-aeaqcaib\"} waits again."
        );
        let value = "4G".to_owned();
        let ask = Ask::Capability(CapabilityAsk { what: What::Memory, value });
        assert_eq!(granted(&ask), "memory 4G is set now.");
        assert_eq!(
            unsupported(What::Disk),
            "unsupported: this sandbox cannot get `disk` without being made anew by the operator."
        );
    }

    #[test]
    fn what_is_allowed_already_says_what_was_refused() {
        let Ask::Egress(ask) = entry(Standing::Pending, None, None).ask else { panic!() };
        let last = Refusal {
            request_id: "x".into(),
            host: ask.host.clone(),
            port: 443,
            method: None,
            path: Some("/admin/x".into()),
            code: "path_not_allowed".into(),
        };
        assert_eq!(
            unchanged(&ask, Some(&last)),
            "unchanged: index.example.org:443 is allowed already; the last refusal was path_not_allowed for \
             /admin/x."
        );
        assert_eq!(unchanged(&ask, None), "unchanged: index.example.org:443 is allowed already.");
    }
}
