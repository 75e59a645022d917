use super::*;

/// As 1.32.2 printed it of a machine that ran and one that was only made; shortened by nothing.
const RECORDED: &[u8] = include_bytes!("ls-1.32.2.json");

#[test]
fn a_recorded_listing_is_read() {
    let rows = listing(RECORDED).unwrap();
    let names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(rows.iter().all(|row| !row.network && row.created.is_some()));
    assert!(rows.iter().any(|row| row.labels.contains_key("io.bottle.owner")));
}

#[test]
fn an_old_listing_lacks_fields() {
    let rows = listing(br#"[{"name":"a","state":"stopped","labels":{"x":"y"},"pid":null}]"#);
    let expected = Row {
        name: "a".into(),
        state: "stopped".into(),
        labels: BTreeMap::from([("x".into(), "y".into())]),
        ..Row::default()
    };
    assert_eq!(rows, Ok(vec![expected]));
    assert_eq!(listing(b"[]\n"), Ok(vec![]));
}

#[test]
fn fields_of_another_kind_are_left_out() {
    let rows = listing(
        br#"[{"name":"a","state":7,"pid":"x","labels":[1],"cpus":-1,"network":"yes","new":{}},
            {"state":"running"}, 5, {"name":""}]"#,
    );
    assert_eq!(rows, Ok(vec![Row { name: "a".into(), ..Row::default() }]));
}

#[test]
fn what_is_no_listing_is_shown() {
    for (text, said) in [
        (&b"segmentation \x1b[1mfault"[..], "`segmentation"),
        (b"{\"machines\":[]}", "no list of machines"),
        (b"", "no JSON"),
        (b"[{\"name\":\"a\"", "no JSON"),
        (&[0xff, 0xfe, 0x00], "no JSON"),
    ] {
        let error = listing(text).unwrap_err();
        assert!(error.contains(said) && !error.contains('\x1b'), "{error}");
    }
}

#[test]
fn the_programs_own_failure_is_its_last_line() {
    let stderr = b"Starting machine 'x'...\n\
        {\"error\":{\"code\":\"NOT_FOUND\",\"message\":\"vm not found: nope\"}}\n\n";
    assert_eq!(failure(stderr).as_deref(), Some("vm not found: nope"));
    assert_eq!(words(stderr), "vm not found: nope");
    for text in ["", "Error: x", "{\"error\":\"x\"}", "{\"error\":{\"code\":1}}", "{}"] {
        assert_eq!(failure(text.as_bytes()), None, "{text}");
    }
    assert_eq!(words(b"warn\nError: no such thing\n"), "no such thing");
    assert_eq!(words(b" \n"), "it said nothing");
    assert_eq!(words(&[b'x'; 1 << 20]).chars().count(), LONGEST_WORDS + 1);
}
