//! Credentials for a registry, where `docker login` keeps them.
#![expect(
    clippy::disallowed_methods,
    reason = "reads the docker client's configuration and asks its helpers"
)]

use std::collections::HashMap;
use std::path::Path;
use std::process::Stdio;

use bollard::auth::DockerCredentials;
use serde::Deserialize;
use tokio::io::AsyncWriteExt;

/// What the docker client calls its default registry.
const HUB: &str = "https://index.docker.io/v1/";

/// The user name under which a helper gives an identity token.
const TOKEN_USER: &str = "<token>";

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Config {
    auths: HashMap<String, Auth>,
    cred_helpers: HashMap<String, String>,
    creds_store: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Auth {
    auth: Option<String>,
    identitytoken: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Secret {
    username: String,
    secret: String,
}

/// The registry that a reference names.
pub(super) fn registry(reference: &str) -> &str {
    match reference.split_once('/') {
        Some(("docker.io", _)) => HUB,
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => HUB,
    }
}

/// What is known for the registry of `reference`; public images need nothing.
pub(super) async fn credentials(
    config_dir: Option<&Path>,
    reference: &str,
) -> Option<DockerCredentials> {
    let bytes = std::fs::read(config_dir?.join("config.json")).ok()?;
    let config: Config = serde_json::from_slice(&bytes).ok()?;
    let registry = registry(reference);
    if let Some(helper) = config.cred_helpers.get(registry).or(config.creds_store.as_ref()) {
        match ask(helper, registry).await {
            Ok(secret) => return Some(from_secret(registry, secret)),
            // A helper that knows nothing of this registry says so by failing.
            Err(error) => tracing::debug!(helper, registry, %error, "no credentials"),
        }
    }
    from_config(registry, config.auths.get(registry)?)
}

fn from_secret(registry: &str, secret: Secret) -> DockerCredentials {
    let mut credentials =
        DockerCredentials { serveraddress: Some(registry.to_owned()), ..Default::default() };
    if secret.username == TOKEN_USER {
        credentials.identitytoken = Some(secret.secret);
    } else {
        credentials.username = Some(secret.username);
        credentials.password = Some(secret.secret);
    }
    credentials
}

fn from_config(registry: &str, auth: &Auth) -> Option<DockerCredentials> {
    let mut credentials =
        DockerCredentials { serveraddress: Some(registry.to_owned()), ..Default::default() };
    if let Some(token) = auth.identitytoken.clone().filter(|token| !token.is_empty()) {
        credentials.identitytoken = Some(token);
        return Some(credentials);
    }
    let plain = String::from_utf8(base64(auth.auth.as_deref()?)?).ok()?;
    let (username, password) = plain.split_once(':')?;
    credentials.username = Some(username.to_owned());
    credentials.password = Some(password.trim_end_matches('\0').to_owned());
    Some(credentials)
}

async fn ask(helper: &str, registry: &str) -> anyhow::Result<Secret> {
    let mut child = tokio::process::Command::new(format!("docker-credential-{helper}"))
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(registry.as_bytes()).await?;
    }
    let output = child.wait_with_output().await?;
    anyhow::ensure!(output.status.success(), "it ended with {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// Standard base64, padded or not.
fn base64(text: &str) -> Option<Vec<u8>> {
    let (mut bytes, mut bits, mut count) = (Vec::new(), 0u32, 0);
    for byte in text.trim_end().trim_end_matches('=').bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count & 0xff) as u8);
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_registry_of_a_reference() {
        for (reference, host) in [
            ("node:22", HUB),
            ("library/node", HUB),
            ("docker.io/node", HUB),
            ("ghcr.io/a/b:1", "ghcr.io"),
            ("localhost/x", "localhost"),
            ("r:5000/x", "r:5000"),
        ] {
            assert_eq!(registry(reference), host, "{reference}");
        }
    }

    #[test]
    fn base64_is_read_padded_or_not() {
        assert_eq!(base64("bWU6cHc=").unwrap(), b"me:pw");
        assert_eq!(base64("bWU6cHc").unwrap(), b"me:pw");
        assert_eq!(base64("bWU6cHdk").unwrap(), b"me:pwd");
        assert_eq!(base64("b*"), None);
    }

    #[tokio::test]
    async fn a_login_is_found_by_its_registry() {
        let folder = tempfile::tempdir().unwrap();
        let config = r#"{"auths":{"ghcr.io":{"auth":"bWU6cHc="},"b.io":{"identitytoken":"t"}}}"#;
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let found = async |reference: &str| credentials(Some(folder.path()), reference).await;
        let login = found("ghcr.io/x/y:1").await.unwrap();
        assert_eq!(login.username.as_deref(), Some("me"));
        assert_eq!(login.password.as_deref(), Some("pw"));
        let token = found("b.io/x").await.unwrap();
        assert_eq!(token.identitytoken.as_deref(), Some("t"));
        assert_eq!(found("node:22").await, None);
        assert_eq!(credentials(None, "node:22").await, None);
    }
}
