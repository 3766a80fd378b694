//! Tests on synthetic listings: the marks of each kind, as the published files have them.

use super::{ControlNet, Kind, Listed, LoraFor, identify};
use crate::weights::names::Part;
use serde_json::{Map, Value, json};

type Tensors = Vec<(String, Vec<usize>)>;

fn tensors(names: &[(&str, &[usize])]) -> Tensors {
    names.iter().map(|(name, shape)| ((*name).to_owned(), shape.to_vec())).collect()
}

/// Tensors whose shapes do not matter.
fn named(names: &[&str]) -> Tensors {
    names.iter().map(|name| ((*name).to_owned(), vec![8, 8])).collect()
}

fn prefixed(prefix: &str, tensors: &Tensors) -> Tensors {
    tensors.iter().map(|(name, shape)| (format!("{prefix}{name}"), shape.clone())).collect()
}

fn kind_with(tensors: &Tensors, metadata: &Map<String, Value>) -> Kind {
    let listed = tensors.iter().map(|(name, shape)| Listed { name, format: "BF16", shape });
    identify(&listed.collect::<Vec<_>>(), metadata)
}

fn kind(tensors: &Tensors) -> Kind {
    kind_with(tensors, &Map::new())
}

/// The first tensors of ComfyUI's `z_image_turbo_bf16.safetensors`.
fn z_image() -> Tensors {
    tensors(&[
        ("cap_embedder.0.weight", &[2560]),
        ("cap_embedder.1.weight", &[3840, 2560]),
        ("cap_pad_token", &[1, 3840]),
        ("context_refiner.0.attention.qkv.weight", &[11520, 3840]),
        ("final_layer.linear.weight", &[64, 3840]),
        ("layers.0.adaLN_modulation.0.weight", &[15360, 256]),
        ("layers.0.attention.qkv.weight", &[11520, 3840]),
        ("noise_refiner.0.attention.qkv.weight", &[11520, 3840]),
        ("x_embedder.weight", &[3840, 64]),
    ])
}

fn qwen3(width: usize, hidden: usize, layers: usize) -> Tensors {
    let mut qwen3 = tensors(&[("embed_tokens.weight", &[151_936, width]), ("norm.weight", &[width])]);
    for i in 0..layers {
        let inner: [(&str, &[usize]); 4] = [
            ("input_layernorm", &[width]),
            ("self_attn.q_norm", &[128]),
            ("self_attn.q_proj", &[4096, width]),
            ("mlp.gate_proj", &[hidden, width]),
        ];
        qwen3.extend(inner.map(|(name, shape)| (format!("layers.{i}.{name}.weight"), shape.to_vec())));
    }
    qwen3
}

fn autoencoder(latents: usize) -> Tensors {
    tensors(&[
        ("encoder.conv_in.weight", &[128, 3, 3, 3]),
        ("encoder.down.0.block.0.norm1.weight", &[128]),
        ("decoder.conv_in.weight", &[512, latents, 3, 3]),
        ("decoder.mid.block_1.conv1.weight", &[512, 512, 3, 3]),
        ("decoder.up.3.block.0.norm1.weight", &[512]),
    ])
}

fn join(parts: &[Tensors]) -> Tensors {
    parts.concat()
}

#[test]
fn the_parts_of_z_image_are_known() {
    for prefix in ["", "model.diffusion_model.", "diffusion_model.", "transformer."] {
        assert_eq!(kind(&prefixed(prefix, &z_image())), Kind::Transformer, "{prefix}");
    }
    let mut diffusers = z_image();
    diffusers.retain(|(name, _)| !name.contains("qkv"));
    for layer in ["layers.0", "noise_refiner.0", "context_refiner.0"] {
        diffusers.push((format!("{layer}.attention.to_q.weight"), vec![3840, 3840]));
    }
    assert_eq!(kind(&diffusers), Kind::Transformer);

    for prefix in ["", "model.", "text_encoders.qwen3_4b.transformer.model."] {
        assert_eq!(kind(&prefixed(prefix, &qwen3(2560, 9728, 36))), Kind::TextEncoder, "{prefix}");
    }
    assert_eq!(kind(&qwen3(48, 100, 3)), Kind::TextEncoder);
    let llama = [("blk.0.attn_norm.weight", &[2560][..]), ("blk.0.attn_q_norm.weight", &[128])];
    assert_eq!(kind(&tensors(&llama)), Kind::TextEncoder);

    for prefix in ["", "vae.", "first_stage_model."] {
        assert_eq!(kind(&prefixed(prefix, &autoencoder(16))), Kind::Vae, "{prefix}");
    }
    let diffusers = ["decoder.conv_in.weight", "decoder.mid_block.resnets.0.conv1.weight"];
    assert_eq!(kind(&named(&diffusers)), Kind::Vae);
}

