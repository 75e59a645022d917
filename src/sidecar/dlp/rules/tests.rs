use super::Rules;

fn error(text: &str) -> String {
    Rules::from_toml(text).unwrap_err().to_string()
}

#[test]
fn what_is_wrong_is_said_with_its_line() {
    let rule = "[[rules]]\nid = \"one\"\nregex = \"abc\"\n";
    for (text, expected) in [
        ("title = 1".to_owned(), "line 1: `title` must be a string, not an integer"),
        (
            "\nruels = []".to_owned(),
            "line 2: `ruels` is not a key of the file that gitleaks 8 has: correct or remove it",
        ),
        (
            format!("{rule}keyword = [\"a\"]"),
            "line 4: rule `one`: `keyword` is not a key of a rule that gitleaks 8 has: correct or remove it",
        ),
        ("[[rules]]\nregex = \"abc\"".to_owned(), "line 1: a rule has no `id`"),
        (
            "[[rules]]\nid = \"a\"\nregex = \"a(b\"".to_owned(),
            "line 3: rule `a`: `regex` is not a regular expression that can be used (unclosed group): rewrite it",
        ),
        (
            "[[rules]]\nid = \"a\"".to_owned(),
            "line 1: rule `a`: it has neither `regex` nor `path`: it would find nothing",
        ),
        (
            format!("{rule}secretGroup = 1"),
            "line 1: rule `one`: `secretGroup` is 1: `regex` has 0 groups",
        ),
        (format!("{rule}{rule}"), "line 4: two rules have the id `one`"),
        (
            format!("{rule}[[rules.allowlists]]\ndescription = \"none\""),
            "line 4: rule `one`: an allowlist is empty: it needs `regexes`, `stopwords`, `paths` or `commits`",
        ),
        (
            format!("{rule}[[rules.allowlists]]\ncondition = \"XOR\"\nstopwords = [\"a\"]"),
            "line 5: rule `one`: `condition` is `XOR`, not AND or OR",
        ),
        (
            format!("{rule}[[rules.required]]\nid = \"two\""),
            "line 1: rule `one`: it requires `two`: no such rule",
        ),
        (
            "[[allowlists]]\ntargetRules = [\"one\"]\nstopwords = [\"a\"]".to_owned(),
            "line 1: `targetRules` names `one`: no such rule",
        ),
        (
            "[extend]\npath = \"other.toml\"".to_owned(),
            "line 2: `extend.path` is not followed: write those rules into this file",
        ),
        (
            "[extend]\ndisabledRules = [\"jwt\"]".to_owned(),
            "line 2: `disabledRules` needs `useDefault = true` beside it",
        ),
    ] {
        assert_eq!(error(&text), expected, "{text}");
    }
    assert!(error("a = = b").starts_with("line 1: not TOML: "));
}

#[test]
fn keys_are_read_in_any_case_and_in_both_forms() {
    let rules = Rules::from_toml(
        r#"
title = "t"
minVersion = "v8.25.0"
[allowlist]
paths = ['\.lock$']
[[rules]]
ID = "one"
Description = "d"
regex = '(a)(b)'
SecretGroup = 2
entropy = 3
tags = ["x"]
keywords = ["A"]
[rules.allowlist]
regexTarget = "line"
regexes = ['x']
stopWords = ["y"]
[[rules]]
id = "two"
path = '\.p12$'
skipReport = true
"#,
    )
    .unwrap();
    assert_eq!(rules.ids().collect::<Vec<_>>(), ["one", "two"]);
    let one = &rules.rules[0];
    assert_eq!((one.secret_group, one.allow.len(), rules.allow.len()), (2, 1, 1));
    assert!(rules.rules[1].nowhere && rules.rules[1].quiet);
}

#[test]
fn the_default_is_extended_and_parts_of_it_left_out() {
    let text = r#"
[extend]
useDefault = true
disabledRules = ["npm-token"]
[[rules]]
id = "github-token"
entropy = 4.5
keywords = ["more"]
[[rules]]
id = "own"
regex = "own-[a-z]{9}"
"#;
    let rules = Rules::from_toml(text).unwrap();
    assert_eq!(rules.len(), Rules::builtin().len());
    assert!(rules.ids().all(|id| id != "npm-token"));
    let github = rules.rules.iter().find(|rule| &*rule.id == "github-token").unwrap();
    assert!(github.pattern.is_some() && github.entropy > 4.4 && github.keywords.len() > 2);
}

#[test]
fn of_two_sets_the_later_rule_counts() {
    let one = Rules::from_toml("[[rules]]\nid='a'\nregex='x'\n[[rules]]\nid='b'\nregex='x'");
    let other = Rules::from_toml("[[rules]]\nid='b'\nregex='y'\nentropy=2");
    let both = one.unwrap().merge(&other.unwrap());
    assert_eq!(both.ids().collect::<Vec<_>>(), ["a", "b"]);
    assert!(both.rules[1].entropy > 1.0);
}

#[test]
fn built_in_rules_compile_and_have_each_keyword_in_every_match() {
    let rules = Rules::builtin();
    assert!(rules.len() > 100);
    for rule in &rules.rules {
        let pattern = rule.pattern.as_ref().unwrap();
        // Compiles it: that of the pack is put off till first use.
        assert!(pattern.groups() >= 1, "{}: {:?}", rule.id, pattern.regex());
        assert!(rule.reach.is_some(), "{}: a match without a keyword, or without an end", rule.id);
    }
    assert_eq!(Rules::from_toml(include_str!("../pack.toml")).unwrap().len(), rules.len());
}
