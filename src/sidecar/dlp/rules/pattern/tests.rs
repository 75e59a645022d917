use super::{Pattern, translate};

fn matches(pattern: &str, text: &str) -> bool {
    Pattern::new(pattern).unwrap().regex().is_match(text.as_bytes())
}

#[test]
fn what_go_reads_differently_is_rewritten() {
    for (go, rust) in [
        (r"^\$(?:\d+|{\d+})$", r"^\$(?:\d+|\{\d+})$"),
        (r"a{2}b{2,}c{2,3}d{,3}", r"a{2}b{2,}c{2,3}d\{,3}"),
        (r"[\s'=]\s", r"[\t\n\f\r '=][\t\n\f\r ]"),
        (r"[a&&b~~c]", r"[a\&\&b\~\~c]"),
        (r"[[:alpha:][x]", r"[[:alpha:]\[x]"),
        (r"[]a]", r"[\]a]"),
        (r"[^]a]", r"[^\]a]"),
        (r"\<b\>", "<b>"),
        (r"\Qa.b\Ec", r"a\.bc"),
        (r"[\w\/+-]{16,}={0,2}", r"[\w\/+-]{16,}={0,2}"),
    ] {
        assert_eq!(translate(go).unwrap(), rust, "{go}");
        assert!(Pattern::new(go).is_ok(), "{go}");
    }
}

#[test]
fn classes_are_ascii_and_the_rest_is_bytes() {
    assert!(!matches(r"^\w+$", "é"));
    assert!(!matches(r"^\s$", "\u{b}"));
    assert!(matches(r"(?i)^TOKEN$", "token"));
    assert!(Pattern::new(r"a.b").unwrap().regex().is_match(b"a\xffb"));
}

#[test]
fn a_pattern_that_cannot_be_read_says_why() {
    assert_eq!(Pattern::new("a(b").unwrap_err(), "unclosed group");
    assert!(Pattern::new("a(?=b)").unwrap_err().contains("look-around"));
    assert!(Pattern::new(r"[a-z]{1000}{1000}").unwrap_err().contains("size limit"));
    assert_eq!(Pattern::new("a\\").unwrap_err(), "it ends with a backslash");
}

#[test]
fn a_keyword_in_every_match_bounds_where_to_look() {
    let reach = |pattern: &str, keywords: &[&str]| {
        let keywords: Vec<String> = keywords.iter().map(|&word| word.to_owned()).collect();
        Pattern::new(pattern).unwrap().reach(&keywords).map(|reach| reach.longest)
    };
    assert_eq!(reach(r"\b(ghp_[a-z]{4})\b", &["ghp_"]), Some(8));
    assert_eq!(reach(r"\b((?:AKIA|ASIA)[A-Z]{4})\b", &["akia", "asia"]), Some(8));
    assert_eq!(reach(r"A(?:K|S)IA[A-Z]{4}", &["akia", "asia"]), Some(8));
    assert_eq!(reach(r"A[KS]IA[A-Z]{4}", &["akia", "asia"]), Some(8));
    assert_eq!(reach(r"(?i)x{0,9}(?:adobe).y", &["adobe"]), Some(16));
    assert_eq!(reach(r"(?:ab|cd)[a-z]{4}", &["ab"]), None, "not every match has it");
    assert_eq!(reach(r"(?:ab)?[a-z]{4}", &["ab"]), None);
    assert_eq!(reach(r"ab[a-z]*", &["ab"]), None, "a match has no longest length");
}

#[test]
fn a_keyword_in_one_case_only_is_told_from_the_same_in_another() {
    let exactly = |pattern: &str, keyword: &str| {
        Pattern::new(pattern).unwrap().reach(&[keyword.to_owned()]).unwrap().exactly
    };
    assert!(exactly(r"\bSK[0-9a-f]{32}", "SK"));
    assert!(!exactly(r"\bSK[0-9a-f]{32}", "sk"), "spelled otherwise than what is matched");
    assert!(!exactly(r"(?i)\bSK[0-9a-f]{32}", "SK"));
    assert!(exactly(r"(?i)-12[0-9a-f]{32}", "-12"), "it has no case");
}
