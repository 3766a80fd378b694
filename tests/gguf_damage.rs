//! Random GGUF files: every valid one is read, and a damaged one ends in one sentence, without a
//! panic and without much memory.

#[path = "support/allocations.rs"]
mod allocations;
#[path = "support/mutations/bytes.rs"]
mod damage;
#[allow(dead_code)]
#[path = "support/gguf.rs"]
mod gguf;

use allocations::peak;
use damage::Rng;
use gguf::{ARRAY, F32, Field, File, TEXT, Tensor, Value};
use pollster::block_on;
use proptest::prelude::*;
use serde_json::Value as Json;
use std::fs;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};
use zimage::pipeline::prompt::Tokenizer;
use zimage::tensor::Format;
use zimage::weights::{Gguf, GgufTokenizer, GgufValue};
use zimage::{Error, ErrorKind, Result};

/// Asserts that an error is one sentence that names the file.
fn check_message(error: &Error, file: &Path) {
    let message = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Files, "{message}");
    assert!(message.starts_with(&format!("{}: ", file.display())), "{message}");
    assert!(message.len() < 800 && !message.contains(char::is_control), "{message:?}");
}

/// Opens the header and the tokenizer, if there is one.
fn open_all(path: &Path) -> Result<(Gguf, Option<GgufTokenizer>)> {
    block_on(async {
        let gguf = Gguf::open(path).await?;
        let tokenizer = if gguf.has_tokenizer() { Some(gguf.tokenizer().await?) } else { None };
        Ok((gguf, tokenizer))
    })
}

/// Checks a header that was accepted: the ranges are inside the file, do not overlap, and have the
/// bytes of the shapes.
fn check_listing(gguf: &Gguf, len: u64) {
    let mut ranges: Vec<&Range<u64>> = gguf.tensors.values().map(|tensor| &tensor.range).collect();
    ranges.sort_by_key(|range| (range.start, range.end));
    assert!(ranges.iter().all(|range| range.start <= range.end && range.end <= len));
    assert!(ranges.windows(2).all(|pair| pair[0].end <= pair[1].start), "{ranges:?}");
    for (name, tensor) in &gguf.tensors {
        if let Some(format) = tensor.format() {
            let elements = tensor.shape.iter().product();
            assert_eq!(format.bytes(elements).map(|n| n as u64), Some(tensor.range.end - tensor.range.start), "{name}");
        }
    }
}

/// A file with everything that the reader knows, and the fields of its header.
fn rich() -> (Vec<u8>, Vec<Field>) {
    let layout = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/single/tokenizer/tokenizer.json");
    let layout: Json = serde_json::from_slice(&fs::read(layout).unwrap()).unwrap();
    let mut keys = gguf::tokenizer(&layout, 640);
    keys.extend([
        ("general.alignment", Value::U32(16)),
        ("general.name", Value::Text("a name".into())),
        ("a.nested", Value::Array(ARRAY, vec![Value::numbers([1, 2]), Value::texts(["x"])])),
        ("a.float", Value::F32(0.5)),
        ("a.double", Value::F64(0.5)),
        ("a.signed", Value::I64(-1)),
        ("comfy.gguf.orig_shape.reshaped", Value::numbers([2, 16, 8])),
        ("split.count", Value::U16(1)),
    ]);
    let tensors = vec![
        Tensor::new("token_embd.weight", &[256, 2], 12, 288),
        Tensor::new("blk.0.attn_q.weight", &[64, 3], 8, 204),
        Tensor::new("blk.0.attn_norm.weight", &[5], F32, 20),
        Tensor::new("blk.0.attn_v.weight", &[32, 2, 2, 2], 2, 144),
        Tensor::new("blk.0.ffn_up.weight", &[32, 2], 9, 72),
        Tensor::new("reshaped", &[256], 14, 210),
        Tensor::new("output_norm.weight", &[6], 30, 12),
    ];
    let mut file = File::new(keys, tensors);
    file.alignment = 16;
    file.write()
}

