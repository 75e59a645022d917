//! The login of the tree's proxy, which every sidecar of it has in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use zeroize::Zeroizing;

use super::{Asked, Trouble, by_name};
use crate::model::policy::{Login, Proxy, TokenSource};
use crate::model::{Desired, Diagnostic};
use crate::reconcile::values::Values;

/// No login is longer.
const LONGEST: usize = 1024;

/// The proxy of the tree, where any sandbox uses it.
pub(super) fn of(desired: &Desired) -> Option<Arc<Proxy>> {
    desired.sandboxes.values().find_map(|spec| spec.sidecar.as_ref()?.proxy.clone())
}

/// Its login, `user:password`; `None` where it wants none, or where that is not at hand.
pub(super) fn login(
    proxy: &Proxy,
    given: &Values,
    asked: &BTreeMap<TokenSource, Asked>,
) -> Result<Option<Zeroizing<String>>, Box<Diagnostic>> {
    let (user, name, from) = match &proxy.login {
        Login::None => return Ok(None),
        Login::Written(login) => return Ok(Some(Zeroizing::new(login.reveal().to_owned()))),
        Login::Referred { user, name, from } => (user, name, from),
    };
    let (value, what) = match from {
        None => (by_name(name, given), format!("the value of {name}, which `proxy` refers to,")),
        Some(from) => match asked.get(&from.source) {
            None => return Ok(None),
            Some(Ok(value)) => {
                (Some(value.clone()), "what `password_from` of `proxy` gives".into())
            }
            Some(Err(trouble)) => {
                let message = format!("the password of `proxy` is not to be had: {}", trouble.what);
                return Err(told(proxy, message, &trouble.hint));
            }
        },
    };
    let Some(value) = value else { return Ok(None) };
    whole(user.as_ref().map(|user| user.reveal()), &value)
        .map(Some)
        .map_err(|trouble| told(proxy, format!("{what} {}", trouble.what), &trouble.hint))
}

/// What a login can be made of, as far as HTTP can carry it.
fn whole(user: Option<&str>, value: &str) -> Result<Zeroizing<String>, Trouble> {
    if value.chars().any(char::is_control) {
        let what = "holds a control character or a line end";
        return Err(Trouble::new(what, "it has to be the password alone, in one line"));
    }
    let login = match user {
        Some(user) => Zeroizing::new(format!("{user}:{value}")),
        None => Zeroizing::new(value.to_owned()),
    };
    if user.is_none() && login.find(':').is_none_or(|at| at == 0) {
        let hint =
            "name the user in the URL, `http://user@host:port`, or give both: `user:password`";
        return Err(Trouble::new("names no user", hint));
    }
    if login.len() > LONGEST {
        let what = format!("is longer than {LONGEST} bytes");
        return Err(Trouble::new(what, "it has to be the password and nothing else"));
    }
    Ok(login)
}

fn told(proxy: &Proxy, message: String, hint: &str) -> Box<Diagnostic> {
    let field = match proxy.login.from() {
        Some(_) => "proxy.password_from",
        None => "proxy.password_ref",
    };
    let place = proxy.login.from().map_or(&proxy.place, |from| &from.place);
    let diagnostic = Diagnostic {
        line: place.line,
        column: place.column,
        field: Some(field.to_owned()),
        ..Diagnostic::error(place.file.clone(), message)
    };
    Box::new(diagnostic.with_hint(hint))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_has_a_user_and_stands_in_one_line() {
        let made = |user, value: &str| whole(user, value).map(|login| login.to_string()).ok();
        assert_eq!(made(Some("ada"), "p:w").as_deref(), Some("ada:p:w"));
        assert_eq!(made(None, "ada:p w").as_deref(), Some("ada:p w"));
        assert_eq!(made(Some("ada"), "").as_deref(), Some("ada:"));
        for (user, bad) in [(None, "secret"), (None, ":secret"), (Some("ada"), "a\nb")] {
            assert_eq!(made(user, bad), None, "{bad}");
        }
        assert_eq!(made(Some("ada"), &"x".repeat(LONGEST)), None);
    }
}
