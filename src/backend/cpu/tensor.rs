//! Tensors in the host's memory, and the memory of recordings.
//!
//! Uploaded tensors share the bytes they came from (a mapped file is not copied) until an op writes
//! to them. The memory of a dropped tensor is reused for the next one of its size: without limits
//! inside a recording, as in a GPU arena, and up to a limit elsewhere, which saves the system from
//! clearing new pages for every op.

use crate::backend::{DeviceTensor, Fp8Form};
use crate::error::Result;
use crate::reserve::{self, zeros};
use crate::tensor::{DType, HostTensor, widen, words};
use bytemuck::Zeroable;
use bytes::Bytes;
use std::borrow::Cow;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

/// A tensor of the `cpu` backend.
#[derive(Debug, Clone)]
pub struct CpuTensor {
    shape: Vec<usize>,
    dtype: DType,
    fp8: Option<Fp8Form>,
    handle: Arc<Handle>,
}

/// State shared by all clones of a tensor. The ops of a recording hold its memory and not the
/// handle, so dropping the last handle means that no later op reads the tensor.
#[derive(Debug)]
struct Handle {
    memory: Memory,
    free: Weak<FreeList>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        if let Some(free) = self.free.upgrade() {
            free.put(&self.memory);
        }
    }
}

/// Memory of dropped tensors, for new ones of the same size.
#[derive(Debug, Default)]
pub(super) struct FreeList {
    memories: Mutex<Vec<Memory>>,
    /// The most elements that are kept. `None` in a recording, which keeps all of its memory: there
    /// an op that reads a dropped tensor always runs before the op that writes the next one.
    limit: Option<usize>,
}

impl FreeList {
    /// At most `limit` elements of memory that nothing else uses.
    pub(super) fn limited(limit: usize) -> Self {
        Self { memories: Mutex::default(), limit: Some(limit) }
    }

    /// Frees all memory of the list.
    pub(super) fn clear(&self) {
        self.locked().clear();
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.memories.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, memory: &Memory) {
        let Some(limit) = self.limit else { return self.locked().push(memory.clone()) };
        // A recording may still hold the memory of a tensor that was made outside of it.
        if Arc::strong_count(&memory.0) > 1 {
            return;
        }
        let len = memory.len();
        if len > limit {
            return;
        }
        let mut list = self.locked();
        while list.iter().map(Memory::len).sum::<usize>() + len > limit {
            list.remove(0);
        }
        list.push(memory.clone());
    }

    fn take(&self, len: usize) -> Option<Memory> {
        let mut list = self.locked();
        let at = list.iter().rposition(|memory| memory.len() == len)?;
        Some(match self.limit {
            Some(_) => list.remove(at),
            None => list.swap_remove(at),
        })
    }
}

/// The elements, shared between a tensor's handle and the ops recorded with it.
#[derive(Debug, Clone)]
pub(super) struct Memory(Arc<RwLock<Elements>>);

/// The elements, as uploaded or as an op wrote them.
#[derive(Debug)]
pub(super) enum Elements {
    Stored(DType, Bytes),
    F32(Vec<f32>),
    U32(Vec<u32>),
    U8(Vec<u8>),
}

impl Memory {
    fn new(elements: Elements) -> Self {
        Self(Arc::new(RwLock::new(elements)))
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Elements> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, Elements> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// The elements, if they are F32 that an op wrote; else 0.
    fn len(&self) -> usize {
        match &*self.read() {
            Elements::F32(values) => values.len(),
            _ => 0,
        }
    }
}

impl Elements {
    /// The elements as f32, widened if they are stored in another type.
    pub(super) fn f32(&self) -> Result<Cow<'_, [f32]>> {
        match self {
            Elements::F32(values) => Ok(Cow::Borrowed(values)),
            Elements::Stored(dtype, bytes) => floats(*dtype, bytes),
            Elements::U32(values) => converted(values, |v| v as f32).map(Cow::Owned),
            Elements::U8(values) => converted(values, f32::from).map(Cow::Owned),
        }
    }

    /// The elements of a U32 tensor; empty for other types.
    pub(super) fn u32(&self) -> Cow<'_, [u32]> {
        match self {
            Elements::U32(values) => Cow::Borrowed(values),
            Elements::Stored(DType::U32, bytes) => Cow::Owned(words(bytes).collect()),
            _ => Cow::Owned(Vec::new()),
        }
    }

    /// The elements of a U8 tensor; empty for other types.
    pub(super) fn u8(&self) -> &[u8] {
        match self {
            Elements::U8(values) => values,
            Elements::Stored(DType::U8, bytes) => bytes,
            _ => &[],
        }
    }

    /// Mutable f32 elements. Uploaded elements are copied first.
    pub(super) fn f32_mut(&mut self) -> Result<&mut [f32]> {
        if !matches!(self, Elements::F32(_)) {
            let own = match self.f32()? {
                Cow::Owned(values) => values,
                Cow::Borrowed(values) => reserve::copied(values, "a copy of a tensor")?,
            };
            *self = Elements::F32(own);
        }
        Ok(match self {
            Elements::F32(values) => values,
            _ => &mut [],
        })
    }

    /// Mutable u32 elements. Uploaded elements are copied first.
    pub(super) fn u32_mut(&mut self) -> &mut [u32] {
        if !matches!(self, Elements::U32(_)) {
            *self = Elements::U32(self.u32().into_owned());
        }
        match self {
            Elements::U32(values) => values,
            _ => &mut [],
        }
    }

    /// Mutable bytes. Uploaded elements are copied first.
    pub(super) fn u8_mut(&mut self) -> Result<&mut [u8]> {
        if !matches!(self, Elements::U8(_)) {
            *self = Elements::U8(reserve::copied(self.u8(), "a copy of a tensor")?);
        }
        Ok(match self {
            Elements::U8(values) => values,
            _ => &mut [],
        })
    }
}

