//! The two JSON schemas under `docs/`, held to the code: what the verifier writes and reads is valid, and what is changed is not.

use std::path::Path;

use boon::{Compiler, Draft, SchemaIndex, Schemas};
use coffer_evidence::seal::{ClosedBy, Reason};
use coffer_evidence::verify::{AppraisalPolicy, Rule, TcbStatus};
use serde_json::{Value, json};

use crate::CORPUS;
use crate::refused_policies::REFUSED;

struct Schema(Schemas, SchemaIndex);

impl Schema {
    fn read(name: &str) -> (Self, Value) {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs").join(name);
        let text = std::fs::read_to_string(path).expect("the schema");
        let schema: Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        let (mut compiler, mut schemas) = (Compiler::new(), Schemas::new());
        compiler.set_default_draft(Draft::V2020_12);
        compiler.add_resource("mem:///schema", schema.clone()).expect("a resource");
        let index = compiler.compile("mem:///schema", &mut schemas).expect("a schema");
        (Schema(schemas, index), schema)
    }

    fn judge(&self, value: &Value) -> Result<(), String> {
        self.0.validate(value, self.1).map_err(|error| error.to_string())
    }

    #[track_caller]
    fn refuses(&self, value: &Value, what: &str) {
        assert!(self.judge(value).is_err(), "the schema takes {what}: {value}");
    }
}

fn with(value: &Value, key: &str, made: Value) -> Value {
    let mut value = value.clone();
    value[key] = made;
    value
}

fn without(value: &Value, key: &str) -> Value {
    let mut value = value.clone();
    value.as_object_mut().expect("an object").remove(key).expect("the field");
    value
}

#[test]
fn every_verdict_is_valid_and_a_changed_one_is_not() {
    let (schema, text) = Schema::read("verdict.schema.json");
    let fields = text["required"].as_array().expect("fields");
    assert_eq!(fields.len(), text["properties"].as_object().expect("properties").len());
    for (vector, report) in CORPUS.iter() {
        let value: Value = serde_json::from_str(&report.json_line()).expect("JSON");
        schema.judge(&value).unwrap_or_else(|error| panic!("{}: {error}\n{value}", vector.name));
        assert_eq!(value.as_object().expect("an object").len(), fields.len());
        for field in fields.iter().map(|field| field.as_str().expect("a name")) {
            schema.refuses(&without(&value, field), "a verdict without a field");
            for other in [json!({ "more": 1 }), json!([0]), json!(true), json!(-1), json!("nonsense")] {
                schema.refuses(&with(&value, field, other), field);
            }
        }
        schema.refuses(&with(&value, "more", json!(null)), "one more field");
        let mut bare = value.clone();
        bare["checks"].as_array_mut().expect("checks").truncate(18);
        schema.refuses(&bare, "too few checks");
        for (field, other) in [("rule", "R20"), ("rule", "R0"), ("name", ""), ("result", "ok")] {
            let mut changed = value.clone();
            changed["checks"][3][field] = json!(other);
            schema.refuses(&changed, field);
        }
        contradicted(&schema, &value);
    }
}

/// Fields that are right by themselves, and contradict one another.
fn contradicted(schema: &Schema, value: &Value) {
    match value["verdict"].as_str().expect("a word") {
        "sealed" => {
            schema.refuses(&with(value, "outcome", json!("aborted")), "a sealed prefix");
            schema.refuses(&with(value, "extent", json!("prefix(9)")), "a sealed prefix");
            schema.refuses(&with(value, "closed_by", Value::Null), "a seal that names nobody");
        }
        "aborted" => {
            schema.refuses(&with(value, "reason", json!("internal")), "a prefix that knows why it ended");
            schema.refuses(&with(value, "extent", json!("whole(9)")), "a prefix that is whole");
        }
        _ => schema.refuses(&with(value, "accepted", json!("yes")), "what is not true and accepted"),
    }
    if value["accepted"] == "yes" {
        let mut failed = value.clone();
        failed["checks"][0]["result"] = json!("fail");
        schema.refuses(&failed, "an accepted bundle with a check in the way");
    }
}

/// Words that the corpus has no bundle for.
#[test]
fn the_closed_lists_of_the_verdict_schema_are_those_of_the_code() {
    let (schema, text) = Schema::read("verdict.schema.json");
    let listed = |field: &str| -> Vec<String> {
        let list = text["properties"][field]["enum"].as_array().expect("a list");
        list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    assert_eq!(listed("reason"), Reason::ALL.iter().map(ToString::to_string).collect::<Vec<_>>());
    assert_eq!(listed("closed_by"), ClosedBy::ALL.iter().map(ToString::to_string).collect::<Vec<_>>());
    let (_, sealed) = CORPUS.first().expect("a vector");
    let value: Value = serde_json::from_str(&sealed.json_line()).expect("JSON");
    for rule in Rule::ALL {
        let mut changed = value.clone();
        changed["checks"][0]["rule"] = json!(format!("{rule:?}"));
        assert!(schema.judge(&changed).is_ok(), "{rule:?}");
    }
}

fn data(policy: &str) -> Option<Value> {
    let table: toml::Table = toml::from_str(policy).ok()?;
    Some(serde_json::to_value(table).expect("JSON"))
}

#[test]
fn every_policy_is_valid_and_a_refused_one_is_not_where_a_schema_can_say_so() {
    let (schema, text) = Schema::read("appraisal-policy.schema.json");
    let mut policies = 0;
    for (vector, policy) in CORPUS.iter().filter_map(|(vector, _)| Some((vector, vector.policy.as_ref()?))) {
        let value = data(policy).expect("TOML");
        schema.judge(&value).unwrap_or_else(|error| panic!("{}: {error}\n{policy}", vector.name));
        schema.refuses(&with(&value, "more", json!(0)), "an unknown key");
        schema.refuses(&without(&value, "anchor"), "a policy without its anchor");
        for key in value.as_object().expect("an object").keys() {
            schema.refuses(&with(&value, key, json!({ "more": 1 })), key);
        }
        policies += 1;
    }
    assert!(policies >= 40, "{policies} policies");
    for (refused, told) in REFUSED {
        assert!(AppraisalPolicy::parse(refused).is_err(), "{refused}");
        let found = data(refused).is_some_and(|value| schema.judge(&value).is_err());
        assert_eq!(found, told, "{refused}");
    }
    let statuses = text["properties"]["tcb_statuses"]["items"]["enum"].as_array().expect("a list");
    for status in statuses {
        serde_json::from_value::<TcbStatus>(status.clone()).expect("a status of the code");
    }
    assert_eq!(statuses.len(), 8, "of Intel's nine all but Revoked");
}
