//! The conformance suite on deliberately wrong backends: the cases of an op catch each fault of
//! that op, and no other cases do. Backends that only round within their dtypes pass.

#[path = "support/faulty/mod.rs"]
mod faulty;

use faulty::{Damage, Fault, Faulty, Fp8Fault};
use pollster::block_on;
use std::io::Write;
use std::ops::ControlFlow;
use zimage::backend::cpu::Cpu;
use zimage::backend::*;
use zimage::catalogue::{self, Feature};
use zimage::conformance::{Options, Report, beyond_f16, compare, compare_pipelines};
use zimage::pipeline::Pipeline;
use zimage::tensor::DType;
use zimage::{BackendChoice, ErrorKind, Model};

/// The names of all ops, in the order of the rows of a report.
fn ops() -> Vec<&'static str> {
    catalogue::ops().map(|op| op.name).collect()
}

/// The names of the ops with a feature.
fn with(feature: Feature) -> Vec<&'static str> {
    catalogue::ops().filter(|op| op.features.contains(&feature)).map(|op| op.name).collect()
}

/// No rounding.
const F32: [DType; 2] = [DType::F32; 2];

fn compared(candidate: &Faulty<Cpu>, options: &Options) -> Report {
    block_on(compare(&Cpu::new(), candidate, options)).unwrap()
}

fn failed(report: &Report) -> Vec<&str> {
    report.rows.iter().filter(|row| !row.passed).map(|row| row.op.as_str()).collect()
}

/// Only the called (not recorded) cases of one op: no other op runs in them, so that no other op
/// catches its damage.
fn cases_of(op: &str) -> Options {
    Options { filter: format!("{op}/"), ..called() }
}

/// Only called cases: the faults damage and round results on the host, which a recording never
/// does.
fn called() -> Options {
    Options { replay: false, ..Options::default() }
}

#[test]
fn correct_backend_passes() {
    for seed in [0, 1] {
        let options = Options { seed, ..Options::default() };
        let report = compared(&Faulty::new(Cpu::new(), Fault::None), &options);
        assert!(report.passed(), "{report}");
        let rows: Vec<&str> = report.rows.iter().map(|row| row.op.as_str()).collect();
        assert_eq!(rows, [vec!["upload"], ops(), vec!["rejections", "replay"]].concat());
        assert!(report.rows.iter().all(|row| row.cases >= 3 || row.op == "replay"), "{report}");
    }
}

#[test]
fn permitted_rounding_passes() {
    for (activations, operands) in [(DType::F32, DType::F16), (DType::F32, DType::Bf16), (DType::Bf16, DType::Bf16)] {
        let report = compared(&Faulty::new(Cpu::new(), Fault::None).rounding(activations, operands), &called());
        assert_eq!(
            (report.activations.clone(), report.operands.clone()),
            (activations.to_string(), operands.to_string())
        );
        println!("{report}");
        assert!(report.passed(), "{report}");
    }
}

#[test]
fn damaged_results_fail_their_op_only() {
    for op in ops() {
        for damage in [Damage::Scaled, Damage::LastRowUnwritten, Damage::Unwritten] {
            // An error of 0.001 in a pixel is below one level of u8.
            if op == "to_rgb8" && damage == Damage::Scaled {
                continue;
            }
            let report = compared(&Faulty::new(Cpu::new(), Fault::Result(op, damage)), &cases_of(op));
            assert_eq!(failed(&report), [op], "{damage:?}\n{report}");
            let row = report.rows.iter().find(|row| row.op == op).unwrap();
            if damage != Damage::LastRowUnwritten {
                assert!(row.failures.len() * 10 >= row.cases * 9, "{op} {damage:?}: most cases catch it\n{report}");
            }
        }
    }
}

