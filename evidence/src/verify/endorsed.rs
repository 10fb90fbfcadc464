//! One quote and its collateral against a trust anchor: the only way to a [`VerifiedQuote`].
//!
//! dcap-qvl does the cryptography, through one code path for every root. It is loose in places that matter for evidence, so
//! before and after it this file insists: our own strict parser reads the same bytes and sees the same report; nothing but zeros
//! follows; the root embedded in the quote and in every chain of the collateral equals the anchor byte for byte; all PEM text is
//! canonical; the attributes of the TD are sound. The bytes that stay free are listed in `docs/verifier-rules.md`.

use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::QuotePolicy;
use dcap_qvl::configs::DefaultConfig;
use dcap_qvl::quote::TDReport10;
use dcap_qvl::verify::QuoteVerifier;

use super::anchor::{Platform, TrustAnchor};
use super::dates;
use super::platform_policy::{PlatformConfiguration, Stated, TcbStatus};
use crate::collateral::Collateral;
use crate::quote::{AttributeFault, PckChain, Quote, QuoteError, TdReport, parse_certificates};

/// Why a quote is not believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum QuoteRefusal {
    /// The bytes are not a quote.
    #[error(transparent)]
    Parse(#[from] QuoteError),
    /// Inside a bundle a quote has no padding.
    #[error("{surplus} padding bytes after the quote's end; a bundle holds quotes cut to their used length")]
    Padded {
        /// How many.
        surplus: usize,
    },
    /// The TD is not one to believe, whoever signed for it.
    #[error("TD attributes: {0}")]
    Attributes(AttributeFault),
    /// A service TD is bound.
    #[error("MRSERVICETD is not zero: a service TD is bound to this TD")]
    ServiceTd,
    /// The embedded root is none of the pinned ones.
    #[error("the root certificate in the quote is none of the trust anchors")]
    ForeignRoot,
    /// Collateral in a wrong form.
    #[error("collateral, {what}: {fault}")]
    Collateral {
        /// Which part.
        what: &'static str,
        /// What is wrong with it.
        fault: &'static str,
    },
    /// A signature, chain, revocation, validity or TCB check failed.
    #[error("{0}")]
    Chain(String),
    /// The two parsers read different reports from the same bytes.
    #[error("two parsers disagree about the TD report")]
    ParsersDisagree,
    /// A TCB status without a name here.
    #[error("unknown TCB status {0}")]
    TcbStatus(String),
}

/// The moment at which certificates, lists and collateral must be valid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Moment {
    /// The latest issue date of the collateral set itself.
    AsOf,
    /// A given time, unix seconds.
    At(u64),
}

/// Whether zeros may follow the quote.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Padding {
    /// As the quoting service hands it out.
    Zeros,
    /// As stored in a bundle.
    None,
}

/// A quote whose signatures, chain and collateral hold under one trust anchor. Made only by [`verify_quote`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedQuote {
    quote: Quote,
    anchor: TrustAnchor,
    tcb_status: TcbStatus,
    advisories: Vec<String>,
    evaluation_data_number: u32,
    tcb_date: u64,
    configuration: PlatformConfiguration,
    fmspc: [u8; 6],
    ppid: Vec<u8>,
    platform_instance_id: Option<[u8; 16]>,
    as_of: u64,
    expires: u64,
}

impl VerifiedQuote {
    /// The quote.
    #[must_use]
    pub fn quote(&self) -> &Quote {
        &self.quote
    }

    /// The root that verified.
    #[must_use]
    pub fn anchor(&self) -> &TrustAnchor {
        &self.anchor
    }

    /// The label, by that root.
    #[must_use]
    pub fn platform(&self) -> Option<Platform> {
        self.anchor.platform()
    }

    /// How current the platform's TCB is.
    #[must_use]
    pub fn tcb_status(&self) -> TcbStatus {
        self.tcb_status
    }

    /// Intel's advisories that apply.
    #[must_use]
    pub fn advisories(&self) -> &[String] {
        &self.advisories
    }

    /// Which edition of Intel's TCB data judged it.
    #[must_use]
    pub fn evaluation_data_number(&self) -> u32 {
        self.evaluation_data_number
    }

    /// Date of the TCB level that the platform has reached, or its quoting enclave if that is older, unix seconds.
    #[must_use]
    pub fn tcb_date(&self) -> u64 {
        self.tcb_date
    }

    /// How the platform is set up, as its certificate states.
    #[must_use]
    pub fn configuration(&self) -> PlatformConfiguration {
        self.configuration
    }

    /// Model of the platform.
    #[must_use]
    pub fn fmspc(&self) -> &[u8; 6] {
        &self.fmspc
    }

    /// Provisioning id of the platform.
    #[must_use]
    pub fn ppid(&self) -> &[u8] {
        &self.ppid
    }

