//! Malformed weight files, accidental or hostile: each is an error that names the file and the
//! problem, and none makes the reader panic, hang or allocate more than a few times its own size.

use pollster::block_on;
use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use zimage::tensor::{DType, Format};
use zimage::weights::{ModelFolder, StoredType, Tensors};
use zimage::{Error, ErrorKind};

const STEM: &str = "diffusion_pytorch_model";
const SINGLE: &str = "transformer/diffusion_pytorch_model.safetensors";
const INDEX: &str = "transformer/diffusion_pytorch_model.safetensors.index.json";

/// A model folder with these files.
fn folder(files: &[(&str, &[u8])]) -> (TempDir, ModelFolder) {
    let dir = tempfile::tempdir().unwrap();
    let index: (&str, &[u8]) = ("model_index.json", b"{\"_class_name\": \"ZImagePipeline\"}");
    for (name, bytes) in files.iter().chain([&index]) {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let folder = ModelFolder::open(dir.path()).unwrap();
    (dir, folder)
}

fn open(files: &[(&str, &[u8])]) -> zimage::Result<Tensors> {
    // The map outlives the folder: mapped pages stay valid after the file is removed.
    block_on(Tensors::open(&folder(files).1, "transformer", STEM))
}

/// A file with this header and `data` zeros after it.
fn file(header: &str, data: usize) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.resize(file.len() + data, 0);
    file
}

/// A file of F32 tensors. All elements of the first are `1`, of the second `2`, and so on.
fn floats(tensors: &[(&str, &[usize])]) -> Vec<u8> {
    let data: Vec<(&str, &[usize], Vec<u8>)> = tensors
        .iter()
        .enumerate()
        .map(|(i, (name, shape))| (*name, *shape, (i as f32 + 1.0).to_le_bytes().repeat(shape.iter().product())))
        .collect();
    let views =
        data.iter().map(|(name, shape, bytes)| (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap()));
    let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
    safetensors::serialize(views, Some(metadata)).unwrap()
}

#[track_caller]
fn says(result: zimage::Result<Tensors>, parts: &[&str]) {
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Files);
    let message = error.to_string();
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
    assert!(!message.chars().any(char::is_control) && message.len() < 2000, "{message}");
}

#[track_caller]
fn refused(bytes: &[u8], parts: &[&str]) {
    let parts: Vec<_> = parts.iter().chain([&SINGLE]).copied().collect();
    says(open(&[(SINGLE, bytes)]), &parts);
}

#[track_caller]
fn refused_header(header: &str, data: usize, parts: &[&str]) {
    refused(&file(header, data), parts);
}

#[test]
fn tensors_are_mapped_without_copying() {
    let bytes = floats(&[("a.weight", &[2, 3]), ("b", &[4])]);
    let (_dir, folder) = folder(&[(SINGLE, &bytes)]);
    let tensors = block_on(Tensors::open(&folder, "transformer", STEM)).unwrap();
    assert_eq!((tensors.len(), tensors.parameters(), tensors.bytes()), (2, 10, 40));
    let a = block_on(tensors.take("a.weight", &[2, 3])).unwrap();
    assert_eq!((a.dtype(), a.shape(), a.to_f32()), (DType::F32, &[2, 3][..], vec![1.0; 6]));
    assert_eq!(a.bytes().as_ptr(), block_on(tensors.take("a.weight", &[2, 3])).unwrap().bytes().as_ptr());
    assert_eq!(tensors.unread(|_| false), ["b"]);
    assert!(tensors.unread(|name| name == "b").is_empty());
    assert!(block_on(tensors.take_optional("c", &[1])).unwrap().is_none() && !tensors.contains("c"));
    let listed: Vec<_> = tensors.iter().map(|t| (t.name, t.dtype, t.shape.to_vec(), t.bytes)).collect();
    assert_eq!(listed[0], ("a.weight", StoredType::Format(Format::F32), vec![2, 3], 24));
    assert_eq!(tensors.files().collect::<Vec<_>>(), [folder.path(SINGLE)]);
    drop(tensors);
    assert_eq!(a.to_f32(), [1.0; 6], "the tensor keeps the map");
}

