//! A GGUF file in the formats whose blocks have 256 elements draws the picture of the diffusers
//! folder with its numbers, byte for byte on `cpu`. `Format::dequantize` gives the numbers, which
//! the unit tests of `src/tensor` hold against the package `gguf`.
//!
//! The model is made here, because its width of 768 is too large for a committed file: the hidden
//! width is then 2048, and every matrix of a block has rows of whole super-blocks.

#[allow(dead_code, reason = "tests/gguf.rs uses the rest")]
#[path = "support/gguf.rs"]
mod gguf;
#[path = "support/single_files.rs"]
mod single_files;

use half::f16;
use pollster::block_on;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use single_files::{expected, exports};
use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use zimage::tensor::Format;
use zimage::weights::{Sources, Tensors};
use zimage::{BackendChoice, Engine, Model, Request};

const WIDTH: usize = 768;
const HIDDEN: usize = WIDTH / 3 * 8;
const HEAD: usize = 64;
/// The width of the text encoder of the small exports, and of its timestep embedding.
const CAPTION: usize = 64;
const TIME: usize = 256;

/// A format's id in GGUF files, the offsets of the f16 scales in a block, and the largest scale:
/// the values are then about as large as those of a trained matrix, 0.05.
const K_QUANTS: [(u32, &[usize], f32); 6] = [
    (10, &[80, 82], 5e-3), // Q2_K
    (11, &[108], 1e-3),    // Q3_K
    (12, &[0, 2], 2e-4),   // Q4_K
    (13, &[0, 2], 1e-4),   // Q5_K
    (14, &[208], 5e-5),    // Q6_K
    (23, &[0], 5e-5),      // IQ4_XS
];

/// Random numbers (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    /// A number from −1 to 1.
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u32 << 31) as f32 - 1.0
    }

    /// Random blocks of a format with scales that give values of the size of a weight.
    fn blocks(&mut self, bytes: usize, block: usize, scales: &[usize], largest: f32) -> Vec<u8> {
        let mut data: Vec<u8> = (0..bytes / 4).flat_map(|_| self.next().to_le_bytes()).collect();
        for block in data.chunks_exact_mut(block) {
            for &at in scales {
                let scale = f16::from_f32((0.75 + 0.25 * self.float()) * largest);
                block[at..at + 2].copy_from_slice(&scale.to_le_bytes());
            }
        }
        data
    }
}

/// The transformer in the making: as a GGUF file, and its numbers in the names of diffusers.
struct Made {
    numbers: Numbers,
    file: Vec<gguf::Tensor>,
    folder: BTreeMap<String, (Vec<usize>, Vec<f32>)>,
    /// The quantised matrices so far, which take the formats in turn.
    quantised: usize,
}

impl Made {
    /// A tensor in F32 of values near `center`.
    fn floats(&mut self, name: &str, new: &str, shape: &[usize], center: f32, spread: f32) {
        let count = shape.iter().product();
        let values: Vec<f32> = (0..count).map(|_| center + spread * self.numbers.float()).collect();
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.add(name, shape, gguf::F32, data);
        self.folder.insert(new.to_owned(), (shape.to_vec(), values));
    }

    /// A matrix in the next format, which diffusers stores as one of each of these names.
    fn matrix(&mut self, name: &str, new: &[String], rows: usize, columns: usize) {
        let (id, scales, largest) = K_QUANTS[self.quantised % K_QUANTS.len()];
        self.quantised += 1;
        let format = Format::from_ggml(id).unwrap();
        let data = self.numbers.blocks(format.bytes(rows * columns).unwrap(), format.block().bytes, scales, largest);
        let mut values = vec![0.0; rows * columns];
        format.dequantize(&data, &mut values);
        self.add(name, &[rows, columns], id, data);
        let each = rows / new.len();
        for (new, values) in new.iter().zip(values.chunks_exact(each * columns)) {
            self.folder.insert(new.clone(), (vec![each, columns], values.to_vec()));
        }
    }

    fn add(&mut self, name: &str, shape: &[usize], kind: u32, data: Vec<u8>) {
        let sizes = shape.iter().rev().map(|&size| size as u64).collect();
        self.file.push(gguf::Tensor { name: name.to_owned(), sizes, kind, data });
    }

    /// A linear layer in F32.
    fn linear(&mut self, name: &str, new: &str, [rows, columns]: [usize; 2]) {
        let [weight, bias] = ["weight", "bias"];
        let spread = (3.0 / columns as f32).sqrt();
        self.floats(&format!("{name}.{weight}"), &format!("{new}.{weight}"), &[rows, columns], 0.0, spread);
        self.floats(&format!("{name}.{bias}"), &format!("{new}.{bias}"), &[rows], 0.0, 0.1);
    }

    /// The weight of a norm.
    fn norm(&mut self, name: &str, new: &str, width: usize) {
        self.floats(&format!("{name}.weight"), &format!("{new}.weight"), &[width], 1.0, 0.1);
    }

