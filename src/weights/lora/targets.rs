//! The weights that a LoRA can change, and the spellings of their modules in LoRA files.

use super::super::Tensors;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// The weights of a model that a LoRA can change: those of the transformer under diffusers' names,
/// and those of the text encoder under transformers' names without `model.`. The names of the two
/// parts do not overlap.
#[derive(Debug, Default)]
pub struct Targets {
    shapes: HashMap<String, Vec<usize>>,
    transformer: Spellings,
    text_encoder: Spellings,
}

/// Spelled modules → the model's modules, outermost rows first; `None` if a spelling has several
/// meanings. A fused `qkv` has three modules.
type Spellings = HashMap<String, Option<Vec<String>>>;

/// Prefixes of the transformer's modules, before a dotted or an underscored name.
const TRANSFORMER: &[&str] = &[
    "",
    "transformer.",
    "diffusion_model.",
    "model.diffusion_model.",
    "transformer.diffusion_model.",
    "base_model.model.",
    "base_model.model.transformer.",
    "base_model.model.diffusion_model.",
    "unet.",
    "lora.",
    "lora_",
    "lora_unet_",
    "lora_unet__",
    "lora_transformer_",
    "lycoris.",
    "lycoris_",
    "lycoris_transformer_",
];
/// Prefixes of the text encoder's modules.
const TEXT_ENCODER: &[&str] = &[
    "",
    "text_encoder.",
    "text_encoders.",
    "text_encoders.qwen3_4b.transformer.",
    "base_model.model.",
    "base_model.model.text_encoder.",
    "lora_te_",
    "lora_te1_",
    "lora_text_encoder_",
    "lora.",
    "lycoris.",
    "lycoris_",
    "lycoris_te_",
    "lycoris_text_encoder_",
];

/// The result of a search for a module.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Module<'a> {
    /// The model's modules, outermost rows first.
    Found(&'a [String]),
    /// The spelling fits several modules.
    Ambiguous,
    Absent,
}

impl Targets {
    /// The weights in the files of the two parts.
    pub fn of(transformer: &Tensors, text_encoder: &Tensors) -> Self {
        fn weights(part: &Tensors) -> impl Iterator<Item = (&str, &[usize])> {
            part.entries.iter().map(|(name, entry)| (name.as_str(), entry.shape.as_slice()))
        }
        Self::new(weights(transformer), weights(text_encoder))
    }

    /// Collects pairs of a weight's name and its shape, for the two parts.
    pub fn new<'a>(
        transformer: impl IntoIterator<Item = (&'a str, &'a [usize])>,
        text_encoder: impl IntoIterator<Item = (&'a str, &'a [usize])>,
    ) -> Self {
        let mut shapes = HashMap::new();
        let mut modules = |weights: &mut dyn Iterator<Item = (&'a str, &'a [usize])>| {
            let mut modules = BTreeSet::new();
            for (name, shape) in weights {
                modules.insert(name.strip_suffix(".weight").or(name.strip_suffix(".bias")).unwrap_or(name));
                shapes.insert(name.to_owned(), shape.to_vec());
            }
            modules
        };
        let transformer = transformer_spellings(&modules(&mut transformer.into_iter()));
        let text_encoder = text_encoder_spellings(&modules(&mut text_encoder.into_iter()));
        Self { shapes, transformer, text_encoder }
    }

    /// The modules that a LoRA file calls `spelled`.
    pub(super) fn module(&self, spelled: &str) -> Module<'_> {
        let mut found: Option<&[String]> = None;
        for (prefixes, spellings) in [(TRANSFORMER, &self.transformer), (TEXT_ENCODER, &self.text_encoder)] {
            for rest in prefixes.iter().filter_map(|prefix| spelled.strip_prefix(prefix)) {
                match spellings.get(rest) {
                    None => {}
                    Some(Some(modules)) if found.is_none_or(|found| found == modules) => found = Some(modules),
                    Some(_) => return Module::Ambiguous,
                }
            }
        }
        found.map_or(Module::Absent, Module::Found)
    }

    /// The name and the shape of a module's weight. A parameter without a module, such as
    /// `x_pad_token`, is its own weight.
    pub(super) fn weight(&self, module: &str) -> Option<(String, &[usize])> {
        self.named(format!("{module}.weight")).or_else(|| self.named(module.to_owned()))
    }

    /// The name and the shape of a module's bias.
    pub(super) fn bias(&self, module: &str) -> Option<(String, &[usize])> {
        self.named(format!("{module}.bias"))
    }

    fn named(&self, name: String) -> Option<(String, &[usize])> {
        let shape = self.shapes.get(&name)?;
        Some((name, shape))
    }
}

