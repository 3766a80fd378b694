//! The generation data of another program.

use serde::{Serialize, Serializer};
use serde_json::Value;

/// Maximum number of stored settings per picture, and maximum characters per setting.
const MOST_SETTINGS: usize = 48;
const LONGEST_SETTING: usize = 400;

/// Generation data as another program wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Foreign {
    /// The program's name; empty if the file does not contain it.
    pub program: String,
    /// The prompt, if found.
    pub prompt: Option<String>,
    /// The negative prompt, if there is one.
    pub negative: Option<String>,
    /// The other settings, by the program's own names.
    #[serde(serialize_with = "map")]
    pub settings: Vec<(String, String)>,
}

fn map<S: Serializer>(settings: &[(String, String)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(settings.iter().map(|(name, value)| (name, value)))
}

impl Foreign {
    pub(super) fn of(program: &str, prompt: Option<String>, negative: Option<String>) -> Self {
        let given = |text: &String| !text.trim().is_empty();
        let (prompt, negative) = (prompt.filter(given), negative.filter(given));
        Self { program: program.to_owned(), prompt, negative, settings: Vec::new() }
    }

    /// Stores a setting unless its name exists already.
    pub(super) fn set(&mut self, name: &str, value: String) {
        let known = self.settings.iter().any(|(old, _)| old == name);
        if known || value.is_empty() || self.settings.len() == MOST_SETTINGS {
            return;
        }
        let short = |text: &str| match text.char_indices().nth(LONGEST_SETTING) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text.to_owned(),
        };
        self.settings.push((short(name), short(&value)));
    }
}

/// A number, a string or a boolean as text.
pub(super) fn scalar(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(truth) => Some(truth.to_string()),
        _ => None,
    }
}
