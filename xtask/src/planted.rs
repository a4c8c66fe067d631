//! `cargo xtask planted`: are the tests able to fail? Each known bug is planted in a copy of the tree, and the tests that are
//! meant to catch it must turn red. Which one did, and when, is in results/reliability/planted.json: it is tried first again.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader};
use std::num::NonZeroUsize;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::peers::date;
use crate::reliability::{self, Caught};
use crate::run::{command, output, root};

/// A bug and who catches it.
struct Planted {
    /// What the bug is.
    name: &'static str,
    file: &'static str,
    /// Text that occurs once, and what it becomes.
    from: &'static str,
    to: &'static str,
    /// Arguments of the `cargo test` that must fail.
    caught_by: &'static [&'static str],
}

const ATTENTION: &[&str] = &["-p", "onekv", "--test", "attention"];
const LIBRARY: &[&str] = &["-p", "onekv", "--lib"];
const PROBLEM: &[&str] = &["-p", "onekv", "--test", "problem"];
const GOLDENS: &[&str] = &["-p", "t5", "--test", "t5_goldens"];
const MODES: &[&str] = &["-p", "t5", "--test", "t5_modes"];
const PARTS: &[&str] = &["-p", "t5", "--test", "t5_parts"];
const CLI: &[&str] = &["-p", "t5", "--test", "t5_cli"];
const SASS: &[&str] = &["-p", "xtask", "codegen::sass"];
const BOUNDS: &[&str] = &["-p", "xtask", "allowed"];
const MODEL: &[&str] = &["-p", "xtask", "model::"];
const RUN: &[&str] = &["-p", "xtask", "run::"];
const FIT: &[&str] = &["-p", "xtask", "fit::"];
const REPORT: &[&str] = &["-p", "xtask", "report::"];
const SIM: &[&str] = &["-p", "ptxsim"];
const CUDA: &[&str] = &["-p", "onekv", "--features", "cuda", "--test", "cuda"];
const STREAMS: &[&str] = &["-p", "onekv", "--features", "cuda", "--test", "streams"];
const E4M3: &[&str] = &["-p", "onekv", "--features", "cuda", "--test", "e4m3"];
const SHARED_PREFIX: &[&str] = &["-p", "shared-prefix"];
const T5: &[&str] = &["-p", "t5", "--lib"];
const T5_CUDA: &[&str] = &["-p", "t5", "--features", "cuda", "--test", "t5_cuda"];
const CUDA_LIBRARY: &[&str] = &["-p", "onekv", "--features", "cuda", "--lib"];
const CANDLE: &[&str] = &["-p", "onekv", "--features", "candle-cuda", "--test", "candle"];
const CANDLE_T5: &[&str] = &["-p", "candle-t5"];
const DRIVER: &[&str] = &["-p", "ptxsim-driver", "--test", "plain_api"];
const DRIVER_KERNELS: &[&str] = &["-p", "ptxsim-driver", "--test", "kernels"];
const DRIVER_LIBRARIES: &[&str] = &["-p", "ptxsim-driver", "--test", "libraries"];
const DRIVER_FLAGS: &[&str] = &["-p", "ptxsim-driver", "--test", "flags"];
const DRIVER_UNIFIED: &[&str] = &["-p", "ptxsim-driver", "--test", "unified"];
const DRIVER_CORE: &[&str] = &["-p", "ptxsim-driver", "--lib"];
const BAD_PTX: &[&str] = &["-p", "ptxsim", "--test", "bad_input"];
const CURAND: &[&str] = &["-p", "candle-stand-ins"];
const CUDART: &[&str] = &["-p", "cudart-stand-in"];
const ALLOCATIONS: &[&str] = &["-p", "onekv", "--features", "cuda", "--test", "allocations"];
const SOAK: &[&str] = &["-p", "onekv", "--features", "cuda", "--test", "soak"];
const C: &[&str] = &["-p", "onekv-c", "--features", "cuda"];
const FAILING: &[&str] = &["-p", "onekv", "--features", "cuda", "--test", "failing_driver"];
const T5_FAILING: &[&str] = &["-p", "t5", "--features", "cuda", "--test", "t5_failing"];
const DRIVER_FAILING: &[&str] = &["-p", "ptxsim-driver", "--test", "failing"];
const CUDA_ATTENTION: &[&str] = &["-p", "onekv", "--features", "cuda", "--test", "attention"];

