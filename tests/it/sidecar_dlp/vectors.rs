//! Strings of gitleaks' own generators: its rules must fire here exactly as there, and the built-in
//! ones on most that are told by a vendor's prefix.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bottle::sidecar::dlp::{Known, Rules, Scanner};
use serde::Deserialize;

use super::{BUILT_IN, Noise, found};
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

/// Characters that are the same in every run.
fn random(noise: &mut Noise, alphabet: &str, length: usize) -> String {
    let alphabet = alphabet.as_bytes();
    let one = |_| {
        let at = usize::try_from(noise.next()).unwrap_or(usize::MAX) % alphabet.len();
        char::from(alphabet[at])
    };
    (0..length).map(one).collect()
}

/// A token by its form: what is in braces is random.
fn token(noise: &mut Noise, form: &str) -> String {
    const LOWER: &str = "abcdefghijklmnopqrstuvwxyz0123456789";
    const MIXED: &str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    let mut out = String::new();
    let mut rest = form;
    while let Some((before, later)) = rest.split_once('{') {
        let (what, after) = later.split_once('}').unwrap();
        out.push_str(before);
        let (alphabet, length) = what.split_at(1);
        let alphabet = match alphabet {
            "x" => "0123456789abcdef",
            "9" => "123456789",
            "a" => LOWER,
            "A" => "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789",
            _ => MIXED,
        };
        out.push_str(&random(noise, alphabet, length.parse().unwrap()));
        rest = after;
    }
    out + rest
}

/// Forms of tokens, of vendors' own descriptions. In parts, so that this file is no finding.
const FORMS: &[&str] = &[
    "xox\u{0}c-{912}-{913}-{913}-{x64}",
    "xox\u{0}d-{m20}%2B{m60}%2F{m50}%3D%3D",
    "xox\u{0}a-2-{912}-{912}-{912}-{x32}",
    "xox\u{0}r-{912}-{912}-{912}-{x32}",
    "xox\u{0}s-{910}-{910}-{910}-{x10}",
    "Cookie: _gitlab\u{0}_session={x32}",
    "MTE\u{0}xNDE4NTcyOTgzNDU1NjIx.G{m5}.{m38}",
    "Authorization: Bot MzE\u{0}xNDE4NTcyOTgzNDU1Njgx.X{m5}.{m27}",
    "client\u{0}.run('NzkyNzE1NDU0MTk2MDg4ODQy.X{m5}.{m27}')",
    "\"token\u{0}\": \"ODQyNzE1NDU0MTk2MDg4ODQy.Y{m5}.{m38}\"",
    "{m52}AZ\u{0}DO{m4}",
    "TOGETHER\u{0}_API_KEY={x64}",
    "telegram\u{0}: {99}:{m35}",
    "https://api.telegram\u{0}.org/bot{910}:{m35}/sendMessage",
    "https://x.example/bot{910}:A\u{0}A{m33}/getMe",
    "ntn\u{0}_{911}{m35}",
    "ntn\u{0}_{m46}",
    "EAAA\u{0}E{m59}",
    "EAAA\u{0}E{m60}",
    "ngrok\u{0} config add-authtoken 2{m26}_{m21}",
    "NGROK\u{0}_AUTHTOKEN=2{m26}_{m21}",
    "Authorization: ApiKey\u{0} {m58}==",
    "ELASTIC\u{0}_API_KEY={m58}==",
    "MISTRAL\u{0}_API_KEY={m32}",
    "\"mistral\u{0}ApiKey\": \"{m32}\"",
    "CO\u{0}_API_KEY={m40}",
    "COHERE\u{0}_API_KEY: {m40}",
    "RAILWAY\u{0}_TOKEN={x8}-{x4}-{x4}-{x4}-{x12}",
    "EXA\u{0}_API_KEY={x8}-{x4}-{x4}-{x4}-{x12}",
    "sl\u{0}.{m137}",
    "sl\u{0}.u.{m160}",
    "1/\u{0}/0{m60}",
    "https://x.blob.example.net/c?sv=2022-11-02&sp=r&sig\u{0}={m20}%2B{m22}%3D",
    "{m76}AZ\u{0}DO{m4}",
    "{m52}JQ\u{0}QJ99BAAC{A7}XJ3w3AAABACOG{m2}",
    "api\u{0}-key: {x32}",
    "AZURE\u{0}_OPENAI_API_KEY={x32}",
    "postgres:/\u{0}/admin:{m18}@db.example.com:5432/app",
    "https:/\u{0}/bob:{m18}@git.example.com/x.git",
    "mongodb+srv:/\u{0}/svc:{m16}@cluster0.ab1cd.example.net/",
    "e2b\u{0}_{x40}",
    "wandb\u{0}_v1_{m60}",
    "WANDB\u{0}_API_KEY={x40}",
    "tgp\u{0}_v1_{m43}",
    "apify\u{0}_api_{m36}",
    "sk-\u{0}lf-{x8}-{x4}-{x4}-{x4}-{x12}",
    "pk-\u{0}lf-{x8}-{x4}-{x4}-{x4}-{x12}",
    "napi\u{0}_{a64}",
    "rnd\u{0}_{m28}",
    "hcaik\u{0}_01{a56}",
    "mdb\u{0}_sa_sk_{m40}",
    "essu\u{0}_{m64}=",
    "squ\u{0}_{x40}",
    "sqp\u{0}_{x40}",
    "sqa\u{0}_{x40}",
    "EAA\u{0}{m180}",
    "ES\u{0}_{x32}",
    "jina\u{0}_{x32}{m28}",
    "llx\u{0}-{m48}",
    "n8n\u{0}_api_{x40}",
    "acme\u{0}_live_{m40}",
];

#[test]
fn built_in_rules_catch_tokens_that_are_made_as_their_vendors_describe() {
    let mut noise = Noise(0x1357_9bdf_2468_ace1);
    let mut missed = Vec::new();
    for form in FORMS {
        for _ in 0..8 {
            let token = token(&mut noise, &form.replace('\0', ""));
            for text in [token.clone(), format!("{{\"note\":\"it is {token} now\"}}")] {
                if found(&BUILT_IN, text.as_bytes()).is_empty() {
                    missed.push(text);
                }
            }
        }
    }
    let all = FORMS.len() * 16;
    assert!(missed.len() * 100 <= all * 2, "{} of {all}: {missed:#?}", missed.len());
}
