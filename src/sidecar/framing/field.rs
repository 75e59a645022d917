//! One header field.

use super::Code;

/// A field whose name and value hold nothing that could end them early.
#[derive(Debug, Clone, Copy)]
pub(super) struct Field<'b> {
    pub(super) name: &'b [u8],
    /// Without the spaces around.
    pub(super) value: &'b [u8],
}

impl<'b> Field<'b> {
    /// Reads a line without its line break.
    pub(super) fn parse(line: &'b [u8]) -> Result<Self, Code> {
        let colon = memchr::memchr(b':', line).ok_or(Code::MalformedRequest)?;
        let (name, value) = (&line[..colon], &line[colon + 1..]);
        // A line that begins with a space would continue the one before; a name that ends with
        // one is dropped by some servers and obeyed by others.
        if name.is_empty()
            || !name.iter().all(|b| is_token(*b))
            || !value.iter().all(|b| is_text(*b))
        {
            return Err(Code::MalformedRequest);
        }
        Ok(Self { name, value: trim(value) })
    }

    pub(super) fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

/// What may stand in a field's name and in a method.
fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b)
}

/// What may stand in a field's value.
fn is_text(b: u8) -> bool {
    b == b'\t' || (b >= b' ' && b != 0x7f)
}

fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}
