//! R3 to R9: image, quotes, platform, boot, configuration, open map. Everything after a change is made anew.

use coffer_evidence::bundle::Parts;
use coffer_evidence::collateral::Collateral;
use coffer_evidence::config::Launch;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, Digest384, SessionId};
use coffer_evidence::manifest::{ImageManifest, Profile, Register};
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::{INTEL_ROOT_DER, Rule};

use crate::boot_log::{EV_EFI_ACTION, Entry, log, small_boot};
use crate::booted::{booted, named};
use crate::certificates::{other_instance, other_ppid, rooted, third_root};
use crate::platform::{DECEMBER, NOVEMBER, ROOT_DER, Tcb, Td, pem, quote_with_chain};
use crate::session::{Ending, Recipe, key, opening, parts};
use crate::vector::{Vector, of};

pub(crate) fn sealed(recipe: &Recipe) -> Parts {
    parts(recipe, Ending::Sealed)
}

fn bad(rule: Rule, check: &'static str, name: &str, change: &str, recipe: Recipe) -> Vector {
    of(name, change, &sealed(&recipe)).refused(rule, check)
}

/// Not the recipe but what came of it is changed.
fn changed(rule: Rule, check: &'static str, name: &str, change: &str, by: fn(&mut Parts)) -> Vector {
    let mut parts = sealed(&Recipe::default());
    by(&mut parts);
    of(name, change, &parts).refused(rule, check)
}

fn collateral(bytes: &mut Vec<u8>, change: fn(&mut Collateral)) {
    let mut set = Collateral::parse(bytes).expect("collateral");
    change(&mut set);
    *bytes = set.to_bytes();
}

/// A TD that booted as the small log says, with this log.
pub(crate) fn with_log(ccel: Vec<u8>) -> Parts {
    let recipe = Recipe { manifest: named, opening_td: booted, ..Recipe::default() };
    Parts { ccel: Some(ccel), ..sealed(&recipe) }
}

pub(crate) fn vectors() -> Vec<Vector> {
    [image(), quotes(), platform(), boot(), configuration(), open_map()].concat()
}

fn image() -> Vec<Vector> {
    let intent = |intent: &mut coffer_evidence::intent::Intent| intent.image = Digest256::of(b"another");
    let other = Recipe { intent, ..Recipe::default() };
    let named = "manifest is the one the intent names";
    vec![
        bad(Rule::R3, named, "image-not-the-intents", "the intent names another image", other),
        changed(Rule::R3, named, "image-swapped", "the manifest is another publisher's, of another svn", |parts| {
            let manifest = |manifest: &mut ImageManifest| manifest.svn = 2;
            parts.image_dsse = opening(&Recipe { manifest, publisher: key(77), ..Recipe::default() }).image_dsse;
        }),
        changed(Rule::R3, "manifest signature", "image-signature", "a digit of the manifest's signature", |parts| {
            let at = parts.image_dsse.windows(7).position(|window| window == b"\"sig\":\"").expect("a signature") + 7;
            parts.image_dsse[at] = if parts.image_dsse[at] == b'A' { b'B' } else { b'A' };
        }),
    ]
}

