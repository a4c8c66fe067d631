//! Atomics and reductions of every type, in global, shared and generic memory, against plain arithmetic.

mod support;

use half::{bf16, f16};
use support::config;
use support::kernel::*;

/// Old and new value after `op` with the operands, in place.
type Apply = fn(u64, u64, u64) -> u64;

fn float(f: impl Fn(f64, f64) -> f64, x: u64, b: u64) -> u64 {
    (f(f32::from_bits(x as u32).into(), f32::from_bits(b as u32).into()) as f32).to_bits().into()
}

fn f16_sum(x: u64, b: u64) -> u64 {
    let at = |x: u64| f16::from_bits(x as u16).to_f64();
    f16::from_f64(at(x) + at(b)).to_bits().into()
}

fn bf16_sum(x: u64, b: u64) -> u64 {
    let at = |x: u64| bf16::from_bits(x as u16).to_f64();
    bf16::from_f64(at(x) + at(b)).to_bits().into()
}

fn pairs(f: fn(u64, u64) -> u64, x: u64, b: u64) -> u64 {
    f(x & 0xffff, b & 0xffff) | f(x >> 16 & 0xffff, b >> 16 & 0xffff) << 16
}

const M: u64 = 0xffff_ffff;

/// Operation and type, bits, result; compare-and-swap compares with `b` and stores `c`.
const OPERATIONS: &[(&str, u32, Apply)] = &[
    ("add.u32", 32, |x, b, _| (x + b) & M),
    ("add.s32", 32, |x, b, _| (x + b) & M),
    ("add.u64", 64, |x, b, _| (u128::from(x) + u128::from(b)) as u64),
    ("add.f32", 32, |x, b, _| float(|x, b| x + b, x, b)),
    ("add.f64", 64, |x, b, _| (f64::from_bits(x) + f64::from_bits(b)).to_bits()),
    ("add.noftz.f16", 16, |x, b, _| f16_sum(x, b)),
    ("add.noftz.bf16", 16, |x, b, _| bf16_sum(x, b)),
    ("add.noftz.f16x2", 32, |x, b, _| pairs(f16_sum, x, b)),
    ("add.noftz.bf16x2", 32, |x, b, _| pairs(bf16_sum, x, b)),
    ("min.s32", 32, |x, b, _| if (x as i32) < b as i32 { x } else { b }),
    ("max.s32", 32, |x, b, _| if (x as i32) > b as i32 { x } else { b }),
    ("min.u32", 32, |x, b, _| if x < b { x } else { b }),
    ("max.u32", 32, |x, b, _| if x > b { x } else { b }),
    ("min.s64", 64, |x, b, _| if (x as i64) < b as i64 { x } else { b }),
    ("max.s64", 64, |x, b, _| if (x as i64) > b as i64 { x } else { b }),
    ("min.u64", 64, |x, b, _| if x < b { x } else { b }),
    ("max.u64", 64, |x, b, _| if x > b { x } else { b }),
    ("and.b32", 32, |x, b, _| !(!x | !b)),
    ("or.b32", 32, |x, b, _| !(!x & !b)),
    ("xor.b32", 32, |x, b, _| (x | b) - (x & b)),
    ("and.b64", 64, |x, b, _| !(!x | !b)),
    ("or.b64", 64, |x, b, _| !(!x & !b)),
    ("xor.b64", 64, |x, b, _| (x | b) - (x & b)),
    // Round counters.
    ("inc.u32", 32, |x, b, _| if x < b { x + 1 } else { 0 }),
    ("dec.u32", 32, |x, b, _| if (1..=b).contains(&x) { x - 1 } else { b }),
    ("exch.b32", 32, |_, b, _| b),
    ("exch.b64", 64, |_, b, _| b),
    ("cas.b16", 16, |x, b, c| if x == b { c } else { x }),
    ("cas.b32", 32, |x, b, c| if x == b { c } else { x }),
    ("cas.b64", 64, |x, b, c| if x == b { c } else { x }),
];

/// Per thread three 64-bit words: what is in memory, b, c. Numbers that every type adds without NaN.
fn operands(name: &str) -> Vec<u64> {
    let mut words: Vec<u64> = numbers(192)
        .chunks(2)
        .map(|w| (u64::from(w[0]) << 32 | u64::from(w[1])) & 0xbfff_bfff_bfff_bfff | 0x3000_3000_3000_3000)
        .collect();
    for (thread, word) in words.chunks_exact_mut(3).enumerate() {
        match thread % 4 {
            // Equal, as compare-and-swap needs now and then; small, as round counters do.
            0 => word[1] = word[0],
            1 if name.starts_with("inc") || name.starts_with("dec") => word[0] = thread as u64 % 8 / 4,
            2 if name.starts_with("inc") || name.starts_with("dec") => word[1] = 1,
            _ => {}
        }
    }
    words
}

