//! Keywords as they look inside base64 and hex: they are found without decoding anything, at any
//! alignment and amid bytes that are no text, and only their neighbourhood is decoded.

use super::base64::{Decoder, value};
use super::hex;
use crate::sidecar::encodings::{alignments, url_alphabet};

/// Shorter ones stand in any text by chance.
const SHORTEST: usize = 4;

/// More of a form would only make the automaton larger: five characters of base64 are one in 10^9.
const LONGEST: usize = 5;

/// The same of hex.
const LONGEST_HEX: usize = 6;

/// So much encoded text is decoded on either side of a keyword.
const NEIGHBOURHOOD: usize = 4096;

/// How a keyword is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::sidecar::dlp) enum Coding {
    /// Base64: so many characters after a group of four began, the form begins.
    Base64(usize),
    /// Two digits for each byte.
    Hex,
}

impl Coding {
    /// How many characters are decoded together, and how many of them stand before the form.
    pub(in crate::sidecar::dlp) const fn grouping(self) -> (usize, usize) {
        match self {
            Self::Base64(skip) => (4, skip),
            Self::Hex => (2, 0),
        }
    }
}

/// A keyword, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::sidecar::dlp) struct Form {
    pub(in crate::sidecar::dlp) bytes: Vec<u8>,
    pub(in crate::sidecar::dlp) coding: Coding,
}

impl Form {
    /// Whether it stands in a text of its length in which it was found in any case.
    pub(in crate::sidecar::dlp) fn stands_in(&self, text: &[u8]) -> bool {
        self.coding == Coding::Hex || *text == *self.bytes
    }
}

/// All forms of some keywords, each once.
pub(in crate::sidecar::dlp) fn forms<'k>(keywords: impl Iterator<Item = &'k str>) -> Vec<Form> {
    let mut forms = Vec::new();
    for keyword in keywords {
        for (skip, bytes) in alignments(keyword.as_bytes()) {
            let coding = Coding::Base64(skip);
            forms.push(Form { bytes: url_alphabet(&bytes), coding });
            forms.push(Form { bytes, coding });
        }
        forms.push(Form { bytes: ::hex::encode(keyword).into_bytes(), coding: Coding::Hex });
    }
    forms.retain(|form| form.bytes.len() >= SHORTEST);
    for form in &mut forms {
        form.bytes.truncate(if form.coding == Coding::Hex { LONGEST_HEX } else { LONGEST });
    }
    forms.sort_by(|one, other| (&one.bytes, one.coding).cmp(&(&other.bytes, other.coding)));
    forms.dedup();
    forms
}

/// Decodes the neighbourhood of an encoded keyword. Says also where the encoded text ends.
pub(in crate::sidecar::dlp) fn neighbourhood(
    bytes: &[u8],
    at: usize,
    coding: Coding,
) -> (Vec<u8>, usize) {
    let mut out = Vec::new();
    let (step, skip) = coding.grouping();
    let member = |byte: &u8| match coding {
        Coding::Base64(_) => value(*byte).is_some(),
        Coding::Hex => hex::value(*byte).is_some(),
    };
    // A group may begin before the text does: then the whole groups after it.
    let mut start = if at >= skip { at - skip } else { at + step - skip };
    while start >= step
        && at - start.min(at) < NEIGHBOURHOOD
        && bytes[start - step..start].iter().all(member)
    {
        start -= step;
    }
    let rest = &bytes[start.min(bytes.len())..bytes.len().min(at + NEIGHBOURHOOD)];
    let length = rest.iter().take_while(|byte| member(byte)).count();
    match coding {
        Coding::Base64(_) => Decoder::default().push(&rest[..length], &mut out),
        Coding::Hex => hex::decode(&rest[..length], &mut out),
    }
    (out, start + length)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn a_keyword_is_found_at_every_alignment_and_its_surroundings_decoded() {
        let keyword = "ghp_";
        let all = forms([keyword].into_iter());
        for before in 0..9 {
            let mut text = vec![0xff; before];
            text.extend_from_slice(b"ghp_0123456789");
            let encoded = format!("/{}", STANDARD.encode(&text));
            let found = all.iter().find_map(|form| {
                let at = memchr::memmem::find(encoded.as_bytes(), &form.bytes)?;
                Some(neighbourhood(encoded.as_bytes(), at, form.coding).0)
            });
            let decoded = found.unwrap();
            assert!(memchr::memmem::find(&decoded, b"ghp_0123456789").is_some(), "{before}");
        }
    }
}
