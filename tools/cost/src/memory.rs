//! What a run occupies of a device's memory, by an engine that has at once [`ENCODE_TOKENS`] and [`places`].

use crate::numbers::{count, first};
use crate::problem::{Method, ModelShape, Workload};
use crate::work::cross_kv_bytes;

/// Encoder tokens that are projected at a time, of a longer input all; bounds the activations of a large batch.
pub const ENCODE_TOKENS: usize = 2048;
/// Memory for what a formula does not see: kernels, their workspaces, work lists, biases.
pub const REST: u64 = 96 << 20;
/// The most prompts per input, and rows at once, that are looked at.
const MOST: u64 = 1 << 20;

/// Inputs, of `prompts` rows each, that must be there for `rows` rows one after the other: one may have begun before them,
/// and one may go on behind them. Where some have fewer rows, and this counts the most, slots may stay empty: memory is
/// kept to what was said before.
pub fn places(inputs: u64, prompts: u64, rows: u64) -> u64 {
    inputs.min(rows.saturating_sub(1).div_ceil(prompts.max(1)) + 1)
}

/// Bytes that a run needs at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// Rows that are decoded at once.
    pub rows: u64,
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
            Method::Pie => cross_kv_bytes(method, model, of_rows),
            Method::Pid => cross_kv_bytes(method, model, of_inputs),
            Method::PidReplicated => {
                let originals = cross_kv_bytes(Method::Pid, model, of_inputs);
                originals.saturating_add(cross_kv_bytes(method, model, of_rows))
            }
        };
        let [d_model, bytes] = [model.d_model, model.element_bytes].map(|n| n as f64);
        let per_token =
            2.0 * 4.0 * d_model + bytes * (2.0 * d_model + 5.0 * model.inner() + model.ffn_inner());
        let together = if method == Method::Pie { of_rows } else { of_inputs }.encoded(method);
        let encoded = together.min((ENCODE_TOKENS as f64).max(work.sequence(method)));
        let (batch, prefill) = (rows as f64, work.prefill(method));
        // Logits are f32. Memory that is kept for reuse is rounded up by at most an eighth.
        let activations = (encoded + batch * prefill + batch) * per_token + 4.0 * batch * model.vocab as f64;
        Self {
            rows,
            weights: model.weight_bytes(),
            cross_kv,
            self_kv: count(batch * (prefill + work.new_tokens as f64) * model.kv_bytes()),
            activations: count(activations * 1.125 + REST as f64),
        }
    }

    pub fn total(&self) -> u64 {
        [self.weights, self.cross_kv, self.self_kv, self.activations].into_iter().fold(0, u64::saturating_add)
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
    first(MOST, |n| !fits(n)).map_or(MOST, |n| n - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::FLAN_T5_XL;
    use crate::work::breakdown;

    /// As many inputs as rows one after the other can be of.
    #[test]
    fn places_by_hand() {
        for (inputs, prompts, rows, want) in [
            (100, 30, 1, 1),
            (100, 30, 2, 2),
            (100, 30, 31, 2),
            (100, 30, 32, 3),
            (100, 1, 7, 7),
            (3, 30, 60, 3),
            (3, 2, u64::MAX, 3),
            (0, 0, u64::MAX, 0),
        ] {
            assert_eq!(places(inputs, prompts, rows), want, "{inputs} {prompts} {rows}");
            // By counting the inputs of every window.
            if rows < 1000 && prompts > 0 {
                let all = inputs * prompts;
                let last = all.saturating_sub(rows);
                let of = |first: u64| ((first + rows).min(all) - 1) / prompts - first / prompts + 1;
                assert_eq!((0..=last).map(of).max(), Some(want), "{inputs} {prompts} {rows}");
            }
        }
    }

    /// Flan-T5-XL in bf16: 2.85 G parameters; K/V of 512 keys in 24 layers of 2 x 2048.
    #[test]
    fn need_of_flan_t5_xl() {
        let work = Workload { inputs: 1, prompts: 64, keys: 512, prompt_tokens: 3, new_tokens: 16 };
        let [pid, pie, copies] = [Method::Pid, Method::Pie, Method::PidReplicated]
            .map(|m| Need::new(m, &FLAN_T5_XL, &work, u64::MAX));
        assert!((5.69e9..5.71e9).contains(&(pid.weights as f64)), "{}", pid.weights);
        assert_eq!(pid.cross_kv, 512 * 2 * 2048 * 2 * 24);
        assert_eq!(pie.cross_kv, 64 * 515 * 2 * 2048 * 2 * 24);
        assert_eq!(copies.cross_kv, 65 * pid.cross_kv);
        assert_eq!(pid.self_kv, 64 * 20 * 2 * 2048 * 2 * 24);
        // 100 inputs, of which 66 rows are of at most 3 at once; with K/V of their own, of as many as rows.
        let [pid, pie] = [Method::Pid, Method::Pie]
            .map(|m| Need::new(m, &FLAN_T5_XL, &Workload { inputs: 100, ..work }, 66));
        assert_eq!((pid.rows, pid.cross_kv), (66, 3 * 512 * 2 * 2048 * 2 * 24));
        assert_eq!((pie.rows, pie.cross_kv), (66, 66 * 515 * 2 * 2048 * 2 * 24));
        // What fits does, one prompt more does not.
        let free = 20_000_000_000;
        let n = most_prompts(Method::Pie, &FLAN_T5_XL, &work, free);
        let of = |prompts| Need::new(Method::Pie, &FLAN_T5_XL, &Workload { prompts, ..work }, u64::MAX);
        assert!(n > 64 && of(n).total() <= free && of(n + 1).total() > free);
        assert_eq!(most_prompts(Method::Pid, &FLAN_T5_XL, &work, 5_000_000_000), 0);
    }

    /// Files and requests may say anything: what no machine has needs more than is free, and does not wrap round to less.
    #[test]
    fn need_that_no_number_holds() {
        let shape =
            ModelShape { heads: 4096, head_dim: 512, decoder_layers: 1024, d_model: 1 << 20, ..FLAN_T5_XL };
        let work = Workload {
            inputs: 1 << 20,
            prompts: 1 << 20,
            keys: 1 << 24,
            prompt_tokens: 3,
            new_tokens: 1 << 20,
        };
        for method in [Method::Pid, Method::Pie, Method::PidReplicated] {
            assert_eq!(Need::new(method, &shape, &work, u64::MAX).total(), u64::MAX);
            let whole = breakdown(method, &shape, &work).total();
            assert_eq!((whole.flops, whole.bytes), (u64::MAX, u64::MAX));
        }
    }
}
