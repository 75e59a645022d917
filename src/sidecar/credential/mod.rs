//! Credentials that a sandbox uses and never sees.
//!
//! `redact` takes their values out of whatever comes back, however an upstream wrote them.

mod echo;
mod packed;
mod redact;
mod sieve;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use zeroize::Zeroizing;

pub use redact::{Redactions, Redactor};

use super::encodings::url_alphabet;

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

/// What of `user:value` in base64, as a Basic credential holds it, is not there whatever the value is; in
/// both alphabets, where these differ. It is another text than the value, and as good as that.
#[must_use]
pub fn basic_forms(user: &str, value: &str) -> Vec<Zeroizing<String>> {
    let pair = Zeroizing::new(format!("{user}:{value}"));
    let whole = Zeroizing::new(STANDARD_NO_PAD.encode(pair.as_bytes()));
    // The beginning is the user's alone, who is no secret.
    let own = Zeroizing::new(whole[(user.len() + 1) * 8 / 6..].to_owned());
    let other = url_alphabet(own.as_bytes());
    let other = Zeroizing::new(String::from_utf8(other).unwrap_or_default());
    if own == other { vec![own] } else { vec![own, other] }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_basic_credential_is_known_but_for_its_user() {
        let forms = |user, value| -> Vec<String> {
            basic_forms(user, value).iter().map(|form| form.to_string()).collect()
        };
        // `oauth2:` is 7 bytes, 9 characters and a part of the tenth: b2F1dGgyOmdsLTAxMjM0NTY3OA==
        assert_eq!(forms("oauth2", "gl-012345678"), ["mdsLTAxMjM0NTY3OA"]);
        assert_eq!(forms("ab", "????>>>>"), ["Pz8/Pz4+Pj4", "Pz8_Pz4-Pj4"]);
    }

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
