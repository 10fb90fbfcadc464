//! R12, and what rests on signed headers in R14 and R16: end-to-end sessions that hold, and those that lie in one place. Whatever a
//! client would sign after the lie is signed.

use coffer_evidence::call_header::{Said, Speaker};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::ids::{Digest256, Identity, InstanceId};
use coffer_evidence::leaf::{CauseClass, Leaf, Method, Public, Rejection};
use coffer_evidence::seal::ClosedBy;
use coffer_evidence::sign::PublicKey;
use coffer_evidence::verify::Rule;

use crate::encrypted;
use crate::opening::sealed;
use crate::session::talk::{Talk, asked, end_to_end, identity, identity_key, input, usual, witness_key};
use crate::session::{Ending, Recipe, key, owner, parts};
use crate::vector::{Flag, Vector, of};

const PLACE: &str = "call headers in their leaves";
const ORDER: &str = "chains in order";
const OWNER: &str = "owner's hello before the first call";
const INPUT: &str = "input under headers";
const SIGNATURE: &str = "header signatures";

type Script = fn(&mut Talk<'_>);

/// An end-to-end session in which this is said.
pub(crate) fn said(talk: Script) -> Recipe {
    Recipe { intent: end_to_end, talk: Some(talk), ..Recipe::default() }
}

pub(crate) fn vectors() -> Vec<Vector> {
    [
        good(),
        whole_sessions(),
        place(),
        order(),
        channels(),
        owners(),
        vec![undecided()],
        inputs(),
        signatures(),
        parts_of_headers(),
    ]
    .concat()
}

fn good() -> Vec<Vector> {
    let of_talk = |name: &str, change: &str, talk: Script| of(name, change, &sealed(&said(talk)));
    let known = format!("anchor = \"simulated\"\nowners = [\"{}\"]\n", PublicKey::of(&owner()));
    let closed = Recipe { seal: |map| map.closed_by = ClosedBy::Client, ..said(closing) };
    vec![
        of_talk("end-to-end-sealed", "nothing; clients signed what they asked for", usual),
        of_talk("end-to-end-every-signature", "nothing; every signature is verified", usual).flag(Flag::EverySignature),
        of_talk("end-to-end-owner-known", "nothing; the policy names the owner", usual).policy(known),
        of_talk(
            "end-to-end-many-channels",
            "nothing; a client came back on a second channel, a third was closed",
            busy,
        ),
        of_talk(
            "end-to-end-signature-before-the-last",
            "the signature of a header before the channel's last",
            unsigned_before,
        ),
        of_talk("end-to-end-input-at-its-end", "nothing; input is signed once more where it ends", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.input(&mut caller, 1, 0);
            talk.input(&mut caller, 1, 65_536);
            talk.input(&mut caller, 1, 65_536);
            talk.outcome(1, CauseClass::Completed, Some(65_536));
        }),
        of("end-to-end-closed-by-client", "nothing; a client closed the session and signed that", &sealed(&closed)),
        of(
            "end-to-end-with-encrypted-parts",
            "nothing; private parts are encrypted, and opened",
            &encrypted::with_parts(&said(usual)),
        )
        .flag(encrypted::own()),
        of(
            "delegated-with-headers",
            "nothing; the delegate key signed what was asked for",
            &sealed(&Recipe {
                intent: |_| {},
                ..said(|talk| {
                    let mut caller = talk.open(&identity(), &identity_key(), 2);
                    talk.ask(&mut caller, 1);
                    talk.completed(1);
                })
            }),
        ),
    ]
}

fn closing(talk: &mut Talk<'_>) {
    let (_, mut caller) = talk.owner_and_identity();
    talk.ask(&mut caller, 1);
    talk.completed(1);
    talk.say(&mut caller, Said::Close);
}