/// A kernel of 32 threads: each puts its first word to memory of `space`, runs the atomic there, and stores
/// what it gave and what memory holds then.
fn body(space: &str, name: &str, bits: u32, reduces: bool) -> String {
    let (register, words) = match bits {
        16 => ("%h", "b16"),
        32 => ("%r1", "b32"),
        _ => ("%s", "b64"),
    };
    let of = |i: u32| if bits == 32 { format!("%r1{i}") } else { format!("{register}{i}") };
    let load: String = (0..3).map(|i| format!("ld.global.{words} {}, [%a3+{}];\n", of(i), 8 * i)).collect();
    let place = match space {
        "global" => "mul.wide.u32 %a5, %t, 8;\nadd.s64 %a5, %a5, %a1;\nadd.s64 %a5, %a5, 512;\n",
        "shared" => "mad.lo.u32 %r5, %t, 8, %r39;\ncvt.u64.u32 %a5, %r5;\n",
        _ => "mad.lo.u32 %r5, %t, 8, %r39;\ncvt.u64.u32 %a5, %r5;\ncvta.shared.u64 %a5, %a5;\n",
    };
    let dot = if space == "generic" { String::new() } else { format!(".{space}") };
    let swap = if name.starts_with("cas") { format!(", {}", of(2)) } else { String::new() };
    let run = match reduces {
        true => format!("red{dot}.{name} [%a5], {}{swap};\n", of(1)),
        false => format!("atom{dot}.{name} {}, [%a5], {}{swap};\n", of(3), of(1)),
    };
    format!(
        "mul.wide.u32 %a3, %t, 24;\nadd.s64 %a3, %a3, %a0;\n{load}{place}mul.wide.u32 %a4, %t, 16;\nadd.s64 %a4, %a4, %a1;\n\
         st{dot}.{words} [%a5], {0};\n{run}ld{dot}.{words} {0}, [%a5];\n{keep}st.global.{words} [%a4+8], {0};\n",
        of(0),
        keep = if reduces { String::new() } else { format!("st.global.{words} [%a4], {};\n", of(3)) }
    )
}

#[test]
fn atomics_and_reductions_of_every_type() {
    for (name, bits, apply) in OPERATIONS {
        let data = operands(name);
        let words: Vec<u32> = data.iter().flat_map(|x| [*x as u32, (x >> 32) as u32]).collect();
        let mask = if *bits == 64 { u64::MAX } else { (1 << bits) - 1 };
        for space in ["global", "shared", "generic"] {
            for reduces in [false, true] {
                if reduces && ["exch", "cas"].iter().any(|n| name.starts_with(n)) {
                    continue;
                }
                let what = format!("{} {space} {name}", if reduces { "red" } else { "atom" });
                // 32 pairs of results, then the atomics' own memory.
                let text = body(space, name, *bits, reduces);
                let got = run(&what, &config(1, 32), &text, NO_MAP, &words, 128 + 64);
                for thread in 0..32 {
                    let at =
                        |i: usize| u64::from(got[4 * thread + i]) | u64::from(got[4 * thread + i + 1]) << 32;
                    let [x, b, c] = [0, 1, 2].map(|i| data[3 * thread + i] & mask);
                    if !reduces {
                        assert_eq!(at(0) & mask, x, "{what}, thread {thread}: old value");
                    }
                    assert_eq!(at(2) & mask, apply(x, b, c), "{what} of {x:#x}, {b:#x}, {c:#x}");
                }
            }
        }
    }
}

#[test]
fn atomics_of_many_blocks_lose_nothing() {
    let adds = "atom.global.add.u32 %r1, [%a1], 1;\nred.global.add.u64 [%a1+8], 1;\nred.global.max.u32 [%a1+4], %t;\n\
                atom.global.inc.u32 %r2, [%a1+16], 99;\n";
    for threads in [1, 4] {
        let mut gpu = gpu("many", adds);
        gpu.options.threads = threads;
        let out = gpu.ints(&[0; 8]);
        gpu.run("run", &config(64, 256), &[&NO_MAP, &out, &out]);
        assert_eq!(gpu.read_ints(out, 5), [64 * 256, 255, 64 * 256, 0, 64 * 256 % 100]);
    }
}

#[test]
fn vectors_are_reduced() {
    let body = "mov.f32 %f0, 0f3F800000;\nmov.f32 %f1, 0f40000000;\nmov.f32 %f2, 0f40400000;\nmov.f32 %f3, 0f40800000;\n\
                red.global.add.v4.f32 [%a1], {%f0, %f1, %f2, %f3};\nred.global.add.v2.f32 [%a1+16], {%f2, %f3};\n";
    let got = run("red.v4", &config(1, 32), body, NO_MAP, &[0], 6);
    assert_eq!(got, [32f32, 64.0, 96.0, 128.0, 96.0, 128.0].map(f32::to_bits));
}

