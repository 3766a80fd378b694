//! Files in the cache folder by what their data was made from.
//!
//! That is the file's first part: a file that was made from anything else is not used, whatever its name.

use super::cache;
use std::path::PathBuf;

/// A file for what is made from a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    path: PathBuf,
    key: Vec<u8>,
}

impl Kept {
    /// The file in this folder of the cache.
    pub(super) fn of(folder: &str, extension: &str, key: String) -> Option<Self> {
        let name = hash(key.as_bytes());
        let path = cache::folder()?.join(folder).join(format!("{name:016x}.{extension}"));
        Some(Self { path, key: key.into() })
    }

    /// What was written, unless it was nothing.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let kept = std::fs::read(&self.path).ok()?;
        let rest = kept.strip_prefix(&(self.key.len() as u64).to_le_bytes())?;
        rest.strip_prefix(self.key.as_slice()).filter(|data| !data.is_empty()).map(<[u8]>::to_vec)
    }

    pub(super) fn write(&self, data: &[u8]) {
        let length = (self.key.len() as u64).to_le_bytes();
        // A folder that cannot be written costs time at the next start, and nothing else.
        let _ = cache::write(&self.path, &[&length, self.key.as_slice(), data].concat());
    }
}

/// FNV-1a.
pub(super) fn hash(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_kept_for_what_it_was_made_from() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cuda-sm_80/a.cubin");
        let file = |key: &str| Kept { path: path.clone(), key: key.into() };
        assert_eq!(file("text").read(), None);
        file("text").write(b"code");
        assert_eq!(file("text").read().unwrap(), b"code");
        // The same name for another text, one of which is the start of the other, and a file that was cut.
        assert_eq!(file("other").read(), None);
        assert_eq!(file("tex").read(), None);
        file("text").write(b"");
        assert_eq!(file("text").read(), None);
    }
}
