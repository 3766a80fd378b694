//! From a prompt to a picture, in the order in which it happens.

pub mod noise;
pub mod prompt;
pub mod request;
pub mod schedule;