/// 9.7.13.5: elements of each thread's own, in place: what was there, what is there then.
#[test]
fn vectors_of_every_type() {
    const FLOAT: Apply = |x, b, _| float(|x, b| x + b, x, b);
    const F16_MAX: Apply = |x, b, _| {
        let at = |x: u64| f16::from_bits(x as u16).to_f64();
        if at(x) > at(b) { x } else { b }
    };
    const BF16_MIN: Apply = |x, b, _| {
        let at = |x: u64| bf16::from_bits(x as u16).to_f64();
        if at(x) < at(b) { x } else { b }
    };
    let table: &[(&str, u32, usize, Apply)] = &[
        ("add.v2.f32", 32, 2, FLOAT),
        ("add.v4.f32", 32, 4, FLOAT),
        ("add.noftz.v2.f16", 16, 2, |x, b, _| f16_sum(x, b)),
        ("max.noftz.v4.f16", 16, 4, F16_MAX),
        ("add.noftz.v8.bf16", 16, 8, |x, b, _| bf16_sum(x, b)),
        ("min.noftz.v8.bf16", 16, 8, BF16_MIN),
        ("add.noftz.v4.f16x2", 32, 4, |x, b, _| pairs(f16_sum, x, b)),
        ("max.noftz.v2.f16x2", 32, 2, |x, b, _| pairs(|x, b| F16_MAX(x, b, 0), x, b)),
        ("min.noftz.v4.bf16x2", 32, 4, |x, b, _| pairs(|x, b| BF16_MIN(x, b, 0), x, b)),
    ];
    for (name, bits, count, apply) in table {
        let list = |first: usize| {
            let register = |i: usize| if *bits == 16 { format!("%x{i}") } else { format!("%y{i}") };
            format!("{{{}}}", (first..first + count).map(register).collect::<Vec<_>>().join(", "))
        };
        // Loads have at most 16 bytes: halves go through pairs.
        let bytes = *bits as usize / 8 * count;
        let each = |what: &str, i: usize, from: usize| {
            let (register, ty) =
                if *bits == 16 { (format!("%x{i}"), "b16") } else { (format!("%y{i}"), "b32") };
            let at = format!("[{{at}}+{}]", from + i % count * *bits as usize / 8);
            match what {
                "ld" => format!("ld.global.{ty} {register}, {at};\n"),
                _ => format!("st.global.{ty} {at}, {register};\n"),
            }
        };
        let all = |what: &str, first: usize, at: &str| -> String {
            (first..first + count).map(|i| each(what, i, 16)).collect::<String>().replace("{at}", at)
        };
        // Each thread: 16 bytes of memory and 16 of operands, then its results.
        for (form, space) in [("red", ".global"), ("red", ""), ("atom", ".global"), ("atom", "")] {
            let run_it = match form {
                "red" => format!("red{space}.{name} [%a4], {};\n", list(0)),
                _ => {
                    format!("atom{space}.{name} {}, [%a4], {};\n{}", list(8), list(0), all("st", 8, "%a4"))
                }
            };
            let body = ".reg .b16 %x<16>;\n.reg .b32 %y<16>;\nmul.wide.u32 %a3, %t, 32;\n\
                        add.s64 %a4, %a3, %a1;\nadd.s64 %a3, %a3, %a0;\n"
                .to_owned()
                + &(0..8)
                    .map(|i| {
                        format!("ld.global.b32 %y15, [%a3+{0}];\nst.global.b32 [%a4+{0}], %y15;\n", 4 * i)
                    })
                    .collect::<String>()
                + &all("ld", 0, "%a3")
                + &run_it;
            let input: Vec<u32> = numbers(256).iter().map(|x| x & 0xbfff_bfff | 0x3000_3000).collect();
            let got = run(&format!("{form}{space}.{name}"), &config(1, 32), &body, NO_MAP, &input, 256);
            for thread in 0..32 {
                let old = bytes_of(&input[8 * thread..8 * thread + 8]);
                let new = bytes_of(&got[8 * thread..8 * thread + 8]);
                let word = |from: &[u8], i: usize| {
                    let part = &from[i * *bits as usize / 8..][..*bits as usize / 8];
                    part.iter().rev().fold(0u64, |x, byte| x << 8 | u64::from(*byte))
                };
                for i in 0..*count {
                    let want = apply(word(&old, i), word(&old[16..], i), 0);
                    assert_eq!(word(&new, i), want, "{form}{space}.{name}, thread {thread}, element {i}");
                }
                let behind = if form == "atom" { &old[..bytes] } else { &old[16..16 + bytes] };
                assert_eq!(&new[16..16 + bytes], behind, "{form}{space}.{name}, thread {thread}: before");
            }
        }
    }
    let body = "cvt.u64.u32 %a5, %r39;\ncvta.shared.u64 %a5, %a5;\nred.add.v2.f32 [%a5], {%f0, %f1};\n";
    assert_eq!(fault("shared vector", 32, body).kind, ptxsim::FaultKind::IllegalInstruction);
}

