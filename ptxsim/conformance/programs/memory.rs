//! Loads, stores and atomics of every space, and votes.

use super::parts::Target::{Sm80, Sm90a};
use super::parts::{Program, bytes_of, f16, program, words, words_of};
use std::fmt::Write;

/// Rows of "space and modifiers: type".
const LOADS: &str = "
global: b8 | global: u8 | global: s8 | global: u16 | global: s16 | global: b32 | global: b64 | global: v2.u8 | global: v4.u8 | global: v2.b16
global: v4.u16 | global: v2.b32 | global: v4.b32 | global: v2.b64 | global.ca: b32 | global.cg: v4.b32 | global.cs: b32 | global.cs: v2.b64
global.lu: b32 | global.cv: b32 | global.nc: b32 | global.nc: v2.b32 | global.nc: v4.b32 | global.nc: v2.b64 | global.nc: u8
global.ca.nc: b32 | global.cg.nc: v4.b32 | volatile.global: b32 | volatile.global: v4.b32 | relaxed.gpu.global: b32 | acquire.gpu.global: b64
relaxed.cta.global: v2.b32 | acquire.sys.global: b32 | global.L2::128B: b32 | global.nc.L2::256B: v4.b32 | global.L1::no_allocate: b32
global.nc.L1::no_allocate: v4.b32 | global.L1::evict_last: b32
shared: u8 | shared: s8 | shared: s16 | shared: b32 | shared: b64 | shared: v2.b32 | shared: v4.b32 | shared: v2.b64 | volatile.shared: b32
local: s8 | local: u16 | local: b32 | local: b64 | local: v2.b32 | local: v4.b32
const: u8 | const: s16 | const: b32 | const: b64 | const: v2.b32 | const: v4.b32
";

const STORES: &str = "
global: b8 | global: u16 | global: b32 | global: b64 | global: v2.u8 | global: v4.u8 | global: v2.b16 | global: v4.b16 | global: v2.b32
global: v4.b32 | global: v2.b64 | global.wb: b32 | global.cg: v4.b32 | global.cs: b32 | global.cs: v4.b32 | global.wt: b32
volatile.global: b32 | relaxed.gpu.global: b32 | release.gpu.global: b64 | release.sys.global: b32 | global.L1::no_allocate: v4.b32
shared: b8 | shared: b16 | shared: b32 | shared: b64 | shared: v2.b32 | shared: v4.b32 | shared: v2.b64 | volatile.shared: b32
local: b8 | local: b16 | local: b32 | local: b64 | local: v2.b32 | local: v4.b32
";

/// Each thread's own word: "operation type".
const ATOMICS: &str = "
add.u32 | add.s32 | add.u64 | min.u32 | min.s32 | max.u32 | max.s32 | min.u64 | max.u64 | min.s64 | max.s64 | exch.b32 | exch.b64
cas.b32 | cas.b64 | and.b32 | or.b32 | xor.b32 | and.b64 | or.b64 | xor.b64 | inc.u32 | dec.u32
add.f32 | add.f64 | add.noftz.f16x2
";

pub fn all() -> Vec<Program> {
    let rows = |table: &'static str| table.split(['|', '\n']).map(str::trim).filter(|row| !row.is_empty());
    let mut programs: Vec<Program> = rows(LOADS).map(load).collect();
    programs.extend(rows(STORES).map(store));
    for row in rows(ATOMICS) {
        programs.push(own_word("atom", "global", row));
        programs.push(own_word("atom", "shared", row));
        // What several swaps leave in one word depends on their order, and a reduction has no swaps.
        if !row.starts_with("exch") && !row.starts_with("cas") {
            programs.push(own_word("red", "global", row));
            programs.push(one_word("atom", row));
            programs.push(one_word("red", row));
        }
    }
    for scope in ["relaxed.cta", "acq_rel.gpu", "acquire.gpu", "release.sys"] {
        programs.push(own_word(&format!("atom.{scope}"), "global", "add.u32"));
    }
    programs.extend(votes());
    programs
}

