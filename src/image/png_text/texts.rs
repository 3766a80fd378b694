//! The text chunks of a PNG.

/// Maximum bytes of all texts.
pub(super) const MAX_TEXTS: usize = 16 << 20;
/// Maximum number of texts.
pub(super) const MAX_READ: usize = 256;

/// The texts of a file by name, in file order.
#[derive(Default)]
pub(super) struct Texts {
    pub list: Vec<(String, String)>,
    pub bytes: usize,
}

impl Texts {
    /// Stores a text, unless there are too many or they are too long.
    pub(super) fn add(&mut self, name: &str, text: String) {
        if self.list.len() < MAX_READ && self.bytes + text.len() <= MAX_TEXTS && !text.trim().is_empty() {
            self.bytes += text.len();
            self.list.push((name.to_owned(), text));
        }
    }

    /// The first text of a name, ignoring case.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.list.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, text)| text.as_str())
    }
}
