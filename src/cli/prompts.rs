//! The prompts of a command line: `-` reads one from standard input; all are checked
//! for the words that a shell makes of a line without quotes.

use super::peers::is_flag;
use std::io::{IsTerminal, Read};
use zimage::{Error, Result};

/// The most bytes of a prompt from standard input. Far fewer make the 512 tokens that are read.
const MOST_BYTES: u64 = 1 << 20;

/// Refuses prompts that are almost surely not meant as they are. Those of `-p`, `literal`, are.
///
/// # Errors
/// [`Error::Request`] with the line that was meant.
pub(super) fn check(prompts: &[String], literal: &[String], negatives: &[String]) -> Result<()> {
    if let Some(number) = negatives.iter().find(|text| is_number(text)) {
        return refuse(format!(
            "the negative prompt (-n) is the number {number}: --count {number} makes several pictures"
        ));
    }
    if let (Some(first), [_, ..]) = (literal.first(), prompts) {
        let line = prompts.join(" ");
        return refuse(format!(
            "\"{line}\" is not a part of -p {first:?}: put the prompt of -p in quotes, and -p before every prompt"
        ));
    }
    if let Some(flag) = prompts.iter().find(|text| is_flag(text)) {
        return refuse(format!(
            "{flag} would be drawn, because it comes after --: put flags before it, or use -p {flag} to draw it"
        ));
    }
    let count = prompts.len();
    if count < 2 {
        return Ok(());
    }
    if let Some(number) = prompts.iter().find(|text| is_number(text)) {
        return refuse(format!(
            "{number} would be a prompt of its own: it looks like the value of a flag that takes none; use -p {number} to \
             draw it"
        ));
    }
    if prompts.iter().all(|text| is_word(text)) {
        let line = prompts.join(" ");
        let each = prompts.join(" -p ");
        return refuse(format!(
            "{count} prompts of one word each would make {count} different pictures: put one prompt in quotes, as in \
             generate \"{line}\", or ask for each word with generate -p {each}"
        ));
    }
    Ok(())
}

/// Warnings about prompts that can be drawn all the same, a sentence each.
pub(super) fn warnings(prompts: &[String]) -> Vec<String> {
    let mut warnings = Vec::new();
    let count = prompts.len();
    if count > 1 && prompts.iter().any(|text| is_word(text)) {
        warnings.push(format!("there are {count} prompts, which make different pictures: one prompt needs quotes"));
    }
    if prompts.iter().any(|text| text.to_lowercase().contains("<lora:")) {
        warnings.push("<lora:…> is read as words of the prompt: LoRAs are not supported".to_owned());
    }
    let words = || prompts.iter().flat_map(|text| text.split_whitespace());
    if let Some(flag) = words().find(|word| word.starts_with("--") && is_flag(word)) {
        warnings.push(format!("{flag} is read as a word of the prompt: flags come outside its quotes"));
    }
    warnings
}

/// A prompt from standard input, without the line break at its end.
///
/// # Errors
/// [`Error::Request`] when it is empty, too long or not UTF-8; [`Error::Io`] when it is unreadable.
pub(super) fn read_stdin() -> Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        super::note("type the prompt; Ctrl-D on a new line ends it");
    }
    let mut bytes = Vec::new();
    let read = stdin.lock().take(MOST_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|source| Error::Io { path: "standard input".into(), source })?;
    decoded(bytes)
}