#[test]
fn the_parts_of_one_file_are_listed() {
    let transformer = prefixed("model.diffusion_model.", &z_image());
    let text_encoder = prefixed("text_encoders.qwen3_4b.transformer.model.", &qwen3(2560, 9728, 36));
    let vae = prefixed("vae.", &autoencoder(16));
    let all = kind(&join(&[transformer.clone(), text_encoder, vae.clone()]));
    assert_eq!(all, Kind::AllInOne(vec![Part::Transformer, Part::TextEncoder, Part::Vae]));
    let expected = "this is a Z-Image checkpoint with a transformer, a text encoder and a VAE; drawing also needs a \
                    tokenizer";
    assert_eq!(all.explain(), expected);
    let two = kind(&join(&[transformer, vae]));
    assert_eq!(two, Kind::AllInOne(vec![Part::Transformer, Part::Vae]));
    assert!(two.explain().ends_with("drawing also needs a text encoder and a tokenizer"), "{}", two.explain());
}

#[track_caller]
fn is(tensors: &Tensors, part: &str) {
    let kind = kind(tensors);
    let text = kind.explain();
    assert!(matches!(kind, Kind::Other(_) | Kind::Variant(_) | Kind::Quantised(_)), "{kind:?}");
    assert!(text.contains(part), "{part:?} is not in {text:?}");
}

#[test]
fn variants_of_the_architecture_are_named() {
    let with = |names: &[&str]| join(&[z_image(), named(names)]);
    is(&with(&["siglip_embedder.0.weight"]), "Omni or Edit");
    is(&with(&["dec_net.cond_embed.weight", "dec_net.res_blocks.0.in_ln.weight"]), "Zeta-Chroma");
    is(&with(&["local_decoder.enc1.0.weight"]), "L2P");
    is(&with(&["clip_text_pooled_proj.0.weight"]), "NewBie");
    is(&with(&["control_layers.0.before_proj.weight"]), "ControlNet inside");
    let lumina = |(name, shape): (String, Vec<usize>)| (name.replace("lation.0", "lation.1"), shape);
    is(&z_image().into_iter().map(lumina).collect(), "Lumina 2");
}

#[test]
fn unsupported_formats_are_named() {
    let with = |names: &[&str]| join(&[z_image(), named(names)]);
    let layer = "layers.0.feed_forward.w1";
    is(&with(&[&format!("{layer}.qweight"), &format!("{layer}.wscales")]), "SVDQuant");
    is(&with(&[&format!("{layer}._weight_qdata"), &format!("{layer}._weight_scale")]), "torchao");
    is(&with(&[&format!("{layer}.weight.quant_state.bitsandbytes__nf4")]), "bitsandbytes");
    is(&with(&[&format!("{layer}.weight._data"), &format!("{layer}.weight._scale")]), "quanto");
    is(&with(&[&format!("{layer}.qweight"), &format!("{layer}.qzeros")]), "GPTQ");
    let mut comfy = with(&[&format!("{layer}.weight_scale"), &format!("{layer}.comfy_quant")]);
    comfy.push((format!("{layer}.weight"), vec![10240, 1920]));
    assert_eq!(kind(&comfy), Kind::Transformer);
}

#[test]
fn other_diffusion_models_are_named() {
    let unet = |width: usize| {
        let mut unet = named(&["input_blocks.0.0.weight", "out.2.weight"]);
        unet.push(("input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight".into(), vec![640, width]));
        prefixed("model.diffusion_model.", &unet)
    };
    is(&join(&[unet(2048), prefixed("first_stage_model.", &autoencoder(4))]), "an SDXL model");
    is(&unet(768), "Stable Diffusion 1");
    is(&unet(1024), "Stable Diffusion 2");
    for (names, what) in [
        (&["double_blocks.0.img_attn.qkv.weight", "img_in.weight"][..], "FLUX.1"),
        (&["double_blocks.0.img_attn.qkv.weight", "double_stream_modulation_img.lin.weight"], "FLUX.2"),
        (&["double_blocks.0.img_attn.qkv.weight", "distilled_guidance_layer.in_proj.bias"], "Chroma"),
        (&["double_blocks.0.img_attn.qkv.weight", "nerf_blocks.0.norm.scale"], "Chroma Radiance"),
        (&["double_blocks.0.img_attn.qkv.weight", "txt_in.individual_token_refiner.blocks.0.norm1.weight"], "Hunyuan"),
        (&["joint_blocks.0.context_block.attn.qkv.weight"], "Stable Diffusion 3"),
        (&["transformer_blocks.0.img_mod.1.weight", "img_in.weight"], "Qwen-Image"),
        (&["head.modulation", "blocks.0.cross_attn.norm_k.weight"], "Wan"),
        (&["double_layers.0.attn.w1q.weight"], "AuraFlow"),
    ] {
        for prefix in ["", "model.diffusion_model."] {
            // FLUX has the autoencoder of Z-Image, and FLUX.2 a Qwen3.
            let vae = prefixed("vae.", &autoencoder(16));
            let text_encoder = prefixed("text_encoders.qwen3_8b.transformer.model.", &qwen3(4096, 12288, 36));
            is(&prefixed(prefix, &named(names)), what);
            is(&join(&[prefixed(prefix, &named(names)), vae, text_encoder]), what);
        }
    }
}

