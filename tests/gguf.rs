//! GGUF files: right ones list what the Python package `gguf` lists, wrong ones end in a sentence
//! that names the fault, and of a remote file only the header is fetched.

#[allow(dead_code)]
#[path = "support/allocations.rs"]
mod allocations;
#[allow(dead_code)]
#[path = "support/gguf.rs"]
mod gguf;

use allocations::peak;
use bytes::Bytes;
use gguf::{ARRAY, F32, Field, File, Tensor, Value};
use pollster::block_on;
use serde_json::Value as Json;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use zimage::tensor::Format;
use zimage::weights::{BoxFuture, Gguf, GgufValue, ModelFolder, RemoteFiles};
use zimage::{Error, ErrorKind, Result};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/gguf").join(name)
}

fn open(path: &Path) -> Result<Gguf> {
    block_on(Gguf::open(path))
}

/// Opens a file of these bytes.
fn read(bytes: &[u8]) -> Result<Gguf> {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    open(file.path())
}

/// A small valid file.
fn small() -> File {
    let keys = vec![("general.architecture", Value::Text("lumina2".into())), ("a", Value::numbers([1, 2]))];
    File::new(keys, vec![Tensor::new("x.weight", &[32, 2], 8, 68), Tensor::new("y.bias", &[3], F32, 12)])
}

#[test]
fn files_of_the_python_package_are_read() {
    let expected: Json = serde_json::from_slice(&fs::read(golden("types.json")).unwrap()).unwrap();
    let mut bytes = fs::read(golden("types.gguf")).unwrap();
    for version in [3, 2] {
        // Version 2 has the same layout.
        bytes[4] = version;
        let gguf = read(&bytes).unwrap();
        assert_eq!((gguf.version, gguf.architecture()), (u32::from(version), Some("lumina2")));
        let tensors = expected["tensors"].as_object().unwrap();
        assert_eq!(gguf.tensors.len(), tensors.len());
        let mut formats = 0;
        for (name, tensor) in tensors {
            let found = &gguf.tensors[name];
            assert_eq!(serde_json::json!(found.shape), tensor["shape"], "{name}");
            assert_eq!(found.ggml_type, tensor["id"], "{name}");
            assert_eq!(found.type_name(), tensor["type"].as_str().unwrap(), "{name}");
            assert_eq!(found.range.start, tensor["offset"], "{name}");
            let bytes = found.range.end - found.range.start;
            match found.format() {
                Some(_) => assert_eq!(bytes, tensor["bytes"], "{name}"),
                None => assert!((0..64).contains(&(bytes - tensor["bytes"].as_u64().unwrap())), "{name}"),
            }
            formats += usize::from(found.format().is_some());
        }
        assert!(formats >= 18, "{formats} tensors have a format");
        let scalars = expected["scalars"].as_object().unwrap();
        for (key, value) in scalars {
            match &gguf.metadata[key] {
                GgufValue::Unsigned(found) => assert_eq!(found, value, "{key}"),
                GgufValue::Signed(found) => assert_eq!(found, value, "{key}"),
                GgufValue::Float(found) => assert_eq!(found, value, "{key}"),
                GgufValue::Bool(found) => assert_eq!(found, value, "{key}"),
                GgufValue::Text(found) => assert_eq!(found, value, "{key}"),
                other => panic!("{key}: {other:?}"),
            }
        }
        assert_eq!(gguf.metadata["a.long"], GgufValue::SkippedText(70_000));
        for (key, items) in [("a.numbers", 3), ("a.texts", 3), ("a.flags", 2), ("a.nested", 2)] {
            assert!(matches!(&gguf.metadata[key], GgufValue::Array(array) if array.items() == items), "{key}");
        }
        assert_eq!(gguf.metadata.len(), scalars.len() + 5);
    }
}

/// Asserts that reading fails with one sentence that names the file.
#[track_caller]
fn refused(bytes: &[u8], says: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    let error = open(file.path()).unwrap_err();
    check_message(&error, file.path());
    assert!(error.to_string().contains(says), "expected …{says}…, found {error}");
}

#[track_caller]
fn check_message(error: &Error, file: &Path) {
    let message = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Files, "{message}");
    assert!(message.starts_with(&format!("{}: ", file.display())), "{message}");
    assert!(message.len() < 800 && !message.contains(char::is_control), "{message:?}");
}

#[test]
fn files_of_other_formats_are_named() {
    refused(b"", "expected a GGUF file, found a file of 0 bytes");
    refused(b"\x08\0\0\0\0\0\0\0{\"a\": 1}", "a file that begins with \"\\x08\\x00\\x00\\x00\"");
    refused(b"GGUF\x03\0\0\0", "the header: expected 8 bytes from byte 8 on, found a file of 8 bytes: it is truncated");
    for (version, says) in [(1, "of version 1"), (0, "of version 0"), (4, "of version 4, where 2 and 3 are supported")]
    {
        refused(&File { version, ..small() }.bytes(), says);
    }
    refused(&File { version: 3 << 24, ..small() }.bytes(), "found a big-endian one");
    let parts = File::new(vec![("split.count", Value::U16(3))], Vec::new());
    refused(&parts.bytes(), "one of 3 parts of a model");
    let missing = open(Path::new("missing.gguf")).unwrap_err().to_string();
    assert_eq!(missing, "missing.gguf: there is no such file");
}

