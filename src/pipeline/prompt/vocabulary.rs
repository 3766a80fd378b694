//! The vocabulary and the merges of byte-level BPE, bounded while they are read.

use crate::error::excerpt;
use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fmt;
use tokenizers::models::bpe;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// The most tokens, merges and ids; Qwen3 has 151,643 tokens.
const MOST: usize = 1 << 20;

/// The longest token in bytes; Qwen3's longest has 256.
pub(super) const LONGEST_TOKEN: usize = 1024;

/// Tokens in the alphabet of byte-level BPE, with their ids.
#[derive(Default)]
pub(super) struct Vocabulary(pub bpe::Vocab);

/// Pairs of tokens that become one, the most frequent first.
#[derive(Default)]
pub(super) struct Merges(pub bpe::Merges);

/// Checks the properties that the `tokenizers` crate assumes or silently does without.
///
/// The crate copies both tokens of a merge into a buffer as long as the longest token: a merge that
/// makes a longer one would panic there.
///
/// # Errors
/// One sentence without the file's name.
pub(super) fn check(vocabulary: &Vocabulary, merges: &Merges) -> Result<(), String> {
    let tokens = &vocabulary.0;
    let mut ids = HashSet::with_capacity(tokens.len());
    if let Some((token, id)) = tokens.iter().find(|(_, id)| !ids.insert(**id)) {
        return Err(format!("expected one token for each id, but id {id} has two, among them {}", quoted(token)));
    }
    if let Some(symbol) = ByteLevel::alphabet().into_iter().filter(|&c| !tokens.contains_key(&*c.to_string())).min() {
        return Err(format!("expected a token for each of the 256 bytes, but there is none for {symbol:?}"));
    }
    let longest = tokens.keys().map(String::len).max().unwrap_or(0);
    match merges.0.iter().find(|(first, second)| first.len() + second.len() > longest) {
        Some((first, second)) => {
            Err(format!("the merge of {} and {} makes no token of the vocabulary", quoted(first), quoted(second)))
        }
        None => Ok(()),
    }
}

fn quoted(token: &str) -> String {
    format!("\"{}\"", excerpt(token))
}

fn bounded<E: Error>(token: String) -> Result<String, E> {
    check_len(&token).map_err(E::custom)?;
    Ok(token)
}

fn check_len(token: &str) -> Result<(), String> {
    match token.len() {
        0..=LONGEST_TOKEN => Ok(()),
        len => Err(format!("a token has {len} bytes, more than {LONGEST_TOKEN}")),
    }
}

/// The two tokens of a merge with a space between them.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once(' ') {
        Some((first, second)) if !second.contains(' ') => {
            check_len(first)?;
            check_len(second)?;
            Ok((first.to_owned(), second.to_owned()))
        }
        _ => Err(format!("{}: expected two tokens with a space between them", quoted(text))),
    }
}

impl Vocabulary {
    /// Tokens with their ids, in the order of a list.
    ///
    /// # Errors
    /// One sentence without the file's name: for a token that is too long, one that occurs twice,
    /// and too many of them.
    pub(super) fn numbered<'t>(tokens: impl Iterator<Item = (u32, &'t str)>) -> Result<Self, String> {
        let mut vocabulary = bpe::Vocab::default();
        for (id, token) in tokens {
            check_len(token)?;
            if id as usize >= MOST {
                return Err(format!("expected at most {MOST} tokens, found more"));
            }
            if let Some(other) = vocabulary.insert(token.to_owned(), id) {
                return Err(format!("expected each token once, but {} has the ids {other} and {id}", quoted(token)));
            }
        }
        Ok(Self(vocabulary))
    }
}

impl<'de> Deserialize<'de> for Vocabulary {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Vocabulary;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a vocabulary: tokens with their ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vocabulary, A::Error> {
                let mut vocabulary = bpe::Vocab::default();
                while let Some((token, id)) = map.next_entry::<String, u32>()? {
                    if vocabulary.len() == MOST || id as usize >= MOST {
                        return Err(Error::custom(format_args!("more than {MOST} tokens, or an id past them: {id}")));
                    }
                    vocabulary.insert(bounded(token)?, id);
                }
                Ok(Vocabulary(vocabulary))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A merge as `tokenizers` writes it today, `["a", "b"]`, or as it did before, `"a b"`.
struct Merge(String, String);

impl<'de> Deserialize<'de> for Merge {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Pair;
        impl<'de> Visitor<'de> for Pair {
            type Value = Merge;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a merge: two tokens")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Merge, E> {
                pair(text).map(|(first, second)| Merge(first, second)).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merge, A::Error> {
                let mut token =
                    |i| seq.next_element::<String>()?.map_or_else(|| Err(Error::invalid_length(i, &self)), bounded);
                let merge = Merge(token(0)?, token(1)?);
                match seq.next_element::<String>()? {
                    None => Ok(merge),
                    Some(_) => Err(Error::invalid_length(3, &self)),
                }
            }
        }
        deserializer.deserialize_any(Pair)
    }
}

impl<'de> Deserialize<'de> for Merges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Merges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Merges, A::Error> {
                let mut merges = Vec::new();
                while let Some(Merge(first, second)) = seq.next_element()? {
                    merges.push((first, second));
                    if merges.len() > MOST {
                        return Err(Error::custom(format_args!("more than {MOST} merges")));
                    }
                }
                Ok(Merges(merges))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl Merges {
    /// Merges as a GGUF file and older tokenizer.json files spell them: two tokens with a space
    /// between them.
    ///
    /// # Errors
    /// One sentence without the file's name.
    pub(super) fn pairs<'t>(texts: impl Iterator<Item = &'t str>) -> Result<Self, String> {
        let merges: bpe::Merges = texts.take(MOST + 1).map(pair).collect::<Result<_, String>>()?;
        if merges.len() > MOST {
            return Err(format!("expected at most {MOST} merges, found more"));
        }
        Ok(Self(merges))
    }

    /// Reads `merges.txt` as transformers does: two tokens a line, perhaps below a `#version:`
    /// line.
    ///
    /// # Errors
    /// One sentence without the file's name.
    pub(super) fn lines(text: &str) -> Result<Self, String> {
        let mut merges = Vec::new();
        for (i, line) in text.lines().enumerate().map(|(i, line)| (i, line.trim())) {
            if line.is_empty() || i == 0 && line.starts_with("#version:") {
                continue;
            }
            let mut tokens = line.split_whitespace();
            match (tokens.next(), tokens.next(), tokens.next()) {
                (Some(first), Some(second), None) if line.len() <= LONGEST_TOKEN && merges.len() < MOST => {
                    merges.push((first.to_owned(), second.to_owned()));
                }
                _ => return Err(format!("line {}: expected two tokens, found {}", i + 1, quoted(line))),
            }
        }
        Ok(Self(merges))
    }
}
