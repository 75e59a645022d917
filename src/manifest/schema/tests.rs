//! The schema and the parser agree: what one calls a wrong type, the other does too.

use std::path::Path;

use serde_json::{Value, json};

use super::super::field::Section;
use super::super::guard::Guard;
use super::super::inputs::Inputs;
use super::super::keys::{Shape, Table};
use super::super::source::{At, Findings, Source, Span};
use super::super::{agent, bottle, yaml};

/// Whether a value passes, as far as types, enums and keys go.
fn passes(schema: &Value, value: &Value) -> bool {
    let is = |kind: &str| match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "string" => value.is_string(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other}"),
    };
    let typed = match &schema["type"] {
        Value::String(kind) => is(kind),
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).any(is),
        _ => true,
    };
    let listed = schema["enum"].as_array().is_none_or(|list| list.contains(value));
    let any = |key: &str| schema[key].as_array().is_none_or(|l| l.iter().any(|s| passes(s, value)));
    let all = schema["allOf"].as_array().is_none_or(|l| l.iter().all(|s| passes(s, value)));
    let not = schema.get("not").is_none_or(|schema| !passes(schema, value));
    let items = value.as_array().is_none_or(|values| {
        schema.get("items").is_none_or(|schema| values.iter().all(|v| passes(schema, v)))
    });
    let keys = value.as_object().is_none_or(|map| {
        let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
        required.iter().filter_map(Value::as_str).all(|key| map.contains_key(key))
            && map.iter().all(|(key, value)| match &schema["properties"][key] {
                Value::Null => match &schema["additionalProperties"] {
                    Value::Bool(more) => *more,
                    Value::Null => true,
                    schema => passes(schema, value),
                },
                schema => passes(schema, value),
            })
    });
    typed && listed && any("anyOf") && any("oneOf") && all && not && items && keys
}

/// Whether the parser finds nothing wrong.
fn parses(table: &'static Table, value: &Value) -> bool {
    // JSON is YAML.
    let source = Source::new("x.md", value.to_string());
    let mut findings = Findings::new(&source);
    let node = yaml::parse(&mut findings, 0, source.text().len()).expect("JSON is YAML");
    let Some(section) = Section::open(&node, table, &At::Root, Span::at(0), &mut findings) else {
        return false;
    };
    let guard = Guard {
        base: Path::new("/"),
        home: None,
        search_path: None,
        trees: &[],
        trust: &crate::manifest::trust::Trust::new(),
        sources: Default::default(),
    };
    if std::ptr::eq(table, &bottle::TABLE) {
        bottle::read(&section, &guard, &mut Inputs::new("/dev/null".into()), &mut findings);
    } else if std::ptr::eq(table, &agent::TABLE) {
        agent::read(&section, &mut findings);
    } else {
        agent::settings(&section, &guard, &mut findings);
    }
    !findings.has_errors()
}

/// Values that are right for a shape as far as its type goes, and many that are not.
fn samples() -> Vec<Value> {
    vec![
        json!(true),
        json!(5),
        json!(1.5),
        json!("text"),
        json!([]),
        json!([true]),
        json!([5]),
        json!([null]),
        json!([[]]),
        json!([{"unknown": 1}]),
        json!({"unknown": 1}),
        json!({"unknown": null}),
    ]
}

/// Calls `check` with every key of a table and its shape, and how to wrap a value of it.
fn each_key(table: &'static Table, wrap: &dyn Fn(Value) -> Value, check: &mut dyn FnMut(Value)) {
    for key in table.keys {
        for name in [Some(key.name), key.alias].into_iter().flatten() {
            let wrap_key = |value: Value| wrap(json!({ name: value }));
            for sample in samples() {
                check(wrap_key(sample));
            }
            each_section(&key.shape, &wrap_key, check);
        }
    }
}

fn each_section(shape: &Shape, wrap: &dyn Fn(Value) -> Value, check: &mut dyn FnMut(Value)) {
    match shape {
        Shape::Section(table) => each_key(table, wrap, check),
        Shape::List(item) => each_section(item, &|value| wrap(json!([value])), check),
        Shape::Either(shapes) => shapes.iter().for_each(|shape| each_section(shape, wrap, check)),
        Shape::Names { value, .. } => {
            for sample in samples() {
                check(wrap(json!({"NAME": sample})));
            }
            each_section(value, wrap, check);
        }
        Shape::Flag
        | Shape::Text(_)
        | Shape::Whole { .. }
        | Shape::Number
        | Shape::Word(_)
        | Shape::Any
        | Shape::AnyText
        | Shape::Idle => {}
    }
}

#[test]
fn what_the_schema_refuses_the_parser_refuses() {
    for (table, schema) in [
        (&bottle::TABLE, super::bottle()),
        (&agent::TABLE, super::agent()),
        (&agent::SETTINGS, super::settings()),
    ] {
        let mut refused = 0;
        let with_required = |mut value: Value| {
            if std::ptr::eq(table, &agent::TABLE) && value.get("bottle").is_none() {
                value["bottle"] = json!("dev");
            }
            value
        };
        each_key(table, &with_required, &mut |value| {
            if !passes(&schema, &value) {
                refused += 1;
                assert!(!parses(table, &value), "the parser accepts {value}");
            }
        });
        assert!(refused > 20, "{refused}");
    }
}