    /// Instance id of the platform, where its certificate has one.
    #[must_use]
    pub fn platform_instance_id(&self) -> Option<&[u8; 16]> {
        self.platform_instance_id.as_ref()
    }

    /// Latest issue date in the collateral set, unix seconds.
    #[must_use]
    pub fn as_of(&self) -> u64 {
        self.as_of
    }

    /// Whether the same quote and collateral also hold at `time` (unix seconds).
    ///
    /// # Errors
    /// The refusal; for a quote that was verified as of its collateral it is always one of time.
    pub fn at(&self, bytes: &[u8], collateral: &Collateral, time: u64) -> Result<(), QuoteRefusal> {
        let anchor = std::slice::from_ref(&self.anchor);
        verify_quote(bytes, collateral, anchor, Moment::At(time), Padding::Zeros).map(|_| ())
    }

    /// Earliest expiry in the collateral set, unix seconds.
    #[must_use]
    pub fn expires(&self) -> u64 {
        self.expires
    }
}

/// Verifies one quote under whichever of the pinned `anchors` its embedded root equals byte for byte.
///
/// # Errors
/// [`QuoteRefusal`], with the cause.
pub fn verify_quote(
    bytes: &[u8],
    collateral: &Collateral,
    anchors: &[TrustAnchor],
    moment: Moment,
    padding: Padding,
) -> Result<VerifiedQuote, QuoteRefusal> {
    let quote = Quote::parse(bytes)?;
    let surplus = bytes.len().saturating_sub(quote.used_length());
    if padding == Padding::None && surplus > 0 {
        return Err(QuoteRefusal::Padded { surplus });
    }
    let used = bytes.get(..quote.used_length()).unwrap_or(bytes);
    judge_attributes(quote.report())?;
    let chain = quote.pck_chain()?;
    let anchor = anchors.iter().find(|anchor| anchor.der() == chain.root).ok_or(QuoteRefusal::ForeignRoot)?;
    let signers = judge_collateral_form(collateral, &chain, anchor)?;
    let as_of = latest_issue(collateral, &chain, &signers)?;
    let now = match moment {
        Moment::AsOf => as_of,
        Moment::At(time) => time,
    };
    let claims = QuoteVerifier::<DefaultConfig>::new(anchor.der().to_vec())
        .verify_with_policy(used, convert(collateral)?, now, &QuotePolicy::claims_only(now))
        .map_err(|error| QuoteRefusal::Chain(format!("{error:#}")))?;
    let same = claims.report.as_td10().is_some_and(|report| same_report(quote.report(), report));
    if !same || claims.latest_issue_date != as_of {
        return Err(QuoteRefusal::ParsersDisagree);
    }
    Ok(VerifiedQuote {
        quote,
        anchor: anchor.clone(),
        tcb_status: tcb_status(claims.tcb.status)?,
        advisories: claims.tcb.advisory_ids,
        evaluation_data_number: claims.tcb.eval_data_number,
        tcb_date: claims.platform.tcb_date_tag.min(dates::seconds("QE TCB level", &claims.qe.tcb_level.tcb_date)?),
        configuration: PlatformConfiguration {
            dynamic_platform: stated(claims.platform.pck.dynamic_platform),
            cached_keys: stated(claims.platform.pck.cached_keys),
            smt: stated(claims.platform.pck.smt_enabled),
        },
        fmspc: claims.platform.pck.fmspc,
        ppid: claims.platform.pck.ppid,
        platform_instance_id: claims.platform.pck.platform_instance_id,
        as_of,
        expires: claims.earliest_expiration_date,
    })
}

/// The attribute policy of R6, which needs no signature: a TD that fails it is refused whatever else is true.
///
/// # Errors
/// The first fault.
pub fn judge_attributes(report: &TdReport) -> Result<(), QuoteRefusal> {
    if let Some(fault) = report.td_attributes.faults().into_iter().next() {
        return Err(QuoteRefusal::Attributes(fault));
    }
    match &report.v15 {
        Some(v15) if v15.mr_service_td != [0; 48] => Err(QuoteRefusal::ServiceTd),
        _ => Ok(()),
    }
}

/// The certificates that sign TCB info and QE identity.
struct Signers {
    tcb_info: Vec<u8>,
    qe_identity: Vec<u8>,
}

