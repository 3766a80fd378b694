//! Every kind of scheduler config against diffusers: the noise levels and times are bit-exact, and
//! the same configs are refused. `tools/goldens/schedules.py` recorded them.

#[path = "support/folder.rs"]
mod folder;
#[allow(dead_code)]
#[path = "support/golden.rs"]
mod golden;

use folder::copy_of;
use golden::{floats, json, number, text};
use serde_json::Value;
use std::fs;
use zimage::pipeline::schedule::Schedule;
use zimage::{ErrorKind, Model, Request, Result};

/// A model with this scheduler config.
fn with_scheduler(config: &Value) -> Result<Model> {
    let folder = copy_of("goldens/single");
    fs::write(folder.path().join("scheduler/scheduler_config.json"), config.to_string()).unwrap();
    Model::open(folder.path())
}

#[test]
fn noise_levels_match_diffusers_bit_for_bit() {
    let recorded = json("schedules.json");
    let cases = recorded["cases"].as_array().unwrap();
    assert!(cases.len() > 25);
    for case in cases {
        let name = text(&case["name"]);
        let model = with_scheduler(&case["config"]).unwrap();
        for run in case["runs"].as_array().unwrap() {
            let [width, height, steps] = ["width", "height", "steps"].map(|key| number(&run[key]));
            let what = format!("{name}: {steps} steps of {width}×{height}");
            let schedule = Schedule::new(&model.config().scheduler, steps, [height / 8, width / 8]);
            if run["sigmas"].is_null() {
                let error = schedule.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Request, "{what}: {error}");
                assert!(error.to_string().contains("no finite noise levels for 1 step:"), "{what}: {error}");
                continue;
            }
            let schedule = schedule.unwrap();
            assert_eq!(schedule.sigmas(), floats(&run["sigmas"]), "{what}");
            assert_eq!(schedule.times(1.0), floats(&run["times"]), "{what}");
        }
    }
}

#[test]
fn configs_refused_by_diffusers_are_refused() {
    let recorded = json("schedules.json");
    for case in recorded["refused"].as_array().unwrap() {
        let error = with_scheduler(&case["config"]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Files, "{}: {error}", case["name"]);
        assert!(error.to_string().contains("scheduler_config.json"), "{}: {error}", case["name"]);
    }
}

#[test]
fn schedule_without_levels_fails_early() {
    let terminal = serde_json::json!({"shift": 3.0, "shift_terminal": 0.02});
    let model = with_scheduler(&terminal).unwrap();
    let request = |steps| Request { steps: Some(steps), width: Some(64), height: Some(64), ..Request::new("a fox") };
    assert!(request(2).check(model.config()).is_ok());
    let error = request(1).check(model.config()).unwrap_err().to_string();
    assert!(error.contains("shift 3, last level 0.02") && error.contains("use another number of steps"), "{error}");
}
