//! A free list: the unused parts of a set of slabs.

use std::collections::BTreeMap;

/// Slabs and their free parts, each a map from address to bytes.
#[derive(Debug, Default)]
pub(crate) struct FreeList {
    slabs: BTreeMap<u64, u64>,
    /// Adjacent free parts of one slab are merged.
    free: BTreeMap<u64, u64>,
}

impl FreeList {
    /// Adds a slab of `bytes` whose first `used` bytes are taken.
    pub(crate) fn add_slab(&mut self, address: u64, bytes: u64, used: u64) {
        self.slabs.insert(address, bytes);
        if bytes > used {
            self.free.insert(address + used, bytes - used);
        }
    }

    /// Takes the start of the smallest free part that holds `bytes`.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<u64> {
        let fitting = self.free.iter().filter(|(_, len)| **len >= bytes);
        let (address, len) = fitting.min_by_key(|(_, len)| **len).map(|(address, len)| (*address, *len))?;
        self.free.remove(&address);
        if len > bytes {
            self.free.insert(address + bytes, len - bytes);
        }
        Some(address)
    }

    /// Returns a part.
    pub(crate) fn give(&mut self, mut address: u64, mut bytes: u64) {
        let before = self.free.range(..address).next_back().map(|(start, len)| (*start, *len));
        if let Some((start, len)) = before
            && start + len == address
            && !self.slabs.contains_key(&address)
        {
            self.free.remove(&start);
            address = start;
            bytes += len;
        }
        let next = address + bytes;
        if !self.slabs.contains_key(&next)
            && let Some(len) = self.free.remove(&next)
        {
            bytes += len;
        }
        self.free.insert(address, bytes);
    }

    /// Removes the slabs that are wholly free, and returns their addresses and bytes.
    pub(crate) fn take_unused(&mut self) -> Vec<(u64, u64)> {
        let Self { slabs, free } = self;
        let unused = slabs.iter().filter(|(address, bytes)| free.get(address) == Some(bytes));
        let unused: Vec<(u64, u64)> = unused.map(|(address, bytes)| (*address, *bytes)).collect();
        for (address, _) in &unused {
            slabs.remove(address);
            free.remove(address);
        }
        unused
    }

    /// Removes all slabs, and returns their addresses and bytes.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, u64)> {
        self.free.clear();
        std::mem::take(&mut self.slabs).into_iter().collect()
    }

    /// The bytes of all slabs.
    pub(crate) fn bytes(&self) -> u64 {
        self.slabs.values().sum()
    }

    /// The bytes of all free parts.
    pub(crate) fn free_bytes(&self) -> u64 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn adjacent_slabs_stay_separate() {
        let mut list = FreeList::default();
        list.add_slab(0, 64, 64);
        list.add_slab(64, 64, 64);
        list.give(0, 64);
        list.give(64, 64);
        assert_eq!((list.take(128), list.free_bytes()), (None, 128));
        assert_eq!(list.take_unused(), [(0, 64), (64, 64)]);
    }
}