/// A damaged copy of the file.
fn damaged(rng: &mut Rng, good: &[u8], fields: &[Field]) -> Vec<u8> {
    let header = fields.last().unwrap().at + 8;
    let mut bytes = good.to_vec();
    match rng.below(9) {
        0 => damage::damage(rng, good),
        1 => good[..rng.below(good.len())].to_vec(),
        2 => [damage::damage(rng, &good[..header]), good[header..].to_vec()].concat(),
        // A part of the header is left out or repeated, from one field to another.
        3 => {
            let (a, b) = (rng.pick(fields).at, rng.pick(fields).at);
            let (from, to) = (a.min(b), a.max(b));
            match rng.below(2) {
                0 => drop(bytes.drain(from..to)),
                _ => drop(bytes.splice(from..from, good[from..to].to_vec())),
            }
            bytes
        }
        // Names, texts and values, so that the header itself stays right.
        4 => {
            for _ in 0..=rng.below(4) {
                let at = rng.below(bytes.len());
                if fields.iter().all(|field| !(field.at..field.at + field.width).contains(&at)) {
                    bytes[at] = *rng.pick(b"ax .19\x01\x03\x04\x05\xff");
                }
            }
            bytes
        }
        // Lengths, counts, types, sizes and offsets: mostly one of the few that are not tokens'.
        _ => {
            for _ in 0..=rng.below(2) {
                let some = [fields, &fields[..8], &fields[fields.len() - 70..]][rng.below(3)];
                let field = *rng.pick(some);
                let place = field.at..field.at + field.width;
                let mut old = [0; 8];
                old[..field.width].copy_from_slice(&bytes[place.clone()]);
                let old = u64::from_le_bytes(old);
                let numbers =
                    [0, 1, 2, 4, 5, 12, 31, 255, 256, 65_536, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 62, 1 << 63];
                let new = match rng.below(5) {
                    0 => old.wrapping_add(1),
                    1 => old.wrapping_sub(1),
                    2 => u64::MAX - rng.below(64) as u64,
                    3 => old ^ (1 << rng.below(8 * field.width)),
                    _ => *rng.pick(&numbers),
                };
                bytes[place].copy_from_slice(&new.to_le_bytes()[..field.width]);
            }
            bytes
        }
    }
}

#[test]
fn damaged_files_are_read_safely() {
    let (good, fields) = rich();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("damaged.gguf");
    let (mut opened, mut refused, mut tokenizers) = (0, 0, 0);
    for seed in 0..3000 {
        let bytes = damaged(&mut Rng::new(seed), &good, &fields);
        fs::write(&file, &bytes).unwrap();
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            let (result, held) = peak(|| open_all(&file));
            assert!(held <= 2 * bytes.len() + (16 << 10), "{held} bytes held for a file of {}", bytes.len());
            match result {
                Err(error) => {
                    check_message(&error, &file);
                    refused += 1;
                }
                Ok((gguf, tokenizer)) => {
                    check_listing(&gguf, bytes.len() as u64);
                    opened += 1;
                    match tokenizer.map(|tokenizer| Tokenizer::from_gguf(&tokenizer)) {
                        Some(Err(error)) => check_message(&error, &file),
                        Some(Ok(tokenizer)) => {
                            tokenizers += 1;
                            assert!(tokenizer.encode("a fox").is_ok());
                        }
                        None => {}
                    }
                }
            }
        }));
        assert!(outcome.is_ok(), "seed {seed}");
    }
    println!("{refused} refused, {opened} opened, {tokenizers} with a tokenizer");
    assert!(refused > 1000 && opened > 300 && tokenizers > 100, "the damage is one-sided");
}

