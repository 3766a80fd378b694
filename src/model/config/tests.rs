use super::*;
use crate::future::expect_ready;
use proptest::prelude::*;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

const INDEX: &str = "model_index.json";

/// The files of the published Z-Image-Turbo.
fn turbo() -> Vec<(&'static str, Value)> {
    vec![
        (INDEX, json!({"_class_name": "ZImagePipeline"})),
        (
            TRANSFORMER,
            json!({"_class_name": "ZImageTransformer2DModel", "all_f_patch_size": [1], "all_patch_size": [2],
                "axes_dims": [32, 48, 48], "axes_lens": [1536, 512, 512], "cap_feat_dim": 2560, "dim": 3840,
                "in_channels": 16, "n_heads": 30, "n_kv_heads": 30, "n_layers": 30, "n_refiner_layers": 2,
                "norm_eps": 1e-5, "qk_norm": true, "rope_theta": 256.0, "t_scale": 1000.0}),
        ),
        (
            TEXT_ENCODER,
            json!({"model_type": "qwen3", "attention_bias": false, "head_dim": 128, "hidden_act": "silu",
                "hidden_size": 2560, "intermediate_size": 9728, "num_attention_heads": 32, "num_hidden_layers": 36,
                "num_key_value_heads": 8, "rms_norm_eps": 1e-6, "rope_scaling": null, "rope_theta": 1000000,
                "sliding_window": null, "use_sliding_window": false, "vocab_size": 151936}),
        ),
        (
            VAE,
            json!({"_class_name": "AutoencoderKL", "act_fn": "silu", "block_out_channels": [128, 256, 512, 512],
                "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D",
                    "DownEncoderBlock2D"],
                "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
                "force_upcast": true, "in_channels": 3, "latent_channels": 16, "latents_mean": null,
                "layers_per_block": 2, "mid_block_add_attention": true, "norm_num_groups": 32, "out_channels": 3,
                "scaling_factor": 0.3611, "shift_factor": 0.1159, "use_post_quant_conv": false,
                "use_quant_conv": false}),
        ),
        (
            SCHEDULER,
            json!({"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000, "shift": 3.0,
                "use_dynamic_shifting": false}),
        ),
    ]
}

