//! Which engine, and the way to it: the environment and the `docker` client's configuration.
#![expect(
    clippy::disallowed_methods,
    reason = "the one place that reads the docker client's environment and configuration"
)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use bollard::API_DEFAULT_VERSION;
use serde::Deserialize;

use super::transport::Place;
use crate::model::SpecHash;

/// Seconds that the engine has for an answer to begin; what may take longer says so.
const ANSWER_SECONDS: u64 = 120;

/// What the environment says about the engine: read once, resolved when a call needs it.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `DOCKER_HOST`.
    pub host: Option<String>,
    /// `DOCKER_CONTEXT`.
    pub context: Option<String>,
    /// `DOCKER_CONFIG`, else `~/.docker`.
    pub config_dir: Option<PathBuf>,
    /// `DOCKER_TLS_VERIFY` is set to something.
    pub tls_verify: bool,
    /// `DOCKER_CERT_PATH`.
    pub cert_path: Option<PathBuf>,
    /// `BOTTLE_SIDECAR_PROGRAM`: what sidecars run, when not this very executable.
    pub sidecar_program: Option<PathBuf>,
    /// Another build of bottle, which enters containers, for tests: the running program is theirs.
    pub helper: Option<PathBuf>,
}

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Endpoint {
    /// `unix:///var/run/docker.sock`, `tcp://…`, `ssh://…`.
    pub host: String,
    /// The folder of `ca.pem`, `cert.pem` and `key.pem`, when the connection is encrypted.
    pub certificates: Option<PathBuf>,
    /// Who named it, for messages.
    pub named_by: String,
}

impl Settings {
    /// Reads the environment.
    #[must_use]
    pub fn from_env() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let home = text("HOME").map(|home| Path::new(&home).join(".docker"));
        Self {
            host: text("DOCKER_HOST"),
            context: text("DOCKER_CONTEXT"),
            config_dir: text("DOCKER_CONFIG").map(PathBuf::from).or(home),
            tls_verify: text("DOCKER_TLS_VERIFY").is_some(),
            cert_path: text("DOCKER_CERT_PATH").map(PathBuf::from),
            sidecar_program: text("BOTTLE_SIDECAR_PROGRAM").map(PathBuf::from),
            helper: None,
        }
    }

    /// The environment of another process that is to find the same engine, on the same way.
    pub(super) fn environment(&self) -> BTreeMap<String, String> {
        // What `ssh` needs of an environment, which may be the way to the engine.
        const OF_SSH: [&str; 6] =
            ["HOME", "PATH", "USER", "LOGNAME", "SSH_AUTH_SOCK", "XDG_RUNTIME_DIR"];
        let path =
            |path: &Option<PathBuf>| path.as_ref().and_then(|p| p.to_str().map(str::to_owned));
        let own = [
            ("DOCKER_HOST", self.host.clone()),
            ("DOCKER_CONTEXT", self.context.clone()),
            ("DOCKER_CONFIG", path(&self.config_dir)),
            ("DOCKER_TLS_VERIFY", self.tls_verify.then(|| "1".to_owned())),
            ("DOCKER_CERT_PATH", path(&self.cert_path)),
        ];
        let ssh = OF_SSH.map(|name| (name, std::env::var(name).ok()));
        let all = ssh.into_iter().chain(own);
        all.filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// The endpoint, by the `docker` client's own order: `DOCKER_HOST`, `DOCKER_CONTEXT`, the
    /// current context of its configuration, the local socket.
    pub(super) fn endpoint(&self) -> Result<Endpoint, String> {
        if let Some(host) = &self.host {
            return self.by_host(host.clone(), "DOCKER_HOST");
        }
        let (context, named_by) = match &self.context {
            Some(context) => (Some(context.clone()), "DOCKER_CONTEXT".to_owned()),
            None => (self.current_context()?, "the current docker context".to_owned()),
        };
        match context.filter(|name| name != "default") {
            Some(name) => self.by_context(&name, &named_by),
            None => self.by_host("unix:///var/run/docker.sock".to_owned(), "the default"),
        }
    }

    fn by_host(&self, host: String, named_by: &str) -> Result<Endpoint, String> {
        let encrypted = host.starts_with("https://") || (self.tls_verify && is_tcp(&host));
        let certificates = self.cert_path.clone().or_else(|| self.config_dir.clone());
        let certificates = match (encrypted, certificates) {
            (false, _) => None,
            (true, Some(folder)) => Some(folder),
            (true, None) => {
                return Err(format!(
                    "{named_by} {host}: set DOCKER_CERT_PATH for its certificates"
                ));
            }
        };
        Ok(Endpoint { host, certificates, named_by: named_by.to_owned() })
    }

    fn current_context(&self) -> Result<Option<String>, String> {
        #[derive(Deserialize)]
        struct Config {
            #[serde(rename = "currentContext")]
            current_context: Option<String>,
        }
        let Some(folder) = &self.config_dir else { return Ok(None) };
        let path = folder.join("config.json");
        match read_json::<Config>(&path) {
            Ok(config) => Ok(config.current_context.filter(|name| !name.is_empty())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(format!("{}: {error}", path.display())),
        }
    }

    fn by_context(&self, name: &str, named_by: &str) -> Result<Endpoint, String> {
        #[derive(Deserialize)]
        struct Meta {
            #[serde(rename = "Endpoints")]
            endpoints: Endpoints,
        }
        #[derive(Deserialize)]
        struct Endpoints {
            docker: Option<DockerEndpoint>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "PascalCase")]
        struct DockerEndpoint {
            host: Option<String>,
            #[serde(default, rename = "SkipTLSVerify")]
            skip_tls_verify: bool,
        }
        let who = format!("{named_by} `{name}`");
        let Some(folder) = &self.config_dir else {
            return Err(format!(
                "{who} cannot be looked up: neither DOCKER_CONFIG nor HOME is set"
            ));
        };
        let id = SpecHash::of_bytes(name.as_bytes()).to_string();
        let contexts = folder.join("contexts");
        let meta = contexts.join("meta").join(&id).join("meta.json");
        let endpoint = read_json::<Meta>(&meta)
            .map_err(|error| format!("{who}: {}: {error}", meta.display()))?
            .endpoints
            .docker
            .filter(|endpoint| endpoint.host.is_some())
            .ok_or_else(|| format!("{who}: {} names no docker endpoint", meta.display()))?;
        if endpoint.skip_tls_verify {
            return Err(format!("{who} skips the check of the engine's certificate: refused"));
        }
        let host = endpoint.host.unwrap_or_default();
        let folder = contexts.join("tls").join(&id).join("docker");
        let certificates = (is_tcp(&host) && folder.is_dir()).then_some(folder);
        Ok(Endpoint { host, certificates, named_by: who })
    }
}

