//! What a bundle holds for its readers: its leaves, one at a time, and the private parts that are open to them. Nothing here is
//! verified. Held are the private parts, which are small members, and never the log.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use coffer_evidence::bundle::{BundleError, FrameError, Frames, ReadError, Scan, Source, scan};
use coffer_evidence::call::{Disclosed, read_disclosed};
use coffer_evidence::fields::Canonical as _;
use coffer_evidence::leaf::Leaf;
use coffer_evidence::open::OpenMap;
use coffer_evidence::private::{Access, Place, PrivateKey, read_private};

use crate::exit::{Status, USAGE, failure};

/// A shorter beginning of an id says too little.
const PREFIX_MIN: usize = 4;
/// At most so many calls are named where one was meant.
const NAMED_MAX: usize = 8;

/// A bundle as its reader sees it.
pub(super) struct Contents<'s> {
    source: &'s dyn Source,
    scan: Scan,
    /// Open private parts by their leaf.
    open: BTreeMap<u64, Disclosed>,
    /// Leaves whose parts stand in the bundle encrypted and were not opened.
    pub(super) closed: BTreeSet<u64>,
    /// Why encrypted parts were not opened though an identity was given.
    pub(super) why: Option<String>,
}

impl<'s> Contents<'s> {
    /// Reads it, and goes over the leaves.
    pub(super) fn new(source: &'s dyn Source, access: &Access) -> anyhow::Result<Self> {
        let scan = scan(source).map_err(|error| match error {
            BundleError::Unread(error) => anyhow::Error::from(error),
            error => error.into(),
        })?;
        let mut contents = Self { source, scan, open: BTreeMap::new(), closed: BTreeSet::new(), why: None };
        if let Some(member) = contents.scan.load(source, "disclosed.cbor")? {
            let parts = read_disclosed(&member).map_err(|e| anyhow::Error::from(e).context("disclosed parts"))?;
            contents.open.extend(parts.into_iter().map(|part| (part.index, part)));
        }
        if let Some(member) = contents.scan.load(source, "private.bin")? {
            contents.encrypted(&member, access)?;
        }
        // Whoever shows leaves while reading them shows none of a log that cannot be read to its end.
        contents.each(|_, _| Ok(()))?;
        Ok(contents)
    }

    pub(super) const fn scan(&self) -> &Scan {
        &self.scan
    }

    /// Leaves with open parts.
    pub(super) fn open(&self) -> impl Iterator<Item = u64> {
        self.open.keys().copied()
    }

    fn encrypted(&mut self, member: &[u8], access: &Access) -> anyhow::Result<()> {
        let opened = match access {
            Access::Key(key) => self.opened(member, key),
            Access::Unreadable(reason) => Err(anyhow::anyhow!("private.age: {reason}")),
            Access::OtherRecipients => Err(anyhow::anyhow!("private.age is encrypted to other recipients")),
            Access::NoWrappedKey => Err(anyhow::anyhow!("there is no private.age")),
            Access::NoIdentity => Ok(Vec::new()),
        };
        match opened {
            Ok(parts) => {
                for part in parts {
                    self.open.entry(part.index).or_insert(part);
                }
            }
            Err(error) => self.why = Some(format!("{error:#}")),
        }
        for part in read_private(member)? {
            let index = part?.index;
            if !self.open.contains_key(&index) {
                self.closed.insert(index);
            }
        }
        Ok(())
    }

    /// Every part of `private.bin`, or none.
    fn opened(&self, member: &[u8], key: &PrivateKey) -> anyhow::Result<Vec<Disclosed>> {
        let map = self.scan.load(self.source, "open.cbor")?.unwrap_or_default();
        let instance = OpenMap::parse(&map)?.instance();
        let mut opened = Vec::new();
        let mut leaves = self.frames();
        // Both in order of the index.
        for part in read_private(member)? {
            let part = part?;
            let leaf = loop {
                match leaves.next_leaf()? {
                    None => anyhow::bail!("there is a part for leaf {}, and no such leaf", part.index),
                    Some((index, leaf)) if index == part.index => break leaf,
                    Some(_) => {}
                }
            };
            let plain = key.open(&Place { instance, index: part.index, leaf }, &part.ciphertext)?;
            opened.push(Disclosed { index: part.index, salt: plain.salt, bytes: plain.bytes });
        }
        Ok(opened)
    }

    fn frames(&self) -> Frames<'_, dyn Source + 's> {
        self.scan.leaves(self.source)
    }

    /// Shows every leaf, in order, with what is open of it.
    pub(super) fn each(
        &self,
        mut see: impl FnMut(&Leaf, Option<&Disclosed>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut frames = self.frames();
        let wrong = |error| match error {
            FrameError::Unread(error) => anyhow::Error::from(error),
            error => anyhow::Error::from(error).context("leaves"),
        };
        while let Some((_, bytes)) = frames.next_leaf().map_err(wrong)? {
            let leaf = Leaf::parse(bytes).map_err(|error| anyhow::Error::from(error).context("leaves"))?;
            see(&leaf, self.open.get(&leaf.index))?;
        }
        Ok(())
    }

    /// The one call whose id begins so.
    pub(super) fn call_named(&self, id: &str) -> anyhow::Result<String> {
        let wanted = id.to_ascii_lowercase();
        if wanted.len() < PREFIX_MIN {
            let message = format!("expected at least {PREFIX_MIN} characters of a call's id, found {id:?}");
            return Err(failure(USAGE, message));
        }
        let mut ids = BTreeSet::new();
        self.each(|leaf, _| {
            let call = leaf.call.map(|call| call.to_string()).filter(|call| call.starts_with(&wanted));
            if ids.len() <= NAMED_MAX {
                ids.extend(call);
            }
            Ok(())
        })?;
        let several = ids.len();
        let mut named: Vec<String> = ids.into_iter().take(NAMED_MAX).collect();
        match several {
            1 => Ok(named.remove(0)),
            0 => Err(failure(Status::FAILED, format!("expected a call whose id begins with {id:?}, found none"))),
            several => {
                let count = if several > NAMED_MAX { "more".to_owned() } else { several.to_string() };
                let more = if several > NAMED_MAX { ", ..." } else { "" };
                let message =
                    format!("expected one call whose id begins with {id:?}, found {count}: {}{more}", named.join(", "));
                Err(failure(USAGE, message))
            }
        }
    }
}

/// What the command says where there is no bundle to show anything of.
pub(super) fn no_bundle(path: &Path) -> impl Fn(anyhow::Error) -> anyhow::Error {
    move |error| {
        if error.downcast_ref::<ReadError>().is_some() {
            return error;
        }
        failure(Status::FAILED, format!("{}: expected a bundle: {error:#}", path.display()))
    }
}