#[rustfmt::skip]
const BUGS: &[Planted] = &[
    Planted { name: "the running sum is not rescaled when the maximum grows", file: "src/cpu/block.rs",
        from: "simd.mul_add_e_f32s(sums[g], rescale[g], sum[g])", to: "simd.add_f32s(sums[g], sum[g])", caught_by: ATTENTION },
    Planted { name: "the output is not rescaled when the maximum grows", file: "src/cpu/block.rs",
        from: "simd.mul_f32s(out[r * registers + first + i], rescale)", to: "{ let _ = rescale; out[r * registers + first + i] }", caught_by: ATTENTION },
    Planted { name: "half of a row's lanes have a maximum of their own", file: "src/cpu/block.rs",
        from: "STEPS.into_iter().filter(|step| *step < L)", to: "STEPS.into_iter().filter(|step| *step < L / 2)", caught_by: LIBRARY },
    Planted { name: "half of a row's lanes are left out of the sum", file: "src/cpu/block.rs",
        from: "filter(|step| *step < self.lanes)", to: "filter(|step| *step < self.lanes / 2)", caught_by: LIBRARY },
    Planted { name: "the four sums of a dot product get into each other's lanes", file: "src/cpu/block.rs",
        from: "*sum = join(simd, 2, ab, cd);", to: "*sum = join(simd, 2, cd, ab);", caught_by: LIBRARY },
    Planted { name: "keys past the last have a score", file: "src/cpu/block.rs",
        from: "row[used..].fill(f32::NEG_INFINITY);", to: "row[used..].fill(0.0);", caught_by: LIBRARY },
    Planted { name: "keys that are not as many as are met at once have no score", file: "src/cpu/block.rs",
        from: "[..used.div_ceil(N)]", to: "[..used / N]", caught_by: LIBRARY },
    Planted { name: "rows of one lane change places in the transposition", file: "src/cpu/block.rs",
        from: "(trade(simd, 2, a, c), trade(simd, 2, b, d))", to: "(trade(simd, 2, a, d), trade(simd, 2, b, c))", caught_by: LIBRARY },
    Planted { name: "how a row is summed depends on the rows of its task", file: "src/cpu/block.rs",
        from: "(of_input * lanes).next", to: "(rows * lanes).next", caught_by: LIBRARY },
    Planted { name: "a row of whole registers has its last keys' scores in each other's place", file: "src/cpu/block.rs",
        from: "join(simd, 8, *sum, join(simd, 4, x[2][g], x[3][g]))", to: "join(simd, 8, *sum, join(simd, 4, x[3][g], x[2][g]))", caught_by: LIBRARY },
    Planted { name: "a row of whole registers has the first one's elements in all", file: "src/cpu/block.rs",
        from: "(c * registers + r) * per_register", to: "r * per_register", caught_by: LIBRARY },
    Planted { name: "halves that end within a register are widened where they lie", file: "src/cpu/block.rs",
        from: "of.k.in_place::<S>() && of.v.in_place::<S>()", to: "of.k.in_place::<S>() || of.v.stride > 0", caught_by: LIBRARY },
    Planted { name: "infinite values of keys that weigh nothing are not a number", file: "src/cpu/block.rs",
        from: "if sum == 0.0 {", to: "if sum < 0.0 {", caught_by: LIBRARY },
    Planted { name: "what the last task left stands in the output", file: "src/cpu/block.rs",
        from: "out.fill(Line::zeroed());", to: "", caught_by: LIBRARY },
    Planted { name: "what the last task left stands past the vectors of a tile", file: "src/cpu/block.rs",
        from: "k_tile.fill(Line::zeroed());", to: "", caught_by: LIBRARY },
    Planted { name: "the rows of every block are written over those of the first", file: "src/cpu/block.rs",
        from: "done(first + r, lse, out)", to: "done(r, lse, out)", caught_by: LIBRARY },
    Planted { name: "of three rows left one has no values", file: "src/cpu/block.rs",
        from: "3 => rows.all::<3, V>(out, registers),", to: "3 => rows.all::<2, V>(out, registers),", caught_by: LIBRARY },
    Planted { name: "registers left over have no values", file: "src/cpu/block.rs",
        from: "while first < registers {", to: "while first + V < registers {", caught_by: LIBRARY },
    Planted { name: "every head's rows meet the keys of the last", file: "src/cpu/block.rs",
        from: "heads.iter().zip(blocks", to: "heads.iter().rev().zip(blocks", caught_by: LIBRARY },
    Planted { name: "vectors that end within a register are read in place", file: "src/cpu/mod.rs",
        from: "self.dim.is_multiple_of(S::F32_LANES)", to: "self.dim.is_multiple_of(2)", caught_by: LIBRARY },
    Planted { name: "the only key is read in place, with a stride that means nothing", file: "src/cpu/mod.rs",
        from: " && self.stride >= self.dim", to: "", caught_by: PROBLEM },
    Planted { name: "keys past the 262144th are left out", file: "src/cpu/mod.rs",
        from: "keys: keys.clone(), targets", to: "keys: keys.start..keys.end.min(1 << 18), targets", caught_by: ATTENTION },
    Planted { name: "the only key's weight is next to one", file: "src/cpu/block.rs",
        from: "let factor = simd.splat_f32s(sum.recip());", to: "let factor = simd.splat_f32s(sum.recip() * (1.0 - f32::EPSILON));", caught_by: ATTENTION },
    Planted { name: "the last task has heads that are not there", file: "src/cpu/mod.rs",
        from: "first..(first + heads_per_tile).min(heads)", to: "first..first + heads_per_tile", caught_by: ATTENTION },
    Planted { name: "an infinity of f16 becomes a number", file: "src/cpu/widen.rs",
        from: "simd.select_u32s(beyond, simd.splat_u32s(0x7f80_0000)", to: "simd.select_u32s(beyond, simd.splat_u32s(0)", caught_by: LIBRARY },
    Planted { name: "a negative f16 becomes positive", file: "src/cpu/widen.rs",
        from: "simd.or_u32s(number, sign)", to: "{ let _ = sign; number }", caught_by: LIBRARY },
    Planted { name: "halves past the last four registers are not widened", file: "src/cpu/widen.rs",
        from: "                *to = register(simd, src);\n", to: "                let _ = (&to, src);\n", caught_by: LIBRARY },
    Planted { name: "the last of equal logits is taken", file: "examples/t5/src/backend/cpu/elementwise.rs",
        from: "x[chunk * LANES..].iter().position(|x| *x == max)", to: "x[chunk * LANES..].iter().rposition(|x| *x == max)", caught_by: T5 },
    Planted { name: "the scale is applied twice", file: "src/cpu/math.rs",
        from: "splat_f32s(self.scale * LOG2_E)", to: "splat_f32s(self.scale * self.scale * LOG2_E)", caught_by: ATTENTION },
    Planted { name: "the softcap forgets its factor", file: "src/cpu/math.rs",
        from: "simd.mul_f32s(simd.splat_f32s(cap), tanh(simd, x))", to: "{ let _ = cap; tanh(simd, x) }", caught_by: ATTENTION },
    Planted { name: "infinities are subtracted from each other where nothing has weight", file: "src/cpu/math.rs",
        from: "simd.select_f32s(none, simd.splat_f32s(0.0), max)", to: "{ let _ = none; max }", caught_by: ATTENTION },
    Planted { name: "a key too many is read in a strided tile", file: "src/cpu/mod.rs",
        from: "&src[i * self.stride..]", to: "&src[i.saturating_sub(1) * self.stride..]", caught_by: ATTENTION },
    Planted { name: "merging forgets the weight of a part", file: "src/cpu/merge.rs",
        from: "*o += weight * p.to_f32()", to: "*o += p.to_f32()", caught_by: ATTENTION },
    Planted { name: "merging gives the maximum instead of the log-sum", file: "src/cpu/merge.rs",
        from: "shift + total.ln()", to: "shift", caught_by: ATTENTION },
    Planted { name: "the scale is fused into the difference: NaN from huge scores", file: "src/cpu/math.rs",
        from: "exp2(simd, simd.mul_f32s(difference, simd.splat_f32s(self.scale * LOG2_E)))",
        to: "{ let f = simd.splat_f32s(self.scale * LOG2_E); let _ = difference; \
             exp2(simd, simd.mul_add_e_f32s(dot, f, simd.neg_f32s(simd.mul_f32s(shift, f)))) }", caught_by: ATTENTION },
    Planted { name: "tanh loses what is small", file: "src/cpu/math.rs",
        from: "simd.select_f32s(small, simd.mul_f32s(x, p), value)", to: "{ let _ = (small, p); value }", caught_by: LIBRARY },
    Planted { name: "output and LSE are written without their strides", file: "src/view.rs",
        from: "data.chunks_mut(step(inner, inners))", to: "data.chunks_mut({ let _ = inner; vector })", caught_by: ATTENTION },
    Planted { name: "output and LSE whose heads are outside are written as if they were inside", file: "src/view.rs",
        from: "if by_token { o * heads + i } else { i * heads + o }", to: "if by_token { o * heads + i } else { o * tokens + i }", caught_by: ATTENTION },
    Planted { name: "query heads take turns among the K/V heads", file: "src/cpu/mod.rs",
        from: "kv_head * group + folded % group", to: "folded % group * problem.kv_heads() + kv_head", caught_by: ATTENTION },
    Planted { name: "a split of the keys ends a key early", file: "src/cpu/mod.rs",
        from: "keys: start..(start + keys_per_split).min(keys.end)",
        to: "keys: start..((start + keys_per_split).min(keys.end) - usize::from(split > 0)).max(start)", caught_by: LIBRARY },
    Planted { name: "merging drops a part that weighs nothing, NaN and all", file: "src/cpu/merge.rs",
        from: "if lse != f32::NEG_INFINITY {", to: "if (lse - shift).exp() != 0.0 {", caught_by: PROBLEM },
    Planted { name: "every input reads the first slot of K", file: "src/cpu/mod.rs",
        from: "HeadOf::new(kv.k, self.tile.input.slot, kv_head)", to: "HeadOf::new(kv.k, 0, kv_head)", caught_by: ATTENTION },
    Planted { name: "slots stand as close as their keys", file: "src/cpu/mod.rs",
        from: "slot.checked_mul(of.strides.input)", to: "slot.checked_mul(of.strides.row * of.shape.tokens)", caught_by: ATTENTION },
    Planted { name: "every input has the first slot", file: "src/problem.rs",
        from: "false => Ok((input, 0..value)),", to: "false => Ok((0, 0..value)),", caught_by: PROBLEM },
    Planted { name: "the first slot is quantised for every input", file: "src/e4m3.rs",
        from: "kv.data[kv.strides.at(slot, key, head)..]", to: "kv.data[kv.strides.at(0 * slot, key, head)..]", caught_by: LIBRARY },
    Planted { name: "strides that are not used are multiplied", file: "src/view.rs",
        from: "if count > 1 { stride * self.size } else { 0 }", to: "{ let _ = count; stride * self.size }", caught_by: PROBLEM },
    Planted { name: "memory of the host must begin where an allocator may not put it", file: "src/view.rs",
        from: "address: 0, len: data.len()", to: "address: data.as_ptr().addr(), len: data.len()", caught_by: ATTENTION },
    Planted { name: "elements are counted in 31 bits", file: "src/shape.rs",
        from: "input * self.input + token * self.row + head * self.head", to: "(input * self.input + token * self.row + head * self.head) as i32 as usize", caught_by: ATTENTION },
    Planted { name: "one thread splits keys as several do", file: "src/cpu/mod.rs",
        from: "auto_splits(threads, tasks, tiles)", to: "auto_splits(threads.max(8), tasks, tiles)", caught_by: ATTENTION },
    Planted { name: "a fixed split grows with the batch", file: "src/plan/search.rs",
        from: "return Some((variant, keys, options", to: "return Some((variant, keys * problem.inputs().len().max(1), options", caught_by: CUDA },
    Planted { name: "slots may overlap", file: "src/view.rs",
        from: "(\"input\", strides.input, self.inputs)", to: "(\"input\", strides.input, 1)", caught_by: PROBLEM },
    Planted { name: "slots may begin anywhere", file: "src/view.rs",
        from: "used(strides.input, shape.inputs)", to: "0", caught_by: PROBLEM },
    Planted { name: "a shape is its number of elements", file: "src/view.rs",
        from: "if shape != allowed {", to: "if shape.elements() != allowed.elements() {", caught_by: PROBLEM },
    Planted { name: "the cost model forgets the values' projection", file: "examples/t5/src/cost.rs",
        from: "(encoded * 4 * projection + tokens", to: "(encoded * 2 * projection + tokens", caught_by: T5 },
    Planted { name: "strides are not checked", file: "src/problem.rs",
        from: "check(\"v\", kv.v, self.kv_shape())?;", to: "", caught_by: PROBLEM },
    Planted { name: "the log of a bucket is one off", file: "examples/t5/src/buckets.rs",
        from: "first + (exact + log).min(buckets - 1)", to: "first + (exact + log + 1).min(buckets - 1)", caught_by: PARTS },
    Planted { name: "a row goes on after its EOS", file: "examples/t5/src/backend/cpu.rs",
        from: "rows.rules.ends.contains(&id) || ", to: "", caught_by: GOLDENS },
    Planted { name: "only the first of several EOS ends a row", file: "examples/t5/src/backend/cpu.rs",
        from: "rows.rules.ends.contains(&id)", to: "rows.rules.ends.first() == Some(&id)", caught_by: GOLDENS },
    Planted { name: "a forced BOS comes behind a prompt too", file: "examples/t5/src/backend/cpu.rs",
        from: "bare: tokens.len() == 1", to: "bare: true", caught_by: GOLDENS },
    Planted { name: "what may not come first may come behind a forced BOS", file: "examples/t5/src/backend/cpu.rs",
        from: "produced == free_from", to: "produced == 0", caught_by: PARTS },
    Planted { name: "the last id is not forced", file: "examples/t5/src/backend/cpu.rs",
        from: "produced == last)", to: "produced > last)", caught_by: GOLDENS },
    Planted { name: "logits that are no numbers choose id 0", file: "examples/t5/src/backend/cpu.rs",
        from: "logits.iter().any(|x| x.is_finite())", to: "true", caught_by: CLI },
    Planted { name: "every block multiplies into the first rows", file: "examples/t5/src/backend/cpu/product.rs",
        from: "&mut out[block.rows.clone()]", to: "&mut out[..block.rows.len()]", caught_by: T5 },
    Planted { name: "every task multiplies by the first panels", file: "examples/t5/src/backend/cpu/product.rs",
        from: "first: panels.start,", to: "first: 0 * panels.start,", caught_by: T5 },
    Planted { name: "a pass over further inputs replaces the one before", file: "examples/t5/src/backend/cpu/product.rs",
        from: "let add = add || from > 0;", to: "", caught_by: T5 },
    Planted { name: "a product replaces what it is added to", file: "examples/t5/src/backend/cpu/product.rs",
        from: "        if add {", to: "        if add && columns.start > 0 {", caught_by: T5 },
    Planted { name: "a panel behind the last is fetched", file: "examples/t5/src/backend/cpu/product.rs",
        from: "weights.len().min(next.len())", to: "weights.len()", caught_by: T5 },
    Planted { name: "every panel of transposed activations has the first columns", file: "examples/t5/src/backend/cpu/product.rs",
        from: "&rows.row(input)[columns.clone()]", to: "&rows.row(input)[..columns.len()]", caught_by: T5 },
    Planted { name: "pairs of bf16 are neighbours", file: "examples/t5/src/backend/cpu/product/row.rs",
        from: "self.0[column % WORDS] |= value.to_bits() >> 16 << (column / WORDS * 16);",
        to: "self.0[column / 2] |= value.to_bits() >> 16 << (column % 2 * 16);", caught_by: T5 },
    Planted { name: "a bf16 keeps the other of its pair behind its mantissa", file: "examples/t5/src/backend/cpu/product/row.rs",
        from: "simd.and_u32s(pair, high)", to: "{ let _ = high; pair }", caught_by: T5 },
    Planted { name: "an f16 keeps the other of its pair behind its mantissa", file: "examples/t5/src/backend/cpu/product/row.rs",
        from: "0x0fff_e000", to: "0x0fff_ffff", caught_by: T5 },
    Planted { name: "infinity is kept as f16, which makes a number of it", file: "examples/t5/src/backend/cpu/product/row.rs",
        from: "value.is_finite() && ", to: "", caught_by: T5 },
    Planted { name: "every block of a sequence's queries has the first one's bias", file: "examples/t5/src/backend/cpu.rs",
        from: "bias.zero - position..", to: "bias.zero - position % BLOCK_ROWS..", caught_by: GOLDENS },
    Planted { name: "GELU's cubic term is lost", file: "examples/t5/src/backend/cpu/elementwise.rs",
        from: "(0.044_715 * x * x).mul_add(x, x)", to: "x", caught_by: GOLDENS },
    Planted { name: "a tied head is not scaled", file: "examples/t5/src/model.rs",
        from: "(d as f32).powf(-0.5)", to: "1.0", caught_by: GOLDENS },
    Planted { name: "embeddings are not tied by default", file: "examples/t5/src/config.rs",
        from: "unwrap_or(kind != \"mt5\")", to: "unwrap_or(false)", caught_by: GOLDENS },
    Planted { name: "what transformers 5 says of scaling is not read", file: "examples/t5/src/config.rs",
        from: "Some(scaled) => ([by_5(scaled); 2], false)", to: "Some(_) => ([by_4; 2], false)", caught_by: GOLDENS },
    Planted { name: "an mT5 of transformers 5 is scaled", file: "examples/t5/src/config.rs",
        from: "([by_5(false); 2], false)", to: "([by_5(true); 2], false)", caught_by: GOLDENS },
    Planted { name: "the folder's own activation does not win", file: "examples/t5/src/config.rs",
        from: "self.get(\"dense_act_fn\")", to: "self.get(\"dense_act\")", caught_by: GOLDENS },
    Planted { name: "generation_config.json is not read", file: "examples/t5/src/config.rs",
        from: "if generation.exists()", to: "if false", caught_by: GOLDENS },
    Planted { name: "umT5 has the first layer's bias everywhere", file: "examples/t5/src/config.rs",
        from: "bias_by_layer: kind == \"umt5\"", to: "bias_by_layer: false", caught_by: GOLDENS },
    Planted { name: "GELU's exact form is the tanh one", file: "examples/t5/src/config.rs",
        from: "(Activation::Gelu, \"gelu", to: "(Activation::GeluTanh, \"gelu", caught_by: GOLDENS },
    Planted { name: "a prefix of all names stays", file: "examples/t5/src/weights.rs",
        from: "while let Some(prefix) = weights.prefix()", to: "while let Some(prefix) = None::<&str>", caught_by: GOLDENS },
    Planted { name: "special tokens are not looked for", file: "examples/t5/src/tokenize.rs",
        from: "added.chain(t5s).chain(named)", to: "added", caught_by: GOLDENS },
    Planted { name: "spaces before punctuation stay", file: "examples/t5/src/tokenize.rs",
        from: "if self.clean {", to: "if false {", caught_by: GOLDENS },
    Planted { name: "with the prompt in the encoder no space is between", file: "examples/t5/src/asked.rs",
        from: "format!(\"{prompt} {input}\")", to: "format!(\"{prompt}{input}\")", caught_by: GOLDENS },
    Planted { name: "every prompt reads the first input", file: "examples/t5/src/generate.rs",
        from: "place: place(seated),", to: "place: place(seated) * 0,", caught_by: GOLDENS },
    Planted { name: "a row begins behind the cache of the one before it", file: "examples/t5/src/backend/cpu.rs",
        from: "cache.k.clear();\n                cache.v.clear();", to: "", caught_by: MODES },
    Planted { name: "a token of a long prompt sees the next one", file: "examples/t5/src/backend/cpu.rs",
        from: "scores.split_at_mut(seen_by(position))", to: "scores.split_at_mut((seen_by(position) + 1).min(keys))", caught_by: GOLDENS },
    Planted { name: "what a token of a long prompt does not see has weight", file: "examples/t5/src/backend/cpu.rs",
        from: "unseen.fill(0.0);", to: "let _ = unseen;", caught_by: GOLDENS },
    Planted { name: "panels of which the first inputs are read lie next to each other", file: "examples/t5/src/backend/cpu/product.rs",
        from: "let at = panel * stride;", to: "let at = panel * inputs;", caught_by: T5 },
    Planted { name: "positions begin anew behind the document", file: "examples/shared_prefix/src/attention.rs",
        from: "self.prefix.as_ref().map_or(0, |prefix| prefix.lengths()[0]) + self.own.lengths()[sequence]", to: "self.own.lengths()[sequence]", caught_by: SHARED_PREFIX },
    Planted { name: "a token of a pass reads the one behind it", file: "examples/shared_prefix/src/attention.rs",
        from: "(i + 1).min(*new)", to: "(i + 2).min(*new)", caught_by: SHARED_PREFIX },
    Planted { name: "a pass reads nothing of what its sequence has before it", file: "examples/shared_prefix/src/attention.rs",
        from: "if before.iter().any(|before| *before > 0)", to: "if false", caught_by: SHARED_PREFIX },
    Planted { name: "document and own tokens weigh the same", file: "examples/shared_prefix/src/attention.rs",
        from: "&part.out[..], &part.lse[..]", to: "&part.out[..], &parts[0].lse[..]", caught_by: SHARED_PREFIX },
    Planted { name: "a copied document lacks its last token", file: "examples/shared_prefix/src/cache.rs",
        from: "self.lengths[slot] = from.lengths[0];", to: "self.lengths[slot] = from.lengths[0].saturating_sub(1);", caught_by: SHARED_PREFIX },
    Planted { name: "V is turned like K", file: "examples/shared_prefix/src/model.rs",
        from: "v.extend_from_slice(of_v);", to: "turned(of_v, rotation, &mut v);", caught_by: SHARED_PREFIX },
    Planted { name: "pairs that turn fast turn faster where RoPE is scaled", file: "examples/shared_prefix/src/rope.rs",
        from: ".clamp(0.0, 1.0)", to: ".max(0.0)", caught_by: SHARED_PREFIX },
    Planted { name: "a sequence goes on after its end", file: "examples/shared_prefix/src/generate.rs",
        from: " || next.iter().any(|id| ends.contains(id))", to: " || (false && !ends.is_empty())", caught_by: SHARED_PREFIX },
    Planted { name: "an input leaves while its prompts wait", file: "examples/t5/src/schedule.rs",
        from: "waits == Some(input) || ", to: "waits.is_none() && ", caught_by: PARTS },
    Planted { name: "the last place that became free is taken first", file: "examples/t5/src/schedule.rs",
        from: "free_places.push_back(*place);", to: "free_places.push_front(*place);", caught_by: PARTS },
    Planted { name: "a tokenizer's padding stays", file: "examples/t5/src/tokenize.rs",
        from: "tokenizer.with_padding(None).with_truncation(None)", to: "tokenizer.with_truncation(None)", caught_by: CLI },
    Planted { name: "ByT5's bytes are a word too high", file: "examples/t5/src/tokenize.rs",
        from: "const BYTE_OFFSET: u32 = 3;", to: "const BYTE_OFFSET: u32 = 4;", caught_by: CLI },
    Planted { name: "layers that config.json leaves out are not named", file: "examples/t5/src/weights.rs",
        from: "self.tensors.into_keys()", to: "self.tensors.into_keys().take(0)", caught_by: CLI },
    Planted { name: "NaN in the weights is taken", file: "examples/t5/src/weights.rs",
        from: "!x.is_finite()", to: "x.is_infinite()", caught_by: CLI },
    Planted { name: "T5 on CUDA: the decoder's sum is not rescaled", file: "examples/t5/cuda/decode.cu",
        from: "sum = sum * rescale + weight;", to: "sum = sum + weight;", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: the cache gets keys for values", file: "examples/t5/cuda/decode.cu",
        from: "(to + inner) = mine[2][c];", to: "(to + inner) = mine[1][c];", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: keys of this pass are counted from the cache's first", file: "examples/t5/cuda/decode.cu",
        from: "(old ? key : key - before)", to: "(key)", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: infinity behind the last key is multiplied by its weight of 0", file: "examples/t5/cuda/decode.cu",
        from: "j + i < count ? v[i][c] : Two<T>{}", to: "v[i][c]", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: self-attention does not wait", file: "examples/t5/cuda/decode.cu",
        from: "    in_order();\n    if (head >= heads)", to: "    if (head >= heads)", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: the last of equals is chosen", file: "examples/t5/cuda/decode.cu",
        from: "(x == y && i < j)", to: "(x == y && i > j)", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: finished rows go on", file: "examples/t5/cuda/decode.cu",
        from: "if (mine.finished || mine.produced >= rules.max_new) return;", to: "if (mine.produced >= rules.max_new) return;", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: a second end is forgotten", file: "examples/t5/cuda/decode.cu",
        from: "ends |= id == listed[i];", to: "ends |= id == rules.end;", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: ids that are not taken first are never taken", file: "examples/t5/cuda/decode.cu",
        from: "mine.produced == first_free ?", to: "mine.produced >= first_free ?", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: the first id of prompts is forced too", file: "examples/t5/cuda/decode.cu",
        from: " && row.length + tokens - row.produced == 1", to: " && row.length + tokens - row.produced >= 1", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: an overflow is looked for behind infinity", file: "examples/t5/cuda/decode.cu",
        from: "numbers |= isfinite(best);", to: "numbers |= best > -INFINITY;", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: an overflow passes for an end", file: "examples/t5/src/backend/cuda.rs",
        from: "OVERFLOWED => Err(overflow()),", to: "OVERFLOWED => Ok(0),", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: ReLU makes 0 of NaN", file: "examples/t5/cuda/activation.cuh",
        from: "x < 0.0f ? 0.0f : x", to: "fmaxf(x, 0.0f)", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: one form of GELU is the other", file: "examples/t5/cuda/activation.cuh",
        from: "activation == GELU)", to: "activation == GELU && x > 1e9f)", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: its own products are not the default", file: "examples/t5/src/backend/cuda.rs",
        from: "if own { Products::Own }", to: "if false { Products::Own }", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: f32 has Hopper's products for a default", file: "examples/t5/src/backend/cuda.rs",
        from: "driver.hopper && dtype != DType::F32;", to: "driver.hopper;", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a product forgets which activation", file: "examples/t5/src/backend/cuda/kernels.rs",
        from: "activated.map_or(-1, |a| a.activation as i32)", to: "activated.map_or(-1, |a| a.activation as i32 & 2)", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: shared memory that was once asked for is all there is", file: "src/cuda/modules.rs",
        from: "shared_bytes <= *raised_to", to: "shared_bytes == 0 || *raised_to > 0", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: the encoder's bias is one off", file: "examples/t5/cuda/encode.cu",
        from: "const int base = p.zero + t * KEYS", to: "const int base = p.zero + 1 + t * KEYS", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: the wait of a product's pipeline is a stage too short", file: "examples/t5/cuda/gemm.cu",
        from: "copy_wait<STAGES - 2>();", to: "copy_wait<STAGES - 1>();", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: a product replaces the residual stream", file: "examples/t5/cuda/gemm.cu",
        from: "add ? to_float(c[at]) + x : x", to: "x", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: weights overwrite what is still multiplied", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "i / STAGES & 1 ^ 1", to: "i / STAGES & 1", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: rows are fetched before they are there", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "            predecessors_wait();\n            for", to: "            for", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: the ring is read while sums take its place", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "        cluster_sync();\n#pragma unroll", to: "#pragma unroll", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a block does not wait for the others' sums", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "barrier_wait_for_blocks(joined, 0);", to: "named_sync(1, Shape::CONSUMERS);", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: rows that no block sends are waited for, and others are not", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "(rows + ranks - 1 - rank) / ranks", to: "rows / ranks", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a row's sums lie in another order than that of ranks", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "row - owner + rank", to: "row - owner + (rank ^ 1) % ranks", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: parts of k are activated before they are joined", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "sum[0] += x.x", to: "sum[0] += fmaxf(x.x, 0)", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a product writes over sums before it waits", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "        predecessors_wait();\n        // While", to: "        // While", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a norm is ended by its first part", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "i < p.parts", to: "i < 1", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a gate is not normed", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "x[e] *= y[e] * factor", to: "x[e] *= y[e]", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a norm is begun of what is added alone", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "x[e] += to_float(y.x[e]), y.x[e] = from_float<O>(x[e])", to: "y.x[e] = from_float<O>(x[e] + to_float(y.x[e]))", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: embeddings begin a norm without its weight", file: "examples/t5/cuda/elementwise.cu",
        from: "from_float<T>(x * next_weight[i])", to: "from_float<T>(x)", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a norm ends as another than the one that was begun", file: "examples/t5/src/backend/cuda/kernels.rs",
        from: "(self.weight == weight.at())", to: "true", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: f16 begins norms", file: "examples/t5/src/backend/cuda.rs",
        from: "self.streams_weights() && self.dtype == DType::Bf16", to: "self.streams_weights()", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: no norm is begun", file: "examples/t5/src/backend/cuda.rs",
        from: "begins.then(|| Begun", to: "(begins && rows == 0).then(|| Begun", caught_by: T5_CUDA },
    Planted { name: "T5 on Hopper: a kernel does not wait for the one before", file: "examples/t5/cuda/order.cuh",
        from: "    predecessors_wait();\n", to: "", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: a norm sums over one warp", file: "examples/t5/cuda/elementwise.cu",
        from: "sum_of_block(squares) / width", to: "sum_of_warp(squares) / width", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: further inputs' K/V overwrites the first", file: "examples/t5/src/backend/cuda.rs",
        from: "let at = at * 2 * kv.inner * self.element_bytes();", to: "let at = at * 0;", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: what was recorded outlives the rows that leave", file: "examples/t5/src/generate.rs",
        from: "            self.recording = None;\n", to: "", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: a row begins in the state of the one before it", file: "examples/t5/src/backend/cuda/rows.rs",
        from: "*state = RowState::zeroed();", to: "let _ = &state;", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA: rows that go on take another row's token", file: "examples/t5/src/backend/cuda/rows.rs",
        from: "None => ids.push(state.next as u32),", to: "None => ids.push(0),", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA, cublasLt: rows and columns of the result change places", file: "examples/t5/src/backend/cuda/cublaslt.rs",
        from: "layout(shape.to, n, m)?", to: "layout(shape.to, m, n)?", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA, cublasLt: the weights are not transposed", file: "examples/t5/src/backend/cuda/cublaslt.rs",
        from: "let transposed = 1i32;", to: "let transposed = 0i32;", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA, cublasLt: columns are too far apart", file: "examples/t5/src/backend/cuda/cublaslt.rs",
        from: "rows, cols, rows as i64)?", to: "rows, cols, rows as i64 + 8)?", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA, cublasLt: a product replaces the residual stream", file: "examples/t5/src/backend/cuda/cublaslt.rs",
        from: "if target.add { 1f32 } else { 0f32 }", to: "0f32", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA, cublasLt: f16 is taken for bf16", file: "examples/t5/src/backend/cuda/cublaslt.rs",
        from: "DType::F16 => sys::cudaDataType_t::CUDA_R_16F,", to: "DType::F16 => sys::cudaDataType_t::CUDA_R_16BF,", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA, cublasLt: more workspace is promised than there is", file: "examples/t5/src/backend/cuda/cublaslt.rs",
        from: "let workspace = WORKSPACE_BYTES as u64;", to: "let workspace = 2 * WORKSPACE_BYTES as u64;", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA, cublasLt: an algorithm is searched for every product", file: "examples/t5/src/backend/cuda/cublaslt.rs",
        from: "if !self.prepared.borrow().contains_key(&shape) {", to: "if true {", caught_by: T5_CUDA },
    Planted { name: "T5 on CUDA, cublasLt: further K/V overwrites the first", file: "examples/t5/src/backend/cuda/cublaslt.rs",
        from: "target.data.at() + target.at as u64", to: "target.data.at()", caught_by: T5_CUDA },
    Planted { name: "a barrier does not wait for the last warp", file: "ptxsim/src/exec/sync.rs",
        from: "self.arrived > 0 && self.arrived >= wanted", to: "self.arrived > 0 && self.arrived + 32 >= wanted", caught_by: SIM },
    Planted { name: "the check of races sees no writes", file: "ptxsim/src/exec/shared.rs",
        from: "self.epoch == 0\n", to: "self.epoch > 0\n || self.epoch == 0\n", caught_by: SIM },
    Planted { name: "bounds are one byte too wide", file: "ptxsim/src/exec/access.rs",
        from: "if bytes > found.bytes - (address - found.base) {", to: "if bytes > found.bytes + 4 - (address - found.base) {", caught_by: SIM },
    Planted { name: "ldmatrix swaps rows and columns", file: "ptxsim/src/exec/tensor.rs",
        from: "*pair = if transpose {", to: "*pair = if !transpose {", caught_by: SIM },
    Planted { name: "the 128-byte swizzle takes the wrong bits", file: "ptxsim/src/exec/shared.rs",
        from: "(address >> 7 & mask)", to: "(address >> 8 & mask)", caught_by: SIM },
    Planted { name: "a proxy fence is taken for granted", file: "ptxsim/src/exec/warp.rs",
        from: "reaches(&self.fenced) || reaches(fences)", to: "reaches(&self.fenced) || reaches(fences) || true", caught_by: SIM },
    Planted { name: "a move hides that its source was used", file: "ptxsim/src/exec/pending.rs",
        from: "used = to;", to: "drop(to);", caught_by: SIM },
    Planted { name: "a warp waits for its own products only", file: "ptxsim/src/exec/wgmma.rs",
        from: "if let Some(late) = group.behind(groups) {", to: "if let Some(late) = group.behind(groups).filter(|_| false) {", caught_by: SIM },
    Planted { name: "a seed leaves the warps in their order", file: "ptxsim/src/exec/cluster.rs",
        from: "random.shuffle(&mut self.order);", to: "let _ = random;", caught_by: SIM },
    Planted { name: "a seed leaves the blocks in their order", file: "ptxsim/src/exec/grid.rs",
        from: "u128::from(turn) * u128::from(step) + u128::from(from)", to: "u128::from(turn)", caught_by: SIM },
    Planted { name: "copies come at once under every seed", file: "ptxsim/src/exec/bulk.rs",
        from: "if self.state.random.as_mut().is_some_and(|random| random.once_in(2)) {", to: "if false {", caught_by: SIM },
    Planted { name: "cp.async comes at once under every seed", file: "ptxsim/src/exec/copies.rs",
        from: "let late = self.state.random.as_mut().is_some_and(|random| random.once_in(2));", to: "let late = false;", caught_by: SIM },
    Planted { name: "undefined bits are tried as zeros only", file: "ptxsim/src/exec/fillings.rs",
        from: "[0, u64::MAX, 0x7b7b_7b7b_7b7b_7b7b, 0xfbfb_fbfb_fbfb_fbfb]", to: "[0, 0, 0, 0]", caught_by: SIM },
    Planted { name: "what nothing has written is defined once it is stored", file: "ptxsim/src/exec/access.rs",
        from: "bytes_of(unknown(warp, k, lane)).for_each(|i| a.forget(at + u64::from(i), 1));", to: "", caught_by: SIM },
    Planted { name: "a relaxed arrival publishes what was written", file: "ptxsim/src/exec/sync.rs",
        from: "if relaxed { &warp.released }", to: "if false { &warp.released }", caught_by: SIM },
    Planted { name: "several lanes of one store are always borne", file: "ptxsim/src/exec/access.rs",
        from: "Err(race) if race.kind == FaultKind::Race && !strict => {", to: "Err(race) if race.kind == FaultKind::Race && (strict || !strict) => {", caught_by: SIM },
    Planted { name: "cp.async never needs a proxy fence", file: "ptxsim/src/exec/shared.rs",
        from: "Kind::Copied => self.checks.copy_fence,", to: "Kind::Copied => false,", caught_by: SIM },
    Planted { name: "a block may leave while copies read its memory", file: "ptxsim/src/exec/shared.rs",
        from: "if last && self.reading > 0 {", to: "if false {", caught_by: SIM },
    Planted { name: "a block of a cluster may leave while others reach it", file: "ptxsim/src/exec/shared.rs",
        from: "last && self.checks.races && unseen", to: "last && self.checks.races && unseen && false", caught_by: SIM },
    Planted { name: "other blocks write over what is still read", file: "ptxsim/src/exec/shared.rs",
        from: "_ => who.clock.get(self.first + warp).is_some_and(|seen| *seen >= epoch)", to: "_ => true", caught_by: SIM },
    Planted { name: "what one warp of a product has seen, all have", file: "ptxsim/src/exec/shared.rs",
        from: "(write.before_all(who) || !self.checks.races)", to: "(write.before_all(who) || true)", caught_by: SIM },
    Planted { name: "four warps may name four operands", file: "ptxsim/src/exec/pending.rs",
        from: "if known.shape == shape {", to: "if true {", caught_by: SIM },
    Planted { name: "a register gives its place on while a loop goes on", file: "ptxsim/src/decode/places.rs",
        from: "life.short &= life.first >= block && ", to: "life.short &= ", caught_by: SIM },
    Planted { name: "a launch does not forget the one before", file: "ptxsim/src/memory/marks.rs",
        from: "left |= new & !WRITTEN_EACH != 0;", to: "let _ = &mut left;", caught_by: SIM },
    Planted { name: "offsets of rows and heads are of 32 bits", file: "cuda/attention/rows.cuh",
        from: "return query * strides.row + head * strides.head;", to: "return static_cast<int>(query * strides.row + head * strides.head);", caught_by: CUDA },
    Planted { name: "T5 plans cross-attention as it likes", file: "examples/t5/src/backend/cuda.rs",
        from: "self.attention.facts(), &self.plans)?;", to: "self.attention.facts(), &PlanOptions::default())?;", caught_by: T5_CUDA },
    Planted { name: "a launch clears the marks of an allocation's beginning alone", file: "ptxsim/src/memory/marks.rs",
        from: "self.used.iter().zip(", to: "self.used.iter().take(1).zip(", caught_by: SIM },
    Planted { name: "an st.async tells an mbarrier of another block", file: "ptxsim/src/exec/bulk.rs",
        from: "if block != barrier_block {", to: "if false {", caught_by: SIM },
    Planted { name: "a recording forgets what the launch before did", file: "ptxsim/src/recording.rs",
        from: "if config.overlaps { u16::MAX } else { WRITTEN }", to: "WRITTEN", caught_by: SIM },
    Planted { name: "a replay is not asked what it left unwritten", file: "ptxsim/src/recording.rs",
        from: "(mark ^ now_mark) & WRITTEN)", to: "(mark ^ now_mark) & 0)", caught_by: SIM },
    Planted { name: "a mutant's result may be an earlier run's", file: "ptxsim/src/mutate/mod.rs",
        from: "launch.recording = fresh;", to: "drop(fresh);", caught_by: SIM },
    Planted { name: "cp.async counts as landed at once", file: "ptxsim/src/exec/shared.rs",
        from: "cell.incoming = true;", to: "", caught_by: SIM },
    Planted { name: "a barrier of the K/V pipeline is removed", file: "cuda/attention/tile.cuh",
        from: "copy_wait<STAGES - 2>();\n        __syncthreads();", to: "copy_wait<STAGES - 2>();", caught_by: CUDA },
    Planted { name: "the wait of the K/V pipeline is a stage too short", file: "cuda/attention/tile.cuh",
        from: "copy_wait<STAGES - 2>();", to: "copy_wait<STAGES - 1>();", caught_by: CUDA },
    Planted { name: "the mask of keys past the end is forgotten", file: "cuda/attention/softmax.cuh",
        from: "if (left >= 8 * N) return;", to: "return;", caught_by: CUDA },
    Planted { name: "the mask of keys is off by one", file: "cuda/attention/softmax.cuh",
        from: "8 * j + i % 2 >= left", to: "8 * j + i % 2 > left", caught_by: CUDA },
    Planted { name: "folded rows past the input's end are written", file: "cuda/attention/join.cuh",
        from: "if (folded >= work.rows) continue;", to: "", caught_by: CUDA_ATTENTION },
    Planted { name: "the scale is applied twice on the card", file: "cuda/attention/softmax.cuh",
        from: "p.score_scale * k_scale * LOG2E", to: "p.score_scale * p.score_scale * k_scale * LOG2E", caught_by: CUDA },
    Planted { name: "the XOR of chunks is lost: bank conflicts", file: "cuda/attention/rows.cuh",
        from: "(chunk ^ (row / (8 / PLACES) & (PLACES - 1)))", to: "chunk", caught_by: CUDA },
    Planted { name: "chunks of 96 columns keep their place: bank conflicts", file: "cuda/attention/rows.cuh",
        from: "CHUNKS % 8 == 0 ? 8 : 4;", to: "CHUNKS % 8 == 0 ? 8 : 1;", caught_by: CUDA },
    Planted { name: "chunks of 96 columns are read in one order: bank conflicts", file: "cuda/attention/join.cuh",
        from: "load_eight(part, &outs[(w * ROWS + row) * WIDTH + chunk * 8], i);", to: "load_eight(part, &outs[(w * ROWS + row) * WIDTH + chunk * 8], chunk);", caught_by: CUDA },
    Planted { name: "combining 96 columns runs into the next head", file: "cuda/attention/combine.cuh",
        from: "if (is_column(c)) store_two(", to: "store_two(", caught_by: CUDA },
    Planted { name: "the output is not rescaled on the card", file: "cuda/attention/tile.cuh",
        from: "if (!all_one(rescale)) scale_rows(out, rescale);", to: "", caught_by: CUDA },
    Planted { name: "few rows from 9.0 on: the output is not rescaled", file: "cuda/sm90/stream.cuh",
        from: "if (!all_one(rescale[t])) scale_rows(out[t], rescale[t]);", to: ";", caught_by: CUDA },
    Planted { name: "e4m3: the output is not rescaled", file: "cuda/sm90/stream_e4m3.cuh",
        from: "if (!all_one(rescales[t])) scale_rows(out[t], rescales[t]);", to: ";", caught_by: CUDA },
    Planted { name: "maxima are followed too late for f16", file: "cuda/attention/softmax.cuh",
        from: "row.log2_scale > 8;", to: "row.log2_scale > 80;", caught_by: CUDA },
    Planted { name: "an equal maximum rescales, by what a product was rounded", file: "cuda/attention/softmax.cuh",
        from: "rises ? row.weight(highest[r], down) : 1.0f;", to: "row.weight(highest[r], down);", caught_by: CUDA },
    Planted { name: "one row of a warp without a new maximum keeps all from being rescaled", file: "cuda/attention/softmax.cuh",
        from: "__all_sync(~0u, factors[0]", to: "__any_sync(~0u, factors[0]", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the vote on factors forgets every second row", file: "cuda/attention/softmax.cuh",
        from: "factors[0] == 1 && factors[1] == 1", to: "factors[0] == 1", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the polynomial of 2^x loses a degree", file: "cuda/attention/softmax.cuh",
        from: "fmaf(0.0013264727f, r, 0.009671513f)", to: "0.009671513f", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the polynomial of 2^x makes a number of NaN", file: "cuda/attention/softmax.cuh",
        from: "max.NaN.f32", to: "max.f32", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the polynomial of 2^-inf is not 0", file: "cuda/attention/softmax.cuh",
        from: "0fC2FE0000", to: "0fC2C80000", caught_by: CUDA },
    Planted { name: "Hopper, many rows: Q of the next entry comes over this one's", file: "cuda/sm90a/warpgroups.cuh",
        from: "q_places + (place ^ 1) * Shape::Q_BYTES", to: "q_places + place * Shape::Q_BYTES", caught_by: CUDA },
    Planted { name: "Hopper, many rows: Q of the next entry is not waited for", file: "cuda/sm90a/warpgroups.cuh",
        from: "            copy_wait<0>();\n            fence_async();", to: "            fence_async();", caught_by: CUDA },
    Planted { name: "the merge takes the first part for all", file: "cuda/attention/combine.cuh",
        from: "(first + static_cast<int64_t>(begin + i) * p.tile_rows) * DIM", to: "first * DIM", caught_by: CUDA },
    Planted { name: "Hopper, few rows: a tile is fetched over one that is still read", file: "cuda/sm90/stream.cuh",
        from: "products.team_sync();\n        if (fetches) fetch", to: "if (fetches) fetch", caught_by: CUDA },
    Planted { name: "Hopper, few rows: V behind the last key is read", file: "cuda/sm90/stream.cuh",
        from: "if (left < KEYS) products", to: "if (left < 0) products", caught_by: CUDA_ATTENTION },
    Planted { name: "Hopper, few rows: a ring's second round does not wait", file: "cuda/sm90/stream.cuh",
        from: "parity ^= stage == 0;", to: "", caught_by: CUDA },
    Planted { name: "Hopper, few rows: a warp takes its neighbour's tiles", file: "cuda/sm90/stream.cuh",
        from: "fetch(tile + RING * KEY_WARPS, stage)", to: "fetch(tile + RING * KEY_WARPS - 1, stage)", caught_by: CUDA },
    Planted { name: "Hopper, many rows: V behind the last key stays", file: "cuda/sm90a/warpgroups.cuh",
        from: "tiles > 0 && left < KEYS", to: "tiles > 0 && left < 0", caught_by: CUDA },
    Planted { name: "a replan allocates on the host", file: "src/cuda/queue.rs",
        from: "fill(list);", to: "drop(std::hint::black_box(vec![0u8; 8])); fill(list);", caught_by: ALLOCATIONS },
    Planted { name: "a replan leaves 16 bytes on the host", file: "src/cuda/prepared.rs",
        from: "self.queue.open()?;\n        self.write(plan)",
        to: "std::mem::forget(std::hint::black_box(Box::new([0u8; 16]))); self.queue.open()?; self.write(plan)", caught_by: SOAK },
    Planted { name: "the list of what was prepared is never freed", file: "src/cuda/prepared.rs",
        from: "let mut prepared = Prepared {", to: "std::mem::forget(lists.clone()); let mut prepared = Prepared {", caught_by: SOAK },
    Planted { name: "a recording's operands are never freed", file: "src/cuda/recording.rs",
        from: "Ok(Recording { graph, queue: self.queue, _kept: self.kept })",
        to: "std::mem::forget(self.kept); Ok(Recording { graph, queue: self.queue, _kept: Vec::new() })", caught_by: SOAK },
    Planted { name: "kernels run though they are not to", file: "ptxsim/driver/src/backend.rs",
        from: "if !self.kernels {", to: "if false && !self.kernels {", caught_by: DRIVER_KERNELS },
    Planted { name: "the driver is not asked for its release", file: "src/cuda/kernels.rs",
        from: "MADE.loads(driver()?, 10 * major + minor)?;", to: "let _ = (major, minor, driver, MADE);", caught_by: CUDA },
    Planted { name: "PTX of a newer nvcc is thought to load", file: "src/cuda/kernels.rs",
        from: "release => release,", to: "(major, _) => (major, 0),", caught_by: CUDA_LIBRARY },
    Planted { name: "Hopper, many rows: zeros in V are not fenced", file: "cuda/sm90a/warpgroups.cuh",
        from: "make_uint4(0, 0, 0, 0));\n                fence_async();", to: "make_uint4(0, 0, 0, 0));", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the first scores have no fence", file: "cuda/sm90a/warpgroups.cuh",
        from: "at.parity);\n                warpgroup_arrive();", to: "at.parity);", caught_by: CUDA },
    Planted { name: "Hopper, many rows: products have no fence behind the exponentials", file: "cuda/sm90a/warpgroups.cuh",
        from: "await_turn();\n                warpgroup_arrive();", to: "await_turn();", caught_by: CUDA },
    Planted { name: "Hopper, many rows: values have no fence", file: "cuda/sm90a/warpgroups.cuh",
        from: "warpgroup_arrive();\n            Multiply::values(", to: "Multiply::values(", caught_by: CUDA },
    Planted { name: "T5 on Hopper: a product has no fence", file: "examples/t5/cuda/gemm_sm90a.cu",
        from: "warpgroup_arrive();", to: "", caught_by: T5_CUDA },
    Planted { name: "Hopper, many rows: scores are read while they are multiplied", file: "cuda/sm90a/warpgroups.cuh",
        from: "warpgroup_wait<1>();", to: "", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the output is rescaled while it is multiplied", file: "cuda/sm90a/warpgroups.cuh",
        from: "warpgroup_wait<0>();\n                settle(out);\n                release(V_EMPTY, last.stage);", to: "release(V_EMPTY, last.stage);", caught_by: CUDA },
    Planted { name: "Hopper, many rows: a K tile is released before it is used", file: "cuda/sm90a/warpgroups.cuh",
        from: "barrier_wait(barrier(K_FULL, at.stage), at.parity);\n                await_turn();",
        to: "barrier_wait(barrier(K_FULL, at.stage), at.parity);\n                release(K_EMPTY, at.stage);\n                await_turn();", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the output is not rescaled beside the scores", file: "cuda/sm90a/warpgroups.cuh",
        from: "if (!Shape::TURNS) rescale_out();", to: "", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the output is not rescaled behind its product", file: "cuda/sm90a/warpgroups.cuh",
        from: "if (Shape::TURNS) rescale_out();", to: "", caught_by: CUDA },
    Planted { name: "Hopper, many rows: a ring's second round does not wait", file: "cuda/sm90a/warpgroups.cuh",
        from: "parity ^= STAGES == 2 ? stage ^ 1 : stage == 0;", to: "", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the places of a ring of three are four", file: "cuda/sm90a/warpgroups.cuh",
        from: "stage + 1 == STAGES ? 0 : stage + 1", to: "stage + 1 & 3", caught_by: CUDA },
    Planted { name: "Hopper, many rows: a block stays at its first entry", file: "cuda/sm90a/warpgroups.cuh",
        from: "first += blocks, back = !back;", to: "first += p.work_count;", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the way back leaves an entry out", file: "cuda/sm90a/warpgroups.cuh",
        from: "blocks / CLUSTER - 1 - cluster", to: "blocks / CLUSTER - cluster", caught_by: CUDA },
    Planted { name: "Hopper, many rows: what stands behind the list is work", file: "cuda/sm90a/warpgroups.cuh",
        from: "entry < p.work_count ? p.work[entry] : OnekvWork{}", to: "p.work[entry]", caught_by: CUDA },
    Planted { name: "Hopper, many rows: Q of the next entry comes over rows that are still written", file: "cuda/sm90a/warpgroups.cuh",
        from: "named_sync(group, 128);\n                fetch_q(work, q_tile);", to: "fetch_q(work, q_tile);", caught_by: CUDA },
    Planted { name: "Hopper, many rows: products begin before all of Q is there", file: "cuda/sm90a/warpgroups.cuh",
        from: "named_sync(group, 128);\n            if (AHEAD)", to: "if (AHEAD)", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the next entry reads the last tile again", file: "cuda/sm90a/warpgroups.cuh",
        from: "release(V_EMPTY, at.stage);\n                at.next();", to: "release(V_EMPTY, at.stage);", caught_by: CUDA },
    Planted { name: "Hopper, many rows: the output of the entry before is added", file: "cuda/sm90a/warpgroups.cuh",
        from: "for (auto& row : out) row[0] = row[1] = row[2] = row[3] = 0;", to: "for (auto& row : out) row[0] = first_row == 0 && at.stage == 0 ? 0 : row[0];", caught_by: CUDA },
    Planted { name: "Hopper, many rows: V is multiplied before it is there", file: "cuda/sm90a/warpgroups.cuh",
        from: "barrier_wait(barrier(V_FULL, last.stage), last.parity);", to: "", caught_by: CUDA },
    Planted { name: "Hopper, many rows: every lane of the producer fetches", file: "cuda/sm90a/warpgroups.cuh",
        from: "threadIdx.x / 32, 0) == 0 && elected()", to: "threadIdx.x / 32, 0) == 0", caught_by: CUDA },
    Planted { name: "Hopper, many rows: nobody has the first turn", file: "cuda/sm90a/warpgroups.cuh",
        from: "if (group == Shape::GROUPS) pass_turn();", to: "", caught_by: CUDA },
    Planted { name: "Hopper, many rows: of three warpgroups one is never passed the turn", file: "cuda/sm90a/warpgroups.cuh",
        from: "TURN + group % Shape::GROUPS + 1", to: "TURN + (group == 1 ? 2 : 1)", caught_by: CUDA },
    Planted { name: "Hopper: a panel of V follows the wrong one", file: "cuda/sm90a/warpgroups.cuh",
        from: "return tile_descriptor(address, KEYS * 128);", to: "return tile_descriptor(address, KEYS * 64);", caught_by: CUDA },
    Planted { name: "Hopper, clusters: the peer is not told of a release", file: "cuda/sm90a/warpgroups.cuh",
        from: "if (lane < Shape::CLUSTER) barrier_arrive_at", to: "if (lane == cluster_rank()) barrier_arrive_at", caught_by: CUDA },
    Planted { name: "Hopper, clusters: a stage is free when half of the consumers say so", file: "cuda/sm90a/warpgroups.cuh",
        from: "4 * Shape::GROUPS * Shape::CLUSTER", to: "4 * Shape::GROUPS", caught_by: CUDA },
    Planted { name: "Hopper, clusters: a tile is full when half of it is there", file: "cuda/sm90a/warpgroups.cuh",
        from: "barrier_arrive_expect(done, Shape::TILE_BYTES)", to: "barrier_arrive_expect(done, Shape::PART_BYTES)", caught_by: CUDA },
    Planted { name: "Hopper, clusters: a block reaches its peer before that has set up", file: "cuda/sm90a/warpgroups.cuh",
        from: "if constexpr (PAIR) cluster_sync();\n    else __syncthreads();", to: "__syncthreads();", caught_by: CUDA },
    Planted { name: "Hopper, clusters: a block leaves while its peer still arrives", file: "cuda/sm90a/warpgroups.cuh",
        from: "PAIR && i < STAGES", to: "PAIR && i < 0", caught_by: CUDA },
    Planted { name: "Hopper, clusters: both blocks fetch the same half", file: "cuda/sm90a/warpgroups.cuh",
        from: "rank * Shape::PART_PANELS", to: "0", caught_by: CUDA },
    Planted { name: "clusters of splits: rows are sent before the copy engine sees them", file: "cuda/attention/join.cuh",
        from: "fence_async();\n    __syncthreads();", to: "__syncthreads();", caught_by: CUDA },
    Planted { name: "clusters of splits: rows arrive where they are still joined", file: "cuda/attention/join.cuh",
        from: "// All blocks have read what the rows will come over.\n    cluster_sync();", to: "", caught_by: CUDA },
    Planted { name: "clusters of splits: a block leaves while its rows are under way", file: "cuda/attention/join.cuh",
        from: "// This block's rows have arrived everywhere, and it may end.\n    cluster_sync();", to: "", caught_by: CUDA },
    Planted { name: "clusters of splits: rows are combined before they have come", file: "cuda/attention/join.cuh",
        from: "barrier_wait(arrived, 0);", to: "", caught_by: CUDA },
    Planted { name: "clusters of splits: every block sends to the same place", file: "cuda/attention/join.cuh",
        from: "(rank * of_block + row % of_block) * RECORD * 4", to: "(row % of_block) * RECORD * 4", caught_by: CUDA },
    Planted { name: "clusters of splits: a block writes the first one's rows", file: "cuda/attention/join.cuh",
        from: "work.tile + rank * of_block + row, chunk", to: "work.tile + row, chunk", caught_by: CUDA },
    Planted { name: "clusters of splits: sums in another order than a warp's", file: "cuda/attention/join.cuh",
        from: "lse[r] += lse[r + step];", to: "lse[r] = lse[2 * r] + lse[2 * r + 1];", caught_by: CUDA },
    Planted { name: "clusters of splits: bank conflicts where rows are left", file: "cuda/attention/join.cuh",
        from: "of[flip] = flip ? high : low;\n    of[flip ^ 1] = flip ? low : high;", to: "(flip, of[0] = low);\n    of[1] = high;", caught_by: CUDA },
    Planted { name: "clusters of splits: the launch has none", file: "src/cuda/prepared.rs",
        from: "cluster: self.launch.split_cluster,", to: "cluster: 1,", caught_by: CUDA },
    Planted { name: "clusters of splits: a replan brings another size", file: "src/cuda/prepared.rs",
        from: "(\"split_cluster\", plan.split_cluster(), self.launch.split_cluster),", to: "", caught_by: STREAMS },
    Planted { name: "clusters of splits: parts that come to more are left out", file: "src/plan/lists.rs",
        from: "let keys = split_keys.max(evenly);", to: "let keys = split_keys.max(evenly.min(1));", caught_by: LIBRARY },
    Planted { name: "clusters of splits: as many blocks without keys as there may be", file: "src/plan/cost.rs",
        from: "5.0 * blocks >= 4.0 * launched(*cluster)", to: "5.0 * blocks >= 1.0 * launched(*cluster)", caught_by: LIBRARY },
    Planted { name: "clusters of splits: joining is never cheaper", file: "src/plan/cost.rs",
        from: "_ => self.constants.join_us,", to: "_ => self.combine_us(split),", caught_by: LIBRARY },
    Planted { name: "settled K and V wait all the same", file: "cuda/sm90/stream.cuh",
        from: "if (!p.kv_settled) predecessors_wait();", to: "predecessors_wait();", caught_by: CUDA },
    Planted { name: "K and V are taken for settled", file: "src/cuda/recording.rs",
        from: "kv_settled: self.kv_settled }", to: "kv_settled: true }", caught_by: CUDA },
    Planted { name: "Q is taken for settled as well", file: "cuda/sm90/stream.cuh",
        from: "    if (p.kv_settled) predecessors_wait();\n", to: "", caught_by: CUDA },
    Planted { name: "Hopper, many rows: settled K and V wait all the same", file: "cuda/sm90a/warpgroups.cuh",
        from: "if (!p.kv_settled) predecessors_wait();", to: "predecessors_wait();", caught_by: CUDA },
    Planted { name: "Hopper, many rows: Q is taken for settled as well", file: "cuda/sm90a/warpgroups.cuh",
        from: "\n        predecessors_wait();\n", to: "\n        if (!p.kv_settled) predecessors_wait();\n", caught_by: CUDA },
    Planted { name: "few rows on 12.0 take the rings of 9.0", file: "src/plan/variants.rs",
        from: "stream((Sm120, dtype, 2), 128, 1, 1, 16, 2),", to: "stream((Sm120, dtype, 2), 128, 1, 1, 16, 3),", caught_by: LIBRARY },
    Planted { name: "cards after Hopper take kernels of 8.0 for few rows", file: "src/architecture.rs",
        from: "((9, 0)..(12, 0)).contains(&capability)", to: "capability == (9, 0)", caught_by: LIBRARY },
    Planted { name: "an older kernel is kept beside the newer", file: "src/plan/variants.rs",
        from: "does(self) == does(older) && self.architecture > older.architecture", to: "{ let _ = (does, older); false }", caught_by: LIBRARY },
    Planted { name: "blocks of a cluster have rows in common", file: "src/plan/lists.rs",
        from: "cluster..cluster + variant.cluster", to: "cluster / 2..cluster / 2 + variant.cluster", caught_by: LIBRARY },
    Planted { name: "the shortest blocks start first", file: "src/plan/lists.rs",
        from: "Reverse(parts.length)", to: "parts.length", caught_by: LIBRARY },
    Planted { name: "splits that cost less are not looked at", file: "src/plan/search.rs",
        from: "model.least_of_finer(&split)", to: "1.1 * model.least_of_finer(&split)", caught_by: LIBRARY },
    Planted { name: "the map of K takes heads for rows", file: "src/cuda/tensor_map.rs",
        from: "taken(strides.head, shape.heads)", to: "taken(strides.row, shape.heads)", caught_by: CUDA },
    Planted { name: "e4m3 K takes the scale of another head", file: "cuda/sm90/stream_e4m3.cuh",
        from: "p.k_scale[work.kv_head]", to: "p.k_scale[0]", caught_by: E4M3 },
    Planted { name: "v_scale is forgotten on partial states", file: "cuda/attention/join.cuh",
        from: "v_scale / total", to: "(work.slot >= 0 ? 1.0f : v_scale) / total", caught_by: E4M3 },
    Planted { name: "pairs of e4m3 bytes change places", file: "cuda/ptx/e4m3.cuh",
        from: "mov.b32 {low, high}, %2", to: "mov.b32 {high, low}, %2", caught_by: E4M3 },
    Planted { name: "e4m3 V is not put in order for the product", file: "cuda/sm90/stream_e4m3.cuh",
        from: "0x3120", to: "0x3210", caught_by: E4M3 },
    Planted { name: "bf16 Q is rounded to f16 as it is", file: "cuda/sm90/stream_e4m3.cuh",
        from: "min(127 + 14 + 127 - (largest >> 7), 253)", to: "127", caught_by: E4M3 },
    Planted { name: "scores take the factor of another row", file: "cuda/sm90/stream_e4m3.cuh",
        from: "this->lane / 4 + 8 * r", to: "this->lane / 4", caught_by: E4M3 },
    Planted { name: "e4m3: sums of the other half of head_dim are read before they are there", file: "cuda/sm90/stream_e4m3.cuh",
        from: "if (!TEAM) return;\n        this->team_sync();", to: "if (!TEAM) return;", caught_by: E4M3 },
    Planted { name: "e4m3: weights of the other warp are read before they are there", file: "cuda/sm90/stream_e4m3.cuh",
        from: "sum[0][0], sum[0][1]);\n            this->team_sync();", to: "sum[0][0], sum[0][1]);", caught_by: E4M3 },
    Planted { name: "e4m3: both warps multiply the same half of head_dim", file: "cuda/sm90/stream_e4m3.cuh",
        from: "chunk(k_tile, this->lane, this->first_column() / 16)", to: "chunk(k_tile, this->lane, 0)", caught_by: E4M3 },
    Planted { name: "a k_scale of 0 masks no keys", file: "cuda/sm90/stream.cuh",
        from: ", __FLT_DENORM_MIN__);", to: ", 0);", caught_by: E4M3 },
    Planted { name: "e4m3: dot products with their row's factor overflow", file: "cuda/sm90/stream.cuh",
        from: "highest[t][r] *= log2_scale[t][r]",
        to: "highest[t][r] *= (score.cap > 0 ? 1 : products.row_factor(t, r)), highest[t][r] *= score.log2_scale",
        caught_by: E4M3 },
    Planted { name: "e4m3: dot products with their row's factor overflow before the softcap", file: "cuda/attention/softmax.cuh",
        from: "dot * (inner * factor)", to: "dot * factor * inner", caught_by: E4M3 },
    Planted { name: "Q's chunks are stored in one order: bank conflicts", file: "cuda/sm90/stream_e4m3.cuh",
        from: "unit >> 2 & 1", to: "0", caught_by: CUDA },
    Planted { name: "e4m3 rows of 64 bytes are described with another swizzle", file: "src/cuda/tensor_map.rs",
        from: "CU_TENSOR_MAP_SWIZZLE_64B", to: "CU_TENSOR_MAP_SWIZZLE_32B", caught_by: E4M3 },
    Planted { name: "scales too few are taken", file: "src/cuda/operands.rs",
        from: "list.elements() < min", to: "list.elements() + 1 < min", caught_by: E4M3 },
    Planted { name: "ties round up in e4m3", file: "src/e4m3.rs",
        from: "round_ties_even()", to: "round()", caught_by: LIBRARY },
    Planted { name: "Hopper: the merge does not wait for the attention before it", file: "cuda/sm90/combine.cu",
        from: "predecessors_wait();", to: "", caught_by: CUDA },
    Planted { name: "the streams of operands do not wait for a run", file: "src/cuda/operands.rs",
        from: "if join(&other, self.stream).is_err() {", to: "if false && join(&other, self.stream).is_err() {", caught_by: STREAMS },
    Planted { name: "a run does not wait for the streams of operands", file: "src/cuda/operands.rs",
        from: "join(self.stream, owner)?;", to: "", caught_by: STREAMS },
    Planted { name: "a context is its handle", file: "src/cuda/driver.rs",
        from: "match Arc::ptr_eq(ours, theirs) {", to: "match ours.cu_ctx() == theirs.cu_ctx() {", caught_by: STREAMS },
    Planted { name: "memory of a thread's own stream is taken", file: "src/cuda/operands.rs",
        from: "if is_per_thread(owner) && !self.of_threads {", to: "if false && is_per_thread(owner) && !self.of_threads {", caught_by: STREAMS },
    Planted { name: "a recording takes memory of other streams", file: "src/cuda/operands.rs",
        from: "if self.recorded {", to: "if false {", caught_by: STREAMS },
    Planted { name: "a captured stream takes runs", file: "src/cuda/operands.rs",
        from: "queue.open()?;", to: "", caught_by: STREAMS },
    Planted { name: "a captured stream takes replans", file: "src/cuda/queue.rs",
        from: "    pub fn open(&self) -> Result<()> {\n        if is_captured(&self.stream)? {", to: "    pub fn open(&self) -> Result<()> {\n        if false {", caught_by: STREAMS },
    Planted { name: "what is dropped during a capture is freed by its graph", file: "src/cuda/memory.rs",
        from: "&& !self.retired.may_free()", to: "&& false", caught_by: STREAMS },
    Planted { name: "a recording does not keep its operands", file: "src/cuda/recording.rs",
        from: "self.kept.push(Box::new((prepared.memory(), operands)));", to: "drop(operands); self.kept.push(Box::new(prepared.memory()));", caught_by: STREAMS },
    Planted { name: "a recording does not keep its lists", file: "src/cuda/recording.rs",
        from: "self.kept.push(Box::new((prepared.memory(), operands)));", to: "self.kept.push(Box::new(operands));", caught_by: STREAMS },
    Planted { name: "a list is written over before it was copied", file: "src/cuda/queue.rs",
        from: "        copied.synchronize()?;\n", to: "", caught_by: STREAMS },
    Planted { name: "work of a longer batch stays behind that of a shorter one", file: "src/cuda/prepared.rs",
        from: "work[plan.work().len()..].fill(OnekvWork::zeroed());", to: "", caught_by: STREAMS },
    Planted { name: "combinations of a longer batch stay", file: "src/cuda/prepared.rs",
        from: "combines[plan.combines().len()..].fill(OnekvCombine::zeroed());", to: "", caught_by: STREAMS },
    Planted { name: "a recording has the blocks of the batch that it was recorded with", file: "src/cuda/prepared.rs",
        from: "match lane.captured {\n            true", to: "match false {\n            true", caught_by: STREAMS },
    Planted { name: "a replan may be larger than what was prepared", file: "src/cuda/prepared.rs",
        from: "            if value > max {\n                return Err(Error::OverPrepared", to: "            if false && value > max {\n                return Err(Error::OverPrepared", caught_by: STREAMS },
    Planted { name: "memory is freed in whichever context is current", file: "src/cuda/memory.rs",
        from: " && make_current(self.stream.context()).is_ok()", to: "", caught_by: STREAMS },
    Planted { name: "memory is copied from another card", file: "src/cuda/memory.rs",
        from: "same_context(self.stream().context(), from.stream().context(), \"from\")?;", to: "", caught_by: STREAMS },
    Planted { name: "more memory than there is an address for", file: "src/cuda/memory.rs",
        from: ".filter(|bytes| isize::try_from(*bytes).is_ok())", to: ".or(Some(0))", caught_by: STREAMS },
    Planted { name: "an error that another left ends a copy half-way", file: "src/cuda/driver.rs",
        from: "unsafe { result::ctx::set_current(context.cu_ctx()) }", to: "context.bind_to_thread()", caught_by: STREAMS },
    Planted { name: "a wait of cudarc's that failed is not noticed", file: "src/cuda/operands.rs",
        from: "waits.map_err(cuda(WAIT)).map(|()| placed)", to: "waits.map_err(cuda(WAIT)).or(Ok(())).map(|()| placed)", caught_by: FAILING },
    Planted { name: "a wait of cudarc's that failed is not noticed, of memory", file: "src/cuda/memory.rs",
        from: "waits.map_err(cuda(WAIT))?;", to: "let _ = waits.map_err(cuda(WAIT));", caught_by: FAILING },
    Planted { name: "cudarc does not know of a run, and nobody waits", file: "src/cuda/operands.rs",
        from: "told.or_else(|_| synchronize(self.stream))", to: "told.or(Ok(()))", caught_by: FAILING },
    Planted { name: "what follows hides the error of a launch", file: "src/cuda/prepared.rs",
        from: "launched.and(completed)", to: "completed.and(launched)", caught_by: FAILING },
    Planted { name: "a launch that failed is none", file: "src/cuda/modules.rs",
        from: ".map_err(cuda(\"cuLaunchKernelEx\"))", to: ".map_err(cuda(\"cuLaunchKernelEx\")).or(Ok(()))", caught_by: FAILING },
    Planted { name: "lists that a failed replan has not written are run", file: "src/cuda/prepared.rs",
        from: "        self.now = None;\n", to: "", caught_by: FAILING },
    Planted { name: "a second way to wait for lists is not tried", file: "src/cuda/queue.rs",
        from: "ring.wait().or_else(by_stream).is_err()", to: "ring.wait().is_err()", caught_by: FAILING },
    Planted { name: "a second way to wait for kernels is not tried", file: "src/cuda/queue.rs",
        from: "captured || done().or_else(by_stream).is_err()", to: "captured || done().is_err()", caught_by: FAILING },
    Planted { name: "kernels are kept where a queue's last question fails once", file: "src/cuda/queue.rs",
        from: "asked().or_else(|_| asked()).unwrap_or(true)", to: "asked().unwrap_or(true)", caught_by: FAILING },
    Planted { name: "lists are lost where waiting for them fails", file: "src/cuda/queue.rs",
        from: "let ring = match &mut self.ring {", to: "if least < len && let Some(old) = self.ring.take() { if let Err(e) = old.wait() { std::mem::forget(old); return Err(e); } }\n let ring = match &mut self.ring {", caught_by: FAILING },
    Planted { name: "pinned memory is not freed", file: "src/cuda/queue.rs",
        from: "self.context.record_err(unsafe { result::free_host(self.at.cast()) });", to: "", caught_by: FAILING },
    Planted { name: "pinned memory is named as another", file: "src/cuda/queue.rs",
        from: "cuda(\"cuMemHostAlloc\")", to: "cuda(\"cuMemAllocAsync\")", caught_by: FAILING },
    Planted { name: "a capture whose end failed goes on", file: "src/cuda/recording.rs",
        from: "        if self.runs {", to: "        if false {", caught_by: FAILING },
    Planted { name: "a graph is not destroyed", file: "src/cuda/recording.rs",
        from: "let _ = unsafe { result::graph::destroy(self.0) };", to: "", caught_by: FAILING },
    Planted { name: "facts that the driver does not tell are 0", file: "src/cuda/kernels.rs",
        from: ".map_err(cuda(\"cuDeviceGetAttribute\"))?;", to: ".unwrap_or(0);", caught_by: FAILING },
    Planted { name: "nothing says that the context is lost", file: "src/error.rs",
        from: "if self.is_context_lost() { ", to: "if false { ", caught_by: FAILING },
    Planted { name: "kernels stay where their context cannot be made current", file: "src/cuda/modules.rs",
        from: "let _ = make_current(&self.context);\n            // SAFETY: loaded", to: "if make_current(&self.context).is_err() { continue; }\n            // SAFETY: loaded", caught_by: FAILING },
    Planted { name: "T5 takes a card that fails for another card", file: "examples/t5/src/backend/cuda/driver.rs",
        from: "            Err(error) => Err(error),", to: "            Err(_) => Ok::<bool, Error>(false),", caught_by: T5_FAILING },
    Planted { name: "a virtual driver's call fails one too late", file: "ptxsim/driver/src/inject.rs",
        from: "let fails = number == wish.nth", to: "let fails = number == wish.nth + 1", caught_by: DRIVER_FAILING },
    Planted { name: "a fault that was asked for does not last", file: "ptxsim/driver/src/inject.rs",
        from: "driver.cards[card].sticky.get_or_insert(code.into());", to: "let _ = &driver.cards[card].sticky;", caught_by: DRIVER_FAILING },
    Planted { name: "a recording with a failed run is one", file: "src/cuda/recording.rs",
        from: "self.failed |= done.is_err();", to: "", caught_by: STREAMS },
    Planted { name: "every input reads the first slot of K and V", file: "cuda/attention/tile.cuh",
        from: "static_cast<const T*>(p.k) + work.kv_slot * p.k_slot + ", to: "static_cast<const T*>(p.k) + ", caught_by: CUDA_ATTENTION },
    Planted { name: "Hopper: every input reads the first slot of V", file: "cuda/sm90/stream.cuh",
        from: "tensor_load(to + Shape::TILE_BYTES, v_map, 0, key, 0, work.kv_head, work.kv_slot, barrier);",
        to: "tensor_load(to + Shape::TILE_BYTES, v_map, 0, key, 0, work.kv_head, 0, barrier);", caught_by: CUDA_ATTENTION },
    Planted { name: "a plan's last split ends a tile early", file: "src/plan/lists.rs",
        from: "(of_part).min(input.keys.len())", to: "(of_part).min(input.keys.len().max(1) - 1)", caught_by: CUDA },
    Planted { name: "candle: a tensor is read from its storage's beginning", file: "src/interop/candle/operand.rs",
        from: "[self.offset..]", to: "[0 * self.offset..]", caught_by: CANDLE },
    Planted { name: "candle: a CUDA tensor is read from its storage's beginning", file: "src/interop/candle/cuda.rs",
        from: ".slice(self.offset..)", to: ".slice(0..)", caught_by: CANDLE },
    Planted { name: "candle: heads are taken to stand close together", file: "src/interop/candle/operand.rs",
        from: "(head, along_vector) = (stride[leading.len()],", to: "(head, along_vector) = (vector,", caught_by: CANDLE },
    Planted { name: "candle: the distance of inputs is taken for that of tokens", file: "src/interop/candle/operand.rs",
        from: ".rev().filter", to: ".filter", caught_by: CANDLE },
    Planted { name: "candle: two distances from row to row are taken for one", file: "src/interop/candle/operand.rs",
        from: "along != row.get_or_insert(along).saturating_mul(rows)",
        to: "along != row.get_or_insert(along).saturating_mul(rows) && dims.len() < 4", caught_by: CANDLE },
    Planted { name: "candle: slots stand as close as their keys", file: "src/interop/candle/operand.rs",
        from: "Strides { input: stride[0], ", to: "Strides { input: stride[1] * tokens, ", caught_by: CANDLE },
    Planted { name: "candle: slots are only counted", file: "src/interop/candle/operand.rs",
        from: "slots && dims != [inputs, tokens, heads, vector]", to: "slots && dims.iter().product::<usize>() != shape.elements()", caught_by: CANDLE },
    Planted { name: "candle: vectors without memory of their own are not refused by name", file: "src/interop/candle/operand.rs",
        from: "dims[*dim] > 1 && stride[*dim] == 0", to: "dims[*dim] > 1 && stride[*dim] == 0 && name.is_empty()", caught_by: CANDLE },
    Planted { name: "candle: what has no elements counts as expanded", file: "src/interop/candle/operand.rs",
        from: " && !dims.contains(&0)", to: "", caught_by: CANDLE },
    Planted { name: "candle: K is copied", file: "src/interop/candle.rs",
        from: "let operands = Operands::new(", to: "let k = &k.contiguous()?; let operands = Operands::new(", caught_by: CANDLE },
    Planted { name: "candle: a plan is kept for shapes alone", file: "src/interop/candle.rs",
        from: "(kept.dtype, &kept.options, &kept.problem) == (onekv, options, problem)",
        to: "(kept.dtype, kept.problem.query_shape(), kept.problem.kv_shape()) == (onekv, problem.query_shape(), problem.kv_shape())", caught_by: CANDLE },
    Planted { name: "candle: one plan too many is kept", file: "src/interop/candle.rs",
        from: "kept.truncate(KEPT_PLANS)", to: "kept.truncate(KEPT_PLANS + 1)", caught_by: CANDLE },
    Planted { name: "candle: the plan that was just asked for leaves first", file: "src/interop/candle.rs",
        from: "Some(planned) => planned,", to: "Some(planned) => { kept.push_back(planned.clone()); return Ok(planned) }", caught_by: CANDLE },
    Planted { name: "candle: a replan keeps the lengths", file: "src/interop/candle.rs",
        from: "self.problem = problem.clone();", to: "", caught_by: CANDLE },
    Planted { name: "candle: a replan takes another scale", file: "src/interop/candle.rs",
        from: "if value != planned {", to: "if value != planned && field != \"scale\" {", caught_by: CANDLE },
    Planted { name: "candle: a storage is locked once for each operand", file: "src/interop/candle/operand.rs",
        from: "|(held, _)| *held == at", to: "|(held, _)| *held == at + 1", caught_by: CANDLE },
    Planted { name: "candle: nothing stands behind the end of its memory", file: "src/interop/candle/operand.rs",
        from: "if shape.elements() == 0 { 0 }", to: "if shape.vector == 0 { 0 }", caught_by: CANDLE },
    Planted { name: "candle: work of another stream is not waited for", file: "src/interop/candle/cuda.rs",
        from: "!storage.device.same_device(device)", to: "false", caught_by: CANDLE },
    Planted { name: "candle: V is read at K's strides", file: "src/interop/candle/cpu.rs",
        from: "v: v.in_host_memory()?", to: "v: k.view(v.in_host_memory::<E>()?.data)", caught_by: CANDLE },
    Planted { name: "candle: V is K on CUDA", file: "src/interop/candle/cuda.rs",
        from: "v: v.in_device_memory::<E>(device)?", to: "v: k.in_device_memory::<E>(device)?", caught_by: CANDLE },
    Planted { name: "candle: a gradient gets lost", file: "src/interop/candle/operand.rs",
        from: "if tensor.track_op() {", to: "if tensor.track_op() && name.is_empty() {", caught_by: CANDLE },
    Planted { name: "candle: the LSE has another dimension", file: "src/interop/candle/operand.rs",
        from: "&[], |(_, leading)| leading", to: "&[], |(_, leading)| &leading[1..]", caught_by: CANDLE },
    Planted { name: "candle: a state's LSE is read from its storage's beginning", file: "src/interop/candle/operand.rs",
        from: "lse.layout().start_offset()", to: "0 * lse.layout().start_offset()", caught_by: CANDLE },
    Planted { name: "T5 on candle: its decoder has the encoder's buckets, as candle's", file: "examples/candle-t5/src/model.rs",
        from: "config.decoder_layers, Direction::Back", to: "config.decoder_layers, Direction::Both", caught_by: CANDLE_T5 },
    Planted { name: "T5 on candle: padding is a token", file: "examples/candle-t5/src/model.rs",
        from: "column < lengths[prompt]", to: "column < lengths[prompt] + 1", caught_by: CANDLE_T5 },
    Planted { name: "T5 on candle: tied logits are not scaled", file: "examples/candle-t5/src/model.rs",
        from: "(d as f64).powf(-0.5)", to: "1.0", caught_by: CANDLE_T5 },
    Planted { name: "T5 on candle: prompts read another input", file: "examples/candle-t5/src/model.rs",
        from: "self.prompts.iter().map(|prompts| prompts * tokens)",
        to: "self.prompts.iter().rev().map(|prompts| prompts * tokens)", caught_by: CANDLE_T5 },
    Planted { name: "T5 on candle: candle's flash attention does other work", file: "examples/candle-t5/src/measure.rs",
        from: "flash_attn::<f32>(q, k, v, 1.0,", to: "flash_attn::<f32>(q, k, v, 0.9,", caught_by: CANDLE_T5 },
    Planted { name: "what waits again and caps scores counts as a part of the loop", file: "xtask/src/codegen/sass.rs",
        from: "if region.iter().any(counts) {", to: "if !region.is_empty() {", caught_by: SASS },
    Planted { name: "what one lane fetches is no part of the loop", file: "xtask/src/codegen/sass.rs",
        from: "if region.iter().any(counts) {", to: "if region.is_empty() {", caught_by: SASS },
    Planted { name: "a loop is all that lies on a cycle with it", file: "xtask/src/codegen/sass.rs",
        from: "if rest.len() < body.len()", to: "if rest.len() > body.len()", caught_by: SASS },
    Planted { name: "a kernel's first instruction is no way into a loop", file: "xtask/src/codegen/sass.rs",
        from: "*i == 0 || self", to: "self", caught_by: SASS },
    Planted { name: "two tiles of a pass count as one", file: "xtask/src/codegen/sass.rs",
        from: "count.div_ceil(done / products)", to: "count.div_ceil(1)", caught_by: SASS },
    Planted { name: "a tile may take any number of instructions", file: "xtask/src/codegen/check.rs",
        from: "if found > bound.most {", to: "if found > 2 * bound.most {", caught_by: BOUNDS },
    Planted { name: "launch bounds need not name blocks", file: "xtask/src/codegen/check.rs",
        from: "if !name.contains(',') {", to: "if name.is_empty() {", caught_by: BOUNDS },
    Planted { name: "times that are longer than predicted are never far off", file: "xtask/src/model.rs",
        from: "error.abs() > TRUSTED", to: "error > TRUSTED", caught_by: MODEL },
    Planted { name: "the model has its blocks on one multiprocessor", file: "xtask/src/model/attention.rs",
        from: "busy.iter_mut().min()", to: "busy.iter_mut().max()", caught_by: MODEL },
    Planted { name: "a faster clock of products takes longer", file: "xtask/src/model/attention.rs",
        from: "/ clock_ghz(v, a) * 1e-3;", to: "* clock_ghz(v, a) * 1e-3;", caught_by: MODEL },
    Planted { name: "weights are fetched before there is time for it", file: "xtask/src/model/t5.rs",
        from: "let early = (free_us + a.gap_us).min(bytes.min(a.t5.ring_bytes) / bytes_per_us);",
        to: "let early = bytes.min(a.t5.ring_bytes) / bytes_per_us;", caught_by: MODEL },
    Planted { name: "the model's bytes are those of 16 bits in e4m3", file: "xtask/src/report/data.rs",
        from: "if self.e4m3_kv { 1 } else { 2 }", to: "2", caught_by: MODEL },
    Planted { name: "fit compares plans in e4m3 with those in 16 bits", file: "xtask/src/fit.rs",
        from: "groups.entry((i, line.shape.clone()))", to: "groups.entry((i, line.shape.with_16_bit_kv()))", caught_by: FIT },
    Planted { name: "the report holds copies of K and V to the output of one", file: "xtask/src/report/data/file.rs",
        from: ".filter(|_| owner != Owner::Replicated)", to: "", caught_by: REPORT },
    Planted { name: "the virtual GPU ends a context that another thread has retained", file: "ptxsim/driver/src/api/context.rs",
        from: "if all || card.primary_references == 0 {", to: "{", caught_by: DRIVER },
    Planted { name: "the virtual GPU takes instantiation flags of another call", file: "ptxsim/driver/src/api/graph.rs",
        from: "instantiate(out, graph, flags, AUTO_FREE | DEVICE_LAUNCH | NODE_PRIORITY)",
        to: "instantiate(out, graph, flags, AUTO_FREE | UPLOAD | DEVICE_LAUNCH | NODE_PRIORITY)", caught_by: DRIVER_FLAGS },
    Planted { name: "the virtual GPU's legacy stream is ready before blocking streams are", file: "ptxsim/driver/src/schedule.rs",
        from: "if self.is_legacy(stream) {", to: "if false && self.is_legacy(stream) {", caught_by: DRIVER_FLAGS },
    Planted { name: "the virtual GPU looks up what came before a release", file: "ptxsim/driver/src/api/lookup.rs",
        from: "**since <= version", to: "**since < version", caught_by: DRIVER_LIBRARIES },
    Planted { name: "the virtual GPU forgets what was set on a library's kernel", file: "ptxsim/driver/src/api/module.rs",
        from: "let settings = settings.unwrap_or_default();", to: "drop(settings); let settings = crate::state::Settings::default();", caught_by: DRIVER_LIBRARIES },
    Planted { name: "the virtual GPU shares host memory past its end", file: "ptxsim/driver/src/api/unified.rs",
        from: "device.share(words, bytes)", to: "device.share(words, 4 * words.len())", caught_by: DRIVER_UNIFIED },
    Planted { name: "cuRAND's stand-in draws too close to the mean", file: "ptxsim/candle/src/random.rs",
        from: "mean + deviation * radius * part", to: "mean + 0.9 * deviation * radius * part", caught_by: CURAND },
    Planted { name: "the stand-in for the runtime copies from a variable's beginning", file: "ptxsim/cudart/src/memory.rs",
        from: "Ok(address as usize + offset)", to: "Ok(address as usize)", caught_by: CUDART },
    Planted { name: "C: memory that is written may overlap", file: "interop/c/src/operands.rs",
        from: ".filter(|_| written)", to: ".filter(|_| false && written)", caught_by: C },
    Planted { name: "C: a NULL that has a length is memory", file: "interop/c/src/operands.rs",
        from: "if view.data.is_null() {", to: "if false && view.data.is_null() {", caught_by: C },
    Planted { name: "C: bf16 is f16", file: "interop/c/src/operands.rs",
        from: "type $E = half::bf16;", to: "type $E = half::f16;", caught_by: C },
    Planted { name: "C: what pads the keys is read", file: "interop/c/src/problem.rs",
        from: "Keys::Padded { max_keys, lengths }", to: "Keys::Padded { max_keys, lengths: vec![max_keys; lengths.len()] }", caught_by: C },
    Planted { name: "C: a handle that was not made is not NULL", file: "interop/c/src/handles.rs",
        from: "unsafe { to.write(std::ptr::null_mut()) };", to: "", caught_by: C },
    Planted { name: "C: the library has no name", file: "interop/c/build.rs",
        from: "os == \"linux\"", to: "os == \"none\"", caught_by: C },
    Planted { name: "C: a panic leaves the library", file: "interop/c/src/status.rs",
        from: "match catch_unwind(AssertUnwindSafe(call)) {", to: "match Ok::<_, Box<dyn Any + Send>>(call()) {", caught_by: C },
    Planted { name: "C: another context is current after a call", file: "interop/c/src/device.rs",
        from: "let _ = unsafe { result::ctx::set_current(self.0) };", to: "", caught_by: C },
    Planted { name: "C: the thread that loads the kernels has their context", file: "interop/c/src/device.rs",
        from: "scope.spawn(load).join()", to: "Ok::<_, Box<dyn std::any::Any + Send>>({ let _ = scope; load() })", caught_by: C },
    Planted { name: "C: an option of plans is ignored", file: "interop/c/src/device.rs",
        from: "options.split_keys = wish(wished.split_keys);", to: "", caught_by: C },
    Planted { name: "C on Hopper: the scales of K and V are swapped", file: "interop/c/src/cuda.rs",
        from: "(k_scale as u64, v_scale as u64)", to: "(v_scale as u64, k_scale as u64)", caught_by: C },
    Planted { name: "device memory may be too short", file: "src/cuda/operands.rs",
        from: "len: len.min(min), size", to: "len: min, size", caught_by: STREAMS },
    Planted { name: "a merge by addresses has the first state twice", file: "src/cuda/merge.rs",
        from: "*to = state.to_kernel();", to: "let _ = state; *to = states[0].to_kernel();", caught_by: C },
    Planted { name: "an output without rows is cut into pieces of no stride", file: "src/view.rs",
        from: "if tokens == 0 {", to: "if tokens == usize::MAX {", caught_by: PROBLEM },
    Planted { name: "a problem without memory has any number of heads", file: "src/problem.rs",
        from: "(\"heads\", heads, MAX_HEADS)", to: "(\"heads\", heads, MAX_HEADS.max(usize::MAX))", caught_by: PROBLEM },
    Planted { name: "a plan has as many blocks as a launch", file: "src/plan/lists.rs",
        from: "if blocks > MOST_BLOCKS", to: "if blocks > super::LIMIT", caught_by: LIBRARY },
    Planted { name: "the version of a PTX text is computed before it is looked at", file: "ptxsim/src/ptx/parser.rs",
        from: ".then(|| whole * 10 + tenth)", to: ".then_some(whole * 10 + tenth)", caught_by: BAD_PTX },
    Planted { name: "memory is taken for as many values as the caller says", file: "ptxsim/driver/src/host.rs",
        from: "values.resize(count.min(at + PIECE), T::ZERO)", to: "{ let _ = PIECE; values.resize(count, T::ZERO) }", caught_by: DRIVER_CORE },
    Planted { name: "the threads of a block overflow", file: "ptxsim/driver/src/api/launch.rs",
        from: "threads.saturating_mul(*size)", to: "threads * size", caught_by: DRIVER_FLAGS },
    Planted { name: "counts of the cost model wrap round", file: "examples/t5/src/count.rs",
        from: "self.0.saturating_mul(other.into().0)", to: "self.0.wrapping_mul(other.into().0)", caught_by: T5 },
    Planted { name: "inputs may end with an id that the model does not have", file: "examples/t5/src/tokenize.rs",
        from: "eos.filter(|id| *id as usize >= config.vocab)", to: "eos.filter(|id| *id as usize >= usize::MAX)", caught_by: PARTS },
    Planted { name: "damage of a tokenizer that shows only in use is a panic", file: "examples/t5/src/tokenize.rs",
        from: "let done = catch_unwind(AssertUnwindSafe(call));",
        to: "let done: std::thread::Result<_> = Ok(call());", caught_by: T5 },
    Planted { name: "steps that run side by side do so one by one", file: "xtask/src/run.rs",
        from: "scope.spawn(worker)", to: "scope.spawn(|| Ok(()))", caught_by: RUN },
    Planted { name: "steps that run side by side go on after one that failed", file: "xtask/src/run.rs",
        from: ".inspect_err(|_| waiting().clear())", to: "", caught_by: RUN },
];

