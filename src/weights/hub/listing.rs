//! The files of a repository at a commit, as the hub lists them.

use super::hash::{Etag, is_hex};
use super::path::is_safe;
use crate::error::excerpt;
use serde::Deserialize;
use serde::de::{Deserializer, Error as _, SeqAccess, Visitor};
use std::fmt;

/// The maximum length of the hub's answer in bytes, and of its list.
pub(super) const LONGEST: u64 = 16 << 20;
const MOST_FILES: usize = 20_000;

/// The files of a repository at one commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// The commit, 40 hexadecimal digits.
    pub commit: String,
    /// The files, in the order of their paths. Each path is relative and stays inside its folder.
    pub files: Vec<ListedFile>,
}

/// A file in a [`Listing`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedFile {
    /// The path in the repository, separated by `/`.
    pub path: String,
    /// The length in bytes; `None` if the hub does not tell.
    pub size: Option<u64>,
    /// The hash of the content; `None` if the hub does not tell.
    pub(super) etag: Option<Etag>,
}

impl Listing {
    /// Reads the answer to `GET /api/models/{repo}/revision/{revision}?blobs=true`.
    ///
    /// # Errors
    /// The fault, as the end of a sentence.
    pub(super) fn parse(json: &[u8]) -> Result<Self, String> {
        let answer: Answer = serde_json::from_slice(json)
            .map_err(|error| format!("expected a list of files, found broken JSON: {}", excerpt(&error.to_string())))?;
        if !is_hex(&answer.sha, 40) {
            return Err(format!("expected a commit of 40 hexadecimal digits, found {:?}", excerpt(&answer.sha)));
        }
        let mut files = Vec::with_capacity(answer.siblings.len());
        for Sibling { path, size, blob_id, lfs } in answer.siblings {
            if !is_safe(&path) {
                let path = excerpt(&path);
                return Err(format!("a file of the repository is named {path:?}, which is no path inside a folder"));
            }
            let (size, hash) = match lfs {
                Some(lfs) => (Some(lfs.size), Some(lfs.sha256)),
                None => (size, blob_id),
            };
            files.push(ListedFile { path, size, etag: hash.as_deref().and_then(Etag::of) });
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        Ok(Self { commit: answer.sha, files })
    }

    /// True if the repository has a file with this path.
    pub fn has(&self, path: &str) -> bool {
        self.files.binary_search_by(|file| file.path.as_str().cmp(path)).is_ok()
    }
}

#[derive(Deserialize)]
struct Answer {
    sha: String,
    #[serde(deserialize_with = "bounded")]
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    #[serde(rename = "rfilename")]
    path: String,
    size: Option<u64>,
    #[serde(rename = "blobId")]
    blob_id: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Deserialize)]
struct Lfs {
    #[serde(alias = "oid")]
    sha256: String,
    size: u64,
}

/// A list of at most [`MOST_FILES`] entries: an entry takes more memory than its few bytes of JSON.
fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<Sibling>, D::Error> {
    struct Bounded;
    impl<'de> Visitor<'de> for Bounded {
        type Value = Vec<Sibling>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "a list of at most {MOST_FILES} files")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut files = Vec::new();
            while let Some(file) = list.next_element()? {
                if files.len() == MOST_FILES {
                    return Err(A::Error::custom(format!("more than {MOST_FILES} files")));
                }
                files.push(file);
            }
            Ok(files)
        }
    }
    deserializer.deserialize_seq(Bounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHA: &str = "0123456789abcdef0123456789abcdef01234567";

    /// The shape of the hub's answer, shortened.
    #[test]
    fn the_hubs_answer_is_read() {
        let large = "a".repeat(64);
        let json = format!(
            r#"{{"_id": "x", "sha": "{SHA}", "gated": false, "siblings": [
              {{"rfilename": "vae/w.safetensors", "size": 9, "blobId": "{SHA}",
                "lfs": {{"sha256": "{large}", "size": 1000, "pointerSize": 134}}}},
              {{"rfilename": "a.json", "size": 2, "blobId": "{SHA}"}},
              {{"rfilename": "a.json"}},
              {{"rfilename": "b.json", "blobId": "../../x"}}]}}"#
        );
        let listing = Listing::parse(json.as_bytes()).unwrap();
        assert_eq!(listing.commit, SHA);
        let file = |path: &str, size, etag| ListedFile { path: path.into(), size, etag };
        let expected = [
            file("a.json", Some(2), Etag::of(SHA)),
            file("b.json", None, None),
            file("vae/w.safetensors", Some(1000), Etag::of(&large)),
        ];
        assert_eq!(listing.files, expected);
        assert!(listing.has("b.json") && !listing.has("c.json"));
    }

    #[test]
    fn hostile_answers_are_rejected() {
        for path in ["../../etc/passwd", "/etc/passwd", "..\\\\..\\\\x", "a/../../b", "C:x", "a\\nb", ""] {
            let json = format!(r#"{{"sha": "{SHA}", "siblings": [{{"rfilename": "{path}"}}]}}"#);
            let error = Listing::parse(json.as_bytes()).unwrap_err();
            assert!(error.contains("no path inside a folder") && !error.contains('\n'), "{error}");
        }
        for commit in ["", "main", "../x", "0123456789ABCDEF0123456789abcdef01234567"] {
            let json = format!(r#"{{"sha": "{commit}", "siblings": []}}"#);
            assert!(Listing::parse(json.as_bytes()).unwrap_err().contains("40 hexadecimal digits"));
        }
        let many = format!(r#"{{"sha": "{SHA}", "siblings": [{}0]}}"#, r#"{"rfilename": "a"},"#.repeat(MOST_FILES + 1));
        let nested = "[".repeat(1 << 20);
        for json in ["", "<html>", "{}", "[]", "null", &many, &nested] {
            let error = Listing::parse(json.as_bytes()).unwrap_err();
            assert!(error.contains("broken JSON") && error.len() < 300, "{error}");
        }
    }
}
