//! The three networks, written against [`crate::backend::Backend`], and the files that give their sizes.

pub mod config;
