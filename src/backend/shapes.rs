//! The shape rules of the verbs, once for every backend.