fn quotes() -> Vec<Vector> {
    let (first, last) = ("opening quote", "final quote");
    let quote = |check, name: &str, change: &str, by: fn(&mut Parts)| changed(Rule::R4, check, name, change, by);
    let debug = Recipe { opening_td: |td| td.td_attributes |= 1, ..Recipe::default() };
    let migratable = Recipe { opening_td: |td| td.td_attributes |= 1 << 29, ..Recipe::default() };
    let unsept = Recipe { opening_td: |td| td.td_attributes &= !(1 << 28), ..Recipe::default() };
    let debug_late = Recipe { final_td: |td| td.td_attributes |= 1, ..Recipe::default() };
    let revoked = Recipe { tcb: Tcb { status: "Revoked", ..Tcb::UP_TO_DATE }, ..Recipe::default() };
    let intel = Recipe { final_root: INTEL_ROOT_DER, ..Recipe::default() };
    let mut vectors = vec![
        quote(first, "opening-quote-zero-after", "a zero follows the opening quote", |p| p.open_quote.push(0)),
        quote(first, "opening-quote-byte-after", "a byte follows the opening quote", |p| p.open_quote.push(1)),
        quote(last, "final-quote-zero-after", "a zero follows the final quote", |p| seal(p).quote.push(0)),
        quote(last, "final-quote-byte-after", "a byte follows the final quote", |p| seal(p).quote.push(1)),
        quote(first, "opening-quote-cut", "the opening quote lacks its last byte", |p| {
            p.open_quote.truncate(p.open_quote.len() - 1);
        }),
        quote(first, "opening-quote-empty", "the opening quote is empty", |p| p.open_quote.clear()),
        quote(last, "final-quote-empty", "the final quote is empty", |p| seal(p).quote.clear()),
        quote(first, "opening-quote-version", "the opening quote says version 3", |p| p.open_quote[0] = 3),
        quote(first, "opening-quote-report", "a bit of MRTD in the opening quote", |p| p.open_quote[184] ^= 1),
        quote(last, "final-quote-report", "a bit of RTMR3 in the final quote", |p| seal(p).quote[520] ^= 1),
        quote(first, "opening-quote-signature", "a bit of the opening quote's signature", |p| p.open_quote[640] ^= 1),
        quote(last, "final-quote-signature", "a bit of the final quote's signature", |p| seal(p).quote[640] ^= 1),
        quote(first, "opening-quote-root", "the root in the opening quote is Intel's, and did not sign", |parts| {
            let opening = opening(&Recipe::default());
            let published = crate::platform::PCK_DER;
            parts.open_quote = quote_with_chain(&opening.td, &opening.open.report_data(), published, INTEL_ROOT_DER);
        }),
        quote(first, "collateral-signature", "a bit of the TCB info's signature", |p| {
            collateral(&mut p.open_collateral, |set| set.tcb_info_signature[0] ^= 1);
        }),
        quote(last, "collateral-signature-at-the-seal", "a bit of the QE identity's signature, at the seal", |p| {
            collateral(&mut seal(p).collateral, |set| set.qe_identity_signature[0] ^= 1);
        }),
        quote(first, "collateral-space", "a space follows the TCB info", |p| {
            collateral(&mut p.open_collateral, |set| set.tcb_info.push(b' '));
        }),
        quote(first, "collateral-lists-swapped", "the two revocation lists are swapped", |p| {
            collateral(&mut p.open_collateral, |set| std::mem::swap(&mut set.root_ca_crl, &mut set.pck_crl));
        }),
        quote(first, "collateral-list-missing", "the revocation list of the root is empty", |p| {
            collateral(&mut p.open_collateral, |set| set.root_ca_crl.clear());
        }),
        quote(first, "collateral-chain", "another PCK chain in the collateral than in the quote", |p| {
            collateral(&mut p.open_collateral, |set| set.pck_certificate_chain = Some(pem(ROOT_DER).into_bytes()));
        }),
        bad(Rule::R4, first, "debug-td", "the TD can be debugged", debug),
        bad(Rule::R4, first, "migratable-td", "the TD can be migrated", migratable),
        bad(Rule::R4, first, "sept-ve-td", "SEPT_VE_DISABLE is not set", unsept),
        bad(Rule::R4, last, "debug-td-at-the-seal", "the TD of the final quote can be debugged", debug_late),
        bad(Rule::R4, first, "revoked-platform", "the platform's TCB is revoked", revoked),
        bad(Rule::R4, last, "simulated-opening-intel-root-at-the-seal", "the final quote carries Intel's root", intel),
        of("simulated-under-intel-anchor", "nothing; the policy pins Intel's root", &sealed(&Recipe::default()))
            .policy("anchor = \"intel\"\n")
            .refused(Rule::R4, first),
        of("simulated-under-third-anchor", "nothing; the policy pins a third root", &sealed(&Recipe::default()))
            .policy(THIRD)
            .refused(Rule::R4, first),
    ];
    for (name, at) in [
        ("collateral-before", NOVEMBER - 1),
        ("collateral-ended", DECEMBER),
        ("collateral-long-ago", 0),
        ("collateral-years-later", DECEMBER + 5 * 365 * 86_400),
    ] {
        let vector = of(name, "nothing; the collateral does not hold at that time", &sealed(&Recipe::default())).at(at);
        vectors.push(vector.unsettled(Rule::R4, "collateral is current"));
    }
    vectors
}

/// A policy that names the certificate in the file beside it.
pub(crate) const THIRD: &str = "anchor = \"third-root.der\"\n";

pub(crate) fn seal(parts: &mut Parts) -> &mut coffer_evidence::bundle::SealParts {
    parts.seal.as_mut().expect("a seal")
}

