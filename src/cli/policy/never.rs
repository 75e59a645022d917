//! What no bottle can grant: places inside the sandbox, and protocols that no sidecar passes on. Pure.

/// Protocols that are no HTTP, by their schemes and their ports.
const OTHERS: [(&str, &[&str], &[u16]); 12] = [
    ("mail", &["smtp", "smtps", "imap", "imaps", "pop3"], &[25, 465, 587, 110, 143, 993, 995]),
    ("DNS", &["dns"], &[53, 853]),
    ("LDAP", &["ldap", "ldaps"], &[389, 636]),
    ("PostgreSQL", &["postgres", "postgresql"], &[5432]),
    ("MySQL", &["mysql", "mariadb"], &[3306]),
    ("SQL Server", &["sqlserver", "mssql"], &[1433]),
    ("Oracle", &["oracle"], &[1521]),
    ("Redis", &["redis", "rediss"], &[6379]),
    ("MongoDB", &["mongodb", "mongodb+srv"], &[27017]),
    ("AMQP", &["amqp", "amqps"], &[5672, 5671]),
    ("Kafka", &["kafka"], &[9092]),
    ("RDP", &["rdp"], &[3389]),
];

/// Names that lead to the machine on which they are asked for.
const OWN: [&str; 6] =
    ["localhost", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "0.0.0.0", "[::]"];

/// Why nothing of this kind is ever passed on, whatever the bottle grants, and what to do; `None`: it may be.
pub(super) fn never(url: &str, sandbox: &str) -> Option<String> {
    let (scheme, rest) = match url.split_once("://") {
        Some((scheme, rest)) => (Some(scheme.to_ascii_lowercase()), rest),
        None => (None, url),
    };
    let scheme = scheme.as_deref();
    let place = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let (user, place) = match place.rsplit_once('@') {
        Some((user, place)) => (Some(user), place),
        None => (None, place),
    };
    let (host, rest_of_place) = match place.find(']') {
        Some(end) => place.split_at(end + 1),
        None => place.split_at(place.find(':').unwrap_or(place.len())),
    };
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    let after = rest_of_place.strip_prefix(':');
    let port = after.and_then(|digits| digits.parse::<u16>().ok());
    // As git and scp write it: `git@host:path`.
    let by_scp = scheme.is_none() && user.is_some() && after.is_some() && port.is_none();
    if matches!(scheme, Some("ssh" | "sftp" | "scp" | "git+ssh")) || by_scp || port == Some(22) {
        return Some(ssh(&host, rest, by_scp));
    }
    if scheme == Some("git") || port == Some(9418) {
        return Some(format!(
            "the git protocol is not passed on, whatever the bottle grants: clone by `https://{host}/…`"
        ));
    }
    let of_loopback = host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback());
    if OWN.contains(&host.as_str())
        || host.ends_with(".localhost")
        || host == "[::1]"
        || of_loopback
        || host == sandbox
    {
        return Some(format!(
            "inside {sandbox} this is {sandbox} itself: what listens there is reached directly, and nothing is asked \
             of the sidecar. It never leads to this machine, of which `services` of the bottle opens single ports, as \
             `NAME.host:PORT`"
        ));
    }
    if matches!(
        host.as_str(),
        "host.docker.internal" | "gateway.docker.internal" | "host.containers.internal"
    ) {
        return Some(format!(
            "no sandbox has a name `{host}` for this machine: `services` of the bottle opens single ports of it, as \
             `NAME.host:PORT`"
        ));
    }
    // What `services` names may have any port.
    if host.ends_with(".host") {
        return None;
    }
    let other = OTHERS.iter().find(|(_, schemes, ports)| match (scheme, port) {
        (Some(scheme), _) if schemes.contains(&scheme) => true,
        // What speaks HTTP says so.
        (None | Some("http" | "https"), Some(port)) => ports.contains(&port),
        _ => false,
    });
    other.map(|(protocol, ..)| {
        format!(
            "{protocol} is not passed on, whatever the bottle grants: a sidecar speaks HTTP and HTTPS alone, where \
             it sees methods, paths and secrets. Use what the service has of an API over HTTPS, or run the service \
             inside the sandbox"
        )
    })
}

/// What to do instead of SSH.
fn ssh(host: &str, rest: &str, by_scp: bool) -> String {
    let after = rest.split_once(if by_scp { ':' } else { '/' });
    let path = after.map_or("", |(_, path)| path);
    let path = path.trim_start_matches('/');
    let path = if path.is_empty() { "…" } else { path };
    format!(
        "SSH is not passed on, whatever the bottle grants: clone by `https://{host}/{path}`, with a route of \
         `role: git-insteadof` where the repository is private; or name the repository in `git` of the bottle, whose \
         gate holds the key"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_never_be_passed_on_is_told_with_what_to_do() {
        for (url, says) in [
            ("localhost:3000", "is ada itself"),
            ("http://localhost:3000/x", "is ada itself"),
            ("https://LOCALHOST./", "is ada itself"),
            ("http://127.0.0.1:8080", "is ada itself"),
            ("127.9.9.9", "is ada itself"),
            ("http://[::1]:8080/", "is ada itself"),
            ("http://0.0.0.0:8080/", "is ada itself"),
            ("http://app.localhost:5173", "is ada itself"),
            ("http://ada:8000/", "is ada itself"),
            ("http://host.docker.internal:5000", "no sandbox has a name"),
            ("github.com:22", "clone by `https://github.com/…`"),
            ("https://github.com:22/a/b", "clone by `https://github.com/a/b`"),
            ("ssh://git@github.com/a/b.git", "clone by `https://github.com/a/b.git`"),
            ("git@github.com:a/b.git", "clone by `https://github.com/a/b.git`"),
            ("git://github.com/a/b.git", "clone by `https://github.com/…`"),
            ("db.example.com:5432", "PostgreSQL is not passed on"),
            ("postgres://u:p@db.example.com/x", "PostgreSQL is not passed on"),
            ("redis://cache:6379/0", "Redis is not passed on"),
            ("https://mail.example.com:587", "mail is not passed on"),
        ] {
            let said = never(url, "ada").unwrap_or_default();
            assert!(said.contains(says), "{url}: {said}");
            assert!(!said.contains("u:p"), "{said}");
        }
    }

    #[test]
    fn what_may_be_granted_is_not_told_otherwise() {
        for url in [
            "https://api.example.com/a:22",
            "https://api.example.com:8443/",
            "http://packages.example.org/",
            "api.example.com",
            "https://ada.example.com/",
            "https://localhost.example.com/",
            "https://user@api.example.com/",
            "https://10.0.0.1/",
            "ftp://packages.example.org/",
            "wss://api.example.com/",
            "http://db.host:5432/",
        ] {
            assert_eq!(never(url, "ada"), None, "{url}");
        }
    }
}
