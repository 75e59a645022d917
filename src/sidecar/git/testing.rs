//! What the tests in here share.

use super::document::Upstream;

/// Some host's key.
pub(super) const HOST_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f";

/// An upstream whose policy lets everything be pushed forward.
pub(super) fn upstream(name: &str) -> Upstream {
    Upstream {
        name: name.to_owned(),
        user: "git".to_owned(),
        host: "git.example.com".to_owned(),
        port: 22,
        path: format!("/o/{name}.git"),
        address: None,
        identity_file: "/keys/id".into(),
        identity_fingerprint: None,
        identity_agent: None,
        known_host_keys: vec![HOST_KEY.to_owned()],
        push: vec!["refs/heads/*".to_owned(), "refs/tags/*".to_owned()],
        force: Vec::new(),
        delete: Vec::new(),
        refs: Vec::new(),
        max_push: 1 << 30,
        max_file: 256 << 20,
        allow: Vec::new(),
    }
}
