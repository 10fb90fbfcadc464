//! Rules R3 to R9 on the opening of a session: image, opening quote, platform, boot measurements, configuration, open map.
//!
//! One code path for a host before it calls a session ready and for the verifier of a bundle. Each stage has a type that only the
//! rule before it makes:
//! ```text
//! Opening (parsed) ─R3─> ImageStated ─R4,R5,R6─> Attested ─R7─> Booted ─R8─> Configured ─R9─> Opened
//! ```

use super::anchor::{Platform, TrustAnchor};
use super::dates::date;
use super::endorsed::{Moment, Padding, VerifiedQuote, judge_attributes, verify_quote};
use super::findings::{Findings, Refused};
use super::parsed::with_source;
use super::pool_rules;
use super::report::Rule;
use crate::collateral::Collateral;
use crate::config::Config;
use crate::dsse::Envelope;
use crate::fields::Canonical as _;
use crate::ids::{Digest256, Digest384, InstanceId};
use crate::intent::Intent;
use crate::manifest::{self, ImageManifest, Profile};
use crate::open::OpenMap;
use crate::pool::PoolConfig;
use crate::quote::Register;
use crate::rtmr::{Rtmr3Event, event_bytes, replay};
use crate::sign::PublicKey;

/// The files of an opening, as bytes.
pub(super) struct OpeningBytes<'a> {
    pub(super) config: &'a [u8],
    pub(super) policy: &'a [u8],
    pub(super) image_dsse: &'a [u8],
    pub(super) pool: Option<&'a [u8]>,
    pub(super) open_map: &'a [u8],
    pub(super) quote: &'a [u8],
    pub(super) collateral: Collateral,
}

/// The opening, parsed (R2) and not believed.
pub(super) struct Opening<'a> {
    pub(super) bytes: OpeningBytes<'a>,
    pub(super) config: Config,
    pub(super) intent: Intent,
    pub(super) envelope: Envelope,
    pub(super) manifest: ImageManifest,
    pub(super) pool: Option<PoolConfig>,
    pub(super) open: OpenMap,
}

impl<'a> Opening<'a> {
    /// Parses every file but the quote, which R4 parses.
    pub(super) fn parse(bytes: OpeningBytes<'a>) -> Result<Self, (&'static str, String)> {
        let config = Config::parse(bytes.config).map_err(|error| ("config.cbor", with_source(&error)))?;
        let intent = config.intent().map_err(|error| ("config.cbor", with_source(&error)))?;
        let envelope = Envelope::parse(bytes.image_dsse).map_err(|error| ("image.dsse", with_source(&error)))?;
        let manifest =
            ImageManifest::parse(envelope.unverified_payload()).map_err(|error| ("image.dsse", with_source(&error)))?;
        let pool = bytes.pool.map(PoolConfig::parse).transpose();
        let pool = pool.map_err(|error| ("pool.cbor", with_source(&error)))?;
        let open = OpenMap::parse(bytes.open_map).map_err(|error| ("open.cbor", with_source(&error)))?;
        Ok(Opening { bytes, config, intent, envelope, manifest, pool, open })
    }

    /// The digest of the manifest, as the envelope has it.
    pub(super) fn image_digest(&self) -> Digest256 {
        ImageManifest::digest(self.envelope.unverified_payload())
    }
}

/// The manifest is the one that the intent names, and its own signature holds (R3).
pub(super) struct ImageStated<'a> {
    opening: Opening<'a>,
    publisher: Option<PublicKey>,
}

impl<'a> ImageStated<'a> {
    pub(super) fn bytes(&self) -> &OpeningBytes<'a> {
        &self.opening.bytes
    }
}

/// R3. The publisher is pinned, or this says so: what follows from that depends on the root (R5) and on the policy (R19).
pub(super) fn image<'a>(
    opening: Opening<'a>,
    publishers: &[PublicKey],
    findings: &mut Findings,
) -> Result<ImageStated<'a>, Refused> {
    let found = opening.image_digest();
    let expected = opening.intent.image;
    findings.require(Rule::R3, "manifest is the one the intent names", (found == expected).into(), || {
        format!("the intent names image {expected}, image.dsse holds {found}")
    })?;
    let signer = *opening.envelope.signer();
    if let Err(error) = opening.envelope.verify(&signer, manifest::PAYLOAD_TYPE) {
        return Err(findings.refuse(Rule::R3, "manifest signature", error.to_string()));
    }
    findings.pass(Rule::R3, "manifest signature", format!("by key {signer}"));
    let publisher = publishers.contains(&signer).then_some(signer);
    Ok(ImageStated { opening, publisher })
}