#[test]
fn memory_and_time_stay_linear() {
    const LENGTH: usize = 4 << 20;
    let keys = |keys: Vec<(&str, Value)>| File::new(keys, Vec::new()).bytes();
    let counted = |count: u64, rest: usize| {
        let bytes = [b"GGUF\x03\0\0\0\0\0\0\0\0\0\0\0", &count.to_le_bytes()[..], &vec![0; rest]].concat();
        assert_eq!(bytes.len(), 24 + rest);
        bytes
    };
    let tokens = |text: &'static str, count: usize| {
        keys(vec![
            ("tokenizer.ggml.tokens", Value::texts(vec![text; count])),
            ("tokenizer.ggml.token_type", Value::numbers([])),
            ("tokenizer.ggml.merges", Value::texts([""; 0])),
        ])
    };
    let names: Vec<String> = (0..1 << 14).map(|i| format!("{i:x}")).collect();
    let many: Vec<(&str, Value)> = names.iter().map(|name| (&**name, Value::U8(0))).collect();
    let empty: Vec<Tensor> = names.iter().map(|name| Tensor::new(name, &[0, 1, 1, 1], F32, 0)).collect();
    let cases = [
        ("huge count", counted(u64::MAX, LENGTH)),
        ("more keys than bytes", counted(16_000, 1000)),
        ("zeros", counted(16_000, LENGTH)),
        ("huge array", {
            let mut bytes = keys(vec![("k", Value::Array(TEXT, Vec::new()))]);
            let end = bytes.windows(5).position(|part| part == b"k\x09\0\0\0").unwrap() + 9;
            bytes[end..end + 8].copy_from_slice(&(1u64 << 62).to_le_bytes());
            bytes.resize(LENGTH, 0);
            bytes
        }),
        ("ok: long text", keys(vec![("k", Value::Text("x".repeat(LENGTH)))])),
        ("ok: many empty tokens", tokens("", LENGTH / 8)),
        ("ok: many tokens", tokens("abcdefgh", LENGTH / 16)),
        ("ok: many arrays", keys(vec![("k", Value::Array(ARRAY, vec![Value::numbers([]); LENGTH / 12]))])),
        ("ok: many keys", keys(many)),
        ("ok: many tensors", File::new(Vec::new(), empty).bytes()),
    ];
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("hostile.gguf");
    for (case, bytes) in cases {
        fs::write(&file, &bytes).unwrap();
        let start = Instant::now();
        let (result, held) = peak(|| open_all(&file));
        let took = start.elapsed();
        println!("{case}: {held} bytes for {}, {took:?}", bytes.len());
        assert_eq!(result.is_ok(), case.starts_with("ok"), "{case}: {:?}", result.err());
        // The entries of keys and tensors are bounded in number.
        assert!(held <= 2 * bytes.len() + (8 << 20), "{case}: {held} bytes for a file of {}", bytes.len());
        assert!(took < Duration::from_secs(20), "{case}: {took:?}");
    }
}

/// The types of tensors that the random files have, one without a format among them.
const KINDS: [u32; 9] = [0, 1, 2, 7, 8, 12, 14, 30, 24];

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        (-1e30f32..1e30).prop_map(Value::F32),
        (-1e300f64..1e300).prop_map(Value::F64),
        any::<bool>().prop_map(Value::Bool),
        "\\PC{0,20}".prop_map(Value::Text),
    ];
    let numbers = || proptest::collection::vec(any::<i32>(), 0..6).prop_map(Value::numbers);
    let texts = proptest::collection::vec("\\PC{0,9}", 0..6).prop_map(Value::texts);
    let nested = proptest::collection::vec(numbers(), 0..4).prop_map(|items| Value::Array(ARRAY, items));
    prop_oneof![6 => leaf, 1 => numbers(), 1 => texts, 1 => nested]
}

fn tensor() -> impl Strategy<Value = (u32, Vec<u64>)> {
    (0..KINDS.len(), proptest::collection::vec(1u64..5, 0..=4)).prop_map(|(kind, mut sizes)| {
        let format = Format::from_ggml(KINDS[kind]);
        let block = format.map_or(1, |format| format.block().elements) as u64;
        if block > 1 && sizes.is_empty() {
            sizes.push(1);
        }
        if let Some(row) = sizes.first_mut() {
            *row *= block;
        }
        (KINDS[kind], sizes)
    })
}

