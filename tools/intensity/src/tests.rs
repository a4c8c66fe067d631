use super::{Batch, Heads};

/// T5-base's cross-attention of 8 prompts over 512 keys in f32, and a Llama's of 8 sequences behind them.
#[test]
fn the_formula_is_that_of_the_batches() {
    let formula = |[heads, kv_heads, head_dim]: [usize; 3], bytes, batches: &[[usize; 3]]| {
        let batches: Vec<Batch> = batches.iter().copied().map(Batch).collect();
        Heads { heads, kv_heads, head_dim }.formula(bytes, &batches)
    };
    let t5 = formula([12, 12, 64], 4, &[[1, 8, 512]]);
    assert_eq!(t5, r#"{"flops": 12582912, "model_bytes": 3194880}"#);
    let llama = formula([32, 8, 64], 2, &[[1, 8, 512], [8, 1, 32]]);
    assert_eq!(llama, r#"{"flops": 35651584, "model_bytes": 1638400}"#);
}

#[test]
fn a_batch_is_three_numbers() {
    assert_eq!("1x8x512".parse::<Batch>().unwrap().0, [1, 8, 512]);
    for text in ["", "1x8", "1x8x512x2", "1x-8x512", "1x8x"] {
        let Err(error) = text.parse::<Batch>() else { panic!("{text:?} is taken") };
        assert_eq!(error.to_string(), "allowed: inputs, rows and keys of each, as 1x8x512");
    }
}
