//! Streaming: the blocks whose matrices stay in host memory, and the bytes of a network on a
//! device.

use crate::backend::Backend;
use crate::weights::Tensors;

/// The blocks of a network that are streamed to the device at each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streaming {
    /// None of them: every tensor is on the device.
    #[default]
    None,
    /// All but so many, and the table of embeddings. Blocks that run once a prompt are streamed
    /// too.
    AllBut(usize),
}

impl Streaming {
    /// True if block `index` of the `count` that run one after another is streamed. The others are
    /// spread evenly, so that copies go on while they compute.
    pub(crate) fn streams(self, index: usize, count: usize) -> bool {
        match self {
            Streaming::None => false,
            Streaming::AllBut(resident) => {
                let before = |index: usize| index * resident.min(count) / count;
                before(index + 1) == before(index)
            }
        }
    }

    /// True if anything is streamed that runs once a prompt.
    pub(crate) fn is_some(self) -> bool {
        self != Streaming::None
    }
}

/// The bytes of a network's tensors on a device.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkBytes {
    /// The matrices of the blocks that run in each step or for each prompt, in order.
    pub blocks: Vec<BlockBytes>,
    /// The matrices of the context refiner, which runs once a prompt.
    pub once: Vec<BlockBytes>,
    /// The table of embeddings.
    pub table: u64,
    /// Everything else.
    pub rest: u64,
}

/// The bytes of a block's matrices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BlockBytes {
    /// All of them.
    pub bytes: u64,
    /// The largest that an op reads at once.
    pub largest: u64,
    /// The elements of the largest that is quantised.
    pub quantized: u64,
}

impl NetworkBytes {
    /// All bytes.
    pub fn total(&self) -> u64 {
        self.blocks.iter().chain(&self.once).map(|block| block.bytes).sum::<u64>() + self.table + self.rest
    }

    /// The bytes on the device.
    pub fn resident(&self, streaming: Streaming) -> u64 {
        match streaming {
            Streaming::None => self.total(),
            Streaming::AllBut(_) => {
                self.rest + self.blocks.iter().map(|block| block.bytes).sum::<u64>() - self.streamed(streaming)
            }
        }
    }

    /// The bytes that are copied to the device at each use of the network.
    pub fn streamed(&self, streaming: Streaming) -> u64 {
        let streamed = |(i, block): (usize, &BlockBytes)| match streaming.streams(i, self.blocks.len()) {
            true => block.bytes,
            false => 0,
        };
        self.blocks.iter().enumerate().map(streamed).sum()
    }

    /// The largest matrix of a block.
    pub fn largest(&self) -> u64 {
        self.blocks.iter().chain(&self.once).map(|block| block.largest).max().unwrap_or(0)
    }

    /// The elements of the largest quantised matrix.
    pub fn quantized(&self) -> u64 {
        self.blocks.iter().chain(&self.once).map(|block| block.quantized).max().unwrap_or(0)
    }

    /// The bytes of `stacks`, the matrices of a block that an op reads at once.
    pub(super) fn of_block<B: Backend>(b: &B, tensors: &Tensors, stacks: &[Vec<(String, [usize; 2])>]) -> BlockBytes {
        let mut block = BlockBytes::default();
        for stack in stacks {
            let bytes = stack.iter().map(|(name, shape)| device_bytes(b, tensors, name, shape)).sum();
            block.bytes += bytes;
            block.largest = block.largest.max(bytes);
            let quantized = |(name, shape): &(String, [usize; 2])| {
                let format = tensors.on_the_way(name, shape).and_then(|stored| stored.format);
                format.is_some_and(|format| b.keeps(format))
            };
            if stack.iter().any(quantized) {
                let elements: usize = stack.iter().map(|(_, [n, k])| n * k).sum();
                block.quantized = block.quantized.max(elements as u64);
            }
        }
        block
    }
}

/// The bytes of a tensor on a device; 0 if the files have none of this name.
pub fn device_bytes<B: Backend>(b: &B, tensors: &Tensors, name: &str, shape: &[usize]) -> u64 {
    let Some(stored) = tensors.on_the_way(name, shape) else { return 0 };
    let elements = shape.iter().product();
    let kept = stored.format.filter(|format| shape.len() == 2 && b.keeps(*format));
    match (kept.and_then(|format| format.bytes(elements)), stored.in_memory) {
        (Some(bytes), _) => bytes as u64,
        (None, Some(dtype)) => elements as u64 * b.weights(dtype).size() as u64,
        (None, None) => stored.bytes,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_blocks_are_spread_evenly() {
        let resident = |resident| (0..8).filter(|&i| !Streaming::AllBut(resident).streams(i, 8)).collect::<Vec<_>>();
        assert!(resident(0).is_empty());
        assert_eq!(resident(1), [7]);
        assert_eq!(resident(2), [3, 7]);
        assert_eq!(resident(3), [2, 5, 7]);
        assert_eq!(resident(8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(resident(9).len(), 8);
        assert!((0..8).all(|i| !Streaming::None.streams(i, 8)));
    }

    #[test]
    fn streamed_and_resident_bytes_add_up() {
        let block = |bytes| BlockBytes { bytes, largest: bytes / 2, quantized: 0 };
        let network =
            NetworkBytes { blocks: vec![block(10), block(20), block(30)], once: vec![block(80)], table: 7, rest: 5 };
        assert_eq!((network.total(), network.largest()), (152, 40));
        assert_eq!(network.resident(Streaming::None), 152);
        assert_eq!((network.resident(Streaming::AllBut(0)), network.streamed(Streaming::AllBut(0))), (5, 60));
        assert_eq!((network.resident(Streaming::AllBut(1)), network.streamed(Streaming::AllBut(1))), (35, 30));
        assert_eq!((network.resident(Streaming::AllBut(3)), network.streamed(Streaming::AllBut(3))), (65, 0));
        assert_eq!(network.streamed(Streaming::None), 0);
    }
}
