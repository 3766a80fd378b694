//! Settings of the hub, from the environment variables of Python's `huggingface_hub`
//! (<https://huggingface.co/docs/huggingface_hub/package_reference/environment_variables>).

use crate::error::{Error, Result};
use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::time::Duration;

const ENDPOINT: &str = "https://huggingface.co";

/// The hub to ask, and the cache that it fills.
#[derive(Clone)]
pub struct HubSettings {
    /// The folder with a folder for each repository: `HF_HUB_CACHE`, else `HF_HOME/hub`, else
    /// `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The address of the hub: `HF_ENDPOINT`, else `https://huggingface.co`.
    pub endpoint: String,
    /// The token of the user: `HF_TOKEN`, else the file `HF_TOKEN_PATH` or `HF_HOME/token`. It is
    /// sent to the endpoint only.
    pub token: Option<String>,
    /// True if the network may not be used: `HF_HUB_OFFLINE=1`.
    pub offline: bool,
    /// A PEM file with the certificates to trust instead of Mozilla's: `SSL_CERT_FILE`.
    pub certificates: Option<PathBuf>,
    /// The number of files to download at a time.
    pub at_once: usize,
    /// The time before a failed request is repeated; it doubles with every attempt.
    pub first_wait: Duration,
}

impl HubSettings {
    /// The settings for a cache, with the public hub and without a token.
    pub fn new(cache: PathBuf) -> Self {
        Self {
            cache,
            endpoint: ENDPOINT.to_owned(),
            token: None,
            offline: false,
            certificates: None,
            at_once: 4,
            first_wait: Duration::from_secs(1),
        }
    }

    /// The settings of this process's environment.
    ///
    /// # Errors
    /// As [`HubSettings::from_variables`].
    pub fn from_env() -> Result<Self> {
        Self::from_variables(&|name| std::env::var_os(name).map(|value| value.to_string_lossy().into_owned()))
    }

    /// The settings of an environment, which `variable` reads.
    ///
    /// # Errors
    /// [`Error::Request`] for an endpoint or a token that cannot be one, and where neither a cache
    /// nor a home folder is known; [`Error::Io`] for a token's file that cannot be read.
    pub fn from_variables(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self> {
        let set = |name: &str| variable(name).filter(|value| !value.is_empty());
        let path = |name: &str| set(name).map(|value| expand(&value, variable));
        let home = || {
            let home = ["HOME", "USERPROFILE"].into_iter().find_map(set);
            let cache = path("XDG_CACHE_HOME").or_else(|| Some(PathBuf::from(home?).join(".cache")));
            path("HF_HOME").or_else(|| Some(cache?.join("huggingface")))
        };
        let cache = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"].into_iter().find_map(path);
        let Some(cache) = cache.or_else(|| Some(home()?.join("hub"))) else {
            return Err(Error::Request("no folder for downloads is known: set HF_HUB_CACHE or HOME".to_owned()));
        };
        let is_on = |name: &str| set(name).is_some_and(|value| is_true(&value));
        let token = match ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"].into_iter().find_map(set) {
            _ if is_on("HF_HUB_DISABLE_IMPLICIT_TOKEN") => None,
            Some(token) => Some(token),
            None => match path("HF_TOKEN_PATH").or_else(|| Some(home()?.join("token"))) {
                Some(file) => read_token(file)?,
                None => None,
            },
        };
        Ok(Self {
            endpoint: endpoint(set("HF_ENDPOINT").as_deref().unwrap_or(ENDPOINT))?,
            token: token.and_then(|token| checked_token(&token).transpose()).transpose()?,
            offline: is_on("HF_HUB_OFFLINE") || (set("HF_HUB_OFFLINE").is_none() && is_on("TRANSFORMERS_OFFLINE")),
            certificates: path("SSL_CERT_FILE"),
            ..Self::new(cache)
        })
    }
}

impl fmt::Debug for HubSettings {
    /// Omits the token's value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let token = if self.token.is_some() { "with a token" } else { "without a token" };
        write!(f, "HubSettings({} in {}, {token}, offline: {})", self.endpoint, self.cache.display(), self.offline)
    }
}

/// True for the values that Python's `huggingface_hub` takes for true.
fn is_true(value: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&value.to_ascii_uppercase().as_str())
}

fn endpoint(text: &str) -> Result<String> {
    let text = text.trim_end_matches('/');
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    // A user and a password in the address would be shown in messages.
    let is_host =
        |host: &str| !host.is_empty() && host.chars().all(|c| c.is_ascii_graphic() && !"@?#\"<>\\".contains(c));
    if host.is_some_and(is_host) {
        return Ok(text.to_owned());
    }
    let problem =
        "HF_ENDPOINT: expected an address such as https://huggingface.co, without a user, a query or a fragment";
    Err(Error::Request(problem.to_owned()))
}

fn read_token(file: PathBuf) -> Result<Option<String>> {
    /// The maximum length of a token's file in bytes.
    const LONGEST: u64 = 4096;
    match fs::metadata(&file) {
        Ok(found) if found.len() > LONGEST => {
            Err(Error::file(&file, format!("expected a token of the hub, found a file of {} bytes", found.len())))
        }
        Ok(_) => fs::read_to_string(&file).map(Some).map_err(|error| Error::io(&file, error)),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
        Err(error) => Err(Error::io(&file, error)),
    }
}

