//! The tensor names of LoRA files: a module's name in one of many spellings, then a suffix.

/// The role of a tensor in the change of its module. Where a method is defined: LoRA in
/// arXiv:2106.09685, LoHa in arXiv:2108.06098, LoKr in LyCORIS (arXiv:2309.14859), DoRA in
/// arXiv:2402.09353.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Role {
    /// LoRA's A, `[rank, columns]`.
    Down,
    /// LoRA's B, `[rows, rank]`.
    Up,
    /// The matrix between the two, `[rank, rank]`, of a convolution that is decomposed further.
    Mid,
    /// The numerator of the scale, a single value.
    Alpha,
    /// The scale itself, a single value.
    Scale,
    /// DoRA's norms of rows `[rows, 1]` or of columns `[1, columns]`.
    Magnitude,
    /// The difference of the weight.
    Diff,
    /// The difference of the bias.
    BiasDiff,
    /// LoHa's first product.
    Hada1(Factor),
    /// LoHa's second product.
    Hada2(Factor),
    /// LoKr's outer matrix.
    Kron1(Factor),
    /// LoKr's inner matrix.
    Kron2(Factor),
}

/// A matrix, or a part of its decomposition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Factor {
    /// The matrix itself.
    Whole,
    /// The left factor.
    A,
    /// The right factor.
    B,
    /// The core between them, in the Tucker form.
    Core,
}

use Factor::{A, B, Core, Whole};

/// The suffixes of all trainers. The infix `default`, PEFT's name of an adapter, is removed before.
const SUFFIXES: &[(&str, Role)] = &[
    // PEFT and diffusers.
    (".lora_A.weight", Role::Down),
    (".lora_B.weight", Role::Up),
    (".lora_A", Role::Down),
    (".lora_B", Role::Up),
    (".lora_magnitude_vector.weight", Role::Magnitude),
    (".lora_magnitude_vector", Role::Magnitude),
    // Kohya's scripts, LyCORIS, ComfyUI.
    (".lora_down.weight", Role::Down),
    (".lora_up.weight", Role::Up),
    (".lora_mid.weight", Role::Mid),
    (".alpha", Role::Alpha),
    (".scale", Role::Scale),
    (".dora_scale", Role::Magnitude),
    (".diff", Role::Diff),
    (".diff_b", Role::BiasDiff),
    (".w_norm", Role::Diff),
    (".b_norm", Role::BiasDiff),
    (".hada_w1_a", Role::Hada1(A)),
    (".hada_w1_b", Role::Hada1(B)),
    (".hada_t1", Role::Hada1(Core)),
    (".hada_w2_a", Role::Hada2(A)),
    (".hada_w2_b", Role::Hada2(B)),
    (".hada_t2", Role::Hada2(Core)),
    (".lokr_w1", Role::Kron1(Whole)),
    (".lokr_w1_a", Role::Kron1(A)),
    (".lokr_w1_b", Role::Kron1(B)),
    (".lokr_t1", Role::Kron1(Core)),
    (".lokr_w2", Role::Kron2(Whole)),
    (".lokr_w2_a", Role::Kron2(A)),
    (".lokr_w2_b", Role::Kron2(B)),
    (".lokr_t2", Role::Kron2(Core)),
    // Diffusers before PEFT, and trainers that copied it.
    (".lora.down.weight", Role::Down),
    (".lora.up.weight", Role::Up),
    (".lora.mid.weight", Role::Mid),
    ("_lora.down.weight", Role::Down),
    ("_lora.up.weight", Role::Up),
];

/// Marks of methods that are not supported, by a component of the tensor's name.
const OTHER_METHODS: &[(&str, &str)] = &[
    ("a1", "GLoRA"),
    ("a2", "GLoRA"),
    ("b1", "GLoRA"),
    ("b2", "GLoRA"),
    ("oft_blocks", "OFT or BOFT"),
    ("oft_diag", "OFT"),
    ("oft_R", "OFT"),
    ("boft_R", "BOFT"),
    ("on_input", "IA³"),
    ("ia3_l", "IA³"),
    ("vera_lambda_b", "VeRA"),
    ("set_weight", "a replacement of weights"),
    ("reshape_weight", "a change of shapes"),
    ("bundle_emb", "textual inversion"),
];

/// The module's name, as the file spells it, and the role of the tensor called `key`; `None` for a
/// name with no known suffix.
pub(super) fn split(key: &str) -> Option<(String, Role)> {
    let parts: Vec<&str> = key.split('.').filter(|part| *part != "default").collect();
    let key = parts.join(".");
    SUFFIXES.iter().find_map(|(suffix, role)| {
        let module = key.strip_suffix(suffix).filter(|module| !module.is_empty())?;
        Some((module.to_owned(), *role))
    })
}

/// The reason why the tensor called `key`, which [`split`] does not know, cannot be used.
pub(super) fn reason(key: &str) -> String {
    let method = OTHER_METHODS.iter().find(|(mark, _)| key.split('.').any(|part| part == *mark));
    match method {
        Some((_, method)) => format!("{method} is not supported; LoRA, LoHa, LoKr, DoRA and differences are"),
        None => "the name is not that of a tensor of a LoRA".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_gives_its_module_and_role() {
        for (suffix, role) in SUFFIXES {
            assert_eq!(split(&format!("layers.0.to_q{suffix}")), Some(("layers.0.to_q".to_owned(), *role)), "{suffix}");
            assert_eq!(split(suffix), None, "no module is left");
        }
    }

    #[test]
    fn the_name_of_peft_s_adapter_is_dropped() {
        let down = Some(("transformer.layers.0.to_q".to_owned(), Role::Down));
        assert_eq!(split("transformer.layers.0.to_q.lora_A.default.weight"), down);
        assert_eq!(split("default.transformer.layers.0.to_q.lora_A.weight"), down);
        let magnitude = Some(("m".to_owned(), Role::Magnitude));
        assert_eq!(split("m.lora_magnitude_vector.default.weight"), magnitude);
        assert_eq!(split("m.lora_magnitude_vector.default"), magnitude);
    }

    #[test]
    fn other_methods_are_named() {
        assert_eq!(split("m.oft_blocks"), None);
        assert!(reason("m.oft_blocks").starts_with("OFT or BOFT is not supported"));
        assert!(reason("m.a1.weight").starts_with("GLoRA is not supported"));
        assert!(reason("m.weight").starts_with("the name is not"));
    }
}