#[derive(clap::Args)]
pub struct Arguments {
    /// Only those whose name or file contains this
    #[arg(long)]
    only: Option<String>,
    /// Only so many, at most, and none recorded: where in the table they begin the time of the last commit says, and they are of
    /// the same tests, of those that need neither the CUDA compiler nor candle nor the virtual GPU compiled anew
    #[arg(long, conflicts_with = "only")]
    sample: Option<NonZeroUsize>,
    /// Only those that results/reliability/planted.json does not have as caught
    #[arg(long)]
    rest: bool,
}

/// By the names of all bugs, those that were caught.
type Records = BTreeMap<String, Option<Caught>>;

impl Arguments {
    fn chosen(&self, records: &Records) -> Result<Vec<&'static Planted>> {
        let mut chosen = self.named()?;
        if self.rest {
            chosen.retain(|bug| bug.caught(records).is_none());
        }
        Ok(chosen)
    }

    fn named(&self) -> Result<Vec<&'static Planted>> {
        if let Some(most) = self.sample {
            let time =
                output("the time of the last commit", &mut command("git", &["log", "-1", "--format=%ct"]))?;
            let seconds: usize = time.trim().parse().with_context(|| format!("git says {time}"))?;
            return Ok(sample(seconds / 60, most.get()));
        }
        let only = self.only.as_deref().unwrap_or_default();
        let mut chosen: Vec<_> =
            BUGS.iter().filter(|bug| bug.name.contains(only) || bug.file.contains(only)).collect();
        if chosen.is_empty() {
            bail!("no planted bug has a name or file with `{only}`");
        }
        // What one leaves compiled, others of the same tests find; nvcc takes longest.
        chosen.sort_by_key(|bug| (!bug.file.ends_with(".rs"), bug.kind()));
        Ok(chosen)
    }
}