#[test]
fn other_text_encoders_and_autoencoders_are_named() {
    is(&qwen3(4096, 12288, 36), "Qwen3-8B");
    is(&prefixed("model.", &qwen3(1024, 3072, 28)), "Qwen3-0.6B");
    is(&join(&[qwen3(2560, 9728, 36), named(&["visual.patch_embed.proj.weight"])]), "Qwen-VL");
    is(&named(&["model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.q_proj.bias"]), "Qwen2");
    is(&named(&["model.layers.0.self_attn.q_proj.weight"]), "Llama");
    is(&named(&["encoder.block.0.layer.0.SelfAttention.q.weight", "shared.weight"]), "T5");
    is(&named(&["text_model.encoder.layers.0.layer_norm1.weight"]), "CLIP");
    is(&autoencoder(4), "4 latent channels");
    is(&autoencoder(32), "FLUX.2 VAE");
    is(&named(&["decoder.middle.0.residual.0.gamma"]), "Wan");
    is(&tensors(&[("decoder.layers.0.weight", &[64, 16, 3, 3])]), "TAEF1");
    is(&tensors(&[("1.weight", &[64, 4, 3, 3])]), "TAESD");
}

#[test]
fn controlnets_have_versions() {
    let blocks = |count: usize, more: &[&str]| {
        let blocks = (0..count).map(|i| (format!("control_layers.{i}.after_proj.weight"), vec![3840, 3840]));
        join(&[blocks.collect(), named(&["control_all_x_embedder.2-1.weight"]), named(more)])
    };
    let refiner = [ControlNet::DECIDES, "control_noise_refiner.0.after_proj.weight"];
    assert_eq!(kind(&blocks(6, &[])), Kind::ControlNet(ControlNet::V1));
    assert_eq!(kind(&blocks(15, &[])), Kind::ControlNet(ControlNet::V2_0));
    assert_eq!(kind(&blocks(15, &refiner)), Kind::ControlNet(ControlNet::V2));
    assert_eq!(kind(&blocks(3, &refiner)), Kind::ControlNet(ControlNet::V2_1Lite));
    assert_eq!(ControlNet::V2.settled(true), ControlNet::V2_0);
    assert_eq!(ControlNet::V2.settled(false), ControlNet::V2_1);
    assert_eq!(ControlNet::V1.settled(true), ControlNet::V1);
    let text = kind(&blocks(3, &refiner)).explain();
    assert_eq!(text, "this is the Z-Image-Fun ControlNet 2.1 lite, and ControlNets are not supported");
}

