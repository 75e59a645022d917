//! How much of a name under a wildcard looks random: data that somebody puts into it is asked of DNS,
//! whoever answers.
//!
//! Bits are counted, not characters. Words count nothing; what mixes letters and digits, long numbers and
//! letters that nobody could pronounce count as much as their alphabet holds.

/// The bits that one label may hold: a hash of 40 hex digits, or 32 letters and digits, and a little more.
const LABEL: f64 = 170.0;

/// The bits that all labels may hold together.
const NAME: f64 = 2.0 * LABEL;

/// The characters that all labels may have together.
const LENGTH: usize = 127;

/// Shorter numbers are those of regions, ports, years.
const NUMBER: usize = 5;

/// Whether the labels that a wildcard stands for look like data and not like a name.
#[must_use]
pub(super) fn holds_data(labels: &str) -> bool {
    let of_label = |label: &str| label.split(['-', '_']).map(bits).sum::<f64>();
    labels.len() > LENGTH
        || labels.split('.').any(|label| of_label(label) > LABEL)
        || labels.split('.').map(of_label).sum::<f64>() > NAME
}

/// The labels of a name that are no words, one a line; those that follow each other also as one.
pub(super) fn not_words(name: &str) -> String {
    let random = |label: &&str| label.split(['-', '_']).map(bits).sum::<f64>() > 0.0;
    let labels: Vec<&str> = name.split('.').collect();
    let mut lines: Vec<String> = Vec::new();
    for run in labels.chunk_by(|one, other| random(one) && random(other)) {
        lines.extend(run.iter().filter(|label| random(label)).map(|label| (*label).to_owned()));
        if run.len() > 1 {
            lines.push(run.concat());
        }
    }
    lines.join("\n")
}

/// The bits that a word may hold if it is random; none if it does not look so.
#[expect(clippy::cast_precision_loss, reason = "a label has 63 characters")]
fn bits(word: &str) -> f64 {
    let length = word.len() as f64;
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    if digits == word.len() {
        return if digits < NUMBER { 0.0 } else { length * 10_f64.log2() };
    }
    if digits > 0 {
        let hex = word.bytes().all(|byte| byte.is_ascii_hexdigit());
        return length * if hex { 4.0 } else { 36_f64.log2() };
    }
    if is_pronounceable(word.as_bytes()) { 0.0 } else { length * 26_f64.log2() }
}

