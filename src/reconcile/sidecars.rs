//! What sidecars are given: the sandboxes' own authorities, and the credentials (`tokens`).
#![expect(clippy::disallowed_methods, reason = "reads the environment and the clock")]

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use super::authorities::Authorities;
use super::gates;
use super::names::{HostNames, Told};
use super::requests;
use super::state::TreeState;
use super::tokens::Credentials;
use crate::apply::{Certificate, SidecarDocument, Sidecars};
use crate::model::access::{MICROVM_GATEWAY, SIDECAR_NAME};
use crate::model::policy::{PROXY_LOGIN, Proxy, Resolve, RulesFile};
use crate::model::{BackendKind, Desired, Diagnostic, GateSpec, SandboxId, Severity, SidecarSpec};
use crate::sidecar::PolicyPart;
use crate::sidecar::dlp::Rules;
use crate::sidecar::document::{self, Document, ProxyPart};

/// Holds the sandboxes whose bottle names a file of leak rules that does not hold, or makes an exception
/// from a rule that is in none. Each file is tried once, and each exception is told once.
pub fn check_rules(desired: &mut Desired) {
    let mut own: BTreeMap<PathBuf, BTreeSet<String>> = BTreeMap::new();
    check_files(desired, &mut own);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let today = time::OffsetDateTime::UNIX_EPOCH + now;
    let today = today.date().to_string();
    let mut told: BTreeSet<Diagnostic> = BTreeSet::new();
    let mut held = Vec::new();
    for (id, spec) in &desired.sandboxes {
        let egress = &spec.policy.egress;
        let own = egress.dlp_rules.as_ref().and_then(|file| own.get(&file.path));
        let own = || own.into_iter().flatten().map(String::as_str);
        let allow = egress.dlp_allow.iter();
        let allow = allow.map(|allow| (&allow.rule, &allow.expires, &allow.places));
        let pushed = spec.policy.git.iter().flat_map(|upstream| &upstream.allow);
        let pushed = pushed.map(|allow| (&allow.rule, &allow.expires, &allow.places));
        for (rule, expires, [rule_place, day_place]) in allow.chain(pushed) {
            let wrong = unknown_rule(rule, rule_place, || Rules::builtin().ids().chain(own()));
            let over = expires.as_ref().filter(|day| **day < today).map(|day| Diagnostic {
                severity: Severity::Warning,
                message: format!(
                    "the exception for `{rule}` is over since {day}: it excuses nothing"
                ),
                hint: Some("remove it, or write a later day".to_owned()),
                ..(**day_place).clone()
            });
            held.extend(wrong.iter().map(|wrong| (id.clone(), wrong.clone())));
            told.extend(wrong.into_iter().chain(over));
        }
    }
    desired.diagnostics.extend(told);
    for (id, wrong) in held {
        desired.sandboxes.remove(&id);
        desired.held.entry(id).or_default().push(wrong);
    }
}

/// What is wrong with an exception from a rule that none of these is.
fn unknown_rule<'r, I: Iterator<Item = &'r str>>(
    rule: &str,
    place: &Diagnostic,
    ids: impl Fn() -> I,
) -> Option<Diagnostic> {
    if ids().any(|id| id == rule) {
        return None;
    }
    // A page and the log write it so.
    let meant = rule.strip_prefix("dlp:").unwrap_or(rule);
    let meant = crate::manifest::nearest(meant, ids());
    Some(Diagnostic {
        message: format!(
            "`{}` is no leak rule, neither a built-in one nor one of `egress.dlp_rules`",
            crate::model::text::harmless_line(rule)
        ),
        label: meant.map(|meant| format!("did you mean `{meant}`?")),
        hint: Some(
            "write what a refusal says behind `dlp:`; nothing excuses the value of a credential"
                .to_owned(),
        ),
        ..place.clone()
    })
}

