//! The conformance suite against backends that are wrong on purpose: each fault is caught by the cases of the verb that
//! has it, and by no other; backends that only round as they may pass.

#[path = "support/faulty/mod.rs"]
mod faulty;

use faulty::{Damage, Fault, Faulty};
use pollster::block_on;
use std::io::Write;
use std::ops::ControlFlow;
use zimage::backend::cpu::Cpu;
use zimage::backend::*;
use zimage::conformance::{Options, Report, beyond_f16, compare, compare_pipelines};
use zimage::pipeline::Pipeline;
use zimage::tensor::DType;
use zimage::{BackendChoice, ErrorKind, Model};

/// Every row that a report of all verbs has.
const ROWS: [&str; 24] = [
    "upload",
    "gather_rows",
    "linear",
    "swiglu",
    "rms_norm",
    "residual",
    "residual_norm",
    "qk_norm_rope",
    "project_qkv",
    "attention",
    "timestep_embedding",
    "modulation",
    "embed_patches",
    "final_layer",
    "pad_rows",
    "join_sequence",
    "guide_and_step",
    "conv2d",
    "group_norm",
    "unscale_latents",
    "scale_latents",
    "normalize_rgb8",
    "to_rgb8",
    "replay",
];

/// Nothing is rounded.
const F32: [DType; 2] = [DType::F32; 2];

fn verbs(candidate: &Faulty<Cpu>, options: &Options) -> Report {
    block_on(compare(&Cpu::new(), candidate, options)).unwrap()
}

fn failed(report: &Report) -> Vec<&str> {
    report.rows.iter().filter(|row| !row.passed).map(|row| row.verb.as_str()).collect()
}

/// The cases of one verb, called: nothing but the verb itself runs in them, so that no other can catch its damage.
fn cases_of(verb: &str) -> Options {
    Options { filter: format!("{verb}/"), ..called() }
}

/// Only verbs that are called: results are damaged, and rounded, on the host, which recordings never see.
fn called() -> Options {
    Options { replay: false, ..Options::default() }
}

#[test]
fn a_right_backend_passes() {
    for seed in [0, 1] {
        let options = Options { seed, ..Options::default() };
        let report = verbs(&Faulty::new(Cpu::new(), Fault::None), &options);
        assert!(report.passed(), "{report}");
        assert_eq!(report.rows.iter().map(|row| row.verb.as_str()).collect::<Vec<_>>(), ROWS);
        assert!(report.rows.iter().all(|row| row.cases >= 3 || row.verb == "replay"), "{report}");
    }
}

#[test]
fn backends_that_round_as_they_may_pass() {
    for (activations, operands) in [(DType::F32, DType::F16), (DType::F32, DType::Bf16), (DType::Bf16, DType::Bf16)] {
        let report = verbs(&Faulty::new(Cpu::new(), Fault::None).rounding(activations, operands), &called());
        assert_eq!(
            (report.activations.clone(), report.operands.clone()),
            (activations.to_string(), operands.to_string())
        );
        println!("{report}");
        assert!(report.passed(), "{report}");
    }
}

/// Every verb that returns or changes a tensor, in the order of [`ROWS`].
fn verbs_with_results() -> impl Iterator<Item = &'static str> {
    ROWS.into_iter().filter(|verb| !["upload", "replay"].contains(verb))
}

#[test]
fn damaged_results_are_caught_by_the_verb_s_own_cases() {
    for verb in verbs_with_results() {
        for damage in [Damage::Scaled, Damage::LastRowUnwritten, Damage::Unwritten] {
            // A thousandth of a pixel is no level.
            if verb == "to_rgb8" && damage == Damage::Scaled {
                continue;
            }
            let report = verbs(&Faulty::new(Cpu::new(), Fault::Result(verb, damage)), &cases_of(verb));
            assert_eq!(failed(&report), [verb], "{damage:?}\n{report}");
            let row = report.rows.iter().find(|row| row.verb == verb).unwrap();
            if damage != Damage::LastRowUnwritten {
                assert!(row.failures.len() * 10 >= row.cases * 9, "{verb} {damage:?}: most cases catch it\n{report}");
            }
        }
    }
}

