//! What becomes of real machines: natively, and on Docker where its tests run.

use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::desk::{Desk, capability, index};
use crate::egress::world;
use crate::support;

/// A desk with sandboxes that run.
pub(super) struct Shop {
    pub(super) desk: Desk,
    pub(super) watching: Option<Child>,
}

impl Shop {
    pub(super) fn open(what: &str, backend: &str, image: &str) -> Self {
        let desk = Desk::plain(&what.replace('_', "-"));
        desk.tree.bottle(
            "dev",
            &format!(
                "backend: {backend}\nimage: {image}\nsupervise: true\negress:\n  allowlist: [packages.example.org]\nresources:\n  pids: 64\n  memory: 128M"
            ),
        );
        desk.git(&["init", "-q"]);
        desk.git(&["add", "."]);
        desk.git(&["commit", "-qm", "begin"]);
        let shop = Self { desk, watching: None };
        shop.bottle(&["apply", "--yes"]).exits(0);
        shop
    }

    pub(super) fn bottle(&self, args: &[&str]) -> support::Ended {
        let tree = self.desk.path().to_str().unwrap();
        let all: Vec<&str> = ["--tree", tree].iter().chain(args).copied().collect();
        self.desk.cli.run(all)
    }

    pub(super) fn watch(&mut self) {
        let tree = self.desk.path().to_str().unwrap();
        let mut command = self.desk.cli.command(["--tree", tree, "watch"]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.watching = Some(command.spawn().unwrap());
        let lock = self.desk.cli.state().join("trees").join(&self.desk.tree.owner).join("lock");
        wait_for("watch to hold the lock", || {
            std::fs::read_to_string(&lock).is_ok_and(|text| text.contains("\"watch\""))
        });
    }

    pub(super) fn approve(&self, id: &str, more: &[&str]) -> support::Ended {
        let token = self.desk.token(&[id], more);
        let mut args = vec!["approve", id, "--yes", "--review", &token];
        args.extend(more);
        self.desk.requests(&args)
    }

    /// What a request to that host gets from the sidecar: `deny` or `allow` and the rule, as `policy check` says, is
    /// no proof of what is loaded; the receipt of the load is.
    pub(super) fn loaded(&self, sandbox: &str) -> Vec<Value> {
        let folder =
            self.desk.cli.state().join("trees").join(&self.desk.tree.owner).join("receipts");
        let entries = std::fs::read_dir(folder).unwrap();
        let receipts = entries.filter_map(|entry| {
            serde_json::from_str::<Value>(&std::fs::read_to_string(entry.unwrap().path()).ok()?)
                .ok()
        });
        receipts
            .filter(|it| it["sandbox"] == sandbox && it["fields"]["egress.dlp_action"].is_string())
            .collect()
    }

    pub(super) fn has(&self, sandbox: &str, field: &str) -> bool {
        self.loaded(sandbox)
            .iter()
            .any(|it| it["fields"][field].is_string() && it["guest"].is_string())
    }

    /// Calls a tool as an agent does, and returns what it reads.
    pub(super) fn call(&self, tool: &str, arguments: &str) -> String {
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{{arguments}}}}}}}"#
        );
        let heads = [
            "Content-Type: application/json",
            "Accept: application/json",
            "MCP-Protocol-Version: 2025-06-18",
        ];
        let heads = heads.map(|head| format!("-H '{head}'")).join(" ");
        let script = format!(
            "curl -s --noproxy '*' --max-time 90 {heads} -d '{body}' \"$http_proxy/.bottle/mcp\""
        );
        let said = self.bottle(&["exec", "ada", "--", "sh", "-c", &script]).exits(0).stdout;
        let answer: Value = serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}"));
        answer["result"]["content"][0]["text"]
            .as_str()
            .unwrap_or_else(|| panic!("{answer}"))
            .to_owned()
    }

    fn first_process(&self, sandbox: &str) -> String {
        let script = "readlink /proc/self/ns/pid; cut -d' ' -f22 /proc/1/stat";
        self.bottle(&["exec", sandbox, "--", "sh", "-c", script]).exits(0).stdout
    }

    #[track_caller]
    pub(super) fn converged(&self) {
        let plan = self.bottle(&["plan", "-o", "json"]).exits(0).json();
        assert_eq!(plan["steps"].as_array().map(Vec::len), Some(0), "{plan}");
    }
}

impl Drop for Shop {
    fn drop(&mut self) {
        if let Some(mut watching) = self.watching.take() {
            let pid = rustix::process::Pid::from_child(&watching);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let _ = watching.wait();
        }
        let down = self.bottle(&["down", "--yes", "--allow-teardown", "all", "--discard", "all"]);
        if down.code != Some(0) {
            eprintln!("down of {}: {}", self.desk.tree.owner, down.stderr);
        }
    }
}

