//! gitleaks' TOML → [`Rules`]. Keys are read in any case, as gitleaks reads them; one that is not
//! known is an error, because a rule with a misspelt key protects nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::allow::{Allow, Target};
use super::pattern::Pattern;
use super::{Required, Rule, Rules, RulesError};

type Compile = fn(&str) -> Result<Pattern, String>;
type Value<'a, 'i> = &'a Spanned<DeValue<'i>>;

/// The text, and which rule is being read: what an error needs to say where it is.
#[derive(Clone, Copy)]
struct At<'t> {
    text: &'t str,
    rule: Option<&'t str>,
    compile: Compile,
}

impl At<'_> {
    fn wrong(&self, offset: usize, what: impl Into<String>) -> RulesError {
        let before = self.text.as_bytes().get(..offset).unwrap_or_default();
        RulesError {
            line: 1 + memchr::memchr_iter(b'\n', before).count(),
            rule: self.rule.map(str::to_owned),
            what: what.into(),
        }
    }
}

/// A table whose keys are taken out one after the other; what is left at the end is an error.
struct Section<'a, 't, 'i> {
    at: At<'t>,
    name: &'static str,
    keys: BTreeMap<String, (usize, Value<'a, 'i>)>,
}

impl<'a, 't, 'i> Section<'a, 't, 'i> {
    fn new(at: At<'t>, name: &'static str, table: &'a DeTable<'i>) -> Result<Self, RulesError> {
        let mut keys = BTreeMap::new();
        for (key, value) in table {
            let start = key.span().start;
            let lower = key.get_ref().to_ascii_lowercase();
            if keys.insert(lower, (start, value)).is_some() {
                return Err(at.wrong(start, format!("`{}` is there twice", key.get_ref())));
            }
        }
        Ok(Self { at, name, keys })
    }

    fn of(at: At<'t>, name: &'static str, value: Value<'a, 'i>) -> Result<Self, RulesError> {
        match value.get_ref() {
            DeValue::Table(table) => Self::new(at, name, table),
            other => Err(expected(at, name, "a table", value.span().start, other)),
        }
    }

    /// Takes a value out, with where it is.
    fn take<T>(
        &mut self,
        key: &'static str,
        kind: &'static str,
        read: impl FnOnce(&'a DeValue<'i>) -> Option<T>,
    ) -> Result<Option<(usize, T)>, RulesError> {
        let Some((_, value)) = self.keys.remove(&key.to_ascii_lowercase()) else {
            return Ok(None);
        };
        let start = value.span().start;
        read(value.get_ref())
            .map(|found| Some((start, found)))
            .ok_or_else(|| expected(self.at, key, kind, start, value.get_ref()))
    }

    fn text(&mut self, key: &'static str) -> Result<Option<(usize, &'a str)>, RulesError> {
        self.take(key, "a string", DeValue::as_str)
    }

    fn flag(&mut self, key: &'static str) -> Result<bool, RulesError> {
        Ok(self.take(key, "true or false", DeValue::as_bool)?.is_some_and(|(_, flag)| flag))
    }

    fn number(&mut self, key: &'static str) -> Result<Option<(usize, usize)>, RulesError> {
        self.take(key, "a whole number that is not negative", |value| {
            value.as_integer().and_then(|number| number.as_str().parse().ok())
        })
    }

    /// A list of strings, each with where it is.
    fn texts(&mut self, key: &'static str) -> Result<Vec<(usize, &'a str)>, RulesError> {
        let list = self.take(key, "a list of strings", |value| {
            let items = value.as_array()?.iter();
            items.map(|item| Some((item.span().start, item.get_ref().as_str()?))).collect()
        })?;
        Ok(list.map(|(_, list)| list).unwrap_or_default())
    }

    /// A list of tables.
    fn tables(&mut self, key: &'static str) -> Result<Vec<Value<'a, 'i>>, RulesError> {
        let list = self.take(key, "a list of tables", |value| {
            let items = value.as_array()?.iter();
            items.map(|item| item.get_ref().is_table().then_some(item)).collect::<Option<Vec<_>>>()
        })?;
        Ok(list.map(|(_, list)| list).unwrap_or_default())
    }

    fn patterns(&mut self, key: &'static str) -> Result<Vec<Pattern>, RulesError> {
        let at = self.at;
        self.texts(key)?.into_iter().map(|(start, text)| compile(at, key, start, text)).collect()
    }

    /// Nothing may be left.
    fn end(self) -> Result<(), RulesError> {
        let Some((key, (start, _))) = self.keys.into_iter().next() else { return Ok(()) };
        let place = self.name;
        Err(self.at.wrong(
            start,
            format!("`{key}` is not a key of {place} that gitleaks 8 has: correct or remove it"),
        ))
    }
}

fn expected(at: At<'_>, key: &str, kind: &str, start: usize, found: &DeValue<'_>) -> RulesError {
    at.wrong(start, format!("`{key}` must be {kind}, not {} {}", article(found), found.type_str()))
}

fn article(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::Array(_) | DeValue::Integer(_) => "an",
        _ => "a",
    }
}

