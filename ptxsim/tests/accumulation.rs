//! Sums of products that tell how they are added, worked out by hand. The PTX ISA leaves it open ("mma", precision).

mod support;

use half::{bf16, f16};
use ptxsim::Accumulation::{self, Sequential, Truncate};
use support::fragments::*;
use support::{Gpu, config};

const LARGE: f64 = 16_777_216.0; // 2^24

fn code(ty: Ty, x: f64) -> u32 {
    match ty {
        F16 => f16::from_f64(x).to_bits().into(),
        Bf16 => bf16::from_f64(x).to_bits().into(),
        Tf32 => (x as f32).to_bits(),
        _ => (0..256).find(|code| ty.value(*code) == x).unwrap(),
    }
}

/// A product at place `.0` of k.
type Place = (usize, f64, f64);

/// Bits of C plus the products by one `mma`, the same in every row and column.
fn bits(card: &str, mma: Accumulation, (k, ty, kind): (usize, Ty, &str), c: f64, products: &[Place]) -> u32 {
    let (bytes, elements) = (ty.bytes(), 16 * k / 32);
    // An accumulator's registers: as many as one has bytes.
    let (a_words, d_words) = (elements * bytes / 4, if kind == "f16" { 2 } else { 4 });
    let (mut a, mut b) = (vec![0; k], vec![0; k]);
    products.iter().for_each(|(at, x, y)| (a[*at], b[*at]) = (code(ty, *x), code(ty, *y)));

    let mut body = registers(true, "%a", a_words, "%p_a", 32)
        + &registers(true, "%b", a_words / 2, "%p_b", 32)
        + &registers(true, "%c", d_words, "%p_c", 32);
    let name = ty.name();
    body += &format!(
        "mma.sync.aligned.m16n8k{k}.row.col.{kind}.{name}.{name}.{kind} {}, {}, {}, {};\n",
        list("%c", 0..d_words),
        list("%a", 0..a_words),
        list("%b", 0..a_words / 2),
        list("%c", 0..d_words)
    );
    body += &registers(false, "%c", d_words, "%p_d", 32);
    let target = if bytes == 1 { "sm_89" } else { "sm_80" };
    let parameters = [("a", true), ("b", true), ("c", true), ("d", true)];
    let text = kernel(target, &parameters, ".reg .b32 %a<4>, %b<2>, %c<4>;", &body);
    let mut gpu = Gpu::new(card, &text);
    gpu.options.mma = mma;
    let pa = gpu.ints(&fragments(bytes, 32, elements, |lane, i| a[place_a(bytes, elements, lane, i).1]));
    let pb = gpu.ints(&fragments(bytes, 32, elements / 2, |lane, i| b[row_of_b(bytes, lane, i)]));
    let pc = gpu.ints(&fragments(d_words, 32, 4, |_, _| accumulator(kind, c)));
    let pd = gpu.space(4 * 32 * d_words as u64);
    gpu.run("run", &config(1, 32), &[&pa, &pb, &pc, &pd]);
    let words = gpu.read_ints(pd, 32 * d_words);
    assert!(words.iter().all(|word| *word == words[0]), "{words:x?}");
    words[0]
}

/// The value of [`bits`] on an a100 and on an h200, one after the other and cut.
fn sums(how: (usize, Ty, &str), c: f64, products: &[Place]) -> [f64; 3] {
    let sum = |card, mma| unpack(how.2, bits(card, mma, how, c, products), 0);
    let sequential = sum("a100", Sequential);
    assert_eq!(sequential, sum("h200", Sequential), "no card's matter");
    [sequential, sum("a100", Truncate), sum("h200", Truncate)]
}

fn all(k: usize, x: f64) -> Vec<Place> {
    (0..k).map(|at| (at, x, 1.0)).collect()
}

#[test]
fn small_addends_beside_a_large_one() {
    for ty in [F16, Bf16] {
        let how = (16, ty, "f32");
        // 2^24 + 1 is no f32; eight or sixteen at once come to one. Halves are bit 25 below 2^24, quarters bit 26.
        assert_eq!(sums(how, LARGE, &all(16, 1.0)), [LARGE, LARGE + 16.0, LARGE + 16.0]);
        assert_eq!(sums(how, LARGE, &all(16, 0.5)), [LARGE, LARGE, LARGE + 8.0]);
        assert_eq!(sums(how, LARGE, &all(16, 0.25)), [LARGE; 3]);
        // 2^24 + 3 to the nearest, and toward zero.
        assert_eq!(sums(how, LARGE, &[(5, 3.0, 1.0)]), [LARGE + 4.0, LARGE + 2.0, LARGE + 2.0]);
        assert_eq!(sums(how, -LARGE, &[(5, 3.0, -1.0)]), [-LARGE - 4.0, -LARGE - 2.0, -LARGE - 2.0]);
    }
}