#[test]
fn results_kept_in_f16_are_caught() {
    // By their precision where nothing else rounds as much; by their range everywhere.
    let large = ["linear", "swiglu", "residual", "residual_norm", "qk_norm_rope", "project_qkv", "attention", "conv2d"];
    let moved = ["gather_rows", "embed_patches", "pad_rows", "join_sequence", "unscale_latents"];
    let all = verbs_with_results().filter(|verb| *verb != "to_rgb8").map(|verb| (verb, F32));
    let large = large.into_iter().chain(moved).flat_map(|verb| {
        [[DType::F32, DType::F16], [DType::F32, DType::Bf16], [DType::Bf16; 2]].map(|precision| (verb, precision))
    });
    for (verb, [activations, operands]) in all.chain(large) {
        let fault = Fault::Result(verb, Damage::ThroughF16);
        let report = verbs(&Faulty::new(Cpu::new(), fault).rounding(activations, operands), &cases_of(verb));
        assert_eq!(failed(&report), [verb], "{report}");
    }
}

#[test]
fn wrong_arguments_are_caught_by_the_verbs_that_take_them() {
    let products =
        ["linear", "project_qkv", "timestep_embedding", "modulation", "embed_patches", "final_layer", "conv2d"];
    let normed = ["rms_norm", "residual", "residual_norm", "qk_norm_rope", "project_qkv", "final_layer", "group_norm"];
    let cases: [(Fault, &[&str]); 31] = [
        (Fault::BiasForgotten, &products),
        (Fault::GateAndUpSwapped, &["swiglu"]),
        (Fault::LastPieceForgotten, &["gather_rows", "linear", "swiglu"]),
        (Fault::EpsZero, &normed),
        (Fault::ScaleForgotten, &["rms_norm", "residual_norm"]),
        (Fault::NextModulationRow, &["rms_norm", "residual", "residual_norm", "final_layer"]),
        (Fault::GateForgotten, &["residual", "residual_norm"]),
        (Fault::BranchNormForgotten, &["residual", "residual_norm"]),
        (Fault::ResidualNotAdded, &["residual", "residual_norm"]),
        (Fault::NormsTheOldStream, &["residual_norm"]),
        (Fault::PairsSwapped, &["qk_norm_rope", "project_qkv"]),
        (Fault::QueryAndKeyNormsSwapped, &["qk_norm_rope", "project_qkv"]),
        (Fault::MaskSkipped, &["attention"]),
        (Fault::LengthsIgnored, &["attention"]),
        (Fault::OneKeyTooMany, &["attention"]),
        (Fault::StepZeroAlways, &["timestep_embedding"]),
        (Fault::SiluForgotten, &["modulation", "group_norm"]),
        (Fault::PadForgotten, &["embed_patches"]),
        (Fault::PaddingSkipped, &["pad_rows"]),
        (Fault::FirstCaptionForAll, &["join_sequence"]),
        (Fault::CapForgotten, &["guide_and_step"]),
        (Fault::GuidanceForgotten, &["guide_and_step"]),
        (Fault::StepNotAdvanced, &["guide_and_step"]),
        (Fault::ConvResidualForgotten, &["conv2d"]),
        (Fault::PaddedAtTheOtherSide, &["conv2d"]),
        (Fault::GroupsHalved, &["group_norm"]),
        (Fault::ShiftForgotten, &["unscale_latents", "scale_latents"]),
        (Fault::NanIsBlack, &["to_rgb8"]),
        (Fault::InfinityIsClamped, &["to_rgb8"]),
        (Fault::NoMemoryPast(1 << 10), &["conv2d"]),
        // What is free is for the pipeline; verbs that fit compute.
        (Fault::FreeMemory(0), &[]),
    ];
    for (fault, expected) in cases {
        let report = verbs(&Faulty::new(Cpu::new(), fault), &called());
        assert_eq!(failed(&report), expected, "{fault:?}\n{report}");
    }
}

#[test]
fn recordings_that_do_not_run_as_called_are_caught() {
    let report = verbs(&Faulty::new(Cpu::new(), Fault::FirstReplaySkipped), &Options::default());
    let all: Vec<&str> = ROWS.into_iter().filter(|row| *row != "upload").collect();
    assert_eq!(failed(&report), all, "{report}");
    // What runs while it is recorded shows where something is changed in place.
    let report = verbs(&Faulty::new(Cpu::new(), Fault::RunsWhileRecording), &Options::default());
    assert_eq!(failed(&report), ["residual", "residual_norm", "qk_norm_rope", "guide_and_step", "replay"], "{report}");
}

fn loaded<B: Backend>(backend: B, model: &Model) -> Pipeline<B> {
    block_on(Pipeline::load(backend, model, &mut |_| ControlFlow::Continue(()))).unwrap()
}

