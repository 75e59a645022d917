//! Names under which anyone can register a name, so that a wildcard over them would allow anyone.
//!
//! They are those of the Public Suffix List, with its private part, as it was when this program was
//! built, and shared hosts that people meet and that it does not have. A wildcard over something that
//! is missing here allows what its operator wrote.

/// Who gives out names under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Public {
    /// A registry: `com`, `co.uk`.
    Registry,
    /// A company, to its customers, as the list's private part says.
    Private,
    /// The same, by our own knowledge.
    Shared,
}

/// Hosts whose customers choose the label before them.
const SHARED: [&str; 67] = [
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
    "azure.com",
    "windows.net",
    "wordpress.com",
    "workers.dev",
];

/// Who gives out names under this one, in lower case, if anyone can have one.
pub(super) fn public(name: &str) -> Option<Public> {
    if let Some(suffix) = psl::suffix(name.as_bytes()).filter(|suffix| *suffix == name) {
        return Some(match suffix.typ() {
            Some(psl::Type::Private) => Public::Private,
            // A single label that is not listed is one of nobody's.
            Some(psl::Type::Icann) | None => Public::Registry,
        });
    }
    // Of a rule with a wildcard every name below this one is a suffix.
    let below = format!("a.{name}");
    if let Some(suffix) =
        psl::suffix(below.as_bytes()).filter(|suffix| suffix.as_bytes() == below.as_bytes())
        && let Some(kind) = suffix.typ()
    {
        return Some(match kind {
            psl::Type::Private => Public::Private,
            psl::Type::Icann => Public::Registry,
        });
    }
    let mut labels = name.split('.');
    // Buckets stand right before the service and its region.
    let shared = SHARED.contains(&name)
        || name.ends_with(".amazonaws.com")
            && labels
                .any(|label| label.starts_with("s3") || ["execute-api", "elb"].contains(&label));
    shared.then_some(Public::Shared)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_suffixes() {
        for (name, by) in [
            ("com", Public::Registry),
            ("dev", Public::Registry),
            ("localhost", Public::Registry),
            ("co.uk", Public::Registry),
            ("com.au", Public::Registry),
            ("or.jp", Public::Registry),
            ("uk.com", Public::Private),
            ("us.org", Public::Private),
            ("de.com", Public::Private),
            ("github.io", Public::Private),
            ("githubusercontent.com", Public::Private),
            ("s3.amazonaws.com", Public::Private),
            ("s3.eu-west-1.amazonaws.com", Public::Private),
            ("compute.amazonaws.com", Public::Private),
            ("r.appspot.com", Public::Private),
            ("kawasaki.jp", Public::Registry),
            ("azure.com", Public::Shared),
            ("cloudapp.azure.com", Public::Shared),
            ("amazonaws.com", Public::Shared),
            ("s3-eu-west-1.amazonaws.com", Public::Private),
            ("digitaloceanspaces.com", Public::Private),
        ] {
            assert_eq!(public(name), Some(by), "{name}");
        }
        for name in [
            "github.com",
            "example.net",
            "example.co.uk",
            "example.uk.com",
            "me.github.io",
            "t.co",
            "ecr.eu-west-1.amazonaws.com",
            "python.org",
            "anthropic.com",
        ] {
            assert_eq!(public(name), None, "{name}");
        }
    }
}
