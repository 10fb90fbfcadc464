//! The half of rule R8 that is about the pool: whether a pooled launch was allowed, and what the registers of each launch hold.

use super::findings::{Findings, Refused};
use super::opening_rules::Opening;
use super::report::Rule;
use crate::config::{Launch, MeasuredConfig, measured_config};
use crate::intent::PooledAllowed;
use crate::pool::PoolConfig;

/// What MRCONFIGID, MROWNER and MROWNERCONFIG must be; none where the pool configuration that says so is missing.
pub(super) fn measured(opening: &Opening<'_>, findings: &mut Findings) -> Result<Option<MeasuredConfig>, Refused> {
    const NAME: &str = "pool configuration";
    let launch = opening.config.host.launch;
    let allowed = launch == Launch::Cold || opening.intent.pooled == PooledAllowed::Yes;
    findings.require(Rule::R8, "launch is one that the intent allows", allowed.into(), || {
        "the TD was taken from a pool, the intent asks for one booted for it".to_owned()
    })?;
    match (launch, &opening.pool) {
        (Launch::Cold, None) => {
            findings.not_evaluated(Rule::R8, NAME, "the launch was cold");
            Ok(Some(measured_config(opening.bytes.config, &opening.intent)))
        }
        (Launch::Cold, Some(_)) => {
            Err(findings.refuse(Rule::R8, NAME, "the launch was cold, and there is a pool configuration"))
        }
        (Launch::Pooled, None) => {
            findings.missing(Rule::R8, NAME, "the launch was pooled, and there is no pool.cbor");
            Ok(None)
        }
        (Launch::Pooled, Some(pool)) => {
            let differing = differing(pool, opening);
            findings.require(Rule::R8, NAME, differing.is_empty().into(), || {
                format!("pool.cbor differs from intent and configuration in {}", differing.join(", "))
            })?;
            Ok(Some(pool.measured()))
        }
    }
}

/// The TD was booted for any session of one image, shape and host: this must be one of them.
fn differing(pool: &PoolConfig, opening: &Opening<'_>) -> Vec<&'static str> {
    [
        ("image", pool.image == opening.intent.image),
        ("shape", pool.shape == opening.intent.shape),
        ("host key", pool.host_key == opening.config.host.host_key),
    ]
    .into_iter()
    .filter_map(|(field, same)| (!same).then_some(field))
    .collect()
}
