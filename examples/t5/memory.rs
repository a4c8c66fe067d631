//! What a run needs of a device's memory, said and checked before anything is loaded.

use anyhow::{Result, bail};
use onekv::cost::{self, Method, ModelShape, Workload};

use crate::model::ENCODE_TOKENS;
use crate::report::name;
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
        let inner = model.heads * model.head_dim;
        let rows = batch_rows.min(work.inputs * work.prompts);
        let prompt = 1 + if method == Method::Pie { 0 } else { work.prompt_tokens };
        // With the prompt in the encoder, or copies, every row has K/V of its own.
        let of_rows = &Workload { inputs: rows, prompts: 1, ..*work };
        let of_inputs = &Workload { inputs: places(work.inputs, work.prompts, batch_rows), ..*work };
        let cross_kv = match method {
            Method::Pie => cost::cross_kv_bytes(method, model, of_rows),
            Method::Pid => cost::cross_kv_bytes(method, model, of_inputs),
            Method::PidReplicated => {
                cost::cross_kv_bytes(Method::Pid, model, of_inputs)
                    + cost::cross_kv_bytes(method, model, of_rows)
            }
        };
        let per_token = 2 * 4 * model.d_model
            + model.element_bytes
                * (2 * model.d_model + 5 * inner + model.d_ff * if model.gated { 3 } else { 2 });
        let sequence = work.keys + if method == Method::Pie { work.prompt_tokens } else { 0 };
        let together = cost::encoder_tokens(method, if method == Method::Pie { of_rows } else { of_inputs });
        let encoded = together.min((ENCODE_TOKENS as u64).max(sequence));
        // Logits are f32. Memory that is kept for reuse is rounded up by at most an eighth.
        let activations = (encoded + rows * prompt + rows) * per_token + 4 * rows * model.vocab;
        Self {
            weights: model.weight_bytes(),
            cross_kv,
            self_kv: 2
                * rows
                * (prompt + work.new_tokens)
                * inner
                * model.element_bytes
                * model.decoder_layers,
            activations: activations + activations / 8 + REST,
        }
    }

    pub fn total(&self) -> u64 {
        self.weights + self.cross_kv + self.self_kv + self.activations
    }

    /// An error where less than this is free.
    pub fn check(
        &self,
        method: Method,
        model: &ModelShape,
        work: &Workload,
        batch_rows: u64,
        free: u64,
    ) -> Result<()> {
        if self.total() <= free {
            return Ok(());
        }
        let fits = match most_rows(method, model, work, free) {
            0 => "not even one prompt fits".to_string(),
            rows => format!("--batch-rows {rows} fits"),
        };
        bail!(
            "{} with {} prompts at once needs {} of device memory ({} of weights, {} of cross-attention K/V, {} of \
             self-attention K/V, {} of activations), free: {}; {fits}",
            name(method),
            batch_rows.min(work.inputs * work.prompts),
            gigabytes(self.total()),
            gigabytes(self.weights),
            gigabytes(self.cross_kv),
            gigabytes(self.self_kv),
            gigabytes(self.activations),
            gigabytes(free),
        )
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::load::Shape;

    /// Flan-T5-XL in bf16: 2.85 G parameters; K/V of 512 keys in 24 layers of 2 x 2048.
    #[test]
    fn need_of_flan_t5_xl() {
        let model = Shape::FlanXl.config().cost_shape(64, 2);
        let work = Workload { inputs: 1, prompts: 64, keys: 512, prompt_tokens: 3, new_tokens: 16 };
        let [pid, pie, copies] =
            [Method::Pid, Method::Pie, Method::PidReplicated].map(|m| Need::new(m, &model, &work, u64::MAX));
        assert!((5.69e9..5.71e9).contains(&(pid.weights as f64)), "{}", pid.weights);
        assert_eq!(pid.cross_kv, 512 * 2 * 2048 * 2 * 24);
        assert_eq!(pie.cross_kv, 64 * 515 * 2 * 2048 * 2 * 24);
        assert_eq!(copies.cross_kv, 65 * pid.cross_kv);
        assert_eq!(pid.self_kv, 64 * 20 * 2 * 2048 * 2 * 24);
        // What fits does, one prompt more does not, and the error names both sizes.
        let free = 20_000_000_000;
        let n = most_prompts(Method::Pie, &model, &work, free);
        let of = |prompts| Need::new(Method::Pie, &model, &Workload { prompts, ..work }, u64::MAX);
        assert!(n > 64 && of(n).total() <= free && of(n + 1).total() > free);
        let error = pie.check(Method::Pie, &model, &work, u64::MAX, pie.total() - 1).unwrap_err().to_string();
        let sizes = (gigabytes(pie.total()), gigabytes(pie.total() - 1));
        assert!(
            error.contains(&sizes.0) && error.contains(&format!("free: {}; --batch-rows 63 fits", sizes.1)),
            "{error}"
        );
        assert_eq!(most_prompts(Method::Pid, &model, &work, 5_000_000_000), 0);
    }
}