/// Every chain in the collateral is two certificates in canonical PEM and ends in the anchor.
fn judge_collateral_form(
    collateral: &Collateral,
    chain: &PckChain,
    anchor: &TrustAnchor,
) -> Result<Signers, QuoteRefusal> {
    let crl_issuer = issuer_of("PCK CRL issuer chain", &collateral.pck_crl_issuer_chain, anchor)?;
    if crl_issuer != chain.issuer {
        return Err(QuoteRefusal::Collateral {
            what: "PCK CRL issuer chain",
            fault: "it is not the chain that issued the PCK certificate in the quote",
        });
    }
    if let Some(text) = &collateral.pck_certificate_chain
        && PckChain::parse(text)? != *chain
    {
        return Err(QuoteRefusal::Collateral { what: "PCK certificate chain", fault: "it differs from the quote's" });
    }
    Ok(Signers {
        tcb_info: issuer_of("TCB info issuer chain", &collateral.tcb_info_issuer_chain, anchor)?,
        qe_identity: issuer_of("QE identity issuer chain", &collateral.qe_identity_issuer_chain, anchor)?,
    })
}

fn issuer_of(what: &'static str, text: &[u8], anchor: &TrustAnchor) -> Result<Vec<u8>, QuoteRefusal> {
    let certificates = parse_certificates(text)
        .map_err(|_| QuoteRefusal::Collateral { what, fault: "it is not certificates in canonical PEM" })?;
    match <[Vec<u8>; 2]>::try_from(certificates) {
        Ok([issuer, root]) if root == anchor.der() => Ok(issuer),
        Ok(_) => Err(QuoteRefusal::Collateral { what, fault: "its root is not the quote's trust anchor" }),
        Err(_) => Err(QuoteRefusal::Collateral { what, fault: "it does not hold exactly two certificates" }),
    }
}

fn latest_issue(collateral: &Collateral, chain: &PckChain, signers: &Signers) -> Result<u64, QuoteRefusal> {
    let dates = [
        dates::body_issued("TCB info", &collateral.tcb_info)?,
        dates::body_issued("QE identity", &collateral.qe_identity)?,
        dates::crl_issued("root CA CRL", &collateral.root_ca_crl)?,
        dates::crl_issued("PCK CRL", &collateral.pck_crl)?,
        dates::certificate_issued("PCK certificate", &chain.leaf)?,
        dates::certificate_issued("PCK CA certificate", &chain.issuer)?,
        dates::certificate_issued("root certificate", &chain.root)?,
        dates::certificate_issued("TCB info signer", &signers.tcb_info)?,
        dates::certificate_issued("QE identity signer", &signers.qe_identity)?,
    ];
    Ok(dates.into_iter().max().unwrap_or_default())
}

fn text(what: &'static str, bytes: &[u8]) -> Result<String, QuoteRefusal> {
    String::from_utf8(bytes.to_vec()).map_err(|_| QuoteRefusal::Collateral { what, fault: "it is not UTF-8 text" })
}

/// dcap-qvl prefers a PCK chain in the collateral to the quote's own; ours was found equal, so only the quote's is used.
fn convert(collateral: &Collateral) -> Result<QuoteCollateralV3, QuoteRefusal> {
    Ok(QuoteCollateralV3 {
        pck_crl_issuer_chain: text("PCK CRL issuer chain", &collateral.pck_crl_issuer_chain)?,
        root_ca_crl: collateral.root_ca_crl.clone(),
        pck_crl: collateral.pck_crl.clone(),
        tcb_info_issuer_chain: text("TCB info issuer chain", &collateral.tcb_info_issuer_chain)?,
        tcb_info: text("TCB info", &collateral.tcb_info)?,
        tcb_info_signature: collateral.tcb_info_signature.clone(),
        qe_identity_issuer_chain: text("QE identity issuer chain", &collateral.qe_identity_issuer_chain)?,
        qe_identity: text("QE identity", &collateral.qe_identity)?,
        qe_identity_signature: collateral.qe_identity_signature.clone(),
        pck_certificate_chain: None,
    })
}

fn same_report(ours: &TdReport, theirs: &TDReport10) -> bool {
    ours.tee_tcb_svn == theirs.tee_tcb_svn
        && ours.mr_seam == theirs.mr_seam
        && ours.mrsigner_seam == theirs.mr_signer_seam
        && ours.seam_attributes.to_le_bytes() == theirs.seam_attributes
        && ours.td_attributes.bits().to_le_bytes() == theirs.td_attributes
        && ours.xfam.to_le_bytes() == theirs.xfam
        && ours.mr_td == theirs.mr_td
        && ours.mr_config_id == theirs.mr_config_id
        && ours.mr_owner == theirs.mr_owner
        && ours.mr_owner_config == theirs.mr_owner_config
        && ours.rtmr == [theirs.rt_mr0, theirs.rt_mr1, theirs.rt_mr2, theirs.rt_mr3]
        && ours.report_data == theirs.report_data
}

fn stated(flag: dcap_qvl::PckCertFlag) -> Stated {
    match flag {
        dcap_qvl::PckCertFlag::True => Stated::Yes,
        dcap_qvl::PckCertFlag::False => Stated::No,
        dcap_qvl::PckCertFlag::Undefined => Stated::NotStated,
    }
}