fn compile(at: At<'_>, key: &str, start: usize, text: &str) -> Result<Pattern, RulesError> {
    (at.compile)(text).map_err(|reason| {
        at.wrong(
            start,
            format!("`{key}` is not a regular expression that can be used ({reason}): rewrite it"),
        )
    })
}

/// Reads a file of rules.
pub(super) fn read(text: &str, compile: Compile) -> Result<Rules, RulesError> {
    let at = At { text, rule: None, compile };
    let document = DeTable::parse(text).map_err(|error| {
        at.wrong(
            error.span().map_or(0, |span| span.start),
            format!("not TOML: {}", error.message()),
        )
    })?;
    let mut file = Section::new(at, "the file", document.get_ref())?;
    for told in ["title", "description", "minVersion"] {
        file.text(told)?;
    }
    let extend =
        file.keys.remove("extend").map(|(_, value)| extend(at, value)).transpose()?.flatten();

    let mut rules: Vec<Rule> = Vec::new();
    let mut starts = Vec::new();
    for value in file.tables("rules")? {
        let rule = rule(at, value)?;
        if rules.iter().any(|other| other.id == rule.id) {
            return Err(
                at.wrong(value.span().start, format!("two rules have the id `{}`", rule.id))
            );
        }
        starts.push((Arc::clone(&rule.id), value.span().start));
        rules.push(rule);
    }
    let mut found = Rules { rules, allow: Vec::new() };
    if let Some(disabled) = extend {
        found = extended(found, &disabled);
    }
    for (start, targets, allow) in allowlists(&mut file, true)? {
        let allow = Arc::new(allow);
        if targets.is_empty() {
            found.allow.push(Arc::clone(&allow));
        }
        for target in targets {
            let rule = found.rules.iter_mut().find(|rule| *rule.id == *target);
            let missing =
                || at.wrong(start, format!("`targetRules` names `{target}`: no such rule"));
            rule.ok_or_else(missing)?.allow.push(Arc::clone(&allow));
        }
    }
    file.end()?;
    found.rules.iter_mut().for_each(Rule::finish);
    for (id, start) in starts {
        let rule = found.rules.iter().find(|rule| rule.id == id);
        if let Some(what) = rule.and_then(|rule| flaw(rule, &found.rules)) {
            return Err(At { rule: Some(&id), ..at }.wrong(start, what));
        }
    }
    Ok(found)
}

/// What is wrong with a rule as a whole.
fn flaw(rule: &Rule, all: &[Rule]) -> Option<String> {
    let exists = |id: &str| all.iter().any(|other| *other.id == *id);
    if let Some(required) = rule.required.iter().find(|required| !exists(&required.rule)) {
        return Some(format!("it requires `{}`: no such rule", required.rule));
    }
    let Some(pattern) = &rule.pattern else {
        let what = "it has neither `regex` nor `path`: it would find nothing";
        return (!rule.nowhere).then(|| what.to_owned());
    };
    let (group, has) = (rule.secret_group, pattern.groups());
    (group > has).then(|| format!("`secretGroup` is {group}: `regex` has {has} groups"))
}

/// The built-in rules that `extend` leaves out, if it asks for the others.
fn extend(at: At<'_>, value: Value<'_, '_>) -> Result<Option<Vec<String>>, RulesError> {
    let mut section = Section::of(at, "extend", value)?;
    for elsewhere in ["path", "url"] {
        if let Some((start, _)) = section.text(elsewhere)?.filter(|(_, text)| !text.is_empty()) {
            return Err(at.wrong(
                start,
                format!("`extend.{elsewhere}` is not followed: write those rules into this file"),
            ));
        }
    }
    let default = section.flag("useDefault")?;
    let disabled = section.texts("disabledRules")?;
    section.end()?;
    match disabled.first().filter(|_| !default) {
        Some((start, _)) => {
            Err(at.wrong(*start, "`disabledRules` needs `useDefault = true` beside it"))
        }
        None => Ok(default.then(|| disabled.into_iter().map(|(_, id)| id.to_owned()).collect())),
    }
}

fn rule(at: At<'_>, value: Value<'_, '_>) -> Result<Rule, RulesError> {
    let start = value.span().start;
    let mut section = Section::of(at, "a rule", value)?;
    let id = match section.text("id")? {
        Some((_, id)) if !id.trim().is_empty() => id.to_owned(),
        _ => return Err(at.wrong(start, "a rule has no `id`")),
    };
    let at = At { rule: Some(&id), ..at };
    section.at = at;
    section.text("description")?;
    section.texts("tags")?;
    let pattern = match section.text("regex")? {
        Some((start, text)) if !text.is_empty() => Some(compile(at, "regex", start, text)?),
        _ => None,
    };
    let path = match section.text("path")? {
        Some((start, text)) if !text.is_empty() => Some(compile(at, "path", start, text)?),
        _ => None,
    };
    // A request has no path: a rule about file names finds nothing here. It is kept, because
    // allowlists may name it.
    let nowhere = path.as_ref().is_some_and(|path| !path.regex().is_match(b""));
    let group = section.number("secretGroup")?;
    let entropy = section.take("entropy", "a number", |value| match value {
        DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
        DeValue::Integer(number) => number.as_str().parse().ok(),
        _ => None,
    })?;
    let keywords = section.texts("keywords")?;
    let keywords = keywords.into_iter().map(|(_, word)| word.to_owned()).collect();
    let mut required = Vec::new();
    for value in section.tables("required")? {
        required.push(requirement(at, value)?);
    }
    let quiet = section.flag("skipReport")?;
    let allow = allowlists(&mut section, false)?;
    section.end()?;
    let rule = Rule {
        id: Arc::from(&*id),
        pattern: pattern.map(Arc::new),
        nowhere,
        path: path.map(Arc::new),
        secret_group: group.map_or(0, |(_, group)| group),
        entropy: entropy.map_or(0.0, |(_, entropy)| entropy),
        keywords,
        allow: allow.into_iter().map(|(_, _, allow)| Arc::new(allow)).collect(),
        required,
        quiet,
        reach: None,
    };
    Ok(rule)
}

