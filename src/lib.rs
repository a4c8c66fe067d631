//! Shared cross-attention.
