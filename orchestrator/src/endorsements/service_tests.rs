//! A collateral service from question to kept set, against one that is played on this machine: as it should be, in every way that
//! it can fail, and with what is kept from before.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use coffer_evidence::collateral::Collateral;
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::verify::TrustAnchor;
use rcgen::{BasicConstraints, CertificateParams, CertifiedKey, IsCa, Issuer, KeyPair};

use super::address::{Part, ServiceUrl};
use super::answers::AnswerError;
use super::https::TransportError;
use super::played::{Example, Fault, PlayedService, quote_of_model, self_signed, simulated_platform, with_tcb_info};
use super::roots::Roots;
use super::service::{CollateralService, Limits, ServiceError};
use super::shelf::Shelf;
use super::{EndorsementsError, Source as _};
use crate::session::acted::platform::{self, Dates, ROOT_DER, Tcb};

const DAY: u64 = 86_400;
/// All parts of a set, each asked for once.
const ONE_SET: usize = 4;
/// Long enough for an answer of this machine, whatever else it does.
const PATIENT: Limits = Limits { answers: Duration::from_secs(60), retry: Duration::from_secs(3_600) };
const IMPATIENT: Limits = Limits { answers: Duration::from_millis(300), retry: Duration::ZERO };
/// Patient, and asks again at once.
const INSISTENT: Limits = Limits { answers: Duration::from_secs(60), retry: Duration::ZERO };

/// A host that asks a service.
struct Asker {
    service: CollateralService,
    clock: Arc<AtomicU64>,
    directory: tempfile::TempDir,
    quote: Vec<u8>,
}

impl Asker {
    fn new(example: &Example, url: &str, roots: Roots, limits: Limits) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let clock = Arc::new(AtomicU64::new(example.now));
        let (url, read) = (ServiceUrl::parse(url).expect("an address"), Arc::clone(&clock));
        let (shelf, now) = (Shelf::at(directory.path().join("collateral")), move || read.load(Ordering::SeqCst));
        let service = CollateralService::new(url, roots, shelf, example.anchor.clone(), limits, now);
        Self { service, clock, directory, quote: example.quote.clone() }
    }

    async fn ask(&self) -> Result<Collateral, ServiceError> {
        match self.service.current(&self.quote).await {
            Ok(set) => Ok(set),
            Err(EndorsementsError::Service(error)) => Err(error),
            Err(other) => panic!("{other}"),
        }
    }

    fn at(&self, time: u64) {
        self.clock.store(time, Ordering::SeqCst);
    }

    fn kept(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.directory.path().join("collateral")).into_iter().flatten();
        files.map(|file| file.expect("read").path()).collect()
    }
}

async fn simulated(limits: Limits) -> (Example, PlayedService, Asker) {
    let example = Example::simulated();
    let played = PlayedService::start(example.set.clone()).await;
    let asker = Asker::new(&example, &played.url(), Roots::Host, limits);
    (example, played, asker)
}

#[tokio::test]
async fn a_set_for_the_quote_at_hand_is_fetched_verified_and_kept() {
    for (example, model, authority) in
        [(Some(Example::simulated()), "53494D000000", "platform"), (Example::real(), "B0C06F000000", "platform")]
    {
        let Some(example) = example else { continue };
        let played = PlayedService::start(example.set.clone()).await;
        let asker = Asker::new(&example, &played.url(), Roots::Host, PATIENT);
        assert_eq!(asker.ask().await.expect("a set"), example.set);
        let questions = [
            format!("/sgx/certification/v4/pckcrl?ca={authority}&encoding=der"),
            "/sgx/certification/v4/rootcacrl".to_owned(),
            "/tdx/certification/v4/qe/identity".to_owned(),
            format!("/tdx/certification/v4/tcb?fmspc={model}"),
        ];
        assert_eq!(played.questions(), questions);
        let kept = asker.kept();
        assert_eq!(kept.len(), 1);
        assert!(kept[0].ends_with(format!("{model}-{authority}.collateral")), "{kept:?}");
        assert_eq!(std::fs::read(&kept[0]).expect("read"), example.set.to_bytes());
        // Young: nobody is asked.
        asker.at(example.now + DAY - 1);
        assert_eq!(asker.ask().await.expect("the kept set"), example.set);
        assert_eq!(played.asked(), ONE_SET);
    }
}