fn is_tcp(host: &str) -> bool {
    ["tcp://", "http://", "https://"].iter().any(|scheme| host.starts_with(scheme))
}

fn read_json<T: for<'de> Deserialize<'de>>(path: &Path) -> std::io::Result<T> {
    let bytes = std::fs::read(path)?;
    serde_json::from_slice(&bytes).map_err(std::io::Error::from)
}

impl Endpoint {
    /// As messages show it: the address, and who named it where that is not plain.
    pub(super) fn describe(&self) -> String {
        match self.named_by.as_str() {
            "the default" => self.host.clone(),
            named_by => format!("{} ({named_by})", self.host),
        }
    }

    /// The socket, when the engine is on this machine.
    pub(super) fn socket(&self) -> Option<&Path> {
        self.host.strip_prefix("unix://").map(Path::new)
    }

    /// A client of it. Nothing is sent yet.
    pub(super) fn client(&self) -> Result<bollard::Docker, String> {
        let host = self.host.as_str();
        let version = API_DEFAULT_VERSION;
        let address = || {
            let rest = host.split_once("://").map_or(host, |(_, rest)| rest);
            rest.trim_end_matches('/').to_owned()
        };
        let place = if let Some(folder) = &self.certificates {
            Place::Tls(address(), folder.clone())
        } else if let Some(path) = self.socket() {
            Place::Unix(path.to_owned())
        } else if is_tcp(host) {
            Place::Tcp(address())
        } else if host.starts_with("ssh://") {
            // Whoever answers there has shown who it is.
            let client = bollard::Docker::connect_with_ssh(host, ANSWER_SECONDS, version, None);
            return client.map_err(|error| in_words(&error));
        } else {
            return Err("expected unix://, tcp:// or ssh://".to_owned());
        };
        place.client(ANSWER_SECONDS, version).map_err(|error| in_words(&error))
    }
}

