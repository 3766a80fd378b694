//! An engine on a thread of its own, for programs that go on meanwhile: a server, a window.

use super::{Engine, LoadOptions, Output};
use crate::error::{Error, Result};
use crate::image::Image;
use crate::model::Model;
use crate::model::config::ModelConfig;
use crate::pipeline::RunInfo;
use crate::pipeline::progress::{Progress, Stage};
use crate::pipeline::request::Request;
use futures_channel::{mpsc, oneshot};
use futures_util::StreamExt;
use pollster::block_on;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::mpsc as queue;
use std::thread;

/// A handle to an [`Engine`] on a thread of its own.
///
/// Clones share the thread, which draws one request after the other. It ends when the last handle
/// is dropped and no request is left. No method blocks, and every future is `Send`:
///
/// ```no_run
/// # use std::ops::ControlFlow;
/// # use zimage::{BackendChoice, Model, Request, Result, Worker};
/// # async fn example() -> Result<()> {
/// let silent = |_| ControlFlow::Continue(());
/// let worker = Worker::load(Model::embedded, BackendChoice::Auto, silent).await?;
/// let output = worker.generate(Request::new("a red fox")).output().await?;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Worker {
    requests: queue::Sender<Order>,
    engine: Arc<Loaded>,
}

/// The properties of the engine that do not change.
#[derive(Debug)]
struct Loaded {
    config: ModelConfig,
    backend: &'static str,
    device: String,
    warnings: Vec<String>,
}

/// A request, and the channel of its events.
#[derive(Debug)]
struct Order {
    request: Request,
    events: mpsc::UnboundedSender<Result<Event>>,
}

/// An event of a [`Generation`].
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// The run has reached this stage.
    Stage(Stage),
    /// A picture is done.
    Image(Image),
    /// All pictures are done.
    Done(RunInfo),
}

impl Worker {
    /// Starts the thread, which calls `open` and loads the model that it returns; `progress` is
    /// called there. Dropping the future ends the loading and the thread.
    ///
    /// # Errors
    /// Those of `open` and of [`Engine::load`]; [`Error::Device`] when the system has no thread
    /// left.
    pub async fn load(
        open: impl FnOnce() -> Result<Model> + Send + 'static,
        options: impl Into<LoadOptions>,
        progress: impl Progress + Send + 'static,
    ) -> Result<Self> {
        let options = options.into();
        let (requests, orders) = queue::channel::<Order>();
        let (answer, loaded) = oneshot::channel();
        let work = move || {
            let mut progress = UntilDropped { progress, future: &answer };
            match open().and_then(|model| block_on(Engine::load(&model, options, &mut progress))) {
                Ok(engine) => {
                    // A caller that is gone has dropped its sender of orders as well.
                    let _ = answer.send(Ok(Loaded::of(&engine)));
                    orders.into_iter().for_each(|order| order.run(&engine));
                }
                Err(error) => drop(answer.send(Err(error))),
            }
        };
        let started = thread::Builder::new().name("zimage-worker".into()).spawn(work);
        started.map_err(|error| Error::Device(format!("the system starts no thread: {error}")))?;
        let engine = loaded.await.unwrap_or_else(|_| Err(panicked()))?;
        Ok(Self { requests, engine: Arc::new(engine) })
    }

    /// The content of the model's config files: its defaults, and what [`Request::check`] checks
    /// against.
    pub fn config(&self) -> &ModelConfig {
        &self.engine.config
    }

    /// The backend's name.
    pub fn backend(&self) -> &'static str {
        self.engine.backend
    }

    /// The device, for display.
    pub fn device(&self) -> &str {
        &self.engine.device
    }

    /// Oddities of the model's files and of the device that are no errors, a sentence each.
    pub fn warnings(&self) -> &[String] {
        &self.engine.warnings
    }

    /// Queues a request.
    pub fn generate(&self, request: Request) -> Generation {
        let (events, received) = mpsc::unbounded();
        // After a panic of the thread the events end here, and the generation reports it.
        let _ = self.requests.send(Order { request, events });
        Generation { events: Some(received) }
    }
}

impl Loaded {
    fn of(engine: &Engine) -> Self {
        Self {
            config: engine.config().clone(),
            backend: engine.backend(),
            device: engine.device(),
            warnings: engine.warnings().to_vec(),
        }
    }
}

/// A request that is queued or being drawn. Dropping it cancels the request before its next step.
#[derive(Debug)]
pub struct Generation {
    /// `None` once the last event was returned.
    events: Option<mpsc::UnboundedReceiver<Result<Event>>>,
}

impl Generation {
    /// The next event; `None` after [`Event::Done`] and after an error.
    ///
    /// # Errors
    /// Those of [`Engine::generate`]; [`Error::Internal`] when the thread panicked.
    pub async fn next(&mut self) -> Option<Result<Event>> {
        let event = self.events.as_mut()?.next().await.unwrap_or_else(|| Err(panicked()));
        if !matches!(event, Ok(Event::Stage(_) | Event::Image(_))) {
            self.events = None;
        }
        Some(event)
    }

    /// All pictures, when they are done.
    ///
    /// # Errors
    /// Those of [`Generation::next`].
    pub async fn output(mut self) -> Result<Output> {
        let mut images = Vec::new();
        while let Some(event) = self.next().await {
            match event? {
                Event::Stage(_) => {}
                Event::Image(image) => images.push(image),
                Event::Done(run) => return Ok(Output { images, run }),
            }
        }
        Err(panicked())
    }
}

impl Order {
    fn run(self, engine: &Engine) {
        let Order { request, events } = self;
        if events.is_closed() {
            return;
        }
        let send = |event| match events.unbounded_send(event) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        };
        let progress = &mut |stage| send(Ok(Event::Stage(stage)));
        let each = &mut |image| match send(Ok(Event::Image(image))) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(Error::Cancelled),
        };
        let run = block_on(engine.generate_each(&request, progress, each));
        // Nobody may listen any more.
        let _ = send(run.map(Event::Done));
    }
}

/// Progress that cancels the loading once nobody waits for it.
struct UntilDropped<'a, P> {
    progress: P,
    future: &'a oneshot::Sender<Result<Loaded>>,
}

impl<P: Progress> Progress for UntilDropped<'_, P> {
    fn update(&mut self, stage: Stage) -> ControlFlow<()> {
        if self.future.is_canceled() { ControlFlow::Break(()) } else { self.progress.update(stage) }
    }
}

fn panicked() -> Error {
    Error::internal("the worker's thread panicked")
}
