//! Warnings about requests that are unlikely to give good pictures: in the library's job and
//! output, and on the command line.
#![cfg(feature = "cli")]

use assert_cmd::Command;
use pollster::block_on;
use std::ops::ControlFlow;
use zimage::{BackendChoice, Engine, Model, Request};

const SIZE: &str = "this model was trained for 256×256, 128×128, 192×192, 256×128 and 13 more sizes: a picture of \
                    64×64 may be broken";
const PROMPT: &str = "the prompt is empty: the model draws whatever it likes";

fn request(prompt: &str, side: usize) -> Request {
    Request { width: Some(side), height: Some(side), steps: Some(1), ..Request::new(prompt) }
}

#[test]
fn jobs_warn_before_any_work() {
    let model = Model::embedded().unwrap();
    let warnings = |request: Request| request.check(model.config()).unwrap().warnings;
    assert_eq!(warnings(request("a red fox", 256)), [""; 0]);
    assert_eq!(warnings(Request::new("a red fox")), [""; 0]);
    assert_eq!(warnings(request("a red fox", 64)), [SIZE]);
    assert_eq!(warnings(request(" ", 256)), [PROMPT]);
    assert_eq!(warnings(request("", 64)), [PROMPT, SIZE]);
}

#[test]
fn outputs_repeat_the_warnings_of_their_jobs() {
    let silent = &mut |_| ControlFlow::Continue(());
    let engine = block_on(Engine::load(&Model::embedded().unwrap(), BackendChoice::Cpu, silent)).unwrap();
    let output = block_on(engine.generate(&request("", 64), silent)).unwrap();
    assert_eq!(output.run.warnings, [PROMPT, SIZE]);
}

#[test]
fn command_line_prints_each_warning_once() {
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_zimage"));
    command.current_dir(folder.path()).args(["generate", "", "-W", "64", "-H", "64", "--steps", "1", "-o", "f.png"]);
    let output = command.args(["--backend", "cpu"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    let wrote = said.find("wrote f.png").unwrap();
    for sentence in [SIZE, PROMPT] {
        assert_eq!(said.matches(sentence).count(), 1, "{said}");
        assert!(said.find(sentence).unwrap() < wrote, "{said}");
    }
}
