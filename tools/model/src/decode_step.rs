//! A decode step of Flan-T5-XL by the example's own products, kernel by kernel.

use onekv_cost::{Method, ModelShape, Workload, decode_step_bytes};

use crate::assumptions::Assumptions;
use crate::attention::Prediction;

/// A kernel of a step.
enum Kernel {
    /// Waits for the one before. Microseconds beside its gap, and of those the ones in which memory has nothing to do.
    Small(f64, f64),
    /// Bytes of weights, which it begins to fetch while the kernels before it run.
    Product(f64),
}
use Kernel::{Product, Small};

pub struct Step {
    pub us: f64,
    /// Weights and K/V at a copy's rate.
    pub floor_us: f64,
    pub kernels: usize,
}

/// Of the step that is aimed at.
pub const WORK: Workload = Workload { inputs: 1, prompts: 64, keys: 512, prompt_tokens: 3, new_tokens: 16 };

/// `attention`: the cross-attention of a layer with its combination and its gap.
pub fn step(model: &ModelShape, attention: &Prediction, a: &Assumptions) -> Step {
    let bytes = |rows: u64, columns: u64| Product((rows * columns * model.element_bytes) as f64);
    let (d, inner) = (model.d_model, model.heads * model.head_dim);
    let idle = |us| Small(us, us);
    let small = || idle(a.t5_small_us);
    // A load for the place of a row, one of K, then V: each waits for the one before.
    let loads = 2.0 + a.t5_positions / a.t5_loads_in_flight;
    let self_attention = idle(a.idle_latency_us * loads + a.t5_small_us);
    let cross_us = attention.us - a.gap_us;
    let cross_attention = Small(cross_us, (cross_us - attention.floor_us).max(0.0));
    // Norms are in the products on either side of them.
    let layer = [
        bytes(3 * inner, d),
        self_attention,
        bytes(inner, d),
        bytes(inner, d),
        cross_attention,
        bytes(inner, d),
        bytes(if model.gated { 2 } else { 1 } * model.d_ff, d),
        bytes(model.d_ff, d),
    ];
    let ends = [small(), bytes(model.vocab, d), small()];
    let layers = model.decoder_layers as usize;
    let bytes_per_us = a.memory_bytes_per_s * a.copy_part * 1e-6;
    // Since a product had its last weights: memory is free for those of the next.
    let (mut us, mut free_us) = (0.0, 0.0);
    for kernel in (0..layers).flat_map(|_| &layer).chain(&ends) {
        match kernel {
            Small(takes_us, idle_us) => {
                us += a.gap_us + takes_us;
                free_us += a.gap_us + idle_us;
            }
            Product(bytes) => {
                let early = (free_us + a.gap_us).min(bytes.min(a.t5_ring_bytes) / bytes_per_us);
                us += a.gap_us + bytes / bytes_per_us - early + a.t5_product_end_us;
                free_us = a.t5_product_end_us;
            }
        }
    }
    let floor = decode_step_bytes(Method::Pid, model, &WORK) as f64;
    Step { us, floor_us: floor / bytes_per_us, kernels: layers * layer.len() + ends.len() }
}