/// The opening quote holds under one pinned root, which fits the image's profile (R4, R5, R6 for one quote).
pub(super) struct Attested<'a> {
    stated: ImageStated<'a>,
    quote: VerifiedQuote,
    platform: Platform,
}

/// R4 for one quote of the bundle, at the latest issue date of its collateral.
pub(super) fn quote(
    name: &'static str,
    bytes: &[u8],
    collateral: &Collateral,
    anchors: &[TrustAnchor],
    padding: Padding,
    findings: &mut Findings,
) -> Result<VerifiedQuote, Refused> {
    match verify_quote(bytes, collateral, anchors, Moment::AsOf, padding) {
        Ok(quote) => {
            let status = quote.tcb_status();
            findings.pass(Rule::R4, name, format!("TCB status {status} as of {}", date(quote.as_of())));
            Ok(quote)
        }
        Err(refusal) => Err(findings.refuse(Rule::R4, name, refusal.to_string())),
    }
}

/// R5 for one quote: its root has a label, and the manifest was made for that platform.
pub(super) fn platform<'a>(
    stated: ImageStated<'a>,
    quote: VerifiedQuote,
    findings: &mut Findings,
) -> Result<Attested<'a>, Refused> {
    let Some(platform) = quote.platform() else {
        let reason = "the trust anchor is neither Intel's root nor the published simulator root";
        return Err(findings.refuse(Rule::R5, "platform label", reason));
    };
    let profile = stated.opening.manifest.profile;
    let fits = matches!((platform, profile), (Platform::Tdx, Profile::Tdx) | (Platform::Simulated, Profile::Simulated));
    findings.require(Rule::R5, "image profile fits the root", fits.into(), || {
        format!("the root that verified says {platform}, the image was made for {}", profile.as_str())
    })?;
    let attributes = judge_attributes(quote.quote().report());
    if let Err(refusal) = attributes {
        return Err(findings.refuse(Rule::R6, "TD attributes", refusal.to_string()));
    }
    findings.pass(Rule::R6, "TD attributes", "");
    Ok(Attested { stated, quote, platform })
}

/// The TD was measured as the manifest says (R7).
pub(super) struct Booted<'a>(Attested<'a>);

/// R7. The event log (CCEL) is judged apart.
pub(super) fn boot<'a>(attested: Attested<'a>, findings: &mut Findings) -> Result<Booted<'a>, Refused> {
    let opening = &attested.stated.opening;
    let shape = opening.intent.shape;
    let Some(reference) = opening.manifest.reference(shape) else {
        let reason = format!("the manifest has no reference values for shape {}", shape.as_str());
        return Err(findings.refuse(Rule::R7, "MRTD and RTMR0-2 are the manifest's", reason));
    };
    let quote = attested.quote.quote();
    let [rtmr0, rtmr1, rtmr2, _] = quote.rtmrs();
    let compared: [(&str, &Register, &Register); 4] = [
        ("MRTD", &reference.mrtd.0, quote.mrtd()),
        ("RTMR0", &reference.rtmr0.0, rtmr0),
        ("RTMR1", &reference.rtmr1.0, rtmr1),
        ("RTMR2", &reference.rtmr2.0, rtmr2),
    ];
    same_registers(Rule::R7, "MRTD and RTMR0-2 are the manifest's", &compared, findings)?;
    Ok(Booted(attested))
}

impl Booted<'_> {
    pub(super) fn platform(&self) -> Platform {
        self.0.platform
    }

    /// RTMR0 to RTMR3 of the opening quote.
    pub(super) fn rtmrs(&self) -> &[Register; 4] {
        self.0.quote.quote().rtmrs()
    }
}

/// The configuration is the owner's and is the one in the measured registers (R8).
pub(super) struct Configured<'a>(Attested<'a>);

