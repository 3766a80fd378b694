//! The result of holding a LoRA file against a model.

use std::fmt;

/// Problems in one message.
const MOST_LISTED: usize = 8;

/// A count of the tensors of a LoRA file that change a model. It prints as one sentence:
/// `style.safetensors: 480 of 480 tensors applied (240 layers), strength 0.8`.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The file's name.
    pub file: String,
    /// The tensors that change the model, or decide how.
    pub applied: usize,
    /// All tensors of the file.
    pub tensors: usize,
    /// The file's layers that change the model. A fused `qkv` is one layer.
    pub layers: usize,
    /// The tensors of layers that repeat others under a second name; they are not applied again.
    pub repeated: usize,
    /// The strength asked for.
    pub strength: f32,
    /// The tensors that are not used, one entry a layer: its name in the file, the number of its
    /// tensors, and the reason.
    pub unused: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { file, applied, tensors, layers, strength, .. } = self;
        let layers = counted(*layers, "layer");
        write!(f, "{file}: {applied} of {} applied ({layers}), strength {strength}", counted(*tensors, "tensor"))?;
        match self.repeated {
            0 => Ok(()),
            repeated => write!(f, "; {} repeat others", counted(repeated, "tensor")),
        }
    }
}

impl Report {
    /// A list of the tensors that are not used, as the end of a sentence; `None` if there are none.
    pub fn complaint(&self) -> Option<String> {
        if self.unused.is_empty() {
            return None;
        }
        let unused = self.tensors - self.applied - self.repeated;
        let mut listed = self.unused.iter().take(MOST_LISTED).cloned().collect::<Vec<_>>().join("; ");
        if let Some(more) = self.unused.len().checked_sub(MOST_LISTED).filter(|more| *more > 0) {
            listed += &format!("; and {more} more");
        }
        Some(format!("{unused} of {} cannot be applied: {listed}", counted(self.tensors, "tensor")))
    }
}

/// A number with its noun.
pub(super) fn counted(number: usize, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        Report {
            file: "style.safetensors".into(),
            applied: 480,
            tensors: 480,
            layers: 240,
            repeated: 0,
            strength: 0.8,
            unused: Vec::new(),
        }
    }

    #[test]
    fn a_report_is_one_exact_sentence() {
        let sentence = "style.safetensors: 480 of 480 tensors applied (240 layers), strength 0.8";
        assert_eq!(report().to_string(), sentence);
        assert_eq!(report().complaint(), None);
        let one = Report { applied: 1, tensors: 1, layers: 1, strength: 1.0, ..report() };
        assert_eq!(one.to_string(), "style.safetensors: 1 of 1 tensor applied (1 layer), strength 1");
        let repeated = Report { tensors: 720, repeated: 240, ..report() };
        let sentence =
            "style.safetensors: 480 of 720 tensors applied (240 layers), strength 0.8; 240 tensors repeat others";
        assert_eq!(repeated.to_string(), sentence);
    }

    #[test]
    fn a_complaint_counts_what_it_leaves_out() {
        let unused: Vec<String> = (0..10).map(|i| format!("layer {i}")).collect();
        let complaint = Report { applied: 460, unused, ..report() }.complaint().unwrap();
        assert!(complaint.starts_with("20 of 480 tensors cannot be applied: layer 0; layer 1; "), "{complaint}");
        assert!(complaint.ends_with("layer 7; and 2 more"), "{complaint}");
    }
}
