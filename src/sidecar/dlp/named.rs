//! Rules about files with certain names, for those who have names to give: a request has none.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use time::Date;

use super::marks::{Mark, Marks};
use super::rules::Rules;
use super::scanner::{Finding, Scanner};

/// What searches by those rules.
#[derive(Debug)]
pub(in crate::sidecar) struct Named {
    scanner: Arc<Scanner>,
    /// The rules of that, as indices, that are about some names only.
    rules: Vec<usize>,
    /// Ready to search by some of them.
    ready: Mutex<BTreeMap<Vec<usize>, Arc<Scanner>>>,
}

impl Named {
    pub(in crate::sidecar) fn new(scanner: &Arc<Scanner>) -> Self {
        let all = scanner.rules().rules.iter().enumerate();
        let rules = all.filter(|(_, rule)| rule.nowhere && !rule.quiet).map(|(index, _)| index);
        Self { rules: rules.collect(), scanner: Arc::clone(scanner), ready: Mutex::default() }
    }

    /// What these rules find in a text of which all is here.
    pub(in crate::sidecar) fn marks(
        &self,
        host: &str,
        today: Date,
        path: &str,
        text: &[u8],
    ) -> Vec<Mark> {
        let (mut found, marks) = self.begin(host, today, path);
        if let Some(mut marks) = marks {
            marks.push(text);
            found.extend(marks.end().unwrap_or_default());
        }
        found
    }

    /// What the name alone is a finding for, and what searches a text with that name.
    pub(in crate::sidecar) fn begin(
        &self,
        host: &str,
        today: Date,
        path: &str,
    ) -> (Vec<Mark>, Option<Marks>) {
        let all = &self.scanner.rules().rules;
        let is_of = |index: &usize| {
            let names = all[*index].path.as_ref();
            names.is_some_and(|names| names.regex().is_match(path.as_bytes()))
        };
        let about: Vec<usize> = self.rules.iter().copied().filter(is_of).collect();
        let (within, alone): (Vec<usize>, Vec<usize>) =
            about.into_iter().partition(|index| all[*index].pattern.is_some());
        let alone = alone.into_iter().filter_map(|index| {
            let finding = Finding { rule: all[index].id.to_string(), known: false };
            let counts = !self.scanner.suppressed(&finding, host, today);
            counts.then(|| Mark::of_whole(&finding, path))
        });
        let alone = alone.collect();
        if within.is_empty() {
            return (alone, None);
        }
        let mut ready = self.ready.lock().unwrap_or_else(PoisonError::into_inner);
        let scanner = ready.entry(within).or_insert_with_key(|within| Arc::new(self.only(within)));
        (alone, Some(scanner.marks(host, today)))
    }

    /// A scanner by these rules alone, wherever a text is; and by those that they require.
    fn only(&self, within: &[usize]) -> Scanner {
        let all = self.scanner.rules();
        let mut rules: Vec<_> = within.iter().map(|index| all.rules[*index].clone()).collect();
        let required: Vec<_> = rules.iter().flat_map(|rule| rule.required.clone()).collect();
        for rule in &mut rules {
            rule.nowhere = false;
        }
        for required in required {
            let there = rules.iter().any(|rule| rule.id == required.rule);
            let other = all.rules.iter().find(|rule| !there && rule.id == required.rule);
            rules.extend(other.cloned().map(|mut rule| {
                rule.quiet = true;
                rule
            }));
        }
        self.scanner.with_rules(Rules { rules, allow: all.allow.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sidecar::dlp::Known;

    const RULES: &str = r#"
[[rules]]
id = "store"
path = '''\.p12$'''

[[rules]]
id = "yaml-word"
regex = '''word: ([a-z]{8})'''
path = '''\.ya?ml$'''
keywords = ["word"]
"#;

    #[test]
    fn a_name_decides_which_rules_hold() {
        let rules = Arc::new(Rules::from_toml(RULES).unwrap());
        let scanner = Arc::new(Scanner::new(rules, Arc::new(Known::default()), Vec::new()));
        let named = Named::new(&scanner);
        let today = Date::from_calendar_date(2030, time::Month::March, 1).unwrap();
        let found = |path: &str, text: &str| -> Vec<(String, Option<u64>)> {
            let marks = named.marks("", today, path, text.as_bytes());
            marks.into_iter().map(|mark| (mark.rule, mark.line)).collect()
        };
        assert_eq!(found("a/b.yaml", "x\nword: abcdefgh"), [("yaml-word".to_owned(), Some(2))]);
        assert_eq!(found("a/b.txt", "x\nword: abcdefgh"), []);
        assert_eq!(found("keys/own.p12", "anything"), [("store".to_owned(), None)]);
        assert!(scanner.scan("", today, b"word: abcdefgh").is_empty(), "a request has no name");
    }
}
