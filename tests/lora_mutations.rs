//! Thousands of damaged LoRA files: each ends in a sentence or in finite weights, and none makes
//! the reader panic or ask for much more memory than the file has bytes. This program has one test,
//! because its allocator sees every allocation of the process.

use pollster::block_on;
use std::alloc::{GlobalAlloc, Layout, System};
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use zimage::tensor::{HostTensor, Weight};
use zimage::weights::{Lora, LoraStack, ModelFolder, Targets, Tensors, Transform, Unused};

/// The system's allocator, with the largest request since the last reset.
struct Largest;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Largest {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise about `start` and `layout`.
        unsafe { System.dealloc(start, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise about `layout`.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, start: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        // SAFETY: the caller's promise about all three.
        unsafe { System.realloc(start, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Largest = Largest;

/// Damaged files, made of all that `tools/lora` makes.
const CASES: usize = 4000;

/// A sequence of numbers below a bound (xorshift64*).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound
    }
}

/// Damages a file: its header's text, its length, or any bytes.
fn damage(file: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    let mut file = file.to_vec();
    let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
    for _ in 0..1 + numbers.below(3) {
        let at = 8 + numbers.below(header);
        match numbers.below(8) {
            0 => file.truncate(numbers.below(file.len()).max(1)),
            1 => {
                let at = numbers.below(file.len());
                file[at] = numbers.below(256) as u8;
            }
            2 => file[numbers.below(8)] = numbers.below(256) as u8,
            // Digits of shapes and offsets, which keep the header's length.
            3 | 4 => {
                let digits: Vec<usize> =
                    (8..(8 + header).min(file.len())).filter(|&i| file[i].is_ascii_digit()).collect();
                if !digits.is_empty() {
                    file[digits[numbers.below(digits.len())]] = b'0' + numbers.below(10) as u8;
                }
            }
            // A name that becomes another role or module.
            5 | 6 => {
                let words: [(&[u8], &[u8]); 7] = [
                    (b"lora_A", b"lora_B"),
                    (b"_w1", b"_w2"),
                    (b"lora_down", b"dora_scal"),
                    (b"to_k", b"to_q"),
                    (b"alpha", b"scale"),
                    (b"F32", b"I32"),
                    (b"BF16", b" F16"),
                ];
                let (old, new) = words[numbers.below(words.len())];
                let places: Vec<usize> =
                    (8..file.len().saturating_sub(old.len())).filter(|&i| file[i..].starts_with(old)).collect();
                if !places.is_empty() {
                    let at = places[numbers.below(places.len())];
                    file[at..at + new.len()].copy_from_slice(new);
                }
            }
            _ if at < file.len() => file[at] = b"\"{}[],:0 \\\xff"[numbers.below(11)],
            _ => {}
        }
        if file.len() < 8 + header {
            break;
        }
    }
    file
}

#[test]
fn damaged_files_end_in_a_sentence() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let folder = ModelFolder::open(&root.join("goldens/single")).unwrap();
    let transformer = block_on(Tensors::open(&folder, "transformer", "diffusion_pytorch_model")).unwrap();
    let text_encoder = block_on(Tensors::open(&folder, "text_encoder", "model")).unwrap();
    let targets = Targets::of(&transformer, &text_encoder);
    let weights: Vec<(String, HostTensor)> = transformer
        .iter()
        .map(|listing| (listing.name.to_owned(), block_on(transformer.take(listing.name, listing.shape)).unwrap()))
        .collect();
    let mut files: Vec<_> = fs::read_dir(root.join("lora")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|path| {
        path.extension().is_some_and(|end| end == "safetensors") && !path.to_str().unwrap().contains("merged")
    });
    files.sort();
    let files: Vec<Vec<u8>> = files.iter().map(|path| fs::read(path).unwrap()).collect();
    let mut numbers = Numbers(15);
    let (mut refused, mut applied) = (0, 0);
    for case in 0..CASES {
        let file = damage(&files[case % files.len()], &mut numbers);
        let len = file.len();
        LARGEST.store(0, Ordering::Relaxed);
        let lora = block_on(Lora::in_memory("damaged.safetensors", file.into()));
        let bound = lora.and_then(|lora| lora.bind(&targets, 1.0, Unused::Allow));
        let largest = LARGEST.load(Ordering::Relaxed);
        // Beside the file: a few rows of the model, which a comparison of two layers takes.
        assert!(largest <= 2 * len + 16 * 1024, "case {case}: {largest} bytes at once for a file of {len}");
        match bound {
            Ok(bound) => {
                let stack = LoraStack::new(vec![bound]);
                for (name, weight) in weights.iter().filter(|(name, _)| stack.changes(name)) {
                    let (shape, weight) = (weight.shape(), Weight::from(weight));
                    let changed = block_on(stack.open(name, &weight));
                    match changed.and_then(|change| block_on(weight.changed(change).whole())) {
                        Ok(changed) => assert!(changed.is_finite() && changed.shape() == shape, "case {case}"),
                        Err(error) => assert!(error.to_string().contains("finite"), "case {case}: {error}"),
                    }
                }
                applied += 1;
            }
            Err(error) => {
                let sentence = error.to_string();
                assert!(sentence.starts_with("damaged.safetensors: "), "case {case}: {sentence}");
                assert!(!sentence.chars().any(char::is_control) && sentence.len() < 4000, "case {case}: {sentence}");
                refused += 1;
            }
        }
    }
    assert!(refused >= 1000 && applied >= 100, "{refused} files were refused, {applied} were applied");
}
