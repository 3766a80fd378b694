//! A worker: an engine behind a `Send` handle, for servers.
#![cfg(feature = "embedded-model")]

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{self, StatusCode};
use axum::routing::post;
use pollster::block_on;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tower::ServiceExt;
use zimage::{BackendChoice, Engine, Error, ErrorKind, Event, Model, Request, Stage, Worker};

/// Runs one test at a time, because the tests count the threads of the process. The threads of the
/// CPU pool start here, because they inherit the name of the thread that starts them.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    rayon::broadcast(|_| ());
    alone
}

fn silent(_: Stage) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

async fn worker() -> Worker {
    Worker::load(Model::embedded, BackendChoice::Cpu, silent).await.unwrap()
}

fn request(prompt: &str) -> Request {
    Request { width: Some(64), height: Some(64), steps: Some(2), seed: 7, ..Request::new(prompt) }
}

/// Draws the request body's prompt as a PNG.
async fn draw(State(worker): State<Worker>, prompt: String) -> Result<Vec<u8>, (StatusCode, String)> {
    let status = |error: &Error| match error.kind() {
        ErrorKind::Request => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let png = async { worker.generate(request(&prompt)).output().await?.images[0].to_png() };
    png.await.map_err(|error| (status(&error), error.to_string()))
}

#[test]
fn axum_handler_draws() {
    let _alone = alone();
    tokio::runtime::Runtime::new().unwrap().block_on(drawn_by_a_handler());
}

async fn drawn_by_a_handler() {
    let worker = worker().await;
    let app = Router::new().route("/", post(draw)).with_state(worker);
    let ask = |prompt: &str| {
        let app = app.clone();
        let request = http::Request::post("/").body(Body::from(prompt.to_owned())).unwrap();
        tokio::spawn(async move {
            let response = app.oneshot(request).await.unwrap();
            let status = response.status();
            (status, to_bytes(response.into_body(), usize::MAX).await.unwrap())
        })
    };
    // Both requests are in flight at once.
    let answers = [ask("a red fox"), ask("a ship")];
    let model = Model::embedded().unwrap();
    let engine = block_on(Engine::load(&model, BackendChoice::Cpu, &mut silent)).unwrap();
    for (answer, prompt) in answers.into_iter().zip(["a red fox", "a ship"]) {
        let expected = block_on(engine.generate(&request(prompt), &mut silent)).unwrap().images[0].to_png().unwrap();
        let (status, png) = answer.await.unwrap();
        assert!(status == StatusCode::OK && png == expected, "{status}");
    }
    let (status, sentence) = ask(&"a".repeat(1 << 20)).await.unwrap();
    assert_eq!(status, StatusCode::BAD_REQUEST, "{sentence:?}");
}

#[test]
fn events_arrive_in_order() {
    let _alone = alone();
    let worker = block_on(worker());
    let mut generation = worker.generate(Request { count: 2, ..request("a red fox") });
    let mut seen = Vec::new();
    while let Some(event) = block_on(generation.next()) {
        seen.push(match event.unwrap() {
            Event::Stage(Stage::Step { .. }) => "step",
            Event::Stage(_) => "stage",
            Event::Image(image) => {
                assert_eq!(image.info.seed, 7 + seen.iter().filter(|name| **name == "image").count() as u64);
                "image"
            }
            Event::Done(run) => {
                assert_eq!(run.timings.step_ms.len(), 4);
                "done"
            }
            _ => "other",
        });
    }
    let text = "stage";
    let vae = "stage";
    let expected = [text, "step", "step", "step", vae, "image", "step", "step", "step", vae, "image", "done"];
    assert_eq!(seen, expected);
    assert!(block_on(generation.next()).is_none());
}

#[test]
fn dropped_generation_is_cancelled() {
    let _alone = alone();
    let worker = block_on(worker());
    let mut long = worker.generate(Request { steps: Some(1000), count: 1000, ..request("a red fox") });
    let queued = worker.generate(Request { steps: Some(1000), count: 1000, ..request("a red fox") });
    let next = worker.generate(request("a red fox"));
    assert!(matches!(block_on(long.next()), Some(Ok(Event::Stage(_)))));
    drop((long, queued));
    assert_eq!(block_on(next.output()).unwrap().images.len(), 1);
}

#[test]
fn errors_reach_the_caller() {
    let _alone = alone();
    let missing = || Model::open(Path::new("nowhere"));
    let error = block_on(Worker::load(missing, BackendChoice::Cpu, silent)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Files);
    let breaks = |_| ControlFlow::Break(());
    let error = block_on(Worker::load(Model::embedded, BackendChoice::Cpu, breaks)).unwrap_err();
    assert!(matches!(error, Error::Cancelled), "{error}");
    let panics = |_| panic!("a panic of this test");
    let error = block_on(Worker::load(Model::embedded, BackendChoice::Cpu, panics)).unwrap_err();
    assert!(matches!(error, Error::Internal(_)), "{error}");

    let worker = block_on(worker());
    let mut refused = worker.generate(Request { width: Some(100), ..request("a red fox") });
    let error = block_on(refused.next()).unwrap().unwrap_err();
    assert!(error.to_string().starts_with("width 100 is not a positive multiple"), "{error}");
    assert!(block_on(refused.next()).is_none());
    assert!(block_on(worker.generate(request("a red fox")).output()).is_ok(), "the worker goes on");
}

/// The number of worker threads in this process.
#[cfg(target_os = "linux")]
fn threads() -> usize {
    let names = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let name = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
    names.map(name).filter(|name| name.trim() == "zimage-worker").count()
}

#[cfg(target_os = "linux")]
#[test]
fn last_handle_ends_the_thread() {
    let _alone = alone();
    let wait = || {
        while threads() > 0 {
            std::thread::yield_now();
        }
    };
    // Other tests' threads are not counted.
    wait();
    let first = block_on(worker());
    let second = first.clone();
    assert_eq!(threads(), 1);
    drop(first);
    let generation = second.generate(request("a red fox"));
    drop(second);
    assert_eq!(block_on(generation.output()).unwrap().images.len(), 1, "a queued request is drawn");
    wait();
}
