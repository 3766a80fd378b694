//! Names of repositories and of the files in them.
//!
//! The syntax is that of Hugging Face's own URIs, `hf://org/name[@revision][/path]`, where the
//! scheme may be left out. An address that a browser shows means the same.

use super::path::is_safe;
use crate::error::{Error, Result, excerpt};
use std::fmt;
use std::path::Path;

/// The revision when none is named.
const MAIN: &str = "main";
/// The maximum length of a repository's name with its owner, as on the hub.
const LONGEST_REPO: usize = 96;
/// Extensions of model files. A name of two segments that ends in one is a path: `models/z.gguf`.
const EXTENSIONS: [&str; 6] = [".safetensors", ".sft", ".gguf", ".json", ".bin", ".ckpt"];
const SYNTAX: &str = "expected org/name[@revision][/path], such as Tongyi-MAI/Z-Image-Turbo";

/// A repository on the hub, or a file or folder in it: `org/name[@revision][/path]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    repo: String,
    revision: Option<String>,
    path: Option<String>,
}

impl HubName {
    /// Reads a name, with or without `hf://`, or the address of a model's page, folder or file at
    /// huggingface.co.
    ///
    /// # Errors
    /// [`Error::Request`] for every other text, and for a name that would lead out of the cache.
    pub fn parse(text: &str) -> Result<Self> {
        let name = match (without_scheme(text), text.strip_prefix("hf://")) {
            (Some(page), _) => Self::of_page(page),
            (None, Some(uri)) => Self::of_uri(uri.strip_prefix("models/").unwrap_or(uri)),
            (None, None) => Self::of_uri(text),
        };
        name.ok_or_else(|| Error::Request(format!("{:?} is no name on the hub: {SYNTAX}", excerpt(text))))
    }

    /// Reads the value of a flag that takes a path or a name: `None` for a path. A text without
    /// `hf://` is a path if a file or folder has it, if its first folder exists, or if it is two
    /// segments with a model file's extension.
    ///
    /// # Errors
    /// [`Error::Request`] for a wrong name behind `hf://` or in an address.
    pub fn unless_path(text: &str) -> Result<Option<Self>> {
        if text.starts_with("hf://") || without_scheme(text).is_some() {
            return Self::parse(text).map(Some);
        }
        let exists = |path: &str| Path::new(path).symlink_metadata().is_ok();
        let first = text.split('/').next().unwrap_or_default();
        if exists(text) || exists(first) {
            return Ok(None);
        }
        let is_file = |name: &Self| name.path.is_none() && EXTENSIONS.iter().any(|end| name.repo.ends_with(end));
        Ok(Self::of_uri(text).filter(|name| !is_file(name)))
    }

    /// The repository with its owner: `org/name`.
    pub fn repo(&self) -> &str {
        &self.repo
    }

    /// The branch, tag or commit; `main` if none was named.
    pub fn revision(&self) -> &str {
        self.revision.as_deref().unwrap_or(MAIN)
    }

    /// The file or folder in the repository; `None` for the repository itself.
    pub fn path(&self) -> Option<&str> {
        self.path.as_deref()
    }

    /// The name of a file in the same repository at the same revision.
    pub(super) fn with_path(&self, path: &str) -> Self {
        Self { path: Some(path.to_owned()), ..self.clone() }
    }

    fn of_uri(text: &str) -> Option<Self> {
        let (org, rest) = text.split_once('/')?;
        let end = rest.find(['/', '@']).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(end);
        let (revision, path) = match rest.strip_prefix('@') {
            Some(rest) => split_revision(rest)?,
            None => (None, rest.strip_prefix('/')),
        };
        Self::checked(org, name, revision.map(decode), path.map(str::to_owned))
    }

    /// Reads `org/name[/tree|blob|resolve|raw/revision[/path]]`, the path of a page's address.
    fn of_page(page: &str) -> Option<Self> {
        let page = page.split(['?', '#']).next().unwrap_or_default().trim_end_matches('/');
        let mut parts = page.splitn(4, '/');
        let (org, name) = (parts.next()?, parts.next()?);
        let Some(view) = parts.next() else { return Self::checked(org, name, None, None) };
        let (revision, path) = split_revision(parts.next()?)?;
        ["tree", "blob", "resolve", "raw"].contains(&view).then_some(())?;
        Self::checked(org, name, revision.map(decode), path.map(decode))
    }

    fn checked(org: &str, name: &str, revision: Option<String>, path: Option<String>) -> Option<Self> {
        let repo = format!("{org}/{name}");
        let is_word = |word: &str| {
            let inner = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            !word.is_empty() && word.chars().all(inner) && !word.starts_with(['-', '.']) && !word.ends_with(['-', '.'])
        };
        let repo_is_safe = is_word(org)
            && is_word(name)
            && repo.len() <= LONGEST_REPO
            && !repo.contains("--")
            && !repo.contains("..")
            && !repo.ends_with(".git");
        let rest_is_safe =
            revision.iter().all(|revision| is_revision(revision)) && path.iter().all(|path| is_safe(path));
        (repo_is_safe && rest_is_safe).then_some(Self { repo, revision, path })
    }
}

impl fmt::Display for HubName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.repo)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        match &self.path {
            Some(path) => write!(f, "/{path}"),
            None => Ok(()),
        }
    }
}

