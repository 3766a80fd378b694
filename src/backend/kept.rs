//! Entries of the cache folder, each with a checksum and the key that its data was made from.
//!
//! An entry whose checksum or key does not fit is not used, whatever its name; it is made again.

use super::cache;
use std::path::PathBuf;

/// The first bytes of every entry; the number is that of this format.
const MAGIC: &[u8] = b"zimage\0\x01";

/// A file for data that is made from a key: magic, CRC-32 of the rest, length of the key, key, data.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Kept {
    path: PathBuf,
    key: Vec<u8>,
}

impl Kept {
    /// The entry of this name in the cache folder.
    pub(super) fn named(name: &str, key: String) -> Option<Self> {
        Some(Self { path: cache::folder()?.join(name), key: key.into() })
    }

    /// The data that was written, unless it was empty.
    pub(super) fn read(&self) -> Option<Vec<u8>> {
        let entry = cache::read(&self.path)?;
        let (sum, rest) = entry.strip_prefix(MAGIC)?.split_first_chunk::<4>()?;
        if crc32fast::hash(rest) != u32::from_le_bytes(*sum) {
            return None;
        }
        let rest = rest.strip_prefix(&(self.key.len() as u64).to_le_bytes())?;
        rest.strip_prefix(self.key.as_slice()).filter(|data| !data.is_empty()).map(<[u8]>::to_vec)
    }

    pub(super) fn write(&self, data: &[u8]) {
        let rest = [&(self.key.len() as u64).to_le_bytes(), self.key.as_slice(), data].concat();
        let entry = [MAGIC, &crc32fast::hash(&rest).to_le_bytes(), rest.as_slice()].concat();
        // A folder that cannot be written costs time at the next start, and nothing else.
        let _ = cache::write(&self.path, &entry);
    }
}

#[cfg(feature = "cuda")]
impl Kept {
    /// The entry in this folder of the cache that is named by its key's hash.
    pub(super) fn of(folder: &str, extension: &str, key: String) -> Option<Self> {
        let name = hash(key.as_bytes());
        Self::named(&format!("{folder}/{name:016x}.{extension}"), key)
    }
}

/// FNV-1a.
#[cfg(feature = "cuda")]
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
        // The same name for a longer text that begins alike.
        assert_eq!(file("other").read(), None);
        assert_eq!(file("tex").read(), None);
        file("text").write(b"");
        assert_eq!(file("text").read(), None);
    }

    #[test]
    fn a_damaged_entry_is_not_used() {
        let folder = tempfile::tempdir().unwrap();
        let kept = Kept { path: folder.path().join("a.cubin"), key: b"text".to_vec() };
        kept.write(b"code");
        let whole = std::fs::read(&kept.path).unwrap();
        let stored = |bytes: &[u8]| {
            std::fs::write(&kept.path, bytes).unwrap();
            kept.read()
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
