//! A command line that does not parse, as one sentence.

use super::peers;
use clap::error::{ContextKind, ContextValue, ErrorKind};

/// clap's report of several paragraphs as one line: the error, its tips, and where to read on.
/// Flags of other programs are answered with ours. `arguments` is the command line without the
/// program's name.
pub(super) fn sentence(error: &clap::Error, arguments: &[String]) -> String {
    let named = |kind| match error.get(kind) {
        Some(ContextValue::String(name)) => Some(name.as_str()),
        _ => None,
    };
    if let (ErrorKind::UnknownArgument, Some(flag)) = (error.kind(), named(ContextKind::InvalidArg))
        && let Some(answer) = peers::answer(flag, arguments)
    {
        return answer;
    }
    let report = error.to_string();
    let mut paragraphs =
        report.split("\n\n").map(|paragraph| paragraph.split_whitespace().collect::<Vec<_>>().join(" "));
    let first = paragraphs.next().unwrap_or_default();
    let mut line = first.strip_prefix("error: ").unwrap_or(&first).to_owned();
    match (error.kind(), arguments) {
        // A word of two letters is similar to everything.
        (ErrorKind::InvalidSubcommand, [name, ..]) if is_prompt(error, name) => {
            let prompt: Vec<&str> =
                arguments.iter().map(String::as_str).take_while(|text| !peers::is_flag(text)).collect();
            return format!("{line}; to draw it: zimage generate {:?}", prompt.join(" "));
        }
        (ErrorKind::UnknownArgument, [flag, ..]) if peers::is_flag(flag) => {
            return format!("{line}; a command comes first, as in zimage generate \"a red fox\"");
        }
        _ => {}
    }
    for paragraph in paragraphs {
        // `to pass '--stepz' as a value, use '-- --stepz'` would draw a picture of the flag.
        let tips = paragraph.split("tip: ").map(str::trim).filter(|_| paragraph.starts_with("tip: "));
        for tip in tips.filter(|tip| !tip.is_empty() && !tip.starts_with("to pass ")) {
            line += &format!(" (tip: {tip})");
        }
    }
    line + "; --help lists what there is"
}

/// True if the text in a command's place is rather a prompt than a misspelled command.
fn is_prompt(error: &clap::Error, name: &str) -> bool {
    let similar =
        matches!(error.get(ContextKind::SuggestedSubcommand), Some(ContextValue::Strings(names)) if !names.is_empty());
    name.chars().count() <= 2 || !similar
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::Parser;

    fn of(arguments: &[&str]) -> String {
        let error = Cli::try_parse_from([&["zimage"], arguments].concat()).unwrap_err();
        sentence(&error, &arguments.iter().map(ToString::to_string).collect::<Vec<_>>())
    }

    #[test]
    fn usage_errors_are_one_line() {
        for arguments in [&["generate"][..], &["generate", "a", "--stepz", "3"], &["paint"], &["inspect", "a", "b"]] {
            let text = of(arguments);
            assert!(!text.contains('\n') && !text.starts_with("error"), "{text}");
        }
    }

    #[test]
    fn tips_never_lead_to_pictures_of_flags() {
        let text = of(&["generate", "a", "--stepz", "3"]);
        assert!(text.contains("(tip: a similar argument exists: '--steps')"), "{text}");
        for arguments in
            [&["generate", "a", "--stepz", "3"][..], &["generate", "a", "--frobnicate"], &["inspect", "-x"]]
        {
            let text = of(arguments);
            assert!(!text.contains("as a value") && !text.contains("-- -"), "{text}");
        }
    }

    #[test]
    fn a_prompt_without_a_command_is_answered() {
        for arguments in [&["a red fox"][..], &["a", "red", "fox"], &["a red", "fox", "--steps", "8"]] {
            let text = of(arguments);
            assert!(text.ends_with("to draw it: zimage generate \"a red fox\""), "{text}");
        }
        let text = of(&["genrate", "a fox"]);
        assert!(text.contains("exists: 'generate'") && !text.contains("to draw"), "{text}");
        let text = of(&["--steps", "8"]);
        assert!(text.ends_with("a command comes first, as in zimage generate \"a red fox\""), "{text}");
    }
}