fn check_files(desired: &mut Desired, own: &mut BTreeMap<PathBuf, BTreeSet<String>>) {
    let mut tried: BTreeMap<PathBuf, Option<Diagnostic>> = BTreeMap::new();
    let named: Vec<(SandboxId, RulesFile)> = desired
        .sandboxes
        .values()
        .filter_map(|spec| Some((spec.id.clone(), spec.policy.egress.dlp_rules.clone()?)))
        .collect();
    for (id, file) in named {
        let found = tried.entry(file.path.clone()).or_insert_with(|| {
            let error = match Rules::from_toml(&file.text) {
                Ok(rules) => {
                    own.insert(file.path.clone(), rules.ids().map(str::to_owned).collect());
                    return None;
                }
                Err(error) => error,
            };
            let rule = error.rule.map(|rule| format!("rule `{rule}`: ")).unwrap_or_default();
            let message = format!("{rule}{}", error.what);
            let hint = "no sandbox whose `egress.dlp_rules` names this file is touched until it is set right";
            let diagnostic = Diagnostic {
                line: error.line,
                column: 1,
                hint: Some(hint.to_owned()),
                source_line: file.text.lines().nth(error.line.saturating_sub(1)).map(visible),
                width: 1,
                ..Diagnostic::error(file.path.display().to_string(), message)
            };
            desired.diagnostics.push(diagnostic.clone());
            Some(diagnostic)
        });
        if let Some(diagnostic) = found {
            desired.sandboxes.remove(&id);
            desired.held.insert(id, vec![diagnostic.clone()]);
        }
    }
}

/// A line that can be shown: control characters are replaced.
fn visible(line: &str) -> String {
    crate::model::text::harmless_line(line)
}

/// Where the documents of this run come from.
pub struct Documents<'a> {
    authorities: Authorities,
    credentials: &'a Credentials,
    /// Of the host, in DER and base64; read when the first document is asked for.
    roots: Roots,
    names: BTreeMap<BackendKind, Told>,
    requests: Arc<requests::Told>,
}

/// The certificates that this machine trusts, read when they are first asked for.
pub type Roots = Arc<OnceLock<Vec<String>>>;

impl<'a> Documents<'a> {
    /// Documents with these credentials, with what the host says about names, with what is told of requests, and
    /// with roots that runs share which belong together.
    #[must_use]
    pub fn sharing(
        memory: &TreeState,
        credentials: &'a Credentials,
        roots: Roots,
        names: BTreeMap<BackendKind, Told>,
        requests: Arc<requests::Told>,
    ) -> Self {
        Self { authorities: Authorities::of(memory), credentials, roots, names, requests }
    }

    fn roots(&self) -> &[String] {
        self.roots.get_or_init(|| {
            let found = rustls_native_certs::load_native_certs();
            for error in &found.errors {
                tracing::debug!(%error, "a trusted certificate of this machine cannot be read");
            }
            found.certs.iter().map(|certificate| STANDARD.encode(certificate)).collect()
        })
    }
}

impl Documents<'_> {
    /// The proxy, with its login.
    fn proxy(
        &self,
        proxy: &Proxy,
        digests: &mut BTreeMap<String, String>,
    ) -> anyhow::Result<ProxyPart> {
        let mut login = None;
        if let Some(name) = proxy.login.name() {
            let secret = self.credentials.get(PROXY_LOGIN);
            let secret =
                secret.with_context(|| format!("the password {name} is no longer at hand"))?;
            login = Some(document::Secret::new(secret.value.to_string()));
            digests.insert(PROXY_LOGIN.to_owned(), secret.digest.clone());
        }
        Ok(ProxyPart {
            host: proxy.host.clone(),
            port: proxy.port,
            secure: proxy.secure,
            login,
            no_proxy: proxy.no_proxy.clone(),
            by_name: proxy.resolve == Resolve::Proxy,
        })
    }
}

