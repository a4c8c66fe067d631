//! Decoder-only models behind a shared prefix: a document is prefilled once, and many prompts read its one K/V.
//!
//! Attention over the document is shared cross-attention: the query rows of all sequences over one input. Attention over
//! what each sequence has behind it is private. [`onekv::cpu::merge_states`] joins the two by their LSE.
//!
//! # Why that is exact
//!
//! Softmax over the keys of a sequence is a sum over keys divided by a sum over keys, and a sum does not depend on how its
//! terms are grouped: the document's part and the rest, each normalised by itself, are weighted by their shares of the
//! denominator, `exp(lse)`. Nothing is approximated; only rounding differs.
//!
//! Positions do not disturb it. RoPE turns each q and k by its own absolute position, and their product then depends on the
//! distance alone. A key of the document is turned once, before it is cached, and every sequence has the document at the
//! same positions, from 0 on: it is the same key for all of them. What a sequence has behind it goes on at the document's
//! length. From that follows what may not be shared:
//!
//! - K/V of a document that was computed at other positions, or behind other tokens: from the second layer on they depend on
//!   all that stands before.
//! - A part of a document's K/V from its middle. A sequence reads all of the prefix or is not behind it; nothing here takes
//!   a length.
//! - Positions of a batch that was padded on the left. Nothing is padded here: prompts are ragged, and a sequence's answer
//!   does not depend on how long the others are.
#![allow(missing_docs, reason = "no interface: the program's parts")]

pub mod arguments;
pub mod attention;
pub mod cache;
pub mod config;
pub mod generate;
pub mod load;
pub mod model;
pub mod report;
pub mod rope;