    fn block(&mut self, block: &str, modulated: bool) {
        let named =
            |inner: &[&str]| -> Vec<String> { inner.iter().map(|inner| format!("{block}.{inner}.weight")).collect() };
        let mut matrix = |name: &str, new: &[&str], rows: usize, columns: usize| {
            self.matrix(&format!("{block}.{name}.weight"), &named(new), rows, columns);
        };
        let separate = ["attention.to_q", "attention.to_k", "attention.to_v"];
        matrix("attention.qkv", &separate, 3 * WIDTH, WIDTH);
        matrix("attention.out", &["attention.to_out.0"], WIDTH, WIDTH);
        matrix("feed_forward.w1", &["feed_forward.w1"], HIDDEN, WIDTH);
        matrix("feed_forward.w2", &["feed_forward.w2"], WIDTH, HIDDEN);
        matrix("feed_forward.w3", &["feed_forward.w3"], HIDDEN, WIDTH);
        if modulated {
            matrix("adaLN_modulation.0", &["adaLN_modulation.0"], 4 * WIDTH, TIME);
            let bias = format!("{block}.adaLN_modulation.0.bias");
            self.floats(&bias, &bias, &[4 * WIDTH], 0.0, 0.1);
        }
        for (name, new) in [("q_norm", "norm_q"), ("k_norm", "norm_k")] {
            self.norm(&format!("{block}.attention.{name}"), &format!("{block}.attention.{new}"), HEAD);
        }
        for name in ["attention_norm1", "attention_norm2", "ffn_norm1", "ffn_norm2"] {
            self.norm(&format!("{block}.{name}"), &format!("{block}.{name}"), WIDTH);
        }
    }

    fn transformer() -> Self {
        let numbers = Numbers(0x0123_4567_89ab_cdef);
        let mut made = Self { numbers, file: Vec::new(), folder: BTreeMap::new(), quantised: 0 };
        for (block, modulated) in [("layers.0", true), ("noise_refiner.0", true), ("context_refiner.0", false)] {
            made.block(block, modulated);
        }
        made.linear("x_embedder", "all_x_embedder.2-1", [WIDTH, 64]);
        made.linear("final_layer.linear", "all_final_layer.2-1.linear", [64, WIDTH]);
        let modulation = "final_layer.adaLN_modulation.1";
        made.linear(modulation, "all_final_layer.2-1.adaLN_modulation.1", [WIDTH, TIME]);
        made.linear("t_embedder.mlp.0", "t_embedder.mlp.0", [1024, 256]);
        made.linear("t_embedder.mlp.2", "t_embedder.mlp.2", [TIME, 1024]);
        made.norm("cap_embedder.0", "cap_embedder.0", CAPTION);
        made.linear("cap_embedder.1", "cap_embedder.1", [WIDTH, CAPTION]);
        for name in ["x_pad_token", "cap_pad_token"] {
            made.floats(name, name, &[1, WIDTH], 0.0, 1.0);
        }
        made
    }
}

/// A small picture on `cpu`.
fn picture(model: &Model) -> Vec<u8> {
    let quiet = &mut |_| ControlFlow::Continue(());
    let engine = block_on(Engine::load(model, BackendChoice::Cpu, quiet)).unwrap();
    assert_eq!(engine.warnings(), [""; 0]);
    let request = Request { width: Some(32), height: Some(24), steps: Some(1), ..Request::new("a red fox") };
    block_on(engine.generate(&request, quiet)).unwrap().images.remove(0).pixels
}

#[test]
fn k_quants_draw_the_picture_of_their_numbers() {
    let made = Made::transformer();
    let folder = expected(None, None);
    let file = folder.path().join("k_quants.gguf");
    let architecture = ("general.architecture", gguf::Value::Text("lumina2".into()));
    fs::write(&file, gguf::File::new(vec![architecture], made.file).bytes()).unwrap();

    let part = folder.path().join("transformer");
    for old in fs::read_dir(&part).unwrap().map(|entry| entry.unwrap().path()) {
        if !old.ends_with("config.json") {
            fs::remove_file(old).unwrap();
        }
    }
    let mut config: Value = serde_json::from_slice(&fs::read(part.join("config.json")).unwrap()).unwrap();
    let sizes = json!({"dim": WIDTH, "n_heads": WIDTH / HEAD, "n_kv_heads": WIDTH / HEAD, "axes_dims": [16, 24, 24]});
    config.as_object_mut().unwrap().extend(sizes.as_object().unwrap().clone());
    fs::write(part.join("config.json"), config.to_string()).unwrap();
    let stored = made.folder.iter().map(|(name, (shape, values))| {
        (name, TensorView::new(Dtype::F32, shape.clone(), bytemuck::cast_slice(values)).unwrap())
    });
    fs::write(part.join("diffusion_pytorch_model.safetensors"), safetensors::serialize(stored, None).unwrap()).unwrap();

    let tensors = block_on(Tensors::open_file(&file)).unwrap();
    for (id, ..) in K_QUANTS {
        let format = Format::from_ggml(id).unwrap().to_string();
        assert!(tensors.iter().filter(|tensor| tensor.dtype.to_string() == format).count() >= 2, "{format}");
    }
    let model = || Some(exports().join("model"));
    let files = Sources { text_encoder: model(), vae: model(), tokenizer: model(), ..Sources::of(&file) };
    let drawn = picture(&Model::from_sources(&files).unwrap());
    assert!(drawn == picture(&Model::open(folder.path()).unwrap()), "another picture");
}
