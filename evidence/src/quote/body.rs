//! The TD report inside a quote, in its three forms: 1.0 (584 bytes), 1.5 (648) and 1.5 extended (885).
//! Field order and names: Intel's `sgx_quote_4.h` and `sgx_quote_5.h`. Everything here is under the quote's signature.

use super::attributes::TdAttributes;
use super::reader::Reader;
use super::{QuoteError, Register};

/// What every TD report holds. Registers are 48 bytes in memory order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TdReport {
    /// Security versions of the TDX module and its loader at launch.
    pub tee_tcb_svn: [u8; 16],
    /// Measurement of the TDX module.
    pub mr_seam: Register,
    /// Signer of the TDX module; zero for Intel's own.
    pub mrsigner_seam: Register,
    /// Attributes of the TDX module; zero today.
    pub seam_attributes: u64,
    /// Attributes of the TD.
    pub td_attributes: TdAttributes,
    /// Extended features that the TD may use.
    pub xfam: u64,
    /// Measurement of the TD's initial memory.
    pub mr_td: Register,
    /// Set by the host at launch, constant afterwards.
    pub mr_config_id: Register,
    /// Set by the host at launch, constant afterwards.
    pub mr_owner: Register,
    /// Set by the host at launch, constant afterwards.
    pub mr_owner_config: Register,
    /// RTMR0 to RTMR3.
    pub rtmr: [Register; 4],
    /// 64 bytes that only code in the TD chooses.
    pub report_data: [u8; 64],
    /// Present in reports 1.5 and later.
    pub v15: Option<TdReport15>,
}

/// What report 1.5 adds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TdReport15 {
    /// Security versions after the last TD-preserving update.
    pub tee_tcb_svn2: [u8; 16],
    /// Measurement of the bound service TDs; zero when there is none.
    pub mr_service_td: Register,
    /// Present in the extended report, body type 4.
    pub extended: Option<TdReport15Extended>,
}

/// What the extended report 1.5 (body type 4, 885 bytes) adds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TdReport15Extended {
    /// Which VM of a partitioned TD asked; 0 for a whole TD.
    pub vmid: u8,
    /// Unique per launch of a TD.
    pub td_id: [u8; 32],
    /// Hash of the device information.
    pub dev_info: Register,
    /// Service TDs bound at creation.
    pub init_service_td_hash: Register,
    /// Their attributes.
    pub init_service_td_attributes: u64,
    /// CPU security version at creation.
    pub init_cpu_svn: [u8; 16],
    /// TDX security version at creation.
    pub init_tee_tcb_svn: [u8; 16],
    /// Platform model at creation.
    pub init_tee_fmspc: [u8; 12],
    /// Service TDs bound now.
    pub cur_service_td_hash: Register,
    /// Their attributes.
    pub cur_service_td_attributes: u64,
}

/// Which of the three forms a body has; sizes in bytes are fixed by the form.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyForm {
    /// TD report 1.0: the only one in a version 4 quote, type 2 in version 5.
    V10,
    /// TD report 1.5, type 3.
    V15,
    /// TD report 1.5 extended, type 4.
    V15Extended,
}

impl BodyForm {
    pub(super) fn from_type(body_type: u16) -> Result<Self, QuoteError> {
        match body_type {
            2 => Ok(BodyForm::V10),
            3 => Ok(BodyForm::V15),
            4 => Ok(BodyForm::V15Extended),
            other => Err(QuoteError::BodyType(other)),
        }
    }

    /// Length of the body in bytes.
    #[must_use]
    pub const fn length(self) -> usize {
        match self {
            BodyForm::V10 => 584,
            BodyForm::V15 => 648,
            BodyForm::V15Extended => 885,
        }
    }
}

impl TdReport {
    pub(super) fn parse(form: BodyForm, bytes: &[u8]) -> Result<Self, QuoteError> {
        let mut reader = Reader::new(bytes);
        let mut report = read_v10(&mut reader)?;
        report.v15 = match form {
            BodyForm::V10 => None,
            BodyForm::V15 => Some(read_v15(&mut reader)?),
            BodyForm::V15Extended => {
                let mut v15 = read_v15(&mut reader)?;
                v15.extended = Some(read_extended(&mut reader)?);
                Some(v15)
            }
        };
        reader.end("TD report")?;
        Ok(report)
    }
}

fn read_v10(reader: &mut Reader<'_>) -> Result<TdReport, QuoteError> {
    Ok(TdReport {
        tee_tcb_svn: reader.array("TEE_TCB_SVN")?,
        mr_seam: reader.array("MRSEAM")?,
        mrsigner_seam: reader.array("MRSIGNERSEAM")?,
        seam_attributes: reader.u64("SEAMATTRIBUTES")?,
        td_attributes: TdAttributes::new(reader.u64("TDATTRIBUTES")?),
        xfam: reader.u64("XFAM")?,
        mr_td: reader.array("MRTD")?,
        mr_config_id: reader.array("MRCONFIGID")?,
        mr_owner: reader.array("MROWNER")?,
        mr_owner_config: reader.array("MROWNERCONFIG")?,
        rtmr: [reader.array("RTMR0")?, reader.array("RTMR1")?, reader.array("RTMR2")?, reader.array("RTMR3")?],
        report_data: reader.array("REPORTDATA")?,
        v15: None,
    })
}

fn read_v15(reader: &mut Reader<'_>) -> Result<TdReport15, QuoteError> {
    Ok(TdReport15 {
        tee_tcb_svn2: reader.array("TEE_TCB_SVN2")?,
        mr_service_td: reader.array("MRSERVICETD")?,
        extended: None,
    })
}

fn read_extended(reader: &mut Reader<'_>) -> Result<TdReport15Extended, QuoteError> {
    Ok(TdReport15Extended {
        vmid: reader.u8("VMID")?,
        td_id: reader.array("TD_ID")?,
        dev_info: reader.array("DEV_INFO")?,
        init_service_td_hash: reader.array("INIT_SERVICE_TD_HASH")?,
        init_service_td_attributes: reader.u64("INIT_SERVICE_TD_ATTRIBUTES")?,
        init_cpu_svn: reader.array("INIT_CPU_SVN")?,
        init_tee_tcb_svn: reader.array("INIT_TEE_TCB_SVN")?,
        init_tee_fmspc: reader.array("INIT_TEE_FMSPC")?,
        cur_service_td_hash: reader.array("CUR_SERVICE_TD_HASH")?,
        cur_service_td_attributes: reader.u64("CUR_SERVICE_TD_ATTRIBUTES")?,
    })
}
