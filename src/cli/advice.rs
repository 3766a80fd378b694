//! Advice about flags, for the errors that a flag can avoid.

use zimage::{Error, MemoryKind};

/// The error's sentence, with the flags that may help.
pub(super) fn sentence(error: &Error) -> String {
    match flags(error) {
        Some(flags) => format!("{error}; {flags}"),
        None => error.to_string(),
    }
}

fn flags(error: &Error) -> Option<&'static str> {
    match error {
        Error::MissingPart { part: "tokenizer", .. } => Some(
            "give it with --tokenizer (a tokenizer.json, its folder or a hub name), or fetch it once with \
             zimage pull Tongyi-MAI/Z-Image-Turbo",
        ),
        Error::MissingPart { part: "VAE", .. } => Some(
            "give it with --vae (a file, a folder or a hub name), or fetch it once with \
             zimage pull Tongyi-MAI/Z-Image-Turbo",
        ),
        Error::MissingPart { .. } => Some(
            "give it with --text-encoder (a file, a folder or a hub name), or fetch it once with \
             zimage pull Tongyi-MAI/Z-Image-Turbo",
        ),
        Error::OutOfMemory { memory: MemoryKind::Weights, .. } => {
            Some("--offload stream, --weights q4_k or a smaller model may fit")
        }
        Error::OutOfMemory { memory: MemoryKind::Activations, .. } => {
            Some("--offload stream, a smaller --width, --height or --batch, or --vae-tile may make it fit")
        }
        Error::OutOfMemory { .. } => Some("a smaller --width, --height or --batch may fit"),
        Error::NoEmbeddedModel => Some("name a model's folder with --model"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_about_a_missing_part_names_its_flag() {
        for (part, flag) in [("text encoder", "--text-encoder"), ("VAE", "--vae"), ("tokenizer", "--tokenizer")] {
            let sentence = sentence(&Error::MissingPart { part, model: "a.gguf".into() });
            let advice = format!("a.gguf: there is no {part} for this model; give it with {flag} (");
            assert!(sentence.starts_with(&advice), "{sentence}");
            assert!(sentence.ends_with(", or fetch it once with zimage pull Tongyi-MAI/Z-Image-Turbo"), "{sentence}");
        }
    }

    #[test]
    fn advice_follows_the_memory_that_ran_out() {
        for (memory, flag) in [
            (MemoryKind::Weights, "a smaller model"),
            (MemoryKind::Activations, "--vae-tile"),
            (MemoryKind::Buffer, "--width"),
            (MemoryKind::Host, "--batch"),
        ] {
            let sentence = sentence(&Error::OutOfMemory { memory, problem: "no memory".into() });
            assert!(sentence.starts_with("no memory; ") && sentence.contains(flag), "{sentence}");
        }
        assert!(sentence(&Error::NoEmbeddedModel).ends_with("--model"));
        assert_eq!(sentence(&Error::Cancelled), "cancelled");
    }
}