fn in_words(error: &bollard::errors::Error) -> String {
    super::error::unreachable(error).unwrap_or_else(|| super::error::words(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_config(config: &str) -> (tempfile::TempDir, Settings) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let settings =
            Settings { config_dir: Some(folder.path().to_owned()), ..Settings::default() };
        (folder, settings)
    }

    fn add_context(folder: &Path, name: &str, docker: &str) -> PathBuf {
        let id = SpecHash::of_bytes(name.as_bytes()).to_string();
        let meta = folder.join("contexts/meta").join(&id);
        std::fs::create_dir_all(&meta).unwrap();
        let text = format!(r#"{{"Name":"{name}","Metadata":{{}},"Endpoints":{{{docker}}}}}"#);
        std::fs::write(meta.join("meta.json"), text).unwrap();
        let tls = folder.join("contexts/tls").join(id).join("docker");
        std::fs::create_dir_all(&tls).unwrap();
        tls
    }

    #[test]
    fn the_host_variable_wins_over_contexts() {
        let (_folder, mut settings) = with_config(r#"{"currentContext":"nowhere"}"#);
        settings.host = Some("unix:///run/x.sock".into());
        settings.context = Some("nowhere".into());
        let endpoint = settings.endpoint().unwrap();
        assert_eq!(endpoint.socket(), Some(Path::new("/run/x.sock")));
        assert_eq!(endpoint.describe(), "unix:///run/x.sock (DOCKER_HOST)");
    }

    #[test]
    fn the_current_context_is_followed_with_its_certificates() {
        let (folder, mut settings) =
            with_config(r#"{"auths":{},"currentContext":"far","other":1}"#);
        let tls = add_context(folder.path(), "far", r#""docker":{"Host":"tcp://far:2376"}"#);
        add_context(folder.path(), "near", r#""docker":{"Host":"ssh://me@near"}"#);
        let far = settings.endpoint().unwrap();
        assert_eq!((far.host.as_str(), far.certificates), ("tcp://far:2376", Some(tls)));
        settings.context = Some("near".into());
        let near = settings.endpoint().unwrap();
        assert_eq!((near.host.as_str(), near.certificates), ("ssh://me@near", None));
        settings.context = Some("default".into());
        assert_eq!(settings.endpoint().unwrap().host, "unix:///var/run/docker.sock");
    }

    #[test]
    fn what_cannot_be_resolved_says_who_named_it() {
        let (folder, mut settings) = with_config("{}");
        assert_eq!(settings.endpoint().unwrap().describe(), "unix:///var/run/docker.sock");
        settings.context = Some("gone".into());
        let error = settings.endpoint().unwrap_err();
        assert!(error.starts_with("DOCKER_CONTEXT `gone`: "), "{error}");
        let lax = r#""docker":{"Host":"tcp://lax:2376","SkipTLSVerify":true}"#;
        add_context(folder.path(), "lax", lax);
        settings.context = Some("lax".into());
        assert!(settings.endpoint().unwrap_err().contains("refused"));
        std::fs::write(folder.path().join("config.json"), "{").unwrap();
        settings.context = None;
        assert!(settings.endpoint().unwrap_err().contains("config.json"));
    }

    #[test]
    fn verification_needs_certificates_on_tcp_only() {
        let mut settings = Settings { tls_verify: true, ..Settings::default() };
        settings.host = Some("tcp://far:2376".into());
        assert!(settings.endpoint().unwrap_err().contains("DOCKER_CERT_PATH"));
        settings.cert_path = Some("/certs".into());
        assert_eq!(settings.endpoint().unwrap().certificates, Some("/certs".into()));
        settings.host = Some("unix:///run/docker.sock".into());
        assert_eq!(settings.endpoint().unwrap().certificates, None);
    }

    #[test]
    fn a_strange_scheme_is_refused() {
        let settings = Settings { host: Some("fd://3".into()), ..Settings::default() };
        let error = settings.endpoint().unwrap().client().unwrap_err();
        assert!(error.contains("ssh://"), "{error}");
    }
}