fn decoded(bytes: Vec<u8>) -> Result<String> {
    if bytes.is_empty() {
        return refuse("standard input is empty: pipe a prompt into generate -".into());
    }
    if bytes.len() as u64 > MOST_BYTES {
        return refuse(format!("standard input is longer than a prompt may be: pipe at most {MOST_BYTES} bytes"));
    }
    let Ok(text) = String::from_utf8(bytes) else {
        return refuse("standard input is not UTF-8 text: convert the prompt to UTF-8".into());
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let text = text.strip_suffix('\n').map_or(text, |line| line.strip_suffix('\r').unwrap_or(line));
    Ok(text.to_owned())
}

fn refuse<T>(sentence: String) -> Result<T> {
    Err(Error::Request(sentence))
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// True if a text is a single word of a script that puts spaces between words. A sentence of the
/// others has none.
fn is_word(text: &str) -> bool {
    // Thai to Myanmar, Khmer, Tai Lue to Tai Tham, and everything from the CJK radicals to the end
    // of Hangul's letters.
    let unspaced = |c: char| {
        matches!(c, '\u{e00}'..='\u{109f}' | '\u{1780}'..='\u{17ff}' | '\u{1950}'..='\u{1aaf}'
            | '\u{2e80}'..='\u{abff}' | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{3ffff}')
    };
    text.chars().any(char::is_alphabetic) && !text.chars().any(|c| c.is_whitespace() || unspaced(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(ToString::to_string).collect()
    }

    /// The warnings about prompts that are not refused.
    fn of(prompts: &[&str]) -> Result<Vec<String>> {
        let prompts = texts(prompts);
        check(&prompts, &[], &[]).map(|()| warnings(&prompts))
    }

    #[test]
    fn a_prompt_without_quotes_is_refused() {
        for prompts in [&["a", "red", "fox"][..], &["cat", "dog"], &["рыжая", "лиса"], &["fox,", "photo"]] {
            let error = of(prompts).unwrap_err().to_string();
            assert!(error.contains(&format!("generate \"{}\"", prompts.join(" "))), "{error}");
            assert!(error.contains(&format!("generate -p {}", prompts.join(" -p "))), "{error}");
        }
        assert!(of(&["photo", "of", "a red fox"]).unwrap()[0].contains("3 prompts"));
    }

    #[test]
    fn prompts_that_were_meant_are_drawn_without_a_word() {
        for prompts in [
            &["fox"][..],
            &["a cat", "a dog"],
            &["一只红色的狐狸", "一只猫"],
            &["キツネ", "猫"],
            &["ภาพสุนัข", "แมว"],
            &["🦊", "🐱"],
            &["7"],
            &["", ""],
            &["a fox -- with a hat", "- a list"],
        ] {
            assert!(of(prompts).unwrap().is_empty(), "{prompts:?}");
        }
    }

    #[test]
    fn flags_and_their_values_are_no_prompts() {
        for flag in ["--lora", "--lora=x", "-W", "--steps", "-g4"] {
            let error = of(&["a fox", flag]).unwrap_err().to_string();
            assert!(error.contains(flag) && error.contains("-p"), "{error}");
        }
        assert!(of(&["8", "a fox"]).unwrap_err().to_string().contains("value of a flag"));
        let error = check(&texts(&["a fox"]), &[], &texts(&["4"])).unwrap_err().to_string();
        assert!(error.contains("--count 4"), "{error}");
        let error = check(&texts(&["red", "fox"]), &texts(&["a"]), &[]).unwrap_err().to_string();
        assert!(error.contains("\"red fox\" is not a part of -p \"a\""), "{error}");
    }

    #[test]
    fn flags_inside_a_prompt_are_a_warning() {
        for (prompt, says) in [
            ("a fox --ar 16:9", "--ar is read as a word"),
            ("a fox --steps=8", "--steps=8 is read as a word"),
            ("a fox <lora:fur:0.8>", "LoRAs are not supported"),
        ] {
            let warnings = of(&[prompt]).unwrap();
            assert!(warnings.len() == 1 && warnings[0].contains(says), "{warnings:?}");
        }
    }

    #[test]
    fn standard_input_loses_its_last_line_break_alone() {
        for (bytes, text) in [
            ("a fox\n", "a fox"),
            ("a fox\r\n", "a fox"),
            ("a\n\n", "a\n"),
            ("\u{feff}狐", "狐"),
            ("\n", ""),
            ("a\r", "a\r"),
        ] {
            assert_eq!(decoded(bytes.into()).unwrap(), text);
        }
        for (bytes, says) in [(vec![], "empty"), (vec![0xff, 0xfe, 65, 0], "UTF-8"), (vec![b'a'; 1 << 21], "1048576")] {
            assert!(decoded(bytes).unwrap_err().to_string().contains(says), "{says}");
        }
    }
}
