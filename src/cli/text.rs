//! Text that may come from a file somebody sent, made safe for a terminal and for JSON.
//!
//! A prompt, a file name or a tensor name can hold characters that steer a terminal, reverse the
//! reading order, or show nothing. One class of characters, [`hidden`], says which; everything that
//! this program prints goes through it.

use unicode_properties::{GeneralCategory, UnicodeEmoji, UnicodeGeneralCategory};

/// True if a terminal obeys `c` or shows nothing for it: control and format characters
/// (bidirectional controls and zero-width characters among them), line and paragraph separators,
/// private and unassigned code points, and the letters and marks that Unicode calls
/// default-ignorable (DerivedCoreProperties.txt).
fn hidden(c: char) -> bool {
    use GeneralCategory as Of;
    if c.is_ascii() {
        return c.is_ascii_control();
    }
    match c.general_category() {
        Of::Control | Of::Format | Of::LineSeparator | Of::ParagraphSeparator => true,
        Of::PrivateUse | Of::Surrogate | Of::Unassigned => true,
        _ => matches!(c,
            '\u{34f}' | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}' | '\u{ffa0}' | '\u{e0100}'..='\u{e01ef}'),
    }
}

/// `text` for a terminal: hidden characters are written as `\u{202e}`. Line breaks and tabs stay,
/// and so do the joiners and variation selectors inside an emoji, which is a single picture with
/// them.
pub(super) fn harmless(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    let mut before = None;
    while let Some(c) = characters.next() {
        let next = characters.peek().copied();
        match c {
            '\r' if next == Some('\n') => {}
            '\n' | '\t' => shown.push(c),
            c if hidden(c) && !inside_emoji(before, c, next) => shown.extend(c.escape_unicode()),
            c => shown.push(c),
        }
        before = Some(c);
    }
    shown
}

/// `text` for a message of one line.
pub(super) fn one_line(text: &str) -> String {
    harmless(&text.replace("\r\n", " ").replace(['\r', '\n'], " "))
}

/// A JSON document with its hidden characters as `\u202e`, which a JSON parser reads as the same
/// text. They can only lie inside strings: outside, JSON has spaces and line feeds.
pub(super) fn escape_json(document: &str) -> String {
    let mut escaped = String::with_capacity(document.len());
    for c in document.chars() {
        if hidden(c) && c != '\n' {
            escaped.extend(c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

/// True if `c` is a joiner between two emoji, or a variation selector behind one.
fn inside_emoji(before: Option<char>, c: char, next: Option<char>) -> bool {
    const JOINER: char = '\u{200d}';
    const SELECTORS: [char; 2] = ['\u{fe0e}', '\u{fe0f}'];
    const KEYCAP: char = '\u{20e3}';
    let emoji = |c: Option<char>| c.is_some_and(|c| !c.is_ascii() && c.is_emoji_char());
    match c {
        JOINER => (emoji(before) || before == Some(SELECTORS[1])) && emoji(next),
        _ if SELECTORS.contains(&c) => emoji(before) || (before.is_some_and(|c| c.is_ascii()) && next == Some(KEYCAP)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Members of every class that must not reach a terminal, with their Unicode categories.
    const HOSTILE: &[(char, &str)] = &[
        ('\u{0}', "null"),
        ('\u{7}', "bell"),
        ('\u{1b}', "escape"),
        ('\u{7f}', "delete"),
        ('\u{80}', "first of C1"),
        ('\u{85}', "next line"),
        ('\u{9b}', "control sequence introducer"),
        ('\u{9f}', "last of C1"),
        ('\u{ad}', "soft hyphen"),
        ('\u{34f}', "combining grapheme joiner"),
        ('\u{61c}', "Arabic letter mark"),
        ('\u{115f}', "Hangul choseong filler"),
        ('\u{180e}', "Mongolian vowel separator"),
        ('\u{200b}', "zero width space"),
        ('\u{200c}', "zero width non-joiner"),
        ('\u{200d}', "zero width joiner"),
        ('\u{200e}', "left-to-right mark"),
        ('\u{200f}', "right-to-left mark"),
        ('\u{2028}', "line separator"),
        ('\u{2029}', "paragraph separator"),
        ('\u{202a}', "left-to-right embedding"),
        ('\u{202e}', "right-to-left override"),
        ('\u{2060}', "word joiner"),
        ('\u{2066}', "left-to-right isolate"),
        ('\u{2069}', "pop directional isolate"),
        ('\u{206f}', "nominal digit shapes"),
        ('\u{3164}', "Hangul filler"),
        ('\u{e000}', "private use"),
        ('\u{fe0f}', "variation selector 16"),
        ('\u{feff}', "byte order mark"),
        ('\u{fff9}', "interlinear annotation anchor"),
        ('\u{fffe}', "noncharacter"),
        ('\u{1d173}', "musical symbol begin beam"),
        ('\u{e0001}', "language tag"),
        ('\u{e0041}', "tag latin capital letter a"),
        ('\u{e0100}', "variation selector 17"),
        ('\u{f0000}', "private use of plane 15"),
        ('\u{10ffff}', "last code point"),
    ];

    #[test]
    fn hidden_characters_reach_no_terminal() {
        for &(c, name) in HOSTILE {
            let text = format!("a{c}b");
            let shown = harmless(&text);
            assert_eq!(shown, format!("a\\u{{{:x}}}b", u32::from(c)), "{name}");
            assert_eq!(one_line(&text), shown, "{name}");
        }
        assert_eq!(harmless("a\u{1b}[31m\r\nb\tc\rd"), "a\\u{1b}[31m\nb\tc\\u{d}d");
        assert_eq!(one_line("a\r\nb\nc\rd"), "a b c d");
    }

    #[test]
    fn hidden_characters_are_escaped_losslessly_in_json() {
        let all: String = HOSTILE.iter().map(|&(c, _)| c).chain("\n\t\"\\ 狐 👨\u{200d}👩".chars()).collect();
        let document = serde_json::to_string_pretty(&[&all]).unwrap();
        let escaped = escape_json(&document);
        assert!(escaped.chars().all(|c| c == '\n' || !hidden(c)), "{escaped:?}");
        assert_eq!(serde_json::from_str::<Vec<String>>(&escaped).unwrap(), [all]);
    }

    #[test]
    fn letters_of_all_scripts_and_whole_emoji_are_shown() {
        for text in [
            "ein roter Fuchs — “quoted” ‒ ½ №",
            "狐と猫 ภาพ हिन्दी العربية עברית",
            "👨\u{200d}👩\u{200d}👧",
            "❤\u{fe0f}\u{200d}🔥 1\u{fe0f}\u{20e3} 👍🏽 🇫🇷",
            "🏳\u{fe0f}\u{200d}🌈",
        ] {
            assert_eq!(harmless(text), text);
        }
        assert_eq!(harmless("👨\u{200d}x \u{200d}👨"), "👨\\u{200d}x \\u{200d}👨");
        assert_eq!(harmless("👍\u{fe0f}\u{fe0f}"), "👍\u{fe0f}\\u{fe0f}");
    }
}