#[test]
fn a_filter_picks_cases_and_the_seed_makes_the_inputs() {
    let report = |filter: &str, seed| {
        let options = Options { filter: filter.into(), seed, ..called() };
        verbs(&Faulty::new(Cpu::new(), Fault::Result("linear", Damage::Scaled)), &options)
    };
    let one = report("linear/odd-widths-f16", 0);
    assert_eq!((one.cases(), failed(&one)), (1, vec!["linear"]));
    let (again, other) = (report("linear", 0), report("linear", 1));
    assert_eq!(one.rows[0].worst, *again.failures().find(|case| case.case == "linear/odd-widths-f16").unwrap());
    assert_eq!((again.cases(), other.cases(), other.seed), (22, 22, 1));
    assert_ne!(again.rows[0].failures, other.rows[0].failures);
    assert!(!report("lineal", 0).passed(), "nothing is proved by nothing");
}

fn load(model: &Model, fault: Fault, [activations, operands]: [DType; 2]) -> Pipeline<Faulty<Cpu>> {
    loaded(Faulty::new(Cpu::new(), fault).rounding(activations, operands), model)
}

/// The models that pictures are compared of: both goldens, and the embedded default where there is one.
fn models() -> Vec<Model> {
    let goldens = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/goldens");
    let goldens = ["single", "sharded"].map(|name| Model::open(&std::path::Path::new(goldens).join(name)).unwrap());
    goldens.into_iter().chain(Model::embedded().ok()).collect()
}

fn stages(model: &Model, candidate: &Pipeline<Faulty<Cpu>>) -> Report {
    let reference = loaded(Cpu::new(), model);
    block_on(compare_pipelines(model.name(), &reference, candidate, &Options::default())).unwrap()
}

#[test]
fn right_backends_draw_the_same_pictures() {
    for model in models() {
        for precision in [F32, [DType::F32, DType::F16], [DType::Bf16; 2]] {
            let report = stages(&model, &load(&model, Fault::None, precision));
            println!("{report}");
            assert!(report.passed(), "{report}");
            let rows: Vec<&str> = report.rows.iter().map(|row| row.verb.as_str()).collect();
            assert_eq!(rows, ["text_encoder", "transformer", "vae", "picture"]);
        }
    }
}

#[test]
fn a_fault_shows_in_its_stage_and_in_the_picture() {
    let model = &models()[1];
    for (fault, expected) in [
        (Fault::MaskSkipped, &["text_encoder", "picture"][..]),
        (Fault::PadForgotten, &["transformer", "picture"]),
        (Fault::ConvResidualForgotten, &["vae", "picture"]),
        // Nobody sees it in the picture.
        (Fault::EpsZero, &["transformer"]),
    ] {
        let report = stages(model, &load(model, fault, F32));
        println!("{report}");
        assert_eq!(failed(&report), expected, "{fault:?}\n{report}");
    }
}

#[test]
fn a_model_beyond_f16_draws_its_pictures() {
    for model in models() {
        let beyond = load(&block_on(beyond_f16(&model)).unwrap(), Fault::None, F32);
        assert_eq!(beyond.warnings(), [""; 0]);
        let report = stages(&model, &beyond);
        let picture = report.rows.iter().find(|row| row.verb == "picture").unwrap();
        // What is left of the eps of its norms is for the model to say.
        assert!(picture.passed || model.name() == "emoji", "{report}");
        println!("{report}");
    }
}

#[test]
fn a_model_beyond_f16_draws_nothing_in_f16() {
    for model in models() {
        let (beyond, precision) = (block_on(beyond_f16(&model)).unwrap(), [DType::F32, DType::F16]);
        for (verb, stage) in [("swiglu", "transformer"), ("linear", "transformer"), ("conv2d", "vae")] {
            if model.name() == "emoji" && verb != "swiglu" {
                continue;
            }
            let kept_in_f16 = Fault::Result(verb, Damage::ThroughF16);
            let report = stages(&model, &load(&model, kept_in_f16, precision));
            assert!(report.passed(), "{report}");
            let report = stages(&beyond, &load(&beyond, kept_in_f16, precision));
            assert!(failed(&report).contains(&stage) && failed(&report).contains(&"picture"), "{report}");
        }
    }
}

#[test]
fn every_built_in_backend_passes() {
    let models: Vec<Model> = Model::embedded().into_iter().collect();
    for candidate in BackendChoice::built_in() {
        let name = candidate.to_string();
        match block_on(zimage::parity(BackendChoice::Cpu, candidate, &models, &Options::default())) {
            Ok(report) => assert!(report.passed(), "{report}"),
            Err(error) if error.kind() == ErrorKind::Device => {
                // Past the test harness, which shows nothing of tests that pass.
                writeln!(std::io::stderr(), "skipped: {name}: {error}").unwrap();
            }
            Err(error) => panic!("{error}"),
        }
    }
}
