//! The tokens of credential routes, and the login of a proxy: from the `--env-file`, the environment, a command or a file. They are
//! had anew for every pass, kept in memory only, and what becomes of one that cannot be used is decided here.
#![expect(clippy::disallowed_methods, reason = "reads the environment")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::join_all;
use zeroize::Zeroizing;

use super::state::State;
use super::values::Values;
use crate::apply::Secret;
use crate::model::policy::{AuthScheme, CredentialRoute, PROXY_LOGIN, TokenFrom, TokenSource};
use crate::model::{Desired, Diagnostic, Observed, SandboxId, SandboxSpec};
use crate::sidecar::dlp::SHORTEST;

mod ask;
mod proxy;

pub use ask::Hung;
use ask::{had, judged};

const GRAPHIC: &str = "set it to the token alone: printable ASCII, no blanks, no line end";

/// The tokens that routes refer to, by name, as far as they are at hand.
#[derive(Default)]
pub struct Credentials(BTreeMap<String, Secret>);

/// What a command or a file gave.
type Asked = Result<Zeroizing<String>, Trouble>;

/// What is wrong with a token.
struct Trouble {
    /// As the end of a sentence.
    what: String,
    hint: String,
}

impl Trouble {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what: what.into(), hint: hint.into() }
    }
}

impl Credentials {
    /// Has those that the tree refers to, and settles what only they can tell. One that cannot be used holds its
    /// sandboxes; one that is not set is left to the plan. Without `ask`, no command and no file is asked.
    pub(super) async fn gather(
        desired: &mut Desired,
        observed: &Observed,
        given: &Values,
        ask: Option<&Hung>,
        state: &State,
    ) -> Self {
        let routes = desired.sandboxes.values().flat_map(|spec| &spec.policy.routes);
        let wanted: BTreeMap<String, Option<TokenFrom>> =
            routes.map(|route| (route.token_ref.clone(), route.token_from.clone())).collect();
        let proxy = proxy::of(desired);
        let of_proxy = proxy.iter().filter_map(|proxy| proxy.login.from());
        let sources: BTreeMap<&TokenSource, &TokenFrom> = wanted
            .values()
            .flatten()
            .chain(of_proxy)
            .filter(|_| ask.is_some())
            .map(|from| (&from.source, from))
            .collect();
        let tree = &*desired;
        let asked = sources.into_values().map(async |from| {
            let token: Asked = match judged(from, tree, observed) {
                Ok(judged) => had(from, judged, ask.unwrap_or(&Hung::default())).await,
                Err(trouble) => Err(trouble),
            };
            (from.source.clone(), token)
        });
        let asked: BTreeMap<TokenSource, Asked> = join_all(asked).await.into_iter().collect();
        let (mut found, mut troubles) = (BTreeMap::new(), BTreeMap::new());
        for (name, from) in &wanted {
            let value = match from {
                None => Ok(by_name(name, given)),
                Some(from) => match asked.get(&from.source) {
                    None => continue,
                    Some(Ok(token)) => Ok(Some(token.clone())),
                    Some(Err(trouble)) => {
                        let cannot = "is not to be had: ".to_owned() + &trouble.what;
                        Err(Trouble::new(cannot, &*trouble.hint))
                    }
                },
            };
            match value.and_then(|value| value.map(usable).transpose()) {
                Ok(None) => {}
                Ok(Some(value)) => {
                    let digest = state.digest(name, &value);
                    found.insert(name.clone(), Secret { value, digest });
                }
                Err(trouble) => {
                    troubles.insert(name.clone(), trouble);
                }
            }
        }
        let mut of_login = None;
        match proxy.as_ref().map(|proxy| proxy::login(proxy, given, &asked)) {
            None | Some(Ok(None)) => {}
            Some(Ok(Some(value))) => {
                let digest = state.digest(PROXY_LOGIN, &value);
                found.insert(PROXY_LOGIN.to_owned(), Secret { value, digest });
            }
            Some(Err(told)) => of_login = Some(*told),
        }
        let mut held = BTreeMap::new();
        for (id, spec) in &mut desired.sandboxes {
            let mut wrong = settle(spec, observed, &found, &troubles);
            let by_proxy = spec.sidecar.as_ref().is_some_and(|sidecar| sidecar.proxy.is_some());
            wrong.extend(of_login.iter().filter(|_| by_proxy).cloned());
            if !wrong.is_empty() {
                held.insert(id.clone(), wrong);
            }
        }
        for (id, wrong) in held {
            desired.sandboxes.remove(&id);
            for diagnostic in &wrong {
                // Agents share a bottle, and then its findings.
                if !desired.diagnostics.contains(diagnostic) {
                    desired.diagnostics.push(diagnostic.clone());
                }
            }
            desired.held.insert(id, wrong);
        }
        Self(found)
    }

    /// One of them.
    pub(super) fn get(&self, name: &str) -> Option<&Secret> {
        self.0.get(name)
    }