fn tcb_status(status: dcap_qvl::TcbStatus) -> Result<TcbStatus, QuoteRefusal> {
    use dcap_qvl::TcbStatus as Theirs;
    match status {
        Theirs::UpToDate => Ok(TcbStatus::UpToDate),
        Theirs::SWHardeningNeeded => Ok(TcbStatus::SWHardeningNeeded),
        Theirs::ConfigurationNeeded => Ok(TcbStatus::ConfigurationNeeded),
        Theirs::ConfigurationAndSWHardeningNeeded => Ok(TcbStatus::ConfigurationAndSWHardeningNeeded),
        Theirs::OutOfDate => Ok(TcbStatus::OutOfDate),
        Theirs::OutOfDateConfigurationNeeded => Ok(TcbStatus::OutOfDateConfigurationNeeded),
        Theirs::TDRelaunchAdvised => Ok(TcbStatus::TDRelaunchAdvised),
        Theirs::TDRelaunchAdvisedConfigurationNeeded => Ok(TcbStatus::TDRelaunchAdvisedConfigurationNeeded),
        Theirs::Revoked => Err(QuoteRefusal::TcbStatus(status.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixtures::platform::{
        DECEMBER, Dates, NOVEMBER, PCK_DER, PPID, ROOT_DER, Tcb, Td, collateral, quote_with_chain,
    };
    use crate::quote::TdReport15;

    fn quote() -> Vec<u8> {
        quote_with_chain(&Td::default(), &[7; 64], PCK_DER, ROOT_DER)
    }

    #[test]
    fn what_a_verified_quote_says_of_its_platform_is_what_was_signed() {
        let set = collateral(Dates::NOVEMBER, Tcb::UP_TO_DATE);
        let anchors = [TrustAnchor::Simulated];
        let found = verify_quote(&quote(), &set, &anchors, Moment::AsOf, Padding::None).expect("genuine");
        assert_eq!((found.fmspc(), found.ppid()), (b"SIM\0\0\0", PPID.as_slice()));
        assert_eq!((found.as_of(), found.expires()), (NOVEMBER, DECEMBER));
        assert_eq!(found.evaluation_data_number(), Tcb::UP_TO_DATE.evaluation_data_number);
    }

    type Change = fn(&mut TDReport10);

    #[test]
    fn every_field_is_compared_with_the_other_parsers() {
        let bytes = quote();
        let ours = Quote::parse(&bytes).expect("our own quote");
        let theirs = dcap_qvl::quote::Quote::parse(&bytes).expect("their quote");
        let theirs = *theirs.report.as_td10().expect("a TD report");
        assert!(same_report(ours.report(), &theirs));
        let changes: [(&str, Change); 15] = [
            ("tee_tcb_svn", |r| r.tee_tcb_svn[0] ^= 1),
            ("mr_seam", |r| r.mr_seam[47] ^= 1),
            ("mr_signer_seam", |r| r.mr_signer_seam[0] ^= 1),
            ("seam_attributes", |r| r.seam_attributes[7] ^= 1),
            ("td_attributes", |r| r.td_attributes[0] ^= 1),
            ("xfam", |r| r.xfam[0] ^= 1),
            ("mr_td", |r| r.mr_td[0] ^= 1),
            ("mr_config_id", |r| r.mr_config_id[0] ^= 1),
            ("mr_owner", |r| r.mr_owner[0] ^= 1),
            ("mr_owner_config", |r| r.mr_owner_config[0] ^= 1),
            ("rt_mr0", |r| r.rt_mr0[0] ^= 1),
            ("rt_mr1", |r| r.rt_mr1[0] ^= 1),
            ("rt_mr2", |r| r.rt_mr2[0] ^= 1),
            ("rt_mr3", |r| r.rt_mr3[0] ^= 1),
            ("report_data", |r| r.report_data[63] ^= 1),
        ];
        for (field, change) in changes {
            let mut other = theirs;
            change(&mut other);
            assert!(!same_report(ours.report(), &other), "{field}");
        }
    }

    #[test]
    fn a_td_with_a_service_td_is_refused() {
        let mut report = Quote::parse(&quote()).expect("our own quote").report().clone();
        assert_eq!(judge_attributes(&report), Ok(()));
        let with = |mr_service_td| TdReport15 { tee_tcb_svn2: [3; 16], mr_service_td, extended: None };
        report.v15 = Some(with([0; 48]));
        assert_eq!(judge_attributes(&report), Ok(()));
        for at in [0, 47] {
            let mut bound = [0; 48];
            bound[at] = 1;
            report.v15 = Some(with(bound));
            assert!(matches!(judge_attributes(&report), Err(QuoteRefusal::ServiceTd)), "byte {at}");
        }
    }
}