/// The first is the one that `at` counts to, round and round, among those that are soon compiled.
fn sample(at: usize, most: usize) -> Vec<&'static Planted> {
    let all: Vec<_> = BUGS.iter().filter(|bug| bug.soon_compiled()).collect();
    let (before, from) = all.split_at(at % all.len());
    let same = from.iter().chain(before).filter(|bug| bug.kind() == from[0].kind());
    same.take(most).copied().collect()
}

/// Plants bugs; fails if one goes unnoticed.
pub fn run(arguments: &Arguments) -> Result<()> {
    let mut records = records()?;
    let chosen = arguments.chosen(&records)?;
    if chosen.is_empty() {
        println!("none is left: each has a record of being caught");
        return Ok(());
    }
    let mut field = Field {
        copy: copy_of_the_tree()?,
        driver: crate::virtual_gpu::virtual_driver()?,
        sound: BTreeMap::new(),
    };
    let (date, commit) = (date()?, reliability::commit()?);
    let mut astray = Vec::new();
    for (i, bug) in chosen.iter().enumerate() {
        let began = Instant::now();
        let test = field.test_that_catches(bug, &records, &chosen);
        let seconds = began.elapsed().as_secs();
        let what = match &test {
            Ok(Some(test)) => format!("caught by {test}"),
            Ok(None) => "UNNOTICED".to_owned(),
            Err(error) => format!("BROKEN\n{error:#}"),
        };
        println!("{:>3} of {}, {seconds:>3} s: {} ({}): {what}", i + 1, chosen.len(), bug.name, bug.file);
        let caught =
            test.ok().flatten().map(|test| Caught { test, date: date.clone(), commit: commit.clone() });
        if caught.is_none() {
            astray.push(bug.name);
        }
        records.insert(bug.name.to_owned(), caught);
        // At once: what was seen is not lost where this is stopped. Of samples nothing: the gate tests the tree meanwhile.
        if arguments.sample.is_none() {
            reliability::record_planted(&records)?;
        }
    }
    if !astray.is_empty() {
        bail!("{} planted bugs went unnoticed or cannot be planted: {}", astray.len(), astray.join("; "));
    }
    Ok(())
}

