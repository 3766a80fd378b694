//! Requests to the hub. Redirects are followed here, so that the token goes to the hub alone.

use super::name::HubName;
use super::path::encode;
use super::retry::{Again, Failure};
use super::settings::HubSettings;
use super::url::{Origin, join, shown};
use crate::error::{Error, HubCause, Result, excerpt};
use std::fs;
use std::time::Duration;
use ureq::http::{self, Response, Uri, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

const MOST_REDIRECTS: usize = 10;
/// The time without a byte after which a connection counts as broken, and the time to make one.
const SILENCE: Duration = Duration::from_secs(30);
const CONNECT: Duration = Duration::from_secs(15);
/// The maximum length of the file of certificates in bytes.
const LONGEST_PEM: u64 = 16 << 20;

/// A client of one hub.
#[derive(Debug)]
pub(super) struct Client<'a> {
    agent: Agent,
    settings: &'a HubSettings,
    origin: Origin,
}

/// A request for a file or a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request<'a> {
    /// The repository or file, for messages.
    pub name: &'a HubName,
    pub url: &'a str,
    /// The first byte to send.
    pub from: u64,
}

impl<'a> Client<'a> {
    pub(super) fn new(settings: &'a HubSettings) -> Result<Self> {
        let endpoint: Option<Uri> = settings.endpoint.parse().ok();
        let Some(origin) = endpoint.as_ref().and_then(Origin::of) else {
            let problem = format!("expected the address of a hub, found {:?}", excerpt(&settings.endpoint));
            return Err(Error::Request(problem));
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(concat!("zimage/", env!("CARGO_PKG_VERSION")))
            // The size of a compressed answer is not that of the file.
            .accept_encoding("identity")
            .timeout_connect(Some(CONNECT))
            .timeout_resolve(Some(CONNECT))
            .timeout_per_read(Some(SILENCE))
            .timeout_per_write(Some(SILENCE))
            .tls_config(TlsConfig::builder().root_certs(certificates(settings)?).build())
            .build();
        Ok(Self { agent: Agent::new_with_config(config), settings, origin })
    }

    /// The time before the first repetition of a request.
    pub(super) fn first_wait(&self) -> Duration {
        self.settings.first_wait
    }

    /// The address of the list of a repository's files.
    pub(super) fn listing_url(&self, name: &HubName) -> String {
        let revision = encode(name.revision()).replace('/', "%2F");
        format!("{}/api/models/{}/revision/{revision}?blobs=true", self.settings.endpoint, name.repo())
    }

    /// The address of a file at a commit.
    pub(super) fn file_url(&self, repo: &str, commit: &str, path: &str) -> String {
        format!("{}/{repo}/resolve/{commit}/{}", self.settings.endpoint, encode(path))
    }

    /// The page of a repository, for messages.
    fn page(&self, name: &HubName) -> String {
        format!("{}/{}", self.settings.endpoint, name.repo())
    }

    /// Breaks every connection: a thread that waits for bytes returns at once.
    pub(super) fn shut_down(&self) {
        self.agent.clone().shutdown();
    }

    /// Requests a body, from wherever the hub redirects to.
    pub(super) fn get(&self, request: Request<'_>) -> Result<Response<Body>, Failure> {
        self.send(http::Method::GET, request)
    }

    /// Requests the hub's own headers of a file, without those of the server that stores it.
    pub(super) fn head(&self, request: Request<'_>) -> Result<Response<Body>, Failure> {
        self.send(http::Method::HEAD, request)
    }

    fn send(&self, method: http::Method, request: Request<'_>) -> Result<Response<Body>, Failure> {
        let invalid = |problem: String| Failure::from(hub_error(request.name, HubCause::Invalid, problem));
        let mut url: Uri =
            request.url.parse().map_err(|_| invalid(format!("{} is no address", excerpt(request.url))))?;
        for _ in 0..=MOST_REDIRECTS {
            let is_hub = Origin::of(&url).is_some_and(|origin| origin == self.origin);
            let mut sent = http::Request::builder().method(method.clone()).uri(&url);
            if let Some(token) = self.settings.token.as_ref().filter(|_| is_hub) {
                sent = sent.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            if request.from > 0 {
                sent = sent.header(header::RANGE, format!("bytes={}-", request.from));
            }
            let sent = sent.body(()).map_err(|error| invalid(format!("{}: {error}", shown(&url))))?;
            let answer = self.agent.run(sent).map_err(|error| self.unreachable(request.name, &url, &error))?;
            let status = answer.status();
            if status.is_success() {
                return Ok(answer);
            }
            let location = answer.headers().get(header::LOCATION).and_then(|location| location.to_str().ok());
            let Some(location) = location.filter(|_| status.is_redirection()) else {
                return Err(self.refused(request.name, &url, is_hub, &answer));
            };
            let next = join(&url, location).and_then(|next| Some((Origin::of(&next)?, next)));
            let Some((origin, next)) = next else {
                let location = excerpt(location.split('?').next().unwrap_or_default());
                return Err(invalid(format!("{} redirects to {location:?}, which is no address", shown(&url))));
            };
            if method == http::Method::HEAD && origin != self.origin {
                return Ok(answer);
            }
            if self.origin.is_encrypted() && !origin.is_encrypted() {
                let (from, to) = (shown(&url), shown(&next));
                return Err(invalid(format!("{from} redirects to {to}, a connection without encryption")));
            }
            url = next;
        }
        Err(invalid(format!("{} redirects more than {MOST_REDIRECTS} times", shown(&url))))
    }

    fn unreachable(&self, name: &HubName, url: &Uri, error: &ureq::Error) -> Failure {
        let error = excerpt(&error.to_string());
        let (advice, again) = match error.contains("certificate") {
            true => ("a proxy that opens TLS needs SSL_CERT_FILE, the file of its certificates", Again::Never),
            false => ("check the network, HF_ENDPOINT and HTTPS_PROXY", Again::Soon),
        };
        let problem = format!("{}: no answer ({error}); {advice}", shown(url));
        Failure { error: hub_error(name, HubCause::Connection, problem), again }
    }

    /// The failure for an answer that is no success.
    fn refused(&self, name: &HubName, url: &Uri, is_hub: bool, answer: &Response<Body>) -> Failure {
        let status = answer.status().as_u16();
        let text = |header: &str| answer.headers().get(header).and_then(|value| value.to_str().ok());
        let code = text("x-error-code").unwrap_or_default();
        let wait = asked_wait(text("retry-after"), text("ratelimit"));
        let token = match self.settings.token {
            Some(_) => "the token that was sent may not read it",
            None => "without a token the two look the same; set HF_TOKEN to a token that may read it",
        };
        let page = self.page(name);
        let advice = match (status, code) {
            (401 | 403, "GatedRepo") => format!(
                "its terms have to be accepted at {page}, and HF_TOKEN has to be a token of the account that did so"
            ),
            (401 | 404, "RepoNotFound") | (401, _) => {
                format!("there is no such repository, or it is private ({token}); check the name")
            }
            (403, _) if is_hub => "the token may not read it; set HF_TOKEN to one that may".to_owned(),
            (404, "RevisionNotFound") => format!("there is no such revision; {page}/branches lists them"),
            (404, "EntryNotFound") => format!("there is no such file; {page}/tree/{} lists them", name.revision()),
            (404, _) => "there is no such repository, revision or file; check the name".to_owned(),
            (429, _) => match wait {
                Some(wait) => format!("there were too many requests; try again in {} seconds", wait.as_secs()),
                None => "there were too many requests; try again later".to_owned(),
            },
            (500.., _) => "the hub is in trouble; try again later".to_owned(),
            _ => match text("x-error-message") {
                Some(message) => excerpt(message),
                None => "no reason was given".to_owned(),
            },
        };
        let again = match status {
            429 | 503 if wait.is_some() => wait.map_or(Again::Soon, Again::After),
            408 | 429 | 500.. => Again::Soon,
            // A signed address that has expired: the hub gives a new one.
            401 | 403 if !is_hub => Again::Soon,
            _ => Again::Never,
        };
        let problem = format!("{} answered {}: {advice}", shown(url), answer.status());
        Failure { error: hub_error(name, HubCause::Status(status), problem), again }
    }
}

/// The time that a hub asks to wait, from `Retry-After` in seconds, or from `t` in the `RateLimit`
/// header of draft-ietf-httpapi-ratelimit-headers if `r`, the requests that are left, is 0.
fn asked_wait(retry_after: Option<&str>, rate_limit: Option<&str>) -> Option<Duration> {
    let item = |name: &str| rate_limit?.split(';').find_map(|item| item.trim().strip_prefix(name)?.parse::<u64>().ok());
    let limited = || item("t=").filter(|_| item("r=") == Some(0));
    let seconds = retry_after.and_then(|seconds| seconds.trim().parse::<u64>().ok()).or_else(limited)?;
    Some(Duration::from_secs(seconds))
}

fn certificates(settings: &HubSettings) -> Result<RootCerts> {
    let Some(path) = &settings.certificates else { return Ok(RootCerts::WebPki) };
    let len = fs::metadata(path).map_err(|error| Error::io(path, error))?.len();
    if len > LONGEST_PEM {
        return Err(Error::file(path, format!("expected certificates (SSL_CERT_FILE), found {len} bytes")));
    }
    let pem = fs::read(path).map_err(|error| Error::io(path, error))?;
    let trusted: Vec<_> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if trusted.is_empty() {
        return Err(Error::file(path, "expected certificates in PEM (SSL_CERT_FILE), found none"));
    }
    Ok(trusted.into())
}

/// An error about a repository or a file of the hub.
pub(super) fn hub_error(name: &HubName, cause: HubCause, problem: impl Into<String>) -> Error {
    Error::Hub { name: name.to_string(), cause, problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_read_from_both_headers() {
        let seconds = |retry, limit| asked_wait(retry, limit).map(|wait| wait.as_secs());
        assert_eq!(seconds(Some("120"), None), Some(120));
        assert_eq!(seconds(Some("Wed, 21 Oct 2026 07:28:00 GMT"), None), None);
        assert_eq!(seconds(None, Some("\"api\";r=0;t=55")), Some(55));
        assert_eq!(seconds(None, Some("\"api\";r=10;t=55")), None);
        assert_eq!(seconds(None, None), None);
    }
}
