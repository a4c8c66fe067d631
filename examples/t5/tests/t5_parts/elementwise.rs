//! Elementwise mathematics of the CPU backend.

use pulp::Arch;

use crate::backend::cpu::elementwise::{activate, argmax, exp};
use crate::config::Activation;

#[test]
fn exp_and_activations_agree_with_f64() {
    for i in -8000..=8000 {
        let x = i as f32 / 100.0;
        let y = f64::from(x);
        assert!((f64::from(exp(x)) / y.exp() - 1.0).abs() < 4e-7, "exp({x})");
        let u = (2.0 / std::f64::consts::PI).sqrt() * (y + 0.044715 * y * y * y);
        for (activation, want) in [
            (Activation::Relu, y.max(0.0)),
            (Activation::Gelu, 0.5 * y * libm::erfc(-y * std::f64::consts::FRAC_1_SQRT_2)),
            (Activation::GeluTanh, 0.5 * y * (1.0 + u.tanh())),
            (Activation::Silu, y / (1.0 + (-y).exp())),
        ] {
            let mut got = [x];
            activate(Arch::new(), &mut got, activation);
            let error = (f64::from(got[0]) - want).abs();
            assert!(error < 1e-6 * y.abs().max(1.0), "{activation:?}({x}) is {}, not {want}", got[0]);
        }
    }
}

/// Chunks of it are looked at together: the largest in each place of them, alone, twice, and beside NaN.
#[test]
fn argmax_is_the_first_of_the_largest() {
    for len in [1, 2, 63, 64, 65, 200] {
        for at in 0..len {
            let mut x: Vec<f32> = (0..len).map(|i| -1.0 - (i * 7 % 5) as f32).collect();
            x[at] = 1.0;
            assert_eq!(argmax(Arch::new(), &x), at, "of {len}");
            x[len - 1] = 1.0;
            assert_eq!(argmax(Arch::new(), &x), at, "the first of two of {len}");
            x[len / 2] = f32::NAN;
            let want = if len / 2 == at { len - 1 } else { at };
            if len > 1 && !x[want].is_nan() {
                assert_eq!(argmax(Arch::new(), &x), want, "beside NaN of {len}");
            }
        }
    }
    assert_eq!(argmax(Arch::new(), &[f32::NAN, f32::NEG_INFINITY, f32::NEG_INFINITY]), 1);
}