fn platform() -> Vec<Vector> {
    let tdx = Recipe { manifest: |manifest| manifest.profile = Profile::Tdx, ..Recipe::default() };
    let profile = "image profile fits the root";
    let mut vectors = vec![
        bad(Rule::R5, profile, "tdx-image-under-the-simulators-root", "the image was made for real TDX", tdx),
        third_root_everywhere().policy(THIRD).refused(Rule::R5, "platform label"),
    ];
    type Change = (&'static str, fn(&mut Td));
    let changes: [Change; 9] = [
        ("xfam", |td| td.xfam ^= 4),
        ("attributes", |td| td.td_attributes |= 1 << 30),
        ("mrtd", |td| td.mrtd[0] ^= 1),
        ("rtmr0", |td| td.rtmr[0][0] ^= 1),
        ("rtmr1", |td| td.rtmr[1][0] ^= 1),
        ("rtmr2", |td| td.rtmr[2][0] ^= 1),
        ("mrconfigid", |td| td.mr_config_id[0] ^= 1),
        ("mrowner", |td| td.mr_owner[0] ^= 1),
        ("mrownerconfig", |td| td.mr_owner_config[0] ^= 1),
    ];
    let same = "same TD and platform";
    for (name, final_td) in changes {
        let recipe = Recipe { final_td, ..Recipe::default() };
        let change = format!("the final quote has another {name}");
        vectors.push(bad(Rule::R6, same, &format!("another-td-{name}"), &change, recipe));
    }
    type Certificate = (&'static str, fn() -> Vec<u8>);
    let platforms: [Certificate; 2] = [("instance", other_instance), ("ppid", other_ppid)];
    for (name, final_pck) in platforms {
        let change = format!("the final quote is of a platform with another {name}");
        let recipe = Recipe { final_pck, ..Recipe::default() };
        vectors.push(bad(Rule::R6, same, &format!("another-platform-{name}"), &change, recipe));
    }
    vectors.push(changed(Rule::R6, same, "opening-a-seal-b", "the seal is another session's", |parts| {
        let intent = |intent: &mut coffer_evidence::intent::Intent| intent.session = SessionId::new([0xee; 16]);
        parts.seal = sealed(&Recipe { intent, ..Recipe::default() }).seal;
    }));
    vectors
}

/// Every chain ends in a root that a policy may name and that is neither of the two known ones.
fn third_root_everywhere() -> Vector {
    let root = third_root();
    let opening = opening(&Recipe::default());
    let mut parts = sealed(&Recipe::default());
    let quote = quote_with_chain(&opening.td, &opening.open.report_data(), crate::platform::PCK_DER, &root);
    parts.open_quote = quote.clone();
    // The final quote is judged before the label: what it says does not matter, its root does.
    seal(&mut parts).quote = quote;
    rooted(&mut parts.open_collateral, &root);
    rooted(&mut seal(&mut parts).collateral, &root);
    of("third-root", "everything verifies under a third root, which the policy pins", &parts)
}

fn boot() -> Vec<Vector> {
    let check = "MRTD and RTMR0-2 are the manifest's";
    type Change = (&'static str, fn(&mut ImageManifest));
    let changes: [Change; 5] = [
        ("mrtd", |manifest| manifest.shapes.get_mut("s1").expect("s1").mrtd = Register([1; 48])),
        ("rtmr0", |manifest| manifest.shapes.get_mut("s1").expect("s1").rtmr0 = Register([1; 48])),
        ("rtmr1", |manifest| manifest.shapes.get_mut("s1").expect("s1").rtmr1 = Register([1; 48])),
        ("rtmr2", |manifest| manifest.shapes.get_mut("s1").expect("s1").rtmr2 = Register([1; 48])),
        ("shape", |manifest| manifest.shapes.clear()),
    ];
    let mut vectors: Vec<Vector> = changes
        .into_iter()
        .map(|(name, manifest)| {
            let change = format!("the manifest has no such {name}");
            bad(Rule::R7, check, &format!("boot-{name}"), &change, Recipe { manifest, ..Recipe::default() })
        })
        .collect();
    let mut longer = small_boot();
    longer.push(Entry::measured(2, EV_EFI_ACTION, b"Exit Boot Services Returned with Success"));
    let mut foreign = small_boot();
    foreign.push(Entry::measured(4, EV_EFI_ACTION, b"before the agent"));
    let logs = [
        ("garbage", "no event log stands in ccel", b"garbage".to_vec()),
        ("empty", "ccel is empty", Vec::new()),
        ("one-event-more", "the event log has an event more than was measured", log(&longer)),
        ("one-event-less", "the event log lacks its last event", log(&small_boot()[..4])),
        ("rtmr3", "the event log speaks of RTMR3", log(&foreign)),
    ];
    for (name, change, ccel) in logs {
        let vector = of(format!("event-log-{name}"), change, &with_log(ccel));
        vectors.push(vector.refused(Rule::R7, "event log (CCEL) replays"));
    }
    vectors
}

fn configuration() -> Vec<Vector> {
    let default = Recipe::default;
    let (owner, registers) = ("owner's signature", "configuration registers");
    let forged = Recipe { intent: |intent| intent.owner = PublicKey::of(&key(66)), ..default() };
    let flipped = Recipe { config: |config| config.owner_sig[0] ^= 1, ..default() };
    let zeros = Recipe { config: |config| config.owner_sig = [0; 64], ..default() };
    let low = Recipe { intent: |intent| intent.minimum_svn = 2, ..default() };
    let named = Recipe { intent: |intent| intent.policy = Digest384::of(b"another"), ..default() };
    let id = Recipe { opening_td: |td| td.mr_config_id[47] ^= 1, ..default() };
    let tenant = Recipe { opening_td: |td| td.mr_owner[0] ^= 1, ..default() };
    let policy = Recipe { opening_td: |td| td.mr_owner_config = [0; 48], ..default() };
    let pooled = Recipe {
        config: |config| config.host.launch = Launch::Pooled,
        open: |open| (open.launch, open.bind_nonce) = (Launch::Pooled, Some([7; 32])),
        ..default()
    };
    let text = "policy is the one the intent names";
    vec![
        bad(Rule::R8, owner, "intent-signature", "a bit of the owner's signature", flipped),
        bad(Rule::R8, owner, "intent-unsigned", "the owner's signature is zeros", zeros),
        bad(Rule::R8, owner, "intent-of-another-owner", "the intent names an owner who did not sign it", forged),
        bad(
            Rule::R8,
            "image svn is what the intent asks for",
            "image-svn-below-intent",
            "the intent asks for svn 2",
            low,
        ),
        changed(Rule::R8, text, "policy-text-changed", "a line is added to the policy", |parts| {
            parts.policy.extend(b"forbid (principal, action, resource);\n");
        }),
        changed(Rule::R8, text, "policy-text-empty", "the policy is empty", |parts| parts.policy.clear()),
        bad(Rule::R8, text, "policy-not-the-intents", "the intent names another policy", named),
        bad(Rule::R8, registers, "mrconfigid-not-the-configuration", "MRCONFIGID of another configuration", id),
        bad(Rule::R8, registers, "mrowner-not-the-tenant", "MROWNER of another tenant", tenant),
        bad(Rule::R8, registers, "mrownerconfig-not-the-policy", "MROWNERCONFIG is zero", policy),
        bad(
            Rule::R8,
            "launch is one that the intent allows",
            "pooled-launch",
            "the TD was launched from a pool, and its intent does not allow that",
            pooled,
        ),
    ]
}

fn open_map() -> Vec<Vector> {
    let fits = "open map fits the configuration";
    let session = Recipe { open: |open| open.session = SessionId::new([1; 16]), ..Recipe::default() };
    let digest = Recipe { open: |open| open.config_digest = Digest384::of(b"another"), ..Recipe::default() };
    let launch =
        Recipe { open: |open| (open.launch, open.bind_nonce) = (Launch::Pooled, Some([7; 32])), ..Recipe::default() };
    let extended = Recipe { opening_td: |td| td.rtmr[3][0] ^= 1, ..Recipe::default() };
    let fresh = Recipe { opening_td: |td| td.rtmr[3] = [0; 48], ..Recipe::default() };
    let replay = "opening RTMR3 is the replay of event 0";
    vec![
        changed(Rule::R9, "opening report data binds the open map", "open-map-swapped", "another open map", |parts| {
            parts.open_map =
                opening(&Recipe { open: |open| open.random = [1; 32], ..Recipe::default() }).open.to_bytes();
        }),
        bad(Rule::R9, fits, "open-map-session", "the open map names another session", session),
        bad(Rule::R9, fits, "open-map-configuration", "the open map names another configuration", digest),
        bad(Rule::R9, fits, "open-map-launch", "the open map says pooled, the configuration cold", launch),
        bad(Rule::R9, replay, "foreign-extend-before-the-opening", "RTMR3 was extended by somebody else", extended),
        bad(Rule::R9, replay, "opening-before-event-0", "RTMR3 is zero in the opening quote", fresh),
    ]
}
