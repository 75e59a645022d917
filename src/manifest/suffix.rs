//! Names under which anyone can register a name, so that a wildcard over them would allow anyone.
//!
//! Not the whole public suffix list, which changes every week: every single label, the generic
//! second level of country codes (`co.uk`, `com.au`) as a rule, and the shared hosts that people
//! meet. A wildcard over something that is missing here allows what its operator wrote.

/// Second-level labels that country registries hand out under.
const GENERIC: [&str; 22] = [
    "ac", "co", "com", "edu", "gob", "gouv", "gov", "go", "gv", "id", "info", "ltd", "me", "mil",
    "ne", "net", "nom", "or", "org", "plc", "sch", "web",
];

/// Hosts whose customers choose the label before them.
const SHARED: [&str; 66] = [
    "amplifyapp.com",
    "appspot.com",
    "azureedge.net",
    "azurestaticapps.net",
    "azurewebsites.net",
    "b-cdn.net",
    "blob.core.windows.net",
    "blogspot.com",
    "bitbucket.io",
    "cloudapp.azure.com",
    "cloudapp.net",
    "cloudflarestorage.com",
    "cloudfront.net",
    "cloudfunctions.net",
    "codeberg.page",
    "core.windows.net",
    "ddns.net",
    "deno.dev",
    "digitaloceanspaces.com",
    "duckdns.org",
    "dyndns.org",
    "elasticbeanstalk.com",
    "execute-api.amazonaws.com",
    "fastly.net",
    "fastlylb.net",
    "firebaseapp.com",
    "fly.dev",
    "github.dev",
    "github.io",
    "githubpreview.dev",
    "githubusercontent.com",
    "gitlab.io",
    "glitch.me",
    "herokuapp.com",
    "hf.space",
    "amazonaws.com",
    "loca.lt",
    "lhr.life",
    "myshopify.com",
    "netlify.app",
    "ngrok-free.app",
    "ngrok-free.dev",
    "ngrok.app",
    "ngrok.dev",
    "ngrok.io",
    "no-ip.org",
    "nip.io",
    "on.aws",
    "ondigitalocean.app",
    "onrender.com",
    "pages.dev",
    "r2.dev",
    "railway.app",
    "readthedocs.io",
    "replit.dev",
    "repl.co",
    "run.app",
    "sslip.io",
    "surge.sh",
    "trafficmanager.net",
    "trycloudflare.com",
    "vercel.app",
    "web.app",
    "windows.net",
    "wordpress.com",
    "workers.dev",
];

/// Whether a name, in lower case, is one under which anyone can register a name.
pub(super) fn is_public(name: &str) -> bool {
    let labels: Vec<&str> = name.split('.').collect();
    match labels[..] {
        [] | [_] => true,
        [second, top] if top.len() == 2 && GENERIC.contains(&second) => true,
        // Buckets stand right before the service and its region.
        _ if name.ends_with(".amazonaws.com") => labels
            .iter()
            .any(|label| label.starts_with("s3") || *label == "execute-api" || *label == "elb"),
        _ => SHARED.contains(&name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_suffixes() {
        for name in [
            "com",
            "dev",
            "localhost",
            "co.uk",
            "com.au",
            "or.jp",
            "github.io",
            "amazonaws.com",
            "s3.amazonaws.com",
            "s3.eu-west-1.amazonaws.com",
            "s3-eu-west-1.amazonaws.com",
        ] {
            assert!(is_public(name), "{name}");
        }
        for name in [
            "github.com",
            "example.net",
            "example.co.uk",
            "me.github.io",
            "t.co",
            "ecr.eu-west-1.amazonaws.com",
            "python.org",
            "anthropic.com",
        ] {
            assert!(!is_public(name), "{name}");
        }
    }
}
