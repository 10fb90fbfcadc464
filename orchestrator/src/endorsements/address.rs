//! The address of a service that hands out collateral: `vmm.pccs_url`, in the form that Intel's own configuration has for its
//! `pccs_url`, and where each part of a set is found below it. Nothing here touches the network.

use std::fmt;
use std::net::IpAddr;

use coffer_evidence::verify::StatedPlatform;
use http::Uri;

/// What an address looks like, for errors.
pub(crate) const EXPECTED: &str =
    "an https address such as \"https://localhost:8081/sgx/certification/v4/\", or http on this machine";
/// The longest address in bytes.
const URL_MAX: usize = 512;
/// What Intel's configuration has behind the address proper, and we add ourselves.
const SUFFIXES: [&str; 2] = ["/sgx/certification/v4", "/tdx/certification/v4"];
/// Intel's own service. It does not hand out the root's list: that stands where the root certificate says.
const INTEL: &str = "api.trustedservices.intel.com";
const INTEL_LISTS: &str = "certificates.trustedservices.intel.com";
const INTEL_ROOT_LIST: &str = "/IntelSGXRootCA.der";

/// How a service is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Https,
    /// To addresses of this machine alone.
    Http,
}

/// One part of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    PckList,
    RootList,
    TcbInfo,
    QeIdentity,
}

impl Part {
    /// For messages.
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::PckList => "the revocation list of PCK certificates",
            Part::RootList => "the revocation list of the root",
            Part::TcbInfo => "the TCB info",
            Part::QeIdentity => "the identity of the quoting enclave",
        }
    }
}

/// Where one part is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) scheme: Scheme,
    /// A name or an address, the latter without brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Path and query.
    pub(super) path: String,
}

impl Place {
    /// Host and port, as they stand in an address.
    pub(super) fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Where a service is: Intel's, or one that caches what Intel's says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceUrl {
    scheme: Scheme,
    host: String,
    port: u16,
    /// Without a slash at its end.
    path: String,
}

impl ServiceUrl {
    /// Parses what an operator wrote; nothing when it is not [`EXPECTED`].
    pub(crate) fn parse(text: &str) -> Option<Self> {
        // A part behind a number sign would be dropped in silence.
        if text.len() > URL_MAX || text.contains('#') {
            return None;
        }
        let uri: Uri = text.parse().ok()?;
        let scheme = match uri.scheme_str()? {
            "https" => Scheme::Https,
            "http" => Scheme::Http,
            _ => return None,
        };
        let authority = uri.authority()?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        if host.is_empty() || authority.as_str().contains('@') || uri.query().is_some() {
            return None;
        }
        if scheme == Scheme::Http && !is_this_machine(&host) {
            return None;
        }
        let port = match (authority.as_str().get(authority.host().len()..)?, scheme) {
            ("", Scheme::Https) => 443,
            ("", Scheme::Http) => 80,
            (text, _) => text.strip_prefix(':')?.parse().ok().filter(|port| *port != 0)?,
        };
        let path = uri.path().trim_end_matches('/');
        let path = SUFFIXES.iter().find_map(|suffix| path.strip_suffix(suffix)).unwrap_or(path);
        // Older versions know no TDX.
        if path.contains("/certification/") {
            return None;
        }
        Some(Self { scheme, host, port, path: path.trim_end_matches('/').to_owned() })
    }

    /// Whether certificates are asked for.
    pub(crate) fn is_https(&self) -> bool {
        self.scheme == Scheme::Https
    }

