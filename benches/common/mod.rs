//! The problem that benchmarks of planning and of the host's part plan.

use onekv::{Keys, Problem, ProblemSpec};

/// T5-base's heads: `rows` query rows for each input, `keys` of each.
pub fn problem(rows: usize, keys: &[usize]) -> Problem {
    let mut offsets = vec![0];
    offsets.extend(keys.iter().scan(0, |end, keys| {
        *end += keys;
        Some(*end)
    }));
    Problem::new(ProblemSpec {
        heads: 12,
        kv_heads: 12,
        head_dim: 64,
        scale: 1.0,
        softcap: None,
        row_offsets: (0..=keys.len()).map(|input| input * rows).collect(),
        keys: Keys::Packed { offsets },
    })
    .expect("a valid shape")
}
