//! Addresses: which of them get the token, and where a redirect leads.

use crate::error::excerpt;
use ureq::http::Uri;

/// Scheme, host and port of an address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Origin {
    scheme: String,
    host: String,
    port: u16,
}

impl Origin {
    /// The origin of an address; `None` if the address is not absolute or not of HTTP.
    pub(super) fn of(url: &Uri) -> Option<Self> {
        let scheme = url.scheme_str()?.to_ascii_lowercase();
        let usual = match scheme.as_str() {
            "http" => 80,
            "https" => 443,
            _ => return None,
        };
        Some(Self { scheme, host: url.host()?.to_ascii_lowercase(), port: url.port_u16().unwrap_or(usual) })
    }

    pub(super) fn is_encrypted(&self) -> bool {
        self.scheme == "https"
    }
}

/// The address that a `Location` header means behind `base` (RFC 3986, 5.2, without dot segments).
pub(super) fn join(base: &Uri, location: &str) -> Option<Uri> {
    let location = location.split('#').next().unwrap_or_default();
    let (scheme, authority) = (base.scheme_str()?, base.authority()?);
    let is_absolute = location.split_once("://").is_some_and(|(scheme, _)| scheme.chars().all(char::is_alphanumeric));
    let url = if is_absolute {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{scheme}:{location}")
    } else if location.starts_with('/') {
        format!("{scheme}://{authority}{location}")
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{location}")
    };
    url.parse().ok()
}

/// An address for a message, without its query, which may hold a signature.
pub(super) fn shown(url: &Uri) -> String {
    let text = url.to_string();
    excerpt(text.split('?').next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri {
        text.parse().unwrap()
    }

    #[test]
    fn origins_differ_by_scheme_host_and_port() {
        let origin = |text: &str| Origin::of(&uri(text)).unwrap();
        assert_eq!(origin("https://HuggingFace.co/a?b"), origin("https://huggingface.co:443"));
        for other in ["http://huggingface.co", "https://huggingface.co:444", "https://cdn.huggingface.co"] {
            assert_ne!(origin("https://huggingface.co"), origin(other), "{other}");
        }
        assert!(Origin::of(&uri("ftp://huggingface.co/a")).is_none() && Origin::of(&uri("/a")).is_none());
    }

    #[test]
    fn locations_are_joined() {
        let base = uri("https://host:1/a/b?c");
        for (location, url) in [
            ("https://x/y?z=http://q#f", "https://x/y?z=http://q"),
            ("//x/y", "https://x/y"),
            ("/y?z", "https://host:1/y?z"),
            ("y", "https://host:1/a/y"),
            ("/y?u=https://x", "https://host:1/y?u=https://x"),
        ] {
            assert_eq!(join(&base, location).unwrap(), uri(url), "{location}");
        }
        assert!(join(&base, "https://a b/").is_none());
    }

    #[test]
    fn signatures_are_not_shown() {
        assert_eq!(shown(&uri("https://cdn/x?Signature=secret")), "https://cdn/x");
    }
}