impl Sidecars for Documents<'_> {
    fn document(
        &self,
        spec: &SidecarSpec,
        backend: BackendKind,
    ) -> anyhow::Result<SidecarDocument> {
        let told = self.names.get(&backend);
        let authority = self.authorities.obtain(&spec.sandbox)?;
        let mut credentials = BTreeMap::new();
        let mut digests = BTreeMap::new();
        for route in &spec.policy.routes {
            let name = &route.token_ref;
            let secret = self.credentials.get(name);
            let secret =
                secret.with_context(|| format!("the token {name} is no longer at hand"))?;
            credentials.insert(name.clone(), document::Secret::new(secret.value.to_string()));
            digests.insert(name.clone(), secret.digest.clone());
        }
        let proxy =
            spec.proxy.as_deref().map(|proxy| self.proxy(proxy, &mut digests)).transpose()?;
        let more_roots = spec.proxy.iter().filter_map(|proxy| proxy.ca.as_ref());
        let more_roots =
            more_roots.flat_map(|ca| ca.certificates.iter().map(|it| STANDARD.encode(it)));
        let supervise = spec.policy.supervise;
        let mut document = Document {
            version: document::VERSION,
            sandbox: authority.name(&spec.sandbox).to_string(),
            policy: PolicyPart::from(&*spec.policy),
            names: ["127.0.0.1", "localhost", SIDECAR_NAME, MICROVM_GATEWAY]
                .map(str::to_owned)
                .to_vec(),
            forbidden: Vec::new(),
            ca: Some(authority.ca),
            roots: self.roots().to_vec(),
            more_roots: more_roots.collect(),
            proxy,
            credentials,
            resolver: told.map(|told| told.resolver.clone()).unwrap_or_default(),
            hosts: told.and_then(|told| told.hosts.clone()),
            supervise: supervise.then(|| {
                let mut section = self.requests.section(&spec.sandbox, backend);
                let asks = spec.policy.asks.as_ref();
                section.config = asks.map(|asks| asks.config(&spec.policy, backend));
                section
            }),
            #[cfg(any(test, feature = "testing"))]
            testing: document::Testing::default(),
        };
        for_tests(&mut document)?;
        Ok(SidecarDocument {
            bytes: Zeroizing::new(serde_json::to_vec(&document)?),
            credentials: digests,
            ca: Some(authority.fingerprint),
            names: told.map(|told| told.summary.clone()),
            requests: match supervise {
                true => self.requests.decisions(&spec.sandbox),
                false => BTreeMap::new(),
            },
        })
    }

    fn gate(&self, spec: &GateSpec) -> anyhow::Result<SidecarDocument> {
        Ok(SidecarDocument {
            bytes: Zeroizing::new(serde_json::to_vec(&gates::document(spec))?),
            credentials: BTreeMap::new(),
            ca: None,
            names: None,
            requests: BTreeMap::new(),
        })
    }

    fn certificate(&self, sandbox: &SandboxId) -> anyhow::Result<Certificate> {
        let kept = self.authorities.obtain(sandbox)?;
        Ok(Certificate { pem: kept.ca.certificate, fingerprint: kept.fingerprint })
    }
}

/// The variable in which a test says where its name server, its upstreams and their authority are.
#[cfg(any(test, feature = "testing"))]
const TEST_DOCUMENT: &str = "BOTTLE_TEST_SIDECAR_DOCUMENT";

/// What a test may say.
#[cfg(any(test, feature = "testing"))]
#[derive(Default, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Overlay {
    #[serde(default)]
    resolver: Vec<std::net::SocketAddr>,
    #[serde(default)]
    hosts: Option<String>,
    #[serde(default)]
    roots: Vec<String>,
    #[serde(default)]
    testing: document::Testing,
}

#[cfg(any(test, feature = "testing"))]
fn overlay() -> anyhow::Result<Option<Overlay>> {
    let Some(text) = std::env::var_os(TEST_DOCUMENT) else { return Ok(None) };
    serde_json::from_slice(text.as_encoded_bytes()).context(TEST_DOCUMENT).map(Some)
}

/// Lays what a test says over the document: none of it can be said to a release.
#[cfg(any(test, feature = "testing"))]
fn for_tests(document: &mut Document) -> anyhow::Result<()> {
    let Some(overlay) = overlay()? else { return Ok(()) };
    document.resolver = overlay.resolver;
    document.roots.extend(overlay.roots);
    document.testing = overlay.testing;
    Ok(())
}

/// What a test says that the host says about names, which has the same way to a sidecar from here on.
#[cfg(any(test, feature = "testing"))]
pub(super) fn names_for_tests(found: HostNames) -> anyhow::Result<HostNames> {
    let Some(overlay) = overlay()? else { return Ok(found) };
    let (resolver, reachable) = (overlay.resolver.clone(), overlay.resolver);
    Ok(HostNames { resolver, reachable, hosts: overlay.hosts.or(found.hosts) })
}

#[cfg(not(any(test, feature = "testing")))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as for tests")]
fn for_tests(_document: &mut Document) -> anyhow::Result<()> {
    Ok(())
}

#[cfg(not(any(test, feature = "testing")))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as for tests")]
pub(super) fn names_for_tests(found: HostNames) -> anyhow::Result<HostNames> {
    Ok(found)
}