/// A type such as `v2.b32`.
struct Vector {
    elements: usize,
    bits: usize,
    signed: bool,
    /// A register for one element.
    letter: char,
}

impl Vector {
    fn parse(ty: &str) -> Self {
        let (elements, scalar) = match ty.split_once('.') {
            Some(("v2", scalar)) => (2, scalar),
            Some((_, scalar)) => (4, scalar),
            None => (1, ty),
        };
        let bits = scalar[1..].parse().expect("the bits of a type");
        let letter = match bits {
            64 => 'l',
            16 => 'h',
            _ => 'r',
        };
        Self { elements, bits, signed: scalar.starts_with('s'), letter }
    }

    fn bytes(&self) -> usize {
        self.elements * self.bits / 8
    }

    /// The registers that hold it.
    fn operand(&self) -> String {
        let one = |i: usize| format!("%{}{}", self.letter, i + 4);
        let all: Vec<String> = (0..self.elements).map(one).collect();
        if self.elements == 1 { all.concat() } else { format!("{{{}}}", all.join(", ")) }
    }

    /// Element `i` as 64 bits of a register, extended as a load does.
    fn extended(&self, bytes: &[u8]) -> u64 {
        let bits = bytes.iter().rev().fold(0, |bits, byte| bits << 8 | u64::from(*byte));
        let unused = 64 - self.bits;
        if self.signed { ((bits << unused) as i64 >> unused) as u64 } else { bits }
    }
}

/// An opcode of a row, "modifiers: type".
fn opcode(row: &str) -> (&str, &str) {
    row.split_once(": ").expect("a row of a space and a type")
}

/// Fills 16 bytes per thread of a space from the input; where thread `%t`'s `bytes` lie in it then.
fn space(modifiers: &str, bytes: usize) -> (String, String, &'static str) {
    let mine = "mad.wide.u32 %l0, %t, 16, %in;\nld.global.v4.b32 {%r4, %r5, %r6, %r7}, [%l0];\n";
    if modifiers.contains("shared") {
        let fill = format!(
            "{mine}mad.lo.u32 %r8, %t, 16, %tile;\nst.shared.v4.b32 [%r8], {{%r4, %r5, %r6, %r7}};\nbar.sync 0;\n\
             mad.lo.u32 %r9, %t, {bytes}, %tile;\n"
        );
        (fill, "[%r9]".to_owned(), "")
    } else if modifiers.contains("local") {
        (
            format!("{mine}st.local.v4.b32 [mine], {{%r4, %r5, %r6, %r7}};\n"),
            "[mine]".to_owned(),
            ".local .align 16 .b8 mine[16];\n",
        )
    } else if modifiers.contains("const") {
        (format!("mov.u64 %l0, table;\nmad.wide.u32 %l0, %t, {bytes}, %l0;\n"), "[%l0]".to_owned(), "")
    } else {
        (format!("mad.wide.u32 %l0, %t, {bytes}, %in;\n"), "[%l0]".to_owned(), "")
    }
}

fn load(row: &str) -> Program {
    let (modifiers, ty) = opcode(row);
    let vector = Vector::parse(ty);
    let (fill, address, declared) = space(modifiers, vector.bytes());
    let mut body = format!("{declared}{fill}ld.{modifiers}.{ty} {}, {address};\n", vector.operand());
    let _ = writeln!(body, "mad.wide.u32 %l1, %t, {}, %out;", 8 * vector.elements);
    for i in 0..vector.elements {
        let register = format!("%{}{}", vector.letter, i + 4);
        let _ = match (vector.letter, vector.signed) {
            ('l', _) => writeln!(body, "mov.b64 %l2, {register};"),
            ('h', true) => writeln!(body, "cvt.s64.s16 %l2, {register};"),
            ('h', false) => writeln!(body, "cvt.u64.u16 %l2, {register};"),
            (_, true) => writeln!(body, "cvt.s64.s32 %l2, {register};"),
            _ => writeln!(body, "cvt.u64.u32 %l2, {register};"),
        };
        let _ = writeln!(body, "st.global.b64 [%l1+{}], %l2;", 8 * i);
    }
    let mut program = program(&format!("ld.{modifiers}.{ty}"), Sm80, &body);
    if modifiers == "const" {
        let table: Vec<String> = words(128).iter().map(u32::to_string).collect();
        let declared = format!(".const .align 16 .b32 table[128] = {{{}}};\n.visible", table.join(", "));
        program.ptx = program.ptx.replacen(".visible", &declared, 1);
    }
    let memory = bytes_of(&words(128));
    // Local memory is each thread's own: it holds 16 bytes, of which the first are loaded.
    let each = if modifiers == "local" { 16 } else { vector.bytes() };
    let element = |x: usize| {
        let (thread, i) = (x / vector.elements, x % vector.elements);
        let at = thread * each + i * vector.bits / 8;
        vector.extended(&memory[at..at + vector.bits / 8])
    };
    let expected = (0..32 * vector.elements).map(element).flat_map(|x| [x as u32, (x >> 32) as u32]);
    let expected = expected.collect();
    program.expecting(expected)
}