    /// Their keyed digests, by name.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, secret)| (name.clone(), secret.digest.clone())).collect()
    }
}

/// The token that has this name: as a line of the `--env-file`, else as a variable, else as a variable of the
/// names that asked-for values have.
fn by_name(name: &str, given: &Values) -> Option<Zeroizing<String>> {
    let variable = |name: &str| {
        let value = std::env::var_os(name).filter(|value| !value.is_empty())?;
        // What is not UTF-8 is told as what no header can hold, which it is.
        Some(Zeroizing::new(value.to_string_lossy().into_owned()))
    };
    let given = given.get(name).filter(|value| !value.is_empty()).cloned();
    given.or_else(|| variable(name)).or_else(|| variable(&format!("BOTTLE_ENV_{name}")))
}

/// A value that can be sent as a credential, and looked for.
fn usable(value: Zeroizing<String>) -> Result<Zeroizing<String>, Trouble> {
    if !value.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Trouble::new("cannot stand in a header", GRAPHIC));
    }
    if value.len() < SHORTEST {
        let length = value.len();
        let what = format!(
            "has {length} bytes: in less than {SHORTEST} nobody can tell a leak from chance"
        );
        return Err(Trouble::new(what, "use a longer token"));
    }
    Ok(value)
}

/// Writes into each route what its token decides, and says what is wrong with the tokens of a sandbox. Without
/// the token a route is taken to have one of the kind that was loaded last: that it is waited for is no change.
fn settle(
    spec: &mut SandboxSpec,
    observed: &Observed,
    found: &BTreeMap<String, Secret>,
    troubles: &BTreeMap<String, Trouble>,
) -> Vec<Diagnostic> {
    let mut wrong: Vec<Diagnostic> = Vec::new();
    let mut settled = false;
    for route in &mut spec.policy.routes {
        let open = route.auth_scheme == AuthScheme::OfToken;
        let misfit = match found.get(&route.token_ref) {
            Some(secret) => {
                let misfit = route.settle(&secret.value).err();
                settled |= open;
                misfit.map(|misfit| Trouble::new(misfit.what, misfit.mend))
            }
            None => {
                if open && let Some(scheme) = loaded(&spec.id, route, observed) {
                    route.auth_scheme = scheme;
                    settled = true;
                }
                None
            }
        };
        let told = troubles.get(&route.token_ref).or(misfit.as_ref());
        let told = told.map(|trouble| told_of(route, &spec.bottle, &spec.source, trouble));
        // Routes share a token, and then its findings.
        wrong.extend(told.filter(|told| !wrong.contains(told)));
    }
    if let Some(sidecar) = spec.sidecar.as_mut().filter(|_| settled) {
        sidecar.policy = Arc::new(spec.policy.clone());
    }
    wrong
}

/// How a route's last token was written that this sandbox's sidecar was loaded with.
fn loaded(sandbox: &SandboxId, route: &CredentialRoute, observed: &Observed) -> Option<AuthScheme> {
    let path = format!("cred_proxy.routes.{}.auth_scheme", route.path);
    let own = observed.receipts.values().filter(|receipt| receipt.sandbox == *sandbox);
    let schemes = [AuthScheme::Bearer, AuthScheme::ApiKey];
    own.filter_map(|receipt| receipt.fields.0.get(&path))
        .find_map(|word| schemes.iter().find(|scheme| scheme.as_str() == word).cloned())
}

/// Why nothing is done for a sandbox that uses a token which cannot be used.
fn told_of(route: &CredentialRoute, bottle: &str, agent: &str, trouble: &Trouble) -> Diagnostic {
    let what = &trouble.what;
    let diagnostic = match &route.token_from {
        None => {
            let name = &route.token_ref;
            let message =
                format!("the value of {name}, which a route of bottle {bottle} refers to, {what}");
            Diagnostic::error(agent, message)
        }
        Some(TokenFrom { place, .. }) => Diagnostic {
            line: place.line,
            column: place.column,
            field: Some("cred_proxy.routes.token_from".to_owned()),
            ..Diagnostic::error(
                place.file.clone(),
                format!("the token of a route of bottle {bottle} {what}"),
            )
        },
    };
    diagnostic.with_hint(trouble.hint.clone())
}

/// The files that tokens and a login come from; `None` where a command has to be asked.
pub(super) fn files(desired: &Desired) -> Option<BTreeSet<PathBuf>> {
    let routes = desired.sandboxes.values().flat_map(|spec| &spec.policy.routes);
    let proxy = proxy::of(desired);
    let login = proxy.iter().filter_map(|proxy| proxy.login.from());
    let from = routes.filter_map(|route| route.token_from.as_ref()).chain(login);
    from.map(|from| match &from.source {
        TokenSource::File(path) => Some(path.clone()),
        TokenSource::Command(_) => None,
    })
    .collect()
}
