//! `resources`: limits, in exact numbers.

use super::field::{Field, shorten};
use super::keys::{Key, Shape, Table};
use super::source::Findings;
use super::yaml::Value;
use crate::model::Resources;

pub(super) const AMOUNT: &str = r"^[0-9]+(\.[0-9]{1,3})?[KMGT]$";

/// The keys of `resources`.
pub(super) static TABLE: Table = Table {
    what: "`resources`",
    keys: &[
        Key::new("cpus", Shape::Number, "how many CPUs, down to thousandths (default 2)"),
        Key::new(
            "memory",
            Shape::Text(Some(AMOUNT)),
            "how much memory, in units of 1024: `512M`, `1.5G` (default `2G`)",
        ),
        Key::new(
            "pids",
            Shape::Whole { min: MIN_PIDS, max: MAX_PIDS },
            "how many processes and threads (default 512)",
        ),
        Key::new(
            "disk",
            Shape::Text(Some(AMOUNT)),
            "size of the writable layer, where the backend can bound it: `10G`",
        ),
    ],
    removed: &[],
    instead: &[],
};

const MAX_MILLICPUS: u64 = 1_024_000;
const MIN_PIDS: u64 = 16;
/// What the kernel counts at most.
const MAX_PIDS: u64 = 4_194_304;
/// Less does not start a shell.
const MIN_BYTES: u64 = 16 << 20;
const MAX_MEMORY: u64 = 64 << 40;
const MAX_DISK: u64 = 1024 << 40;

/// Reads `resources`; what it does not say is the default.
pub(super) fn read(field: &Field<'_>, findings: &mut Findings<'_>) -> Resources {
    let default = Resources::default();
    let Some(section) = field.section(&TABLE, findings) else { return default };
    let millicpus = section.get("cpus").and_then(|field| cpus(&field, findings));
    let memory = section.get("memory").and_then(|field| amount(&field, MAX_MEMORY, findings));
    let pids = section.get("pids").and_then(|field| whole(&field, MIN_PIDS, MAX_PIDS, findings));
    Resources {
        millicpus: millicpus.unwrap_or(default.millicpus),
        memory: memory.unwrap_or(default.memory),
        pids: pids.and_then(|pids| u32::try_from(pids).ok()).unwrap_or(default.pids),
        disk: section.get("disk").and_then(|field| amount(&field, MAX_DISK, findings)),
    }
}

/// A decimal number in thousandths: `1.5` is 1500.
pub(crate) fn thousandths(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole) || !digits(part) || part.len() > 3 {
        return None;
    }
    let part: u64 = format!("{part:0<3}").parse().ok()?;
    whole.parse::<u64>().ok()?.checked_mul(1000)?.checked_add(part)
}

fn cpus(field: &Field<'_>, findings: &mut Findings<'_>) -> Option<u32> {
    let expected = "a number of CPUs, such as `2` or `0.5`";
    let Value::Number(text) = &field.node.value else {
        findings.add(field.mismatch(expected));
        return None;
    };
    match thousandths(text) {
        Some(milli @ 1..=MAX_MILLICPUS) => u32::try_from(milli).ok(),
        _ => {
            let hint = format!("more than 0, at most {}, three decimals", MAX_MILLICPUS / 1000);
            findings.add(field.mismatch(expected).hint(hint));
            None
        }
    }
}

pub(super) fn amount(field: &Field<'_>, most: u64, findings: &mut Findings<'_>) -> Option<u64> {
    amount_between(field, MIN_BYTES..=most, findings)
}

/// An amount of bytes within these bounds.
pub(super) fn amount_between(
    field: &Field<'_>,
    bounds: std::ops::RangeInclusive<u64>,
    findings: &mut Findings<'_>,
) -> Option<u64> {
    let expected = "an amount such as `512M` or `2G`";
    let text = match &field.node.value {
        Value::Text(text) => text.as_str(),
        Value::Number(text) => {
            let hint = format!("add a unit (K, M, G or T): `{}M`", shorten(text));
            findings.add(field.mismatch(expected).hint(hint));
            return None;
        }
        _ => {
            findings.add(field.mismatch(expected));
            return None;
        }
    };
    let Some(bytes) = bytes(text) else {
        let problem = field.error(format!("expected {expected}, found `{}`", shorten(text)));
        findings.add(match meant(text) {
            Some(meant) => problem.label(format!("did you mean `{meant}`?")),
            None => problem.hint("a number with at most three decimals and one unit: K, M, G or T"),
        });
        return None;
    };
    if !bounds.contains(&bytes) {
        let [least, most] = [*bounds.start(), *bounds.end()].map(crate::model::spec::human_bytes);
        let message = format!("`{}` is out of range: {least} to {most}", shorten(text));
        findings.add(field.error(message));
        return None;
    }
    Some(bytes)
}

/// Whole bytes of `1.5G`.
pub(crate) fn bytes(text: &str) -> Option<u64> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let shift = match unit {
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    let product = thousandths(number)?.checked_mul(1 << shift)?;
    // `0.001K` is no whole number of bytes: rounding would say something else than was written.
    (product % 1000 == 0).then_some(product / 1000)
}

/// The spelling that was probably meant: `512mb` and `512MiB` are `512M`.
fn meant(text: &str) -> Option<String> {
    let upper = text.trim().to_ascii_uppercase();
    let short =
        upper.strip_suffix("IB").or_else(|| upper.strip_suffix(['B', 'I'])).unwrap_or(&upper);
    let short: String = short.chars().filter(|c| *c != ' ').collect();
    bytes(&short).map(|_| short)
}

pub(super) fn whole(
    field: &Field<'_>,
    min: u64,
    max: u64,
    findings: &mut Findings<'_>,
) -> Option<u64> {
    let expected = format!("a whole number from {min} to {max}");
    let number = match &field.node.value {
        Value::Number(text) if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| (min..=max).contains(number));
    if number.is_none() {
        findings.add(field.mismatch(&expected));
    }
    number
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact() {
        assert_eq!(bytes("512M"), Some(512 << 20));
        assert_eq!(bytes("1.5G"), Some(3 << 29));
        assert_eq!(bytes("0.5T"), Some(1 << 39));
        for bad in [
            "",
            "M",
            "512",
            "512m",
            "512MB",
            "-1G",
            "+1G",
            "1e3M",
            "1.2345G",
            "1.G",
            ".5G",
            "0.1K",
            "99999999999T",
            "1 G",
            "G1",
            "ä",
        ] {
            assert_eq!(bytes(bad), None, "{bad}");
        }
        for (text, meaning) in [("512m", "512M"), ("512MiB", "512M"), ("2gb", "2G"), ("1 Gi", "1G")]
        {
            assert_eq!(meant(text).as_deref(), Some(meaning), "{text}");
        }
        assert_eq!(meant("lots"), None);
    }

    #[test]
    fn cpus_are_thousandths() {
        assert_eq!(thousandths("2"), Some(2000));
        assert_eq!(thousandths("0.25"), Some(250));
        for bad in
            ["", ".", "1.", ".5", "-1", "1e3", "0x10", ".inf", "1.0001", "99999999999999999999"]
        {
            assert_eq!(thousandths(bad), None, "{bad}");
        }
    }
}
