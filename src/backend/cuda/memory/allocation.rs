//! Allocations: parts of an arena or of a recording's layout that a tensor lies in.

use super::arena::{Arena, Home};
use super::layout::{self, Layout};
use super::pageable::Pageable;
use crate::error::{Error, Result};
use cudarc::driver::DriverError;
use std::sync::Arc;

/// A part of an arena or of a recording's layout, which is returned when it is dropped.
#[derive(Debug)]
pub(crate) struct Allocation {
    /// The address, or the index of the part in the layout.
    at: u64,
    bytes: u64,
    owner: Owner,
}

#[derive(Debug)]
enum Owner {
    Arena(Arc<Arena>),
    Layout(Arc<Layout>),
    /// A part of another allocation, which frees the memory.
    Allocation(#[expect(dead_code, reason = "it holds the memory")] Arc<Allocation>),
    /// No memory: the bytes are written when they are copied.
    Pageable(Pageable),
}

impl Allocation {
    /// `bytes` of an arena, aligned to 16 at least, with undefined contents.
    pub(crate) fn new(arena: &Arc<Arena>, bytes: usize) -> Result<Arc<Self>, DriverError> {
        let bytes = arena.rounded(bytes as u64);
        Ok(Arc::new(Self { at: arena.take(bytes)?, bytes, owner: Owner::Arena(arena.clone()) }))
    }

    /// `bytes` of a recording's memory, which has an address once the layout has.
    pub(crate) fn planned(layout: &Arc<Layout>, bytes: usize) -> Arc<Self> {
        let (at, bytes) = layout.take(bytes as u64);
        Arc::new(Self { at, bytes, owner: Owner::Layout(layout.clone()) })
    }

    /// `bytes` of another allocation of an arena, from its byte `at` on.
    pub(crate) fn part(of: &Arc<Self>, at: u64, bytes: u64) -> Result<Arc<Self>> {
        debug_assert!(at + bytes <= of.bytes);
        Ok(Arc::new(Self { at: of.address()? + at, bytes, owner: Owner::Allocation(of.clone()) }))
    }

    /// `bytes` in pageable memory, which have no address.
    pub(crate) fn pageable(bytes: usize) -> Arc<Self> {
        Arc::new(Self { at: 0, bytes: bytes as u64, owner: Owner::Pageable(Pageable::default()) })
    }

    /// The bytes in pageable memory.
    pub(crate) fn as_pageable(&self) -> Option<&Pageable> {
        match &self.owner {
            Owner::Pageable(pageable) => Some(pageable),
            Owner::Arena(_) | Owner::Layout(_) | Owner::Allocation(_) => None,
        }
    }

    /// The memory that it lies in.
    pub(crate) fn home(&self) -> Home {
        match &self.owner {
            Owner::Pageable(_) => Home::Pageable,
            Owner::Arena(arena) => arena.home,
            Owner::Layout(_) | Owner::Allocation(_) => Home::Device,
        }
    }

    /// Its location.
    pub(crate) fn location(&self) -> Location {
        match &self.owner {
            Owner::Arena(_) | Owner::Allocation(_) => Location::Address(self.at),
            Owner::Pageable(_) => Location::Nowhere,
            Owner::Layout(layout) => Location::Part(layout.clone(), self.at),
        }
    }

    /// Its device address; an error in a recording that is still being made.
    pub(crate) fn address(&self) -> Result<u64> {
        self.location().address()
    }

    /// Its size, which may exceed the requested size.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes as usize
    }

    /// True if it is a part of a recording's memory.
    pub(crate) fn is_recorded(&self) -> bool {
        matches!(self.owner, Owner::Layout(_))
    }

    /// True if it is a part of `layout`.
    pub(crate) fn belongs_to(&self, layout: &Arc<Layout>) -> bool {
        matches!(&self.owner, Owner::Layout(owner) if Arc::ptr_eq(owner, layout))
    }
}

impl Drop for Allocation {
    fn drop(&mut self) {
        match &self.owner {
            Owner::Arena(arena) => arena.give(self.at, self.bytes),
            Owner::Layout(layout) => layout.give(self.at),
            Owner::Allocation(_) | Owner::Pageable(_) => {}
        }
    }
}

/// The device address of an allocation, or its index in a layout that may have no memory yet. It
/// keeps no allocation alive.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    Address(u64),
    Part(Arc<Layout>, u64),
    /// In pageable memory.
    Nowhere,
}

impl Location {
    /// The address; an error in a recording that is still being made.
    pub(crate) fn address(&self) -> Result<u64> {
        match self {
            Location::Address(address) => Ok(*address),
            Location::Part(layout, index) => layout.address(*index),
            Location::Nowhere => Err(Error::internal("pageable memory has no device address")),
        }
    }

    /// True if the address is, or will be, a multiple of `alignment`: a power of two that divides
    /// the alignment of a layout's parts.
    pub(crate) fn is_aligned(&self, alignment: u64) -> bool {
        debug_assert!(layout::ALIGNMENT.is_multiple_of(alignment));
        match self {
            Location::Address(address) => address.is_multiple_of(alignment),
            Location::Part(..) | Location::Nowhere => true,
        }
    }
}
