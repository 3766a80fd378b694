//! Hashes of files: their names in the cache, and the check of what was downloaded.

use sha1::Sha1;
use sha2::{Digest, Sha256};

/// The hash of a file's content in lower-case hexadecimal, which the hub sends as the file's ETag
/// and which names its blob in the cache: SHA-256 for a file in LFS or Xet, and the SHA-1 of git's
/// blob for any other (<https://git-scm.com/book/en/v2/Git-Internals-Git-Objects>).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Etag(String);

impl Etag {
    /// Reads a hash; `None` for anything else, which names no blob.
    pub(super) fn of(text: &str) -> Option<Self> {
        (is_hex(text, 40) || is_hex(text, 64)).then(|| Self(text.to_owned()))
    }

    /// Reads the value of a header: `"hash"` or `W/"hash"`.
    pub(super) fn of_header(value: &str) -> Option<Self> {
        Self::of(value.trim_start_matches("W/").trim_matches('"'))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    fn is_git(&self) -> bool {
        self.0.len() == 40
    }
}

/// True for `digits` lower-case hexadecimal digits.
pub(super) fn is_hex(text: &str, digits: usize) -> bool {
    text.len() == digits && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The hash of a file whose bytes arrive in order.
pub(super) enum Hasher {
    Sha256(Sha256),
    Git(Sha1),
}

impl Hasher {
    /// A hasher of the kind of `etag`, for a file of `size` bytes.
    pub(super) fn new(etag: &Etag, size: u64) -> Self {
        if etag.is_git() {
            Self::Git(Sha1::new_with_prefix(format!("blob {size}\0")))
        } else {
            Self::Sha256(Sha256::new())
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Git(hash) => hash.update(bytes),
        }
    }

    /// The hash of all bytes, as an ETag.
    pub(super) fn finish(self) -> Etag {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Etag(match self {
            Self::Sha256(hash) => hex(&hash.finalize()),
            Self::Git(hash) => hex(&hash.finalize()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash of the 14 bytes `hello, world!\n`, in two pieces.
    fn hash(etag: &str) -> String {
        let mut hasher = Hasher::new(&Etag::of(etag).unwrap(), 14);
        hasher.update(b"hello, ");
        hasher.update(b"world!\n");
        hasher.finish().as_str().to_owned()
    }

    /// The values are those of `git hash-object` and `sha256sum`.
    #[test]
    fn hashes_are_those_of_git_and_sha256sum() {
        let git = "270c611ee72c567bc1b2abec4cbc345bab9f15ba";
        let sha256 = "4dca0fd5f424a31b03ab807cbae77eb32bf2d089eed1cee154b3afed458de0dc";
        assert_eq!((hash(git), hash(sha256)), (git.to_owned(), sha256.to_owned()));
    }

    #[test]
    fn only_hashes_name_blobs() {
        let git = "270c611ee72c567bc1b2abec4cbc345bab9f15ba";
        assert_eq!(Etag::of_header(&format!("\"{git}\"")), Etag::of(git));
        assert_eq!(Etag::of_header(&format!("W/\"{git}\"")), Etag::of(git));
        for text in ["", "../../x", "270C611ee72c567bc1b2abec4cbc345bab9f15ba", "\"x\"", &git[1..]] {
            assert_eq!(Etag::of_header(text), None, "{text}");
        }
    }
}