/// A whole bottle that holds every key, in both spellings where there are two.
fn full_bottle() -> Value {
    json!({
        "backend": "docker",
        "image": "node:22-slim",
        "overlay": true,
        "env": {"A": "1", "TOKEN": "?"},
        "resources": {"cpus": 1.5, "memory": "1.5G", "pids": 100, "disk": "10G"},
        "workspace": {"mode": "none", "target": "/work"},
        "keep": ["workspace", "home", "/var/lib/x"],
        "user": 1000,
        "git": [
            {"Name": "a", "Upstream": "ssh://git@github.com/a/b", "IdentityFile": "/nowhere/key",
             "KnownHostKey": "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl",
             "ExtraHosts": {"github.com": "10.0.0.1"}, "Push": ["agent/{sandbox}/*"], "Force": ["agent/*"], "Delete": [],
             "Refs": ["refs/pull/*/head"], "MaxPush": "500M", "MaxFile": "64M", "IdentityAgent": "/nowhere/agent",
             "Allow": [{"rule": "r", "path": "a/b", "fingerprint": "0123456789ab", "reason": "why", "expires": "2027-01-01"}]},
            {"name": "b", "upstream": "ssh://git@github.com/a/c", "identity_file": "/nowhere/key", "push": [],
             "known_host_key": ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl"]},
        ],
        "cred_proxy": {"routes": [
            {"path": "/gh/", "upstream": "https://api.github.com", "auth_scheme": "Bearer",
             "token_ref": "GH_TOKEN", "role": ["git-insteadof", "tea-login"]},
            {"path": "/a/", "upstream": "https://api.anthropic.com/v1", "auth_scheme": "x-api-key",
             "token_ref": "KEY", "role": "anthropic-base-url"},
            {"path": "/b/", "upstream": "https://github.com", "auth_scheme": "basic",
             "auth_user": "x-access-token", "token_ref": "GH_TOKEN"},
            {"path": "/c/", "upstream": "https://gitlab.com", "auth_scheme": "header",
             "auth_header": "PRIVATE-TOKEN", "token_ref": "GL_TOKEN"},
            {"path": "/o/", "upstream": "https://api.openai.com", "token_from": {"file": "/run/secrets/none"},
             "role": ["openai-base-url", "opencode"]},
            {"path": "/g/", "upstream": "https://gw.example.com", "role": "gemini-base-url",
             "token_from": {"command": ["pass", "show", "gemini"]}},
        ]},
        "egress": {
            "allowlist": ["pkg.example.org", "*.example.net:8443", {"host": "a.b", "port": 80, "methods": ["GET"],
                "paths": ["/x/**"], "cidr": "10.0.0.0/8"}],
            "dlp_action": "warn",
            "dlp_allow": [{"rule": "r", "host": "a.b", "reason": "why", "expires": "2027-01-01"}],
        },
        "supervise": true,
    })
}

#[test]
fn both_accept_what_is_right() {
    let bottle = full_bottle();
    assert!(passes(&super::bottle(), &bottle));
    assert!(parses(&bottle::TABLE, &bottle));
    let agent = json!({
        "bottle": "dev", "skills": ["a"], "command": ["sleep", "1"], "restart": "never", "run": ["x"],
        "suspend": true, "name": 5, "description": [], "model": {}, "color": null, "memory": true,
    });
    assert!(passes(&super::agent(), &agent));
    assert!(parses(&agent::TABLE, &agent));
    let settings = json!({
        "name": "team", "backend": "native", "network_pool": "10.213.0.0/16",
        "proxy": {
            "url": "http://ada@proxy.corp.example:3128", "password_ref": "PROXY_PASSWORD",
            "no_proxy": [".corp.example", "10.0.0.0/8"], "resolve": "here",
        },
    });
    assert!(passes(&super::settings(), &settings));
    assert!(parses(&agent::SETTINGS, &settings));
}

#[test]
fn null_is_absent_for_both() {
    let mut bottle = full_bottle();
    for (_, value) in bottle.as_object_mut().expect("a map") {
        *value = Value::Null;
    }
    assert!(passes(&super::bottle(), &bottle));
    assert!(parses(&bottle::TABLE, &bottle));
    let agent = json!({"bottle": null});
    assert!(!passes(&super::agent(), &agent));
    assert!(!parses(&agent::TABLE, &agent));
    let env = json!({"env": {"A": null}});
    assert!(!passes(&super::bottle(), &env));
    assert!(!parses(&bottle::TABLE, &env));
}

#[test]
fn every_property_says_what_it_is() {
    fn walk(schema: &Value) {
        if let Some(properties) = schema["properties"].as_object() {
            assert_eq!(schema["additionalProperties"], json!(false));
            for (name, property) in properties {
                let text = property["description"].as_str().unwrap_or_default();
                assert!(!text.is_empty(), "{name}");
                walk(property);
            }
        }
        walk_all(&schema["anyOf"]);
        if schema["items"].is_object() {
            walk(&schema["items"]);
        }
    }
    fn walk_all(list: &Value) {
        list.as_array().into_iter().flatten().for_each(walk);
    }
    for schema in [super::bottle(), super::agent(), super::settings()] {
        assert_eq!(schema["$schema"], json!(super::DIALECT));
        walk(&schema);
    }
}
