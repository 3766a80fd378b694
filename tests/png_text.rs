//! Pictures of other programs in `zimage inspect`. Pillow wrote the files, with
//! `tools/goldens/texts.py`.
#![cfg(feature = "cli")]

use assert_cmd::Command;
use serde_json::Value;
use std::path::{Path, PathBuf};
use zimage::{Foreign, PngText};

const A1111: &str =
    "a café fox, 狐\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7, Seed: 5, Size: 4x4";

fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/texts").join(name).with_extension("png")
}

#[track_caller]
fn foreign(name: &str) -> Foreign {
    PngText::open(&file(name)).unwrap().foreign.unwrap_or_else(|| panic!("{name} tells nothing"))
}

/// Asserts the program's name, the prompt, the negative prompt and some settings of a file.
#[track_caller]
fn tells(name: &str, program: &str, prompt: &str, negative: Option<&str>, settings: &[(&str, &str)]) {
    let found = foreign(name);
    assert_eq!(
        (found.program.as_str(), found.prompt.as_deref(), found.negative.as_deref()),
        (program, Some(prompt), negative),
        "{name}"
    );
    for (key, value) in settings {
        let all = &found.settings;
        assert!(all.iter().any(|(k, v)| k == key && v == value), "{name}: no {key} = {value} in {all:?}");
    }
}

#[test]
fn every_parameters_encoding_is_read() {
    for name in [
        "a1111_itxt",
        "a1111_utf8_in_text",
        "a1111_utf8_in_ztxt",
        "a1111_itxt_compressed",
        "a1111_exif_unicode",
        "a1111_exif_little",
        "a1111_exif_ascii",
    ] {
        assert_eq!(PngText::open(&file(name)).unwrap().parameters.as_deref(), Some(A1111), "{name}");
    }
    let latin1 = PngText::open(&file("a1111_latin1")).unwrap().parameters.unwrap();
    assert!(latin1.starts_with("a café fox, Ã\n"), "{latin1}");
}

#[test]
fn comfyui_graphs_give_prompt_and_settings() {
    let settings =
        [("seed", "156680208700286"), ("steps", "9"), ("cfg", "1.0"), ("sampler", "euler"), ("width", "1024")];
    tells("comfyui", "ComfyUI", "a red fox, 狐", Some("blurry"), &settings);
    tells("comfyui", "ComfyUI", "a red fox, 狐", Some("blurry"), &[("model", "z_image_turbo_bf16.safetensors")]);
    let settings =
        [("seed", "77"), ("steps", "12"), ("cfg", "3.5"), ("sampler", "dpmpp_2m"), ("scheduler", "sgm_uniform")];
    tells("comfyui_advanced", "ComfyUI", "a blue bird", Some("ugly"), &settings);
    tells("comfyui_workflow", "ComfyUI", "a red fox", None, &[("nodes", "CLIPTextEncode")]);
}

#[test]
fn metadata_of_other_programs_is_read() {
    let model = [("model", "Z-Image Turbo"), ("seed", "4")];
    tells("invokeai", "InvokeAI", "a red fox", Some("blurry"), &model);
    tells("invokeai_two", "InvokeAI", "a red fox [blurry]", None, &[("steps", "50"), ("model_weights", "sd-1.5")]);
    tells("invokeai_dream", "InvokeAI", "a red fox", None, &[("options", "-s 50 -S 8 -W512")]);
    tells("novelai", "NovelAI", "a red fox", Some("lowres"), &[("seed", "9"), ("source", "NAI 4")]);
    tells("swarmui", "SwarmUI", "a red fox", Some("blurry"), &[("cfgscale", "1.0"), ("model", "Z-Image")]);
    tells("fooocus", "Fooocus", "a red fox", None, &[("steps", "30"), ("seed", "7")]);
    tells("draw_things", "Draw Things", "a fox & a hen", Some("blurry"), &[("sampler", "Euler A Trailing")]);
    tells("mflux", "mflux", "a red fox", None, &[("steps", "9"), ("model", "z-image-turbo")]);
    tells("separate_keys", "", "a red fox", Some("blurry"), &[("num_inference_steps", "25")]);
    let midjourney = foreign("midjourney");
    assert_eq!(midjourney.settings[0], ("Description".to_owned(), "a red fox --v 7 Job ID: 0".to_owned()));
}

#[test]
fn inspect_prints_foreign_metadata() {
    let inspect = |name: &str, more: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
        let output = command.arg("inspect").arg(file(name)).args(more).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, lines, _) = inspect("comfyui", &[]);
    assert_eq!(code, Some(0));
    for line in ["made by    ComfyUI", "prompt     a red fox, 狐", "seed       156680208700286", "size       4×4"] {
        assert!(lines.lines().any(|found| found == line), "{line:?} is not in {lines}");
    }
    let (_, lines, _) = inspect("swarmui", &[]);
    assert!(lines.starts_with("made by   SwarmUI\nprompt    a red fox\n"), "{lines}");
    assert_eq!(inspect("a1111_exif_unicode", &[]).1, format!("{A1111}\n"));
    let (_, json, _) = inspect("comfyui", &["--json"]);
    let document: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&document["foreign"]["negative"], &document["foreign"]["settings"]["steps"]),
        (&"blurry".into(), &"9".into())
    );
    let (code, _, error) = inspect("nothing", &[]);
    assert_eq!(code, Some(3));
    assert!(error.contains("no text in it tells how it was made (it has: Software, Creation Time)"), "{error}");
}