/// R8.
pub(super) fn configuration<'a>(booted: Booted<'a>, findings: &mut Findings) -> Result<Configured<'a>, Refused> {
    let Booted(attested) = booted;
    let opening = &attested.stated.opening;
    if let Err(error) = opening.config.verify_owner() {
        return Err(findings.refuse(Rule::R8, "owner's signature", error.to_string()));
    }
    findings.pass(Rule::R8, "owner's signature", format!("by key {}", opening.intent.owner));
    // Of the image: the agent's own svn in the open map is another count.
    let (wanted, found) = (opening.intent.minimum_svn, opening.manifest.svn);
    findings.require(Rule::R8, "image svn is what the intent asks for", (found >= wanted).into(), || {
        format!("at least {wanted} is asked for, the image has {found}")
    })?;
    let found = Digest384::of(opening.bytes.policy);
    let expected = opening.intent.policy;
    findings.require(Rule::R8, "policy is the one the intent names", (found == expected).into(), || {
        format!("the intent names policy {expected}, the policy has {found}")
    })?;
    // Without the pool configuration nothing says what the registers should hold; that is on record as missing.
    let Some(measured) = pool_rules::measured(opening, findings)? else { return Ok(Configured(attested)) };
    let quote = attested.quote.quote();
    let compared: [(&str, &Register, &Register); 3] = [
        ("MRCONFIGID", &measured.mr_config_id, quote.mr_config_id()),
        ("MROWNER", &measured.mr_owner, quote.mr_owner()),
        ("MROWNERCONFIG", &measured.mr_owner_config, quote.mr_owner_config()),
    ];
    same_registers(Rule::R8, "configuration registers", &compared, findings)?;
    Ok(Configured(attested))
}

/// The opening holds: one TD, booted from the named image with the owner's configuration, made these keys (R9).
pub(super) struct Opened<'a> {
    attested: Attested<'a>,
    instance: InstanceId,
}

/// R9.
pub(super) fn open<'a>(configured: Configured<'a>, findings: &mut Findings) -> Result<Opened<'a>, Refused> {
    let Configured(attested) = configured;
    let opening = &attested.stated.opening;
    let open = &opening.open;
    let quote = attested.quote.quote();
    let bound = *quote.report_data() == open.report_data();
    findings.require(Rule::R9, "opening report data binds the open map", bound.into(), || {
        "REPORTDATA of the opening quote is not H512 of open.cbor".to_owned()
    })?;
    let fits = open.session == opening.intent.session
        && open.config_digest == Digest384::of(opening.bytes.config)
        && open.launch == opening.config.host.launch;
    findings.require(Rule::R9, "open map fits the configuration", fits.into(), || {
        "session, configuration digest or launch of open.cbor differ from config.cbor".to_owned()
    })?;
    let first = event_bytes(0, &Rtmr3Event::Open(Box::new(open.clone())));
    let [_, _, _, rtmr3] = quote.rtmrs();
    let replayed = replay([first.as_slice()]);
    same_registers(
        Rule::R9,
        "opening RTMR3 is the replay of event 0",
        &[("RTMR3", replayed.as_bytes(), rtmr3)],
        findings,
    )?;
    let instance = open.instance();
    Ok(Opened { attested, instance })
}

impl<'a> Opened<'a> {
    pub(super) fn opening(&self) -> &Opening<'a> {
        &self.attested.stated.opening
    }

    pub(super) fn publisher(&self) -> Option<&PublicKey> {
        self.attested.stated.publisher.as_ref()
    }

    pub(super) fn quote(&self) -> &VerifiedQuote {
        &self.attested.quote
    }

    pub(super) fn platform(&self) -> Platform {
        self.attested.platform
    }

    pub(super) fn instance(&self) -> InstanceId {
        self.instance
    }
}

impl<'a> Attested<'a> {
    pub(super) fn opening(&self) -> &Opening<'a> {
        &self.stated.opening
    }

    pub(super) fn publisher(&self) -> Option<&PublicKey> {
        self.stated.publisher.as_ref()
    }

    pub(super) fn quote(&self) -> &VerifiedQuote {
        &self.quote
    }

    pub(super) fn platform(&self) -> Platform {
        self.platform
    }
}

/// Compares registers by name and says which differ.
pub(super) fn same_registers(
    rule: Rule,
    name: &'static str,
    compared: &[(&str, &Register, &Register)],
    findings: &mut Findings,
) -> Result<(), Refused> {
    let differing = differing_registers(compared);
    findings.require(rule, name, differing.is_empty().into(), || differing.join("; "))
}

/// One line for each register that differs.
pub(super) fn differing_registers(compared: &[(&str, &Register, &Register)]) -> Vec<String> {
    compared
        .iter()
        .filter(|(_, expected, found)| expected != found)
        .map(|(register, expected, found)| {
            format!("{register}: expected {}, the quote has {}", hex::encode(expected), hex::encode(found))
        })
        .collect()
}