/// What the file has of each bug in the table.
fn records() -> Result<Records> {
    let mut read = reliability::planted()?;
    Ok(BUGS.iter().map(|bug| (bug.name.to_owned(), read.remove(bug.name).flatten())).collect())
}

/// Where bugs are planted.
struct Field {
    copy: PathBuf,
    driver: PathBuf,
    /// Of each kind of bug, whether its tests pass without one: if not, they would catch any. All of them, or those that are tried
    /// first.
    sound: BTreeMap<(Kind, bool), bool>,
}

impl Field {
    /// The test that fails, if any does: the one that did before, else any of the bug's.
    fn test_that_catches(
        &mut self,
        bug: &Planted,
        records: &Records,
        chosen: &[&Planted],
    ) -> Result<Option<String>> {
        if let Some(before) = bug.caught(records) {
            let same = chosen.iter().filter(|other| other.kind() == bug.kind());
            let tests = same.filter_map(|other| Some(other.caught(records)?.test.as_str())).collect();
            self.must_pass(bug, Some(tests))?;
            let test = self.plant(bug, Some([before.test.as_str()].into()))?;
            if test.is_some() {
                return Ok(test);
            }
        }
        self.must_pass(bug, None)?;
        self.plant(bug, None)
    }

    /// Fails where a test does not pass without a bug.
    fn must_pass(&mut self, bug: &Planted, only: Option<BTreeSet<&str>>) -> Result<()> {
        let sound = match self.sound.entry((bug.kind(), only.is_some())) {
            Entry::Occupied(known) => *known.get(),
            Entry::Vacant(unknown) => {
                let Output { status, stdout, stderr } =
                    bug.tests(&self.copy, &self.driver, only.as_ref())?.output()?;
                if !status.success() {
                    println!("{}{}", String::from_utf8_lossy(&stderr), String::from_utf8_lossy(&stdout));
                }
                *unknown.insert(status.success())
            }
        };
        if !sound {
            bail!("`{}` fails without a planted bug", bug.caught_by.join(" "));
        }
        Ok(())
    }

