//! Strings of gitleaks' own generators: its rules must fire here exactly as there, and the built-in
//! ones on most that are told by a vendor's prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bottle::sidecar::dlp::{Known, Rules, Scanner};
use serde::Deserialize;

use super::{BUILT_IN, found};
use crate::support;

#[derive(Deserialize)]
struct Vector {
    rule_id: String,
    kind: String,
    text: String,
    fires: BTreeSet<String>,
}

fn vectors() -> Vec<Vector> {
    let text = include_str!("../../data/gitleaks/vectors.jsonl");
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// gitleaks' rules, which are not ours to ship: `tests/run` brings them.
fn rules() -> Option<Rules> {
    const FILE: &str = "BOTTLE_TEST_GITLEAKS_TOML";
    let Some(file) = std::env::var_os(FILE).filter(|file| !file.is_empty()) else {
        support::left_out(
            "gitleaks' own rules on gitleaks' own strings",
            "BOTTLE_TEST_GITLEAKS_TOML names no file of them; tests/run brings one",
        );
        return None;
    };
    let text = std::fs::read_to_string(file).unwrap();
    Some(Rules::from_toml(&text).unwrap_or_else(|error| panic!("{FILE}: {error}")))
}

#[test]
fn gitleaks_rules_fire_exactly_as_in_gitleaks_raw_and_encoded() {
    let Some(rules) = rules() else { return };
    // An older file lacks some rules; those that it has must agree.
    let ids: BTreeSet<String> = rules.ids().map(str::to_owned).collect();
    assert!(ids.len() > 200, "only {} rules", ids.len());
    let rules = Arc::new(rules);
    let known = Arc::new(Known::default());
    let with =
        |depth| Scanner::new(Arc::clone(&rules), Arc::clone(&known), Vec::new()).with_depth(depth);
    // As deep as the text is encoded: further down there is more to find, such as JWTs in base64.
    let (raw, encoded) = (with(0), with(1));
    let vectors = vectors();
    assert_eq!(vectors.len(), 3078);
    let mut wrong = Vec::new();
    for Vector { rule_id, text, fires, .. } in &vectors {
        let expected: BTreeSet<String> = fires.intersection(&ids).cloned().collect();
        let percent: String = text.bytes().map(|byte| format!("%{byte:02X}")).collect();
        for (form, scanner, text) in [
            ("raw", &raw, text.clone()),
            ("base64", &encoded, STANDARD.encode(text)),
            ("base64url", &encoded, URL_SAFE_NO_PAD.encode(text)),
            ("hex", &encoded, hex::encode(text)),
            ("percent", &encoded, percent),
        ] {
            let fired: BTreeSet<String> = found(scanner, text.as_bytes()).into_iter().collect();
            if fired != expected {
                wrong.push(format!("{form} of a string of {rule_id}: {fired:?}, not {expected:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{} differ:\n{}", wrong.len(), wrong.join("\n"));
}

/// Rules of gitleaks for secrets that can be told by a fixed part of their own.
const PREFIXED: &[&str] = &[
    "1password-service-account-token",
    "age-secret-key",
    "airtable-personnal-access-token",
    "artifactory-api-key",
    "authress-service-client-access-key",
    "aws-amazon-bedrock-api-key-long-lived",
    "azure-ad-client-secret",
    "clickhouse-cloud-api-secret-key",
    "databricks-api-token",
    "defined-networking-api-token",
    "digitalocean-pat",
    "digitalocean-refresh-token",
    "duffel-api-token",
    "dynatrace-api-token",
    "easypost-api-token",
    "facebook-page-access-token",
    "flutterwave-encryption-key",
    "flutterwave-secret-key",
    "flyio-access-token",
    "frameio-api-token",
    "gcp-api-key",
    "github-app-token",
    "github-pat",
    "github-refresh-token",
    "gitlab-cicd-job-token",
    "gitlab-deploy-token",
    "gitlab-feed-token",
    "gitlab-incoming-mail-token",
    "gitlab-oauth-app-secret",
    "gitlab-pat-routable",
    "gitlab-rrt",
    "gitlab-runner-authentication-token",
    "grafana-cloud-api-token",
    "grafana-service-account-token",
    "infracost-api-token",
    "mailchimp-api-key",
    "microsoft-teams-webhook",
    "new-relic-browser-api-token",
    "octopus-deploy-api-key",
    "openshift-user-token",
    "perplexity-api-key",
    "plaid-api-token",
    "planetscale-oauth-token",
    "postman-api-token",
    "private-key",
    "pulumi-api-token",
    "readme-api-token",
    "rubygems-api-token",
    "sentry-org-token",
    "sentry-user-token",
    "settlemint-service-access-token",
    "shopify-access-token",
    "shopify-custom-access-token",
    "shopify-shared-secret",
    "slack-app-token",
    "slack-config-access-token",
    "slack-legacy-token",
    "slack-user-token",
    "sourcegraph-access-token",
    "square-access-token",
    "stripe-access-token",
    "twilio-api-key",
    "typeform-api-token",
    "vault-batch-token",
    "yandex-access-token",
];

#[test]
fn built_in_rules_catch_what_has_a_vendors_prefix() {
    let mut counts: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for vector in vectors() {
        if vector.kind == "tp" && PREFIXED.contains(&vector.rule_id.as_str()) {
            let count = counts.entry(vector.rule_id).or_default();
            count.0 += usize::from(!found(&BUILT_IN, vector.text.as_bytes()).is_empty());
            count.1 += 1;
        }
    }
    let caught: usize = counts.values().map(|count| count.0).sum();
    let all: usize = counts.values().map(|count| count.1).sum();
    assert_eq!(counts.len(), PREFIXED.len());
    assert!(caught * 100 >= all * 95, "{caught} of {all}: {counts:#?}");
}
