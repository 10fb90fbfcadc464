//! `coffer quote show`: the fields by the names of Intel's specification, and what of them makes a TD not worth believing.

use std::path::PathBuf;

use clap::Args;
use coffer_evidence::quote::{BodyForm, Quote};
use coffer_evidence::verify::judge_attributes;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::read_quote;
use crate::exit::{INPUT_OUTPUT, Status, failure};
use crate::output::{Form, Output};

#[derive(Debug, Args)]
pub(crate) struct ShowArgs {
    /// The quote: its bytes, their hexadecimal digits, or a JSON report with a field `quote`
    file: PathBuf,
}

/// One field.
pub(super) type Field = (&'static str, Value);

/// `coffer quote show`
pub(super) fn show(output: &Output, args: &ShowArgs) -> anyhow::Result<Status> {
    let bytes = read_quote(&args.file)?;
    let wrong = |error| failure(INPUT_OUTPUT, format!("{}: {error}", args.file.display()));
    let quote = Quote::parse(&bytes).map_err(wrong)?;
    let fields = fields(&quote, bytes.len());
    match output.form {
        Form::Json => output.json(&Shown { schema: "coffer.quote.v1", quote: object(fields) })?,
        Form::People => {
            for (name, value) in fields {
                match value {
                    Value::String(text) => output.line(format_args!("{name:<28} {text}"))?,
                    Value::Array(lines) if lines.is_empty() => output.line(format_args!("{name:<28} none"))?,
                    Value::Array(lines) => {
                        for line in lines {
                            output.line(format_args!("{name:<28} {}", line.as_str().unwrap_or_default()))?;
                        }
                    }
                    other => output.line(format_args!("{name:<28} {other}"))?,
                }
            }
            output.note("shown as it says of itself: `coffer quote verify` tells whether that is true");
        }
    }
    Ok(Status::DONE)
}

#[derive(Serialize)]
struct Shown {
    schema: &'static str,
    quote: Map<String, Value>,
}

/// As a JSON object.
pub(super) fn object(fields: Vec<Field>) -> Map<String, Value> {
    fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Every field, in the order of the bytes.
pub(super) fn fields(quote: &Quote, length: usize) -> Vec<Field> {
    let text = |bytes: &[u8]| Value::String(hex::encode(bytes));
    let header = quote.header();
    let report = quote.report();
    let signature = quote.signature_data();
    let body = match quote.body_form() {
        BodyForm::V10 => "TD report 1.0",
        BodyForm::V15 => "TD report 1.5",
        BodyForm::V15Extended => "TD report 1.5, extended",
    };
    let faults: Vec<Value> = judge_attributes(report).err().map(|fault| json!(fault.to_string())).into_iter().collect();
    let mut all = vec![
        ("version", json!(header.version)),
        ("tee_type", json!("0x81 (TDX)")),
        ("body", json!(body)),
        ("bytes_used", json!(quote.used_length())),
        ("bytes_of_padding", json!(length.saturating_sub(quote.used_length()))),
        ("user_data", text(&header.user_data)),
        ("tee_tcb_svn", text(&report.tee_tcb_svn)),
        ("mrseam", text(&report.mr_seam)),
        ("mrsignerseam", text(&report.mrsigner_seam)),
        ("seamattributes", json!(format!("{:#018x}", report.seam_attributes))),
        ("tdattributes", json!(format!("{:#018x}", report.td_attributes.bits()))),
        ("xfam", json!(format!("{:#018x}", report.xfam))),
        ("mrtd", text(&report.mr_td)),
        ("mrconfigid", text(&report.mr_config_id)),
        ("mrowner", text(&report.mr_owner)),
        ("mrownerconfig", text(&report.mr_owner_config)),
    ];
    all.extend(
        ["rtmr0", "rtmr1", "rtmr2", "rtmr3"].into_iter().zip(&report.rtmr).map(|(name, rtmr)| (name, text(rtmr))),
    );
    all.push(("reportdata", text(&report.report_data)));
    if let Some(v15) = &report.v15 {
        all.push(("tee_tcb_svn2", text(&v15.tee_tcb_svn2)));
        all.push(("mrservicetd", text(&v15.mr_service_td)));
        if let Some(extended) = &v15.extended {
            all.push(("vmid", json!(extended.vmid)));
            all.push(("td_id", text(&extended.td_id)));
            all.push(("dev_info", text(&extended.dev_info)));
            all.push(("init_service_td_hash", text(&extended.init_service_td_hash)));
            all.push(("init_service_td_attributes", json!(format!("{:#018x}", extended.init_service_td_attributes))));
            all.push(("init_cpu_svn", text(&extended.init_cpu_svn)));
            all.push(("init_tee_tcb_svn", text(&extended.init_tee_tcb_svn)));
            all.push(("init_tee_fmspc", text(&extended.init_tee_fmspc)));
            all.push(("cur_service_td_hash", text(&extended.cur_service_td_hash)));
            all.push(("cur_service_td_attributes", json!(format!("{:#018x}", extended.cur_service_td_attributes))));
        }
    }
    all.extend([
        ("signature", text(&signature.signature)),
        ("attestation_key", text(&signature.attestation_key)),
        ("qe_report", text(&signature.qe_report)),
        ("qe_report_signature", text(&signature.qe_report_signature)),
        ("qe_authentication_data", text(&signature.qe_authentication_data)),
        ("certification_data_type", json!(signature.certification_type)),
        ("faults", Value::Array(faults)),
    ]);
    all
}
