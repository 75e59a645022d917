//! What a machine is told of the door at which its agent asks: in the files that agents read by themselves, beside what
//! is their user's own, and in a folder that says what it may do now.

use serde_json::{Value, json};

use crate::model::access::{GEMINI_PATH, sidecar_url};
use crate::model::id::BackendKind;
use crate::model::policy::Policy;
use crate::model::spec::{ImageRef, Resources, Workspace, WorkspaceMode, cpus, human_bytes};

use super::What;

/// Where the door is, below the sidecar's own URL.
pub const DOOR: &str = "/.bottle/mcp";

/// The folder that says what may be done now.
pub const FOLDER: &str = "/etc/bottle/current-config";

/// Servers for Claude Code, which `bottle run` names to it.
pub const CLAUDE: &str = "/etc/bottle/mcp.json";

/// Claude Code's own state, below the home folder of the sandbox's user.
pub const CLAUDE_STATE: &str = ".claude.json";

/// How the fields of a guest begin that say what it is told.
pub const FIELDS: &str = "supervise.";

/// What a sandbox's agent is told of its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asks {
    image: Option<String>,
    resources: Resources,
    workspace: Option<(String, WorkspaceMode)>,
}

impl Asks {
    /// Nothing of the host's is in it: no path, and no name of a variable.
    #[must_use]
    pub fn of(
        image: Option<&ImageRef>,
        resources: &Resources,
        workspace: Option<&Workspace>,
    ) -> Self {
        let image = image.map(|image| match image {
            ImageRef::Registry(_) | ImageRef::Host | ImageRef::Bare => image.to_string(),
            _ => "one of the operator's own".to_owned(),
        });
        let workspace = workspace.map(|workspace| (workspace.target.clone(), workspace.mode));
        Self { image, resources: *resources, workspace }
    }

    /// What a sandbox may do now, and what of its machine it can ask for.
    #[must_use]
    pub fn config(&self, policy: &Policy, backend: BackendKind) -> Value {
        json!({"policy": granted(policy), "machine": self.machine(backend)})
    }

    fn machine(&self, backend: BackendKind) -> Value {
        let Resources { millicpus, memory, pids, disk } = self.resources;
        let workspace = self.workspace.as_ref().map(|(target, mode)| {
            let mode = match mode {
                WorkspaceMode::Mount => "mount",
                WorkspaceMode::Copy => "copy",
            };
            json!({"target": target, "mode": mode})
        });
        json!({
            "backend": backend.as_str(),
            "image": self.image,
            "resources": {
                "cpus": cpus(millicpus),
                "memory": human_bytes(memory),
                "pids": pids,
                "disk": disk.map(human_bytes),
            },
            "workspace": workspace,
            "can_be_asked_for": What::offered(backend),
        })
    }
}

/// What a policy grants, without what is the operator's: no credential's name, and no network of his.
fn granted(policy: &Policy) -> Value {
    let allow: Vec<Value> = policy
        .egress
        .allowlist
        .iter()
        .map(|entry| {
            json!({
                "host": entry.host.to_string(),
                "port": entry.port,
                "methods": entry.methods,
                "paths": entry.paths,
                "expires": entry.expires,
            })
        })
        .collect();
    let routes: Vec<Value> = policy
        .routes
        .iter()
        .map(|route| {
            let port = if route.port == 443 { String::new() } else { format!(":{}", route.port) };
            let upstream = format!("https://{}{port}{}", route.host, route.upstream_path);
            let roles: Vec<&str> = route.roles.iter().map(|role| role.as_str()).collect();
            json!({
                "route": format!("{} → {upstream}", route.path),
                "roles": roles,
                "expires": route.expires,
            })
        })
        .collect();
    let services: Vec<String> = policy.services.iter().map(|service| service.authority()).collect();
    json!({
        "allow": allow,
        "routes": routes,
        "services": services,
        "dlp": {"action": policy.egress.dlp_action.as_str()},
    })
}