/// Stores what was loaded from the input: to the results, or over 16 bytes of zeros in another space, and from there to the
/// results.
fn store(row: &str) -> Program {
    let (modifiers, ty) = opcode(row);
    let vector = Vector::parse(ty);
    let bytes = vector.bytes();
    let operand = vector.operand();
    let mut body = format!(
        "mad.wide.u32 %l0, %t, {bytes}, %in;\nld.global.{ty} {operand}, [%l0];\nmad.wide.u32 %l1, %t, {bytes}, %out;\n"
    );
    let expected;
    if modifiers.contains("global") {
        let _ = writeln!(body, "st.{modifiers}.{ty} [%l1], {operand};");
        expected = bytes_of(&words(1024))[..32 * bytes].to_vec();
    } else {
        let (space, address, declared) = match modifiers.contains("shared") {
            true => ("shared", "[%r20]", "mad.lo.u32 %r20, %t, 16, %tile;\n"),
            false => ("local", "[mine]", ".local .align 16 .b8 mine[16];\n"),
        };
        body = format!("{declared}{body}");
        let _ = writeln!(
            body,
            "mov.u32 %r12, 0;\nst.{space}.v4.b32 {address}, {{%r12, %r12, %r12, %r12}};\nst.{modifiers}.{ty} {address}, {operand};\n\
             ld.{space}.v4.b32 {{%r12, %r13, %r14, %r15}}, {address};\nmad.wide.u32 %l1, %t, 16, %out;\n\
             st.global.v4.b32 [%l1], {{%r12, %r13, %r14, %r15}};"
        );
        let input = bytes_of(&words(1024));
        expected = input.chunks(bytes).take(32).flat_map(|mine| [mine, &[0; 16][bytes..]].concat()).collect();
    }
    program(&format!("st.{modifiers}.{ty}"), Sm80, &body).expecting(words_of(&expected))
}

/// Bits of an atomic's type.
fn bits(row: &str) -> usize {
    if row.ends_with("64") { 64 } else { 32 }
}

