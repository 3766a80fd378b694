//! The files of a tokenizer's folder beside the vocabulary: tokenizer_config.json, its older
//! companions special_tokens_map.json and added_tokens.json, and the chat template.

use super::LARGEST_SETTINGS;
use super::added::{self, Added};
use super::template::ChatTemplate;
use crate::error::{Error, Result, excerpt};
use crate::json;
use crate::weights::ModelFolder;
use bytes::Bytes;
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};

const CONFIG: &str = "tokenizer/tokenizer_config.json";
const TEMPLATE: &str = "tokenizer/chat_template.jinja";
const SPECIAL: &str = "tokenizer/special_tokens_map.json";
const ADDED: &str = "tokenizer/added_tokens.json";

/// Settings of a tokenizer; the defaults are those of a folder without a tokenizer_config.json.
#[derive(Debug, Default)]
pub(super) struct Settings {
    /// Tokens to be added to those of the vocabulary's file, in this order. Those that transformers
    /// 4 saves come with their ids.
    pub added: Vec<(Option<u32>, Added)>,
    /// The token before the text, used where the tokenizer has no post-processor.
    pub before: Option<String>,
    /// The token after the text, likewise.
    pub after: Option<String>,
    /// True if a text that is too long loses its beginning.
    pub cut_left: Option<bool>,
    pub template: ChatTemplate,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Config {
    add_bos_token: Option<bool>,
    add_eos_token: Option<bool>,
    add_prefix_space: Option<bool>,
    split_special_tokens: Option<bool>,
    truncation_side: Option<String>,
    chat_template: Option<Templates>,
    added_tokens_decoder: Option<BTreeMap<u32, Added>>,
    #[serde(flatten)]
    tokens: Tokens,
}

/// Special tokens, as tokenizer_config.json and special_tokens_map.json name them.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Tokens {
    bos_token: Option<Token>,
    eos_token: Option<Token>,
    unk_token: Option<Token>,
    sep_token: Option<Token>,
    pad_token: Option<Token>,
    cls_token: Option<Token>,
    mask_token: Option<Token>,
    additional_special_tokens: Option<Vec<Token>>,
    extra_special_tokens: Option<Extra>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added(Added),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Extra {
    List(Vec<Token>),
    Named(BTreeMap<String, Token>),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Several(Vec<Named>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
    template: String,
}

impl Token {
    fn content(&self) -> &str {
        match self {
            Token::Text(text) | Token::Added(Added { content: text, .. }) => text,
        }
    }

    fn added(&self) -> Added {
        match self {
            Token::Text(text) => Added::plain(text.clone(), true),
            Token::Added(added) => added.clone(),
        }
    }
}

impl Tokens {
    /// The named tokens that are set.
    fn named(&self) -> BTreeMap<&'static str, &Token> {
        [
            ("bos_token", &self.bos_token),
            ("eos_token", &self.eos_token),
            ("unk_token", &self.unk_token),
            ("sep_token", &self.sep_token),
            ("pad_token", &self.pad_token),
            ("cls_token", &self.cls_token),
            ("mask_token", &self.mask_token),
        ]
        .into_iter()
        .filter_map(|(name, token)| Some((name, token.as_ref()?)))
        .collect()
    }

    /// All tokens, the named ones first.
    fn all(&self) -> Vec<&Token> {
        let extra: Vec<&Token> = match &self.extra_special_tokens {
            Some(Extra::List(list)) => list.iter().collect(),
            Some(Extra::Named(named)) => named.values().collect(),
            None => Vec::new(),
        };
        let additional = self.additional_special_tokens.iter().flatten();
        self.named().into_values().chain(additional).chain(extra).collect()
    }
}

/// A small file of the tokenizer's folder, if it is there.
async fn small(folder: &ModelFolder, file: &str) -> Result<Option<Bytes>> {
    match folder.exists(file).await? {
        true => Ok(Some(folder.read_at_most(file, LARGEST_SETTINGS).await?)),
        false => Ok(None),
    }
}

/// The added tokens of added_tokens.json by their ids; those among `special` are special.
async fn older_decoder(folder: &ModelFolder, special: [&Tokens; 2]) -> Result<BTreeMap<u32, Added>> {
    let Some(json) = small(folder, ADDED).await? else { return Ok(BTreeMap::new()) };
    let ids: BTreeMap<String, u32> = json::parse(&folder.path(ADDED), &json)?;
    let special: HashSet<&str> = special.iter().flat_map(|tokens| tokens.all()).map(Token::content).collect();
    let added = |(content, id): (String, u32)| (id, Added::plain(content.clone(), special.contains(&*content)));
    Ok(ids.into_iter().map(added).collect())
}

impl Settings {
    /// Reads the files of a tokenizer's folder beside its vocabulary.
    ///
    /// # Errors
    /// [`Error::File`] for a file that cannot be read or has a setting that is not supported; those
    /// of the folder.
    pub(super) async fn read(folder: &ModelFolder) -> Result<Self> {
        let path = folder.path(CONFIG);
        let config = match small(folder, CONFIG).await? {
            Some(json) => json::parse(&path, &json)?,
            None => Config::default(),
        };
        let Config { add_bos_token, add_eos_token, chat_template, added_tokens_decoder, tokens, .. } = config;
        for (name, value) in
            [("add_prefix_space", config.add_prefix_space), ("split_special_tokens", config.split_special_tokens)]
        {
            if value == Some(true) {
                return Err(Error::file(&path, format!("{name}: expected false as in Qwen's tokenizer, found true")));
            }
        }
        let cut_left = match config.truncation_side.as_deref() {
            None => None,
            Some("right") => Some(false),
            Some("left") => Some(true),
            Some(other) => {
                let problem = format!("truncation_side: expected right or left, found {}", excerpt(other));
                return Err(Error::file(&path, problem));
            }
        };

        // The second list is older than transformers 4.34.
        let (decoder, older) = match added_tokens_decoder {
            Some(decoder) => (decoder, Tokens::default()),
            None => {
                let older = match small(folder, SPECIAL).await? {
                    Some(json) => json::parse(&folder.path(SPECIAL), &json)?,
                    None => Tokens::default(),
                };
                (older_decoder(folder, [&tokens, &older]).await?, older)
            }
        };
        let mut named = older.named();
        named.extend(tokens.named());
        let named: BTreeMap<_, _> = named.into_iter().map(|(name, token)| (name, token.content().to_owned())).collect();
        let token = |add: Option<bool>, name: &str| add.unwrap_or(false).then(|| named.get(name).cloned()).flatten();
        let before = token(add_bos_token, "bos_token");
        let after = token(add_eos_token, "eos_token");
        let mut added: Vec<(Option<u32>, Added)> = decoder.into_iter().map(|(id, token)| (Some(id), token)).collect();
        for token in tokens.all().into_iter().chain(older.all()) {
            if added.iter().all(|(_, other)| other.content != token.content()) {
                added.push((None, token.added()));
            }
        }
        let contents: Vec<Added> = added.iter().map(|(_, token)| token.clone()).collect();
        added::check(&contents).map_err(|problem| Error::file(&path, problem))?;

        let template = match (small(folder, TEMPLATE).await?, chat_template) {
            (Some(text), _) => {
                let path = folder.path(TEMPLATE);
                let text = String::from_utf8(text.into())
                    .map_err(|_| Error::file(&path, "expected a chat template in UTF-8"))?;
                ChatTemplate::new(text, path, named)?
            }
            (None, Some(Templates::One(text))) => ChatTemplate::new(text, path, named)?,
            (None, Some(Templates::Several(several))) => {
                match several.into_iter().find(|template| template.name == "default") {
                    Some(template) => ChatTemplate::new(template.template, path, named)?,
                    None => return Err(Error::file(&path, "chat_template: expected one with the name default")),
                }
            }
            (None, None) => ChatTemplate::default(),
        };
        Ok(Self { added, before, after, cut_left, template })
    }
}
