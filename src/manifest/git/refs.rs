//! Which refs of an upstream may be what: patterns, as people write them and as they are compared.

use crate::manifest::field::{Field, Section};
use crate::manifest::source::Findings;
use crate::model::policy::GitRefs;
use crate::model::policy::git::{SANDBOX, listed};

/// The longest name of a ref that may be pushed.
const LONGEST: usize = 200;

/// Reads what a bottle says of an upstream's refs.
pub(super) fn read(section: &Section<'_>, findings: &mut Findings<'_>) -> GitRefs {
    let mut list = |key: &'static str, check: Check| {
        section.get(key).map(|field| patterns(&field, check, findings))
    };
    let default = GitRefs::default();
    let refs = GitRefs {
        push: list("Push", pattern).unwrap_or(default.push),
        force: list("Force", pattern).unwrap_or_default(),
        delete: list("Delete", pattern).unwrap_or_default(),
        also: list("Refs", mirrored).unwrap_or_default(),
    };
    let rewrites = refs.rewrites();
    for (key, patterns, works) in
        [("Force", &refs.force, &rewrites[..]), ("Delete", &refs.delete, refs.deletes())]
    {
        let idle: Vec<String> =
            patterns.iter().filter(|pattern| !works.contains(pattern)).cloned().collect();
        if let (false, Some(field)) = (idle.is_empty(), section.get(key)) {
            let what = format!("`{}` has no effect: {}", listed(&idle, ""), why(&refs));
            findings.add(field.warning(what));
        }
    }
    refs
}

/// Why a pattern of a ref that may be rewritten or deleted may have none.
fn why(refs: &GitRefs) -> &'static str {
    if refs.push.is_empty() { "`Push` lets nothing be pushed" } else { "`Push` has no such ref" }
}

type Check = fn(&str) -> Result<String, String>;

fn patterns(field: &Field<'_>, check: Check, findings: &mut Findings<'_>) -> Vec<String> {
    let mut kept: Vec<String> = Vec::new();
    for (index, node) in field.list(findings).unwrap_or_default().iter().enumerate() {
        let item = field.item(index, node);
        let Some(text) = item.word(findings) else { continue };
        match check(text) {
            Err(reason) => findings.add(item.refused(text, &reason).hint(
                "write `agent/*` for branches, `refs/tags/v*` for others; `*` stands for anything, `{sandbox}` for \
                 the sandbox's name",
            )),
            Ok(pattern) if kept.contains(&pattern) => {
                findings.add(item.warning(format!("`{text}` stands here twice")));
            }
            Ok(pattern) => kept.push(pattern),
        }
    }
    kept
}

/// The whole pattern: `agent/*` is short for `refs/heads/agent/*`.
fn pattern(text: &str) -> Result<String, String> {
    if text == "HEAD" {
        return Err("is no branch: name the branch".into());
    }
    let whole = match text.starts_with("refs/") {
        true => text.to_owned(),
        false => format!("refs/heads/{text}"),
    };
    // What stands for it is a plain name.
    let shown = whole.replace(SANDBOX, "sandbox");
    if shown.contains(['{', '}']) {
        return Err(format!("has braces: only `{SANDBOX}` stands for something"));
    }
    if shown.len() > LONGEST {
        return Err(format!("is longer than {LONGEST} characters"));
    }
    let odd = |c: char| c.is_control() || !c.is_ascii() || " ~^:?[\\".contains(c);
    if shown.contains(odd) || shown.contains("..") || shown.ends_with('.') {
        return Err("is no name that git takes for a ref".into());
    }
    if shown.contains("**") {
        return Err("has `**`: one `*` stands for any number of parts".into());
    }
    let parts: Vec<&str> = shown.split('/').collect();
    let bad = |part: &&str| {
        part.is_empty()
            || part.starts_with(['.', '-'])
            || part.ends_with(".lock")
            || *part == "HEAD"
    };
    if parts.iter().any(bad) {
        return Err(
            "has a part that is empty, begins with `.` or `-`, ends with `.lock`, or is `HEAD`"
                .into(),
        );
    }
    match parts[..] {
        ["refs", namespace, _, ..] if !namespace.contains('*') => Ok(whole),
        _ => Err("names no namespace: `refs/heads/…`, `refs/tags/…`, `refs/notes/…`".into()),
    }
}

/// A pattern that is fetched beside branches and tags.
fn mirrored(text: &str) -> Result<String, String> {
    let whole = pattern(text)?;
    if !text.starts_with("refs/")
        || ["refs/heads/", "refs/tags/"].iter().any(|own| text.starts_with(own))
    {
        return Err("is fetched anyway: branches and tags are".into());
    }
    if whole.matches('*').count() > 1 {
        return Err("has more than one `*`, and git fetches by one".into());
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_whole_names() {
        for (text, whole) in [
            ("agent/*", "refs/heads/agent/*"),
            ("agent/{sandbox}/*", "refs/heads/agent/{sandbox}/*"),
            ("main", "refs/heads/main"),
            ("*", "refs/heads/*"),
            ("refs/tags/v*", "refs/tags/v*"),
            ("refs/notes/commits", "refs/notes/commits"),
        ] {
            assert_eq!(pattern(text).as_deref(), Ok(whole));
        }
        for bad in [
            "HEAD",
            "a/HEAD",
            "refs/heads/HEAD",
            "refs/*",
            "refs/heads",
            "refs/*/x",
            "",
            "a//b",
            "/a",
            "a/",
            "-x",
            "a/-x",
            ".a",
            "a.lock",
            "a..b",
            "a b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a[b]",
            "a\\b",
            "a.",
            "{agent}/*",
            "a/**",
            "ä",
            "a\nb",
            "a\u{7f}",
        ] {
            assert!(pattern(bad).is_err(), "{bad}");
        }
        assert!(pattern(&"a".repeat(300)).is_err());
    }

    #[test]
    fn more_is_fetched_by_one_star() {
        assert_eq!(mirrored("refs/pull/*/head").as_deref(), Ok("refs/pull/*/head"));
        for bad in ["refs/pull/*/*", "refs/heads/x", "x", "refs/tags/*"] {
            assert!(mirrored(bad).is_err(), "{bad}");
        }
    }
}