/// A token fit for a header. The message of the error does not show it.
fn checked_token(token: &str) -> Result<Option<String>> {
    let token = token.trim();
    if token.is_empty() {
        return Ok(None);
    }
    if token.chars().all(|c| c.is_ascii_graphic()) {
        return Ok(Some(token.to_owned()));
    }
    Err(Error::Request("HF_TOKEN: expected letters, digits and signs, found another character".to_owned()))
}

/// A path with `~`, `$NAME` and `${NAME}` replaced, as Python does for values that no shell saw.
fn expand(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let mut out = String::new();
    let mut rest = text;
    if let Some(after) = text.strip_prefix('~').filter(|after| after.is_empty() || after.starts_with(['/', '\\']))
        && let Some(home) = ["HOME", "USERPROFILE"].into_iter().find_map(variable)
    {
        out.push_str(&home);
        rest = after;
    }
    while let Some(at) = rest.find('$') {
        let (before, dollar) = rest.split_at(at);
        out.push_str(before);
        let braced = dollar[1..].strip_prefix('{').and_then(|after| after.split_once('}'));
        let bare = || {
            let end = dollar[1..].find(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).unwrap_or(dollar.len() - 1);
            dollar[1..].split_at(end)
        };
        let (name, after) = braced.unwrap_or_else(bare);
        match variable(name).filter(|_| !name.is_empty()) {
            Some(value) => out.push_str(&value),
            None => out.push_str(&dollar[..dollar.len() - after.len()]),
        }
        rest = after;
    }
    PathBuf::from(out + rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn of(variables: &[(&str, &str)]) -> Result<HubSettings> {
        HubSettings::from_variables(&|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[track_caller]
    fn caches_in(variables: &[(&str, &str)], cache: &str) {
        assert_eq!(of(variables).unwrap().cache, Path::new(cache), "{variables:?}");
    }

    #[test]
    fn the_cache_is_where_python_has_it() {
        caches_in(&[("HOME", "/h")], "/h/.cache/huggingface/hub");
        caches_in(&[("USERPROFILE", "/h"), ("HF_HOME", "")], "/h/.cache/huggingface/hub");
        caches_in(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub");
        caches_in(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/x"), ("HF_HOME", "~/f")], "/h/f/hub");
        caches_in(&[("HF_HOME", "/f"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/o");
        caches_in(
            &[("HF_HUB_CACHE", "$A/${B}c$/$N"), ("A", "/a"), ("B", "b"), ("HUGGINGFACE_HUB_CACHE", "/o")],
            "/a/bc$/$N",
        );
        assert!(of(&[]).unwrap_err().to_string().contains("HF_HUB_CACHE"));
    }

    #[test]
    fn tokens_come_from_the_variable_or_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let home = folder.path().to_str().unwrap();
        let token = |variables: &[(&str, &str)]| of(&[&[("HF_HOME", home)], variables].concat()).unwrap().token;
        assert_eq!(token(&[]), None);
        fs::write(folder.path().join("token"), " hf_file\n").unwrap();
        fs::write(folder.path().join("other"), "hf_other").unwrap();
        assert_eq!(token(&[]).as_deref(), Some("hf_file"));
        assert_eq!(token(&[("HF_TOKEN", "hf_own")]).as_deref(), Some("hf_own"));
        assert_eq!(token(&[("HF_TOKEN", " ")]), None);
        assert_eq!(token(&[("HF_TOKEN_PATH", &format!("{home}/other"))]).as_deref(), Some("hf_other"));
        assert_eq!(token(&[("HF_TOKEN", "hf_own"), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]), None);
        let wrong = of(&[("HOME", home), ("HF_TOKEN", "hf_é")]).unwrap_err().to_string();
        assert!(wrong.starts_with("HF_TOKEN: expected") && !wrong.contains("hf_"), "{wrong}");
        fs::write(folder.path().join("token"), "x".repeat(5000)).unwrap();
        assert!(of(&[("HF_HOME", home)]).unwrap_err().to_string().contains("found a file of 5000 bytes"));
    }

    #[test]
    fn a_token_is_never_shown() {
        let settings = of(&[("HOME", "/h"), ("HF_TOKEN", "hf_secret")]).unwrap();
        assert!(!format!("{settings:?}").contains("hf_secret"));
    }

    #[test]
    fn the_rest_is_read() {
        let settings = of(&[("HOME", "/h")]).unwrap();
        assert_eq!((settings.endpoint.as_str(), settings.offline), (ENDPOINT, false));
        assert_eq!(
            of(&[("HOME", "/h"), ("HF_ENDPOINT", "http://[::1]:80/hf/")]).unwrap().endpoint,
            "http://[::1]:80/hf"
        );
        for value in ["1", "true", "Yes", "ON"] {
            assert!(of(&[("HOME", "/h"), ("HF_HUB_OFFLINE", value)]).unwrap().offline);
        }
        assert!(of(&[("HOME", "/h"), ("TRANSFORMERS_OFFLINE", "1")]).unwrap().offline);
        assert!(!of(&[("HOME", "/h"), ("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")]).unwrap().offline);
        for endpoint in ["huggingface.co", "https://", "https://user:secret@host", "https://a b", "ftp://a"] {
            let error = of(&[("HOME", "/h"), ("HF_ENDPOINT", endpoint)]).unwrap_err().to_string();
            assert!(error.starts_with("HF_ENDPOINT: expected") && !error.contains("secret"), "{error}");
        }
    }
}