/// True if the value that was read is the one that was written.
fn same(written: &Value, found: &GgufValue) -> bool {
    let found = match (written, found) {
        (Value::Array(_, items), GgufValue::Array(array)) => return items.len() as u64 == array.items(),
        (_, found) => found.clone(),
    };
    found
        == match written.clone() {
            Value::U8(v) => GgufValue::Unsigned(v.into()),
            Value::U16(v) => GgufValue::Unsigned(v.into()),
            Value::U32(v) => GgufValue::Unsigned(v.into()),
            Value::U64(v) => GgufValue::Unsigned(v),
            Value::I8(v) => GgufValue::Signed(v.into()),
            Value::I16(v) => GgufValue::Signed(v.into()),
            Value::I32(v) => GgufValue::Signed(v.into()),
            Value::I64(v) => GgufValue::Signed(v),
            Value::F32(v) => GgufValue::Float(v.into()),
            Value::F64(v) => GgufValue::Float(v),
            Value::Bool(v) => GgufValue::Bool(v),
            Value::Text(v) => GgufValue::Text(v),
            Value::Array(..) => return false,
        }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_valid_file_is_read(
        version in 2u32..=3,
        alignment in prop_oneof![Just(None), (0u32..13).prop_map(|bits| Some(1usize << bits))],
        keys in proptest::collection::btree_map("[a-z_.]{1,12}", value(), 0..12),
        tensors in proptest::collection::btree_map("\\PC{1,24}", tensor(), 0..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = File { version, keys: keys.clone().into_iter().collect(), tensors: Vec::new(), alignment: 32 };
        if let Some(alignment) = alignment {
            file.alignment = alignment;
            file.keys.insert(keys.len() / 2, ("general.alignment".into(), Value::U32(alignment as u32)));
        }
        for (name, (kind, sizes)) in &tensors {
            let elements = sizes.iter().product::<u64>() as usize;
            let bytes = Format::from_ggml(*kind).map_or(Some(elements), |format| format.bytes(elements)).unwrap();
            file.tensors.push(Tensor::new(name, sizes, *kind, bytes));
        }
        let bytes = file.bytes();
        let file_on_disk = tempfile::NamedTempFile::new().unwrap();
        let read = |bytes: &[u8]| {
            fs::write(file_on_disk.path(), bytes).unwrap();
            block_on(Gguf::open(file_on_disk.path()))
        };
        let gguf = read(&bytes).unwrap();
        check_listing(&gguf, bytes.len() as u64);
        prop_assert_eq!(gguf.tensors.len(), tensors.len());
        for tensor in &file.tensors {
            let found = &gguf.tensors[&tensor.name];
            let shape: Vec<usize> = tensor.sizes.iter().rev().map(|&size| size as usize).collect();
            prop_assert_eq!(&found.shape, &shape);
            let data = &bytes[found.range.start as usize..found.range.end as usize];
            prop_assert!(data.starts_with(&tensor.data), "{}", &tensor.name);
        }
        for (key, value) in &keys {
            prop_assert!(same(value, &gguf.metadata[key]), "{}: {:?}", key, &gguf.metadata[key]);
        }

        // Without its end the file is refused, unless only padding is cut, or data of a type whose
        // size is unknown.
        let needed = gguf.tensors.values().filter(|t| t.format().is_some()).map(|t| t.range.end).max();
        let starts = gguf.tensors.values().map(|t| t.range.start).max();
        let needed = needed.max(starts).unwrap_or(24) as usize;
        let cut = cut.index(needed);
        prop_assert!(read(&bytes[..cut]).is_err(), "{} of {} bytes", cut, bytes.len());
    }
}
