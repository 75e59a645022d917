//! Credentials that a sandbox uses and never sees.
//!
//! `redact` takes their values out of whatever comes back, however an upstream wrote them.

mod echo;
mod packed;
mod redact;
mod sieve;

pub use redact::{Redactions, Redactor};

/// A value that cannot be sent as a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "token_invalid: the value of {name} is empty, or has a space, a line end or another byte \
     outside `!` to `~`: set the variable to the token alone"
)]
pub struct TokenInvalid {
    /// The credential's name.
    pub name: String,
}

/// Judges a value: it becomes part of a header field as it is, so it may hold nothing that ends
/// one.
///
/// # Errors
/// [`TokenInvalid`], which names the credential and never holds the value.
pub fn check(name: &str, value: &[u8]) -> Result<(), TokenInvalid> {
    if !value.is_empty() && value.iter().all(u8::is_ascii_graphic) {
        Ok(())
    } else {
        Err(TokenInvalid { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_that_could_end_a_field() {
        for good in ["x", "ghp_0123456789", "!~", "a:b/c+d=="] {
            assert_eq!(check("T", good.as_bytes()), Ok(()), "{good}");
        }
        for bad in ["", " ", "abc\r\nX-Evil: 1", "a\n", "a\0b", "a b", "a\tb", "\u{7f}", "ä"] {
            let error = check("GH_TOKEN", bad.as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with("token_invalid: the value of GH_TOKEN"), "{error}");
            assert!(!error.contains("X-Evil"), "{error}");
        }
    }
}