/// NVFP4 has whole blocks of 16 columns: w1 has 20 columns of 32, w2 10 of 16.
#[test]
fn shapes_are_listed_without_padding() {
    let (w1, w2) = ("layers.0.feed_forward.w1", "layers.0.feed_forward.w2");
    let mut end = 0;
    let mut entry = |name: String, dtype: &str, shape: &[usize], bytes: usize| {
        end += bytes;
        let offsets = [end - bytes, end];
        format!("{name:?}: {{\"dtype\": {dtype:?}, \"shape\": {shape:?}, \"data_offsets\": {offsets:?}}}")
    };
    let mut entries = vec![entry("layers.0.attention_norm1.weight".into(), "BF16", &[20], 40)];
    for (layer, rows, packed) in [(w1, 10, 16), (w2, 20, 8)] {
        entries.push(entry(format!("{layer}.weight"), "U8", &[rows, packed], rows * packed));
        entries.push(entry(format!("{layer}.weight_scale"), "F8_E4M3", &[128, 4], 512));
        entries.push(entry(format!("{layer}.weight_scale_2"), "F32", &[], 4));
    }
    let tensors = open(&[(SINGLE, &file(&format!("{{{}}}", entries.join(", ")), end))]).unwrap();
    for (layer, shape) in [(w1, [10, 20]), (w2, [20, 10])] {
        let name = format!("{layer}.weight");
        assert_eq!(tensors.shape(&name), Some(&shape[..]));
        assert_eq!(block_on(tensors.take(&name, &shape)).unwrap().to_f32(), [0.0; 200]);
    }
    assert_eq!(tensors.parameters(), 20 + 200 + 200);
}

#[test]
fn embedded_model_is_read_without_copying() {
    let bytes: &'static [u8] = floats(&[("b", &[4])]).leak();
    let files = [("transformer/diffusion_pytorch_model.safetensors", bytes)];
    let folder = ModelFolder::in_memory("emoji", Vec::from(files).leak());
    let tensors = block_on(Tensors::open(&folder, "transformer", STEM)).unwrap();
    assert_eq!(block_on(tensors.take("b", &[4])).unwrap().to_f32(), [1.0; 4]);
    let error = block_on(tensors.take("b", &[5])).unwrap_err().to_string();
    assert!(error.starts_with("emoji/transformer/diffusion_pytorch_model.safetensors: tensor b:"), "{error}");
}

#[test]
fn every_float_dtype_is_read() {
    for (name, size, dtype) in [("F32", 4, DType::F32), ("F16", 2, DType::F16), ("BF16", 2, DType::Bf16)] {
        let header = format!(r#"{{"a":{{"dtype":"{name}","shape":[3],"data_offsets":[0,{}]}}}}"#, 3 * size);
        let tensor = block_on(open(&[(SINGLE, &file(&header, 3 * size))]).unwrap().take("a", &[3])).unwrap();
        assert_eq!((tensor.dtype(), tensor.to_f32()), (dtype, vec![0.0; 3]));
    }
}

#[test]
fn wrong_tensor_is_named_when_taken() {
    let int8 = r#"{"w":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]},
        "layers.0.attention.to_q.weight":{"dtype":"BF16","shape":[1,2],"data_offsets":[4,8]}}"#;
    let tensors = open(&[(SINGLE, &file(int8, 8))]).unwrap();
    let message = |name, shape: &[usize]| {
        let error = block_on(tensors.take(name, shape)).unwrap_err();
        assert!(matches!(error, Error::Tensor { .. }));
        let message = error.to_string();
        assert!(message.contains(SINGLE) && message.contains(&format!("tensor {name}")), "{message}");
        message
    };
    let quantised = message("w", &[2, 2]);
    let expected = "expected [2, 2] of F32, F16, BF16 or a quantised format, found I8 [2, 2], which needs scales";
    assert!(quantised.contains(expected), "{quantised}");
    let shape = message("layers.0.attention.to_q.weight", &[2, 2]);
    assert!(shape.ends_with("expected [2, 2] of F32, F16, BF16 or a quantised format, found BF16 [1, 2]"), "{shape}");
    let absent = message("layers.0.attention.q.weight", &[1, 2]);
    assert!(absent.ends_with("found nothing; did you mean layers.0.attention.to_q.weight?"), "{absent}");
    assert!(message("xyz", &[1]).ends_with("found nothing among 2 tensors"));
    assert_eq!(tensors.unread(|_| false).len(), 2, "a refused tensor does not count as read");
}

#[test]
fn text_encoder_may_have_a_prefix() {
    let names: [(&str, &[usize]); 3] =
        [("model.embed_tokens.weight", &[2, 2]), ("model.norm.weight", &[2]), ("lm_head.weight", &[2, 2])];
    let bytes = floats(&names);
    let (_dir, folder) = folder(&[("text_encoder/model.safetensors", &bytes)]);
    let tensors = block_on(Tensors::open(&folder, "text_encoder", "model")).unwrap();
    assert!(tensors.contains("norm.weight") && !tensors.contains("model.norm.weight"));
    block_on(tensors.take("embed_tokens.weight", &[2, 2])).unwrap();
    assert_eq!(tensors.unread(|name| name == "lm_head.weight"), ["model.norm.weight"]);
    let error = block_on(tensors.take("norm.weight", &[3])).unwrap_err().to_string();
    assert!(error.contains("tensor model.norm.weight: "), "as the file spells it: {error}");
}

