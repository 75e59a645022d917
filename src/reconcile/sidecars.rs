//! What sidecars are given: the sandboxes' own authorities, kept in the state folder, and the
//! credentials, read from the environment when they are needed and kept in memory only.
#![expect(
    clippy::disallowed_methods,
    reason = "reads the environment, the clock and the state folder"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::state::{State, TreeState, make_private, read_json, write_json};
use crate::apply::{Certificate, Secret, SidecarDocument, Sidecars};
use crate::model::access::{MICROVM_GATEWAY, SIDECAR_NAME};
use crate::model::policy::RulesFile;
use crate::model::{Desired, Diagnostic, SandboxId, SidecarSpec};
use crate::sidecar::PolicyPart;
use crate::sidecar::ca::{self, RENEW_BEFORE};
use crate::sidecar::dlp::{Rules, SHORTEST};
use crate::sidecar::document::{self, CaPart, Document};

/// The values of the variables that credential routes refer to, by name, where they are set.
#[derive(Default)]
pub struct Credentials(BTreeMap<String, Secret>);

impl Credentials {
    /// Reads those that the tree refers to. One that no header can carry holds its sandboxes.
    pub fn gather(desired: &mut Desired, state: &State) -> Self {
        let names: BTreeSet<String> = desired
            .sandboxes
            .values()
            .flat_map(|spec| &spec.policy.routes)
            .map(|route| route.token_ref.clone())
            .collect();
        let mut found = BTreeMap::new();
        for name in names {
            let Some(value) = std::env::var_os(&name).filter(|value| !value.is_empty()) else {
                continue;
            };
            let value = value.into_string().map(Zeroizing::new);
            match value {
                Ok(value) if !value.bytes().all(|byte| byte.is_ascii_graphic()) => {
                    hold(desired, &name, "cannot stand in a header", GRAPHIC);
                }
                Ok(value) if value.len() < SHORTEST => {
                    let what = format!(
                        "has {} bytes: in less than {SHORTEST} nobody can tell a leak from chance",
                        value.len()
                    );
                    hold(desired, &name, &what, "use a longer token");
                }
                Ok(value) => {
                    let digest = state.digest(&name, &value);
                    found.insert(name, Secret { value, digest });
                }
                Err(_) => hold(desired, &name, "is not UTF-8", GRAPHIC),
            }
        }
        Self(found)
    }

    /// Their keyed digests, by name.
    #[must_use]
    pub fn digests(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|(name, secret)| (name.clone(), secret.digest.clone())).collect()
    }
}

const GRAPHIC: &str = "set it to the token alone: printable ASCII, no blanks, no line end";

/// Nothing is done for the sandboxes that use a credential that cannot be used.
fn hold(desired: &mut Desired, name: &str, what: &str, hint: &str) {
    let users = desired.sandboxes.values();
    let users = users.filter(|spec| spec.policy.routes.iter().any(|r| r.token_ref == name));
    for id in users.map(|spec| spec.id.clone()).collect::<Vec<_>>() {
        let Some(spec) = desired.sandboxes.remove(&id) else { continue };
        let message = format!(
            "the value of {name}, which a route of bottle {} refers to, {what}",
            spec.bottle
        );
        let hint = Some(hint.to_owned());
        let diagnostic = Diagnostic { hint, ..Diagnostic::error(spec.source, message) };
        desired.diagnostics.push(diagnostic.clone());
        desired.held.insert(id, vec![diagnostic]);
    }
}

