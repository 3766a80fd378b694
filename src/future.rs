//! Futures of reads. A model's files may be remote, so reading is asynchronous everywhere; local
//! files resolve immediately.

use crate::error::Result;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

/// A boxed future of a [`Result`]. It is not `Send`: in a browser no future of a file is.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + 'a>>;

/// The value of a future that is ready on its first poll, because it reads only local files.
///
/// # Panics
/// If it is not.
pub(crate) fn expect_ready<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("a future of local files is pending"),
    }
}
