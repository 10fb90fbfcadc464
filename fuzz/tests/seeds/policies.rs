//! Seeds of `session_policy`: the texts to start from, and each kind of refusal.

use coffer_policy::texts;

use crate::{Seed, seed};

pub(crate) fn all() -> Vec<Seed> {
    let around = "@id(\"a\") permit (principal, action, resource in Path::\"/w\");\n\
        @id(\"b\") forbid (principal, action in Action::\"file\", resource == Path::\"/w/a\");\n";
    let sum = "@id(\"a\") permit (principal is Identity, action, resource is Path in Path::\"/workspace\");\n\
        @id(\"b\") forbid (principal, action, resource) unless { context.input_bytes + 9223372036854775807 > 0 };\n";
    let mixed = "@id(\"a\") permit (principal in Identity::\"a\", action in [Action::\"exec\", Action::\"git\"], resource)\n\
        when { if context.calls < 3 then [1, 2].contains(context.running) else !(context.seconds == -1) }\n\
        unless { principal == Identity::\"b\" || resource has x || {a: \"\\u{41}\"} has a };\n";
    let deep = format!("@id(\"a\") permit (principal, action, resource) when {{ {}1 }};", "(".repeat(40));
    let texts = [
        ("default", texts::DEFAULT),
        ("team", texts::TEAM),
        ("coder", texts::CODER),
        ("releaser", texts::RELEASER),
        ("around", around),
        ("sum", sum),
        ("mixed", mixed),
        ("deep", deep.as_str()),
        ("no-id", "permit (principal, action, resource);"),
        ("unknown", "@id(\"a\") permit (principal == User::\"x\", action == Action::\"y\", resource);"),
        ("path", "@id(\"a\") permit (principal, action, resource in Path::\"/a/../b/\");"),
        ("open", "@id(\"a\") permit (principal, action, resource) when { \"never ends };"),
    ];
    texts.into_iter().map(|(name, text)| seed("session_policy", name, text.as_bytes().to_vec())).collect()
}