/// Stored floating elements as f32, not copied if they are aligned f32 already.
pub(super) fn floats(dtype: DType, bytes: &[u8]) -> Result<Cow<'_, [f32]>> {
    if dtype == DType::F32
        && cfg!(target_endian = "little")
        && let Ok(values) = bytemuck::try_cast_slice(bytes)
    {
        return Ok(Cow::Borrowed(values));
    }
    let mut values = zeros(bytes.len() / dtype.size(), "a tensor as F32")?;
    widen(dtype, bytes, &mut values);
    Ok(Cow::Owned(values))
}

/// `convert` of all values.
fn converted<T: Copy>(values: &[T], convert: impl Fn(T) -> f32) -> Result<Vec<f32>> {
    let mut all = reserve::with_room(values.len(), "a tensor as F32")?;
    all.extend(values.iter().map(|&value| convert(value)));
    Ok(all)
}

/// The elements of `shape`, all zeros.
fn allocate<T: Zeroable>(shape: &[usize]) -> Result<Vec<T>> {
    // A size that overflows is reported as out of memory too.
    let len = shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n)).unwrap_or(usize::MAX);
    zeros(len, &format!("a tensor of {shape:?}"))
}

impl CpuTensor {
    pub(super) fn stored(tensor: &HostTensor) -> Self {
        let memory = Memory::new(Elements::Stored(tensor.dtype(), tensor.bytes().clone()));
        Self::with(tensor.shape(), tensor.dtype(), memory, Weak::new())
    }

    /// Memory for `shape`, from the free list if it has some. Debug builds poison it to reveal
    /// elements that an op leaves unwritten.
    pub(super) fn uninit(shape: &[usize], free: &Arc<FreeList>) -> Result<Self> {
        let memory = match free.take(shape.iter().product()) {
            Some(memory) => memory,
            None => Memory::new(Elements::F32(allocate::<f32>(shape)?)),
        };
        if cfg!(debug_assertions)
            && let Elements::F32(values) = &mut *memory.write()
        {
            values.fill(f32::NAN);
        }
        Ok(Self::with(shape, DType::F32, memory, Arc::downgrade(free)))
    }

    pub(super) fn uninit_u8(shape: &[usize]) -> Result<Self> {
        let memory = Memory::new(Elements::U8(allocate(shape)?));
        Ok(Self::with(shape, DType::U8, memory, Weak::new()))
    }

    fn with(shape: &[usize], dtype: DType, memory: Memory, free: Weak<FreeList>) -> Self {
        let handle = Arc::new(Handle { memory, free });
        Self { shape: shape.to_vec(), dtype, fp8: None, handle }
    }

    /// The same memory, whose values are those that a tensor in FP8 has.
    pub(super) fn in_fp8(self, form: Fp8Form) -> Self {
        Self { dtype: DType::U8, fp8: Some(form), ..self }
    }

    pub(super) fn memory(&self) -> Memory {
        self.handle.memory.clone()
    }

    /// A copy of the current elements.
    pub(super) fn to_host(&self) -> Result<HostTensor> {
        match &*self.handle.memory.read() {
            Elements::Stored(dtype, bytes) => {
                let shared = HostTensor::new(*dtype, &self.shape, bytes.clone());
                Ok(shared.expect("a tensor's memory holds as many elements as its shape says"))
            }
            Elements::F32(values) => HostTensor::try_from_f32(&self.shape, values),
            Elements::U32(values) => HostTensor::try_from_u32(&self.shape, values),
            Elements::U8(values) => HostTensor::try_from_u8(&self.shape, values),
        }
    }
}

impl DeviceTensor for CpuTensor {
    fn shape(&self) -> &[usize] {
        &self.shape
    }

    fn dtype(&self) -> DType {
        self.dtype
    }

    fn fp8(&self) -> Option<Fp8Form> {
        self.fp8
    }

    fn shares(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.handle.memory.0, &other.handle.memory.0)
    }

    fn with_shape(&self, shape: &[usize]) -> Self {
        Self { shape: shape.to_vec(), handle: self.handle.clone(), ..*self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_allocations_are_errors() {
        for shape in [[1 << 30, 1 << 29], [1 << 40, 1 << 10]] {
            let message = CpuTensor::uninit(&shape, &Arc::default()).unwrap_err().to_string();
            assert!(message.starts_with("there is no memory for a tensor of [") && message.contains("MB"), "{message}");
        }
        assert_eq!(CpuTensor::uninit_u8(&[2, 3]).unwrap().to_host().unwrap().to_f32(), [0.0; 6]);
    }

    #[test]
    fn only_unused_memory_is_kept_up_to_the_limit() {
        let free = Arc::new(FreeList::limited(8));
        let tensor = |len| CpuTensor::uninit(&[len], &free).unwrap();
        let lens = || free.locked().iter().map(Memory::len).collect::<Vec<_>>();
        let [large, held] = [9, 2].map(tensor);
        let memory = held.memory();
        drop((large, held));
        assert_eq!(lens(), [0; 0], "too large, and still in use");
        drop(memory);
        let [first, second, third] = [3, 4, 2].map(tensor);
        let memory = Arc::downgrade(&second.memory().0);
        drop((first, second));
        assert_eq!(lens(), [3, 4]);
        drop(third);
        assert_eq!(lens(), [4, 2], "the oldest is freed first");
        let again = tensor(4);
        assert!(std::ptr::eq(memory.as_ptr(), Arc::as_ptr(&again.memory().0)), "free memory was not used");
        assert_eq!(lens(), [2]);
        free.clear();
        assert_eq!(lens(), [0; 0]);
    }
}
