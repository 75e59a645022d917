//! Whether this machine's network has a proxy, and whether the tree says so too.
#![expect(clippy::disallowed_methods, reason = "reads the environment")]

use std::time::Duration;

use super::finding;
use crate::backend::{Finding, Health};
use crate::cli::args::{Global, ReadArgs};
use crate::cli::setup;
use crate::manifest;
use crate::model::policy::Proxy;

/// In the order in which they are believed: most of what sandboxes ask for is `https`.
const VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"];

/// How long a proxy has to take a connection.
const PATIENCE: Duration = Duration::from_secs(3);

/// What there is to say, if anything.
pub(super) async fn look(global: &Global) -> Option<Finding> {
    let options = setup::load_options(global, None, &ReadArgs::default());
    let tree = options.ok().and_then(|options| manifest::identify(&options).ok());
    if let Some(proxy) = tree.and_then(|tree| tree.proxy) {
        return Some(of_tree(&proxy).await);
    }
    let variable = |name: &&str| {
        let value = std::env::var(name).ok().filter(|value| !value.is_empty())?;
        Some(((*name).to_owned(), value))
    };
    let (name, value) = VARIABLES.iter().find_map(variable)?;
    let direct = std::env::var("NO_PROXY").or_else(|_| std::env::var("no_proxy"));
    Some(of_environment(&name, &value, &direct.unwrap_or_default()))
}

async fn of_tree(proxy: &Proxy) -> Finding {
    let at = (proxy.host.as_str(), proxy.port);
    let dialled = tokio::time::timeout(PATIENCE, tokio::net::TcpStream::connect(at)).await;
    let url = proxy.url();
    let why = match dialled {
        Ok(Ok(_)) => {
            let detail = format!("{url}, as bottle.yaml says; it takes connections");
            return finding("proxy", Health::Works, detail, None);
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("nothing came within {} s", PATIENCE.as_secs()),
    };
    let detail = format!("{url}, as bottle.yaml says, does not answer: {why}");
    finding("proxy", Health::Limited, detail, Some("look at `proxy` of bottle.yaml"))
}

/// What a variable says, without what stands before an `@` in it.
fn of_environment(name: &str, value: &str, direct: &str) -> Finding {
    let (scheme, rest) = value.split_once("://").unwrap_or(("http", value));
    let (login, place) = match rest.rsplit_once('@') {
        Some((_, place)) => (true, place),
        None => (false, rest),
    };
    let place = place.trim_end_matches('/');
    let detail = format!(
        "{name} names {scheme}://{place}, and bottle.yaml names none: sandboxes do not go by it"
    );
    if scheme.starts_with("socks") {
        let fix =
            "only HTTP proxies are spoken to: name its port for them in `proxy` of bottle.yaml";
        return finding("proxy", Health::Limited, detail, Some(fix));
    }
    let url = match login {
        true => format!("{scheme}://USER@{place}, password_ref: PROXY_PASSWORD"),
        false => format!("{scheme}://{place}"),
    };
    let items = direct.split(',').map(str::trim);
    let own = ["", "localhost", "127.0.0.1", "::1", "0.0.0.0", "*"];
    let quoted = |item: &str| match item.starts_with('*') || item.contains(':') {
        true => format!("\"{item}\""),
        false => item.to_owned(),
    };
    let items: Vec<String> =
        items.filter(|item| !own.contains(item) && !item.contains(' ')).map(quoted).collect();
    let direct = match items.is_empty() {
        true => String::new(),
        false => format!(", no_proxy: [{}]", items.join(", ")),
    };
    let fix = format!("write in bottle.yaml: `proxy: {{url: {url}{direct}}}`");
    finding("proxy", Health::Limited, detail, Some(fix.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_write_is_said_without_a_password() {
        let said = |value: &str, direct: &str| {
            let found = of_environment("HTTPS_PROXY", value, direct);
            (found.detail, found.fix.unwrap_or_default())
        };
        let (detail, fix) = said("http://proxy:3128/", "");
        assert!(detail.contains("HTTPS_PROXY names http://proxy:3128,"), "{detail}");
        assert!(fix.ends_with("`proxy: {url: http://proxy:3128}`"), "{fix}");
        let direct = "localhost,127.0.0.1, .corp.example,*.lan,10.0.0.0/8";
        let (detail, fix) = said("http://ada:sesame@proxy:3128", direct);
        assert!(!detail.contains("sesame") && !fix.contains("sesame"), "{detail} {fix}");
        assert!(
            fix.ends_with(
                "`proxy: {url: http://USER@proxy:3128, password_ref: PROXY_PASSWORD, \
                 no_proxy: [.corp.example, \"*.lan\", 10.0.0.0/8]}`"
            ),
            "{fix}"
        );
        assert!(said("proxy:3128", "").1.contains("http://proxy:3128"));
        assert!(said("socks5://proxy:1080", "").1.contains("HTTP"));
    }
}