#[test]
fn loras_are_told_by_their_layers() {
    let lora = |layers: &[&str], down: &str, up: &str| -> Kind {
        let halves =
            |layer: &&str| [(format!("{layer}{down}"), vec![16, 3840]), (format!("{layer}{up}"), vec![3840, 16])];
        kind(&layers.iter().flat_map(halves).collect())
    };
    let peft = (".lora_A.weight", ".lora_B.weight");
    for (layers, of) in [
        (&["layers.0.attention.to_q"][..], LoraFor::Transformer),
        (&["diffusion_model.layers.0.attention.qkv"], LoraFor::Transformer),
        (&["transformer.noise_refiner.1.feed_forward.w2"], LoraFor::Transformer),
        (&["diffusion_model.layers.0.adaLN_modulation.0"], LoraFor::Transformer),
        (&["text_encoder.layers.0.self_attn.q_proj"], LoraFor::TextEncoder),
        (&["transformer.layers.0.attention.to_q", "text_encoder.layers.0.mlp.up_proj"], LoraFor::Both),
        (&["transformer.single_transformer_blocks.0.attn.to_q"], LoraFor::Other("FLUX or HunyuanVideo")),
        (&["transformer_blocks.3.img_mlp.net.0.proj"], LoraFor::Other("Qwen-Image")),
        (&["diffusion_model.blocks.7.cross_attn.k"], LoraFor::Other("Wan, Anima or Cosmos")),
        (&["a.layer"], LoraFor::Unknown),
    ] {
        assert_eq!(lora(layers, peft.0, peft.1), Kind::Lora(of), "{layers:?}");
        assert_eq!(lora(layers, ".lora_down.weight", ".lora_up.weight"), Kind::Lora(of), "{layers:?}");
        assert_eq!(lora(layers, ".lora.down.weight", ".lora.up.weight"), Kind::Lora(of), "{layers:?}");
    }
    let underscored = [".lora_down.weight", ".lora_up.weight"];
    for (layer, of) in [
        ("lora_unet_layers_12_attention_to_out_0", LoraFor::Transformer),
        ("lora_unet__context_refiner_0_feed_forward_w1", LoraFor::Transformer),
        ("lora_te_layers_0_self_attn_k_proj", LoraFor::TextEncoder),
        ("lora_unet_down_blocks_1_attentions_0_proj_in", LoraFor::Other("Stable Diffusion or SDXL")),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1", LoraFor::Other("SDXL")),
    ] {
        assert_eq!(lora(&[layer], underscored[0], underscored[1]), Kind::Lora(of), "{layer}");
    }
}

#[test]
fn every_kind_of_lora_is_one() {
    let layer = "diffusion_model.layers.0.attention.to_q";
    for tails in [
        &["lokr_w1", "lokr_w2", "alpha"][..],
        &["lokr_w1_a", "lokr_w1_b", "lokr_w2", "alpha"],
        &["hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "alpha"],
        &["lora_A.default.weight", "lora_B.default.weight", "dora_scale"],
        &["diff", "diff_b"],
    ] {
        let names: Vec<String> = tails.iter().map(|tail| format!("{layer}.{tail}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(kind(&named(&names)), Kind::Lora(LoraFor::Transformer), "{tails:?}");
    }
    let lumina = tensors(&[
        ("layers.0.attention.qkv.lora_A.weight", &[16, 2304]),
        ("layers.0.attention.qkv.lora_B.weight", &[3840, 16]),
    ]);
    assert_eq!(kind(&lumina), Kind::Lora(LoraFor::Other("Lumina 2")));
}

#[test]
fn one_of_several_files_is_a_piece() {
    let block = |width: usize| {
        let inner = ["attention.to_q", "attention.to_k", "feed_forward.w1", "attention_norm1", "ffn_norm2"];
        inner.map(|inner| (format!("layers.17.{inner}.weight"), vec![width])).to_vec()
    };
    assert_eq!(kind(&block(3840)), Kind::Piece(Part::Transformer));
    assert_eq!(kind(&block(2304)), Kind::Unknown);
    let text = named(&["model.layers.9.self_attn.q_norm.weight", "model.layers.9.mlp.up_proj.weight"]);
    assert_eq!(kind(&text), Kind::Piece(Part::TextEncoder));
    assert_eq!(kind(&named(&["model.layers.9.mlp.up_proj.weight"])), Kind::Unknown);
    assert_eq!(kind(&named(&["encoder.down.0.block.0.norm1.weight"])), Kind::Piece(Part::Vae));
    let text = Kind::Piece(Part::Vae).explain();
    assert_eq!(text, "this is one file of a Z-Image VAE in several; the others belong to it");
}

#[test]
fn many_hostile_names_are_of_no_model() {
    const NAMES: usize = 1 << 14;
    let digits = "9".repeat(200);
    let names = ["layers.{}.a.weight", "decoder.up.{}.block.0.conv1.weight", "a{}", "model.{}", "{}.lora_A", "\u{0}{}"];
    let name = |i: usize| names[i % names.len()].replace("{}", &format!("{i}{}", &digits[..i % 200]));
    let hostile: Tensors = (0..NAMES).map(|i| (name(i), vec![usize::MAX; i % 5])).collect();
    assert_eq!(kind(&hostile), Kind::Unknown);
}

#[test]
fn metadata_decides_last() {
    let flux = json!({"general.architecture": "flux"}).as_object().unwrap().clone();
    assert_eq!(kind_with(&named(&["a.weight"]), &flux), Kind::Other("a FLUX transformer"));
    assert_eq!(kind_with(&z_image(), &flux), Kind::Transformer);
    assert_eq!(kind(&named(&["a.weight"])), Kind::Unknown);
    assert_eq!(kind(&Vec::new()), Kind::Unknown);
}