/// Adds `spelled` for `modules`, dotted and with the underscores of Kohya's scripts.
fn add(spellings: &mut Spellings, spelled: &str, modules: &[String]) {
    for spelled in BTreeSet::from([spelled.to_owned(), spelled.replace('.', "_")]) {
        let known = spellings.entry(spelled).or_insert_with(|| Some(modules.to_vec()));
        if known.as_deref() != Some(modules) {
            *known = None;
        }
    }
}

/// Diffusers' names of the transformer's modules, and those of the original model, which ComfyUI
/// uses (`z_image_to_diffusers` in its `comfy/utils.py`).
fn transformer_spellings(modules: &BTreeSet<&str>) -> Spellings {
    let mut spellings = Spellings::new();
    let mut fused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for &module in modules {
        let this = [module.to_owned()];
        add(&mut spellings, module, &this);
        // The module `all_x_embedder.2-1` has the patch sizes in its name.
        for (list, original) in [("all_x_embedder.", "x_embedder"), ("all_final_layer.", "final_layer")] {
            if let Some(rest) = module.strip_prefix(list) {
                let rest = rest.split_once('.').map_or(String::new(), |(_, rest)| format!(".{rest}"));
                add(&mut spellings, &format!("{original}{rest}"), &this);
            }
        }
        let Some((attention, layer)) = module.split_once(".attention.") else { continue };
        // The second spelling of the projections is that of the Anime-Z LoRAs.
        let original = match layer {
            "to_out.0" => "out",
            "norm_q" => "q_norm",
            "norm_k" => "k_norm",
            "to_q" => "to.q",
            "to_k" => "to.k",
            "to_v" => "to.v",
            _ => continue,
        };
        add(&mut spellings, &format!("{attention}.attention.{original}"), &this);
        if layer == "to_q" {
            let all = ["to_q", "to_k", "to_v"].map(|layer| format!("{attention}.attention.{layer}"));
            if all.iter().all(|module| modules.contains(&**module)) {
                fused.insert(format!("{attention}.attention.qkv"), all.to_vec());
            }
        }
    }
    for (spelled, modules) in fused {
        add(&mut spellings, &spelled, &modules);
    }
    spellings
}

