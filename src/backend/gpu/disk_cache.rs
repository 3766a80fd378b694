//! The disk cache: entries in the user's cache folder, each with a checksum and its key.
//!
//! An entry with a wrong checksum or key is ignored, whatever its name, and then replaced.

use super::cache_folder;
use std::path::PathBuf;

/// The first bytes of every entry; the last one is the format's version.
const MAGIC: &[u8] = b"zimage\0\x01";

/// A file for data derived from a key: magic, CRC-32 of the rest, length of the key, key, data.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CacheEntry {
    path: PathBuf,
    key: Vec<u8>,
}

impl CacheEntry {
    /// The entry of this name in the cache folder.
    pub(crate) fn named(name: &str, key: String) -> Option<Self> {
        Some(Self { path: cache_folder::folder()?.join(name), key: key.into() })
    }

    /// The stored data, unless it is empty.
    pub(crate) fn read(&self) -> Option<Vec<u8>> {
        let entry = cache_folder::read(&self.path)?;
        let (sum, rest) = entry.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
            return None;
        }
        let rest = rest.strip_prefix(&(self.key.len() as u64).to_le_bytes())?;
        rest.strip_prefix(self.key.as_slice()).filter(|data| !data.is_empty()).map(<[u8]>::to_vec)
    }

    /// Stores `data`. Failures are ignored: they only cost time at the next start.
    pub(crate) fn write(&self, data: &[u8]) {
        let rest = [&(self.key.len() as u64).to_le_bytes(), self.key.as_slice(), data].concat();
        let entry = [MAGIC, &crc32fast::hash(&rest).to_le_bytes(), rest.as_slice()].concat();
        let _ = cache_folder::write(&self.path, &entry);
    }
}

#[cfg(feature = "cuda")]
impl CacheEntry {
    /// An entry in a subfolder, named by the hash of its key.
    pub(crate) fn hashed(folder: &str, extension: &str, key: String) -> Option<Self> {
        let name = hash(key.as_bytes());
        Self::named(&format!("{folder}/{name:016x}.{extension}"), key)
    }
}

/// The FNV-1a hash.
#[cfg(feature = "cuda")]
pub(crate) fn hash(data: &[u8]) -> u64 {
    data.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_found_by_its_key_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cuda-sm_80/a.cubin");
        let file = |key: &str| CacheEntry { path: path.clone(), key: key.into() };
        assert_eq!(file("text").read(), None);
        file("text").write(b"code");
        assert_eq!(file("text").read().unwrap(), b"code");
        // The same name for a longer text that begins alike.
        assert_eq!(file("other").read(), None);
        assert_eq!(file("tex").read(), None);
        file("text").write(b"");
        assert_eq!(file("text").read(), None);
    }

    #[test]
    fn a_damaged_entry_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let entry = CacheEntry { path: folder.path().join("a.cubin"), key: b"text".to_vec() };
        entry.write(b"code");
        let whole = std::fs::read(&entry.path).unwrap();
        let stored = |bytes: &[u8]| {
            std::fs::write(&entry.path, bytes).unwrap();
            entry.read()
        };
        for bit in 0..8 * whole.len() {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(stored(&flipped), None, "bit {bit}");
        }
        for length in 0..whole.len() {
            assert_eq!(stored(&whole[..length]), None, "cut to {length} bytes");
        }
        assert_eq!(stored(&[&whole[..], b"x"].concat()), None, "grown");
        // The format of 0.1 had no checksum.
        assert_eq!(stored(&[&4u64.to_le_bytes()[..], b"text", b"code"].concat()), None);
        assert_eq!(stored(&whole).unwrap(), b"code");
    }
}
