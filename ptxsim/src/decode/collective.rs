//! Barriers, fences and exchanges within a warp.

use super::atomic::atomic_op;
use super::operand::pair;
use super::{Decoded, Decoder, Opcode, unsupported};
use crate::ir::{
    AtomicOp, BarrierReduction, Class, FenceKind, Logic, Op, PredicateSrc, ShuffleMode, Src, VoteMode,
};
use crate::ptx::Operand;

const EVERYONE: Src = Src::Immediate(0xffff_ffff);

impl<'m> Decoder<'m> {
    pub(super) fn collective(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let decoded = match op.base {
            "bar" | "barrier" => return self.barrier(op, operands),
            "membar" | "fence" => Op::Fence(self.fence(op, operands)?),
            // One grid at a time: there is nothing to wait for, only to check.
            "griddepcontrol" => match op.modifiers.as_slice() {
                ["wait"] => Op::LaunchWait,
                ["launch_dependents"] => Op::Nop,
                _ => return Err(unsupported()),
            },
            "activemask" => {
                return Ok((Op::ActiveMask { dst: self.register(operands.first())? }, Class::Collective));
            }
            "shfl" => return self.shuffle(op, operands),
            "vote" => return self.vote(op, operands),
            "match" => {
                let (first, second) = pair(operands.first());
                let dst = self.register(first)?;
                let predicate = self.optional_predicate(second)?;
                let a = self.source(operands.get(1), op.ty())?;
                let mask = self.source(operands.get(2), "b32")?;
                let bits = crate::ptx::bits_of(op.ty());
                return Ok((
                    Op::Match { all: op.has("all"), dst, predicate, a, bits, mask },
                    Class::Collective,
                ));
            }
            "redux" => {
                if op.has("abs") || op.has("NaN") || op.ty() == "f32" {
                    return Err(unsupported());
                }
                let kind = atomic_op(op).ok_or_else(unsupported)?;
                if matches!(kind, AtomicOp::Exchange | AtomicOp::CompareExchange) {
                    return Err(unsupported());
                }
                let dst = self.register(operands.first())?;
                let a = self.source(operands.get(1), op.ty())?;
                let mask = self.source(operands.get(2), "b32")?;
                return Ok((
                    Op::Redux { op: kind, signed: op.ty() == "s32", dst, a, mask },
                    Class::Collective,
                ));
            }
            _ => {
                let (first, second) = pair(operands.first());
                let dst = self.target(first)?;
                let predicate = self.predicate_target(second)?.ok_or_else(unsupported)?;
                let mask = self.source(operands.get(1), "b32")?;
                return Ok((Op::Elect { dst, predicate, mask }, Class::Collective));
            }
        };
        Ok((decoded, Class::Synchronization))
    }

    /// 9.7.13.4
    fn fence(&self, op: &Opcode<'_>, operands: &[Operand]) -> Result<FenceKind, String> {
        Ok(match op.modifiers.as_slice() {
            ["proxy", "alias"] => FenceKind::Ordinary,
            ["proxy", "async"] | ["proxy", "async", "global" | "shared::cta" | "shared::cluster"] => {
                FenceKind::ProxyAsync
            }
            // One direction each; what they are used for needs no more.
            ["proxy", "async::generic", "acquire", "sync_restrict::shared::cluster", "cluster"]
            | ["proxy", "async::generic", "release", "sync_restrict::shared::cta", "cluster"] => {
                FenceKind::ProxyAsync
            }
            // Copies see a changed map at once.
            ["proxy", "tensormap::generic", "release", _] => FenceKind::Ordinary,
            ["proxy", "tensormap::generic", "acquire", _] => match self.constant(operands.get(1))? {
                128 => FenceKind::Ordinary,
                n => return Err(format!("{n} bytes, allowed are 128")),
            },
            ["proxy", ..] => return Err(unsupported()),
            ["mbarrier_init", ..] => FenceKind::MbarrierInit,
            // `membar.gl`, `membar.sys`; `fence.sc` and `fence.acq_rel` of a scope, `fence.release` of one.
            scopes
                if !op.has("acquire")
                    && scopes.iter().any(|m| ["cluster", "gpu", "sys", "gl"].contains(m)) =>
            {
                FenceKind::Cluster
            }
            _ => FenceKind::Ordinary,
        })
    }

    /// `bar.sync`, `barrier.cta.arrive`, `bar.red.popc.u32`, `bar.warp.sync`, `barrier.cluster.*`.
    fn barrier(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let class = Class::Synchronization;
        if op.has("warp") {
            return Ok((Op::WarpSync { mask: self.source(operands.first(), "b32")? }, class));
        }
        if op.has("cluster") {
            let arrive = Op::ClusterArrive { relaxed: op.has("relaxed") };
            return Ok((if op.has("arrive") { arrive } else { Op::ClusterWait }, class));
        }
        let mut rest = operands.iter();
        if op.has("red") {
            let counts = op.has("popc");
            let dst = match counts {
                true => self.register(rest.next())?,
                false => self.predicate_target(rest.next())?.ok_or_else(unsupported)?,
            };
            let id = self.source(rest.next(), "u32")?;
            let (second, third) = (rest.next(), rest.next());
            let (count, value) = match third {
                Some(value) => (Some(self.source(second, "u32")?), Some(value)),
                None => (None, second),
            };
            let logic = match () {
                () if counts => None,
                () if op.has("and") => Some(Logic::And),
                () => Some(Logic::Or),
            };
            let reduce = BarrierReduction { logic, value: self.predicate(value)?, dst };
            return Ok((Op::Barrier { id, count, waits: true, reduce: Some(reduce) }, class));
        }
        let id = self.source(rest.next(), "u32")?;
        let count = rest.next().map(|c| self.source(Some(c), "u32")).transpose()?;
        let waits = op.has("sync");
        if !waits && (!op.has("arrive") || count.is_none()) {
            return Err(unsupported());
        }
        Ok((Op::Barrier { id, count, waits, reduce: None }, class))
    }

    fn shuffle(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let mode = match () {
            () if op.has("up") => ShuffleMode::Up,
            () if op.has("down") => ShuffleMode::Down,
            () if op.has("bfly") => ShuffleMode::Butterfly,
            () if op.has("idx") => ShuffleMode::Index,
            () => return Err(unsupported()),
        };
        if !op.has("sync") {
            return Err(unsupported());
        }
        let (first, second) = pair(operands.first());
        let dst = self.register(first)?;
        let predicate = self.optional_predicate(second)?;
        let a = self.source(operands.get(1), "b32")?;
        let b = self.source(operands.get(2), "b32")?;
        let c = self.source(operands.get(3), "b32")?;
        let mask = self.source(operands.get(4), "b32")?;
        Ok((Op::Shuffle { mode, dst, predicate, a, b, c, mask }, Class::Collective))
    }

    fn vote(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let mode = match () {
            () if op.has("all") => VoteMode::All,
            () if op.has("any") => VoteMode::Any,
            () if op.has("uni") => VoteMode::Uniform,
            () if op.has("ballot") => VoteMode::Ballot,
            () => return Err(unsupported()),
        };
        if !op.has("sync") {
            return Err(unsupported());
        }
        let dst = match mode {
            VoteMode::Ballot => self.register(operands.first())?,
            _ => self.predicate_target(operands.first())?.ok_or_else(unsupported)?,
        };
        let value: PredicateSrc = self.predicate(operands.get(1))?;
        let mask = match operands.get(2) {
            Some(mask) => self.source(Some(mask), "b32")?,
            None => EVERYONE,
        };
        Ok((Op::Vote { mode, dst, value, mask }, Class::Collective))
    }
}