#[track_caller]
pub(super) fn wait_for(what: &str, mut so: impl FnMut() -> bool) -> Duration {
    let begun = Instant::now();
    while !so() {
        assert!(begun.elapsed() < Duration::from_secs(60), "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begun.elapsed()
}

pub(super) const INDEX: &str = "egress.allowlist.index.example.org:443";

/// Without `watch`: a pass for the sandboxes of that bottle, and for no others.
fn applies_by_itself(shop: &Shop) {
    // What else is to be done in the tree is not done by the way.
    shop.desk.tree.bottle("other", "backend: native\nimage: host");
    shop.desk.tree.agent("linus", "other", "", "You are linus.");
    shop.desk.ask_egress("r-aaaaaaaa");
    let pid = shop.first_process("ada");
    let ended = shop.approve("r-aaaaaaaa", &["-o", "json"]).exits(0).json();
    assert_eq!(ended["requests"][0]["state"], "applied", "{ended}");
    assert!(shop.has("ada", INDEX) && shop.has("grace", INDEX));
    assert_eq!(shop.first_process("ada"), pid);
    assert!(shop.loaded("linus").is_empty());
    shop.desk.tree.remove("bottles/other.md").remove("agents/linus.md");
    shop.converged();
    shop.desk.requests(&["undo", "r-aaaaaaaa"]).exits(0);
    assert!(!shop.has("ada", INDEX) && !shop.has("grace", INDEX));
    shop.converged();
}

/// With `watch`, which holds the tree's lock: it is waited for.
fn applies_under_watch(shop: &mut Shop) {
    shop.watch();
    shop.desk.ask_egress("r-aaaaaaaa");
    let ended = shop.approve("r-aaaaaaaa", &["-o", "json"]).exits(0).json();
    assert_eq!(ended["requests"][0]["state"], "applied", "{ended}");
    assert!(shop.has("ada", INDEX));
    // A no is told by it as well.
    shop.desk.ask("r-bbbbbbbb", "ada", "egress", {
        let mut ask = index();
        ask["host"] = "other.example.org".into();
        ask
    });
    shop.desk.requests(&["deny", "r-bbbbbbbb", "--message", "no"]).exits(0);
    wait_for("the sidecar to be told", || {
        shop.loaded("ada").iter().any(|it| it["requests"]["decision r-bbbbbbbb"] == "denied")
    });
    shop.desk.requests(&["undo", "r-aaaaaaaa"]).exits(0);
    wait_for("the grant to be gone", || !shop.has("ada", INDEX));
}

/// Memory is amended in place: the same process, a plan that says so, and nothing left to do, also without receipts.
fn amends_memory(shop: &Shop) {
    shop.desk.ask("r-aaaaaaaa", "ada", "capability", capability("memory", "256M"));
    let shown = shop.desk.show("r-aaaaaaaa");
    let verdicts: Vec<&str> = shown["plan"]["changes"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|change| change["resource"] == "machine")
        .map(|change| change["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["reprovision", "reprovision"], "{shown}");
    let pid = shop.first_process("ada");
    let ended = shop.approve("r-aaaaaaaa", &["-o", "json"]).exits(0).json();
    assert_eq!(ended["requests"][0]["state"], "applied", "{ended}");
    assert_eq!(shop.first_process("ada"), pid, "the same machine");
    shop.converged();
    assert!(shop.loaded("ada").iter().any(|it| it["requests"]["decision r-aaaaaaaa"] == "applied"));
    let receipts = shop.desk.cli.state().join("trees").join(&shop.desk.tree.owner).join("receipts");
    std::fs::remove_dir_all(receipts).unwrap();
    let plan = shop.bottle(&["plan", "-o", "json"]).json();
    let replaced = plan["changes"].as_array().unwrap().iter().any(|it| it["verdict"] == "replace");
    assert!(!replaced, "{plan}");
    shop.bottle(&["apply", "--yes"]).exits(0);
    assert_eq!(shop.first_process("ada"), pid);
    shop.converged();
}

/// From the agent's own call, by the door of its sidecar, to the operator's row, and back.
fn is_asked_and_answered(shop: &mut Shop) {
    let heard = shop.desk.cli.home().join("heard");
    let notify = format!(
        "name: {}\nnotify: [sh, -c, 'cat > \"$0.$BOTTLE_SANDBOX\"', {}]\n",
        shop.desk.tree.owner,
        heard.display()
    );
    shop.desk.tree.write("bottle.yaml", &notify);
    shop.watch();
    let begun = Instant::now();
    let said = shop.call("pipelock-block", r#""failed_url":"https://index.example.org/simple/x/","reason":"pip fails\nand fails","wait_seconds":0"#);
    let id = said.split_whitespace().nth(1).unwrap_or_default().to_owned();
    assert!(said.starts_with("pending: r-"), "{said}");
    // Nobody looks: the loop hears of it by itself.
    let folder = shop.desk.cli.state().join("trees").join(&shop.desk.tree.owner).join("requests");
    wait_for("the row", || folder.join(format!("{id}.json")).exists());
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(5), "from the call to the row it took {took:?}");
    let heard = heard.with_extension("ada");
    wait_for("the operator's program", || {
        std::fs::read_to_string(&heard).is_ok_and(|text| text.ends_with('}'))
    });
    let told: Value = serde_json::from_str(&std::fs::read_to_string(&heard).unwrap()).unwrap();
    assert_eq!((told["id"].as_str(), told["sandbox"].as_str()), (Some(&*id), Some("ada")));
    assert!(told["asks"].as_str().unwrap().starts_with("index.example.org:443"), "{told}");
    let status = shop.bottle(&["status", "-o", "json"]).exits(0).json();
    let ada = status["sandboxes"].as_array().unwrap().iter().find(|it| it["sandbox"] == "ada");
    assert_eq!(ada.unwrap()["requests"]["pending"], 1, "{status}");
    let asked = &status["requests"][0];
    assert_eq!((asked["id"].as_str(), asked["state"].as_str()), (Some(&*id), Some("pending")));
    assert_eq!(asked["asks"], told["asks"], "{status}");
    let shown = shop.desk.show(&id);
    assert_eq!(shown["request"]["sandbox"], "ada");
    assert_eq!(shown["request"]["reason"], "pip fails\nand fails");
    // Whoever waits hears of it with the policy that has it.
    std::thread::scope(|scope| {
        let waits = scope
            .spawn(|| shop.call("request-status", &format!(r#""id":"{id}","wait_seconds":60"#)));
        let begun = Instant::now();
        shop.approve(&id, &[]).exits(0);
        let told = waits.join().unwrap();
        assert!(told.starts_with("applied: index.example.org:443"), "{told}");
        support::say(&format!("approve to applied: {:?}", begun.elapsed()));
    });
    // The same again is there already.
    let again = shop.call("pipelock-block", r#""failed_url":"https://index.example.org/simple/x/","reason":"pip fails","wait_seconds":0"#);
    assert!(again.starts_with("unchanged:"), "{again}");
    let other = shop.call(
        "pipelock-block",
        r#""failed_url":"https://other.example.org/a/b","reason":"it fails","wait_seconds":0"#,
    );
    let id = other.split_whitespace().nth(1).unwrap_or_default().to_owned();
    wait_for("the row", || folder.join(format!("{id}.json")).exists());
    shop.desk.requests(&["deny", &id, "--message", "use the mirror"]).exits(0);
    let told = shop.call("request-status", &format!(r#""id":"{id}","wait_seconds":30"#));
    assert!(
        told.starts_with("denied: by the operator") && told.contains("use the mirror"),
        "{told}"
    );
    shop.desk.requests(&["mute", "ada", "--for", "1h"]).exits(0);
    let muted = shop.call(
        "pipelock-block",
        r#""failed_url":"https://third.example.org/a/b","reason":"it fails","wait_seconds":0"#,
    );
    assert!(muted.contains("takes no requests until"), "{muted}");
    shop.desk.requests(&["unmute", "ada"]).exits(0);
}

/// The image of containers: who asks by the door needs a program that speaks HTTP.
fn image(scenario: &str) -> Option<&'static str> {
    match scenario {
        "is_asked_and_answered" => world::image("asking on docker"),
        _ => Some("bottle-test-busybox:1"),
    }
}

macro_rules! on_every_backend {
    ($($scenario:ident ( $($mutable:tt)? )),* $(,)?) => {
        mod native {
            $(#[test] fn $scenario() {
                let shop = super::Shop::open(stringify!($scenario), "native", "host");
                $(let $mutable shop = shop;)?
                super::$scenario(&$($mutable)? shop);
            })*
        }
        mod docker {
            $(#[test] fn $scenario() {
                if crate::support::docker(concat!("requests::applied::docker::", stringify!($scenario))) {
                    let Some(image) = super::image(stringify!($scenario)) else { return };
                    let shop = super::Shop::open(stringify!($scenario), "docker", image);
                    $(let $mutable shop = shop;)?
                    super::$scenario(&$($mutable)? shop);
                }
            })*
        }
    };
}

on_every_backend! {
    applies_by_itself(), applies_under_watch(mut), amends_memory(), is_asked_and_answered(mut),
}