/// Whether letters alternate as those of words do. Short ones without a vowel are abbreviations.
fn is_pronounceable(word: &[u8]) -> bool {
    let vowel = |byte: &u8| b"aeiouy".contains(&byte.to_ascii_lowercase());
    let vowels = word.iter().filter(|byte| vowel(byte)).count();
    let longest = word.split(vowel).map(<[u8]>::len).max().unwrap_or(0);
    let seldom = |byte: &&u8| b"qxzjwkv".contains(&byte.to_ascii_lowercase());
    let seldom = word.iter().filter(seldom).count();
    let ordinary = word.len() < 16 || seldom * 6 < word.len();
    word.len() < 5 || (vowels * 5 >= word.len() && longest <= 5 && ordinary)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What wildcards are made for, as vendors document it and as people name things.
    const NAMES: [&str; 62] = [
        "www",
        "api",
        "d111111abcdef8",
        "d3k81ch9hvuctc",
        "e1a2b3c4d5",
        "my-bucket",
        "my-company-production-logs-us-east-1-123456789012",
        "elasticbeanstalk-eu-central-1-123456789012",
        "cdk-hnb659fds-assets-123456789012-eu-west-1",
        "aws-sam-cli-managed-default-samclisourcebucket-1a2b3c4d5e6f7",
        "amplify-app-prod-a1b2c3-deployment",
        "abcdefghijklmnopqrstuvwxyz012345",
        "x7k2m9q4w1e8r5t3y6u0i2o4p7a9s1d3",
        "a1b2c3d4e5.execute-api",
        "0123456789abcdef0123456789abcdef.gr7",
        "_3639ac514e785e898d2646601fa951d5",
        "internal-my-load-balancer-1234567890",
        "my-db.cluster-c9akciq32rgz",
        "vpce-0a1b2c3d4e5f67890-abcdefgh.s3",
        "ip-10-0-12-34",
        "ec2-203-0-113-25",
        "my-app-git-feature-login-page-my-team",
        "my-app-9a8b7c6d5-my-team",
        "my-project-k3j9xq2lm",
        "deploy-preview-123--my-site",
        "5f3c1e2a9b8d7c6e5f4a3b2c--my-site",
        "550e8400-e29b-41d4-a716-446655440000",
        "550e8400-e29b-41d4-a716-446655440000-preview",
        "123e4567-e89b-12d3-a456-426614174000.preview",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709",
        "da39a3ee5e6b4b0d3255bfef95601890afd80709-preview",
        "pr-1234-my-service-staging",
        "my-service-abcdefghij-uc",
        "my-service-123456789012.europe-west1",
        "my-project--pr123-feature-x-1a2b3c4d",
        "a1b2c3d4.my-project",
        "1a2b-203-0-113-5",
        "user-repo-abc123def456-8080",
        "super-space-waffle-g4xq7pv9rrwh9q4-3000",
        "abcdefghijklmnopqrst",
        "xyzqwkjhgfdsplmnbvcx",
        "ep-cool-darkness-123456-pooler.us-east-2",
        "my-cluster.abcde.mongodb",
        "cluster0-shard-00-02.ab1cd",
        "mystorageaccount2024",
        "mystorageaccount.blob",
        "my-vault-prod-weu-001",
        "myapp-0123456789ab",
        "xn--bcher-kva",
        "xn--80ak6aa92e",
        "xn--fiqs8s",
        "xn--mgberp4a5d4ar",
        "xn--d1abbgf6aiiy",
        "xn--vermgensberatung-pwb",
        "donaudampfschifffahrtsgesellschaft",
        "internationalization-and-localization",
        "cdn-tls-https-mgmt-prod",
        "r3---sn-4g5e6nsz",
        "lh3",
        "a248",
        "o123456.ingest",
        "k8s-default-myingres-0123456789-1234567890.elb.eu-west-1",
    ];

    #[test]
    fn names_that_are_used_pass() {
        let wrong: Vec<&str> = NAMES.into_iter().filter(|name| holds_data(name)).collect();
        assert_eq!(wrong, [""; 0], "of {}", NAMES.len());
    }

    #[test]
    fn words_of_a_name_are_left_out() {
        let name = "akia7xqzmn5hhhfpzam2.asiapacificeducation.www.example.com";
        assert_eq!(not_words(name), "akia7xqzmn5hhhfpzam2");
        assert_eq!(
            not_words("akia7xqzmn.5hhhfpzam2.wild.test"),
            "akia7xqzmn\n5hhhfpzam2\nakia7xqzmn5hhhfpzam2"
        );
        assert_eq!(not_words("www.example.com"), "");
    }

    #[test]
    fn data_does_not() {
        let mut state = 7_u64;
        let mut next = move |alphabet: &str| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let place = usize::try_from(state >> 33).unwrap() % alphabet.len();
            char::from(alphabet.as_bytes()[place])
        };
        let alphabets = [
            "0123456789abcdef",
            "abcdefghijklmnopqrstuvwxyz234567",
            "0123456789abcdefghijklmnopqrstuvwxyz",
            "abcdefghijklmnopqrstuvwxyz",
            "0123456789",
        ];
        for alphabet in alphabets {
            let mut missed = 0;
            for _ in 0..1000 {
                let label: String = (0..63).map(|_| next(alphabet)).collect();
                missed += usize::from(!holds_data(&label));
            }
            assert!(missed <= 5, "{missed} of 1000 in {alphabet}");
        }
        assert!(holds_data(&"a.".repeat(70)));
        assert!(holds_data(&["da39a3ee5e6b4b0d3255bfef95601890"; 3].join(".")));
    }
}