    /// Plants one bug, runs the tests that must fail, takes it out again. The name of the test that failed.
    fn plant(&self, bug: &Planted, only: Option<BTreeSet<&str>>) -> Result<Option<String>> {
        let (path, text) = (self.copy.join(bug.file), bug.text(&self.copy)?);
        std::fs::write(&path, text.replace(bug.from, bug.to))?;
        // A bug that does not compile shows nothing.
        let built = bug.tests(&self.copy, &self.driver, None)?.arg("--no-run").output()?;
        let tests = bug.tests(&self.copy, &self.driver, only.as_ref());
        let caught = built.status.success().then(|| fail(tests?)).transpose();
        std::fs::write(&path, text)?;
        caught?.with_context(|| format!("it does not compile: {}", String::from_utf8_lossy(&built.stderr)))
    }
}

/// The files that git knows, in a folder of their own. Those that are there already keep their time, by which cargo knows what
/// it has compiled.
fn copy_of_the_tree() -> Result<PathBuf> {
    let (copy, list) = (root().join("target/planted/tree"), root().join("target/planted/files"));
    let files = output("copy the tree to target/planted", &mut command("git", &["ls-files"]))?;
    // What is no longer known must not stay.
    if copy.exists() && std::fs::read_to_string(&list).ok().as_ref() != Some(&files) {
        std::fs::remove_dir_all(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
    }
    for file in files.lines() {
        let (from, to) = (root().join(file), copy.join(file));
        let text = std::fs::read(&from).with_context(|| format!("cannot read {file}"))?;
        if std::fs::read(&to).ok() != Some(text) {
            std::fs::create_dir_all(to.parent().unwrap_or(&copy))?;
            std::fs::copy(from, to).with_context(|| format!("cannot copy {file}"))?;
        }
    }
    std::fs::write(&list, files).with_context(|| format!("cannot write {}", list.display()))?;
    Ok(copy)
}

/// Bugs of the same kind are looked for by the same tests on the same card.
type Kind = (&'static [&'static str], &'static str);

impl Planted {
    /// What only Hopper runs is planted where only Hopper looks.
    fn card(&self) -> &'static str {
        let hopper = ["Hopper", "clusters of splits", "settled"].iter().any(|word| self.name.contains(word))
            || self.file.contains("sm90")
            || self.file.contains("tensor_map")
            || [E4M3, FAILING, T5_FAILING].contains(&self.caught_by);
        if hopper { "h200" } else { "a100" }
    }

    fn kind(&self) -> Kind {
        (self.caught_by, self.card())
    }

    /// Without the CUDA compiler, candle, or the virtual GPU.
    fn soon_compiled(&self) -> bool {
        self.caught_by.first_chunk().is_some_and(|[_, package]| ["onekv", "t5", "xtask"].contains(package))
            && !self.caught_by.contains(&"--features")
    }

    fn caught<'a>(&self, records: &'a Records) -> Option<&'a Caught> {
        records.get(self.name)?.as_ref()
    }

    /// Its file, in which its text has a place of its own.
    fn text(&self, tree: &Path) -> Result<String> {
        let (file, from) = (self.file, self.from);
        let text = std::fs::read_to_string(tree.join(file)).with_context(|| format!("cannot read {file}"))?;
        match text.matches(from).count() {
            1 => Ok(text),
            found => bail!("`{from}` occurs {found} times in {file}; a planted bug needs a place of its own"),
        }
    }

    /// The tests that must fail, in the copy of the tree and on a virtual card; `only`: those of these names.
    fn tests(&self, copy: &Path, driver: &Path, only: Option<&BTreeSet<&str>>) -> Result<Command> {
        // The simulator too: as optimised as for the gate, in one piece, each bug in it would take minutes.
        let [quick, pieces] =
            ["opt-level=1", "codegen-units=16"].map(|how| format!("profile.dev.package.ptxsim.{how}"));
        let mut cargo = crate::run::cargo(&["test", "--config", &quick, "--config", &pieces]);
        cargo
            .args(self.caught_by)
            .current_dir(copy)
            .env("CARGO_TARGET_DIR", root().join("target/planted/build"))
            // A bug may leave something unused.
            .env_remove("RUSTFLAGS")
            // One function of a crate is new: with these the rest is not compiled again.
            .env("CARGO_INCREMENTAL", "1")
            .env("CARGO_PROFILE_DEV_OPT_LEVEL", "1");
        crate::virtual_gpu::on_virtual_card(&mut cargo, driver, self.card());
        if self.caught_by == CANDLE {
            crate::virtual_gpu::with_candle(&mut cargo, driver)?;
        }
        if let Some(only) = only {
            cargo.args(["--", "--exact"]).args(only);
        }
        Ok(cargo)
    }
}