/// The names of a text encoder's modules, inside the model with a head or not.
fn text_encoder_spellings(modules: &BTreeSet<&str>) -> Spellings {
    let mut spellings = Spellings::new();
    for &module in modules {
        let this = [module.to_owned()];
        add(&mut spellings, module, &this);
        add(&mut spellings, &format!("model.{module}"), &this);
    }
    spellings
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: &[usize] = &[4, 4];

    fn targets() -> Targets {
        let transformer = [
            "all_x_embedder.2-1.weight",
            "all_x_embedder.2-1.bias",
            "all_final_layer.2-1.linear.weight",
            "all_final_layer.2-1.adaLN_modulation.1.weight",
            "cap_embedder.1.weight",
            "t_embedder.mlp.0.weight",
            "x_pad_token",
            "layers.1.attention.to_q.weight",
            "layers.1.attention.to_k.weight",
            "layers.1.attention.to_v.weight",
            "layers.1.attention.to_out.0.weight",
            "layers.1.attention.norm_q.weight",
            "layers.1.feed_forward.w1.weight",
            "layers.1.adaLN_modulation.0.weight",
            "noise_refiner.0.attention.to_k.weight",
            "context_refiner.0.attention_norm1.weight",
        ];
        let text = ["embed_tokens.weight", "layers.1.self_attn.q_proj.weight", "layers.1.mlp.down_proj.weight"];
        Targets::new(transformer.map(|name| (name, SHAPE)), text.map(|name| (name, SHAPE)))
    }

    #[track_caller]
    fn is(spelled: &str, modules: &[&str]) {
        let targets = targets();
        let Module::Found(found) = targets.module(spelled) else { panic!("{spelled}: {:?}", targets.module(spelled)) };
        assert_eq!(found, modules, "{spelled}");
    }

    #[test]
    fn every_prefix_reaches_its_part() {
        for prefix in TRANSFORMER {
            for (spelled, module) in [
                ("layers.1.attention.to_out.0", "layers.1.attention.to_out.0"),
                ("layers_1_attention_to_out_0", "layers.1.attention.to_out.0"),
                ("layers_1_feed_forward_w1", "layers.1.feed_forward.w1"),
                ("noise_refiner_0_attention_to_k", "noise_refiner.0.attention.to_k"),
                ("context_refiner_0_attention_norm1", "context_refiner.0.attention_norm1"),
                ("layers_1_adaLN_modulation_0", "layers.1.adaLN_modulation.0"),
                ("all_x_embedder_2-1", "all_x_embedder.2-1"),
                ("t_embedder_mlp_0", "t_embedder.mlp.0"),
                ("x_pad_token", "x_pad_token"),
            ] {
                is(&format!("{prefix}{spelled}"), &[module]);
            }
        }
        for prefix in TEXT_ENCODER {
            for spelled in ["layers.1.self_attn.q_proj", "model.layers.1.self_attn.q_proj"] {
                is(&format!("{prefix}{spelled}"), &["layers.1.self_attn.q_proj"]);
                is(&format!("{prefix}{}", spelled.replace('.', "_")), &["layers.1.self_attn.q_proj"]);
            }
        }
    }

    #[test]
    fn the_original_names_are_those_of_comfyui() {
        for (original, module) in [
            ("x_embedder", "all_x_embedder.2-1"),
            ("final_layer.linear", "all_final_layer.2-1.linear"),
            ("final_layer.adaLN_modulation.1", "all_final_layer.2-1.adaLN_modulation.1"),
            ("layers.1.attention.out", "layers.1.attention.to_out.0"),
            ("layers.1.attention.q_norm", "layers.1.attention.norm_q"),
            ("layers.1.attention.to.q", "layers.1.attention.to_q"),
        ] {
            is(&format!("diffusion_model.{original}"), &[module]);
            is(&format!("lora_unet_{}", original.replace('.', "_")), &[module]);
        }
        let all = ["to_q", "to_k", "to_v"].map(|layer| format!("layers.1.attention.{layer}"));
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        is("diffusion_model.layers.1.attention.qkv", &all);
        is("lora_unet_layers_1_attention_qkv", &all);
    }

    #[test]
    fn other_names_reach_nothing() {
        for spelled in [
            "layers.2.attention.to_q",
            "diffusion_model.layers.1.attention.to_qkv",
            "noise_refiner.0.attention.qkv",
            "text_encoder.layers.1.attention.to_q",
            "transformer.layers.1.self_attn.q_proj",
            "lora_te_layers_1_attention_to_q",
            "lora_unet_layers_1_attention.to_q",
            "layers_1",
            "",
        ] {
            assert_eq!(targets().module(spelled), Module::Absent, "{spelled}");
        }
    }

    #[test]
    fn a_spelling_with_two_meanings_is_ambiguous() {
        let names = ["a.b_c.weight", "a_b.c.weight", "all_x_embedder.2-1.weight", "all_x_embedder.4-1.weight"];
        let targets = Targets::new(names.map(|name| (name, SHAPE)), []);
        assert_eq!(targets.module("lora_unet_a_b_c"), Module::Ambiguous);
        assert_eq!(targets.module("diffusion_model.x_embedder"), Module::Ambiguous);
        assert_eq!(targets.module("transformer.a.b_c"), Module::Found(&["a.b_c".to_owned()]));
        let both = Targets::new([("norm.weight", SHAPE)], [("out.weight", SHAPE), ("model.norm.weight", SHAPE)]);
        assert_eq!(both.module("model.norm"), Module::Found(&["model.norm".to_owned()]));
    }

    #[test]
    fn weights_and_biases_have_their_shapes() {
        let targets = targets();
        assert_eq!(targets.weight("x_pad_token"), Some(("x_pad_token".to_owned(), SHAPE)));
        assert_eq!(targets.weight("all_x_embedder.2-1").unwrap().0, "all_x_embedder.2-1.weight");
        assert_eq!(targets.bias("all_x_embedder.2-1").unwrap().0, "all_x_embedder.2-1.bias");
        assert_eq!((targets.bias("cap_embedder.1"), targets.weight("nothing")), (None, None));
    }
}