#[test]
fn large_products_that_cancel() {
    for (ty, k, half) in [(F16, 16, 8), (Bf16, 16, 8), (Tf32, 8, 4)] {
        let how = (k, ty, "f32");
        // Together with both, or cut off before the second comes.
        let products = [(0, 4096.0, 4096.0), (1, 1.0, 1.0), (half, -4096.0, 4096.0)];
        assert_eq!(sums(how, 0.0, &products), [0.0, 0.0, 1.0]);
        let products = [(0, 4096.0, 4096.0), (1, 1.0, 1.0), (half - 1, -4096.0, 4096.0)];
        assert_eq!(sums(how, 0.0, &products), [0.0, 1.0, 1.0]);
        // What comes after is lost beside them, too: 2^26 keeps down to 4, or 2.
        let large = [(0, 8192.0, 8192.0), (1, -8192.0, 8192.0)];
        assert_eq!(sums(how, 0.0, &[large[0], large[1], (2, 1.0, 1.0)]), [1.0, 0.0, 0.0]);
        assert_eq!(sums(how, 0.0, &[large[0], large[1], (2, 2.0, -1.0)]), [-2.0, 0.0, -2.0]);
        assert_eq!(sums(how, 1.0, &large), [0.0; 3]);
        // 2.25 x 2^24 counts as 2^24.
        let large = [(0, 6144.0, 6144.0), (1, -6144.0, 6144.0)];
        assert_eq!(sums(how, 0.0, &[large[0], large[1], (2, 1.0, 1.0)]), [1.0; 3]);
        assert_eq!(sums(how, 0.0, &[large[0], large[1], (2, 0.5, 1.0)]), [0.5, 0.0, 0.5]);
    }
}

#[test]
fn sums_of_8_bit_floats() {
    for ty in [E4M3, E5M2] {
        let sum = |card, mma, c, products: &[Place]| {
            f64::from(f32::from_bits(bits(card, mma, (32, ty, "f32"), c, products)))
        };
        let cards = ["rtx4090", "h200", "rtx5090"];
        let sums = |c, products: &[Place]| cards.map(|card| sum(card, Truncate, c, products));
        // 2^14 keeps down to 2.
        let large = [(0, 256.0, 64.0), (1, -256.0, 64.0)];
        assert_eq!(sums(0.0, &[large[0], large[1], (2, 1.0, 1.0)]), [0.0, 0.0, 1.0]);
        assert_eq!(sums(0.0, &[large[0], large[1], (2, 2.0, 1.0)]), [2.0; 3]);
        assert_eq!(sum("h200", Sequential, 0.0, &[large[0], large[1], (2, 1.0, 1.0)]), 1.0);
        // Sixteen at once, or 32.
        assert_eq!(sums(0.0, &[large[0], large[1], (15, 1.0, 1.0)]), [0.0, 0.0, 1.0]);
        assert_eq!(sums(0.0, &[large[0], large[1], (16, 1.0, 1.0)]), [1.0, 0.0, 1.0]);
        // The accumulator by itself.
        let fraction = |bits: i32| 1.0 + 2f64.powi(-bits);
        assert_eq!(sums(fraction(13), &[]), [fraction(13); 3]);
        assert_eq!(sums(fraction(14), &[]), [1.0, 1.0, fraction(14)]);
    }
}

/// Rounded to the nearest, and once.
#[test]
fn sums_of_f16() {
    let how = (16, F16, "f16");
    assert_eq!(sums(how, 2048.0, &[(0, 3.0, 1.0)]), [2052.0; 3]);
    assert_eq!(sums(how, 2048.0, &[(0, 1.0, 1.0), (8, 1.0, 1.0)]), [2050.0; 3]);
    assert_eq!(sums(how, 0.0, &[(0, 256.0, 256.0)])[1..], [f64::INFINITY; 2]);
}