/// What is in a test's place where the program ended without one that failed.
const PROGRAMS_END: &str = "a program's end";

/// The test that failed, if one did: with it, all are ended.
fn fail(mut tests: Command) -> Result<Option<String>> {
    // Of their own, so that the programs that cargo starts end with it.
    let mut tests = tests.process_group(0).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    let mut lines = tests.stdout.take().into_iter().flat_map(|said| BufReader::new(said).lines());
    let failed = lines
        .find_map(|line| Some(line.ok()?.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned()));
    if failed.is_some() {
        command("kill", &["-KILL", "--", &format!("-{}", tests.id())]).status()?;
    }
    let passed = tests.wait()?.success();
    Ok(failed.or_else(|| (!passed).then(|| PROGRAMS_END.to_owned())))
}

#[test]
fn the_first_test_that_fails_ends_all() {
    let failed = |script: &str| {
        let mut tests = Command::new("sh");
        tests.args(["-c", script]);
        fail(tests).unwrap()
    };
    // What it starts would hold the pipe open for an hour.
    assert_eq!(failed("echo 'test a::b ... FAILED'; sleep 3600 & wait").as_deref(), Some("a::b"));
    assert_eq!(failed("echo 'test a::b ... ok'; exit 101").as_deref(), Some("a program's end"));
    assert_eq!(failed("echo 'test a::b ... ok'; echo 'about test c ... FAILED'"), None);
}