/// Value `x` of an atomic's operands, with no pattern: small for `inc`, `dec` and floats, whose sums are exact.
fn atomic_value(row: &str, x: u64) -> u64 {
    let mixed = (x + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let number = (mixed >> 40) as i32 % 16 - 8;
    match row.rsplit_once('.').map_or("", |(_, ty)| ty) {
        "f32" => (number as f32).to_bits().into(),
        "f64" => f64::from(number).to_bits(),
        "f16x2" => u64::from(f16(number) | f16(7 - number) << 16),
        "u32" if row.starts_with("inc") || row.starts_with("dec") => mixed >> 60,
        _ if bits(row) == 64 => mixed ^ x.rotate_right(9),
        _ => mixed >> 32,
    }
}

/// What memory holds after an atomic, worked out without the simulator.
fn apply(row: &str, x: u64, b: u64, c: u64) -> u64 {
    let (operation, _) = row.split_once('.').expect("an operation and a type");
    let (ty, low) = (row.rsplit_once('.').map_or("", |(_, ty)| ty), |x: u64| x as u32);
    let half = |x: u64| (-400..=400).find(|n| f16(*n) == x as u32 & 0xffff).expect("a small f16");
    match (operation, ty) {
        ("add", "f32") => (f32::from_bits(low(x)) + f32::from_bits(low(b))).to_bits().into(),
        ("add", "f64") => (f64::from_bits(x) + f64::from_bits(b)).to_bits(),
        ("add", "f16x2") => u64::from(f16(half(x) + half(b)) | f16(half(x >> 16) + half(b >> 16)) << 16),
        ("add", "u64") => x.wrapping_add(b),
        ("add", _) => low(x).wrapping_add(low(b)).into(),
        ("min", "s32") => low((low(x) as i32).min(low(b) as i32) as u64).into(),
        ("max", "s32") => low((low(x) as i32).max(low(b) as i32) as u64).into(),
        ("min", "s64") => (x as i64).min(b as i64) as u64,
        ("max", "s64") => (x as i64).max(b as i64) as u64,
        ("min", _) => x.min(b),
        ("max", _) => x.max(b),
        ("exch", _) => b,
        ("cas", _) if x == b => c,
        ("cas", _) => x,
        ("and", _) => x & b,
        ("or", _) => x | b,
        ("xor", _) => x ^ b,
        ("inc", _) if x >= b => 0,
        ("inc", _) => x + 1,
        ("dec", _) if x == 0 || x > b => b,
        _ => x - 1,
    }
}

/// Values as a program stores them.
fn pack(row: &str, values: impl IntoIterator<Item = u64>) -> Vec<u32> {
    let all = values.into_iter();
    match bits(row) {
        64 => all.flat_map(|x| [x as u32, (x >> 32) as u32]).collect(),
        _ => all.map(|x| x as u32).collect(),
    }
}

/// Each thread's atomic on its own word; results are the words, then what `atom` returned.
fn own_word(kind: &str, space: &str, row: &str) -> Program {
    let (bits, bytes) = (bits(row), bits(row) / 8);
    let letter = if bits == 64 { 'l' } else { 'r' };
    let (held, old, b, c) =
        (format!("%{letter}4"), format!("%{letter}5"), format!("%{letter}6"), format!("%{letter}7"));
    let (returns, swaps) = (kind != "red" && !kind.starts_with("red."), row.starts_with("cas"));
    let target = if returns { format!("{old}, ") } else { String::new() };
    let last = if swaps { format!(", {c}") } else { String::new() };
    let mut body = format!("mad.wide.u32 %l0, %t, {bytes}, %in;\nmad.wide.u32 %l1, %t, {bytes}, %out;\n");
    for (i, register) in [&held, &b, &c].into_iter().enumerate() {
        let _ = writeln!(body, "ld.global.b{bits} {register}, [%l0+{}];", 32 * bytes * i);
    }
    let address = if space == "shared" { "[%r20]" } else { "[%l1]" };
    let _ = writeln!(
        body,
        "mad.lo.u32 %r20, %t, {bytes}, %tile;\nst.{space}.b{bits} {address}, {held};\n\
         {kind}.{space}.{row} {target}{address}, {b}{last};\nld.{space}.b{bits} {held}, {address};\n\
         st.global.b{bits} [%l1], {held};"
    );
    if returns {
        let _ = writeln!(body, "st.global.b{bits} [%l1+{}], {old};", 32 * bytes);
    }
    let value = |i: u64| atomic_value(row, i);
    let held = |t: u64| value(t);
    // Every other comparison holds, and some counts have come to their bound.
    let counts = row.starts_with("inc") || row.starts_with("dec");
    let meets = |t: u64| swaps && t.is_multiple_of(2) || counts && t.is_multiple_of(4);
    let b = |t: u64| if meets(t) { held(t) } else { value(32 + t) };
    let c = |t: u64| value(64 + t);
    let input = pack(row, (0..32).map(held).chain((0..32).map(b)).chain((0..32).map(c)));
    let after = (0..32).map(|t| apply(row, held(t), b(t), c(t)));
    let expected = match returns {
        true => pack(row, after.chain((0..32).map(held))),
        false => pack(row, after),
    };
    program(&format!("{kind}.{space}.{row}.own"), Sm80, &body).given(input).expecting(expected)
}

/// All threads' atomics on one word, whose last value does not depend on their order.
fn one_word(kind: &str, row: &str) -> Program {
    let (bits, bytes) = (bits(row), bits(row) / 8);
    let letter = if bits == 64 { 'l' } else { 'r' };
    let target = if kind == "atom" { format!("%{letter}5, ") } else { String::new() };
    let counts = row.starts_with("inc") || row.starts_with("dec");
    let body = format!(
        "mad.wide.u32 %l0, %t, {bytes}, %in;\nld.global.b{bits} %{letter}6, [%l0+{bytes}];\n\
         {kind}.global.{row} {target}[%out], %{letter}6;\n"
    );
    // Bounds that differ would make the order matter.
    let b = |t: u64| if counts { 5 } else { atomic_value(row, t + 1) };
    // Sums of f16 stay small: only every eighth thread adds to them.
    let b = |t: u64| if row.ends_with("f16x2") && !t.is_multiple_of(8) { 0 } else { b(t) };
    let held = atomic_value(row, 0);
    let after = (0..32).fold(held, |x, t| apply(row, x, b(t), 0));
    let mut program = program(&format!("{kind}.global.{row}.one"), Sm80, &body)
        .given(pack(row, [held].into_iter().chain((0..32).map(b))));
    program.results = pack(row, [held]);
    program.expecting(pack(row, [after]))
}

/// Votes on whether the input's word is odd; elections.
fn votes() -> Vec<Program> {
    let odd = |lane: usize| words(32)[lane] % 2;
    let ballot = (0..32).fold(0, |mask, lane| mask | odd(lane) << lane);
    let ask = "ld.global.b32 %r4, [%at];\nand.b32 %r5, %r4, 1;\nsetp.ne.u32 %p0, %r5, 0;\n";
    let store = "st.global.b32 [%to], %r6;\n";
    let mut programs = Vec::new();
    for (mode, value) in [
        ("all", u32::from(ballot == u32::MAX)),
        ("any", u32::from(ballot != 0)),
        ("uni", u32::from(ballot == 0 || ballot == u32::MAX)),
    ] {
        let body =
            format!("{ask}vote.sync.{mode}.pred %p1, %p0, 0xffffffff;\nselp.u32 %r6, 1, 0, %p1;\n{store}");
        programs.push(program(&format!("vote.sync.{mode}.pred"), Sm80, &body).expecting(vec![value; 32]));
    }
    let body = format!("{ask}vote.sync.ballot.b32 %r6, %p0, 0xffffffff;\n{store}");
    programs.push(program("vote.sync.ballot.b32", Sm80, &body).expecting(vec![ballot; 32]));
    let body = format!("activemask.b32 %r6;\n{store}");
    programs.push(program("activemask.b32", Sm80, &body).expecting(vec![u32::MAX; 32]));
    // Which lane is elected is not specified: that all agree on it, and that it alone is told so, is.
    let body = format!(
        "elect.sync %r7|%p1, 0xffffffff;\nvote.sync.ballot.b32 %r8, %p1, 0xffffffff;\nmov.u32 %r9, 1;\nshl.b32 %r9, %r9, %r7;\n\
         setp.eq.u32 %p2, %r8, %r9;\nselp.u32 %r6, 1, 0, %p2;\n{store}"
    );
    programs.push(program("elect.sync", Sm90a, &body).expecting(vec![1; 32]));
    let body = format!(
        "{ask}match.all.sync.b32 %r6|%p1, %r4, 0xffffffff;\nmatch.all.sync.b32 %r7|%p2, 5, 0xffffffff;\n\
         selp.u32 %r8, 1, 0, %p1;\nselp.u32 %r9, 1, 0, %p2;\nmad.lo.u32 %r6, %r9, 2, %r8;\n{store}"
    );
    programs.push(program("match.all.sync.b32", Sm80, &body).expecting(vec![2; 32]));
    programs
}