#[test]
fn limits_of_f32() {
    let of = |c: f64, products: &[Place]| {
        let bits = ["a100", "h200"].map(|card| bits(card, Truncate, (16, Bf16, "f32"), c, products));
        assert_eq!(bits[0], bits[1]);
        bits[0]
    };
    let (infinite, nan) = (f32::INFINITY.to_bits(), 0x7fff_ffff);
    assert_eq!(of(1.0, &[(3, f64::INFINITY, 2.0)]), infinite);
    assert_eq!(of(f64::NEG_INFINITY, &[(3, 1.0, 2.0)]), f32::NEG_INFINITY.to_bits());
    assert_eq!(of(f64::INFINITY, &[(3, f64::INFINITY, -1.0)]), nan);
    assert_eq!(of(1.0, &[(3, f64::INFINITY, 0.0)]), nan);
    assert_eq!(of(1.0, &[(3, f64::NAN, 1.0)]), nan);
    assert_eq!(of(f64::NAN, &[]), nan);
    // The last bit of the largest f32 is 2^104.
    let most = f64::from(f32::MAX);
    assert_eq!(of(most, &[(3, 2f64.powi(103), 1.0)]), f32::MAX.to_bits());
    assert_eq!(of(most, &[(3, 2f64.powi(52), 2f64.powi(52))]), infinite);
    assert_eq!(of(0.0, &[(3, -(2f64.powi(100)), 2f64.powi(100))]), f32::NEG_INFINITY.to_bits());
    // The last bit of the least is 2^-149.
    assert_eq!(of(0.0, &[(3, -1.5 * 2f64.powi(-100), 2f64.powi(-49))]), 0x8000_0001);
    assert_eq!(of(0.0, &[(3, 2f64.powi(-100), 2f64.powi(-50))]), 0);
    assert_eq!(of(f64::from(f32::from_bits(1)), &[(3, 2f64.powi(-75), 2f64.powi(-74))]), 2);
    let zeros: Vec<Place> = (0..16).map(|at| (at, -0.0, 1.0)).collect();
    assert_eq!((of(-0.0, &zeros), of(0.0, &zeros)), (0x8000_0000, 0));
}

/// `wmma`, in each column another product beside the two large ones.
#[test]
fn wmma_adds_as_mma_does() {
    let text = kernel(
        "sm_80",
        &[("a", false), ("b", false), ("d", false)],
        ".reg .b32 %a<8>, %b<8>;\n.reg .f32 %c<8>;",
        &format!(
            "wmma.load.a.sync.aligned.row.m16n16k16.global.f16 {0}, [%p_a];\n\
             wmma.load.b.sync.aligned.row.m16n16k16.global.f16 {1}, [%p_b];\n\
             wmma.load.c.sync.aligned.row.m16n16k16.global.f32 {2}, [%p_d];\n\
             wmma.mma.sync.aligned.row.row.m16n16k16.f32.f32 {2}, {0}, {1}, {2};\n\
             wmma.store.d.sync.aligned.row.m16n16k16.global.f32 [%p_d], {2};\n",
            list("%a", 0..8),
            list("%b", 0..8),
            list("%c", 0..8)
        ),
    );
    let pairs = |at: &dyn Fn(usize, usize) -> f64| -> Vec<u32> {
        let code = |i: usize| code(F16, at(i / 16, i % 16));
        (0..128).map(|i| code(2 * i) | code(2 * i + 1) << 16).collect()
    };
    let a =
        pairs(&|_, k| [(0, 4096.0), (1, 1.0), (8, -4096.0)].iter().find(|x| x.0 == k).map_or(0.0, |x| x.1));
    let b = pairs(&|k, column| if k == 1 { column as f64 } else { 4096.0 });
    let sums = |card, mma| {
        let mut gpu = Gpu::new(card, &text);
        gpu.options.mma = mma;
        let (pa, pb, pd) = (gpu.ints(&a), gpu.ints(&b), gpu.ints(&[0; 256]));
        gpu.run("run", &config(1, 32), &[&pa, &pb, &pd]);
        gpu.read_floats(pd, 256)
    };
    let each = |of: fn(u32) -> u32| -> Vec<f32> { (0..256).map(|i| of(i % 16) as f32).collect() };
    // 2^24 + 1 and its like go to the even neighbour of 2^24 / 2, or toward zero, or never come about.
    assert_eq!(sums("a100", Sequential), each(|j| if j % 4 == 3 { j + 1 } else { j & !1 }));
    assert_eq!(sums("a100", Truncate), each(|j| j & !1));
    assert_eq!(sums("h200", Truncate), each(|j| j));
}
