//! What is said of a run that needs more memory than a device has.

use onekv_cost::{FLAN_T5_XL, Method, ModelShape, Need, Workload};

use crate::explain::check_memory;
use crate::load::Shape;

#[test]
fn a_refusal_names_sizes_and_what_fits() {
    let model = Shape::FlanXl.config().unwrap().cost_shape(64, 2);
    assert_eq!(model, FLAN_T5_XL);
    let work = Workload { inputs: 1, prompts: 64, keys: 512, prompt_tokens: 3, new_tokens: 16 };
    let check = |free| check_memory(Method::Pie, &model, &work, u64::MAX, free);
    let total = Need::new(Method::Pie, &model, &work, u64::MAX).total();
    check(total).unwrap();
    let error = check(total - 1).unwrap_err().to_string();
    let size = format!("{:.2} GB", total as f64 / 1e9);
    assert!(
        error.starts_with(&format!("PIE with 64 prompts at once needs {size} of device memory")),
        "{error}"
    );
    assert!(error.ends_with(&format!("free: {size}; --batch-rows 63 fits")), "{error}");
    let error = check(1 << 30).unwrap_err().to_string();
    assert!(error.ends_with("free: 1.07 GB; not even one prompt fits"), "{error}");
    let huge = ModelShape { vocab: u64::MAX, d_model: u64::MAX, ..model };
    let error = check_memory(Method::Pid, &huge, &work, u64::MAX, 1 << 37).unwrap_err().to_string();
    assert!(error.contains("needs 18446744073.71 GB of device memory"), "{error}");
}
