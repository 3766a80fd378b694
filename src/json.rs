//! JSON as Python writes and reads it: its `json` module adds `NaN`, `Infinity` and `-Infinity`,
//! reads a number past the largest double as an infinity, and allows one half of a surrogate pair.

use crate::error::{Error, Result, excerpt};
use serde::de::DeserializeOwned;
use std::borrow::Cow;
use std::path::Path;

/// Reads `json`, the contents of the file at `path`. A number that JSON has no words for becomes a
/// string of its name: a key that nothing reads may hold it, and a key that is read refuses it.
///
/// # Errors
/// [`Error::File`] that names the file and the place.
pub(crate) fn parse<T: DeserializeOwned>(path: &Path, json: &[u8]) -> Result<T> {
    const MARKS: [&[u8]; 3] = [b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff"];
    if MARKS.iter().any(|mark| json.starts_with(mark)) {
        let problem = "broken JSON: expected UTF-8, found a byte order mark; save the file as UTF-8 without one";
        return Err(Error::file(path, problem));
    }
    serde_json::from_slice(&strict(json))
        .map_err(|e| Error::file(path, format!("broken JSON: {}", excerpt(&e.to_string()))))
}

/// `json` with the words that only Python knows put into strict JSON.
pub(crate) fn strict(json: &[u8]) -> Cow<'_, [u8]> {
    let mut out = Vec::new();
    let mut copied = 0;
    let mut at = 0;
    let mut in_string = false;
    while let Some(&byte) = json.get(at) {
        let rest = &json[at..];
        let (len, word) = match byte {
            b'"' => {
                in_string = !in_string;
                (1, None)
            }
            b'\\' if in_string => escape(rest),
            _ if in_string => (1, None),
            _ => bare_word(rest),
        };
        if let Some(word) = word {
            out.extend_from_slice(&json[copied..at]);
            out.extend_from_slice(&word);
            copied = at + len;
        }
        at += len;
    }
    if copied == 0 {
        return Cow::Borrowed(json);
    }
    out.extend_from_slice(&json[copied..]);
    Cow::Owned(out)
}

/// The length of the escape that `rest` begins with, and its replacement if it is half a surrogate
/// pair.
fn escape(rest: &[u8]) -> (usize, Option<Vec<u8>>) {
    match (unit(rest), rest.get(6..).and_then(unit)) {
        (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => (12, None),
        (Some(0xd800..=0xdfff), _) => (6, Some(b"\\ufffd".to_vec())),
        _ => (2, None),
    }
}

/// The UTF-16 unit of an escape such as `\u00e9`.
fn unit(escape: &[u8]) -> Option<u16> {
    let digits = escape.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))
}

/// The length of the bare word that `rest` begins with, and its replacement if only Python knows
/// it.
fn bare_word(rest: &[u8]) -> (usize, Option<Vec<u8>>) {
    let part_of_word = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
    let word = &rest[..rest.iter().take_while(part_of_word).count()];
    let endless = |text: &str| {
        text.ends_with(|c: char| c.is_ascii_digit()) && text.parse().is_ok_and(|number: f64| number.is_infinite())
    };
    let of_python = match word {
        b"NaN" | b"Infinity" | b"-Infinity" => true,
        _ => str::from_utf8(word).is_ok_and(endless),
    };
    (word.len().max(1), of_python.then(|| [b"\"", word, b"\""].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn read(text: &str) -> Result<Value> {
        parse(Path::new("m/config.json"), text.as_bytes())
    }

    #[test]
    fn python_s_numbers_and_strings_are_read() {
        // The left sides are what `json.loads` of Python 3.11 reads.
        let cases = [
            (r#"{"a": NaN, "b": [-Infinity,Infinity]}"#, json!({"a": "NaN", "b": ["-Infinity", "Infinity"]})),
            (r#"{"a": 1e999, "b": -1e999, "c": 1e-999}"#, json!({"a": "1e999", "b": "-1e999", "c": 0.0})),
            (r#"{"a": "NaN, \"Infinity", "b": 1}"#, json!({"a": "NaN, \"Infinity", "b": 1})),
            (r#"{"_name_or_path": "m\udce9dia"}"#, json!({"_name_or_path": "m\u{fffd}dia"})),
            (r#"["\ud83d\ude00", "\ud83d", "\\ud83d"]"#, json!(["😀", "\u{fffd}", "\\ud83d"])),
            (r#"{"a": 1, "a": 2}"#, json!({"a": 2})),
        ];
        for (text, value) in cases {
            assert_eq!(read(text).unwrap(), value, "{text}");
        }
        let large = "1".repeat(400);
        assert_eq!(read(&format!("[{large}]")).unwrap(), json!([large]), "past the largest double");
        assert_eq!(read("[123456789012345678901234567890]").unwrap(), json!([123456789012345678901234567890f64]));
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for text in [
            "",
            "{",
            "[nan]",
            "[-NaN]",
            "[infinity]",
            "[01]",
            "[1,]",
            "{'a': 1}",
            "[\"\\u12\"]",
            "[\"\\",
            "[\"\u{1}\"]",
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.starts_with("m/config.json: broken JSON: "), "{text}: {error}");
        }
        let error = read("\u{feff}{}").unwrap_err().to_string();
        assert!(error.ends_with("found a byte order mark; save the file as UTF-8 without one"), "{error}");
        let deep = "[".repeat(1 << 20);
        assert!(read(&deep).unwrap_err().to_string().contains("recursion limit"));
    }
}