#[test]
fn non_safetensors_files_are_identified() {
    for length in 0..8 {
        refused(&vec![7; length], &["expected a safetensors file", &format!("found a file of {length} bytes")]);
    }
    refused(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 9\n",
        &["git-lfs pointer", "git lfs pull"],
    );
    for (start, name) in [
        (&b"PK\x03\x04\0\0\x08\x08\0\0archive/data.pkl"[..], "found a PyTorch checkpoint (pickle)"),
        (b"\x80\x02}q\x00(X\x06\0\0\0weight", "found a PyTorch checkpoint (pickle)"),
        (b"\x89HDF\r\n\x1a\n\0\0", "found an HDF5 file"),
        (b"<!DOCTYPE html><html>not found</html>", "found a web page, as a failed download leaves it"),
        (b"\n<?xml version=\"1.0\"?><Error>AccessDenied</Error>", "found a web page"),
        (b"{\"error\":\"Repository not found\"}", "found JSON, as a failed download leaves it"),
    ] {
        refused(start, &["expected a safetensors file", name]);
        refused(&[start, &[0; 2000]].concat(), &[name]);
    }
    let pointer = [&b"version https://git-lfs.github.com/spec/v1\n"[..], &b"x".repeat(2000)].concat();
    refused(&pointer, &["found a git-lfs pointer", "git lfs pull"]);
    refused(&u64::MAX.to_le_bytes(), &["a header of 18446744073709551615 bytes"]);
    refused(&99_999_999u64.to_le_bytes(), &["a header of 99999999 bytes in a file of 8"]);
    refused(&0u64.to_le_bytes(), &["broken safetensors header: EOF"]);
    refused_header("{", 0, &["broken safetensors header", "line 1 column 1"]);
    refused_header("[]", 0, &["expected a map of tensors"]);
    refused_header("{} {}", 0, &["trailing characters"]);
    refused_header(&"[".repeat(100_000), 0, &["broken safetensors header"]);
    refused_header(&format!("{{\"__metadata__\":{}", "[".repeat(100_000)), 0, &["__metadata__", "a map of texts"]);
    for metadata in ["7", "[]", r#"{"a": 1}"#, r#"{"a": {"b": "c"}}"#, r#"{}, "__metadata__": {}"#] {
        refused_header(&format!("{{\"__metadata__\": {metadata}}}"), 0, &["__metadata__"]);
    }
    refused(&[&4u64.to_le_bytes()[..], b"{\"\xff\""].concat(), &["broken safetensors header"]);
}

