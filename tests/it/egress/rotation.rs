//! A credential that changed: it is loaded again, into what runs.

use std::io::{BufRead as _, BufReader};

use super::internet::{EVENTS, MIRROR};
use super::place::Place;

const ROUTE: &str = "\
cred_proxy:
  routes:
    - path: /m/
      upstream: https://mirror.example.com
      auth_scheme: Bearer
      token_ref: ROTATED
";

const OLD: &str = "the-old-one-0123456789-abcdefghijklm";
const NEW: &str = "the-new-one-0123456789-abcdefghijklm";

/// By what a restart of any process of the sandbox would show.
fn lives(place: &Place) -> (String, String) {
    let stat = place.say("ada", "cat /proc/1/stat");
    // When it began, in the clock's ticks.
    let machine = stat.rsplit(") ").next().unwrap().split(' ').nth(19).unwrap().to_owned();
    let starts = place.record("ada").iter().filter(|line| line["event"] == "start").count();
    (machine, format!("{starts} starts"))
}

#[test]
fn one_load_and_no_stream_drops() {
    for mut place in Place::each("rotation") {
        place.cli.env("ROTATED", OLD);
        place.one(&[], ROUTE);
        let before = lives(&place);
        let ask = format!("curl -sSN https://{MIRROR}/events");
        let mut stream = place.begin("ada", &ask);
        let mut lines = BufReader::new(stream.stdout.take().unwrap()).lines();
        assert_eq!(lines.next().unwrap().unwrap(), "data: 0");
        assert_eq!(place.internet.arrived()[0].authorization(), [format!("Bearer {OLD}")]);

        place.cli.env("ROTATED", NEW);
        let plan = place.run(&["-o", "json", "plan"]).json();
        let steps = plan["steps"].as_array().unwrap_or_else(|| panic!("{plan:#}"));
        let actions: Vec<_> = steps.iter().map(|step| step["action"].as_str()).collect();
        assert_eq!(actions, [Some("load")], "{plan:#}");
        assert!(!plan.to_string().contains(NEW) && !plan.to_string().contains(OLD));
        place.apply();
        place.say("ada", &format!("curl -sS https://{MIRROR}/x"));
        assert_eq!(place.internet.arrived()[0].authorization(), [format!("Bearer {NEW}")]);
        assert_eq!(lives(&place), before);

        // The stream is the same, and comes to its own end.
        let rest: Vec<String> =
            lines.map_while(Result::ok).filter(|line| !line.is_empty()).collect();
        assert_eq!(rest.last().map(String::as_str), Some(&*format!("data: {}", EVENTS - 1)));
        assert_eq!(rest.len(), EVENTS - 1, "{rest:?}");
        assert!(stream.wait().unwrap().success());
        let again = place.apply();
        assert!(again.stdout.contains("no changes"), "{again:?}");
    }
}
