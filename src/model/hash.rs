//! Content hashes: a SHA-256 over a dedicated, versioned, canonical encoding of named fields.
//!
//! The fields that are hashed are the fields that people are shown when two hashes differ, so the
//! plan can never say "changed" without saying what. Nothing is hashed "as serde prints it".

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The content hash of one resource.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpecHash([u8; 32]);

impl SpecHash {
    /// The hash of plain bytes: of one file's content, say.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A digest that was computed elsewhere, while streaming.
    #[must_use]
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// The first 12 hexadecimal digits: enough for people and for names.
    #[must_use]
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for SpecHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpecHash({})", self.short())
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256 in hexadecimal: `{0}`")]
pub struct NotAHash(
    /// What was found instead.
    pub String,
);

impl FromStr for SpecHash {
    type Err = NotAHash;
    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let mut digest = [0; 32];
        hex::decode_to_slice(text, &mut digest).map_err(|_| NotAHash(text.to_owned()))?;
        Ok(Self(digest))
    }
}

impl TryFrom<String> for SpecHash {
    type Error = NotAHash;
    fn try_from(text: String) -> Result<Self, NotAHash> {
        text.parse()
    }
}

impl From<SpecHash> for String {
    fn from(hash: SpecHash) -> String {
        hash.to_string()
    }
}

/// The named fields of one resource's resolved spec, flat: `resources.memory` → `2G`.
///
/// Values are what a person would recognise; of secrets only that they are asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Fields(pub BTreeMap<String, String>);

impl Fields {
    /// Sets one field.
    pub fn set(&mut self, path: impl Into<String>, value: impl Into<String>) {
        self.0.insert(path.into(), value.into());
    }

    /// Sets a field to a list; items are quoted, so that `["a b"]` and `["a", "b"]` differ.
    pub fn set_list<S: AsRef<str>>(&mut self, path: impl Into<String>, items: &[S]) {
        let quoted: Vec<String> = items.iter().map(|item| quote(item.as_ref())).collect();
        self.0.insert(path.into(), quoted.join(" "));
    }

    /// The hash of these fields in the encoding `domain`, which carries its version
    /// (`bottle.machine.v1`): each name and each value is preceded by its length as a
    /// little-endian `u64`, in the order of the names.
    #[must_use]
    pub fn hash(&self, domain: &str) -> SpecHash {
        let mut encoded = Vec::with_capacity(1024);
        let mut part = |bytes: &[u8]| {
            encoded.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            encoded.extend_from_slice(bytes);
        };
        part(domain.as_bytes());
        for (path, value) in &self.0 {
            part(path.as_bytes());
            part(value.as_bytes());
        }
        SpecHash::of_bytes(&encoded)
    }
}

/// A word as a shell would need it: bare where that is safe, else in single quotes.
fn quote(word: &str) -> String {
    let bare = !word.is_empty()
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_./:=@%+,".contains(&b));
    if bare { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbouring_fields_cannot_be_confused() {
        let fields = |pairs: &[(&str, &str)]| {
            let mut fields = Fields::default();
            for (path, value) in pairs {
                fields.set(*path, *value);
            }
            fields.hash("test.v1")
        };
        assert_ne!(fields(&[("a", "bc")]), fields(&[("ab", "c")]));
        assert_ne!(fields(&[("a", "b"), ("c", "")]), fields(&[("a", "b")]));
        assert_eq!(fields(&[("a", "1"), ("b", "2")]), fields(&[("b", "2"), ("a", "1")]));
    }

    #[test]
    fn list_items_keep_their_borders() {
        let list = |items: &[&str]| {
            let mut fields = Fields::default();
            fields.set_list("command", items);
            fields
        };
        assert_ne!(list(&["a b"]), list(&["a", "b"]));
        assert_ne!(list(&["a' 'b"]), list(&["a", "b"]));
        assert_ne!(list(&[""]), list(&[]));
    }

    #[test]
    fn a_hash_survives_its_text() {
        let hash = SpecHash::of_bytes(b"x");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert!("zz".parse::<SpecHash>().is_err());
    }
}
