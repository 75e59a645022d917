//! One reading of a message: a key that stands there twice, or a bomb of brackets, is refused before anything is
//! made of it.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep objects and lists may stand in each other.
pub const DEPTH: usize = 16;

/// Reads one JSON value.
///
/// # Errors
/// It is none, is too deep, or names a key twice.
pub fn parse(bytes: &[u8]) -> Result<Value, &'static str> {
    if deepest(bytes) > DEPTH {
        return Err("it is nested too deeply");
    }
    let strict: Strict = serde_json::from_slice(bytes)
        .map_err(|_| "it is no JSON, or names a key of an object twice")?;
    Ok(strict.0)
}

/// How deep brackets stand in each other, whether or not they match.
fn deepest(bytes: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut within, mut escaped) = (false, false);
    for byte in bytes {
        match (within, byte) {
            (true, _) if escaped => escaped = false,
            (true, b'\\') => escaped = true,
            (_, b'"') => within = !within,
            (false, b'[' | b'{') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// A value in which no key stands twice. Of two, one reader takes the first and another the last.
struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reader).map(Self)
    }
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("no number"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut all = Vec::new();
        while let Some(Strict(item)) = items.next_element()? {
            all.push(item);
        }
        Ok(Value::Array(all))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut all = Map::new();
        while let Some((key, Strict(value))) = entries.next_entry::<String, Strict>()? {
            if all.insert(key, value).is_some() {
                return Err(A::Error::custom("a key stands there twice"));
            }
        }
        Ok(Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_json_is_read_as_it_is() {
        for text in
            ["null", r#"{"a":[1,-2,3.5,"é\n",true,{}],"b":{"a":null}}"#, r#"{"a":"[[[[\"[["}"#]
        {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(parse(text.as_bytes()), Ok(value), "{text}");
        }
    }

    #[test]
    fn what_two_readers_could_read_differently_is_refused() {
        for text in [
            "",
            "{",
            r#"{"a":1,"a":1}"#,
            r#"{"b":{"a":1,"\u0061":2}}"#,
            r#"{"a":1}{"a":1}"#,
            r#"{"a":1e999}"#,
            "{\"a\":\"\u{0}\"}",
            "\u{feff}{}",
            r#"{"a":NaN}"#,
            r#"{"a":"\ud800"}"#,
        ] {
            assert!(parse(text.as_bytes()).is_err(), "{text:?}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_bomb_of_brackets_is_no_work() {
        let nested = |count| format!("{}{}", "[".repeat(count), "]".repeat(count));
        assert!(parse(nested(DEPTH).as_bytes()).is_ok());
        for text in [nested(DEPTH + 1), "[".repeat(16 * 1024), r#"{"a":"#.repeat(DEPTH + 1)] {
            assert_eq!(parse(text.as_bytes()), Err("it is nested too deeply"));
        }
    }
}
