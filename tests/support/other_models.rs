//! Files of other models: tiny safetensors files with the marks of each.

use serde_json::{Map, Value, json};
use std::fs;
use std::path::Path;
use tempfile::{TempDir, tempdir};

/// Tensors that only Z-Image has, without those that its sizes are derived from.
pub(crate) const Z_IMAGE: [(&str, &[usize]); 9] = [
    ("cap_embedder.0.weight", &[32]),
    ("cap_embedder.1.weight", &[48, 32]),
    ("cap_pad_token", &[1, 48]),
    ("context_refiner.0.attention.qkv.weight", &[144, 48]),
    ("final_layer.linear.weight", &[64, 48]),
    ("layers.0.adaLN_modulation.0.weight", &[192, 16]),
    ("layers.0.attention.qkv.weight", &[144, 48]),
    ("noise_refiner.0.attention.qkv.weight", &[144, 48]),
    ("x_embedder.weight", &[48, 64]),
];

/// A name, its marks, and a part of the sentence that names it.
type Other = (&'static str, &'static [(&'static str, &'static [usize])], &'static str);

const OTHERS: [Other; 8] = [
    (
        "sdxl",
        &[
            ("model.diffusion_model.input_blocks.0.0.weight", &[8, 4, 3, 3]),
            ("model.diffusion_model.input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight", &[1, 2048]),
        ],
        "an SDXL model",
    ),
    ("flux", &[("double_blocks.0.img_attn.norm.key_norm.scale", &[8])], "a FLUX.1 transformer"),
    ("flux2", &[("double_stream_modulation_img.lin.weight", &[8, 8])], "a FLUX.2 transformer"),
    ("qwen_image", &[("transformer_blocks.0.img_mod.1.weight", &[8, 8])], "a Qwen-Image transformer"),
    ("wan", &[("head.modulation", &[1, 2, 8]), ("blocks.0.cross_attn.norm_k.weight", &[8])], "a Wan transformer"),
    ("t5", &[("encoder.block.0.layer.0.SelfAttention.q.weight", &[8, 8])], "a T5 text encoder"),
    (
        "sd_vae",
        &[("decoder.conv_in.weight", &[512, 4, 3, 3]), ("decoder.mid.block_1.conv1.weight", &[8])],
        "a Stable Diffusion 1, 2 or XL VAE",
    ),
    ("nothing", &[("a.weight", &[8])], "a file with the tensors of no known model"),
];

/// Models with the tensors of Z-Image and these, and a part of the sentence that names them.
const RELATIVES: [(&str, &str, &str); 4] = [
    ("lumina2", "layers.0.adaLN_modulation.1.weight", "a Lumina 2 transformer"),
    ("zeta_chroma", "dec_net.cond_embed.weight", "a Zeta-Chroma transformer"),
    ("l2p", "local_decoder.enc1.0.weight", "a Z-Image L2P transformer"),
    ("omni", "siglip_embedder.0.weight", "a Z-Image Omni or Edit transformer"),
];

/// A safetensors file of BF16 or other tensors with zeros, perhaps large and sparse.
pub(crate) fn write(path: &Path, tensors: &[(&str, &str, &[usize])]) {
    let mut entries = Map::new();
    let mut end = 0;
    for (name, dtype, shape) in tensors {
        let size = match *dtype {
            "F64" | "I64" => 8,
            "F32" => 4,
            "BF16" => 2,
            _ => 1,
        };
        let start = end;
        end += shape.iter().product::<usize>() * size;
        entries.insert((*name).to_owned(), json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]}));
    }
    let header = Value::from(entries).to_string();
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, [&(header.len() as u64).to_le_bytes()[..], header.as_bytes()].concat()).unwrap();
    fs::File::options().write(true).open(path).unwrap().set_len((8 + header.len() + end) as u64).unwrap();
}

pub(crate) fn write_bf16(path: &Path, tensors: &[(&str, &[usize])]) {
    let tensors: Vec<_> = tensors.iter().map(|(name, shape)| (*name, "BF16", *shape)).collect();
    write(path, &tensors);
}

/// A folder with the files of other models; returns their names with a part of their sentences.
pub(crate) fn others() -> (TempDir, Vec<(String, &'static str)>) {
    let folder = tempdir().unwrap();
    let file = |name: &str| format!("{name}.safetensors");
    for (name, tensors, _) in OTHERS {
        write_bf16(&folder.path().join(file(name)), tensors);
    }
    for (name, mark, _) in RELATIVES {
        // The modulation of Lumina 2 begins with an activation.
        let own = Z_IMAGE.into_iter().filter(|(tensor, _)| name != "lumina2" || !tensor.contains("modulation"));
        let tensors: Vec<_> = own.chain([(mark, &[8, 8][..])]).collect();
        write_bf16(&folder.path().join(file(name)), &tensors);
    }
    let others = OTHERS.into_iter().map(|(name, _, says)| (file(name), says));
    let relatives = RELATIVES.into_iter().map(|(name, _, says)| (file(name), says));
    (folder, others.chain(relatives).collect())
}
