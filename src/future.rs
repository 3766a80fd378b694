//! What is read may be far away, so reading is asynchronous everywhere; and what is here is there at once.

use crate::error::Result;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

/// What somebody answers in their own time.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// The value of a future that waits for nothing, because it reads only what is on this machine.
///
/// # Panics
/// When it waits after all.
pub(crate) fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a future waits that was given only what is on this machine"),
    }
}