    /// Where a part of the set for this platform is.
    pub(super) fn place(&self, part: Part, platform: &StatedPlatform) -> Place {
        let below = |path: String| Place {
            scheme: self.scheme,
            host: self.host.clone(),
            port: self.port,
            path: format!("{}{path}", self.path),
        };
        match part {
            Part::PckList => below(format!("/sgx/certification/v4/pckcrl?ca={}&encoding=der", platform.authority())),
            Part::RootList if self.host == INTEL => Place {
                scheme: Scheme::Https,
                host: INTEL_LISTS.to_owned(),
                port: 443,
                path: INTEL_ROOT_LIST.to_owned(),
            },
            Part::RootList => below("/sgx/certification/v4/rootcacrl".to_owned()),
            Part::TcbInfo => below(format!("/tdx/certification/v4/tcb?fmspc={}", hex::encode_upper(platform.fmspc()))),
            Part::QeIdentity => below("/tdx/certification/v4/qe/identity".to_owned()),
        }
    }
}

impl fmt::Display for ServiceUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = Place { scheme: self.scheme, host: self.host.clone(), port: self.port, path: String::new() };
        let scheme = match self.scheme {
            Scheme::Https => "https",
            Scheme::Http => "http",
        };
        write!(f, "{scheme}://{}{}", place.authority(), self.path)
    }
}

fn is_this_machine(host: &str) -> bool {
    // What the name resolves to is looked at again when it is connected to.
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endorsements::played::simulated_platform;

    #[test]
    fn an_address_is_taken_in_the_form_of_intels_configuration_and_without_its_end() {
        for text in [
            "https://localhost:8081/sgx/certification/v4/",
            "https://localhost:8081/tdx/certification/v4",
            "https://localhost:8081/",
            "https://LOCALHOST:8081",
        ] {
            assert_eq!(ServiceUrl::parse(text).expect(text).to_string(), "https://localhost:8081", "{text}");
        }
        let parsed = |text| ServiceUrl::parse(text).map(|url| url.to_string());
        assert_eq!(parsed("https://pccs.example/cache/").as_deref(), Some("https://pccs.example:443/cache"));
        assert_eq!(parsed("http://[::1]:80/").as_deref(), Some("http://[::1]:80"));
        assert_eq!(parsed("http://127.0.0.2").as_deref(), Some("http://127.0.0.2:80"));
    }

    #[test]
    fn an_address_that_is_not_safe_to_ask_is_refused() {
        let long = format!("https://pccs.example/{}", "a".repeat(URL_MAX));
        for text in [
            "",
            "pccs.example",
            "/sgx/certification/v4/",
            "ftp://localhost/",
            "http://pccs.example/sgx/certification/v4/",
            "http://10.0.0.1:8081/",
            "http://localhost.example/",
            "https://user:word@pccs.example/",
            "https://pccs.example/?a=b",
            "https://pccs.example/#a",
            "https://pccs.example:/",
            "https://pccs.example:0/",
            "https://pccs.example:65536/",
            "https://pccs.example/sgx/certification/v3/",
            "https://",
            long.as_str(),
        ] {
            assert_eq!(ServiceUrl::parse(text), None, "{text}");
        }
    }

    #[test]
    fn each_part_is_asked_for_where_intels_interface_has_it() {
        let url = |text: &str, part| {
            let place = ServiceUrl::parse(text).expect("an address").place(part, &simulated_platform());
            format!("{}{}", place.authority(), place.path)
        };
        let pccs = "https://localhost:8081/sgx/certification/v4/";
        let intel = "https://api.trustedservices.intel.com/sgx/certification/v4/";
        for (at, part, expected) in [
            (pccs, Part::PckList, "localhost:8081/sgx/certification/v4/pckcrl?ca=platform&encoding=der"),
            (pccs, Part::RootList, "localhost:8081/sgx/certification/v4/rootcacrl"),
            (pccs, Part::TcbInfo, "localhost:8081/tdx/certification/v4/tcb?fmspc=53494D000000"),
            (pccs, Part::QeIdentity, "localhost:8081/tdx/certification/v4/qe/identity"),
            (intel, Part::RootList, "certificates.trustedservices.intel.com:443/IntelSGXRootCA.der"),
            (intel, Part::QeIdentity, "api.trustedservices.intel.com:443/tdx/certification/v4/qe/identity"),
        ] {
            assert_eq!(url(at, part), expected);
        }
    }
}
