//! Model folders in the layouts that diffusers and transformers still accept but no longer write.
//! Each draws the same picture as the plain folder, with a warning about anything unusual.

use pollster::block_on;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zimage::weights::{ModelFolder, Tensors};
use zimage::{BackendChoice, Engine, Model, Request, Result};

const TRANSFORMER: &str = "transformer/diffusion_pytorch_model";
const TEXT_ENCODER: &str = "text_encoder/model";
const VAE: &str = "vae/diffusion_pytorch_model";

/// A tensor's type, shape and bytes.
type Stored = (Dtype, Vec<usize>, Vec<u8>);

fn plain() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/single")
}

/// A copy of the small model with a single weight file per part.
struct Copy(TempDir);

impl Copy {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for part in fs::read_dir(plain()).unwrap().flatten() {
            let to = dir.path().join(part.file_name());
            if part.file_type().unwrap().is_file() {
                fs::copy(part.path(), to).unwrap();
                continue;
            }
            fs::create_dir(&to).unwrap();
            for file in fs::read_dir(part.path()).unwrap().flatten() {
                fs::copy(file.path(), to.join(file.file_name())).unwrap();
            }
        }
        Self(dir)
    }

    fn path(&self, file: &str) -> PathBuf {
        self.0.path().join(file)
    }

    /// The tensors in a part's single file, from the plain folder.
    fn tensors(stem: &str) -> BTreeMap<String, Stored> {
        let bytes = fs::read(plain().join(format!("{stem}.safetensors"))).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let stored = |tensor: TensorView<'_>| (tensor.dtype(), tensor.shape().to_vec(), tensor.data().to_vec());
        file.tensors().into_iter().map(|(name, tensor)| (name, stored(tensor))).collect()
    }

    fn save<'a>(&self, file: &str, tensors: impl IntoIterator<Item = (&'a String, &'a Stored)>) {
        let views = tensors
            .into_iter()
            .map(|(name, (dtype, shape, bytes))| (name, TensorView::new(*dtype, shape.clone(), bytes).unwrap()));
        fs::write(self.path(&format!("{file}.safetensors")), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    /// Saves a part as two shards with an index and removes its single file. `second` picks the
    /// tensors of the second shard. Returns the weight map.
    fn shard(&self, stem: &str, second: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
        let tensors = Self::tensors(stem);
        let (part, name) = stem.split_once('/').unwrap();
        let mut map = BTreeMap::new();
        for (shard, is_second) in [("s1", false), ("s2", true)] {
            let own: Vec<_> = tensors.iter().filter(|(tensor, _)| second(tensor) == is_second).collect();
            map.extend(own.iter().map(|(tensor, _)| ((*tensor).clone(), format!("{name}-{shard}.safetensors"))));
            self.save(&format!("{part}/{name}-{shard}"), own);
        }
        self.index(stem, &map);
        fs::remove_file(self.path(&format!("{stem}.safetensors"))).unwrap();
        map
    }

    fn index(&self, stem: &str, map: &BTreeMap<String, String>) {
        let index = json!({"metadata": null, "weight_map": map}).to_string();
        fs::write(self.path(&format!("{stem}.safetensors.index.json")), index).unwrap();
    }

    fn edit(&self, file: &str, edit: impl FnOnce(&str) -> String) {
        let text = fs::read_to_string(self.path(file)).unwrap();
        fs::write(self.path(file), edit(&text)).unwrap();
    }

    /// The tensors of a part, with the names under which they are loaded.
    fn open(&self, stem: &str) -> Result<Tensors> {
        let (part, name) = stem.split_once('/').unwrap();
        block_on(Tensors::open(&ModelFolder::open(self.0.path())?, part, name))
    }

    /// Draws a small picture. Returns its pixels and the warnings.
    fn draw(&self) -> Result<(Vec<u8>, Vec<String>)> {
        draw(self.0.path())
    }

    /// Asserts that the picture equals that of the plain folder and that the warnings contain
    /// `warnings`.
    #[track_caller]
    fn draws_the_plain_picture(&self, warnings: &[&str]) {
        let (picture, found) = self.draw().unwrap();
        assert!(picture == draw(&plain()).unwrap().0, "another picture");
        assert_eq!(found.len(), warnings.len(), "{found:?}");
        for (found, part) in found.iter().zip(warnings) {
            assert!(found.contains(part), "{part:?} is not in {found:?}");
        }
    }

    #[track_caller]
    fn is_refused(&self, parts: &[&str]) {
        let error = self.draw().unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
}

fn draw(root: &Path) -> Result<(Vec<u8>, Vec<String>)> {
    let quiet = &mut |_| ControlFlow::Continue(());
    let engine = block_on(Engine::load(&Model::open(root)?, BackendChoice::Cpu, quiet))?;
    let request = Request { seed: 7, steps: Some(1), width: Some(64), height: Some(64), ..Request::new("a red fox") };
    let output = block_on(engine.generate(&request, quiet))?;
    Ok((output.images[0].pixels.clone(), engine.warnings().to_vec()))
}

#[test]
fn shards_win_over_a_single_file() {
    let copy = Copy::new();
    for stem in [TRANSFORMER, VAE] {
        copy.shard(stem, |name| name > "layers");
        let mut old = Copy::tensors(stem);
        old.values_mut().for_each(|(_, _, bytes)| bytes.fill(0));
        copy.save(stem, &old);
    }
    let warning = "index.json: this file is read, as diffusers does, and not ";
    copy.draws_the_plain_picture(&[warning, warning]);
}

#[test]
fn text_encoder_prefers_its_single_file() {
    let copy = Copy::new();
    copy.shard(TEXT_ENCODER, |name| name.contains("mlp"));
    for shard in ["s1", "s2"] {
        copy.save(&format!("{TEXT_ENCODER}-{shard}"), &BTreeMap::new());
    }
    copy.save(TEXT_ENCODER, &Copy::tensors(TEXT_ENCODER));
    copy.draws_the_plain_picture(&["model.safetensors: this file is read, as transformers does, and not "]);
}

#[test]
fn index_may_name_unneeded_tensors() {
    let copy = Copy::new();
    let mut map = copy.shard(TEXT_ENCODER, |name| name.contains("mlp"));
    map.insert("lm_head.weight".to_owned(), "model-s2.safetensors".to_owned());
    copy.index(TEXT_ENCODER, &map);
    copy.draws_the_plain_picture(&[]);
}

#[test]
fn index_may_name_the_wrong_shard() {
    let copy = Copy::new();
    let mut map = copy.shard(TRANSFORMER, |name| name > "layers");
    let first = map.keys().next().unwrap().clone();
    map.insert(first, "diffusion_pytorch_model-s2.safetensors".to_owned());
    copy.index(TRANSFORMER, &map);
    copy.draws_the_plain_picture(&[]);
}

#[test]
fn later_shard_wins_a_duplicate_tensor() {
    let copy = Copy::new();
    let map = copy.shard(TRANSFORMER, |name| name != "cap_pad_token");
    let mut old = Copy::tensors(TRANSFORMER);
    old.retain(|name, _| map[name].contains("s1") || name == "x_pad_token");
    old.get_mut("x_pad_token").unwrap().2.fill(0);
    copy.save(&format!("{TRANSFORMER}-s1"), &old);
    copy.draws_the_plain_picture(&[
        "s2.safetensors: the tensor x_pad_token of this file is read, and not x_pad_token of",
    ]);
}

#[test]
fn missing_shard_of_unneeded_tensors_warns() {
    let copy = Copy::new();
    copy.shard(VAE, |name| name.starts_with("encoder.") || name.starts_with("quant_conv"));
    fs::remove_file(copy.path(&format!("{VAE}-s2.safetensors"))).unwrap();
    copy.draws_the_plain_picture(&["s2.safetensors: there is no such file, though the index names it"]);
    let lacking = Copy::new();
    lacking.shard(VAE, |name| name == "decoder.conv_in.weight");
    fs::remove_file(lacking.path(&format!("{VAE}-s2.safetensors"))).unwrap();
    let problem = "found nothing, for there is no diffusion_pytorch_model-s2.safetensors, which should hold it";
    lacking.is_refused(&["tensor decoder.conv_in.weight", problem]);
}

#[test]
fn unused_tensors_may_be_missing() {
    let copy = Copy::new();
    let mut vae = Copy::tensors(VAE);
    vae.retain(|name, _| !name.starts_with("encoder.") && !name.starts_with("quant_conv"));
    copy.save(VAE, &vae);
    let mut encoder = Copy::tensors(TEXT_ENCODER);
    let layers: BTreeSet<_> = encoder.keys().filter_map(|name| name.split('.').nth(2)?.parse::<u32>().ok()).collect();
    let last = format!("model.layers.{}.", layers.last().unwrap());
    encoder.retain(|name, _| !name.starts_with(&last) && name != "model.norm.weight" && name != "lm_head.weight");
    copy.save(TEXT_ENCODER, &encoder);
    copy.draws_the_plain_picture(&[]);
}

#[test]
fn encoder_of_wrong_shape_is_refused() {
    let copy = Copy::new();
    let mut vae = Copy::tensors(VAE);
    vae.get_mut("encoder.conv_in.bias").unwrap().1.push(1);
    copy.save(VAE, &vae);
    copy.is_refused(&["tensor encoder.conv_in.bias", "found F32 ["]);
}

#[test]
fn old_attention_names_are_read() {
    let copy = Copy::new();
    let renamed: BTreeMap<String, Stored> = Copy::tensors(VAE)
        .into_iter()
        .map(|(name, tensor)| {
            let old =
                [(".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")];
            (old.iter().fold(name, |name, (new, old)| name.replace(new, old)), tensor)
        })
        .collect();
    assert!(renamed.contains_key("decoder.mid_block.attentions.0.proj_attn.weight"));
    copy.save(VAE, &renamed);
    copy.draws_the_plain_picture(&[]);
}

#[test]
fn tied_embedding_may_be_named_lm_head() {
    for prefix in ["", "model."] {
        let copy = Copy::new();
        let mut tensors = Copy::tensors(TEXT_ENCODER);
        tensors.remove("lm_head.weight");
        let table = tensors.remove("model.embed_tokens.weight").unwrap();
        let mut tensors: BTreeMap<String, Stored> =
            tensors.into_iter().map(|(name, tensor)| (name.replace("model.", prefix), tensor)).collect();
        tensors.insert("lm_head.weight".to_owned(), table);
        copy.save(TEXT_ENCODER, &tensors);
        copy.is_refused(&["embed_tokens.weight", "expected", "found nothing"]);
        copy.edit("text_encoder/config.json", |text| {
            let mut config: Value = serde_json::from_str(text).unwrap();
            config["tie_word_embeddings"] = true.into();
            config.to_string()
        });
        copy.draws_the_plain_picture(&[]);
    }
}

#[test]
fn model_prefix_is_optional() {
    let copy = Copy::new();
    let tensors = Copy::tensors(TEXT_ENCODER).into_iter();
    let mixed: BTreeMap<String, Stored> = tensors
        .map(|(name, tensor)| (if name.contains("mlp") { name.replace("model.", "") } else { name }, tensor))
        .collect();
    copy.save(TEXT_ENCODER, &mixed);
    copy.draws_the_plain_picture(&[]);
}

#[test]
fn f64_weights_are_refused_by_name() {
    let copy = Copy::new();
    let mut doubles = Copy::tensors(VAE);
    for (dtype, _, bytes) in doubles.values_mut() {
        assert_eq!(*dtype, Dtype::F32);
        *dtype = Dtype::F64;
        *bytes = bytes.as_chunks().0.iter().flat_map(|&b| f64::from(f32::from_le_bytes(b)).to_le_bytes()).collect();
    }
    copy.save(VAE, &doubles);
    copy.is_refused(&["found F64 [", "which is not read; convert the file to F32, F16 or BF16"]);
}

#[test]
fn f8_weights_are_read_with_and_without_scales() {
    let copy = Copy::new();
    let weight = |name: &str, dtype| (name.to_owned(), (dtype, vec![2, 2], vec![0x38, 0xb8, 0x00, 0x40]));
    let mut tensors = BTreeMap::from([weight("a.weight", Dtype::F8_E4M3), weight("b.weight", Dtype::F8_E5M2)]);
    let read = |name| block_on(copy.open(VAE).unwrap().take(name, &[2, 2]));
    copy.save(VAE, &tensors);
    assert_eq!(read("a.weight").unwrap().to_f32(), [1.0, -1.0, 0.0, 2.0]);
    assert_eq!(read("b.weight").unwrap().to_f32(), [0.5, -0.5, 0.0, 2.0]);
    for (name, scale) in [("a.scale_weight", 2f32), ("b.weight_scale", 0.5)] {
        tensors.insert(name.to_owned(), (Dtype::F32, vec![], scale.to_le_bytes().to_vec()));
    }
    copy.save(VAE, &tensors);
    assert_eq!(read("a.weight").unwrap().to_f32(), [2.0, -2.0, 0.0, 4.0]);
    assert_eq!(read("b.weight").unwrap().to_f32(), [0.25, -0.25, 0.0, 1.0]);
    assert_eq!(copy.open(VAE).unwrap().unread(|_| false), ["a.weight", "b.weight"], "scales are no tensors");
}

#[test]
fn int8_weights_need_scales() {
    let copy = Copy::new();
    let weight = (Dtype::I8, vec![2, 2], vec![1, 0xff, 0, 2]);
    let mut tensors = BTreeMap::from([("a.weight".to_owned(), weight)]);
    copy.save(VAE, &tensors);
    let error = block_on(copy.open(VAE).unwrap().take("a.weight", &[2, 2])).unwrap_err().to_string();
    assert!(error.contains("found I8 [2, 2], which needs scales beside it, and there are none"), "{error}");
    tensors.insert("a.weight_scale".to_owned(), (Dtype::F32, vec![1], 0.5f32.to_le_bytes().to_vec()));
    copy.save(VAE, &tensors);
    let read = block_on(copy.open(VAE).unwrap().take("a.weight", &[2, 2])).unwrap();
    assert_eq!(read.to_f32(), [0.5, -0.5, 0.0, 1.0]);
}

#[test]
fn python_json_is_read_everywhere() {
    let copy = Copy::new();
    copy.shard(TEXT_ENCODER, |name| name.contains("mlp"));
    let odd = "{\"eval_loss\": NaN, \"bounds\": [-Infinity, 1e999], \"_name_or_path\": \"m\\udce9dia\",";
    for file in [
        "model_index.json",
        "transformer/config.json",
        "text_encoder/config.json",
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors.index.json",
    ] {
        copy.edit(file, |text| text.replacen('{', odd, 1));
    }
    copy.draws_the_plain_picture(&[]);
    copy.edit("vae/config.json", |text| text.replace("\"scaling_factor\": ", "\"scaling_factor\": NaN, \"x\": "));
    copy.is_refused(&["vae/config.json: scaling_factor: expected a number", "found \"NaN\""]);
}

#[test]
fn last_duplicate_json_key_wins() {
    let copy = Copy::new();
    copy.shard(TEXT_ENCODER, |name| name.contains("mlp"));
    let twice = "\"weight_map\": {\"model.norm.weight\": \"gone.safetensors\",";
    copy.edit("text_encoder/model.safetensors.index.json", |text| text.replace("\"weight_map\":{", twice));
    assert!(fs::read_to_string(copy.path("text_encoder/model.safetensors.index.json")).unwrap().contains("gone"));
    copy.edit("vae/config.json", |text| text.replacen('{', "{\"scaling_factor\": 7.0,", 1));
    copy.draws_the_plain_picture(&[]);
}

#[test]
fn variant_weights_are_named_in_the_error() {
    let copy = Copy::new();
    let single = copy.path(&format!("{VAE}.safetensors"));
    fs::rename(&single, copy.path(&format!("{VAE}.fp16.safetensors"))).unwrap();
    copy.is_refused(&["vae: expected diffusion_pytorch_model.safetensors", "the variant fp16", "remove \".fp16\""]);
    fs::remove_file(copy.path(&format!("{VAE}.fp16.safetensors"))).unwrap();
    fs::write(copy.path(&format!("{VAE}.safetensors.index.bf16.json")), "{}").unwrap();
    copy.is_refused(&["the variant bf16"]);
}
