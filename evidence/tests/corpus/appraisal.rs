//! R19: bundles in which everything is true, and what a policy says to them. No change but that of the platform or the terms.

use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::Rule;

use crate::certificates::{cached_keys, dynamic, smt};
use crate::opening::{seal, sealed};
use crate::platform::{NOVEMBER, PLATFORM_INSTANCE, PPID, Tcb};
use crate::session::{Ending, Recipe, key, owner, parts, publisher};
use crate::vector::{Flag, Vector, of};

/// A policy of the simulator with these lines.
pub(crate) fn pinned(lines: &str) -> String {
    format!("anchor = \"simulated\"\n{lines}\n")
}

pub(crate) fn platform(id: [u8; 16], region: &str) -> String {
    pinned(&format!("[[platforms]]\nid = \"{}\"\nname = \"rack 7\"\nregion = \"{region}\"", hex::encode(id)))
}

fn keys(list: &str, key: &ed25519_dalek::SigningKey) -> String {
    pinned(&format!("{list} = [\"{}\"]", PublicKey::of(key)))
}

pub(crate) fn vectors() -> Vec<Vector> {
    [rejected(), prefixes(), platforms(), accepted()].concat()
}

fn with(name: &str, change: &str, recipe: &Recipe, policy: String, check: &'static str) -> Vector {
    of(name, change, &sealed(recipe)).policy(policy).rejected(Rule::R19, check)
}

fn rejected() -> Vec<Vector> {
    let genuine = Recipe::default();
    let demanding = Recipe { intent: |intent| intent.region = "eu".to_owned(), ..Recipe::default() };
    let old_image = Recipe { manifest: |manifest| manifest.not_after = NOVEMBER - 1, ..Recipe::default() };
    let old_intent = Recipe { intent: |intent| intent.not_after = NOVEMBER - 1, ..Recipe::default() };
    let other = Recipe { publisher: key(77), ..Recipe::default() };
    let any = with(
        "owner-not-pinned-with-any-owner",
        "nothing; the policy pins another owner, and any owner is accepted",
        &genuine,
        keys("owners", &key(66)),
        "owner",
    );
    vec![
        of("simulated-not-asked-for", "nothing; simulated evidence is not asked for", &sealed(&genuine))
            .unflagged()
            .rejected(Rule::R19, "platform is real"),
        with(
            "unknown-publisher",
            "a publisher signed the image whom the policy does not pin",
            &other,
            keys("publishers", &publisher()),
            "publisher",
        ),
        with("host-made-owner", "nothing; the policy pins another owner", &genuine, keys("owners", &key(66)), "owner"),
        any.flag(Flag::AnyOwner),
        with("image-svn-below-policy", "nothing; svn 2 is asked for", &genuine, pinned("minimum_svn = 2"), "image svn"),
        of("image-ended", "the image ended before the opening", &sealed(&old_image))
            .rejected(Rule::R19, "image not after"),
        of("intent-ended", "the intent ended before the opening", &sealed(&old_intent))
            .rejected(Rule::R19, "intent not after"),
        with(
            "platform-not-listed",
            "nothing; the policy lists another platform",
            &genuine,
            platform([0; 16], "eu"),
            "platform list",
        ),
        with(
            "region-elsewhere",
            "the intent demands a region, and the platform stands in another",
            &demanding,
            platform(PPID, "us"),
            "region",
        ),
    ]
}

fn prefixes() -> Vec<Vector> {
    let killed = parts(&Recipe::default(), Ending::Killed);
    let stripped = coffer_evidence::bundle::Parts { seal: None, ..sealed(&Recipe::default()) };
    vec![
        of("prefix-not-asked-for", "the guest was killed in its last call", &killed)
            .aborted()
            .rejected(Rule::R19, "whole record"),
        of("seal-stripped", "the four members of the seal are taken away", &stripped)
            .aborted()
            .rejected(Rule::R19, "whole record"),
    ]
}

fn status(status: &'static str) -> Recipe {
    Recipe { tcb: Tcb { status, ..Tcb::UP_TO_DATE }, ..Recipe::default() }
}

fn advised() -> Recipe {
    Recipe { tcb: Tcb { advisory: Some("INTEL-SA-01036"), ..Tcb::UP_TO_DATE }, ..Recipe::default() }
}

