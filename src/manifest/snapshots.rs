//! `snapshots` of `bottle.yaml`: how much of the work of sandboxes that go is kept, and for how long.

use super::field::Field;
use super::keys::{Key, Shape, Table};
use super::limits::{AMOUNT, amount, whole};
use super::source::Findings;
use super::yaml::Value;
use crate::model::Bounds;

const MOST_KEPT: u64 = 1000;
const MOST_DAYS: u64 = 36_500;
const MOST_BYTES: u64 = 1024 << 40;

/// The keys of `snapshots`.
pub(super) static TABLE: Table = Table {
    what: "`snapshots`",
    keys: &[
        Key::new(
            "keep",
            Shape::Whole { min: 1, max: MOST_KEPT },
            "how many of each sandbox are kept (default 5)",
        ),
        Key::new(
            "days",
            Shape::Whole { min: 1, max: MOST_DAYS },
            "for how many days they are kept (default 30)",
        ),
        Key::new(
            "bytes",
            Shape::Text(Some(AMOUNT)),
            "how much room all of the tree take together, in units of 1024 (default `20G`): a sandbox whose \
             work would not fit is not removed",
        ),
    ],
    removed: &[],
    instead: &[],
};

/// What `snapshots` may be.
pub(super) const SHAPE: Shape = Shape::Either(&[Shape::Word(&["off"]), Shape::Section(&TABLE)]);

/// Reads it. `None`: `off`, what goes is not kept.
pub(super) fn read(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<Bounds> {
    let default = Bounds::default();
    match &field.node.value {
        Value::Text(text) if text == "off" => return None,
        Value::Map(_) => {}
        _ => {
            let problem = field.mismatch("`off`, or a map of `keep`, `days` and `bytes`");
            // What YAML 1.1 takes for the same word, and what other tools call it.
            let off = matches!(&field.node.value, Value::Bool(false))
                || matches!(&field.node.value, Value::Text(text)
                    if ["none", "no", "never", "disabled", "Off", "OFF"].contains(&text.as_str()));
            findings.add(if off { problem.label("did you mean `off`?") } else { problem });
            return Some(default);
        }
    }
    let Some(section) = field.section(&TABLE, findings) else { return Some(default) };
    let mut number = |key: &'static str, most: u64, default: u32| {
        let given = section.get(key).and_then(|field| whole(&field, 1, most, findings));
        given.and_then(|given| u32::try_from(given).ok()).unwrap_or(default)
    };
    let keep = number("keep", MOST_KEPT, default.keep);
    let days = number("days", MOST_DAYS, default.days);
    let bytes = section.get("bytes").and_then(|field| amount(&field, MOST_BYTES, findings));
    Some(Bounds { keep, days, bytes: bytes.unwrap_or(default.bytes) })
}
