//! Streaming: the blocks whose matrices stay in host memory, and the bytes of a network on a
//! device.

use super::stacked::Stacked;
use crate::backend::Backend;
use crate::tensor::{Compute, Storage, StreamSource};
use crate::weights::Tensors;

/// The blocks of a network that are streamed to the device at each use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Streaming {
    /// None of them: every tensor is on the device.
    #[default]
    None,
    /// All but `resident` of them, and the table of embeddings. Blocks that run once a prompt are
    /// streamed too.
    AllBut {
        /// The blocks that stay on the device.
        resident: usize,
        /// The memory of the others.
        source: StreamSource,
    },
}

impl Streaming {
    /// The memory that block `index` of the `count` that run one after another is streamed from, if
    /// it is. The others are spread evenly, so that copies go on while they compute.
    pub(crate) fn streams(self, index: usize, count: usize) -> Option<StreamSource> {
        match self {
            Streaming::None => None,
            Streaming::AllBut { resident, source } => {
                let before = |index: usize| index * resident.min(count) / count;
                (before(index + 1) == before(index)).then_some(source)
            }
        }
    }

    /// The source of the blocks that run once a prompt, if they are streamed.
    pub(crate) fn source(self) -> Option<StreamSource> {
        match self {
            Streaming::None => None,
            Streaming::AllBut { source, .. } => Some(source),
        }
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
    /// Bytes of matrices that no mapped file holds: they are converted or changed on their way.
    pub made: u64,
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
            Streaming::AllBut { .. } => {
                self.rest + self.blocks.iter().map(|block| block.bytes).sum::<u64>() - self.streamed(streaming)
            }
        }
    }

    /// The bytes that are copied to the device at each use of the network.
    pub fn streamed(&self, streaming: Streaming) -> u64 {
        let streamed = |(i, block): (usize, &BlockBytes)| match streaming.streams(i, self.blocks.len()) {
            Some(_) => block.bytes,
            None => 0,
        };
        self.blocks.iter().enumerate().map(streamed).sum()
    }

    /// The bytes in host memory.
    pub fn of_host(&self, streaming: Streaming) -> u64 {
        let Some(source) = streaming.source() else { return 0 };
        let count = self.blocks.len();
        let in_steps = self.blocks.iter().enumerate().filter(|&(i, _)| streaming.streams(i, count).is_some());
        let streamed = in_steps.map(|(_, block)| block).chain(&self.once);
        let bytes = streamed.map(|block| match source {
            StreamSource::Memory => block.bytes,
            StreamSource::Files => block.made,
        });
        // Kernels read the table in the backend's memory.
        self.table + bytes.sum::<u64>()
    }

    /// The largest matrix of a block.
    pub fn largest(&self) -> u64 {
        self.blocks.iter().chain(&self.once).map(|block| block.largest).max().unwrap_or(0)
    }

    /// The elements of the largest quantised matrix.
    pub fn quantized(&self) -> u64 {
        self.blocks.iter().chain(&self.once).map(|block| block.quantized).max().unwrap_or(0)
    }

    /// The bytes of the matrices of a block.
    pub(super) fn of_block<B: Backend>(b: &B, tensors: &Tensors, stacks: &[Stacked]) -> BlockBytes {
        let mut block = BlockBytes::default();
        for Stacked { of, compute } in stacks {
            let on_device = |(name, shape): &(String, [usize; 2])| bytes_of(b, tensors, name, shape, *compute);
            let bytes = of.iter().map(on_device).sum();
            if !of.iter().all(|(name, shape)| is_mapped(b, tensors, name, shape, *compute)) {
                block.made += bytes;
            }
            block.bytes += bytes;
            block.largest = block.largest.max(bytes);
            let quantized = |(name, shape): &(String, [usize; 2])| {
                let format = tensors.on_the_way(name, shape, *compute).and_then(|stored| stored.format);
                format.is_some_and(|format| b.keeps(format))
            };
            // FP8 gemms read quantised matrices where they are.
            if *compute == Compute::Native && of.iter().any(quantized) {
                let elements: usize = of.iter().map(|(_, [n, k])| n * k).sum();
                block.quantized = block.quantized.max(elements as u64);
            }
        }
        block
    }
}

/// The bytes of a tensor on a device; 0 if the files have none of this name.
pub fn device_bytes<B: Backend>(b: &B, tensors: &Tensors, name: &str, shape: &[usize]) -> u64 {
    bytes_of(b, tensors, name, shape, Compute::Native)
}

fn bytes_of<B: Backend>(b: &B, tensors: &Tensors, name: &str, shape: &[usize], compute: Compute) -> u64 {
    let Some(stored) = tensors.on_the_way(name, shape, compute) else { return 0 };
    let elements = shape.iter().product();
    let kept = stored.format.filter(|format| shape.len() == 2 && b.keeps(*format));
    match (kept.and_then(|format| format.bytes(elements)), stored.in_memory) {
        (Some(bytes), _) => bytes as u64,
        (None, Some(dtype)) => elements as u64 * b.weights(dtype).size() as u64,
        (None, None) => stored.bytes,
    }
}

/// True if a mapped file holds the rows of a matrix that an upload passes to the backend.
pub(super) fn is_mapped<B: Backend>(b: &B, tensors: &Tensors, name: &str, shape: &[usize], compute: Compute) -> bool {
    let Some(stored) = tensors.on_the_way(name, shape, compute) else { return false };
    let kept = stored.format.is_some_and(|format| b.keeps(format));
    let plain = stored.format.is_some_and(|format| Storage::Plain(format).is_plain());
    stored.is_mapped && (kept || plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_but(resident: usize) -> Streaming {
        Streaming::AllBut { resident, source: StreamSource::Memory }
    }

    #[test]
    fn resident_blocks_are_spread_evenly() {
        let resident = |resident| (0..8).filter(|&i| all_but(resident).streams(i, 8).is_none()).collect::<Vec<_>>();
        assert!(resident(0).is_empty());
        assert_eq!(resident(1), [7]);
        assert_eq!(resident(2), [3, 7]);
        assert_eq!(resident(3), [2, 5, 7]);
        assert_eq!(resident(8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(resident(9).len(), 8);
        assert!((0..8).all(|i| Streaming::None.streams(i, 8).is_none()));
    }

    #[test]
    fn streamed_and_resident_bytes_add_up() {
        let block = |bytes| BlockBytes { bytes, largest: bytes / 2, quantized: 0, made: bytes / 10 };
        let network =
            NetworkBytes { blocks: vec![block(10), block(20), block(30)], once: vec![block(80)], table: 7, rest: 5 };
        assert_eq!((network.total(), network.largest()), (152, 40));
        assert_eq!(network.resident(Streaming::None), 152);
        assert_eq!((network.resident(all_but(0)), network.streamed(all_but(0))), (5, 60));
        assert_eq!((network.resident(all_but(1)), network.streamed(all_but(1))), (35, 30));
        assert_eq!((network.resident(all_but(3)), network.streamed(all_but(3))), (65, 0));
        assert_eq!(network.streamed(Streaming::None), 0);
        assert_eq!(
            [Streaming::None, all_but(0), all_but(1)].map(|streaming| network.of_host(streaming)),
            [0, 147, 117]
        );
        let from_files = |resident| Streaming::AllBut { resident, source: StreamSource::Files };
        assert_eq!([0, 3].map(|resident| network.of_host(from_files(resident))), [21, 15]);
    }
}
