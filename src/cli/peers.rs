//! Flags of other programs, answered with ours: those of stable-diffusion.cpp, of diffusers' and
//! ComfyUI's scripts, and of mflux.

/// The kind of answer.
enum Answer {
    /// Ours takes the same value.
    Same(&'static str),
    /// Ours takes a word where theirs is a switch.
    Write(&'static str),
    /// A CFG scale: ours is less by one.
    CfgScale,
    /// Both sides in one value.
    Size,
    /// We have no such flag, for this reason.
    None(&'static str),
}

const QWEN3: &str = "the text encoder of Z-Image is Qwen3, which --text-encoder names";
const NO_CONTROL: &str = "control pictures are not supported";
const NO_SOURCE: &str = "pictures are made from text alone, not from other pictures";
const ONE_SAMPLER: &str = "the sampler is always the flow-match Euler of the model's own scheduler";
const FUSED: &str = "attention is fused on every backend and needs no switch";
const OFFLOAD: &str = "--offload sequential keeps one part of the model on the device at a time";
const STREAM: &str = "--offload stream keeps the weights in host memory, and --max-vram 4G limits the device's";
const DTYPE: &str = "--weights sets the storage of the large matrices, --precision the type of products";

/// Spellings without dashes, in lower case, with `-` for `_`; single letters as they are typed.
const PEERS: &[(&[&str], Answer)] = &[
    (&["cfg-scale", "cfg", "true-cfg-scale", "unconditional-guidance-scale", "scale"], Answer::CfgScale),
    (&["guidance-scale"], Answer::Same("--guidance")),
    (
        &["num-inference-steps", "inference-steps", "num-steps", "sampling-steps", "sample-steps", "ddim-steps"],
        Answer::Same("--steps"),
    ),
    (&["negative-prompt", "neg-prompt", "neg", "uncond-prompt"], Answer::Same("--negative")),
    (
        &[
            "num-images",
            "num-images-per-prompt",
            "images-per-prompt",
            "batch-count",
            "b",
            "n-samples",
            "n-iter",
            "num-samples",
            "num",
            "number",
        ],
        Answer::Same("--count"),
    ),
    (&["batch-size"], Answer::Same("--batch")),
    (&["w"], Answer::Same("--width")),
    (&["seeds", "manual-seed", "s-seed"], Answer::Same("--seed")),
    (&["size", "resolution", "image-size", "dimensions"], Answer::Size),
    (&["aspect-ratio", "aspect", "ar"], Answer::None("--width and --height give the size in pixels")),
    (
        &["out", "outfile", "output-path", "output-file", "save", "save-path", "output-dir", "outdir", "output-folder"],
        Answer::Same("--output"),
    ),
    (&["output-format", "format", "extension"], Answer::None("pictures are PNG files")),
    (
        &[
            "model-path",
            "model-dir",
            "model-id",
            "model-name",
            "pretrained-model-name-or-path",
            "pretrained-model",
            "base-model",
            "ckpt",
            "ckpt-dir",
            "ckpt-path",
            "checkpoint",
            "repo",
            "diffusion-model",
            "unet",
            "transformer",
        ],
        Answer::Same("--model"),
    ),
    (&["llm", "llm-path", "text-encoders", "text-encoder-path"], Answer::Same("--text-encoder")),
    (&["clip-l", "clip-g", "clip", "t5xxl", "qwen2vl"], Answer::None(QWEN3)),
    (&["vae-path"], Answer::Same("--vae")),
    (&["tokenizer-path"], Answer::Same("--tokenizer")),
    (&["taesd", "tae"], Answer::None("every picture is decoded by the whole VAE, which --vae names")),
    (&["vae-tiling", "vae-tile-size", "enable-vae-tiling"], Answer::Write("--vae-tile auto")),
    (
        &[
            "offload-to-cpu",
            "offload-model",
            "cpu-offload",
            "enable-model-cpu-offload",
            "enable-sequential-cpu-offload",
            "sequential-cpu-offload",
            "model-cpu-offload",
            "clip-on-cpu",
            "vae-on-cpu",
            "low-ram",
            "medvram",
            "save-memory",
        ],
        Answer::None(OFFLOAD),
    ),
    (&["low-vram", "lowvram", "novram", "reserve-vram", "group-offload"], Answer::None(STREAM)),
    (&["vram-limit", "max-memory", "vram"], Answer::Same("--max-vram")),
    (&["device", "accelerator"], Answer::Same("--backend")),
    (&["cpu", "use-cpu"], Answer::Write("--backend cpu")),
    (&["cuda", "gpu", "use-gpu"], Answer::Write("--backend cuda")),
    (&["vulkan", "metal", "directml", "wgpu"], Answer::Write("--backend webgpu")),
    (
        &[
            "dtype",
            "torch-dtype",
            "weight-type",
            "type",
            "quantize",
            "quantization",
            "fp32",
            "fp16",
            "bf16",
            "fp8",
            "force-fp16",
            "half",
            "tensor-type-rules",
        ],
        Answer::None(DTYPE),
    ),
    (
        &["threads", "t", "num-threads", "n-threads"],
        Answer::None("the environment variable RAYON_NUM_THREADS sets the threads of the cpu backend"),
    ),
    (
        &["sampler", "sampling-method", "sample-method", "sampler-name", "scheduler", "schedule", "sigmas"],
        Answer::None(ONE_SAMPLER),
    ),
    (&["flow-shift", "timestep-shift"], Answer::Same("--shift")),
    (&["mu"], Answer::None("--shift takes e to the power of mu")),
    (&["rng", "sampler-rng", "generator"], Answer::None("the noise is always that of torch.Generator(\"cpu\")")),
    (
        &["lora-scale", "lora-scales", "lora-strength", "lora-weight"],
        Answer::None("the strength follows the file, as in --lora style.safetensors:0.8"),
    ),
    (&["loras", "lora-path", "lora-paths", "lora-weights", "lora-file"], Answer::Same("--lora")),
    (&["lora-dir", "lora-model-dir"], Answer::None("--lora names the file itself, with its path")),
    (&["lora-apply-mode"], Answer::None("a LoRA is added to the weights while they are read")),
    (&["embeddings", "embd-dir"], Answer::None("textual inversion is not supported")),
    (
        &["control-net", "controlnet", "control-image", "control-strength", "controlnet-image-path", "pose"],
        Answer::None(NO_CONTROL),
    ),
    (
        &[
            "init-img",
            "init-image",
            "init-image-path",
            "i",
            "image",
            "image-path",
            "image-paths",
            "input-image",
            "ref-image",
            "strength",
            "image-strength",
            "init-image-strength",
            "denoise",
            "denoising-strength",
            "mask",
            "mask-image",
            "end-img",
        ],
        Answer::None(NO_SOURCE),
    ),
    (
        &["prompt-file", "from-file", "prompts-file"],
        Answer::None("generate - reads a prompt from standard input: - < FILE"),
    ),
    (&["mode", "M", "task"], Answer::None("the command itself says what is done: generate makes pictures from text")),
    (
        &["diffusion-fa", "fa", "flash-attn", "flash-attention", "xformers", "use-flash-attention", "compile"],
        Answer::None(FUSED),
    ),
    (&["clip-skip"], Answer::None("the text features are those of the layer that Z-Image was trained with")),
    (&["upscale-model", "upscale", "hires-fix"], Answer::None("pictures are not enlarged afterwards")),
    (&["disable-safety-checker", "safety-checker", "no-safety-checker"], Answer::None("there is no safety checker")),
    (
        &["hf-token", "token", "cache-dir"],
        Answer::None("the environment variables HF_TOKEN and HF_HUB_CACHE give the token and the cache"),
    ),
    (&["revision"], Answer::None("the revision follows the name, as in --model Tongyi-MAI/Z-Image-Turbo@main")),
    (&["verbose", "v", "debug"], Answer::None("--json prints what was made and how long every part took")),
    (&["metadata", "save-metadata"], Answer::None("every PNG carries what made it, and zimage inspect shows it")),
    (
        &["listen", "port", "host", "server-name"],
        Answer::None("the program draws from the command line and has no server"),
    ),
];

/// The sentence about a flag that is not ours, if it is one of a peer's or one of ours in another
/// spelling. `arguments` is the command line, which holds its value.
pub(super) fn answer(flag: &str, arguments: &[String]) -> Option<String> {
    let (flag, inline) = match flag.split_once('=') {
        Some((flag, value)) => (flag, Some(value)),
        None => (flag, None),
    };
    let spelled = spelling(flag)?;
    let (_, answer) = PEERS.iter().find(|(names, _)| names.contains(&spelled.as_str()))?;
    let value = inline.map(str::to_owned).or_else(|| value_of(flag, arguments));
    let advice = match answer {
        Answer::Same(ours) => {
            format!("use {ours}{}", value.map_or(String::new(), |value| format!(" {}", quoted(&value))))
        }
        Answer::Write(ours) => format!("use {ours}"),
        Answer::CfgScale => match value.and_then(|value| value.parse::<f64>().ok()).filter(|scale| scale.is_finite()) {
            // To the fourth decimal: the subtraction leaves 0.10000000000000009 of 1.1.
            Some(scale) => {
                let ours = ((scale - 1.0).max(0.0) * 1e4).round() / 1e4;
                format!("use --guidance {ours}, which is the CFG scale minus 1")
            }
            None => "use --guidance G, where G is the CFG scale minus 1".to_owned(),
        },
        Answer::Size => match value.as_deref().and_then(sides) {
            Some([width, height]) => format!("use -W {width} -H {height}"),
            None => "use -W for the width and -H for the height".to_owned(),
        },
        Answer::None(reason) => (*reason).to_owned(),
    };
    Some(format!("there is no {flag} here: {advice}"))
}

/// A flag without its dashes, as [`PEERS`] spells it.
fn spelling(flag: &str) -> Option<String> {
    let name = flag.strip_prefix('-')?.trim_start_matches('-');
    if name.chars().count() == 1 {
        return Some(name.to_owned());
    }
    Some(name.to_lowercase().replace('_', "-"))
}

/// The value that follows `flag`, behind a space or an equals sign; behind nothing in the case of a
/// single letter.
fn value_of(flag: &str, arguments: &[String]) -> Option<String> {
    let long = flag.starts_with("--");
    arguments.iter().enumerate().find_map(|(at, argument)| match argument.strip_prefix(flag)? {
        "" => arguments.get(at + 1).filter(|next| !is_flag(next)).cloned(),
        rest => match rest.strip_prefix('=') {
            Some(value) => Some(value.to_owned()),
            None => (!long).then(|| rest.to_owned()),
        },
    })
}

/// True if a text is shaped like a flag: dashes, a letter, and no space before an equals sign.
pub(super) fn is_flag(text: &str) -> bool {
    let name = text.trim_start_matches('-');
    let dashes = text.len() - name.len();
    let name = name.split('=').next().unwrap_or_default();
    (1..=2).contains(&dashes)
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_')
}

/// A long name behind a single dash, which would be read as a letter with its value: `-prompt` as
/// `-p rompt`. Behind another flag it is a value. `ours` are the long names of the command.
pub(super) fn single_dash(arguments: &[String], ours: &[&str]) -> Option<String> {
    let mut flags = arguments.iter().take_while(|argument| *argument != "--");
    let mut before = "";
    flags.find_map(|argument| {
        let behind_flag = std::mem::replace(&mut before, argument).starts_with('-');
        let name = argument.strip_prefix('-').filter(|name| !behind_flag && !name.starts_with('-'))?;
        let flag = argument.split('=').next().unwrap_or_default();
        let spelled = spelling(flag)?;
        let known =
            ours.contains(&spelled.as_str()) || PEERS.iter().any(|(names, _)| names.contains(&spelled.as_str()));
        (name.len() > 2 && known).then(|| format!("{flag} is written with two dashes: -{flag}"))
    })
}

/// `512x768` as width and height; one number is both.
fn sides(text: &str) -> Option<[usize; 2]> {
    let mut sides = text.split(['x', 'X', '×', '*', ',']).map(|side| side.trim().parse().ok());
    let width = sides.next()??;
    let height = sides.next().unwrap_or(Some(width))?;
    sides.next().is_none().then_some([width, height])
}

/// A value as a shell takes it.
fn quoted(value: &str) -> String {
    if value.is_empty() || value.contains(|c: char| c.is_whitespace() || "\"'$`\\*?!&|;<>(){}[]#~".contains(c)) {
        return format!("'{}'", value.replace('\'', r"'\''"));
    }
    value.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use clap::CommandFactory;

    fn of(arguments: &[&str]) -> String {
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        answer(arguments[0].split('=').next().unwrap(), &arguments).unwrap_or_default()
    }

    #[test]
    fn flags_of_peers_are_answered_with_ours() {
        for (arguments, says) in [
            (
                &["--cfg-scale", "5"][..],
                "there is no --cfg-scale here: use --guidance 4, which is the CFG scale minus 1",
            ),
            (&["--cfg_scale=1.1"], "use --guidance 0.1,"),
            (&["--cfg-scale", "0.5"], "use --guidance 0,"),
            (&["--cfg-scale", "nan"], "use --guidance G,"),
            (&["--cfg", "--steps", "8"], "use --guidance G,"),
            (&["--guidance_scale", "4"], "use --guidance 4"),
            (&["--size", "512x768"], "use -W 512 -H 768"),
            (&["--size=512"], "use -W 512 -H 512"),
            (&["--size", "1024*1024"], "use -W 1024 -H 1024"),
            (&["--size", "large"], "use -W for the width"),
            (&["--num_inference_steps", "8"], "use --steps 8"),
            (&["--negative-prompt", "two heads"], "use --negative 'two heads'"),
            (&["-b", "4"], "use --count 4"),
            (&["--cfg", "7", "--cfg-truncation", "0.5"], "use --guidance 6,"),
            (&["--sampler", "euler"], "flow-match Euler"),
            (&["--lora-path", "x.safetensors"], "use --lora x.safetensors"),
            (&["--lora-scale", "0.8"], "--lora style.safetensors:0.8"),
            (&["--init-img", "a.png"], "from text alone"),
            (&["--diffusion-model", "z.gguf"], "use --model z.gguf"),
            (&["--llm", "qwen3.gguf"], "use --text-encoder qwen3.gguf"),
            (&["--flow-shift", "3"], "use --shift 3"),
            (&["-t", "8"], "RAYON_NUM_THREADS"),
            (&["--offload-to-cpu"], "--offload sequential"),
            (&["--low-ram"], "--offload sequential"),
            (&["--lowvram"], "--max-vram 4G"),
            (&["--vram-limit", "4G"], "use --max-vram 4G"),
            (&["--quantize", "8"], "--precision"),
            (&["--rng", "cuda"], "torch.Generator"),
        ] {
            let text = of(arguments);
            assert!(text.contains(says), "{arguments:?}: {text}");
        }
        assert_eq!(of(&["--frobnicate"]), "");
        assert_eq!(answer("-b", &["-b4".to_owned()]).unwrap(), "there is no -b here: use --count 4");
    }

    #[test]
    fn no_answer_hides_a_flag_of_ours() {
        let command = Cli::command();
        let generate = command.find_subcommand("generate").unwrap();
        for argument in generate.get_arguments().chain(command.get_arguments()) {
            let long = argument.get_long().unwrap_or_default();
            let short = argument.get_short().map(String::from).unwrap_or_default();
            for (names, _) in PEERS {
                assert!(!names.contains(&long) && !names.contains(&short.as_str()), "{long} {short}");
            }
        }
    }

    #[test]
    fn answers_name_flags_that_exist() {
        let command = Cli::command();
        let generate = command.find_subcommand("generate").unwrap();
        let known: Vec<String> =
            generate.get_arguments().filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect();
        for (names, answer) in PEERS {
            let (Answer::Same(text) | Answer::Write(text) | Answer::None(text)) = answer else { continue };
            for flag in text.split_whitespace().filter(|word| word.starts_with("--") && *word != "--json") {
                assert!(known.iter().any(|name| name == flag), "{names:?}: {flag}");
            }
        }
    }

    #[test]
    fn long_names_with_a_single_dash_are_pointed_out() {
        let of = |line: &str| {
            let arguments: Vec<String> = line.split(' ').map(str::to_owned).collect();
            single_dash(&arguments, &["steps", "negative"])
        };
        assert_eq!(of("-steps").unwrap(), "-steps is written with two dashes: --steps");
        assert_eq!(of("-negative=x").unwrap(), "-negative is written with two dashes: --negative");
        assert!(of("fox -cfg-scale 5").is_some());
        for fine in ["--precision -bf16", "-- -steps", "--steps", "-s8", "-s", "-", "-g-1", "steps"] {
            assert_eq!(of(fine), None, "{fine}");
        }
    }
}
