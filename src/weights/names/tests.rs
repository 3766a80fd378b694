//! Tests of the maps: each name that the model asks for is reached from each spelling. The names of
//! the golden models are what diffusers and transformers wrote.

use super::{Part, Rows, Spelling};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

type Shapes = BTreeMap<String, Vec<usize>>;

/// The names and shapes in the header of a file in this repository.
fn header(file: &str) -> Shapes {
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__");
    let size = |n: &serde_json::Value| n.as_u64().unwrap() as usize;
    tensors.map(|(name, info)| (name, info["shape"].as_array().unwrap().iter().map(size).collect())).collect()
}

fn golden(part: Part) -> Shapes {
    let file = match part {
        Part::TextEncoder => "text_encoder/model.safetensors",
        Part::Transformer => "transformer/diffusion_pytorch_model.safetensors",
        Part::Vae => "vae/diffusion_pytorch_model.safetensors",
    };
    let shapes = header(&format!("tests/goldens/single/{file}"));
    shapes.into_iter().map(|(name, shape)| (name.trim_start_matches("model.").to_owned(), shape)).collect()
}

/// The names and shapes that the model can ask for, from those of a file. A target of two stored
/// tensors fails, and so does a stored tensor without a target.
#[track_caller]
fn reached(part: Part, stored: &Shapes) -> Shapes {
    let spelling = Spelling::of(part, stored.keys().map(String::as_str)).unwrap();
    let mut reached = Shapes::new();
    for (name, shape) in stored {
        let targets = spelling.targets(name);
        assert!(!targets.is_empty(), "{name} has no target");
        for target in targets {
            let shape = target.shape(shape).unwrap();
            assert!(reached.insert(target.name.clone(), shape).is_none(), "{} is reached twice", target.name);
        }
    }
    reached
}

/// `shapes` with each name changed.
fn renamed(shapes: &Shapes, rename: impl Fn(&str) -> String) -> Shapes {
    shapes.iter().map(|(name, shape)| (rename(name), shape.clone())).collect()
}

