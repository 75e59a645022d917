//! Exceptions that a bottle makes: one rule, one host, a reason, an end.

use time::Date;

/// What a rule may find in requests to a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Suppression {
    /// The rule's id.
    pub rule: String,
    /// The host, exactly.
    pub host: String,
    /// Why.
    pub reason: String,
    /// The last day on which it holds.
    pub expires: Option<Date>,
}

impl Suppression {
    /// Whether it holds for a finding.
    #[must_use]
    pub fn holds(&self, rule: &str, host: &str, today: Date) -> bool {
        self.rule == rule
            && self.host.eq_ignore_ascii_case(host)
            && self.expires.is_none_or(|last| today <= last)
    }
}

#[cfg(test)]
mod tests {
    use time::{Date, Month};

    use super::*;

    #[test]
    fn rule_and_host_must_both_match_and_it_must_not_be_over() {
        let day = |day| Date::from_calendar_date(2030, Month::March, day).unwrap();
        let mut one = Suppression {
            rule: "jwt".to_owned(),
            host: "api.example.com".to_owned(),
            reason: "a public token of the test tenant".to_owned(),
            expires: Some(day(10)),
        };
        assert!(one.holds("jwt", "api.example.com", day(10)));
        assert!(!one.holds("jwt", "api.example.com", day(11)), "over");
        assert!(!one.holds("jwt", "example.com", day(9)));
        assert!(!one.holds("jw", "api.example.com", day(9)));
        one.expires = None;
        assert!(one.holds("jwt", "API.example.com", day(31)));
    }
}
