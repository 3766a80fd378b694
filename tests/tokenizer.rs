//! Tokenizers in every layout that transformers reads, and broken ones, in a model's folder.

#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;

use golden::{json, numbers, path, text};
use serde_json::Value;
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};
use zimage::ErrorKind;
use zimage::pipeline::prompt::{Tokenizer, Tokens};
use zimage::weights::ModelFolder;

/// A folder with the tokenizer of the model `single`, restricted to `files`.
fn folder(files: &[&str]) -> TempDir {
    let dir = tempdir().unwrap();
    fs::create_dir(dir.path().join("tokenizer")).unwrap();
    for file in ["model_index.json"].iter().chain(files) {
        fs::copy(path("single").join(file), dir.path().join(file)).unwrap();
    }
    dir
}

const PUBLISHED: [&str; 2] = ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"];

fn load(dir: &Path) -> zimage::Result<Tokenizer> {
    pollster::block_on(Tokenizer::load(&ModelFolder::open(dir).unwrap()))
}

/// Edits one JSON file of a tokenizer.
fn change(dir: &Path, file: &str, change: impl Fn(&mut Value)) {
    let file = dir.join("tokenizer").join(file);
    let mut value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut value);
    fs::write(&file, value.to_string()).unwrap();
}

/// Asserts that loading fails with one sentence about `file`.
#[track_caller]
fn refused(dir: &Path, file: &str, says: &str) {
    let error = load(dir).map(|tokenizer| tokenizer.vocabulary()).unwrap_err();
    let message = error.to_string();
    assert_eq!(error.kind(), ErrorKind::Files, "{message}");
    let named = dir.join("tokenizer").join(file);
    assert!(message.starts_with(&format!("{}: ", named.display())) && message.contains(says), "{message}");
    assert!(!message.contains('\n') && message.len() < 600, "{message}");
}

#[test]
fn every_layout_gives_the_ids_of_transformers() {
    let recorded = json("tokenizer_layouts.json");
    let prompts = recorded["prompts"].as_array().unwrap();
    let cases = recorded["cases"].as_array().unwrap();
    assert_eq!((prompts.len(), cases.len()), (8, 10));
    for case in cases {
        let files = case["files"].as_object().unwrap();
        let same: Vec<String> =
            files.iter().filter(|(_, text)| text.is_null()).map(|(name, _)| format!("tokenizer/{name}")).collect();
        let dir = folder(&same.iter().map(String::as_str).collect::<Vec<_>>());
        for (name, contents) in files.iter().filter(|(_, contents)| !contents.is_null()) {
            fs::write(dir.path().join("tokenizer").join(name), text(contents)).unwrap();
        }
        let tokenizer = load(dir.path()).unwrap();
        for (prompt, ids) in prompts.iter().zip(case["ids"].as_array().unwrap()) {
            let Tokens { ids: found, cut } = tokenizer.encode(text(prompt)).unwrap();
            let expected: Vec<u32> = numbers(ids).into_iter().map(|id| id as u32).collect();
            assert_eq!(found, expected, "{}: {prompt}", case["name"]);
            assert_eq!(cut > 0, expected.len() == 512, "{}: {prompt}", case["name"]);
        }
    }
}

#[test]
fn missing_files_are_named() {
    refused(folder(&[]).path(), "tokenizer.json", "a tokenizer is a tokenizer.json, or a vocab.json and a merges.txt");
    let dir = folder(&[]);
    fs::write(dir.path().join("tokenizer/vocab.json"), "{}").unwrap();
    refused(dir.path(), "merges.txt", "there is no such file");
}

#[test]
fn broken_two_file_vocabularies_are_named() {
    let dir = folder(&PUBLISHED[1..]);
    let tokenizer: Value = serde_json::from_slice(&fs::read(path("single").join(PUBLISHED[0])).unwrap()).unwrap();
    let write = |file: &str, text: &str| fs::write(dir.path().join("tokenizer").join(file), text).unwrap();
    let vocabulary = tokenizer["model"]["vocab"].to_string();
    write("merges.txt", "#version: 0.2\n\u{120} a\n");
    for (text, says) in
        [("", "EOF"), ("[]", "expected a vocabulary"), ("{\"a\": \"b\"}", "invalid type"), ("{}", "256 bytes")]
    {
        write("vocab.json", text);
        refused(dir.path(), "vocab.json", says);
    }
    write("vocab.json", &vocabulary);
    assert!(load(dir.path()).is_ok());
    for (text, says) in [("#version: 0.2\na\n", "line 2: expected two tokens"), ("a b c", "line 1")] {
        write("merges.txt", text);
        refused(dir.path(), "merges.txt", says);
    }
    write("merges.txt", "\u{120} a\n");
    change(dir.path(), "tokenizer_config.json", |config| {
        let token = config["added_tokens_decoder"].as_object_mut().unwrap().remove("600").unwrap();
        config["added_tokens_decoder"]["626"] = token;
    });
    refused(dir.path(), "vocab.json", "has id 601, but 600 follows");
}

#[test]
fn settings_accept_python_json() {
    let dir = folder(&PUBLISHED);
    let file = dir.path().join("tokenizer/tokenizer_config.json");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen('{', "{\"model_max_length\": Infinity, \"x\": NaN,", 1)).unwrap();
    assert!(load(dir.path()).is_ok());
}

#[test]
fn settings_changing_tokens_are_refused() {
    for (key, value, says) in [
        ("add_prefix_space", true.into(), "add_prefix_space: expected false"),
        ("split_special_tokens", true.into(), "split_special_tokens: expected false"),
        ("truncation_side", "up".into(), "truncation_side: expected right or left"),
        ("chat_template", 5.into(), "broken JSON"),
        ("chat_template", "{% for %}".into(), "chat template cannot be rendered: syntax error"),
        ("chat_template", serde_json::json!([{"name": "x", "template": "y"}]), "one with the name default"),
        ("added_tokens_decoder", serde_json::json!({"x": 1}), "broken JSON"),
    ] {
        let dir = folder(&PUBLISHED);
        change(dir.path(), "tokenizer_config.json", |config| config[key] = Value::clone(&value));
        refused(dir.path(), "tokenizer_config.json", says);
    }
}

#[test]
fn oversized_files_are_refused_unread() {
    for (file, bytes) in
        [("tokenizer.json", 65 << 20), ("tokenizer_config.json", 5 << 20), ("chat_template.jinja", 5 << 20)]
    {
        let dir = folder(&PUBLISHED);
        fs::File::create(dir.path().join("tokenizer").join(file)).unwrap().set_len(bytes).unwrap();
        refused(dir.path(), file, "expected at most");
    }
}

#[test]
fn template_without_markers_needs_none() {
    let dir = folder(&PUBLISHED);
    let keep = |json: &mut Value| *json = serde_json::json!([]);
    change(dir.path(), "tokenizer.json", |json| keep(&mut json["added_tokens"]));
    change(dir.path(), "tokenizer_config.json", |config| {
        config["added_tokens_decoder"] = serde_json::json!({});
        config["additional_special_tokens"] = serde_json::json!([]);
        config["eos_token"] = Value::Null;
    });
    refused(dir.path(), "tokenizer.json", "no special token <|im_start|>, which the chat template writes");
    change(dir.path(), "tokenizer_config.json", |config| config["chat_template"] = "{{ messages[0].content }}".into());
    assert_eq!(load(dir.path()).unwrap().encode("a").unwrap().ids.len(), 1);
    let error = load(dir.path()).unwrap().encode("").unwrap_err().to_string();
    assert!(error.contains("makes no tokens of the prompt"), "{error}");
}
