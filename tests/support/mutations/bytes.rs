//! Format-agnostic damage, and its random numbers.

/// SplitMix64: a seed gives the same numbers on every machine.
pub(crate) struct Rng(u64);

impl Rng {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `n`, which must not be 0.
    pub(super) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub(super) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// A range within `length` bytes, usually a short one.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let start = self.below(length.max(1)).min(length);
        let longest = *self.pick(&[1, 4, 16, 256, 65536]);
        let end = (start + 1 + self.below(longest)).min(length);
        start..end
    }
}

/// Applies one to three changes to the bytes.
pub(super) fn damage(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    for _ in 0..=rng.below(3) {
        change(rng, &mut bytes);
    }
    bytes
}

fn change(rng: &mut Rng, bytes: &mut Vec<u8>) {
    if bytes.is_empty() {
        bytes.push(rng.next() as u8);
        return;
    }
    let at = rng.below(bytes.len());
    match rng.below(10) {
        0 | 1 => bytes[at] ^= 1 << rng.below(8),
        2 => bytes[at] = *rng.pick(b"\0\xff\x7f\x80\"{}[]:,0919-.eE\\nt \xc3\xef\xed"),
        3 => bytes[at] = rng.next() as u8,
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(rng.range(bytes.len()))),
        6 => {
            let part = bytes[rng.range(bytes.len())].to_vec();
            drop(bytes.splice(at..at, part));
        }
        7 => {
            let part = bytes[rng.range(bytes.len())].to_vec();
            let end = (at + part.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&part[..end - at]);
        }
        8 => {
            let range = rng.range(bytes.len());
            let value = *rng.pick(&[0u8, 0xff, b' ', b'9']);
            bytes[range].fill(value);
        }
        _ => {
            let part: Vec<u8> = (0..=rng.below(32)).map(|_| rng.next() as u8).collect();
            drop(bytes.splice(at..at, part));
        }
    }
}