/// Holds the sandboxes whose bottle names a file of leak rules that does not hold. Each file is tried
/// once.
pub fn check_rules(desired: &mut Desired) {
    let mut tried: BTreeMap<PathBuf, Option<Diagnostic>> = BTreeMap::new();
    let named: Vec<(SandboxId, RulesFile)> = desired
        .sandboxes
        .values()
        .filter_map(|spec| Some((spec.id.clone(), spec.policy.egress.dlp_rules.clone()?)))
        .collect();
    for (id, file) in named {
        let found = tried.entry(file.path.clone()).or_insert_with(|| {
            let error = Rules::from_toml(&file.text).err()?;
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
    line.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// An authority as the state folder keeps it: 0600, one file a sandbox.
#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(flatten)]
    ca: CaPart,
    fingerprint: String,
    /// Seconds since the epoch.
    not_after: u64,
}

/// The authorities of one tree's sandboxes.
#[derive(Debug, Clone)]
pub struct Authorities {
    memory: TreeState,
}

impl Authorities {
    /// Those that this folder keeps.
    #[must_use]
    pub fn of(memory: &TreeState) -> Self {
        Self { memory: memory.clone() }
    }

    fn path(&self, sandbox: &SandboxId) -> std::path::PathBuf {
        self.memory.dir().join("ca").join(format!("{sandbox}.json"))
    }

    /// The one that is in force, where there is one that needs no renewal yet. One that cannot be
    /// read is as good as none: it is made anew.
    fn in_force(&self, sandbox: &SandboxId) -> Option<Kept> {
        let kept: Kept = read_json(&self.path(sandbox)).ok()??;
        let due = Duration::from_secs(kept.not_after).checked_sub(RENEW_BEFORE)?;
        (SystemTime::now().duration_since(UNIX_EPOCH).ok()? < due).then_some(kept)
    }

    /// Fingerprints of those in force, of these sandboxes.
    #[must_use]
    pub fn fingerprints<'a>(
        &self,
        sandboxes: impl Iterator<Item = &'a SandboxId>,
    ) -> BTreeMap<SandboxId, String> {
        sandboxes.filter_map(|id| Some((id.clone(), self.in_force(id)?.fingerprint))).collect()
    }

    fn obtain(&self, sandbox: &SandboxId) -> anyhow::Result<Kept> {
        if let Some(kept) = self.in_force(sandbox) {
            return Ok(kept);
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is wrong")?;
        let made = ca::generate(sandbox.as_str())
            .with_context(|| format!("making the certificate authority of {sandbox}"))?;
        let kept = Kept {
            fingerprint: ca::fingerprint(&made.certificate)?,
            ca: made,
            not_after: (now + ca::LIFETIME).as_secs(),
        };
        make_private(&self.memory.dir().join("ca"))?;
        write_json(&self.path(sandbox), &kept, true)?;
        Ok(kept)
    }

    /// Removes those of sandboxes that are no more.
    ///
    /// # Errors
    /// When the state folder cannot be read or written.
    pub fn sweep(&self, wanted: &BTreeSet<&SandboxId>) -> anyhow::Result<()> {
        let folder = self.memory.dir().join("ca");
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            entries => entries.with_context(|| format!("reading {}", folder.display()))?,
        };
        for entry in entries {
            let path = entry.with_context(|| format!("reading {}", folder.display()))?.path();
            let name = path.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
            if !wanted.iter().any(|sandbox| sandbox.as_str() == name) {
                fs::remove_file(&path).with_context(|| format!("removing {}", path.display()))?;
            }
        }
        Ok(())
    }
}

/// Where the documents of this run come from.
pub struct Documents<'a> {
    authorities: Authorities,
    credentials: &'a Credentials,
    /// Of the host, in DER and base64; read when the first document is asked for.
    roots: OnceLock<Vec<String>>,
}

impl<'a> Documents<'a> {
    /// Documents with these credentials.
    #[must_use]
    pub fn new(memory: &TreeState, credentials: &'a Credentials) -> Self {
        Self { authorities: Authorities::of(memory), credentials, roots: OnceLock::new() }
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

impl Sidecars for Documents<'_> {
    fn document(&self, spec: &SidecarSpec) -> anyhow::Result<SidecarDocument> {
        let authority = self.authorities.obtain(&spec.sandbox)?;
        let mut credentials = BTreeMap::new();
        let mut digests = BTreeMap::new();
        for route in &spec.policy.routes {
            let name = &route.token_ref;
            let secret = self.credentials.0.get(name);
            let secret = secret.with_context(|| format!("the value of {name} is no longer set"))?;
            credentials.insert(name.clone(), document::Secret::new(secret.value.to_string()));
            digests.insert(name.clone(), secret.digest.clone());
        }
        let mut document = Document {
            version: document::VERSION,
            sandbox: spec.sandbox.to_string(),
            policy: PolicyPart::from(&*spec.policy),
            names: ["127.0.0.1", "localhost", SIDECAR_NAME, MICROVM_GATEWAY]
                .map(str::to_owned)
                .to_vec(),
            forbidden: Vec::new(),
            ca: Some(authority.ca),
            roots: self.roots().to_vec(),
            credentials,
            resolver: Vec::new(),
            #[cfg(any(test, feature = "testing"))]
            testing: document::Testing::default(),
        };
        for_tests(&mut document)?;
        Ok(SidecarDocument {
            bytes: Zeroizing::new(serde_json::to_vec(&document)?),
            credentials: digests,
            ca: authority.fingerprint,
        })
    }

    fn certificate(&self, sandbox: &SandboxId) -> anyhow::Result<Certificate> {
        let Kept { ca, fingerprint, .. } = self.authorities.obtain(sandbox)?;
        Ok(Certificate { pem: ca.certificate, fingerprint })
    }
}

/// The variable in which a test says where its name server, its upstreams and their authority are.
#[cfg(any(test, feature = "testing"))]
const TEST_DOCUMENT: &str = "BOTTLE_TEST_SIDECAR_DOCUMENT";

/// Lays what a test says over the document: none of it can be said to a release.
#[cfg(any(test, feature = "testing"))]
fn for_tests(document: &mut Document) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Overlay {
        #[serde(default)]
        resolver: Vec<std::net::SocketAddr>,
        #[serde(default)]
        roots: Vec<String>,
        #[serde(default)]
        testing: document::Testing,
    }
    let Some(text) = std::env::var_os(TEST_DOCUMENT) else { return Ok(()) };
    let overlay: Overlay =
        serde_json::from_slice(text.as_encoded_bytes()).context(TEST_DOCUMENT)?;
    document.resolver = overlay.resolver;
    document.roots.extend(overlay.roots);
    document.testing = overlay.testing;
    Ok(())
}

#[cfg(not(any(test, feature = "testing")))]
#[expect(clippy::unnecessary_wraps, reason = "the same shape as for tests")]
fn for_tests(_document: &mut Document) -> anyhow::Result<()> {
    Ok(())
}