/// Everything that may be said, on channels side by side.
fn busy(talk: &mut Talk<'_>) {
    let (mut owner, mut first) = talk.owner_and_identity();
    talk.ask(&mut first, 1);
    let mut second = talk.open(&identity(), &identity_key(), 3);
    talk.denied(&mut second, 2);
    talk.ask(&mut second, 3);
    talk.input(&mut first, 1, 10);
    // The client lost its first channel and comes back to the call on its second.
    talk.rejected(&first, Rejection::OutOfOrder);
    talk.rejected(&first, Rejection::Malformed);
    talk.say(&mut second, asked(1));
    talk.input(&mut second, 1, 20);
    let Said::Input { call, commitment, .. } = input(1, 1).0 else { panic!("input") };
    talk.say(&mut second, Said::Signal { call, commitment });
    talk.say(&mut second, Said::Cancel { call });
    talk.outcome(1, CauseClass::Cancelled, Some(20));
    // What arrives after the end is in its chain and does nothing.
    talk.input(&mut second, 1, 5);
    talk.completed(3);
    let seen = talk.checkpoint();
    talk.say(&mut owner, Said::Ack { seen });
    talk.say(&mut second, Said::Ack { seen });
}

fn unsigned_before(talk: &mut Talk<'_>) {
    let (_, mut caller) = talk.owner_and_identity();
    let mut header = caller.sign(asked(1));
    header.signature[0] ^= 1;
    talk.intent(1, Some(header));
    talk.completed(1);
    talk.ask(&mut caller, 2);
    talk.completed(2);
}

fn whole_sessions() -> Vec<Vector> {
    let killed = |talk: Script| parts(&said(talk), Ending::Killed);
    let greeted: Script = |talk| {
        talk.owner_and_identity();
    };
    let asked = |name: &str, change: &str, talk: Script| of(name, change, &killed(talk)).aborted().flag(Flag::Prefix);
    let nobody = sealed(&said(|_| {}));
    vec![
        asked("end-to-end-prefix", "the guest was killed in its last call", usual),
        asked("end-to-end-prefix-before-the-first-call", "the guest was killed after the hellos", greeted),
        asked("end-to-end-prefix-before-any-hello", "the guest was killed before anybody came", |_| {}),
        of("end-to-end-of-no-call", "nothing; the owner said hello, and nobody called", &sealed(&said(greeted))),
        of("end-to-end-of-nobody", "the session was sealed, and its owner had never named the instance", &nobody)
            .rejected(Rule::R12, OWNER),
    ]
}

type Bad = (&'static str, &'static str, Script);

fn refused(check: &'static str, bad: impl IntoIterator<Item = Bad>) -> Vec<Vector> {
    let made = |(name, change, talk): Bad| of(name, change, &sealed(&said(talk))).refused(Rule::R12, check);
    bad.into_iter().map(made).collect()
}

fn last<'t>(talk: &'t mut Talk<'_>) -> &'t mut Leaf {
    talk.leaves.last_mut().expect("a leaf")
}

fn place() -> Vec<Vector> {
    let bad: [Bad; 8] = [
        ("rejected-of-another-speaker", "a rejected leaf that blames an identity for the owner's header", |talk| {
            let (owner, _) = talk.owner_and_identity();
            talk.rejected(&owner, Rejection::Signature);
            talk.leaves.last_mut().expect("a leaf").identity = Some(Identity::default_name());
        }),
        ("header-missing", "one intent has no header", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.completed(1);
            talk.intent(2, None);
            talk.completed(2);
        }),
        ("header-of-another-call", "an intent holds the header of another call", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let header = caller.sign(asked(2));
            talk.intent(1, Some(header));
            talk.completed(1);
        }),
        ("header-of-another-method", "an intent is of another method than its header", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            let Public::Intent { method, .. } = &mut last(talk).public else { panic!("an intent") };
            *method = Method::Stat;
        }),
        ("header-of-another-type", "an intent holds a cancel", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let Said::Call { call, .. } = asked(1) else { panic!("a call") };
            let header = caller.sign(Said::Cancel { call });
            talk.intent(1, Some(header));
            talk.completed(1);
        }),
        ("header-of-another-identity", "a client leaf is another identity's than its header", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.say(&mut caller, Said::Close);
            last(talk).identity = Some(Identity::new("other").expect("an identity"));
        }),
        ("header-of-another-leaf", "a client leaf names a call that its header does not", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.say(&mut caller, Said::Close);
            let Said::Call { call, .. } = asked(1) else { panic!("a call") };
            last(talk).call = Some(call);
        }),
        ("channel-of-another-identity", "a channel leaf is another identity's than its channel", |talk| {
            talk.channel(&identity(), &identity_key(), 9);
            last(talk).identity = None;
        }),
    ];
    let mut vectors = refused(PLACE, bad);
    let half: Recipe = Recipe {
        intent: |_| {},
        ..said(|talk| {
            talk.intent(1, None);
            talk.completed(1);
            let mut caller = talk.open(&identity(), &identity_key(), 2);
            talk.ask(&mut caller, 2);
            talk.completed(2);
        })
    };
    let change = "a delegated session in which some calls have headers";
    vectors.push(of("delegated-with-some-headers", change, &sealed(&half)).refused(Rule::R12, PLACE));
    let later = Recipe {
        intent: |_| {},
        ..said(|talk| {
            let mut caller = talk.open(&identity(), &identity_key(), 2);
            talk.ask(&mut caller, 1);
            talk.completed(1);
            talk.intent(2, None);
            talk.completed(2);
        })
    };
    let change = "a delegated session in which calls had headers at first";
    vectors.push(of("delegated-with-headers-at-first", change, &sealed(&later)).refused(Rule::R12, PLACE));
    vectors
}