#[test]
fn inconsistent_headers_are_refused() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let max = usize::MAX;
    refused_header(&one("F32", "[2]", "[0,8]"), 7, &["tensor a", "expected data up to byte 8", "found 7", "truncated"]);
    refused_header(&one("F32", "[2]", "[0,8]"), 9, &["expected 8 bytes of data, found 9"]);
    refused_header(&one("F32", "[2]", "[0,4]"), 4, &["tensor a: expected 8 bytes for F32 [2]", "data_offsets [0, 4]"]);
    refused_header(&one("F32", "[2]", "[8,0]"), 8, &["tensor a", "data_offsets [8, 0]"]);
    refused_header(&one("F32", "[2]", "[4,12]"), 12, &["expected data from byte 0 on", "which leave a gap"]);
    refused_header(&one("F32", &format!("[{max}]"), "[0,4]"), 4, &["tensor a", "whole bytes", &format!("F32 [{max}]")]);
    refused_header(&one("U8", &format!("[{max},2]"), "[0,4]"), 4, &["whole bytes"]);
    refused_header(&one("U8", "[4]", &format!("[{},{max}]", max - 4)), 4, &["from byte 0 on"]);
    refused_header(&one("F4", "[3]", "[0,1]"), 1, &["whole bytes", "F4 [3]"]);
    refused_header(&one("F32", "[-1]", "[0,4]"), 4, &["tensor a: invalid value", "line 1"]);
    refused_header(&one("F32", "[1.5]", "[0,4]"), 4, &["tensor a: invalid type"]);
    refused_header(&one("F32", "[99999999999999999999999]", "[0,4]"), 4, &["tensor a"]);
    refused_header(&one("Q4_K", "[1]", "[0,4]"), 4, &["tensor a", "Q4_K"]);
    refused_header(&one("F32", "[1]", "[0]"), 4, &["tensor a"]);
    refused_header(&one("F32", &format!("{:?}", [1; 17]), "[0,4]"), 4, &["at most 16 dimensions, found more"]);
    refused_header(r#"{"a":{"dtype":"F32","shape":[1]}}"#, 0, &["tensor a: missing field `data_offsets`"]);
    refused_header(r#"{"a":5}"#, 0, &["tensor a: invalid type"]);
    let twice = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    refused_header(twice, 4, &["tensor a: the name occurs twice"]);
    let overlap =
        r#"{"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[4],"data_offsets":[2,6]}}"#;
    refused_header(overlap, 6, &["tensor b", "found bytes 2 to 6, which overlap"]);
}

#[test]
fn huge_offsets_do_not_overflow() {
    // Eight adjacent tensors end at the last address, so that adding the header's length overflows.
    let each = usize::MAX / 8;
    let entry = |i: usize| {
        format!(r#""{i}":{{"dtype":"U8","shape":[{each}],"data_offsets":[{},{}]}}"#, i * each, (i + 1) * each)
    };
    let header = format!("{{{}}}", (0..8).map(entry).collect::<Vec<_>>().join(","));
    refused_header(&header, 64, &["tensor 0", "truncated"]);
}

#[test]
fn hostile_names_are_escaped() {
    let name = "\\u001b[2J\\n".repeat(10_000);
    refused_header(&format!(r#"{{"{name}":{{"dtype":"F32","shape":[1],"data_offsets":[0,8]}}}}"#), 8, &["…"]);
    refused_header(&format!(r#"{{"{name}":{{"dtype":"{name}"}}}}"#), 8, &["…"]);
    let index = format!(r#"{{"weight_map":{{"{name}":"{name}"}}}}"#);
    says(open(&[(INDEX, index.as_bytes())]), &["…", "expected the name of a .safetensors file"]);
}

#[test]
fn part_without_weights_names_other_files() {
    says(open(&[]), &["expected diffusion_pytorch_model.safetensors or", "index.json, found nothing"]);
    let other: (&str, &[u8]) = ("transformer/diffusion_pytorch_model.bin", b"x");
    says(
        open(&[other]),
        &["transformer: ", "found diffusion_pytorch_model.bin; of a diffusers folder only safetensors files are read"],
    );
    let path = Path::new(SINGLE);
    let (dir, folder) = folder(&[]);
    fs::create_dir_all(dir.path().join(path)).unwrap();
    says(block_on(Tensors::open(&folder, "transformer", STEM)), &[SINGLE, "expected a file, found a folder"]);
    // The Hugging Face cache looks like this after an interrupted download.
    #[cfg(unix)]
    {
        fs::remove_dir(dir.path().join(path)).unwrap();
        std::os::unix::fs::symlink("../blobs/0123", dir.path().join(path)).unwrap();
        says(block_on(Tensors::open(&folder, "transformer", STEM)), &[SINGLE, "the model is incomplete"]);
    }
}

/// Opens a part with this weight map and two shards: `s1` with `a`, `s2` with `b` and `c`.
fn sharded(map: &str) -> zimage::Result<Tensors> {
    let index = format!(r#"{{"metadata": {{"total_size": 12}}, "weight_map": {map}}}"#);
    let (s1, s2) = (floats(&[("a", &[1])]), floats(&[("b", &[1]), ("c", &[1])]));
    let shards = [("transformer/s1.safetensors", &s1[..]), ("transformer/s2.safetensors", &s2[..])];
    open(&[(INDEX, index.as_bytes()), shards[0], shards[1]])
}

#[test]
fn shards_form_one_set_of_tensors() {
    let tensors = sharded(r#"{"a": "s1.safetensors", "b": "s2.safetensors"}"#).unwrap();
    assert_eq!((tensors.len(), tensors.files().len()), (3, 2), "the shards count, not what the index leaves out");
    assert_eq!(block_on(tensors.take("b", &[1])).unwrap().to_f32(), [1.0]);
    assert_eq!(tensors.unread(|_| false), ["a", "c"]);
    let wrong = block_on(tensors.take("c", &[2])).unwrap_err().to_string();
    assert!(wrong.contains("s2.safetensors: tensor c"), "the shard is named: {wrong}");
    let absent = block_on(tensors.take("nothing", &[2])).unwrap_err().to_string();
    assert!(absent.contains(INDEX), "the index is named: {absent}");
}

#[test]
fn broken_index_is_refused() {
    says(sharded(r#"{"a": "s3.safetensors"}"#), &["transformer/s3.safetensors: there is no such file"]);
    says(sharded("{}"), &[INDEX, "weight_map: expected tensors"]);
    says(sharded("[]"), &[INDEX, "broken JSON: invalid type", "line 1"]);
    says(sharded(r#"{"a": 5}"#), &[INDEX, "broken JSON: invalid type: integer `5`"]);
    says(open(&[(INDEX, b"{\"metadata\": {}}")]), &[INDEX, "missing field `weight_map`"]);
    says(open(&[(INDEX, b"{\"weight_map\"")]), &[INDEX, "broken JSON: EOF"]);
    for path in [
        "../vae/x.safetensors",
        "/etc/x.safetensors",
        "..\\\\x.safetensors",
        "C:x.safetensors",
        "\\u001b[2J.safetensors",
        "..",
        "",
        "x.bin",
    ] {
        let map = format!(r#"{{"a": "{path}"}}"#);
        says(sharded(&map), &[INDEX, "weight_map: a: expected the name of a .safetensors file in the same folder"]);
    }
    says(open(&[(INDEX, &b" ".repeat((16 << 20) + 1))]), &[INDEX, "expected at most 16777216 bytes, found 16777217"]);
}

#[test]
fn tensor_only_in_the_index_is_missing() {
    let tensors = sharded(r#"{"a": "s1.safetensors", "d": "s2.safetensors", "e": "s3.safetensors"}"#).unwrap();
    let missed = |name| block_on(tensors.take(name, &[1])).unwrap_err().to_string();
    assert!(missed("d").ends_with("found nothing in s2.safetensors, which should hold it; download both files again"));
    assert!(missed("e").contains("found nothing, for there is no s3.safetensors, which should hold it"));
    assert!(missed("d").contains(INDEX), "{}", missed("d"));
    assert_eq!(tensors.warnings().len(), 1, "the missing file: {:?}", tensors.warnings());
}

/// Asserts that any bytes give an error for the user, or tensors inside the file.
fn survives(bytes: &[u8]) {
    match open(&[(SINGLE, bytes)]) {
        Ok(tensors) => {
            assert!(tensors.bytes() <= bytes.len() as u64);
            for listing in tensors.iter() {
                if let Ok(tensor) = block_on(tensors.take(listing.name, listing.shape)) {
                    assert_eq!(tensor.to_f32().len(), listing.elements());
                }
            }
        }
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Files);
            assert!(error.to_string().len() < 2000);
        }
    }
}

/// A number that a header may claim: plausible, huge, or at an edge.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0..20u64, Just(1 << 31), Just(1 << 61), Just(1 << 63), Just(u64::MAX), any::<u64>()]
}

/// An entry of a header, usually close to a valid one.
fn entry() -> impl Strategy<Value = String> {
    let dtype = prop_oneof![Just("F32"), Just("BF16"), Just("U8"), Just("F4"), Just("F8_E4M3"), Just("I64"), Just("X")];
    (
        prop::sample::select(vec!["a", "b", "c", "__metadata__"]),
        dtype,
        prop::collection::vec(number(), 0..4),
        number(),
        number(),
    )
        .prop_map(|(name, dtype, shape, from, to)| {
            format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{from},{to}]}}"#)
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        survives(&bytes);
    }

    #[test]
    fn random_header_bytes_never_panic(header in prop::collection::vec(any::<u8>(), 0..200), data in 0..100usize) {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.resize(bytes.len() + data, 0);
        survives(&bytes);
    }

    #[test]
    fn random_header_entries_never_panic(entries in prop::collection::vec(entry(), 0..5), data in 0..64usize) {
        survives(&file(&format!("{{{}}}", entries.join(",")), data));
    }

    #[test]
    fn mutated_files_never_panic(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = floats(&[("a.weight", &[2, 3]), ("b", &[4])]);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        survives(&bytes);
    }

    #[test]
    fn random_indices_never_panic(text in "\\{\"weight_map\": ?[{\\[](\"[ab/.]{0,4}\": ?(\"[s./]{0,6}safetensors\"|5|null),?){0,3}[}\\]]\\}?") {
        if let Err(error) = open(&[(INDEX, text.as_bytes())]) {
            prop_assert_eq!(error.kind(), ErrorKind::Files);
        } else {
            prop_assert!(false, "no shard exists");
        }
    }
}