/// The path of an address at the hub.
fn without_scheme(text: &str) -> Option<&str> {
    text.strip_prefix("https://huggingface.co/").or_else(|| text.strip_prefix("https://hf.co/"))
}

/// Splits `revision[/path]`. Only the revisions of pull requests and of conversions,
/// `refs/pr/7` and `refs/convert/name`, may have a slash that is not encoded.
fn split_revision(text: &str) -> Option<(Option<&str>, Option<&str>)> {
    let slashes = if text.starts_with("refs/pr/") || text.starts_with("refs/convert/") { 2 } else { 0 };
    let end = text.match_indices('/').nth(slashes).map_or(text.len(), |(at, _)| at);
    let (revision, path) = text.split_at(end);
    (!revision.is_empty()).then_some((Some(revision), path.strip_prefix('/')))
}

/// True for a git revision that is safe as a path below `refs`.
fn is_revision(revision: &str) -> bool {
    is_safe(revision)
        && !revision.starts_with('-')
        && revision.chars().all(|c| c.is_ascii_graphic() && !"~^:?*[\\@".contains(c))
}

/// A text with its `%2F` and the like decoded; unchanged where that gives no UTF-8.
fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| byte == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(decoded) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn is(text: &str, repo: &str, revision: &str, path: Option<&str>) {
        let name = HubName::parse(text).unwrap();
        assert_eq!((name.repo(), name.revision(), name.path()), (repo, revision, path), "{text}");
        assert_eq!(HubName::parse(&name.to_string()).unwrap(), name);
    }

    #[test]
    fn names_and_addresses_are_read() {
        let turbo = "Tongyi-MAI/Z-Image-Turbo";
        is(turbo, turbo, "main", None);
        is("hf://Tongyi-MAI/Z-Image-Turbo", turbo, "main", None);
        is("hf://models/Tongyi-MAI/Z-Image-Turbo@v1", turbo, "v1", None);
        is("a/b@refs/pr/7", "a/b", "refs/pr/7", None);
        is("a/b@refs/pr/7/vae", "a/b", "refs/pr/7", Some("vae"));
        is("a/b@refs%2Fpr%2F7/vae", "a/b", "refs/pr/7", Some("vae"));
        is("a/b@v1.0/split_files/vae/ae.safetensors", "a/b", "v1.0", Some("split_files/vae/ae.safetensors"));
        is("a/b/x y.gguf", "a/b", "main", Some("x y.gguf"));
        is("https://huggingface.co/a/b", "a/b", "main", None);
        is("https://hf.co/a/b/", "a/b", "main", None);
        is("https://huggingface.co/a/b/tree/main/vae", "a/b", "main", Some("vae"));
        is("https://huggingface.co/a/b/blob/main/x%20y.gguf?download=true", "a/b", "main", Some("x y.gguf"));
        is("https://huggingface.co/a/b/resolve/refs%2Fpr%2F7/x.gguf", "a/b", "refs/pr/7", Some("x.gguf"));
    }

    #[test]
    fn hostile_names_are_rejected() {
        let long = format!("a/{}", "b".repeat(95));
        for text in [
            "",
            "a",
            "/",
            "a/",
            "/a/b",
            "../a",
            "a/..",
            "a/../b",
            "a/b/../c",
            "a/b/..",
            "a/b//c",
            "a/b/",
            "./a/b",
            "~/a",
            "a/.b",
            "a-/b",
            "a/b--c",
            "a..b/c",
            "a/b.git",
            "a\\b/c",
            "a/b\\c",
            "a/b/c\\..\\d",
            "a/b/C:/x",
            "a/b@",
            "a/b@/c",
            "a/b@../x",
            "a/b@..",
            "a/b@%2E%2E",
            "a/b@-x",
            "a/b@x y",
            "a/b@x:y",
            "a/b\n",
            "a/b/c\nd",
            "a/b/\u{0}",
            "é/b",
            "https://huggingface.co/a",
            "https://huggingface.co/a/b/blob/main/%2e%2e/x",
            "https://huggingface.co/a/b/discussions/1",
            "https://huggingface.co/a/b/tree",
            "http://elsewhere/a/b",
            &long,
        ] {
            let error = HubName::parse(text).expect_err(text).to_string();
            assert!(error.contains("expected org/name[@revision][/path]") && !error.contains('\n'), "{error}");
        }
        assert!(HubName::parse(&"x".repeat(1 << 20)).unwrap_err().to_string().len() < 500);
    }

    #[test]
    fn paths_are_no_names() {
        let here = tempfile::tempdir().unwrap();
        let file = here.path().join("org/name");
        std::fs::create_dir_all(&file).unwrap();
        for path in [file.to_str().unwrap(), "models/z.safetensors", "models/z.gguf", "./a/b", "/a/b", "z", "../a/b"] {
            assert_eq!(HubName::unless_path(path).unwrap(), None, "{path}");
        }
        // Tests run in the package's folder, which has a folder of this name.
        assert_eq!(HubName::unless_path("src/nothing").unwrap(), None);
        assert_eq!(HubName::unless_path("hf://src/nothing").unwrap().unwrap().repo(), "src/nothing");
        assert_eq!(HubName::unless_path("org/name").unwrap().unwrap().repo(), "org/name");
        assert_eq!(HubName::unless_path("org/name/z.gguf").unwrap().unwrap().path(), Some("z.gguf"));
        assert!(HubName::unless_path("hf://..").is_err());
    }
}
