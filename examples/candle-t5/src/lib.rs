//! T5 on candle's tensors, its cross-attention by onekv: one K/V per input, layer and decoder, however many prompts.
#![allow(missing_docs, reason = "no interface: the program's parts")]

pub mod bias;
pub mod load;
pub mod measure;
pub mod model;
