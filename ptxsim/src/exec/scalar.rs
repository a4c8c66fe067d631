//! Arithmetic of other forms than one function of whole registers: halves of a register, predicates beside, several results.

use super::machine::Machine;
use super::warp::Warp;
use crate::float;
use crate::ir::{Alu, Lanes, Op, Operands, Value, WARP};

impl Machine<'_, '_> {
    pub fn scalar(&self, warp: &mut Warp, op: &Op, exec: u32) {
        let grid = self.grid;
        match op {
            Op::AluOf { form, alu: Alu { f, dst, src, count, pre, post } } => {
                let count = usize::from(*count);
                let sources = src.map(|s| warp.lanes(s, grid));
                let halves: &[u32] = if *form == Operands::Pair { &[0, 32] } else { &[0] };
                let mut all = [0; WARP];
                for shift in halves {
                    let mut part = [[0; WARP]; 4];
                    for (at, lanes) in part.iter_mut().enumerate().take(count) {
                        let widen = |x: u64| match form {
                            Operands::F16 if at + 1 < count => float::f16(x as u32 & 0xffff).put(),
                            Operands::Bf16 if at + 1 < count => float::bf16(x as u32).put(),
                            _ => x >> shift & 0xffff_ffff,
                        };
                        *lanes = sources[at].map(widen);
                        if let Some(pre) = pre {
                            pre(lanes);
                        }
                    }
                    let mut out = [0; WARP];
                    f(grid.arch, &part.each_ref(), &mut out);
                    if let Some(post) = post {
                        post(&mut out);
                    }
                    all.iter_mut().zip(out).for_each(|(all, x)| *all |= x << shift);
                }
                warp.put(*dst, &all, exec);
            }
            Op::AluTest { f, dst, predicate, src, logic, with } => {
                let mut out = [0; WARP];
                f(grid.arch, &src.map(|s| warp.lanes(s, grid)).each_ref(), &mut out);
                let truth = (0..WARP).fold(0, |mask, lane| mask | u32::from(out[lane] != 0) << lane);
                let truth = logic.apply(truth, warp.predicate(*with));
                if let Some(dst) = dst {
                    warp.put(*dst, &out, exec);
                }
                if let Some(predicate) = predicate {
                    warp.put_predicate(*predicate, truth, exec);
                }
            }
            Op::Set { f, dst, a, b, truth, pair, pre, combine } => {
                let (mut a, mut b) = (warp.lanes(*a, grid), warp.lanes(*b, grid));
                if let Some(pre) = pre {
                    pre(&mut a);
                    pre(&mut b);
                }
                let mut all = [0; WARP];
                let halves: &[u32] = if *pair { &[0, 16] } else { &[0] };
                for shift in halves {
                    let mut value = f(grid.arch, &a.map(|x| x >> shift), &b.map(|x| x >> shift));
                    if let Some((logic, p)) = combine {
                        value = logic.apply(value, warp.predicate(*p));
                    }
                    for (lane, all) in all.iter_mut().enumerate() {
                        *all |= if value >> lane & 1 == 1 { truth << shift } else { 0 };
                    }
                }
                warp.put(*dst, &all, exec);
            }
            Op::Moves { dst, src } => {
                let values: Vec<Lanes> = src.iter().map(|s| warp.lanes(*s, grid)).collect();
                for (dst, value) in dst.iter().zip(&values) {
                    if let Some(dst) = dst {
                        warp.put(*dst, value, exec);
                    }
                }
            }
            _ => {}
        }
    }
}