fn order() -> Vec<Vector> {
    let bad: [Bad; 12] = [
        ("header-replayed-on-a-second-channel", "a header of one channel stands in the place of another's", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let mut second = talk.open(&identity(), &identity_key(), 3);
            talk.ask(&mut caller, 1);
            talk.completed(1);
            // Signed for the first channel, and named after the second: only the client could sign that.
            let mut replayed = caller.sign(asked(2));
            replayed.header.channel = second.next.channel;
            second.sign(Said::Close);
            talk.client(replayed);
        }),
        ("header-replayed", "a header stands in two leaves", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let header = caller.sign(Said::Close);
            talk.client(header.clone());
            talk.client(header);
        }),
        ("header-replayed-in-a-twin", "headers that clients signed for another TD of the same configuration", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            caller.next.instance = InstanceId::new([0x77; 32]);
            talk.ask(&mut caller, 1);
            talk.completed(1);
        }),
        ("headers-out-of-order", "two headers of one channel are swapped", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let first = caller.sign(asked(1));
            let second = caller.sign(asked(2));
            talk.intent(2, Some(second));
            talk.intent(1, Some(first));
            talk.completed(1);
            talk.completed(2);
        }),
        ("header-left-out", "a header of the channel is in no leaf", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            caller.sign(Said::Close);
            talk.ask(&mut caller, 1);
            talk.completed(1);
        }),
        (
            "header-with-another-commitment-in-its-chain",
            "a call header was changed, and one that follows was signed after the old one",
            |talk| {
                let (_, mut caller) = talk.owner_and_identity();
                let mut header = caller.sign(asked(1));
                header.header.said = asked_otherwise();
                talk.intent(1, Some(header));
                talk.completed(1);
                talk.ask(&mut caller, 2);
                talk.completed(2);
            },
        ),
        ("header-without-hello", "a channel begins with a call", |talk| {
            talk.owner_and_identity();
            let mut silent = talk.channel(&identity(), &identity_key(), 3);
            talk.ask(&mut silent, 1);
            talk.completed(1);
        }),
        ("hello-twice", "a second hello on one channel", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let hello = talk.hello();
            talk.say(&mut caller, hello);
        }),
        ("hello-of-another-quote", "the owner's hello names another opening quote", |talk| {
            let mut owner = talk.channel(&Speaker::Owner, &owner(), 1);
            let (opening_quote, collateral) = (Digest256::of(b"another"), Digest256::of(b"collateral"));
            talk.say(&mut owner, Said::Hello { opening_quote, time: 0, collateral });
        }),
        ("call-again-with-another-commitment", "a running call is asked for again, with another request", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.say(&mut caller, asked_otherwise());
            talk.completed(1);
        }),
        ("owner-cancels", "the owner cancels a call, which is not the owner's to say", |talk| {
            let (mut owner, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            let Said::Call { call, .. } = asked(1) else { panic!("a call") };
            talk.say(&mut owner, Said::Cancel { call });
            talk.completed(1);
        }),
        ("witness-closes", "a witness closes the session, which is not a witness's to say", |talk| {
            talk.owner_and_identity();
            let mut witness = talk.open(&Speaker::Witness(0), &witness_key(), 3);
            talk.say(&mut witness, Said::Close);
        }),
    ];
    refused(ORDER, bad)
}

/// The first call's id with the second one's request.
fn asked_otherwise() -> Said {
    let (Said::Call { call, method, .. }, Said::Call { commitment, .. }) = (asked(1), asked(2)) else {
        panic!("calls")
    };
    Said::Call { call, method, commitment }
}

