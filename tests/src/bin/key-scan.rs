//! `key-scan PID`: looks for a private key in another process's memory, by lines on stdin, and answers each with a number:
//! `find PUBLIC` (hex) takes the key whose public half this is from wherever it lies and tells how many copies there are; `count`
//! tells how many there are now, with those of what signing derives from it. The key itself is never told: whoever asks must not have it.

use std::fs::File;
use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::FileExt as _;

use anyhow::{Context as _, bail};
use ed25519_dalek::SigningKey;
use sha2::{Digest as _, Sha512};

/// Bytes that are read at once; neighbours overlap, so that nothing is missed between them.
const CHUNK: usize = 1 << 20;
const KEY: usize = 32;
/// Different bytes in a key: fewer are text, pointers and zeros, and there are millions of those.
const DIFFERENT: usize = 20;

fn main() -> anyhow::Result<()> {
    let pid = std::env::args().nth(1).context("usage: key-scan PID")?;
    let mut needles: Vec<[u8; KEY]> = Vec::new();
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let count = match line.split_once(' ') {
            Some(("find", public)) => {
                needles.clear();
                let public = (0..public.len() / 2).map(|at| u8::from_str_radix(&public[2 * at..2 * at + 2], 16));
                let public: Vec<u8> = public.collect::<Result<_, _>>().context("a public key in hex")?;
                if let Some(seed) = find(&pid, &public)? {
                    let expanded: [u8; 64] = Sha512::digest(seed).into();
                    let (scalar, prefix) = expanded.split_at(KEY);
                    let mut clamped: [u8; KEY] = scalar.try_into()?;
                    clamped[0] &= 248;
                    clamped[31] = clamped[31] & 127 | 64;
                    needles = vec![seed, scalar.try_into()?, clamped, prefix.try_into()?];
                }
                copies(&pid, needles.get(..1).unwrap_or_default())?
            }
            None if line == "count" && !needles.is_empty() => copies(&pid, &needles)?,
            _ => bail!("expected `find PUBLIC`, and then `count`, found {line:?}"),
        };
        println!("{count}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// Everything that the process can write to: where it could have put a key.
fn each(pid: &str, mut look: impl FnMut(u64, &[u8])) -> anyhow::Result<()> {
    let memory = File::open(format!("/proc/{pid}/mem")).context("open the process's memory")?;
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps")).context("read the process's maps")?;
    let mut buffer = vec![0; CHUNK];
    for line in maps.lines() {
        let mut fields = line.split(' ');
        let (Some(range), Some(rights)) = (fields.next(), fields.next()) else { continue };
        if !rights.starts_with("rw") {
            continue;
        }
        let (start, end) = range.split_once('-').context("a range")?;
        let (mut at, end) = (u64::from_str_radix(start, 16)?, u64::from_str_radix(end, 16)?);
        while at < end {
            let most = usize::try_from(end - at).map_or(CHUNK, |left| left.min(CHUNK));
            // Some of the kernel's own mappings cannot be read.
            let Ok(count) = memory.read_at(&mut buffer[..most], at) else { break };
            if count < KEY {
                break;
            }
            look(at, &buffer[..count]);
            at += (count - KEY + 1) as u64;
            if count == most && at + KEY as u64 > end {
                break;
            }
        }
    }
    Ok(())
}

fn find(pid: &str, public: &[u8]) -> anyhow::Result<Option<[u8; KEY]>> {
    let mut found = None;
    each(pid, |start, bytes| {
        // A key lies in a structure of words.
        let first = start.next_multiple_of(8) - start;
        for at in (first as usize..bytes.len().saturating_sub(KEY)).step_by(8) {
            let Some(candidate) = bytes[at..].first_chunk::<KEY>() else { break };
            if found.is_none()
                && different(candidate) >= DIFFERENT
                && SigningKey::from_bytes(candidate).verifying_key().as_bytes() == public
            {
                found = Some(*candidate);
            }
        }
    })?;
    Ok(found)
}

fn different(bytes: &[u8]) -> usize {
    let mut seen = [0_u64; 4];
    bytes.iter().for_each(|byte| seen[usize::from(byte >> 6)] |= 1 << (byte & 63));
    seen.iter().map(|bits| bits.count_ones() as usize).sum()
}

fn copies(pid: &str, needles: &[[u8; KEY]]) -> anyhow::Result<usize> {
    let mut places = std::collections::BTreeSet::new();
    each(pid, |start, bytes| {
        for (at, window) in bytes.windows(KEY).enumerate() {
            if needles.iter().any(|needle| needle == window) {
                places.insert(start + at as u64);
            }
        }
    })?;
    Ok(places.len())
}
