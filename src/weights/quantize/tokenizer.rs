//! The tokenizer of a text encoder as metadata: that of the GGUF file that the text encoder comes
//! from, or the `tokenizer.json` with it.

use crate::error::{Error, Result, excerpt};
use crate::json;
use crate::weights::folder::ModelFolder;
use crate::weights::gguf::writer::Value;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// The key of the tokens.
pub(super) const TOKENS: &str = "tokenizer.ggml.tokens";
/// The file of the tokenizer in the model's folder, and its largest size in bytes.
const FILE: &str = "tokenizer/tokenizer.json";
const LARGEST_FILE: u64 = 64 << 20;
/// The most tokens that are written, however many rows a hostile file claims.
const MOST_TOKENS: usize = 1 << 20;

/// The types of tokens (`enum llama_token_type` of llama.cpp).
const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;

/// `tokenizer.json`, as far as a GGUF file has it.
#[derive(Deserialize)]
struct Tokenizer {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    vocab: BTreeMap<String, u32>,
    merges: Vec<Merge>,
}

/// Two tokens, in the layouts of new and of old files.
#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Pair([String; 2]),
    Text(String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
    #[serde(default)]
    special: bool,
}

/// The keys of the tokenizer that is with a text encoder of `rows` embeddings; none if there is
/// none.
///
/// # Errors
/// [`Error::File`] for a `tokenizer.json` that is broken or has tokens without a row; read errors.
pub(super) async fn keys(folder: &ModelFolder, rows: usize) -> Result<Vec<(String, Value)>> {
    if let Some(file) = folder.tokenizer_file() {
        let gguf = file.gguf().await?;
        let mut keys = Vec::new();
        for (key, value) in gguf.metadata.iter().filter(|(key, _)| key.starts_with("tokenizer.")) {
            keys.extend(Value::of(&gguf, value).await?.map(|value| (key.clone(), value)));
        }
        return Ok(keys);
    }
    if !folder.exists(FILE).await? {
        return Ok(Vec::new());
    }
    let bytes = folder.read_at_most(FILE, LARGEST_FILE).await?;
    of_json(json::parse(&folder.path(FILE), &bytes)?, rows, &folder.path(FILE))
}

/// The keys as llama.cpp's converter writes them. Rows without a token have fillers.
fn of_json(tokenizer: Tokenizer, rows: usize, path: &Path) -> Result<Vec<(String, Value)>> {
    let Tokenizer { model: Model { vocab, merges }, added_tokens } = tokenizer;
    let mut tokens: Vec<(String, i32)> = (0..rows.min(MOST_TOKENS)).map(|id| (format!("[PAD{id}]"), UNUSED)).collect();
    let mut put = |id: u32, text: String, kind: i32| match tokens.get_mut(id as usize) {
        Some(token) => {
            *token = (text, kind);
            Ok(())
        }
        None => {
            let problem = format!(
                "the token {} has the id {id}, but the text encoder has {rows} rows of embeddings: they are of \
                 different models",
                excerpt(&text)
            );
            Err(Error::file(path, problem))
        }
    };
    vocab.into_iter().try_for_each(|(text, id)| put(id, text, NORMAL))?;
    let mut named = BTreeMap::new();
    for Added { id, content, special } in added_tokens {
        // The converter takes tokens like <|im_end|> for control tokens, whatever their flag says.
        let control = special || content.starts_with("<|") && content.ends_with("|>");
        named.insert(content.clone(), id);
        put(id, content, if control { CONTROL } else { USER_DEFINED })?;
    }
    let merges: Vec<String> = merges
        .into_iter()
        .map(|merge| match merge {
            Merge::Pair([first, second]) => format!("{first} {second}"),
            Merge::Text(text) => text,
        })
        .collect();
    let types: Vec<i32> = tokens.iter().map(|(_, kind)| *kind).collect();
    let text = |text: &str| Value::Text(text.to_owned());
    let mut keys = vec![
        ("tokenizer.ggml.model".to_owned(), text("gpt2")),
        ("tokenizer.ggml.pre".to_owned(), text("qwen2")),
        (TOKENS.to_owned(), Value::texts(tokens.iter().map(|(text, _)| text.as_str()))),
        ("tokenizer.ggml.token_type".to_owned(), Value::numbers(&types)),
        ("tokenizer.ggml.merges".to_owned(), Value::texts(merges.iter().map(String::as_str))),
    ];
    let ids =
        [("eos_token_id", "<|im_end|>"), ("padding_token_id", "<|endoftext|>"), ("bos_token_id", "<|endoftext|>")];
    for (key, token) in ids {
        keys.extend(named.get(token).map(|id| (format!("tokenizer.ggml.{key}"), Value::U32(*id))));
    }
    keys.push(("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(false)));
    Ok(keys)
}
