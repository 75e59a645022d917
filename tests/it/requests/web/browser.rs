//! The page in a real browser, driven by `page.mjs`.

use std::process::Command;

use super::{Desk, Page, index};
use crate::support;

const REASON: &str = "<img src=x onerror=alert(1)> pip <script>document.title='x'</script> fails";

#[test]
fn a_person_decides_in_a_browser() {
    let Some(folder) = std::env::var_os("BOTTLE_TEST_BROWSER") else {
        let why = "BOTTLE_TEST_BROWSER names no folder with what drives Chromium";
        return support::left_out("the dashboard's page in a browser", why);
    };
    let desk = Desk::new("webbrowser");
    desk.ask_with("r-aaaaaaaa", "ada", "egress", index(), REASON);
    let page = Page::open(&desk);
    let mut node = Command::new("node");
    node.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/requests/web/page.mjs"));
    node.env("LINK", format!("{}/?t={}", page.own(), page.token)).env("FOLDER", folder);
    node.env("ID", "r-aaaaaaaa").env("REASON", REASON);
    let ended = node.output().expect("node can be run");
    let said = String::from_utf8_lossy(&ended.stdout);
    let wrong = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.success() && said.contains("as it must be"), "{said}\n{wrong}");
    assert!(desk.file().contains("index.example.org"), "{}", desk.file());
    assert_eq!(desk.record("r-aaaaaaaa")["decision"]["via"], "web");
}