/// Every bug that is soon compiled comes first in some sample, and what follows is of the same tests.
#[test]
fn samples_begin_everywhere() {
    let mut first = Vec::new();
    for at in 0..BUGS.len() {
        let sample = sample(at + 3 * BUGS.len(), 3);
        assert!(sample.len() <= 3 && sample.iter().all(|other| other.kind() == sample[0].kind()));
        assert!(sample[1..].iter().all(|other| !std::ptr::eq(*other, sample[0])));
        first.push(sample[0]);
    }
    for bug in BUGS {
        let soon = [
            ATTENTION, LIBRARY, PROBLEM, GOLDENS, MODES, PARTS, CLI, T5, SASS, BOUNDS, MODEL, RUN, FIT,
            REPORT,
        ]
        .contains(&bug.caught_by);
        assert_eq!(first.iter().any(|other| std::ptr::eq(*other, bug)), soon, "{}", bug.name);
    }
}

/// A bug that is new, or has another name, has a place in the records: `cargo xtask planted --rest` makes it.
#[test]
fn every_bug_has_a_place_in_the_records() {
    let read = reliability::planted().unwrap();
    let names: Vec<&str> = read.keys().map(String::as_str).collect();
    let mut all: Vec<&str> = BUGS.iter().map(|bug| bug.name).collect();
    all.sort();
    assert_eq!(names, all);
}

/// A test that is gone, or has another name, catches nothing any more: `cargo xtask planted --only BUG` says what does.
#[test]
fn every_test_that_caught_a_bug_is_there() {
    let files = output("the tests", &mut command("git", &["ls-files", "*.rs"])).unwrap();
    let texts: Vec<String> =
        files.lines().filter_map(|file| std::fs::read_to_string(root().join(file)).ok()).collect();
    let is_there = |test: &str| {
        let head = format!("fn {}(", test.rsplit("::").next().unwrap_or(test));
        texts.iter().any(|text| text.contains(&head))
    };
    let records = reliability::planted().unwrap();
    let caught = records.iter().filter_map(|(bug, caught)| Some((bug, &caught.as_ref()?.test)));
    let gone: Vec<_> = caught.filter(|(_, test)| *test != PROGRAMS_END && !is_there(test)).collect();
    assert!(gone.is_empty(), "{gone:?}");
}

/// A change that moves a text takes its planted bug along.
#[test]
fn every_bug_has_a_place() {
    let astray: Vec<String> =
        BUGS.iter().filter_map(|bug| Some(format!("{}: {}", bug.name, bug.text(&root()).err()?))).collect();
    assert!(astray.is_empty(), "{}", astray.join("\n"));
}
