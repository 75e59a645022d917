//! Processes that run for a month: they read the certificates that they trust once, and every request
//! that the policy allows goes through, whatever is renewed, loaded or changed around them.
//!
//! The days are simulated.

use std::time::{Duration, Instant};

use super::clock::{self, PRELOADED};
use super::internet::Internet;
use super::place::{Place, has};

const API: &str = "api.example.com";
const DAYS: u64 = 30;
/// The clocks move on by so much at once: less than a leaf is valid beyond the time that it is shown.
const STEP: u64 = 12 * 60 * 60;
/// Requests of each program that must have ended well at each step.
const EACH: usize = 2;

/// Asks over and over, on a connection of its own each time, and says how that went.
const PYTHON: &str = r#"
import ssl, sys, time, urllib.request
context = ssl.create_default_context()
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
print("began", flush=True)
while True:
    try:
        text = opener.open("https://api.example.com/x", timeout=20).read().decode().strip()
        print(int(time.time()), text, flush=True)
    except Exception as error:
        print(int(time.time()), "FAILED", repr(error), flush=True)
    time.sleep(0.2)
"#;
const NODE: &str = r#"
const https = require('https');
console.log('began');
const say = text => { console.log(Math.floor(Date.now() / 1000), text); setTimeout(ask, 200); };
const ask = () => https.get('https://api.example.com/x', {headers: {connection: 'close'}}, answer => {
  let all = ''; answer.on('data', part => all += part).on('end', () => say(all.trim()));
}).on('error', error => say('FAILED ' + error.message));
ask();
"#;

/// The lines that a program has written.
fn lines(place: &Place, program: &str) -> Vec<String> {
    place.say("ada", &format!("cat /var/tmp/{program}.out")).lines().map(str::to_owned).collect()
}

/// Waits until each program has asked so often again; none may have failed.
#[track_caller]
fn all_is_well(place: &Place, programs: &[&str], when: &str) {
    let begun = Instant::now();
    let before: Vec<usize> = programs.iter().map(|program| lines(place, program).len()).collect();
    for (program, before) in programs.iter().zip(before) {
        loop {
            let lines = lines(place, program);
            let failed: Vec<_> =
                lines[1..].iter().filter(|line| !line.ends_with("it is here")).collect();
            assert!(failed.is_empty(), "{}, {program}, {when}: {failed:?}", place.backend);
            if lines.len() >= before + EACH {
                break;
            }
            let patience = Duration::from_secs(30);
            assert!(begun.elapsed() < patience, "{}, {program}, {when}: it hangs", place.backend);
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn a_month_of_requests() {
    let mut programs = Vec::new();
    for (program, code) in [("python3", PYTHON), ("node", NODE)] {
        if has("a month of requests", program) {
            programs.push((program, code));
        }
    }
    let names: Vec<&str> = programs.iter().map(|(name, _)| *name).collect();
    for mut place in Place::each("days") {
        let policy = |place: &Place, step: u64| {
            let extra = format!("step{step}.example.com");
            place.bottle(
                "dev",
                &format!("egress:\n  dlp_action: block\n  allowlist: [{API}, {extra}]\n"),
            );
        };
        // Another network later on: other name servers, and other ways to the hosts.
        let elsewhere = Internet::start(place.internet.at());
        for internet in [&place.internet, &elsewhere] {
            internet.put(API, "/x", "it is here\n");
        }
        policy(&place, 0);
        place.tree.agent("ada", "dev", "", "");
        place.apply();
        clock::put(&place, "ada");
        for (program, code) in &programs {
            let flag = if *program == "node" { "-e" } else { "-c" };
            let script = format!(
                "cat > /var/tmp/{program}.in && \
                 ({PRELOADED} {program} {flag} \"$(cat /var/tmp/{program}.in)\" \
                 > /var/tmp/{program}.out 2>&1 < /dev/null &)"
            );
            place
                .run_with(&["exec", "-i", "ada", "--", "sh", "-c", &script], code.as_bytes())
                .exits(0);
        }
        std::thread::sleep(Duration::from_millis(500));
        all_is_well(&place, &names, "at the beginning");
        let steps = DAYS * 24 * 60 * 60 / STEP;
        for step in 1..=steps {
            let (ahead, when) = (step * STEP, format!("in the night after day {}", step / 2));
            let internet = if step * 2 > steps { &elsewhere } else { &place.internet };
            let overlay = internet.overlay();
            clock::pass(&mut place, &overlay, ahead);
            policy(&place, step);
            place.apply();
            clock::pass_inside(&place, "ada", ahead);
            all_is_well(&place, &names, &when);
        }
        for name in &names {
            let lines = lines(&place, name);
            let time = |line: &str| line.split(' ').next().unwrap().parse::<u64>().unwrap();
            let passed = time(lines.last().unwrap()) - time(&lines[1]);
            println!(
                "{}, {name}: {} requests in {} days",
                place.backend,
                lines.len() - 1,
                passed / 86_400
            );
            assert!(passed / 86_400 >= DAYS - 1, "the clock did not move: {passed} s");
        }
    }
}