fn write(root: &Path, relative: &str, text: &str) {
    let path = root.join(relative);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Reads Turbo's files with some keys changed; null removes a key.
fn read(changes: &[(&str, &str, Value)]) -> Result<ModelConfig> {
    let mut files = turbo();
    for (file, key, value) in changes {
        if files.iter().all(|(name, _)| name != file) {
            files.push((DEFAULTS, json!({})));
        }
        let (_, object) = files.iter_mut().find(|(name, _)| name == file).unwrap();
        if value.is_null() {
            object.as_object_mut().unwrap().remove(*key);
        } else {
            object[*key] = value.clone();
        }
    }
    read_files(files)
}

fn read_files(files: Vec<(&'static str, Value)>) -> Result<ModelConfig> {
    let dir = tempfile::tempdir().unwrap();
    for (name, value) in files {
        write(dir.path(), name, &value.to_string());
    }
    expect_ready(ModelConfig::read(&ModelFolder::open(dir.path()).unwrap()))
}

#[track_caller]
fn refused(file: &str, key: &str, value: Value, parts: &[&str]) {
    let message = read(&[(file, key, value.clone())]).unwrap_err().to_string();
    for part in [file, key].iter().chain(parts) {
        assert!(message.contains(part), "{key} = {value}: {part:?} is not in {message:?}");
    }
    assert!(!message.contains('\n') && message.len() < 600, "{message}");
}

/// Diffusers 0.42 passes a null to the class, which then lacks a number or a list; a flag is false.
/// The pipeline itself fails to add a missing shift.
#[test]
fn nulls_mean_what_they_do_in_python() {
    let with_null = |file: &str, key: &str| {
        let mut files = turbo();
        files.iter_mut().find(|(name, _)| *name == file).unwrap().1[key] = Value::Null;
        read_files(files)
    };
    for (file, keys) in [
        (
            TRANSFORMER,
            &[
                "all_patch_size",
                "in_channels",
                "dim",
                "n_layers",
                "n_heads",
                "norm_eps",
                "rope_theta",
                "t_scale",
                "axes_dims",
                "axes_lens",
                "cap_feat_dim",
                "qk_norm",
            ][..],
        ),
        (
            VAE,
            &[
                "act_fn",
                "block_out_channels",
                "up_block_types",
                "latent_channels",
                "layers_per_block",
                "norm_num_groups",
                "scaling_factor",
                "shift_factor",
            ],
        ),
        (SCHEDULER, &["shift", "num_train_timesteps"]),
    ] {
        for key in keys {
            let error = with_null(file, key).unwrap_err().to_string();
            assert!(error.contains(file) && error.contains(key) && error.contains("found null"), "{error}");
        }
    }
    let vae = |key| with_null(VAE, key).unwrap().vae;
    assert!(!vae("mid_block_add_attention").mid_block_add_attention && !vae("use_quant_conv").use_quant_conv);
    refused(VAE, "shift_factor", Value::Null, &["a number", "found nothing"]);
    assert!(with_null(TEXT_ENCODER, "num_key_value_heads").is_ok());
}

#[test]
fn turbo_is_read() {
    let config = read(&[]).unwrap();
    assert_eq!(config.variant(), "Turbo");
    let sizes = Vec::new();
    assert_eq!(config.defaults, Defaults { steps: 8, guidance: 0.0, width: 1024, height: 1024, sizes });
    assert_eq!((config.size_multiple(), config.largest_size()), (16, [8192, 8192]));
    let t = &config.transformer;
    assert_eq!((t.dim, t.head_dim(), t.ffn_dim(), t.adaln_dim()), (3840, 128, 10240, 256));
    assert_eq!((t.patch_dim(), t.patch_key().as_str(), t.axes_lens), (64, "2-1", [1536, 512, 512]));
    assert_eq!((t.norm_eps, t.rope_theta, t.t_scale), (1e-5, 256.0, 1000.0));
    let e = &config.text_encoder;
    assert_eq!((e.num_attention_heads, e.num_key_value_heads, e.head_dim, e.rope_theta), (32, 8, 128, 1e6));
    let v = &config.vae;
    assert_eq!((v.scale_factor(), v.scaling_factor, v.shift_factor), (8, 0.3611, 0.1159));
    assert!(!v.use_quant_conv && !v.use_post_quant_conv && v.mid_block_add_attention);
}

#[test]
fn missing_keys_have_the_reference_s_defaults() {
    let whole = read(&[]).unwrap().transformer;
    let keys = turbo()[1].1.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let none: Vec<_> = keys.iter().map(|key| (TRANSFORMER, key.as_str(), Value::Null)).collect();
    let bare = read(&none).unwrap().transformer;
    assert_eq!(bare, TransformerConfig { axes_lens: [1024, 512, 512], ..whole });
    let vae = read(&[(VAE, "scaling_factor", Value::Null), (VAE, "use_quant_conv", Value::Null)]).unwrap().vae;
    assert!(vae.scaling_factor == 0.18215 && vae.use_quant_conv);
    let encoder = [(TEXT_ENCODER, "num_key_value_heads", Value::Null), (TEXT_ENCODER, "head_dim", Value::Null)];
    let encoder = read(&encoder).unwrap().text_encoder;
    assert_eq!((encoder.num_key_value_heads, encoder.head_dim), (32, 128));
}

#[test]
fn swiglu_width_rounds_as_the_reference() {
    let at = |dim| TransformerConfig { dim, ..read(&[]).unwrap().transformer }.ffn_dim();
    assert_eq!((at(64), at(60), at(100), at(256)), (170, 160, 266, 682));
}

#[test]
fn theta_is_found_in_three_places() {
    let theta = |changes: &[_]| read(changes).unwrap().text_encoder.rope_theta;
    let gone = (TEXT_ENCODER, "rope_theta", Value::Null);
    let rope = json!({"rope_theta": 20000.0, "rope_type": "default"});
    assert_eq!(theta(std::slice::from_ref(&gone)), 10_000.0);
    assert_eq!(theta(&[gone.clone(), (TEXT_ENCODER, "rope_parameters", rope.clone())]), 20000.0);
    assert_eq!(theta(&[gone, (TEXT_ENCODER, "rope_scaling", rope)]), 20000.0);
}

#[test]
fn defaults_come_from_the_model_or_its_shift() {
    let base = read(&[(SCHEDULER, "shift", json!(6.0))]).unwrap();
    assert_eq!((base.variant(), base.defaults.steps, base.defaults.guidance), ("base", 50, 4.0));
    let other = read(&[(SCHEDULER, "shift", json!(2))]).unwrap();
    assert_eq!((other.variant(), other.defaults.steps), ("custom", 50));
    let own = read(&[(DEFAULTS, "width", json!(256)), (DEFAULTS, "steps", json!(4))]).unwrap();
    assert_eq!(
        (own.variant(), own.defaults),
        ("custom", Defaults { steps: 4, width: 256, ..read(&[]).unwrap().defaults })
    );
    let small = read(&[(TRANSFORMER, "axes_lens", json!([64, 32, 48]))]).unwrap();
    assert_eq!((small.defaults.height, small.defaults.width), (512, 768));
    refused(DEFAULTS, "width", json!(250), &["a multiple of 16", "found 250"]);
    refused(DEFAULTS, "height", json!(100_000), &["from 16 to 8192", "found 100000"]);
    refused(DEFAULTS, "guidance", json!(-1), &["from 0 to 1000", "found -1"]);
    refused(DEFAULTS, "steps", json!(0), &["from 1 to 1000", "found 0"]);
    for sizes in [json!(256), json!([256, 256]), json!([[256]]), json!([[256, 0]]), json!([[16, 16]].repeat(65))] {
        refused(DEFAULTS, "sizes", sizes, &["a list of at most 64 pairs like [1024, 768]"]);
    }
    for sizes in [json!([[256, 250]]), json!([[256, 8208]]), json!([[16, 16], [8208, 16]])] {
        refused(DEFAULTS, "sizes", sizes, &["multiples of 16 up to 8192 and 8192"]);
    }
}

#[test]
fn the_first_trained_size_is_the_default() {
    let sized = read(&[(DEFAULTS, "sizes", json!([[320, 256], [256, 320]]))]).unwrap().defaults;
    assert_eq!((sized.width, sized.height, sized.sizes.as_slice()), (320, 256, &[[320, 256], [256, 320]][..]));
    let own = read(&[(DEFAULTS, "sizes", json!([[320, 256]])), (DEFAULTS, "width", json!(512))]).unwrap().defaults;
    assert_eq!((own.width, own.height), (512, 256));
}

#[test]
fn sizes_are_checked() {
    refused(TRANSFORMER, "dim", json!("3840"), &["a whole number", "found \"3840\""]);
    refused(TRANSFORMER, "dim", json!(0), &["from 1 to 1048576", "found 0"]);
    refused(TRANSFORMER, "dim", json!(1u64 << 40), &["found 1099511627776"]);
    refused(TRANSFORMER, "dim", json!(3841), &["a multiple of the 30 of n_heads", "found 3841"]);
    refused(TRANSFORMER, "n_layers", json!(100_000), &["from 1 to 1000"]);
    refused(TRANSFORMER, "n_layers", json!(-1), &["found -1"]);
    refused(TRANSFORMER, "n_kv_heads", json!(10), &["expected 30, as n_heads", "found 10"]);
    refused(TRANSFORMER, "axes_dims", json!([32, 48]), &["a list of 3", "found [32,48]"]);
    refused(TRANSFORMER, "axes_dims", json!([32, 48, 47]), &["even numbers that make 128", "found [32,48,47]"]);
    refused(TRANSFORMER, "axes_dims", json!([32, 47, 49]), &["even numbers"]);
    refused(TRANSFORMER, "axes_lens", json!([1, 2, 0]), &["found [1,2,0]"]);
    refused(TRANSFORMER, "all_patch_size", json!([2, 4]), &["found [2,4]"]);
    refused(TRANSFORMER, "all_patch_size", json!([17]), &["found [17]"]);
    refused(TRANSFORMER, "all_f_patch_size", json!([2]), &["one frame", "found [2]"]);
    refused(TEXT_ENCODER, "num_key_value_heads", json!(5), &["a divisor of the 32", "found 5"]);
    refused(TEXT_ENCODER, "head_dim", json!(127), &["an even number", "found 127"]);
    refused(TEXT_ENCODER, "head_dim", json!(65536), &["at most 1048576 in all heads", "found 65536"]);
    refused(TEXT_ENCODER, "vocab_size", Value::Null, &["found nothing"]);
    refused(
        VAE,
        "norm_num_groups",
        json!(48),
        &["block_out_channels", "multiples of the 48", "found [128,256,512,512]"],
    );
    refused(VAE, "block_out_channels", json!([]), &["a list of 1 to 8"]);
    refused(VAE, "block_out_channels", json!([32, 64]), &["down_block_types", "2 times DownEncoderBlock2D"]);
    refused(VAE, "in_channels", json!(4), &["expected 3", "found 4"]);
    refused(VAE, "scaling_factor", json!(0), &["found 0"]);
    refused(SCHEDULER, "shift", json!(-3.0), &["found -3.0"]);
    refused(SCHEDULER, "shift", json!(true), &["a number", "found true"]);
}

#[test]
fn schedule_errors_are_readable() {
    let words = |key: &str, value: Value| read(&[(SCHEDULER, key, value)]).unwrap().scheduler.to_string();
    assert_eq!(words("shift", json!(3)), "shift 3");
    assert_eq!(words("use_dynamic_shifting", json!(true)), "dynamic exponential shift 0.5 to 1.15");
    assert_eq!(words("shift_terminal", json!(0.02)), "shift 3, last level 0.02");
    assert_eq!(words("use_beta_sigmas", json!(true)), "shift 3, beta spacing");
    assert_eq!(words("invert_sigmas", json!(true)), "shift 3, inverted");
}

#[test]
fn unimplemented_features_are_refused() {
    refused(TRANSFORMER, "qk_norm", json!(false), &["expected true"]);
    refused(TRANSFORMER, "siglip_feat_dim", json!(1152), &["not supported", "found 1152"]);
    refused(TRANSFORMER, "_class_name", json!("FluxTransformer2DModel"), &["expected ZImageTransformer2DModel"]);
    refused(TEXT_ENCODER, "attention_bias", json!(true), &["not supported", "found true"]);
    refused(TEXT_ENCODER, "use_sliding_window", json!(true), &["found true"]);
    refused(TEXT_ENCODER, "hidden_act", json!("gelu"), &["expected silu", "found \"gelu\""]);
    refused(TEXT_ENCODER, "model_type", json!("llama"), &["expected qwen3", "found \"llama\""]);
    refused(TEXT_ENCODER, "layer_types", json!(["full_attention", "sliding_attention"]), &["sliding_attention"]);
    refused(TEXT_ENCODER, "rope_scaling", json!({"rope_type": "yarn"}), &["rope_scaling.rope_type", "found \"yarn\""]);
    refused(TEXT_ENCODER, "rope_parameters", json!({"full_attention": {}}), &["rope_parameters.full_attention"]);
    refused(TEXT_ENCODER, "quantization_config", json!({"bits": 4}), &["not supported"]);
    refused(VAE, "act_fn", json!("relu"), &["expected silu or swish"]);
    refused(VAE, "up_block_types", json!(["AttnUpDecoderBlock2D"]), &["a list of UpDecoderBlock2D"]);
    refused(SCHEDULER, "_class_name", json!("DDIMScheduler"), &["found \"DDIMScheduler\""]);
    refused(SCHEDULER, "stochastic_sampling", json!(true), &["expected false", "has no seed", "found true"]);
}

/// Diffusers' pipeline does not read the two, and transformers knows both names of the function.
#[test]
fn keys_ignored_by_the_reference_are_ignored() {
    let changes = [
        (VAE, "latents_mean", json!(vec![0.5; 16])),
        (VAE, "latents_std", json!(vec![2.0; 16])),
        (TEXT_ENCODER, "hidden_act", json!("swish")),
    ];
    assert_eq!(read(&changes).unwrap(), read(&[]).unwrap());
}

#[test]
fn parts_have_to_agree() {
    refused(TEXT_ENCODER, "hidden_size", json!(1024), &[TRANSFORMER, "expected 2560", "found 1024"]);
    refused(VAE, "latent_channels", json!(4), &[TRANSFORMER, "expected 16", "found 4"]);
}

#[test]
fn broken_files_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    write(root, INDEX, "{\"_class_name\": \"ZImagePipeline\"}");
    let message = || expect_ready(ModelConfig::read(&ModelFolder::open(root).unwrap())).unwrap_err().to_string();
    assert!(message().contains("transformer/config.json: there is no such file"));
    for (text, expected) in [
        ("", "broken JSON: EOF while parsing"),
        ("{\n\"dim\": }", "line 2 column 8"),
        ("[1]", "expected a JSON object, found [1]"),
        ("version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    ] {
        write(root, TRANSFORMER, text);
        let message = message();
        assert!(message.contains("transformer/config.json") && message.contains(expected), "{message}");
    }
    write(root, TRANSFORMER, &"[".repeat(100_000));
    assert!(message().contains("recursion limit"), "{}", message());
    write(root, TRANSFORMER, &" ".repeat(2 << 20));
    assert!(message().contains("at most 1048576 bytes"));
}

/// A plausible JSON value in the wrong place.
fn value() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        any::<bool>().prop_map(Value::from),
        (0..100u64).prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z]{0,5}".prop_map(Value::from),
    ];
    prop_oneof![
        4 => scalar.clone(),
        1 => prop::collection::vec(scalar.clone(), 0..5).prop_map(Value::from),
        1 => prop::collection::vec(("[a-z]{1,3}", scalar), 0..3).prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
    ]
}

proptest! {
    /// For any values of a few keys, the result is a config or an error for the user that names one
    /// of the files.
    #[test]
    fn random_values_give_config_or_error(
        changes in prop::collection::vec((1..5usize, any::<prop::sample::Index>(), value()), 1..4),
    ) {
        let files = turbo();
        let changes: Vec<_> = changes
            .iter()
            .map(|(file, key, value)| {
                let (name, object) = &files[*file];
                let keys: Vec<_> = object.as_object().unwrap().keys().collect();
                (*name, key.get(&keys).as_str(), value.clone())
            })
            .collect();
        match read(&changes) {
            Ok(config) => prop_assert!(config.defaults.width >= config.size_multiple()),
            Err(error) => {
                prop_assert_eq!(error.kind(), crate::ErrorKind::Files);
                let message = error.to_string();
                prop_assert!(changes.iter().any(|(file, ..)| message.contains(file)), "{}", message);
            }
        }
    }
}
