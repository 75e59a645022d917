//! Node.js that knows no proxy is led to the sidecar by what its machine is set up with, and nothing
//! that is wrong with that keeps it from starting.

use bottle::model::access::NODE_PROXY_PATH;

use super::place::{Place, has};

const API: &str = "api.example.com";

/// Each prints what it was answered.
const WAYS: &[(&str, &str)] = &[
    ("fetch", "fetch('https://api.example.com/x').then(r => r.text()).then(show)"),
    ("fetch, without TLS", "fetch('http://api.example.com/x').then(r => r.text()).then(show)"),
    (
        "fetch, many at once, after its parts were used",
        "new Headers(); Promise.all([1, 2, 3].map(() => fetch('https://api.example.com/x')))
         .then(all => Promise.all(all.map(r => r.text()))).then(all => show(all[2]))",
    ),
    ("https", "require('https').get('https://api.example.com/x', read)"),
    ("http", "require('http').get('http://api.example.com/x', read)"),
    (
        "http, with its head written at once",
        "require('http').get('http://api.example.com/x',
         {headers: ['Host', 'api.example.com', 'X-A', '/x']}, read)",
    ),
    (
        "a body",
        "fetch('https://api.example.com/x', {method: 'POST', body: 'a'.repeat(300000)})
         .then(r => r.text()).then(show)",
    ),
    (
        "a thread",
        "new (require('worker_threads').Worker)(
         \"fetch('https://api.example.com/x').then(r => r.text()).then(t => process._rawDebug(t.trim()))\",
         {eval: true}).on('exit', () => show('it is here'))",
    ),
    (
        "its own server",
        "const server = require('http').createServer((q, r) => r.end('it is here')).listen(0, () => {
         const url = 'http://127.0.0.1:' + server.address().port + '/x';
         fetch(url).then(r => r.text()).then(text => require('http').get(url, r => read(r, () => {
         if (text !== 'it is here') throw text; server.close(); process.exit() }))) })",
    ),
];

const SHOW: &str = "const show = text => console.log(text.trim());
    const read = (r, end) => { let all = ''; r.on('data', d => all += d).on('end', () => { show(all); end && end() }) };";

#[test]
fn every_way_to_ask() {
    if !has("node", "node") {
        return;
    }
    for place in Place::each("node") {
        place.one(&[API, "\"api.example.com:80\""], "");
        place.internet.put(API, "/x", "it is here\n");
        for (name, code) in WAYS {
            let ended = place.run(&["exec", "ada", "--", "node", "-e", &format!("{SHOW}{code}")]);
            assert_eq!(ended.clone().exits(0).stdout, "it is here\n", "{name}: {ended:?}");
        }
        let module = format!(
            "import {{ get }} from 'https'; get('https://{API}/x', r => r.on('data', d => process.stdout.write(d)))"
        );
        let args = ["exec", "ada", "--", "node", "--input-type=module", "-e", &module];
        assert_eq!(place.run(&args).exits(0).stdout, "it is here\n");
        place.nothing_was_refused("ada");

        // A refusal is an error that says why.
        let denied = "fetch('https://other.example.org/').catch(e => console.log(e.cause.message))";
        let ended = place.run(&["exec", "ada", "--", "node", "-e", denied]).exits(0);
        assert!(ended.stdout.contains("host_not_allowed"), "{ended:?}");
    }
}

#[test]
fn nothing_keeps_it_from_starting() {
    if !has("node", "node") {
        return;
    }
    let place = Place::native("nodestart");
    place.one(&[API], "");
    for wrong in [
        "unset http_proxy https_proxy HTTP_PROXY HTTPS_PROXY",
        "unset NODE_USE_ENV_PROXY",
        "unset no_proxy NO_PROXY",
        "export https_proxy=nonsense HTTPS_PROXY=nonsense",
        "export https_proxy=socks5://127.0.0.1:1",
        "export https_proxy=http://[::1]:1 http_proxy=http://a:b@c:1",
    ] {
        let said = place.say("ada", &format!("{wrong}; node -p '1 + 1'"));
        assert_eq!(said, "2", "{wrong}");
    }
    // Whoever is told not to use a proxy uses none.
    let untouched = place.say("ada", "NODE_USE_ENV_PROXY=0 node -p 'fetch.length + \" \" + require(\"https\").globalAgent.constructor.name + require(\"https\").globalAgent.createConnection.name'");
    let plain = place.say("ada", "NODE_OPTIONS= node -p 'fetch.length + \" \" + require(\"https\").globalAgent.constructor.name + require(\"https\").globalAgent.createConnection.name'");
    assert_eq!(untouched, plain);
    // Nobody but root can take it away.
    let kept = place.sh("ada", &format!("rm -f {NODE_PROXY_PATH}; test -e {NODE_PROXY_PATH}"));
    kept.exits(0);
}
