//! Rules against one text: keyword, pattern, secret, entropy, allowlists, in gitleaks' order.
//!
//! Some things of gitleaks' are left out on purpose. A `gitleaks:allow` comment in the text does not
//! excuse anything: the text is the guest's. Rules called generic do not give way to others that
//! found the same. And there are no paths and commits.

use std::ops::Range;

use super::accident::is_accident;
use super::entropy::shannon;
use super::marker::is_marker;
use super::rules::pattern::Pattern;
use super::rules::{Allow, Rule, Rules};

/// A text to search, and what of it is whole.
#[derive(Debug, Clone, Copy)]
pub(super) struct View<'a> {
    pub(super) bytes: &'a [u8],
    /// Where decoded text stands, in order: only what touches it is new. Nothing: all is.
    pub(super) decoded: Option<&'a [Range<usize>]>,
    /// The text goes on before its first byte, so that a match there may be half of one.
    pub(super) open_start: bool,
    /// The text goes on after its last byte.
    pub(super) open_end: bool,
    /// Letters have lost their case, as in the name of a host.
    pub(super) any_case: bool,
}

/// A keyword of a rule, where it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Hit {
    pub(super) rule: u32,
    pub(super) start: u32,
    pub(super) end: u32,
}

/// A match that a rule means.
#[derive(Debug, Clone)]
struct Found {
    rule: usize,
    start: usize,
    secret: Range<usize>,
}

/// How much of its entropy a token of letters and digits keeps in one case.
const ONE_CASE: f64 = 0.85;

/// The rules that find something, as indices, in order; `hits` are the keywords that are there.
pub(super) fn detect(rules: &Rules, hits: &mut [Hit], view: View<'_>) -> Vec<usize> {
    let mut ids: Vec<usize> = matches(rules, hits, view).iter().map(|one| one.rule).collect();
    ids.dedup();
    ids
}

/// Where the secrets are that rules find, each with its rule's index.
pub(super) fn locate(
    rules: &Rules,
    hits: &mut [Hit],
    view: View<'_>,
) -> impl Iterator<Item = (usize, Range<usize>)> {
    matches(rules, hits, view).into_iter().map(|found| (found.rule, found.secret))
}

fn matches(rules: &Rules, hits: &mut [Hit], view: View<'_>) -> Vec<Found> {
    let mut found = Vec::new();
    hits.sort_unstable();
    let mut hits = hits.chunk_by(|one, other| one.rule == other.rule).peekable();
    for (index, rule) in rules.rules.iter().enumerate() {
        let of_rule = hits.next_if(|hits| hits[0].rule as usize == index);
        let regions = match (of_rule, rule.reach) {
            (None, _) if rule.keywords.is_empty() => whole(view),
            (None, _) => continue,
            (Some(hits), Some(reach)) => around(hits, reach.longest, view.bytes.len()),
            (Some(_), None) => whole(view),
        };
        if !rule.quiet {
            found.extend(search(rules, index, &regions, view));
        }
    }
    found.retain(|one| met(rules, one, view));
    found
}

#[expect(clippy::single_range_in_vec_init, reason = "a list of regions, of which there is one")]
fn whole(view: View<'_>) -> Vec<Range<usize>> {
    vec![0..view.bytes.len()]
}

/// The neighbourhoods in which a match with one of these keywords must lie.
fn around(hits: &[Hit], reach: usize, length: usize) -> Vec<Range<usize>> {
    let mut regions: Vec<Range<usize>> = Vec::new();
    for hit in hits {
        let start = (hit.end as usize).saturating_sub(reach);
        // One more byte, for a pattern that asks what comes after.
        let end = (hit.start as usize + reach + 1).min(length);
        match regions.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => regions.push(start..end),
        }
    }
    regions
}

/// All matches of one rule that its conditions let through.
fn search(rules: &Rules, index: usize, regions: &[Range<usize>], view: View<'_>) -> Vec<Found> {
    let rule = &rules.rules[index];
    let Some(pattern) = rule.pattern.as_deref().filter(|_| !rule.nowhere) else {
        return Vec::new();
    };
    let mut found = Vec::new();
    let length = view.bytes.len();
    for region in regions {
        let text = &view.bytes[..region.end];
        let mut at = region.start;
        while at <= region.end {
            let Some(matched) = pattern.regex_in(view.any_case).find_at(text, at) else { break };
            at = matched.end() + usize::from(matched.is_empty());
            let half = (view.open_start && matched.start() == 0)
                || (view.open_end && matched.end() == length)
                || (region.end < length && matched.end() == region.end);
            if !half {
                let range = matched.range();
                found.extend(judge(rules, index, pattern, range, view));
            }
        }
    }
    found
}

