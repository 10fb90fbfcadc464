//! `coffer image`, and the choice of an image. What `cofferd` says about an image is its claim; what a session really
//! booted is in its evidence.

use coffer_client::Client;
use coffer_evidence::ids::Digest256;
use coffer_evidence::sign::PublicKey;
use coffer_proto::control::v1::{Image, Platform};
use serde::Serialize;

use crate::command::Context;
use crate::exit::{Status, USAGE, failure};
use crate::output::{Form, printable};

/// The shortest beginning of a digest that names an image.
const PREFIX_MIN: usize = 8;

/// What to do on a host without images.
const NO_IMAGE: &str = "build one with `scripts/build` or `coffer-image build`, and name the directory that it is in as \
`image.directory` in cofferd's configuration";

#[derive(Serialize)]
struct Shown {
    digest: String,
    name: String,
    version: String,
    svn: u64,
    platform: &'static str,
    publisher: String,
    default: bool,
}

#[derive(Serialize)]
struct List {
    images: Vec<Shown>,
}

/// `tdx` or `simulated`.
pub(crate) fn platform_word(platform: Platform) -> &'static str {
    match platform {
        Platform::Unspecified => "unknown",
        Platform::Tdx => "tdx",
        Platform::Simulated => "simulated",
    }
}

/// `coffer image list`
pub(crate) async fn list(context: &Context) -> anyhow::Result<Status> {
    let images = context.client().await?.list_images().await?;
    let images: Vec<Shown> = images
        .into_iter()
        .map(|image| Shown {
            digest: hex::encode(&image.digest),
            platform: platform_word(image.platform()),
            publisher: hex::encode(&image.publisher),
            name: image.name,
            version: image.version,
            svn: image.svn,
            default: image.default,
        })
        .collect();
    let output = &context.output;
    match output.form {
        Form::Json => output.json(&List { images })?,
        Form::People => {
            for image in &images {
                let mark = if image.default { "  (default)" } else { "" };
                let (name, version) = (printable(&image.name), printable(&image.version));
                output.line(format_args!("{}  {:<9}  {name} {version}{mark}", image.digest, image.platform))?;
            }
            if images.is_empty() {
                output.note(format_args!("cofferd has no image: {NO_IMAGE}"));
            }
        }
    }
    Ok(Status::DONE)
}

/// An image as a session needs it.
#[derive(Clone, Debug)]
pub(crate) struct Chosen {
    pub(crate) digest: Digest256,
    pub(crate) platform: Platform,
    pub(crate) publisher: PublicKey,
    pub(crate) title: String,
}

impl TryFrom<&Image> for Chosen {
    type Error = anyhow::Error;

    fn try_from(image: &Image) -> anyhow::Result<Self> {
        Ok(Self {
            digest: Digest256::from_bytes(&image.digest)?,
            platform: image.platform(),
            publisher: PublicKey::from_bytes(&image.publisher)?,
            title: printable(&format!("{} {}", image.name, image.version)),
        })
    }
}

/// The image that the user named by digest, by the beginning of one, or by name; without a name the default.
pub(crate) async fn choose(client: &Client, wanted: Option<&str>) -> anyhow::Result<Chosen> {
    let images = client.list_images().await?;
    let fits = |image: &&Image| match wanted {
        None => image.default || images.len() == 1,
        Some(wanted) => {
            let digest = hex::encode(&image.digest);
            digest == wanted || (wanted.len() >= PREFIX_MIN && digest.starts_with(wanted)) || image.name == wanted
        }
    };
    let found: Vec<&Image> = images.iter().filter(fits).collect();
    match (found.as_slice(), wanted) {
        _ if images.is_empty() => {
            Err(failure(USAGE, format!("expected an image, found that cofferd has none: {NO_IMAGE}")))
        }
        ([image], _) => Chosen::try_from(*image),
        ([], Some(wanted)) => Err(failure(
            USAGE,
            format!("expected an image with digest or name {wanted:?}, found none: see `coffer image list`"),
        )),
        (several, Some(wanted)) => Err(failure(
            USAGE,
            format!("expected one image with digest or name {wanted:?}, found {}: name its digest", several.len()),
        )),
        (_, None) => Err(failure(
            USAGE,
            format!(
                "expected a default image, found none among {}: choose one with --image, or name the default as \
                 `image.default` in cofferd's configuration",
                images.len()
            ),
        )),
    }
}

/// The image with this digest.
pub(crate) async fn by_digest(client: &Client, digest: &[u8]) -> anyhow::Result<Chosen> {
    let images = client.list_images().await?;
    let found = images.iter().find(|image| image.digest == digest);
    found.map(Chosen::try_from).transpose()?.ok_or_else(|| {
        anyhow::anyhow!(
            "expected cofferd to still list the session's image {}, found it gone: write the policy by hand",
            hex::encode(digest)
        )
    })
}