fn platforms() -> Vec<Vector> {
    let mut vectors = Vec::new();
    for other in [
        "OutOfDate",
        "OutOfDateConfigurationNeeded",
        "SWHardeningNeeded",
        "ConfigurationNeeded",
        "ConfigurationAndSWHardeningNeeded",
    ] {
        let vector = of(format!("tcb-{other}"), format!("the platform's TCB is {other}"), &sealed(&status(other)));
        vectors.push(vector.rejected(Rule::R19, "TCB status"));
        let vector = of(format!("tcb-{other}-allowed"), "the same, and the policy allows it", &sealed(&status(other)));
        vectors.push(vector.policy(pinned(&format!("tcb_statuses = [\"UpToDate\", \"{other}\"]"))));
    }
    // Collateral is not bound to a session: the host may hand out an older set beside either quote.
    let (fresh, late) = (sealed(&Recipe::default()), sealed(&status("OutOfDate")));
    let mut opening = fresh.clone();
    opening.open_collateral = late.open_collateral;
    let change = "the platform's TCB was out of date at the opening";
    vectors.push(of("tcb-OutOfDate-at-the-opening", change, &opening).rejected(Rule::R19, "TCB status"));
    let mut end = fresh;
    seal(&mut end).collateral = late.seal.expect("a seal").collateral;
    let change = "the platform's TCB was out of date at the seal";
    vectors.push(of("tcb-OutOfDate-at-the-seal", change, &end).rejected(Rule::R19, "TCB status"));
    let late = status("OutOfDate");
    let grace = |days: u32| pinned(&format!("tcb_grace_days = {days}"));
    let change = "the platform is out of date, and its grace has ended";
    vectors.push(with("tcb-grace-ended", change, &late, grace(317), "TCB status"));
    vectors.push(
        of("tcb-within-grace", "the platform is out of date within its grace", &sealed(&late)).policy(grace(318)),
    );
    let number = |n: u32| pinned(&format!("minimum_evaluation_data_number = {n}"));
    let change = "nothing; a later evaluation data number is asked for";
    vectors.push(with("evaluation-number-below", change, &Recipe::default(), number(18), "TCB evaluation data number"));
    vectors.push(
        of("evaluation-number", "nothing; its number is asked for", &sealed(&Recipe::default())).policy(number(17)),
    );
    let refusing = |id: &str| pinned(&format!("refused_advisories = [\"{id}\"]"));
    let change = "an advisory applies that the policy refuses";
    vectors.push(with("advisory-refused", change, &advised(), refusing("INTEL-SA-01036"), "advisories"));
    vectors.push(with("advisory-refused-in-lower-case", change, &advised(), refusing("intel-sa-01036"), "advisories"));
    vectors.push(
        of("advisory", "an advisory applies, another is refused", &sealed(&advised()))
            .policy(refusing("INTEL-SA-01037")),
    );
    type SetUp = (&'static str, fn() -> Vec<u8>);
    let set_ups: [SetUp; 3] = [("dynamic_platform", dynamic), ("cached_keys", cached_keys), ("smt", smt)];
    for (line, pck) in set_ups {
        let recipe = Recipe { pck, final_pck: pck, ..Recipe::default() };
        let name = line.replace('_', "-");
        let change = format!("the platform's certificate states {line}, which the policy does not allow");
        let policy = pinned(&format!("{line} = false"));
        vectors.push(with(&format!("platform-{name}"), &change, &recipe, policy, "platform configuration"));
        let change = format!("the platform's certificate states {line}, which nobody minds");
        vectors.push(of(format!("platform-{name}-allowed"), change, &sealed(&recipe)));
    }
    vectors
}

fn accepted() -> Vec<Vector> {
    let genuine = sealed(&Recipe::default());
    let demanding = sealed(&Recipe { intent: |intent| intent.region = "eu".to_owned(), ..Recipe::default() });
    let good =
        |name: &str, parts, policy: String| of(name, "nothing; the policy asks for what is so", parts).policy(policy);
    vec![
        good("policy-anchor-alone", &genuine, pinned("")),
        good("policy-publisher", &genuine, keys("publishers", &publisher())),
        good("policy-owner", &genuine, keys("owners", &owner())),
        good("policy-svn", &genuine, pinned("minimum_svn = 1")),
        good("policy-platform-by-ppid", &genuine, platform(PPID, "us")),
        good("policy-platform-by-instance", &demanding, platform(PLATFORM_INSTANCE, "eu")),
        good("policy-closed-set-up", &genuine, pinned("dynamic_platform = false\ncached_keys = false\nsmt = false")),
        of("any-owner", "nothing; any owner is accepted", &genuine).flag(Flag::AnyOwner),
        of("region-not-shown", "the intent demands a region, and no list shows it", &demanding),
    ]
}
