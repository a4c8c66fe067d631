//! The modifiers of `cvt`.

use crate::float::{BF16, E2M1, E2M3, E3M2, E4M3, E5M2, F16, Rounding, TF32};
use crate::ir::{Conversion, Kind};

fn kind(name: &str) -> Option<(Kind, bool)> {
    Some(match name {
        "u8" => (Kind::Unsigned(8), false),
        "u16" => (Kind::Unsigned(16), false),
        "u32" => (Kind::Unsigned(32), false),
        "u64" => (Kind::Unsigned(64), false),
        "s8" => (Kind::Signed(8), false),
        "s16" => (Kind::Signed(16), false),
        "s32" => (Kind::Signed(32), false),
        "s64" => (Kind::Signed(64), false),
        "f32" => (Kind::F32, false),
        "f64" => (Kind::F64, false),
        "f16" => (Kind::Small(F16), false),
        "bf16" => (Kind::Small(BF16), false),
        "tf32" => (Kind::Small(TF32), false),
        "f16x2" => (Kind::Small(F16), true),
        "bf16x2" => (Kind::Small(BF16), true),
        "e4m3x2" => (Kind::Small(E4M3), true),
        "e5m2x2" => (Kind::Small(E5M2), true),
        "e2m1x2" => (Kind::Small(E2M1), true),
        "e2m3x2" => (Kind::Small(E2M3), true),
        "e3m2x2" => (Kind::Small(E3M2), true),
        "ue8m0x2" => (Kind::Exponent, true),
        _ => return None,
    })
}

/// Decodes the modifiers after `cvt`; `None` when unsupported.
pub fn conversion(modifiers: &[&str]) -> Option<Conversion> {
    let [flags @ .., to, from] = modifiers else { return None };
    let (to, pair) = kind(to)?;
    let (from, from_pair) = kind(from)?;
    // Pairs are made of two f32 or of a pair.
    if pair && !(from_pair || from == Kind::F32) || from_pair && !pair {
        return None;
    }
    let mut how = Conversion {
        to,
        from,
        rounding: Rounding::Nearest,
        integral: false,
        saturate: false,
        finite: false,
        relu: false,
        flush: false,
        pair,
    };
    for flag in flags {
        match *flag {
            "rn" => {}
            "rna" => how.rounding = Rounding::NearestAway,
            "rz" => how.rounding = Rounding::Zero,
            "rm" => how.rounding = Rounding::Down,
            "rp" => how.rounding = Rounding::Up,
            "rni" | "rzi" | "rmi" | "rpi" => {
                how.integral = true;
                how.rounding = match *flag {
                    "rni" => Rounding::Nearest,
                    "rzi" => Rounding::Zero,
                    "rmi" => Rounding::Down,
                    _ => Rounding::Up,
                };
            }
            "sat" => how.saturate = true,
            "satfinite" => how.finite = true,
            "relu" => how.relu = true,
            "ftz" => how.flush = true,
            _ => return None,
        }
    }
    Some(how)
}