#[test]
fn results_in_f16_are_caught() {
    // Their precision shows if nothing else rounds as much; their range shows in any case.
    let precise = ops().into_iter().filter(|op| *op != "to_rgb8").map(|op| (op, F32));
    let large = with(Feature::BeyondF16).into_iter().flat_map(|op| {
        [[DType::F32, DType::F16], [DType::F32, DType::Bf16], [DType::Bf16; 2]].map(|precision| (op, precision))
    });
    for (op, [activations, operands]) in precise.chain(large) {
        let fault = Fault::Result(op, Damage::ThroughF16);
        let report = compared(&Faulty::new(Cpu::new(), fault).rounding(activations, operands), &cases_of(op));
        assert_eq!(failed(&report), [op], "{report}");
    }
}

/// Asserts that each fault fails the cases of these ops and no others.
fn fail(faults: impl IntoIterator<Item = (Fault, Vec<&'static str>)>) {
    for (fault, expected) in faults {
        let report = compared(&Faulty::new(Cpu::new(), fault), &called());
        assert_eq!(failed(&report), expected, "{fault:?}\n{report}");
    }
}

// Two tests, as each takes a core for a minute.
#[test]
fn wrong_arguments_of_token_ops_fail_their_op_only() {
    fail([
        (Fault::BiasForgotten, with(Feature::Bias)),
        (Fault::GateAndUpSwapped, vec!["swiglu"]),
        (Fault::LastPieceForgotten, with(Feature::Pieces)),
        (Fault::EpsZero, with(Feature::Eps)),
        (Fault::ScaleForgotten, with(Feature::NormScale)),
        (Fault::NextModulationRow, with(Feature::ModulationRow)),
        (Fault::GateForgotten, with(Feature::Branch)),
        (Fault::BranchNormForgotten, with(Feature::Branch)),
        (Fault::ResidualNotAdded, with(Feature::Branch)),
        (Fault::NormsTheOldStream, vec!["residual_norm"]),
        (Fault::PairsSwapped, with(Feature::QkNormRope)),
        (Fault::QueryAndKeyNormsSwapped, with(Feature::QkNormRope)),
        (Fault::MaskSkipped, vec!["attention"]),
        (Fault::LengthsIgnored, vec!["attention"]),
    ]);
}

#[test]
fn wrong_arguments_fail_their_op_only() {
    fail([
        (Fault::OneKeyTooMany, vec!["attention"]),
        (Fault::StepZeroAlways, vec!["timestep_embedding"]),
        (Fault::SiluForgotten, with(Feature::Silu)),
        (Fault::PadForgotten, vec!["embed_patches"]),
        (Fault::PaddingSkipped, vec!["pad_rows"]),
        (Fault::FirstCaptionForAll, vec!["join_sequence"]),
        (Fault::CapForgotten, vec!["sampler_step"]),
        (Fault::GuidanceForgotten, vec!["sampler_step"]),
        (Fault::HistoryForgotten, vec!["sampler_step"]),
        (Fault::HistoryNotStored, vec!["sampler_step"]),
        (Fault::NoiseForgotten, vec!["sampler_step"]),
        (Fault::StepNotAdvanced, vec!["sampler_step"]),
        (Fault::ConvResidualForgotten, vec!["conv2d"]),
        (Fault::PaddedAtTheOtherSide, vec!["conv2d"]),
        (Fault::GroupsHalved, vec!["group_norm"]),
        (Fault::MomentsIgnored, vec!["normalize_groups"]),
        (Fault::ShiftForgotten, with(Feature::Shift)),
        (Fault::Fp8(Fp8Fault::ScaleForgotten), with(Feature::Fp8Matrix)),
        (Fault::Fp8(Fp8Fault::ScaleOfAnotherRow), with(Feature::Fp8Matrix)),
        (Fault::Fp8(Fp8Fault::NanForTheLargest), with(Feature::Fp8Matrix)),
        (Fault::Fp8(Fp8Fault::QueryAndKeyScalesSwapped), vec!["project_qkv"]),
        // Attention reads projections that `project_qkv` made.
        (Fault::Fp8(Fp8Fault::QueryScaleForgotten), vec!["project_qkv", "attention"]),
        (Fault::Fp8(Fp8Fault::ValueScalesOfAnotherHead), vec!["project_qkv", "attention"]),
        (Fault::Fp8(Fp8Fault::ValueScalesOfAnotherBlock), vec!["project_qkv", "attention"]),
        (Fault::NanIsBlack, vec!["to_rgb8"]),
        (Fault::InfinityIsClamped, vec!["to_rgb8"]),
        (Fault::NoMemoryPast(1 << 10), vec!["conv2d"]),
        // Free memory matters to the pipeline only; the ops do not read it.
        (Fault::FreeMemory(0), Vec::new()),
    ]);
}

#[test]
fn replay_differences_are_caught() {
    let report = compared(&Faulty::new(Cpu::new(), Fault::FirstReplaySkipped), &Options::default());
    assert_eq!(failed(&report), [ops(), vec!["rejections", "replay"]].concat(), "{report}");
    // A second run changes the result of an op that already ran during recording.
    let report = compared(&Faulty::new(Cpu::new(), Fault::RunsWhileRecording), &Options::default());
    assert_eq!(failed(&report), [with(Feature::Accumulates), vec!["replay"]].concat(), "{report}");
}

#[test]
fn rejection_differences_are_caught() {
    let rejections = Options { filter: "rejections/".into(), ..Options::default() };
    let cases = |fault| compared(&Faulty::new(Cpu::new(), fault), &rejections);
    for op in ["upload", "linear", "residual"] {
        for fault in [Fault::Accepts(op), Fault::AcceptsRecorded(op), Fault::RejectsWithAnotherMessage(op)] {
            let report = cases(fault);
            assert_eq!(failed(&report), ["rejections"], "{fault:?}\n{report}");
            let own = format!("rejections/{op}-");
            assert!(report.failures().all(|case| case.case.starts_with(&own)), "{fault:?}\n{report}");
            assert!(report.failures().count() >= 2, "{fault:?}\n{report}");
        }
    }
    let report = cases(Fault::KeepsRecording);
    assert_eq!(report.failures().count(), report.cases(), "{report}");
}

fn loaded<B: Backend>(backend: B, model: &Model) -> Pipeline<B> {
    block_on(Pipeline::load(backend, model, &mut |_| ControlFlow::Continue(()))).unwrap()
}

#[test]
fn filter_selects_cases_seed_sets_inputs() {
    let report = |filter: &str, seed| {
        let options = Options { filter: filter.into(), seed, ..called() };
        compared(&Faulty::new(Cpu::new(), Fault::Result("linear", Damage::Scaled)), &options)
    };
    let one = report("linear/odd-widths-f16", 0);
    assert_eq!((one.cases(), failed(&one)), (1, vec!["linear"]));
    let again = report("linear/", 0);
    let other = report("linear/", 1);
    assert_eq!(one.rows[0].worst, *again.failures().find(|case| case.case == "linear/odd-widths-f16").unwrap());
    assert_eq!((again.cases(), other.cases(), other.seed), (53, 53, 1));
    assert_ne!(again.rows[0].failures, other.rows[0].failures);
    assert!(!report("lineal", 0).passed(), "a report without cases proves nothing");
}

fn load(model: &Model, fault: Fault, [activations, operands]: [DType; 2]) -> Pipeline<Faulty<Cpu>> {
    loaded(Faulty::new(Cpu::new(), fault).rounding(activations, operands), model)
}

/// The models whose pictures are compared: both golden models, and the embedded default if the
/// program has it.
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
fn correct_backends_draw_the_same_pictures() {
    for model in models() {
        for precision in [F32, [DType::F32, DType::F16], [DType::Bf16; 2]] {
            let report = stages(&model, &load(&model, Fault::None, precision));
            println!("{report}");
            assert!(report.passed(), "{report}");
            let rows: Vec<&str> = report.rows.iter().map(|row| row.op.as_str()).collect();
            assert_eq!(rows, ["text_encoder", "transformer", "vae", "picture"]);
        }
    }
}

#[test]
fn fault_shows_in_stage_and_picture() {
    let model = &models()[1];
    for (fault, expected) in [
        (Fault::MaskSkipped, &["text_encoder", "picture"][..]),
        (Fault::PadForgotten, &["transformer", "picture"]),
        (Fault::ConvResidualForgotten, &["vae", "picture"]),
        // The comparison of final pictures does not show this fault.
        (Fault::EpsZero, &["transformer"]),
    ] {
        let report = stages(model, &load(model, fault, F32));
        println!("{report}");
        assert_eq!(failed(&report), expected, "{fault:?}\n{report}");
    }
}

#[test]
fn model_beyond_f16_range_draws() {
    for model in models() {
        let beyond = load(&block_on(beyond_f16(&model)).unwrap(), Fault::None, F32);
        assert_eq!(beyond.warnings(), [""; 0]);
        let report = stages(&model, &beyond);
        let picture = report.rows.iter().find(|row| row.op == "picture").unwrap();
        // The eps of the norms weighs less here, which changes the picture of some models.
        assert!(picture.passed || model.name() == "emoji", "{report}");
        println!("{report}");
    }
}

#[test]
fn model_beyond_f16_range_fails_in_f16() {
    for model in models() {
        let beyond = block_on(beyond_f16(&model)).unwrap();
        let precision = [DType::F32, DType::F16];
        for (op, stage) in [("swiglu", "transformer"), ("linear", "transformer"), ("conv2d", "vae")] {
            // The stages of the emoji transformer exceed the range of F16 by themselves.
            if model.name() == "emoji" && stage == "transformer" {
                continue;
            }
            let through_f16 = Fault::Result(op, Damage::ThroughF16);
            let report = stages(&model, &load(&model, through_f16, precision));
            assert!(report.passed(), "{report}");
            let report = stages(&beyond, &load(&beyond, through_f16, precision));
            assert!(failed(&report).contains(&stage) && failed(&report).contains(&"picture"), "{report}");
        }
    }
}

/// A backend's ops, and its pictures of the embedded default.
fn passes(name: &str) {
    let models: Vec<Model> = Model::embedded().into_iter().collect();
    match block_on(zimage::parity(BackendChoice::Cpu, name.parse().unwrap(), &models, &Options::default())) {
        Ok(report) => assert!(report.passed(), "{report}"),
        Err(error) if error.kind() == ErrorKind::Device => {
            // The test harness hides the stdout of passing tests, but not this.
            let _ = writeln!(std::io::stderr(), "skipped: {name}: {error}");
        }
        Err(error) => panic!("{error}"),
    }
}

/// A test for each backend, so that they run beside each other: a software GPU compiles its shaders
/// on one core.
macro_rules! backends_pass {
    ($($(#[$feature:meta])* $test:ident $name:literal,)*) => {
        $($(#[$feature])* #[test] fn $test() { passes($name); })*

        #[test]
        fn every_built_in_backend_has_a_test() {
            let tested = [$($(#[$feature])* $name,)*];
            assert_eq!(BackendChoice::built_in().map(|choice| choice.to_string()).collect::<Vec<_>>(), tested);
        }
    };
}

backends_pass! {
    cpu_passes "cpu",
    #[cfg(feature = "webgpu")]
    webgpu_plain_passes "webgpu:plain",
    #[cfg(feature = "webgpu")]
    webgpu_direct_passes "webgpu:direct",
    #[cfg(feature = "webgpu")]
    webgpu_half_passes "webgpu:half",
    #[cfg(feature = "webgpu")]
    webgpu_cooperative_passes "webgpu:cooperative",
    #[cfg(feature = "cuda")]
    cuda_passes "cuda",
}
