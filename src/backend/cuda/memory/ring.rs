//! A ring buffer for copies that a stream makes ahead of their use.
//!
//! Slots of any size follow one another and start again at the front where the rest is too small. A
//! slot overwrites older ones, so it names the events after which nothing reads those any more.

use std::collections::VecDeque;
use std::ops::Range;

/// Alignment of slots: that of the driver's addresses.
const ALIGNMENT: u64 = 512;

/// The slots of a buffer. `E` marks the end of a slot's use.
#[derive(Debug)]
pub(crate) struct Ring<E> {
    bytes: u64,
    /// The end of the newest slot.
    head: u64,
    /// Oldest first.
    slots: VecDeque<Slot<E>>,
    next: u64,
}

#[derive(Debug)]
struct Slot<E> {
    number: u64,
    range: Range<u64>,
    /// The end of its use; `None` while it is in use.
    released: Option<E>,
}

/// A slot that was taken.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Taken<E> {
    pub number: u64,
    pub offset: u64,
    /// The events to wait for before the slot is written.
    pub after: Vec<E>,
}

impl<E> Ring<E> {
    /// An empty ring of `bytes`.
    pub(crate) fn new(bytes: u64) -> Self {
        Self { bytes, head: 0, slots: VecDeque::new(), next: 0 }
    }

    /// Takes a slot of `bytes`; `None` if the ring is too small for it beside the slots in use.
    pub(crate) fn take(&mut self, bytes: u64) -> Option<Taken<E>> {
        let bytes = bytes.next_multiple_of(ALIGNMENT);
        let offset = if self.head + bytes <= self.bytes { self.head } else { 0 };
        let range = offset..offset + bytes;
        if range.end > self.bytes {
            return None;
        }
        let overlaps = |slot: &Slot<E>| slot.range.start < range.end && range.start < slot.range.end;
        let overwritten = self.slots.iter().rposition(overlaps).map_or(0, |last| last + 1);
        if self.slots.iter().take(overwritten).any(|slot| slot.released.is_none()) {
            return None;
        }
        let after = self.slots.drain(..overwritten).filter_map(|slot| slot.released).collect();
        self.head = range.end;
        self.next += 1;
        self.slots.push_back(Slot { number: self.next, range, released: None });
        Some(Taken { number: self.next, offset, after })
    }

    /// Ends the use of a slot.
    pub(crate) fn release(&mut self, number: u64, end: E) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.number == number) {
            slot.released = Some(end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numbers::splitmix64;

    #[test]
    fn a_slot_waits_for_the_slots_that_it_overwrites() {
        let mut ring = Ring::new(3 * ALIGNMENT);
        let take = |ring: &mut Ring<&'static str>, slots: u64| ring.take(slots * ALIGNMENT);
        let first = take(&mut ring, 1).unwrap();
        let second = take(&mut ring, 2).unwrap();
        assert_eq!((first.offset, second.offset), (0, ALIGNMENT));
        assert!(first.after.is_empty() && second.after.is_empty());
        assert!(take(&mut ring, 1).is_none(), "the first slot is in use");
        ring.release(first.number, "first");
        let third = take(&mut ring, 1).unwrap();
        assert_eq!((third.offset, third.after), (0, vec!["first"]));
        ring.release(second.number, "second");
        let fourth = take(&mut ring, 2).unwrap();
        assert_eq!((fourth.offset, fourth.after), (ALIGNMENT, vec!["second"]));
        ring.release(third.number, "third");
        ring.release(fourth.number, "fourth");
        assert_eq!(take(&mut ring, 3).unwrap().after, ["third", "fourth"]);
        assert!(take(&mut ring, 4).is_none(), "a slot larger than the ring");
    }

    /// Every byte of a slot was released by all its earlier users before the slot is written.
    #[test]
    fn nothing_in_use_is_overwritten() {
        const UNITS: usize = 40;
        for seed in 0..50 {
            let random = |i: u64, below: u64| splitmix64(seed, i) % below;
            let mut ring = Ring::new(UNITS as u64 * ALIGNMENT);
            // The last user of each unit, and the slots whose end was waited for.
            let (mut users, mut ended) = ([0; UNITS], vec![0]);
            let mut in_use = VecDeque::new();
            for i in 0..400 {
                while in_use.len() > random(3 * i, 3) as usize {
                    let slot = in_use.pop_front().unwrap();
                    ring.release(slot, slot);
                }
                let units = 1 + random(3 * i + 1, 12) as usize;
                let Some(taken) = ring.take(units as u64 * ALIGNMENT) else { continue };
                ended.extend(taken.after);
                let start = (taken.offset / ALIGNMENT) as usize;
                for user in &mut users[start..start + units] {
                    assert!(ended.contains(user), "slot {} overwrites slot {user}", taken.number);
                    *user = taken.number;
                }
                in_use.push_back(taken.number);
            }
        }
    }
}
