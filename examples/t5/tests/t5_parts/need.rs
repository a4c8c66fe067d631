//! What a run needs of a device's memory.

use t5::cost::{Method, Workload};

use crate::load::Shape;
use crate::memory::{Need, check, gigabytes, most_prompts};

/// Flan-T5-XL in bf16: 2.85 G parameters; K/V of 512 keys in 24 layers of 2 x 2048.
#[test]
fn need_of_flan_t5_xl() {
    let model = Shape::FlanXl.config().unwrap().cost_shape(64, 2);
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
    let error = check(Method::Pie, &model, &work, u64::MAX, pie.total() - 1).unwrap_err().to_string();
    let sizes = (gigabytes(pie.total()), gigabytes(pie.total() - 1));
    assert!(
        error.contains(&sizes.0) && error.contains(&format!("free: {}; --batch-rows 63 fits", sizes.1)),
        "{error}"
    );
    assert_eq!(most_prompts(Method::Pid, &model, &work, 5_000_000_000), 0);
}

/// Files and requests may say anything: what no machine has needs more than is free, and does not wrap round to less.
#[test]
fn need_that_no_number_holds() {
    let mut shape = Shape::FlanXl.config().unwrap().cost_shape(512, 4);
    (shape.heads, shape.decoder_layers, shape.d_model) = (4096, 1024, 1 << 20);
    let work =
        Workload { inputs: 1 << 20, prompts: 1 << 20, keys: 1 << 24, prompt_tokens: 3, new_tokens: 1 << 20 };
    for method in [Method::Pid, Method::Pie, Method::PidReplicated] {
        assert_eq!(Need::new(method, &shape, &work, u64::MAX).total(), u64::MAX);
        let error = check(method, &shape, &work, u64::MAX, 1 << 37).unwrap_err().to_string();
        assert!(error.contains("needs 18446744073.71 GB of device memory"), "{error}");
        let whole = t5::cost::breakdown(method, &shape, &work).total();
        assert_eq!((whole.flops, whole.bytes), (u64::MAX, u64::MAX));
    }
}
