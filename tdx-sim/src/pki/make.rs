//! Makes the whole PKI from nothing but this file: the same bytes on every machine.

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DistinguishedName, DnType, Error, IsCa, Issuer,
    KeyUsagePurpose, SerialNumber, date_time_ymd,
};

use super::Key;
use super::der::{SGX_EXTENSION, sgx_extension};

/// Every file of `tdx-sim/pki/`, but the README.
pub struct Files(Vec<(&'static str, Vec<u8>)>);

impl Files {
    /// Name and content of each.
    #[must_use]
    pub fn entries(&self) -> &[(&'static str, Vec<u8>)] {
        &self.0
    }
}

/// Subject and key usage of a certificate authority or signer.
#[derive(Clone, Copy)]
enum Role {
    Root,
    PckCa,
    Pck,
    TcbSigning,
}

fn parameters(role: Role) -> CertificateParams {
    // "Platform" in the CA's name is how Intel's collateral service tells its two PCK CAs apart.
    let (name, serial, authority) = match role {
        Role::Root => ("Coffer TDX Simulator Root CA", 1, Some(1)),
        Role::PckCa => ("Coffer TDX Simulator PCK Platform CA", 2, Some(0)),
        Role::Pck => ("Coffer TDX Simulator PCK Certificate", 3, None),
        Role::TcbSigning => ("Coffer TDX Simulator TCB Signing", 4, None),
    };
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject.push(DnType::OrganizationName, "SIMULATED - NOT INTEL");
    let mut parameters = CertificateParams::default();
    parameters.not_before = date_time_ymd(2020, 1, 1);
    parameters.not_after = date_time_ymd(2099, 12, 31);
    parameters.serial_number = Some(SerialNumber::from_slice(&[serial]));
    parameters.distinguished_name = subject;
    parameters.use_authority_key_identifier_extension = true;
    match authority {
        Some(depth) => {
            parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(depth));
            parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        }
        None => {
            parameters.is_ca = IsCa::ExplicitNoCa;
            parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        }
    }
    if matches!(role, Role::Pck) {
        parameters.custom_extensions = vec![CustomExtension::from_oid_content(SGX_EXTENSION, sgx_extension())];
    }
    parameters
}

/// The root as an issuer of certificates and revocation lists.
pub(crate) fn root_issuer() -> Issuer<'static, Key> {
    Issuer::new(parameters(Role::Root), Key::root())
}

/// The PCK CA as an issuer of certificates and revocation lists.
pub(crate) fn pck_ca_issuer() -> Issuer<'static, Key> {
    Issuer::new(parameters(Role::PckCa), Key::pck_ca())
}

/// Makes every key and certificate.
///
/// # Errors
/// When the certificate library refuses the parameters, which are constants.
pub fn make() -> Result<Files, Error> {
    let root = parameters(Role::Root).self_signed(&Key::root())?;
    let pck_ca = parameters(Role::PckCa).signed_by(&Key::pck_ca(), &root_issuer())?;
    let pck = parameters(Role::Pck).signed_by(&Key::pck(), &pck_ca_issuer())?;
    let tcb_signing = parameters(Role::TcbSigning).signed_by(&Key::tcb_signing(), &root_issuer())?;
    let der = |certificate: &Certificate| certificate.der().to_vec();
    let key = |key: Key| key.to_pem().into_bytes();
    Ok(Files(vec![
        ("root.der", der(&root)),
        ("root.key", key(Key::root())),
        ("pck-ca.der", der(&pck_ca)),
        ("pck-ca.key", key(Key::pck_ca())),
        ("pck.der", der(&pck)),
        ("pck.key", key(Key::pck())),
        ("tcb-signing.der", der(&tcb_signing)),
        ("tcb-signing.key", key(Key::tcb_signing())),
        ("attestation.key", key(Key::attestation())),
    ]))
}
