//! Work on all threads: rayon's, or loops under the same names in single-threaded programs.

#[cfg(not(target_family = "wasm"))]
pub(super) use rayon::prelude::*;

/// The number of threads.
#[cfg(not(target_family = "wasm"))]
pub(super) fn threads() -> usize {
    rayon::current_num_threads()
}

/// Yields the thread in single-threaded programs.
#[cfg(not(target_family = "wasm"))]
pub(super) async fn turn() {}

#[cfg(target_family = "wasm")]
pub(super) use single::*;

#[cfg(target_family = "wasm")]
mod single {
    use js_sys::{Function, Promise};
    use std::slice::{Chunks, ChunksMut, Iter, IterMut};
    use wasm_bindgen::prelude::wasm_bindgen;
    use wasm_bindgen_futures::JsFuture;

    pub(in super::super) fn threads() -> usize {
        1
    }

    #[wasm_bindgen]
    extern "C" {
        #[wasm_bindgen(js_name = setTimeout)]
        fn set_timeout(callback: &Function, milliseconds: i32);
    }

    /// Ends the current browser task. A browser delivers messages, such as a cancellation, only
    /// between tasks.
    pub(in super::super) async fn turn() {
        let next_task = Promise::new(&mut |resolve, _| set_timeout(&resolve, 0));
        // Nothing rejects this promise.
        let _ = JsFuture::from(next_task).await;
    }

    pub(in super::super) trait Slice<T> {
        fn par_iter(&self) -> Iter<'_, T>;
        fn par_iter_mut(&mut self) -> IterMut<'_, T>;
        fn par_chunks(&self, size: usize) -> Chunks<'_, T>;
        fn par_chunks_mut(&mut self, size: usize) -> ChunksMut<'_, T>;
    }

    impl<T> Slice<T> for [T] {
        fn par_iter(&self) -> Iter<'_, T> {
            self.iter()
        }

        fn par_iter_mut(&mut self) -> IterMut<'_, T> {
            self.iter_mut()
        }

        fn par_chunks(&self, size: usize) -> Chunks<'_, T> {
            self.chunks(size)
        }

        fn par_chunks_mut(&mut self, size: usize) -> ChunksMut<'_, T> {
            self.chunks_mut(size)
        }
    }

    pub(in super::super) trait Items: Iterator + Sized {
        /// Calls `f` with one value shared by all items, up to the first error.
        fn try_for_each_init<S, E>(
            mut self,
            init: impl Fn() -> S,
            mut f: impl FnMut(&mut S, Self::Item) -> Result<(), E>,
        ) -> Result<(), E> {
            let mut state = init();
            self.try_for_each(|item| f(&mut state, item))
        }
    }

    impl<I: Iterator> Items for I {}
}