/// What an agent is told in words.
const README: &str = "\
# What this sandbox may do

`policy.json` says what it may reach, `machine.json` what it is. Both are written anew whenever they change; empty
`methods` or `paths` mean all of them.

What is refused can be asked for, by the tools of the MCP server `bottle`:

- `pipelock-block`: the network refused something. Give the URL that failed, and why it is needed.
- `cred-proxy-block`: a service needs a credential. Never give one.
- `capability-block`: the machine itself lacks something; `can_be_asked_for` in `machine.json` lists what.
- `request-status`: how requests stand.

The operator decides. `pending` is not denied: do other work meanwhile, and wait again with `request-status`. After
`applied` try again at once.
";

/// The files of the folder, by their names.
#[must_use]
pub fn files(config: &Value) -> [(&'static str, String); 3] {
    let pretty = |part: &str| {
        let text = serde_json::to_string_pretty(&config[part]).unwrap_or_default();
        format!("{text}\n")
    };
    [
        ("README.md", README.to_owned()),
        ("policy.json", pretty("policy")),
        ("machine.json", pretty("machine")),
    ]
}

/// A file by which an agent's program finds the door. It belongs to root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// Where.
    pub path: &'static str,
    /// All of it.
    pub content: String,
    /// An image may bring its own: that one stays.
    pub may_be_theirs: bool,
}

/// How long, in milliseconds, a client is told to wait: longer than any call takes.
const PATIENCE: u32 = 3_600_000;

fn servers(backend: BackendKind, server: &Value) -> Value {
    let mut server = server.clone();
    if let Some(server) = server.as_object_mut() {
        let key = if server.contains_key("httpUrl") { "httpUrl" } else { "url" };
        server.insert(key.to_owned(), format!("{}{DOOR}", sidecar_url(backend)).into());
    }
    json!({"bottle": server})
}

/// The same for Claude Code: it hides what is not always loaded until its model searches for it.
fn claude(backend: BackendKind) -> Value {
    let server = json!({"type": "http", "alwaysLoad": true, "timeout": PATIENCE});
    json!({"mcpServers": servers(backend, &server)})
}

/// The state of Claude Code where it has none.
#[must_use]
pub fn claude_state(backend: BackendKind) -> String {
    format!("{}\n", claude(backend))
}

/// The settings that Gemini CLI reads before all others. `login`: those of a role, which names another place for them.
fn gemini(backend: BackendKind, login: Option<&str>) -> String {
    let server = json!({"httpUrl": "", "trust": true, "timeout": PATIENCE});
    let mut settings: Value =
        login.and_then(|login| serde_json::from_str(login).ok()).unwrap_or_else(|| json!({}));
    if let Some(settings) = settings.as_object_mut() {
        settings.insert("mcpServers".to_owned(), servers(backend, &server));
    }
    format!("{settings}\n")
}

/// The same in the place that a role has for them.
#[must_use]
pub fn gemini_with_login(backend: BackendKind) -> (&'static str, String) {
    (GEMINI_PATH, gemini(backend, Some(crate::model::access::GEMINI)))
}

/// The files of all programs.
#[must_use]
pub fn clients(backend: BackendKind) -> Vec<Client> {
    let url = format!("{}{DOOR}", sidecar_url(backend));
    let codex = format!(
        "# Written by bottle.\n[mcp_servers.bottle]\nurl = \"{url}\"\ntool_timeout_sec = {}\n",
        PATIENCE / 1000
    );
    let opencode = json!({"type": "remote", "enabled": true, "oauth": false, "timeout": PATIENCE});
    let opencode = json!({"mcp": servers(backend, &opencode)});
    // Without it the program asks a person, or refuses where there is none.
    let allowed = json!({"permissions": {"allow": ["mcp__bottle"]}});
    let theirs = |path, content| Client { path, content, may_be_theirs: true };
    let ours = |path, content| Client { path, content, may_be_theirs: false };
    vec![
        theirs("/etc/codex/config.toml", codex),
        theirs("/etc/gemini-cli/system-defaults.json", gemini(backend, None)),
        theirs("/etc/opencode/opencode.json", format!("{opencode}\n")),
        ours(CLAUDE, claude_state(backend)),
        ours("/etc/claude-code/managed-settings.d/50-bottle.json", format!("{allowed}\n")),
    ]
}