fn requirement(at: At<'_>, value: Value<'_, '_>) -> Result<Required, RulesError> {
    let mut section = Section::of(at, "required", value)?;
    let Some((_, id)) = section.text("id")? else {
        return Err(at.wrong(value.span().start, "a `required` has no `id`"));
    };
    let within_lines = section.number("withinLines")?.map(|(_, lines)| lines);
    let within_columns = section.number("withinColumns")?.map(|(_, columns)| columns);
    section.end()?;
    Ok(Required { rule: Arc::from(id), within_lines, within_columns })
}

/// The allowlists of a section, in the older form and the newer: where, for which rules, what.
#[expect(clippy::type_complexity, reason = "taken apart at once by the two callers")]
fn allowlists<'a>(
    section: &mut Section<'a, '_, '_>,
    targeted: bool,
) -> Result<Vec<(usize, Vec<&'a str>, Allow)>, RulesError> {
    let at = section.at;
    let mut values = section.tables("allowlists")?;
    if let Some((start, value)) = section.keys.remove("allowlist") {
        if !values.is_empty() {
            return Err(at.wrong(start, "`allowlist` cannot stand beside `allowlists`: merge them"));
        }
        values.push(value);
    }
    values.into_iter().map(|value| allowlist(at, value, targeted)).collect()
}

fn allowlist<'a>(
    at: At<'_>,
    value: Value<'a, '_>,
    targeted: bool,
) -> Result<(usize, Vec<&'a str>, Allow), RulesError> {
    let start = value.span().start;
    let mut section = Section::of(at, "an allowlist", value)?;
    section.text("description")?;
    let targets = if targeted { section.texts("targetRules")? } else { Vec::new() };
    let all = match section.text("condition")? {
        None => false,
        Some((start, text)) => match text.to_ascii_uppercase().as_str() {
            "" | "OR" | "||" => false,
            "AND" | "&&" => true,
            _ => return Err(at.wrong(start, format!("`condition` is `{text}`, not AND or OR"))),
        },
    };
    let target = match section.text("regexTarget")? {
        None | Some((_, "" | "secret")) => Target::Secret,
        Some((_, "match")) => Target::Match,
        Some((_, "line")) => Target::Line,
        Some((start, text)) => {
            return Err(at.wrong(start, format!("`regexTarget` is `{text}`, not match or line")));
        }
    };
    let commits = section.texts("commits")?;
    let paths = section.patterns("paths")?;
    let patterns = section.patterns("regexes")?;
    let stopwords = section.texts("stopwords")?;
    section.end()?;
    let elsewhere = !commits.is_empty() || !paths.is_empty();
    if !elsewhere && patterns.is_empty() && stopwords.is_empty() {
        return Err(at.wrong(
            start,
            "an allowlist is empty: it needs `regexes`, `stopwords`, `paths` or `commits`",
        ));
    }
    let allow = Allow {
        all,
        elsewhere,
        target,
        patterns,
        stopwords: stopwords.into_iter().map(|(_, word)| word.to_ascii_lowercase()).collect(),
        search: std::sync::OnceLock::new(),
    };
    Ok((start, targets.into_iter().map(|(_, id)| id).collect(), allow))
}

/// These rules on top of the built-in ones: a rule that both have is merged, as gitleaks does.
fn extended(own: Rules, disabled: &[String]) -> Rules {
    let built_in = Rules::builtin();
    let mut rules: Vec<Rule> = own.rules;
    for base in &built_in.rules {
        if disabled.iter().any(|id| **id == *base.id) {
            continue;
        }
        let Some(rule) = rules.iter_mut().find(|rule| rule.id == base.id) else {
            rules.push(base.clone());
            continue;
        };
        rule.pattern = rule.pattern.take().or_else(|| base.pattern.clone());
        rule.entropy = if rule.entropy == 0.0 { base.entropy } else { rule.entropy };
        rule.secret_group =
            if rule.secret_group == 0 { base.secret_group } else { rule.secret_group };
        rule.keywords.extend(base.keywords.iter().cloned());
        rule.allow.extend(base.allow.iter().cloned());
    }
    Rules { rules, allow: own.allow.into_iter().chain(built_in.allow.iter().cloned()).collect() }
}
