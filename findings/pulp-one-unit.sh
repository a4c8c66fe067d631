#!/usr/bin/env bash
# pulp's code for every instruction set is one codegen unit, however many units rustc is asked for.
#
# Versions: pulp 0.22.3, rustc of the machine (1.95.0), x86-64, binutils. Nothing is run: the instruction sets need not be there.
# One would expect: kernels for AVX2 and for AVX-512, which call pulp in modules of their own (pulp::x86::v3, pulp::x86::v4), in
#   different units, compiled side by side; codegen-units is how many.
# What happens: pulp's functions with target features are generic and #[inline], so that each lies in the unit of its caller. All
#   are called by Arch::dispatch, which is inlined into one function of the program: one unit has them all, and one core compiles
#   them while the others wait. A method that is not inlined, of a trait that the type of the registers has, is placed by that type:
#   called in between, it makes a unit of each. Seen on 2026-11-29, with -C codegen-units=64:
#     straight: V3 and V4 in the same unit
#     by a method of the registers: V3 and V4 in different units
# Who is hit: whoever has kernels of a size in pulp, each time they are compiled: where they were 730 of a library's 970 KB, it
#   took 51 s on two cores, and 58 s of processor time.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
export CARGO_HOME="$tmp/cargo" CARGO_TARGET_DIR="$tmp/target" CARGO_TERM_COLOR=never CARGO_INCREMENTAL=0
unset RUSTFLAGS
mkdir -p "$tmp/see/src"
cd "$tmp/see"

cat > Cargo.toml <<'TOML'
[package]
name = "see"
version = "0.1.0"
edition = "2024"

[features]
between = []

[dependencies]
pulp = { version = "=0.22.3", features = ["x86-v4"] }

[profile.dev]
opt-level = 2
debug = false
codegen-units = 64

[profile.dev.package.pulp]
opt-level = 0
TOML
cat > src/lib.rs <<'RS'
use pulp::{Arch, Simd, WithSimd};

struct Squares<'a>(&'a mut [f32]);

impl WithSimd for Squares<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let (body, tail) = S::as_mut_simd_f32s(self.0);
        body.iter_mut().for_each(|x| *x = simd.mul_f32s(*x, *x));
        tail.iter_mut().for_each(|x| *x *= *x);
    }
}

trait Between: Simd {
    #[inline(never)]
    fn between(self, op: Squares<'_>) {
        self.vectorize(op);
    }
}

impl<S: Simd> Between for S {}

struct Outer<'a>(&'a mut [f32]);

impl WithSimd for Outer<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        simd.between(Squares(self.0));
    }
}

pub fn squares(x: &mut [f32]) {
    if cfg!(feature = "between") { Arch::new().dispatch(Outer(x)) } else { Arch::new().dispatch(Squares(x)) }
}
RS

# units: of the objects in the library, those that have code of V3, and of V4, with `Squares` in it.
units() {
    cargo build --quiet "$@"
    nm -A -S -C "$CARGO_TARGET_DIR"/debug/libsee.rlib 2>/dev/null >"$tmp/symbols"
    local v3 v4
    v3=$(grep 'V3::vectorize::imp' "$tmp/symbols" | cut -d: -f2 | sort -u)
    v4=$(grep 'V4::vectorize::imp' "$tmp/symbols" | cut -d: -f2 | sort -u)
    if [ -z "$v3" ] || [ -z "$v4" ]; then
        echo "V3 or V4 have no code of their own"
    elif [ "$(comm -12 <(echo "$v3") <(echo "$v4"))" = "$v3" ] && [ "$v3" = "$v4" ]; then
        echo "V3 and V4 in the same unit"
    elif [ -n "$(comm -3 <(echo "$v3") <(echo "$v4"))" ]; then
        echo "V3 and V4 in different units"
    fi
}
seen="straight: $(units)
by a method of the registers: $(units --features between)"
echo "$seen"
[ "$seen" = "straight: V3 and V4 in the same unit
by a method of the registers: V3 and V4 in different units" ] || {
    echo "changed: not what was seen on 2026-11-29" >&2
    exit 1
}