#[test]
fn broken_metadata_is_named() {
    let keys = |keys: Vec<(&str, Value)>| File::new(keys, Vec::new()).bytes();
    refused(&keys(vec![("k", Value::U8(1)), ("k", Value::U8(1))]), "metadata key k: the key occurs twice");
    refused(&keys(vec![("", Value::U8(1))]), "metadata key number 1: expected a key of 1 to 1024 bytes");
    refused(&keys(vec![(&"k".repeat(2000), Value::U8(1))]), "found one of 2000");
    refused(
        &keys(vec![("k", Value::Array(13, vec![]))]),
        "metadata key k: expected a value type from 0 to 12, found 13",
    );
    let deep = (0..4).fold(Value::numbers([1]), |inner, _| Value::Array(ARRAY, vec![inner]));
    refused(&keys(vec![("k", deep)]), "metadata key k: expected at most 4 arrays inside one another");
    let shallow = (0..3).fold(Value::numbers([1]), |inner, _| Value::Array(ARRAY, vec![inner; 2]));
    assert!(read(&keys(vec![("k", shallow)])).is_ok());
    for alignment in [Value::U32(0), Value::U32(48), Value::I32(32), Value::Text("32".into()), Value::U64(1 << 40)] {
        refused(&keys(vec![("general.alignment", alignment)]), "general.alignment: expected a power of two in U32");
    }

    // Nothing needs a text that is not UTF-8, so the rest of the file is read.
    let mut latin = keys(vec![("k", Value::Text("x".into()))]);
    let at = latin.iter().position(|&byte| byte == b'x').unwrap();
    latin[at] = 0xe9;
    assert_eq!(read(&latin).unwrap().metadata["k"], GgufValue::SkippedText(1));

    let (bytes, _) = File::new(vec![("k", Value::Bool(true))], Vec::new()).write();
    let at = bytes.windows(2).position(|pair| pair == b"k\x07").unwrap() + 5;
    let mut two = bytes.clone();
    two[at] = 2;
    refused(&two, "metadata key k: expected 0 or 1 for a bool, found 2");
    let mut odd = bytes;
    odd[24 + 8] = 0xff;
    refused(&odd, "expected a key in UTF-8, found \\xff");
}

#[test]
fn broken_tensors_are_named() {
    let tensors = |tensors: Vec<Tensor>| File::new(Vec::new(), tensors).bytes();
    let one = |sizes: &[u64], kind, bytes| tensors(vec![Tensor::new("x.weight", sizes, kind, bytes)]);
    refused(&tensors(vec![Tensor::new("x", &[1], F32, 4); 2]), "tensor x: the name occurs twice");
    refused(&one(&[1; 5], F32, 4), "tensor x.weight: expected at most 4 dimensions, found 5");
    refused(
        &one(&[33, 2], 8, 68),
        "tensor x.weight: expected rows of whole Q8_0 blocks of 32 elements, found rows of 33",
    );
    refused(&one(&[16, 2], 2, 18), "expected rows of whole Q4_0 blocks");
    refused(
        &one(&[1 << 32, 1 << 32], F32, 4),
        "expected a shape that fits in memory, found F32 [4294967296, 4294967296]",
    );
    refused(&one(&[1 << 62], F32, 4), "expected a shape that fits in memory");
    refused(&one(&[1 << 40], F32, 4), "tensor x.weight: expected data up to byte 4398046511");
    refused(&tensors(vec![Tensor::new("", &[1], F32, 4)]), "tensor number 1: expected a name of 1 to 1024 bytes");

    let (bytes, fields) = small().write();
    let offset = fields[fields.len() - 1];
    let with = |field: Field, number: u64| {
        let mut bytes = bytes.clone();
        bytes[field.at..field.at + 8].copy_from_slice(&number.to_le_bytes());
        bytes
    };
    refused(&with(offset, 4), "tensor y.bias: expected an offset that is a multiple of 32");
    refused(
        &with(offset, 32),
        "tensor y.bias: expected data from byte 260 on, found data from byte 224 on, in another",
    );
    refused(&with(offset, u64::MAX - 31), "it is truncated; download it again");
    refused(&bytes[..bytes.len() - 32], "tensor y.bias: expected data up to byte 300");
    assert!(read(&with(offset, 96)).is_ok());
    // The padding behind the last tensor may be missing, and other bytes may follow.
    assert!(read(&bytes[..bytes.len() - 20]).is_ok() && read(&[&bytes[..], &[7; 5]].concat()).is_ok());
}