/// Replacements of parts of a name.
fn replaced(name: &str, pairs: &[(&str, &str)]) -> String {
    pairs.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// A transformer in ComfyUI's spelling, by the replacements of diffusers' converter, backwards.
fn comfy(shapes: &Shapes) -> Shapes {
    const PAIRS: [(&str, &str); 5] = [
        ("all_final_layer.2-1.", "final_layer."),
        ("all_x_embedder.2-1.", "x_embedder."),
        (".attention.to_out.0.", ".attention.out."),
        (".attention.norm_k.", ".attention.k_norm."),
        (".attention.norm_q.", ".attention.q_norm."),
    ];
    let mut comfy = renamed(shapes, |name| replaced(name, &PAIRS));
    for (name, shape) in shapes {
        if let Some(block) = name.strip_suffix("to_q.weight") {
            for separate in ["to_q", "to_k", "to_v"] {
                comfy.remove(&format!("{block}{separate}.weight")).unwrap();
            }
            comfy.insert(format!("{block}qkv.weight"), vec![3 * shape[0], shape[1]]);
        }
    }
    comfy
}

#[test]
fn every_transformer_name_is_reached() {
    let asked = golden(Part::Transformer);
    for prefix in ["", "model.diffusion_model.", "diffusion_model.", "transformer.", "model."] {
        for stored in [asked.clone(), comfy(&asked)] {
            let stored = renamed(&stored, |name| format!("{prefix}{name}"));
            assert_eq!(reached(Part::Transformer, &stored), asked);
            let spelling = Spelling::of(Part::Transformer, stored.keys().map(String::as_str)).unwrap();
            assert_eq!((spelling.prefix(), spelling.known()), (prefix, stored.len()));
        }
    }
}

/// ComfyUI's file of the published model has 453 tensors, and the diffusers folder 521.
#[test]
fn the_published_model_has_the_known_counts() {
    let of_golden = golden(Part::Transformer);
    let mut asked: Shapes = of_golden.clone();
    for (stack, golden, count) in [("layers", 3, 30), ("noise_refiner", 1, 2), ("context_refiner", 1, 2)] {
        let first = format!("{stack}.0.");
        for (name, shape) in of_golden.iter().filter(|(name, _)| name.starts_with(&first)) {
            for i in golden..count {
                asked.insert(name.replacen(&first, &format!("{stack}.{i}."), 1), shape.clone());
            }
        }
    }
    let stored = comfy(&asked);
    assert_eq!((stored.len(), asked.len()), (453, 521));
    assert_eq!(reached(Part::Transformer, &stored), asked);
}

#[test]
fn ggml_drops_the_row_of_a_pad_token() {
    let asked = golden(Part::Transformer);
    let mut stored = comfy(&asked);
    for token in ["x_pad_token", "cap_pad_token"] {
        stored.get_mut(token).unwrap().remove(0);
    }
    assert_eq!(reached(Part::Transformer, &stored), asked);
}

#[test]
fn scales_follow_their_weight() {
    let names = ["layers.3.attention.qkv.weight", "layers.3.attention.qkv.weight_scale", "scaled_fp8"];
    let spelling = Spelling::of(Part::Transformer, names.into_iter()).unwrap();
    for tail in ["weight", "weight_scale", "scale_weight", "comfy_quant", "weight_scale_2", "input_scale"] {
        let targets = spelling.targets(&format!("layers.3.attention.qkv.{tail}"));
        let names: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        let expected = ["to_q", "to_k", "to_v"].map(|layer| format!("layers.3.attention.{layer}.{tail}"));
        assert_eq!(names, expected);
        assert_eq!(targets[1].rows, Rows::Third(1));
        assert_eq!(spelling.targets(&format!("layers.3.attention.out.{tail}"))[0].rows, Rows::All);
    }
    assert_eq!(spelling.targets("scaled_fp8")[0].name, "scaled_fp8");
    assert!(spelling.is_unused("norm_final.weight") && !spelling.is_unused("layers.3.ffn_norm1.weight"));
}

/// A text encoder in llama.cpp's spelling, from the table in ComfyUI-GGUF.
fn llama(shapes: &Shapes) -> Shapes {
    const PAIRS: [(&str, &str); 14] = [
        ("layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("embed_tokens", "token_embd"),
        ("lm_head", "output"),
    ];
    renamed(shapes, |name| match name {
        "norm.weight" => "output_norm.weight".to_owned(),
        name => replaced(name, &PAIRS),
    })
}

#[test]
fn every_text_encoder_name_is_reached() {
    let asked = golden(Part::TextEncoder);
    assert_eq!(reached(Part::TextEncoder, &llama(&asked)), asked);
    for prefix in [
        "",
        "model.",
        "text_encoders.qwen3_4b.transformer.model.",
        "text_encoders.qwen3_4b.transformer.",
        "text_encoders.llm.model.",
        "text_encoder.model.",
        "qwen3_4b.transformer.model.",
    ] {
        assert_eq!(reached(Part::TextEncoder, &renamed(&asked, |name| format!("{prefix}{name}"))), asked, "{prefix}");
    }
}

#[test]
fn gguf_names_lead_back_to_their_tensors() {
    for (part, expected) in [(Part::Transformer, comfy as fn(&Shapes) -> Shapes), (Part::TextEncoder, llama)] {
        let asked = golden(part);
        let mut written = BTreeSet::new();
        for name in asked.keys() {
            let (stored, rows) = part.gguf_name(name).unwrap();
            let spelling = Spelling::of(part, [stored.as_str()].into_iter()).unwrap();
            let targets = spelling.targets(&stored);
            let target = targets.iter().find(|target| target.rows == rows).unwrap();
            assert_eq!((target.name.as_str(), targets.len()), (name.as_str(), if rows == Rows::All { 1 } else { 3 }));
            written.insert(stored);
        }
        assert_eq!(written, expected(&asked).into_keys().collect());
        assert_eq!(part.gguf_name("layers.0.foo.weight"), None);
    }
}

/// An autoencoder in the latent-diffusion spelling. The decoder of the golden model has four
/// levels.
fn ldm(shapes: &Shapes) -> Shapes {
    const PAIRS: [(&str, &str); 18] = [
        ("decoder.up_blocks.0.", "decoder.up.3."),
        ("decoder.up_blocks.1.", "decoder.up.2."),
        ("decoder.up_blocks.2.", "decoder.up.1."),
        ("decoder.up_blocks.3.", "decoder.up.0."),
        ("down_blocks.", "down."),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("mid_block.attentions.0", "mid.attn_1"),
        (".resnets.", ".block."),
        ("upsamplers.0.conv", "upsample.conv"),
        ("downsamplers.0.conv", "downsample.conv"),
        ("conv_shortcut", "nin_shortcut"),
        ("conv_norm_out", "norm_out"),
        ("group_norm", "norm"),
        (".to_q.", ".q."),
        (".to_k.", ".k."),
        (".to_v.", ".v."),
        (".to_out.0.", ".proj_out."),
    ];
    let mut stored = renamed(shapes, |name| replaced(name, &PAIRS));
    for (name, shape) in &mut stored {
        if name.contains("attn_1") && name.ends_with("weight") && shape.len() == 2 {
            shape.extend([1, 1]);
        }
    }
    stored
}

#[test]
fn every_vae_name_is_reached() {
    let mut asked = golden(Part::Vae);
    asked.insert("quant_conv.weight".to_owned(), vec![32, 32, 1, 1]);
    asked.insert("post_quant_conv.bias".to_owned(), vec![16]);
    let old = renamed(&asked, |name| {
        replaced(name, &[("to_q", "query"), ("to_k", "key"), ("to_v", "value"), ("to_out.0", "proj_attn")])
    });
    for prefix in ["", "vae.", "first_stage_model."] {
        for stored in [&asked, &old, &ldm(&asked)] {
            assert_eq!(reached(Part::Vae, &renamed(stored, |name| format!("{prefix}{name}"))), asked);
        }
    }
}

#[test]
fn the_parts_of_one_file_are_told_apart() {
    let parts = [
        (Part::Transformer, "model.diffusion_model.", comfy(&golden(Part::Transformer))),
        (Part::TextEncoder, "text_encoders.qwen3_4b.transformer.", golden(Part::TextEncoder)),
        (Part::Vae, "vae.", ldm(&golden(Part::Vae))),
    ];
    let mut file = Shapes::new();
    for (part, prefix, shapes) in &parts {
        let body = if *part == Part::TextEncoder { "model." } else { "" };
        file.extend(renamed(shapes, |name| format!("{prefix}{body}{name}")));
    }
    file.insert("text_encoders.qwen3_4b.logit_scale".to_owned(), vec![]);
    for (part, prefix, _) in parts {
        let spelling = Spelling::of(part, file.keys().map(String::as_str)).unwrap();
        assert_eq!(spelling.prefix(), prefix);
        let targets = file.keys().flat_map(|name| spelling.targets(name)).map(|target| target.name);
        assert_eq!(targets.collect::<BTreeSet<_>>(), golden(part).into_keys().collect());
    }
}

#[test]
fn a_transformer_without_a_prefix_is_beside_other_parts() {
    let names = ["layers.0.attention.qkv.weight", "vae.decoder.conv_in.weight", "text_encoder.model.norm.weight"];
    let spelling = Spelling::of(Part::Transformer, names.into_iter()).unwrap();
    assert_eq!(spelling.prefix(), "");
    assert_eq!(names.map(|name| spelling.targets(name).len()), [3, 0, 0]);
}

#[test]
fn unknown_names_are_kept_and_other_files_have_no_spelling() {
    let names = ["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias", "model.foo"];
    let spelling = Spelling::of(Part::TextEncoder, names.into_iter()).unwrap();
    assert_eq!(spelling.targets("model.foo")[0].name, "foo");
    assert!(Spelling::of(Part::Vae, names.into_iter()).is_none());
    assert!(Spelling::of(Part::Transformer, names.into_iter()).is_none());
    for name in ["decoder.up.9999999999999999999999.block.0.conv1.weight", "decoder.up.3.block..conv1.weight", "", "."]
    {
        assert!(Spelling::of(Part::Vae, [name].into_iter()).is_none(), "{name}");
    }
}