/// 9.7.13.7: every thread of both blocks reduces into the other block's tile, which waits by its mbarrier alone.
#[test]
fn asynchronous_reductions_reach_the_other_block() {
    const HELD: u64 = 0x1_0000_0005;
    let wide = |name: &str| name.ends_with("64");
    type Reduce = fn(u64, u64) -> u64;
    let table: &[(&str, Reduce)] = &[
        ("inc.u32", |x, b| if x >= b { 0 } else { x + 1 }),
        ("dec.u32", |x, b| if x == 0 || x > b { b } else { x - 1 }),
        ("min.u32", u64::min),
        ("max.u32", u64::max),
        ("min.s32", |x, b| (x as i32).min(b as i32) as u32 as u64),
        ("max.s32", |x, b| (x as i32).max(b as i32) as u32 as u64),
        ("and.b32", |x, b| x & b),
        ("or.b32", |x, b| x | b),
        ("xor.b32", |x, b| x ^ b),
        ("add.u32", |x, b| (x + b) & M),
        ("add.s32", |x, b| (x + b) & M),
        ("add.u64", u64::wrapping_add),
    ];
    for (name, apply) in table {
        let bytes = if wide(name) { 8 } else { 4 };
        let (register, ty) = if wide(name) { ("%s1", "b64") } else { ("%r10", "b32") };
        let setup = format!(
            "mov.u32 %r0, %cluster_ctarank;\nxor.b32 %r2, %r0, 1;\nmov.u32 %r4, bar;\n\
             mapa.shared::cluster.u32 %r3, %r39, %r2;\nmapa.shared::cluster.u32 %r5, %r4, %r2;\n\
             mul.wide.u32 %a3, %t, 8;\nadd.s64 %a3, %a3, %a0;\nld.global.{ty} {register}, [%a3];\n\
             @%p9 st.shared.b64 [%r39], {HELD};\n"
        );
        let expect = first(&format!("mbarrier.arrive.expect_tx.shared.b64 %s0, [bar], {};\n", 64 * bytes));
        let send = format!(
            "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.{name} [%r3], {register}, [%r5];\n"
        );
        let out = "mul.wide.u32 %a4, %r0, 8;\nadd.s64 %a4, %a4, %a1;\n@%p9 ld.shared.b64 %s2, [%r39];\n\
                   @%p9 st.global.b64 [%a4], %s2;\n";
        let body = setup + &init(1) + &expect + CLUSTER_SYNC + &send + &wait(0) + out;
        let operands: Vec<u32> = numbers(128).iter().map(|x| x % 1000).collect();
        let of = |thread: usize| match wide(name) {
            true => u64::from(operands[2 * thread]) | u64::from(operands[2 * thread + 1]) << 32,
            false => operands[2 * thread].into(),
        };
        let got = run(name, &cluster(2, 64), &body, NO_MAP, &operands, 4);
        let held = if wide(name) { HELD } else { HELD & M };
        // Warps and lanes go in order here; only inc and dec would tell another one.
        let want = (0..64).fold(held, |x, thread| apply(x, of(thread)));
        for block in got.chunks(2) {
            let got = u64::from(block[0]) | u64::from(block[1]) << 32;
            assert_eq!(got, if wide(name) { want } else { HELD & !M | want }, "{name}");
        }
        let fails = |what: &str, body: &str| {
            let gpu = gpu(what, body);
            let (from, to) = (gpu.ints(&operands), gpu.ints(&[0; 4]));
            gpu.fault("run", &cluster(2, 64), &[&NO_MAP, &from, &to]).kind
        };
        let own = body.replace("%r3, %r39, %r2", "%r3, %r39, %r0").replace("%r5, %r4, %r2", "%r5, %r4, %r0");
        assert_eq!(fails("own block", &own), ptxsim::FaultKind::IllegalInstruction, "{name}");
        let other = body.replace("%r5, %r4, %r2", "%r5, %r4, %r0");
        assert_eq!(fails("own mbarrier", &other), ptxsim::FaultKind::IllegalInstruction, "{name}");
        let early = fails("no wait", &body.replace(&wait(0), ""));
        let gone = matches!(early, ptxsim::FaultKind::Race | ptxsim::FaultKind::OutOfBounds);
        assert!(gone, "{name}: {early:?}");
        let unwritten =
            fails("unwritten", &body.replace(&format!("@%p9 st.shared.b64 [%r39], {HELD};\n"), ""));
        assert_eq!(unwritten, ptxsim::FaultKind::Uninitialized, "{name}");
    }
}