/// Whether one match is meant.
fn judge(
    rules: &Rules,
    index: usize,
    pattern: &Pattern,
    range: Range<usize>,
    view: View<'_>,
) -> Option<Found> {
    let rule = &rules.rules[index];
    let trimmed = trim_newlines(view.bytes, range.clone());
    let touched = view.decoded.map(|decoded| touching(decoded, &range));
    if touched.is_some_and(<[_]>::is_empty) {
        return None; // an earlier pass has judged it
    }
    // The line is that of the match as it is long after trimming, but from where it began.
    let end = if touched.is_some() { range.end } else { range.start + trimmed.len() };
    let secret = secret(rule, pattern, view, trimmed.clone())?;
    // In one case a text holds less.
    let least = if view.any_case { rule.entropy * ONE_CASE } else { rule.entropy };
    if rule.entropy != 0.0 && shannon(&view.bytes[secret.clone()]) <= least {
        return None;
    }
    if is_accident(view, secret.clone()) || is_marker(rules, view.bytes, secret.clone()) {
        return None;
    }
    let line = || match touched {
        Some([first, .., last]) => decoded_line(view.bytes, first.start..last.end),
        Some([only]) => decoded_line(view.bytes, only.clone()),
        Some([]) | None => line(view.bytes, range.start..end),
    };
    let allowed = |allow: &[std::sync::Arc<Allow>]| {
        let (secret, trimmed) = (&view.bytes[secret.clone()], &view.bytes[trimmed.clone()]);
        allow.iter().any(|allow| allow.holds(secret, trimmed, view.any_case, line))
    };
    if allowed(&rules.allow) || allowed(&rule.allow) {
        return None;
    }
    Some(Found { rule: index, start: range.start, secret })
}

fn trim_newlines(bytes: &[u8], range: Range<usize>) -> Range<usize> {
    let text = &bytes[range.clone()];
    let before = text.iter().take_while(|byte| **byte == b'\n').count();
    let after = text[before..].iter().rev().take_while(|byte| **byte == b'\n').count();
    range.start + before..range.end - after
}

/// The part of a match that is the secret. The pattern is run again on the match alone, so that
/// what it asks of its surroundings may no longer hold: then all of it is the secret.
fn secret(
    rule: &Rule,
    pattern: &Pattern,
    view: View<'_>,
    matched: Range<usize>,
) -> Option<Range<usize>> {
    if pattern.groups() == 0 {
        return Some(matched);
    }
    let Some(groups) = pattern.regex_in(view.any_case).captures(&view.bytes[matched.clone()])
    else {
        return Some(matched);
    };
    let group = match rule.secret_group {
        0 => groups.iter().skip(1).flatten().find(|group| !group.is_empty()),
        // A group that took no part is an empty secret.
        group => {
            let empty = matched.start..matched.start;
            return Some(groups.get(group).map_or(empty, |group| {
                matched.start + group.start()..matched.start + group.end()
            }));
        }
    };
    Some(group.map_or(matched.clone(), |group| {
        matched.start + group.start()..matched.start + group.end()
    }))
}

/// The decoded parts that a match overlaps or touches.
fn touching<'d>(decoded: &'d [Range<usize>], range: &Range<usize>) -> &'d [Range<usize>] {
    let first = decoded.partition_point(|part| part.end < range.start);
    let rest = &decoded[first..];
    &rest[..rest.partition_point(|part| part.start <= range.end)]
}

/// The line of a match, as gitleaks cuts it: from the line break before (which is part of it) to
/// the one after; a match behind the last line break has everything before it too.
fn line(bytes: &[u8], matched: Range<usize>) -> &[u8] {
    let next = |from: usize| {
        let rest = bytes.get(from..).unwrap_or_default();
        memchr::memchr(b'\n', rest).map(|at| from + at)
    };
    let previous = memchr::memrchr(b'\n', &bytes[..bytes.len().min(matched.start + 1)]);
    let behind = next(matched.start + 1).is_none() && previous.is_some();
    let start = if behind { 0 } else { previous.unwrap_or(0) };
    let end = next(matched.end).unwrap_or_else(|| {
        let rest = bytes.get(matched.end..).unwrap_or_default();
        let stop = if behind { memchr::memchr(b'\r', rest) } else { None };
        stop.map_or(bytes.len(), |at| matched.end + at)
    });
    &bytes[start..end.max(matched.end).max(start)]
}

/// The line of decoded parts.
fn decoded_line(bytes: &[u8], part: Range<usize>) -> &[u8] {
    let start = memchr::memrchr(b'\n', &bytes[..bytes.len().min(part.start + 1)]).unwrap_or(0);
    let end = memchr::memchr(b'\n', &bytes[part.end..]).map_or(bytes.len(), |at| part.end + at);
    &bytes[start..end]
}

/// The number of a match's line and its column in it.
fn place(view: View<'_>, start: usize) -> (usize, usize) {
    let before = &view.bytes[..view.bytes.len().min(start + 1)];
    let lines = memchr::memchr_iter(b'\n', before).count();
    (lines, start - memchr::memrchr(b'\n', before).unwrap_or(0))
}

/// Whether the other rules that a rule requires found something close enough.
fn met(rules: &Rules, found: &Found, view: View<'_>) -> bool {
    rules.rules[found.rule].required.iter().all(|required| {
        let other = rules.rules.iter().position(|rule| rule.id == required.rule);
        let others = other.map(|other| search(rules, other, &whole(view), view));
        let (line, column) = place(view, found.start);
        others.unwrap_or_default().iter().any(|other| {
            let (other_line, other_column) = place(view, other.start);
            required.within_lines.is_none_or(|lines| line.abs_diff(other_line) <= lines)
                && required
                    .within_columns
                    .is_none_or(|columns| column.abs_diff(other_column) <= columns)
        })
    })
}
