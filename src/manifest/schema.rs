//! JSON Schema of the manifests, for editors: drawn from the same tables that the parser reads.

use serde_json::{Map, Value, json};

use super::keys::{Key, Shape, Table};
use super::{agent, bottle};

const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The front matter of `bottles/NAME.md`.
#[must_use]
pub fn bottle() -> Value {
    document("bottle", "The front matter of bottles/NAME.md: what a sandbox is", &bottle::TABLE)
}

/// The front matter of `agents/NAME.md`.
#[must_use]
pub fn agent() -> Value {
    document("agent", "The front matter of agents/NAME.md: what runs in a bottle", &agent::TABLE)
}

/// The file `bottle.yaml`.
#[must_use]
pub fn settings() -> Value {
    document("tree", "bottle.yaml: what holds for a whole tree", &agent::SETTINGS)
}

fn document(title: &str, description: &str, table: &Table) -> Value {
    let mut schema = section(table);
    schema["$schema"] = json!(DIALECT);
    schema["title"] = json!(title);
    schema["description"] = json!(description);
    schema
}

fn section(table: &Table) -> Value {
    let mut properties = Map::new();
    let mut required: Vec<&str> = Vec::new();
    // A key with two spellings is one key: exactly one of them where it is required, at most one
    // where it is not.
    let mut spellings: Vec<Value> = Vec::new();
    for key in table.keys {
        properties.insert(key.name.to_owned(), property(key));
        let Some(alias) = key.alias else {
            if key.required {
                required.push(key.name);
            }
            continue;
        };
        properties.insert(alias.to_owned(), property(key));
        if key.required {
            let either = json!({"oneOf": [{"required": [key.name]}, {"required": [alias]}]});
            spellings.push(either);
        } else {
            spellings.push(json!({"not": {"required": [key.name, alias]}}));
        }
    }
    let mut schema = json!({
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    });
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !spellings.is_empty() {
        schema["allOf"] = json!(spellings);
    }
    schema
}

fn property(key: &Key) -> Value {
    let mut schema = shape(&key.shape);
    if !key.required {
        schema = or_null(schema);
    }
    schema["description"] = json!(key.doc);
    if matches!(key.shape, Shape::Idle) {
        schema["deprecated"] = json!(true);
    }
    schema
}

/// A null is the same as an absent key.
fn or_null(mut schema: Value) -> Value {
    if let Some(list) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        list.push(Value::Null);
    } else if let Some(list) = schema.get_mut("anyOf").and_then(Value::as_array_mut) {
        list.push(json!({"type": "null"}));
    } else if let Some(kind) = schema.get("type").cloned() {
        schema["type"] = json!([kind, "null"]);
    }
    schema
}

fn shape(shape: &Shape) -> Value {
    match shape {
        Shape::Flag => json!({"type": "boolean"}),
        Shape::Text(None) => json!({"type": "string"}),
        Shape::Text(Some(pattern)) => json!({"type": "string", "pattern": pattern}),
        Shape::Whole { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        Shape::Number => json!({"type": "number", "exclusiveMinimum": 0}),
        Shape::Word(words) => json!({"enum": words}),
        Shape::List(item) => json!({"type": "array", "items": self::shape(item)}),
        Shape::Section(table) => section(table),
        Shape::Names { key, value } => json!({
            "type": "object",
            "propertyNames": {"pattern": key},
            "additionalProperties": self::shape(value),
        }),
        Shape::Either(shapes) => {
            json!({"anyOf": shapes.iter().map(self::shape).collect::<Vec<_>>()})
        }
        Shape::Any | Shape::AnyText | Shape::Idle => json!({}),
    }
}

#[cfg(test)]
mod tests;
