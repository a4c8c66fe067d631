//! Shared cross-attention: one encoder K/V, many query rows.
//!
//! When one input has many prompts, encode the input once, put the prompts in the decoder and let
//! every layer's cross-attention read ONE shared K/V ("prompt-in-decoder", arXiv 2403.13112). The
//! arithmetic per byte of K/V then grows with the number of query rows, and so does the speed.
//!
//! ```
//! use onekv::{Keys, Problem, ProblemSpec, SharedKv, View, cpu};
//!
//! # fn main() -> onekv::Result<()> {
//! // 30 query rows over one input of 512 keys, 12 heads of 64.
//! let problem = Problem::new(ProblemSpec {
//!     heads: 12,
//!     kv_heads: 12,
//!     head_dim: 64,
//!     scale: 1.0,
//!     softcap: None,
//!     row_offsets: vec![0, 30],
//!     keys: Keys::Packed { offsets: vec![0, 512] },
//! })?;
//! let (q, k, v) = (vec![0.1; 30 * 768], vec![0.2; 512 * 768], vec![0.3; 512 * 768]);
//! let mut out = vec![0.0; 30 * 768];
//! cpu::attend(
//!     &problem,
//!     View::contiguous(problem.query_shape(), &q[..]),
//!     SharedKv::contiguous(problem.kv_shape(), &k[..], &v[..]),
//!     View::contiguous(problem.query_shape(), &mut out[..]),
//!     None,
//! )?;
//! assert!(out.iter().all(|x: &f32| (x - 0.3).abs() < 1e-5));
//! # Ok(())
//! # }
//! ```
//!
//! Writing an engine? Read the [`guide`]: layouts, folding, streams, LSE of other libraries, calls of flash-attn and FlashInfer.
//!
//! - [`Problem`]: what is attended to what, validated once.
//! - [`View`]: an operand, memory of the host or of a device with a shape and strides.
//! - [`cpu`]: the fused CPU backend, and [`cpu::merge_states`].
//! - [`e4m3`]: K and V in 8 bits, for cards from 9.0 on.
//! - [`reference`](mod@reference): the definition in f64, for tests.
//! - [`plan`]: from a problem and a card to a launch.
//! - `cuda`, with the feature of that name: queues on streams, prepared plans, recordings.
//! - [`interop`]: candle's tensors, and handles of other crates.
//!
//! Features, compilers and drivers: [`building`].

#![cfg_attr(docsrs, feature(doc_cfg))]

mod architecture;
#[doc = include_str!("building.md")]
pub mod building {}
pub mod cpu;
#[cfg(feature = "cuda")]
pub mod cuda;
mod dtype;
pub mod e4m3;
mod error;
#[doc = include_str!("guide.md")]
pub mod guide {}
pub mod interop;
pub mod plan;
mod problem;
pub mod reference;
mod shape;
mod span;
mod view;

#[cfg(feature = "cuda")]
pub use cudarc;
pub use dtype::{DType, Element};
pub use error::{Error, Result};
pub use problem::{Input, Keys, Problem, ProblemSpec};
pub use shape::{Shape, Strides};
pub use view::{MAX_HEAD_DIM, MAX_HEADS, PartialState, SharedKv, View};

/// The README's program, which `cargo test` compiles, and runs where there is a card, real or virtual.
#[cfg(all(doctest, feature = "cuda"))]
#[doc = include_str!("../README.md")]
struct Readme;
