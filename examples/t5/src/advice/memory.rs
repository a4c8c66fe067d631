//! What a run needs of a device's memory, said and checked before anything is loaded.

use anyhow::{Result, bail};

use crate::cost::{self, Method, ModelShape, Workload, count};
use crate::model::ENCODE_TOKENS;
use crate::schedule::places;

/// Memory for what a formula does not see: kernels, their workspaces, work lists, biases.
pub const REST: u64 = 96 << 20;
/// The most prompts per input, and rows at once, that are looked at.
const MOST: u64 = 1 << 20;

/// Bytes that a run needs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub weights: u64,
    /// Cross-attention K/V of all inputs that are there at once, the original of copies included.
    pub cross_kv: u64,
    /// Self-attention K/V of all rows that are decoded at once, at their longest.
    pub self_kv: u64,
    pub activations: u64,
}

impl Need {
    /// Of `work` by one method, at most `batch_rows` rows at once; where inputs and prompts are of unlike length,
    /// `work` has the longest.
    pub fn new(method: Method, model: &ModelShape, work: &Workload, batch_rows: u64) -> Self {
        let rows = batch_rows.min(count(work.rows()));
        // With the prompt in the encoder, or copies, every row has K/V of its own.
        let of_rows = &Workload { inputs: rows, prompts: 1, ..*work };
        let of_inputs = &Workload { inputs: places(work.inputs, work.prompts, batch_rows), ..*work };
        let cross_kv = match method {
            Method::Pie => cost::cross_kv_bytes(method, model, of_rows),
            Method::Pid => cost::cross_kv_bytes(method, model, of_inputs),
            Method::PidReplicated => {
                let originals = cost::cross_kv_bytes(Method::Pid, model, of_inputs);
                originals.saturating_add(cost::cross_kv_bytes(method, model, of_rows))
            }
        };
        let [d_model, d_ff, bytes] = [model.d_model, model.d_ff, model.element_bytes].map(|n| n as f64);
        let of_layer = if model.gated { 3.0 } else { 2.0 } * d_ff;
        let per_token = 2.0 * 4.0 * d_model + bytes * (2.0 * d_model + 5.0 * model.inner() + of_layer);
        let together = cost::encoder_tokens(method, if method == Method::Pie { of_rows } else { of_inputs });
        let encoded = (together as f64).min((ENCODE_TOKENS as f64).max(cost::sequence(method, work)));
        let (rows, prefill) = (rows as f64, cost::prefill(method, work));
        // Logits are f32. Memory that is kept for reuse is rounded up by at most an eighth.
        let activations = (encoded + rows * prefill + rows) * per_token + 4.0 * rows * model.vocab as f64;
        let self_kv = 2.0 * rows * (prefill + work.new_tokens as f64) * model.inner();
        Self {
            weights: model.weight_bytes(),
            cross_kv,
            self_kv: count(self_kv * bytes * model.decoder_layers as f64),
            activations: count(activations * 1.125 + REST as f64),
        }
    }

    pub fn total(&self) -> u64 {
        [self.weights, self.cross_kv, self.self_kv, self.activations].into_iter().fold(0, u64::saturating_add)
    }
}

/// An error where a run needs more than `free`.
pub fn check(method: Method, model: &ModelShape, work: &Workload, batch_rows: u64, free: u64) -> Result<()> {
    let need = Need::new(method, model, work, batch_rows);
    if need.total() <= free {
        return Ok(());
    }
    let fits = match most_rows(method, model, work, free) {
        0 => "not even one prompt fits".to_string(),
        rows => format!("--batch-rows {rows} fits"),
    };
    let [total, weights, cross_kv, self_kv, activations, free] =
        [need.total(), need.weights, need.cross_kv, need.self_kv, need.activations, free].map(gigabytes);
    bail!(
        "{} with {} prompts at once needs {total} of device memory ({weights} of weights, {cross_kv} of cross-attention \
         K/V, {self_kv} of self-attention K/V, {activations} of activations), free: {free}; {fits}",
        method.name(),
        batch_rows.min(count(work.rows())),
    )
}

/// The most prompts per input that fit into `free` bytes, all at once; 0 where the model itself does not.
pub fn most_prompts(method: Method, model: &ModelShape, work: &Workload, free: u64) -> u64 {
    most(|prompts| Need::new(method, model, &Workload { prompts, ..*work }, u64::MAX).total() <= free)
}

/// The most rows at once that fit into `free` bytes, 0 where not even one does.
pub fn most_rows(method: Method, model: &ModelShape, work: &Workload, free: u64) -> u64 {
    most(|rows| Need::new(method, model, work, rows).total() <= free)
}

/// The largest number that `fits`, where every smaller one does.
fn most(fits: impl Fn(u64) -> bool) -> u64 {
    let (mut low, mut high) = (0, MOST + 1);
    while high - low > 1 {
        let middle = (low + high) / 2;
        if fits(middle) { low = middle } else { high = middle }
    }
    low
}

pub fn gigabytes(bytes: u64) -> String {
    format!("{:.2} GB", bytes as f64 / 1e9)
}