/// Whether this is what some version of ours has written there: the door, and no other server.
#[must_use]
pub fn is_ours(text: &str) -> bool {
    if text.starts_with("# Written by bottle.\n") {
        return text.lines().filter(|line| line.starts_with('[')).count() == 1;
    }
    let Ok(Value::Object(all)) = serde_json::from_str::<Value>(text) else { return false };
    let mut sections = all.values();
    match (sections.next(), sections.next()) {
        (Some(Value::Object(servers)), None) => {
            servers.keys().eq(["bottle"]) && text.contains(DOOR)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::policy::{AllowEntry, CredentialRoute, Egress, HostPattern};

    #[test]
    fn every_program_finds_the_door_and_ours_is_known_again() {
        for backend in [BackendKind::Native, BackendKind::Docker, BackendKind::Smolmachines] {
            let door = format!("{}/.bottle/mcp", sidecar_url(backend));
            for client in clients(backend) {
                assert!(client.content.contains(&door) || client.path.contains("managed"));
                assert_eq!(is_ours(&client.content), client.content.contains(&door), "{client:?}");
            }
            let (path, text) = gemini_with_login(backend);
            assert_eq!(path, "/etc/bottle/gemini.json");
            assert!(text.contains(&door) && text.contains("gemini-api-key"), "{text}");
        }
        for theirs in [
            "",
            "model = \"x\"\n",
            "{\"mcp\":{\"mine\":{\"url\":\"http://x/.bottle/mcp\"}}}",
            "{\"theme\":1,\"mcpServers\":{\"bottle\":{}}}",
            "# Written by bottle.\n[mcp_servers.bottle]\n[mcp_servers.mine]\n",
        ] {
            assert!(!is_ours(theirs), "{theirs}");
        }
    }

    #[test]
    fn nothing_of_the_operators_is_told() {
        let policy = Policy {
            egress: Egress {
                allowlist: vec![AllowEntry {
                    host: HostPattern::Exact("a.example".into()),
                    port: 443,
                    methods: vec!["GET".into()],
                    paths: Vec::new(),
                    cidr: Some("10.20.0.0/16".into()),
                    encoded_slash: false,
                    expires: None,
                }],
                ..Egress::default()
            },
            routes: vec![CredentialRoute {
                token_ref: "SECRET_NAME".into(),
                ..CredentialRoute::to("api.example.com")
            }],
            ..Policy::default()
        };
        let image = ImageRef::Folder {
            path: "/home/op/root".into(),
            digest: crate::model::SpecHash::of_bytes(b"x"),
        };
        let workspace = Workspace {
            path: "/home/op/work".into(),
            mode: WorkspaceMode::Copy,
            target: "/workspace".into(),
        };
        let asks = Asks::of(Some(&image), &Resources::default(), Some(&workspace));
        let config = asks.config(&policy, BackendKind::Native);
        let text = config.to_string();
        for secret in ["SECRET_NAME", "/home/op", "10.20.0.0"] {
            assert!(!text.contains(secret), "{text}");
        }
        assert_eq!(config["policy"]["allow"][0]["host"], "a.example");
        assert_eq!(config["policy"]["routes"][0]["route"], "/route/ → https://api.example.com");
        assert_eq!(config["machine"]["workspace"]["target"], "/workspace");
        assert_eq!(config["machine"]["resources"]["memory"], "2G");
        let all = files(&config);
        let read: Value = serde_json::from_str(&all[1].1).unwrap();
        assert_eq!(read, config["policy"]);
    }
}
