//! What gates are given: the upstreams of a sandbox, each with where its key lies. No secret is in it.

use time::{Date, Duration, Month};

use crate::model::GateSpec;
use crate::model::policy::{GitAllow, GitUpstream};
use crate::sidecar::git::document::{Document, Exception, Upstream, VERSION};

/// The document of a gate.
pub(super) fn document(spec: &GateSpec) -> Document {
    Document {
        version: VERSION,
        sandbox: spec.sandbox.to_string(),
        upstreams: spec.upstreams.iter().map(upstream).collect(),
        rules: spec.rules.as_ref().map(|rules| rules.text.to_string()),
        dlp_allow: spec.dlp_allow.iter().map(Into::into).collect(),
    }
}

fn upstream(upstream: &GitUpstream) -> Upstream {
    let refs = &upstream.refs;
    Upstream {
        name: upstream.name.clone(),
        user: upstream.user.clone(),
        host: upstream.host.clone(),
        port: upstream.port,
        path: upstream.path.clone(),
        address: upstream.address(),
        identity_file: upstream.identity.file.clone(),
        identity_fingerprint: upstream.identity.fingerprint.clone(),
        identity_agent: upstream.identity.agent.clone(),
        known_host_keys: upstream.known_host_keys.clone(),
        push: refs.push.clone(),
        force: refs.force.clone(),
        delete: refs.delete.clone(),
        refs: refs.also.clone(),
        max_push: upstream.max_push,
        max_file: upstream.max_file,
        allow: upstream.allow.iter().map(exception).collect(),
    }
}

fn exception(allow: &GitAllow) -> Exception {
    Exception {
        rule: allow.rule.clone(),
        path: allow.path.clone(),
        fingerprint: allow.fingerprint.clone(),
        reason: allow.reason.clone(),
        expires: allow.expires.as_deref().map(|day| over(day).unwrap_or_default()),
    }
}

/// The first second after this day, in seconds since the epoch.
fn over(day: &str) -> Option<u64> {
    let mut parts = day.splitn(3, '-');
    let year = parts.next()?.parse().ok()?;
    let month = Month::try_from(parts.next()?.parse::<u8>().ok()?).ok()?;
    let date = Date::from_calendar_date(year, month, parts.next()?.parse().ok()?).ok()?;
    let next = date.checked_add(Duration::DAY)?;
    u64::try_from(next.midnight().assume_utc().unix_timestamp()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Policy;
    use crate::model::policy::git::tests::upstream as example;

    #[test]
    fn an_exception_holds_for_the_whole_of_its_last_day() {
        assert_eq!(over("1970-01-01"), Some(86_400));
        assert_eq!(over("2027-01-31"), Some(1_801_440_000));
        assert_eq!(over("2027-02-30"), None);
    }

    #[test]
    fn a_document_is_of_this_sandbox() {
        let mut app = example("app", "/o/app.git");
        app.refs.push = vec!["refs/heads/agent/{sandbox}/*".to_owned()];
        app.extra_hosts.insert("git.example".to_owned(), "10.1.2.3".parse().unwrap());
        let policy = Policy { git: vec![app], ..Policy::default() };
        let spec = GateSpec::of(&"ada".parse().unwrap(), &policy).unwrap();
        let document = document(&spec);
        assert_eq!(document.upstreams[0].push, ["refs/heads/agent/ada/*"]);
        assert_eq!(document.upstreams[0].address, Some("10.1.2.3".parse().unwrap()));
        assert_eq!(document.upstreams[0].place(), spec.upstreams[0].place());
    }
}
