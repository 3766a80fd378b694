//! A value that a driver's callback will deliver.

use crate::backend::gpu::lock;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

/// A future for a value that a callback delivers on any thread.
#[derive(Debug)]
pub(crate) struct Signal<T>(Arc<Mutex<State<T>>>);

#[derive(Debug)]
struct State<T> {
    value: Option<T>,
    waker: Option<Waker>,
}

impl<T> Signal<T> {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(State { value: None, waker: None })))
    }

    /// Whether the value was delivered.
    pub(crate) fn arrived(&self) -> bool {
        lock(&self.0).value.is_some()
    }

    /// The callback that delivers the value.
    pub(crate) fn sender(&self) -> impl FnOnce(T) + use<T> {
        let state = self.0.clone();
        move |value| {
            let waker = {
                let mut state = lock(&state);
                state.value = Some(value);
                state.waker.take()
            };
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }
}

impl<T> Future for Signal<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut state = lock(&self.0);
        match state.value.take() {
            Some(value) => Poll::Ready(value),
            None => {
                state.waker = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }
}