#[test]
fn own_shapes_are_applied() {
    let file = |shape: Value| {
        let key = "comfy.gguf.orig_shape.x";
        File::new(vec![(key, shape)], vec![Tensor::new("x", &[32, 6], 8, 6 * 34)]).bytes()
    };
    let gguf = read(&file(Value::numbers([2, 3, 4, 8]))).unwrap();
    assert_eq!(gguf.tensors["x"].shape, [2, 3, 4, 8]);
    assert!(gguf.metadata.is_empty());
    let says = "tensor x: expected the elements of its shape [6, 32] in the file, found [2, 3, 4, 9]";
    refused(&file(Value::numbers([2, 3, 4, 9])), says);
    refused(&file(Value::numbers([2, -3, 4, 8])), "orig_shape.x: expected sizes, found -3");
    refused(&file(Value::numbers([1; 17])), "expected an array of at most 16 I32");
    refused(&file(Value::texts(["2"])), "expected an array of at most 16 I32");
    refused(&file(Value::U32(2)), "expected an array of at most 16 I32");
}

#[test]
fn unknown_types_are_listed() {
    let tensors = [("a", 9u32), ("b", F32), ("c", 77)];
    let tensors = tensors.map(|(name, kind)| Tensor::new(name, &[8], kind, 32)).to_vec();
    let gguf = read(&File::new(Vec::new(), tensors).bytes()).unwrap();
    let found: Vec<_> = gguf.tensors.values().map(|tensor| (tensor.type_name(), tensor.format())).collect();
    assert_eq!(found, [("Q8_1".into(), None), ("F32".into(), Some(Format::F32)), ("the unknown type 77".into(), None)]);
}

/// A remote file. The data behind the header is not there.
#[derive(Debug)]
struct Remote {
    header: Bytes,
    len: u64,
    piece: u64,
    reads: AtomicUsize,
    fetched: AtomicU64,
}

impl RemoteFiles for Remote {
    fn size<'a>(&'a self, path: &'a str) -> BoxFuture<'a, Option<u64>> {
        Box::pin(async move {
            Ok(match path {
                "model_index.json" => Some(INDEX.len() as u64),
                "t.gguf" => Some(self.len),
                _ => None,
            })
        })
    }

    fn read<'a>(&'a self, path: &'a str, range: Range<u64>) -> BoxFuture<'a, Bytes> {
        Box::pin(async move {
            if path == "model_index.json" {
                return Ok(Bytes::from_static(INDEX).slice(range.start as usize..range.end as usize));
            }
            self.reads.fetch_add(1, Relaxed);
            self.fetched.fetch_add(range.end - range.start, Relaxed);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            if let Some(known) = self.header.get(range.start as usize..) {
                let len = known.len().min(bytes.len());
                bytes[..len].copy_from_slice(&known[..len]);
            }
            Ok(bytes.into())
        })
    }

    fn piece(&self) -> u64 {
        self.piece
    }

    fn list<'a>(&'a self, _folder: &'a str) -> BoxFuture<'a, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

const INDEX: &[u8] = br#"{"_class_name": "ZImagePipeline"}"#;

#[test]
fn remote_header_is_read_in_pieces() {
    let layer = |i: usize| Tensor::new(&format!("layers.{i}.weight"), &[1 << 16, 1 << 14], 12, 0);
    let keys = vec![
        ("general.architecture", Value::Text("qwen3".into())),
        ("tokenizer.ggml.tokens", Value::texts((0..20_000).map(|i| format!("token{i}")))),
        ("tokenizer.ggml.token_type", Value::numbers(vec![1; 20_000])),
        ("tokenizer.ggml.merges", Value::texts(["a b"])),
    ];
    let mut file = File::new(keys, (0..20).map(layer).collect());
    let bytes = (1u64 << 30) / 256 * 144;
    let (mut header, fields) = file.write();
    file.tensors.clear();
    // The data of 12 GB is claimed only.
    for (i, offset) in fields.iter().rev().step_by(6).take(20).enumerate() {
        header[offset.at..offset.at + 8].copy_from_slice(&((19 - i as u64) * bytes).to_le_bytes());
    }
    let len = header.len() as u64 + 20 * bytes;
    let header = Bytes::from(header);
    for piece in [100, 5000, 1 << 20] {
        let files =
            Remote { header: header.clone(), len, piece, reads: AtomicUsize::new(0), fetched: AtomicU64::new(0) };
        let files = Arc::new(files);
        let folder = block_on(ModelFolder::remote("remote", files.clone())).unwrap();
        let (gguf, held) = peak(|| block_on(folder.gguf("t.gguf")).unwrap());
        let (reads, fetched) = (files.reads.load(Relaxed), files.fetched.load(Relaxed));
        println!("pieces of {piece}: {reads} reads of {fetched} bytes, {held} bytes held");
        assert_eq!(gguf.tensors["layers.19.weight"].range, len - bytes..len);
        assert_eq!(gguf.tensors["layers.0.weight"].shape, [1 << 14, 1 << 16]);
        assert!(fetched < header.len() as u64 + 2 * piece, "{fetched} bytes of {}", header.len());
        assert!(held < 3 * piece as usize + 20_000, "{held} bytes held");
        assert!(reads as u64 <= header.len() as u64 / piece * 5 / 4 + 6, "{reads} reads");
        assert!(gguf.has_tokenizer() && block_on(gguf.tokenizer()).is_ok());
    }
}
