//! Texts that are no appraisal policy; of each, whether its JSON schema can say so too. For the tests of the parser and of the schema.

pub(crate) const REFUSED: [(&str, bool); 14] = [
    ("", true),
    ("anchor = \"\"", true),
    ("anchor = \"intel\"\npublisher = []", true),
    ("anchor = \"intel\"\npublishers = [\"00\"]", true),
    // A weak key has the right form.
    ("anchor = \"intel\"\npublishers = [\"0000000000000000000000000000000000000000000000000000000000000000\"]", false),
    ("anchor = \"intel\"\ntcb_statuses = [\"Revoked\"]", true),
    ("anchor = \"intel\"\n[[platforms]]\nid = \"00\"\nregion = \"eu\"", true),
    ("anchor = \"intel\"\n[expect]\nsession = \"x\"", true),
    // No TOML, so there is no data to ask a schema about.
    ("anchor = \"intel\"\nanchor = \"simulated\"", false),
    ("anchor = \"intel\"\ntcb_grace_days = 3651", true),
    ("anchor = \"intel\"\ntcb_grace_days = -1", true),
    ("anchor = \"intel\"\nrefused_advisories = [\"CVE-2024-1\"]", true),
    ("anchor = \"intel\"\nsmt = \"no\"", true),
    ("anchor = \"intel\"\n[expect]\nrtmr0 = \"00\"", true),
];