#[tokio::test]
async fn each_failure_of_a_service_has_its_name_and_its_limit() {
    let (_, played, asker) = simulated(INSISTENT).await;
    let status = |error: &ServiceError, wanted: u16| matches!(error, ServiceError::Transport(TransportError::Status { status, .. }) if *status == wanted);
    type Fits<'a> = &'a dyn Fn(&ServiceError) -> bool;
    let protocol: Fits<'_> = &|error| matches!(error, ServiceError::Transport(TransportError::Protocol { .. }));
    let cases: [(Part, Fault, &str, Fits<'_>); 10] = [
        (Part::TcbInfo, Fault::Status(404), "register it", &|error| status(error, 404)),
        (Part::PckList, Fault::Status(500), "see that service's log", &|error| status(error, 500)),
        (Part::RootList, Fault::Status(302), "no redirect is followed", &|error| status(error, 302)),
        (Part::QeIdentity, Fault::TooLong, "at most 524288 bytes", &|error| {
            matches!(error, ServiceError::Transport(TransportError::TooLarge { .. }))
        }),
        (Part::TcbInfo, Fault::TooManyHeaders, "HTTP/1.1", protocol),
        (Part::PckList, Fault::Noise, "HTTP/1.1", protocol),
        (Part::QeIdentity, Fault::Breaks, "HTTP/1.1", protocol),
        (Part::TcbInfo, Fault::NoHeader, "TCB-Info-Issuer-Chain", &|error| {
            matches!(error, ServiceError::Answer(AnswerError::NoChain { .. }))
        }),
        (Part::QeIdentity, Fault::Half, "\"enclaveIdentity\"", &|error| {
            matches!(error, ServiceError::Answer(AnswerError::Signed { .. }))
        }),
        // Half of a list is a list by its form, and no list to the verifier.
        (Part::PckList, Fault::Half, "does not verify", &|error| matches!(error, ServiceError::Refused { .. })),
    ];
    for (part, fault, words, fits) in cases {
        played.play(|script| script.fault = Some((part, fault)));
        let error = asker.ask().await.expect_err("a fault");
        assert!(fits(&error), "{fault:?}: {error:?}");
        let text = error.to_string();
        assert!(text.contains("expected") && text.contains(words) && text.len() < 500, "{fault:?}: {text}");
        assert_eq!(asker.kept(), Vec::<PathBuf>::new(), "{fault:?}");
    }
    played.play(|script| script.fault = None);
    asker.ask().await.expect("well again");
}

#[tokio::test]
async fn a_service_that_stalls_or_is_not_there_is_given_up() {
    let (example, played, asker) = simulated(IMPATIENT).await;
    for fault in [Fault::Stalls, Fault::StallsWithin] {
        played.play(|script| script.fault = Some((Part::QeIdentity, fault)));
        let error = asker.ask().await.expect_err("nothing in time");
        assert!(matches!(error, ServiceError::Transport(TransportError::Stalled { .. })), "{error:?}");
        assert!(error.to_string().contains("within 300ms"), "{error}");
    }
    let url = played.url();
    drop(played);
    // Its port is free once the task that held it has ended.
    let refused = loop {
        let asker = Asker::new(&example, &url, Roots::Host, PATIENT);
        match asker.ask().await {
            Err(ServiceError::Transport(TransportError::Unreachable { place, .. })) => break place,
            _ => tokio::task::yield_now().await,
        }
    };
    assert!(url.contains(&refused), "{url}: {refused}");
}

#[tokio::test]
async fn a_set_that_does_not_hold_is_neither_used_nor_kept() {
    let (example, played, asker) = simulated(PATIENT).await;
    let root = self_signed("another root");
    let mut another_root = example.set.clone();
    let chains = [
        &mut another_root.pck_crl_issuer_chain,
        &mut another_root.tcb_info_issuer_chain,
        &mut another_root.qe_identity_issuer_chain,
    ];
    for chain in chains {
        let text = String::from_utf8(std::mem::take(chain)).expect("PEM");
        *chain = text.replace(&platform::pem(ROOT_DER), &platform::pem(root.cert.der())).into_bytes();
    }
    let mut flipped = example.set.clone();
    flipped.qe_identity_signature[5] ^= 1;
    let mut swapped = example.set.clone();
    std::mem::swap(&mut swapped.pck_crl, &mut swapped.root_ca_crl);
    for (name, set, word) in [
        ("another model", with_tcb_info("53494D000000", "53494D000001"), "mspc"),
        ("another root", another_root, "its root is not the quote's trust anchor"),
        ("a signature", flipped, "ignature"),
        ("lists swapped", swapped, ""),
        ("ended", platform::collateral(Dates { issued: (2026, 9), ends: (2026, 10) }, Tcb::UP_TO_DATE), "xpired"),
        ("not begun", platform::collateral(Dates { issued: (2026, 12), ends: (2027, 1) }, Tcb::UP_TO_DATE), ""),
        ("revoked", with_tcb_info("\"UpToDate\"", "\"Revoked\""), "evoked"),
    ] {
        played.play(|script| script.set = set);
        let error = asker.ask().await.expect_err(name);
        let ServiceError::Refused { why, .. } = error else { panic!("{name}: {error}") };
        assert!(why.contains(word) && why.len() <= 200, "{name}: {why}");
        assert_eq!(asker.kept(), Vec::<PathBuf>::new(), "{name}");
    }
}

#[tokio::test]
async fn a_quote_under_another_root_asks_nobody() {
    let (example, played, _) = simulated(PATIENT).await;
    let intel = Example { anchor: TrustAnchor::Intel, ..example };
    let asker = Asker::new(&intel, &played.url(), Roots::Host, PATIENT);
    assert!(matches!(asker.ask().await, Err(ServiceError::Quote(_))));
    let none = Asker::new(&Example { quote: b"none".to_vec(), ..intel }, &played.url(), Roots::Host, PATIENT);
    assert!(matches!(none.ask().await, Err(ServiceError::Quote(_))));
    assert_eq!(played.asked(), 0);
}

#[tokio::test]
async fn a_kept_set_is_fetched_anew_when_it_is_old_or_about_to_end() {
    let (example, played, asker) = simulated(PATIENT).await;
    asker.ask().await.expect("a set");
    let newer = platform::collateral(Dates { issued: (2026, 11), ends: (2027, 1) }, Tcb::UP_TO_DATE);
    played.play(|script| script.set = newer.clone());
    asker.at(example.now + DAY);
    assert_eq!(asker.ask().await.expect("a newer set"), newer);
    assert_eq!(played.asked(), 2 * ONE_SET);
    asker.at(example.now + 2 * DAY - 1);
    assert_eq!(asker.ask().await.expect("kept"), newer);
    assert_eq!(played.asked(), 2 * ONE_SET);

    // Fetched a moment ago, and nearly over: an hour is the margin.
    played.play(|script| script.set = example.set.clone());
    let near = Asker::new(&example, &played.url(), Roots::Host, PATIENT);
    let hour_before = platform::DECEMBER - 3_600;
    for (time, questions) in [(hour_before - 1, ONE_SET), (hour_before - 1, 0), (hour_before, ONE_SET)] {
        near.at(time);
        let before = played.asked();
        near.ask().await.expect("a set");
        assert_eq!(played.asked() - before, questions, "{time}");
    }
}

#[tokio::test]
async fn a_kept_set_that_holds_serves_while_the_service_does_not_and_no_longer() {
    let (example, played, asker) = simulated(PATIENT).await;
    asker.ask().await.expect("a set");
    played.play(|script| script.fault = Some((Part::TcbInfo, Fault::Status(503))));
    asker.at(example.now + DAY);
    assert_eq!(asker.ask().await.expect("the kept set"), example.set);
    let before = played.asked();
    assert!(before > ONE_SET);
    // The service is left alone for a while.
    assert_eq!(asker.ask().await.expect("the kept set"), example.set);
    assert_eq!(played.asked(), before);
    // Its last second and the one after.
    asker.at(platform::DECEMBER - 1);
    assert_eq!(asker.ask().await.expect("the kept set"), example.set);
    asker.at(platform::DECEMBER + 1);
    match asker.ask().await {
        Err(ServiceError::Lately { why, .. }) => assert!(why.contains("503"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(played.asked(), before);
}

#[tokio::test]
async fn a_service_that_failed_is_asked_again_when_its_time_has_come() {
    let (example, played, asker) = simulated(INSISTENT).await;
    played.play(|script| script.fault = Some((Part::TcbInfo, Fault::Status(503))));
    for _ in 0..2 {
        assert!(matches!(asker.ask().await, Err(ServiceError::Transport(TransportError::Status { .. }))));
    }
    played.play(|script| script.fault = None);
    assert_eq!(asker.ask().await.expect("a set"), example.set);

    let waiting = Asker::new(&example, &played.url(), Roots::Host, PATIENT);
    played.play(|script| script.fault = Some((Part::TcbInfo, Fault::Status(503))));
    assert!(matches!(waiting.ask().await, Err(ServiceError::Transport(TransportError::Status { .. }))));
    played.play(|script| script.fault = None);
    assert!(matches!(waiting.ask().await, Err(ServiceError::Lately { .. })));
}

#[tokio::test]
async fn an_older_set_never_takes_the_place_of_a_newer_one() {
    let (example, played, asker) = simulated(PATIENT).await;
    asker.ask().await.expect("a set");
    played.play(|script| script.set = platform::collateral(Dates::OCTOBER, Tcb::UP_TO_DATE));
    asker.at(example.now + DAY);
    assert_eq!(asker.ask().await.expect("the kept set"), example.set);
    assert!(played.asked() > ONE_SET);
    assert_eq!(std::fs::read(&asker.kept()[0]).expect("read"), example.set.to_bytes());
}

#[tokio::test]
async fn a_kept_set_that_was_changed_is_fetched_anew_and_never_used() {
    let (example, played, asker) = simulated(PATIENT).await;
    asker.ask().await.expect("a set");
    let path = asker.kept().remove(0);
    let whole = std::fs::read(&path).expect("read");
    let mut forged = example.set.clone();
    forged.tcb_info = String::from_utf8(forged.tcb_info).expect("text").replace("UpToDate", "OutOfDate").into_bytes();
    for damaged in [Vec::new(), b"text".to_vec(), whole[..whole.len() / 2].to_vec(), forged.to_bytes()] {
        std::fs::write(&path, damaged).expect("write");
        let before = played.asked();
        assert_eq!(asker.ask().await.expect("fetched anew"), example.set);
        assert_eq!(played.asked() - before, ONE_SET);
        assert_eq!(std::fs::read(&path).expect("read"), whole);
    }
    // Where none can be fetched it is no set at all.
    std::fs::write(&path, forged.to_bytes()).expect("write");
    played.play(|script| script.fault = Some((Part::TcbInfo, Fault::Status(503))));
    assert!(matches!(asker.ask().await, Err(ServiceError::Transport(TransportError::Status { .. }))));
}

#[tokio::test]
async fn a_set_that_cannot_be_kept_is_used_all_the_same() {
    let (example, _played, asker) = simulated(PATIENT).await;
    std::fs::write(asker.directory.path().join("collateral"), b"in the way").expect("write");
    assert_eq!(asker.ask().await.expect("a set"), example.set);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_that_ask_at_once_ask_the_service_once() {
    let (example, played, asker) = simulated(PATIENT).await;
    let asker = Arc::new(asker);
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let asker = Arc::clone(&asker);
        asking.spawn(async move { asker.ask().await });
    }
    while let Some(set) = asking.join_next().await {
        assert_eq!(set.expect("asked").expect("a set"), example.set);
    }
    assert_eq!(played.asked(), ONE_SET);
}

#[tokio::test]
async fn hostile_quotes_have_few_kinds_of_platforms_asked_for() {
    let (example, played, _) = simulated(PATIENT).await;
    played.play(|script| script.fault = Some((Part::RootList, Fault::Stalls)));
    let asker = Arc::new(Asker::new(&example, &played.url(), Roots::Host, PATIENT));
    let mut asking = tokio::task::JoinSet::new();
    for model in 1..=8 {
        let asker = Arc::clone(&asker);
        asking.spawn(async move { asker.service.current(&quote_of_model(model)).await.map(drop) });
    }
    played.asked_so_often(8 * ONE_SET).await;
    assert!(matches!(asker.ask().await, Err(ServiceError::Platforms)));
    // Those that gave up make room.
    asking.shutdown().await;
    played.play(|script| script.fault = None);
    assert_eq!(asker.ask().await.expect("a set"), example.set);
    assert_eq!(asker.kept(), [Shelf::at(asker.directory.path().join("collateral")).file(&simulated_platform())]);
}

fn pinned(directory: &tempfile::TempDir, pem: &str) -> Roots {
    let path = directory.path().join("pinned.pem");
    std::fs::write(&path, pem).expect("write");
    Roots::Pinned(path)
}

#[tokio::test]
async fn over_tls_only_the_pinned_certificate_or_what_it_vouches_for_is_taken() {
    let example = Example::simulated();
    let directory = tempfile::tempdir().expect("a directory");
    let own = self_signed("some machine");
    let mut authority = CertificateParams::new(Vec::new()).expect("parameters");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let authority_pem = authority.self_signed(&authority_key).expect("a certificate").pem();
    let issuer = Issuer::new(authority, authority_key);
    let issued = |name: &str| {
        let signing_key = KeyPair::generate().expect("a key");
        let cert = CertificateParams::new([name.to_owned()]).expect("parameters").signed_by(&signing_key, &issuer);
        CertifiedKey { cert: cert.expect("a certificate"), signing_key }
    };
    // A certificate that is an authority by its own words, as openssl makes them.
    let mut parameters = CertificateParams::new(["localhost".to_owned()]).expect("parameters");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let signing_key = KeyPair::generate().expect("a key");
    let own_authority =
        CertifiedKey { cert: parameters.self_signed(&signing_key).expect("a certificate"), signing_key };
    let (right, wrong) = (issued("localhost"), issued("pccs.example"));
    for (shown, pin, taken) in [
        (&own, own.cert.pem(), true),
        (&own_authority, own_authority.cert.pem(), true),
        (&right, authority_pem.clone(), true),
        (&wrong, authority_pem.clone(), false),
        (&own, authority_pem.clone(), false),
        (&right, own.cert.pem(), false),
        // Made for the same name by somebody else.
        (&self_signed("some machine"), own.cert.pem(), false),
    ] {
        let played = PlayedService::secured(example.set.clone(), shown).await;
        let asker = Asker::new(&example, &played.url(), pinned(&directory, &pin), PATIENT);
        match asker.ask().await {
            Ok(set) => assert!(taken && set == example.set),
            Err(ServiceError::Transport(TransportError::Tls { why, .. })) => {
                assert!(!taken && why.contains("certificate"), "{why}");
                assert_eq!(played.asked(), 0, "nothing is asked of a stranger");
            }
            Err(other) => panic!("{other}"),
        }
    }
}

#[tokio::test]
async fn tls_is_spoken_by_neither_side_alone() {
    let example = Example::simulated();
    let directory = tempfile::tempdir().expect("a directory");
    let own = self_signed("localhost");
    let plain = PlayedService::start(example.set.clone()).await;
    let url = plain.url().replace("http:", "https:");
    let asker = Asker::new(&example, &url, pinned(&directory, &own.cert.pem()), PATIENT);
    assert!(matches!(asker.ask().await, Err(ServiceError::Transport(TransportError::Tls { .. }))));
    let secured = PlayedService::secured(example.set.clone(), &own).await;
    let asker = Asker::new(&example, &secured.url().replace("https:", "http:"), Roots::Host, PATIENT);
    assert!(matches!(asker.ask().await, Err(ServiceError::Transport(TransportError::Protocol { .. }))));
    let missing = Asker::new(&example, &secured.url(), Roots::Pinned("/no/such".into()), PATIENT);
    assert!(matches!(missing.ask().await, Err(ServiceError::Roots(_))));
}
