//! The time to read the linear layers of a transformer's blocks as a CUDA device gets them: rounded
//! to BF16, and copied once by all threads, as into page-locked memory. `make.py` makes the files:
//!
//! ```text
//! cargo run --release --no-default-features --example loading -- MODEL [LORA]
//! ```

use pollster::block_on;
use rayon::prelude::*;
use std::env::args;
use std::path::Path;
use std::slice::from_ref;
use std::time::Instant;
use zimage::tensor::{DType, HostTensor, Weight};
use zimage::weights::{Lora, Part, Sources, Tensors, Unused};
use zimage::{Model, Result};

/// The linear layers of a block.
const LAYERS: [&str; 7] = [
    "attention.to_q",
    "attention.to_k",
    "attention.to_v",
    "attention.to_out.0",
    "feed_forward.w1",
    "feed_forward.w2",
    "feed_forward.w3",
];
/// Runs; the fastest one counts.
const RUNS: usize = 3;
/// The bytes of BF16 that a thread copies at once.
const CHUNK: usize = 512 << 10;

fn main() -> Result<()> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [model, loras @ ..] = &arguments[..] else { panic!("expected the path of a model") };
    let model = Model::from_sources(&Sources::of(model))?;
    let start = Instant::now();
    let loras = loras.iter().map(|path| Ok((block_on(Lora::open(Path::new(path)))?, 1.0)));
    let loras = loras.collect::<Result<Vec<_>>>()?;
    let (model, reports) = block_on(model.with_loras(&loras, Unused::Refuse))?;
    reports.iter().for_each(|report| println!("{report} in {:.2?}", start.elapsed()));
    let tensors = block_on(Tensors::of(model.folder(), Part::Transformer))?;
    let config = &model.config().transformer;
    let (dim, hidden) = (config.dim, config.ffn_dim());
    let mut fastest = f64::INFINITY;
    let mut weights = 0;
    for _ in 0..RUNS {
        weights = 0;
        let start = Instant::now();
        for (i, layer) in (0..config.n_layers).flat_map(|i| LAYERS.map(|layer| (i, layer))) {
            let shape = match layer {
                "feed_forward.w1" | "feed_forward.w3" => [hidden, dim],
                "feed_forward.w2" => [dim, hidden],
                _ => [dim, dim],
            };
            block_on(read(&tensors, &format!("layers.{i}.{layer}.weight"), shape))?;
            weights += shape[0] * shape[1];
        }
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    let threads = rayon::current_num_threads() as f64;
    let each = fastest * 1e9 * threads / weights as f64;
    println!(
        "{:.0} M weights in {fastest:.3} s on {threads} threads: {each:.2} ns for a weight on one",
        weights as f64 / 1e6
    );
    Ok(())
}

async fn read(tensors: &Tensors, name: &str, shape: [usize; 2]) -> Result<()> {
    let weight = tensors.weight(name, &shape, &|_| Ok(())).await?.in_bf16();
    let mut staging = Vec::new();
    let copy = |_, piece: HostTensor| {
        staging.resize(piece.len() * 2, 0);
        assert_eq!(piece.dtype(), DType::Bf16);
        staging
            .par_chunks_mut(CHUNK)
            .zip(piece.bytes().par_chunks(CHUNK))
            .for_each(|(to, from)| to.copy_from_slice(from));
        Ok(())
    };
    Weight::each_piece(from_ref(&weight), copy).await
}
