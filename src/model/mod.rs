//! The three networks.

pub mod config;