fn channels() -> Vec<Vector> {
    let bad: [Bad; 8] = [
        ("call-after-close", "a call is decided after a client closed the session", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.say(&mut caller, Said::Close);
            talk.ask(&mut caller, 1);
            talk.completed(1);
        }),
        ("channel-unknown", "a header of a channel that no leaf accepted", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            caller.next.channel = Digest256::of(b"nobody's");
            talk.say(&mut caller, Said::Close);
        }),
        ("channel-twice", "a channel is accepted twice", |talk| {
            talk.owner_and_identity();
            talk.channel(&identity(), &identity_key(), 2);
        }),
        ("channel-of-a-stranger", "a channel of an identity that the intent does not name", |talk| {
            talk.owner_and_identity();
            let stranger = Speaker::Identity(Identity::new("stranger").expect("an identity"));
            talk.open(&stranger, &key(66), 3);
        }),
        ("channel-of-no-witness", "a channel of a witness that the intent does not name", |talk| {
            talk.owner_and_identity();
            talk.open(&Speaker::Witness(1), &key(66), 3);
        }),
        ("channel-of-two-speakers", "the owner speaks on an identity's channel", |talk| {
            let (mut owner, caller) = talk.owner_and_identity();
            owner.next = coffer_evidence::call_header::CallHeader { speaker: Speaker::Owner, ..caller.next };
            talk.say(&mut owner, Said::Close);
        }),
        ("header-after-a-rejected-one", "a channel goes on after one of its headers was rejected", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.rejected(&caller, Rejection::Signature);
            talk.say(&mut caller, Said::Close);
        }),
        ("rejected-before-hello", "a rejected header of a channel on which nobody said hello", |talk| {
            talk.owner_and_identity();
            let silent = talk.channel(&identity(), &identity_key(), 3);
            talk.rejected(&silent, Rejection::Malformed);
        }),
    ];
    refused(ORDER, bad)
}

fn owners() -> Vec<Vector> {
    let bad: [Bad; 2] = [
        ("call-without-owners-hello", "an identity calls, and the owner never said hello", |talk| {
            let mut caller = talk.open(&identity(), &identity_key(), 2);
            talk.ask(&mut caller, 1);
            talk.completed(1);
        }),
        ("call-before-owners-hello", "the owner's hello comes after the first call", |talk| {
            let mut caller = talk.open(&identity(), &identity_key(), 2);
            talk.ask(&mut caller, 1);
            talk.completed(1);
            talk.open(&Speaker::Owner, &owner(), 1);
        }),
    ];
    refused(OWNER, bad)
}

/// R13 beside the chains: what is asked for again was decided once.
fn undecided() -> Vector {
    let talk: Script = |talk| {
        let (_, mut caller) = talk.owner_and_identity();
        talk.say(&mut caller, asked(1));
    };
    of(
        "call-asked-and-never-decided",
        "a client asked for a call, and the record holds no decision",
        &sealed(&said(talk)),
    )
    .refused(Rule::R13, "one intent, then one outcome")
}

fn inputs() -> Vec<Vector> {
    let bad: [Bad; 5] = [
        ("input-unsigned", "a call took input that no header covers", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.completed(1);
            took(talk, 1);
        }),
        ("input-beyond-the-signed", "a call took more input than headers cover", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.input(&mut caller, 1, 4096);
            talk.outcome(1, CauseClass::Completed, Some(4096));
            took(talk, 2);
        }),
        ("input-covered-too-much", "an outcome says that headers cover more input than they do", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.input(&mut caller, 1, 10);
            talk.outcome(1, CauseClass::Completed, Some(11));
        }),
        ("input-covered-unsaid", "an outcome does not say how much input headers cover", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.input(&mut caller, 1, 10);
            talk.completed(1);
        }),
        ("input-offset-falls", "an input header covers less than the one before it", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            talk.ask(&mut caller, 1);
            talk.input(&mut caller, 1, 10);
            talk.input(&mut caller, 1, 9);
            talk.outcome(1, CauseClass::Completed, Some(9));
        }),
    ];
    refused(INPUT, bad)
}

/// The last leaf's call took this much input.
fn took(talk: &mut Talk<'_>, steps: u64) {
    let Public::Outcome { input_steps, .. } = &mut last(talk).public else { panic!("an outcome") };
    *input_steps = steps;
}

