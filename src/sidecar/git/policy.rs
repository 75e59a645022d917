//! What may be pushed where: one decision a ref. Pure.

use super::document::Upstream;
use super::refs::{any, is_name, short};

/// What a command of a push wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// A ref that is not there yet.
    Create,
    /// A ref moves to what has its old object among its ancestors.
    Forward,
    /// A ref moves anywhere else.
    Rewrite,
    /// A ref goes.
    Delete,
}

/// Why a ref is not pushed, as git prints it behind the ref.
pub(super) type No = String;

/// Whether a ref of this name can be pushed at all, whatever is wished for it.
pub(super) fn named(name: &str) -> Result<(), No> {
    if is_name(name) { Ok(()) } else { Err("bottle does not allow this name".to_owned()) }
}

/// Whether a wish is allowed. Called for names that passed [`named`].
pub(super) fn decide(upstream: &Upstream, name: &str, wish: Wish) -> Result<(), No> {
    if upstream.push.is_empty() {
        return Err(format!("bottle allows no push to {}", upstream.place()));
    }
    if wish == Wish::Delete {
        return match any(&upstream.delete, name) {
            true => Ok(()),
            false => Err(but("bottle does not allow deleting", &upstream.delete)),
        };
    }
    if !any(&upstream.push, name) {
        return Err(elsewhere(upstream, name));
    }
    if wish == Wish::Rewrite && !any(&upstream.force, name) {
        return Err(if name.starts_with("refs/tags/") {
            but("bottle does not allow moving a tag", &upstream.force)
        } else if upstream.force.is_empty() {
            "not fast-forward: bottle does not allow rewriting".to_owned()
        } else {
            format!("not fast-forward: bottle allows rewriting {} only", list(&upstream.force))
        });
    }
    Ok(())
}

fn but(what: &str, patterns: &[String]) -> No {
    if patterns.is_empty() {
        what.to_owned()
    } else {
        format!("{what}, but for {}", list(patterns))
    }
}

/// Names what is allowed, and the command for it.
fn elsewhere(upstream: &Upstream, name: &str) -> No {
    let allowed = format!("bottle allows pushes to {} only", list(&upstream.push));
    let last = name.strip_prefix("refs/heads/").or_else(|| name.strip_prefix("refs/tags/"));
    let stem = upstream.push.iter().find_map(|pattern| pattern.strip_suffix("/*"));
    match (last, stem.filter(|stem| stem.starts_with("refs/heads/") && !stem.contains('*'))) {
        (Some(last), Some(stem)) => {
            format!("{allowed}: git push origin HEAD:{}/{last}", short(stem))
        }
        _ => allowed,
    }
}

fn list(patterns: &[String]) -> String {
    let short: Vec<&str> = patterns.iter().map(|pattern| short(pattern)).collect();
    short.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::git::testing::upstream;

    #[test]
    fn what_is_pushed_forward_and_what_else() {
        let mut of = upstream("app");
        of.push = vec!["refs/heads/agent/ada/*".into()];
        assert_eq!(decide(&of, "refs/heads/agent/ada/x", Wish::Create), Ok(()));
        assert_eq!(
            decide(&of, "refs/heads/main", Wish::Forward).unwrap_err(),
            "bottle allows pushes to agent/ada/* only: git push origin HEAD:agent/ada/main"
        );
        let rewrite = |of: &Upstream| decide(of, "refs/heads/agent/ada/x", Wish::Rewrite);
        assert!(rewrite(&of).unwrap_err().contains("does not allow rewriting"));
        of.force = vec!["refs/heads/other/*".into()];
        assert_eq!(
            rewrite(&of).unwrap_err(),
            "not fast-forward: bottle allows rewriting other/* only"
        );
        of.force = vec!["refs/heads/agent/*".into()];
        assert_eq!(rewrite(&of), Ok(()));
        let delete = |of: &Upstream| decide(of, "refs/heads/agent/ada/x", Wish::Delete);
        assert_eq!(delete(&of).unwrap_err(), "bottle does not allow deleting");
        of.delete = vec!["refs/heads/agent/*".into()];
        assert_eq!(delete(&of), Ok(()));
        of.push.clear();
        assert!(delete(&of).unwrap_err().contains("allows no push to git@git.example.com/o/app"));
    }

    #[test]
    fn a_tag_moves_by_force_only() {
        let mut of = upstream("app");
        of.push = vec!["refs/heads/*".into(), "refs/tags/*".into()];
        let moved = |of: &Upstream| decide(of, "refs/tags/v1", Wish::Rewrite);
        assert_eq!(moved(&of).unwrap_err(), "bottle does not allow moving a tag");
        of.force = vec!["refs/tags/*".into()];
        assert_eq!(moved(&of), Ok(()));
        assert!(decide(&of, "refs/notes/x", Wish::Create).is_err(), "only if it is named");
    }
}
