//! Plain Rust: the executable meaning of every verb, and what runs where there is no GPU.
