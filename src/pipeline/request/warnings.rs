//! Warnings about requests that can be drawn but will hardly please.

use crate::model::config::Defaults;

/// The longest side in pixels that the published models draw well.
const LONGEST_TRAINED: usize = 2048;
/// The most sizes of a model that are named.
const MOST_NAMED: usize = 4;

/// A sentence for a picture of `[width, height]` that the model was not trained for.
pub(super) fn of_size(defaults: &Defaults, [width, height]: [usize; 2]) -> Option<String> {
    let sizes = &defaults.sizes;
    if sizes.contains(&[width, height]) {
        return None;
    }
    let trained = match sizes.len() {
        0 if width.max(height) <= LONGEST_TRAINED => return None,
        0 => format!("sides up to {LONGEST_TRAINED} pixels"),
        count => {
            let named: Vec<String> = sizes.iter().take(MOST_NAMED).map(|[w, h]| format!("{w}×{h}")).collect();
            let more =
                if count > MOST_NAMED { format!(" and {} more sizes", count - MOST_NAMED) } else { String::new() };
            format!("{}{more}", named.join(", "))
        }
    };
    Some(format!("this model was trained for {trained}: a picture of {width}×{height} may be broken"))
}

/// A sentence for every prompt without a visible character.
pub(super) fn of_prompts(prompts: &[String]) -> Vec<String> {
    let empty = prompts.iter().enumerate().filter(|(_, prompt)| prompt.chars().all(invisible));
    let sentence = |(i, _): (usize, &String)| {
        let which = if prompts.len() == 1 { "the prompt".to_owned() } else { format!("prompt {}", i + 1) };
        format!("{which} is empty: the model draws whatever it likes")
    };
    empty.map(sentence).collect()
}

/// True for a character without ink: spaces, control characters, and the default-ignorable ones of
/// Unicode.
fn invisible(c: char) -> bool {
    c.is_whitespace()
        || c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
            | '\u{2800}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
            | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompts_without_ink_are_named() {
        let of = |prompts: &[&str]| of_prompts(&prompts.iter().map(ToString::to_string).collect::<Vec<_>>());
        for empty in ["", " ", "\n\t \r\n", "\u{a0}\u{3000}", "\u{200b}\u{200d}", "\u{feff}", "\0\u{7f}", "\u{2800}"] {
            assert_eq!(of(&[empty]), ["the prompt is empty: the model draws whatever it likes"], "{empty:?}");
        }
        assert_eq!(of(&["a", " ", "b", ""]).len(), 2);
        assert!(of(&["a", " ", "b"])[0].starts_with("prompt 2 is empty"));
        for drawn in ["a", ".", "狐", "🦊", " é "] {
            assert!(of(&[drawn]).is_empty(), "{drawn:?}");
        }
    }

    #[test]
    fn sizes_the_model_was_not_trained_for_are_named() {
        let defaults =
            |sizes: &[[usize; 2]]| Defaults { steps: 8, guidance: 0.0, width: 256, height: 256, sizes: sizes.to_vec() };
        let small = defaults(&[[256, 256], [320, 192]]);
        assert_eq!(of_size(&small, [256, 256]), None);
        assert_eq!(of_size(&small, [320, 192]), None);
        let turned = of_size(&small, [192, 320]).unwrap();
        assert_eq!(turned, "this model was trained for 256×256, 320×192: a picture of 192×320 may be broken");
        let many = defaults(&[[16, 16]; 6]);
        assert!(of_size(&many, [32, 16]).unwrap().contains("16×16 and 2 more sizes:"));
        assert_eq!(of_size(&defaults(&[]), [2048, 512]), None);
        assert!(of_size(&defaults(&[]), [512, 2064]).unwrap().contains("sides up to 2048 pixels"));
    }
}