fn signatures() -> Vec<Vector> {
    let bad: [Bad; 6] = [
        ("header-signature", "a bit of a signature", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let mut header = caller.sign(Said::Close);
            header.signature[0] ^= 1;
            talk.client(header);
        }),
        ("header-with-another-commitment", "a call header was changed after it was signed", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let mut header = caller.sign(asked(1));
            header.header.said = asked_otherwise();
            talk.intent(1, Some(header));
            talk.completed(1);
        }),
        ("header-of-a-key-of-the-host", "calls are signed by a key that the host made", |talk| {
            talk.open(&Speaker::Owner, &owner(), 1);
            let mut caller = talk.open(&identity(), &key(66), 2);
            talk.ask(&mut caller, 1);
            talk.completed(1);
        }),
        ("owners-hello-of-a-key-of-the-host", "the owner's hello is signed by a key that the host made", |talk| {
            talk.open(&Speaker::Owner, &key(66), 1);
            let mut caller = talk.open(&identity(), &identity_key(), 2);
            talk.ask(&mut caller, 1);
            talk.completed(1);
        }),
        ("header-replayed-as-the-twins", "a header that was signed for a twin is named after this TD", |talk| {
            let (_, mut caller) = talk.owner_and_identity();
            let instance = caller.next.instance;
            caller.next.instance = InstanceId::new([0x77; 32]);
            let mut header = caller.sign(Said::Close);
            header.header.instance = instance;
            talk.client(header);
        }),
        (
            "header-replayed-as-the-second-channels",
            "a header of one channel is given another's name and place",
            |talk| {
                let (_, mut caller) = talk.owner_and_identity();
                let mut second = talk.open(&identity(), &identity_key(), 3);
                let signature = caller.sign(Said::Close).signature;
                let mut replayed = second.sign(Said::Close);
                replayed.signature = signature;
                talk.client(replayed);
            },
        ),
    ];
    let mut vectors = refused(SIGNATURE, bad);
    let change = "the signature of a header before the channel's last; every signature is verified";
    let every = of("header-signature-before-the-last", change, &sealed(&said(unsigned_before)));
    vectors.push(every.flag(Flag::EverySignature).refused(Rule::R12, SIGNATURE));
    vectors
}

/// A client signed another request than the guest recorded.
fn parts_of_headers() -> Vec<Vector> {
    let otherwise: Script = |talk| {
        let (_, mut caller) = talk.owner_and_identity();
        let header = caller.sign(asked_otherwise());
        talk.intent(1, Some(header));
        talk.completed(1);
    };
    let other_input: Script = |talk| {
        let (_, mut caller) = talk.owner_and_identity();
        talk.ask(&mut caller, 1);
        talk.input(&mut caller, 1, 10);
        let commitment = Digest256::of(b"other input");
        let (Said::Input { call, offset, .. }, mut caller) = (input(1, 20).0, caller) else { panic!("input") };
        let (private, committed) = (talk.disclosed.last().expect("a part").clone(), last(talk).commitment);
        talk.say(&mut caller, Said::Input { call, commitment, offset });
        let index = last(talk).index;
        last(talk).commitment = committed;
        talk.disclosed.push(coffer_evidence::call::Disclosed { index, ..private });
        talk.outcome(1, CauseClass::Completed, Some(20));
    };
    let request = sealed(&said(otherwise));
    let change = "the guest recorded another request than its caller signed";
    vec![
        of("part-is-not-what-was-signed", change, &request)
            .rejected(Rule::R16, "plain private parts agree with leaves"),
        of(
            "input-part-is-not-what-was-signed",
            "the guest recorded other input than its caller signed",
            &sealed(&said(other_input)),
        )
        .rejected(Rule::R16, "plain private parts agree with leaves"),
        of("encrypted-part-is-not-what-was-signed", change, &encrypted::with_parts(&said(otherwise)))
            .flag(encrypted::own())
            .rejected(Rule::R16, "encrypted private parts agree with leaves"),
    ]
}

/// What a talk of these tests looks like in bytes does not depend on where it is made.
#[test]
fn a_talk_is_made_of_the_same_bytes_each_time() {
    let made = || parts(&said(usual), Ending::Sealed).leaves;
    assert_eq!(made(), made());
    assert!(made().iter().all(|leaf| Leaf::parse(leaf).is_ok()));
}
