//! Asynchronous copies and the barriers that tell their end.

use super::atomic::{atomic_op, atomic_op_of, element};
use super::memory::window;
use super::{Decoded, Decoder, Opcode, unsupported};
use crate::ir::{Address, Bulk, BulkReduction, Class, MbarrierOp, Op, Src, Window};
use crate::ptx::Operand;

/// 9.7.9.25: what asynchronous copies may have. Masks of bytes and halves of pairs of blocks are not there.
fn known(op: &Opcode<'_>) -> Result<(), String> {
    const WORDS: [&str; 29] = [
        "async",
        "bulk",
        "reduce",
        "tensor",
        "prefetch",
        "tile",
        "noftz",
        "bulk_group",
        "read",
        "ca",
        "cg",
        "mbarrier",
        "arrive",
        "noinc",
        "commit_group",
        "wait_group",
        "wait_all",
        "global",
        "shared",
        "shared::cta",
        "shared::cluster",
        "mbarrier::complete_tx::bytes",
        "multicast::cluster",
        "cta_group::1",
        "L2",
        "L2::cache_hint",
        "L2::64B",
        "L2::128B",
        "L2::256B",
    ];
    let dimensions = |m: &str| matches!(m, "1d" | "2d" | "3d" | "4d" | "5d");
    let reduction = |m: &str| atomic_op_of(m).is_some() || crate::ptx::bits_of(m) != 0;
    match op.modifiers.iter().any(|m| !(WORDS.contains(m) || dimensions(m) || reduction(m))) {
        true => Err(unsupported()),
        false => Ok(()),
    }
}

impl<'m> Decoder<'m> {
    pub(super) fn asynchronous(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        if op.base == "mbarrier" {
            return self.mbarrier(op, operands);
        }
        if !op.has("async") {
            return Err(unsupported());
        }
        known(op)?;
        let class = Class::AsyncCopy;
        if op.has("mbarrier") {
            let (barrier, _) = self.address(operands.first())?;
            return Ok((Op::CopyAsyncArrive { barrier, noinc: op.has("noinc") }, Class::Synchronization));
        }
        let bulk = op.has("bulk");
        if op.has("commit_group") {
            return Ok((if bulk { Op::BulkCommit } else { Op::CopyAsyncCommit }, Class::Synchronization));
        }
        if op.has("wait_all") {
            return Ok((Op::CopyAsyncWait { pending: u32::MAX }, Class::Synchronization));
        }
        if op.has("wait_group") {
            let pending = self.constant(operands.first())? as u32;
            return Ok((
                if bulk { Op::BulkWait { pending } } else { Op::CopyAsyncWait { pending } },
                Class::Synchronization,
            ));
        }
        if op.has("prefetch") {
            return Ok((Op::Nop, class));
        }
        if !bulk {
            return self.copy(op, operands);
        }
        let decoded =
            if op.has("tensor") { self.bulk_tensor(op, operands)? } else { self.bulk(op, operands)? };
        Ok((Op::Bulk(Box::new(decoded)), class))
    }

    /// `cp.async.ca.shared.global [dst], [src], bytes{, src-bytes | ignore}`
    fn copy(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let (dst, _) = self.address(operands.first())?;
        let (src, _) = self.address(operands.get(1))?;
        let bytes = self.constant(operands.get(2))?;
        if !matches!(bytes, 4 | 8 | 16) {
            return Err(format!("{bytes} bytes, allowed are 4, 8 and 16"));
        }
        let mut rest: Vec<&Operand> = operands.iter().skip(3).collect();
        if op.has("L2::cache_hint") {
            rest.pop();
        }
        let (mut src_bytes, mut ignore) = (None, None);
        match rest.first() {
            None => {}
            Some(predicate @ (Operand::Register(crate::ptx::Register::Predicate(_)) | Operand::Not(_))) => {
                ignore = Some(self.predicate(Some(predicate))?);
            }
            Some(size) => src_bytes = Some(self.source(Some(size), "b32")?),
        }
        Ok((Op::CopyAsync { dst, src, bytes: bytes as u8, src_bytes, ignore }, Class::AsyncCopy))
    }

    /// `cp{.reduce}.async.bulk.dst.src...`
    fn bulk(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Result<Bulk, String> {
        let spaces: Vec<&str> =
            op.modifiers.iter().copied().filter(|m| *m == "global" || m.starts_with("shared")).collect();
        let reduction = match op.has("reduce") {
            true => {
                let (Some(kind), Some(element)) = (atomic_op(op), element(op.ty())) else {
                    return Err(unsupported());
                };
                Some(BulkReduction { op: kind, element })
            }
            false => None,
        };
        let (dst, _) = self.address(operands.first())?;
        let (src, _) = self.address(operands.get(1))?;
        let bytes = self.source(operands.get(2), "b32")?;
        match spaces.as_slice() {
            ["shared::cluster" | "shared::cta", from] if reduction.is_none() => {
                let (barrier, _) = self.address(operands.get(3))?;
                let multicast = self.multicast(op, operands.get(4))?;
                let src_window = if *from == "global" { Window::Global } else { Window::Shared };
                Ok(Bulk::ToShared { dst, src, src_window, bytes, barrier, multicast })
            }
            ["global", "shared::cta"] => Ok(Bulk::ToGlobal { dst, src, bytes, reduction }),
            _ => Err(unsupported()),
        }
    }

    /// `cp{.reduce}.async.bulk.tensor.Nd.dst.src...`
    fn bulk_tensor(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Result<Bulk, String> {
        let dimensions = op
            .modifiers
            .iter()
            .find_map(|m| m.strip_suffix('d')?.parse::<usize>().ok())
            .ok_or_else(unsupported)?;
        if op
            .modifiers
            .iter()
            .any(|m| m.starts_with("im2col") || m.starts_with("tile::") || *m == "cta_group::2")
        {
            return Err(unsupported());
        }
        let to_shared = op.modifiers.iter().position(|m| m.starts_with("shared"))
            < op.modifiers.iter().position(|m| *m == "global");
        let map_at = usize::from(to_shared);
        let Some(Operand::AddressList(parts)) = operands.get(map_at) else {
            return Err("a tensor map with coordinates is expected".to_owned());
        };
        let (map, _) = self.address(parts.first())?;
        let coordinates = self.sources(parts.get(1), "s32")?;
        if coordinates.len() != dimensions {
            return Err(format!("{} coordinates for {dimensions} dimensions", coordinates.len()));
        }
        if to_shared {
            let (dst, _) = self.address(operands.first())?;
            let (barrier, _) = self.address(operands.get(2))?;
            let multicast = self.multicast(op, operands.get(3))?;
            Ok(Bulk::TensorToShared { dst, map, coordinates, barrier, multicast })
        } else {
            let (src, _) = self.address(operands.get(1))?;
            let reduction = op.has("reduce").then(|| atomic_op(op).ok_or_else(unsupported)).transpose()?;
            Ok(Bulk::TensorToGlobal { map, coordinates, src, reduction })
        }
    }

    /// The mask of the blocks that get a copy.
    fn multicast(&mut self, op: &Opcode<'_>, operand: Option<&Operand>) -> Result<Option<Src>, String> {
        op.has("multicast::cluster").then(|| self.source(operand, "b16")).transpose()
    }

    fn mbarrier(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let kind = op.modifiers.first().copied().unwrap_or_default();
        let (mut cluster, one) = (window(op) == Some(Window::Cluster), Src::Immediate(1));
        let mut at = 0;
        let mut dst = |decoder: &Self| {
            at += 1;
            decoder.target(operands.get(at - 1))
        };
        let (address, decoded): (Address, MbarrierOp) = match kind {
            "init" => {
                let count = self.source(operands.get(1), "b32")?;
                (self.address(operands.first())?.0, MbarrierOp::Init { count })
            }
            "inval" => (self.address(operands.first())?.0, MbarrierOp::Invalidate),
            "expect_tx" => {
                let tx = self.source(operands.get(1), "b32")?;
                (self.address(operands.first())?.0, MbarrierOp::ExpectTx { tx })
            }
            "complete_tx" => {
                let tx = self.source(operands.get(1), "b32")?;
                (self.address(operands.first())?.0, MbarrierOp::CompleteTx { tx })
            }
            "arrive" | "arrive_drop" => {
                // Remote arrivals return nothing.
                let has_state = matches!(operands.first(), Some(Operand::Register(_) | Operand::Sink));
                let state = if has_state { dst(self)? } else { None };
                let rest = &operands[usize::from(has_state)..];
                let (address, _) = self.address(rest.first())?;
                let (count, tx) = match op.has("expect_tx") {
                    true => (one, Some(self.source(rest.get(1), "b32")?)),
                    false => match rest.get(1) {
                        Some(count) => (self.source(Some(count), "b32")?, None),
                        None => (one, None),
                    },
                };
                let drop = kind == "arrive_drop";
                (address, MbarrierOp::Arrive { count, tx, state, no_complete: op.has("noComplete"), drop })
            }
            "test_wait" | "try_wait" => {
                let done = self.predicate_target(operands.first())?.ok_or_else(unsupported)?;
                let (address, _) = self.address(operands.get(1))?;
                let phase = self.source(operands.get(2), "b64")?;
                cluster = false;
                let (parity, blocking) = (op.has("parity"), kind == "try_wait");
                (address, MbarrierOp::Wait { done, phase, parity, blocking })
            }
            "pending_count" => {
                let dst = self.register(operands.first())?;
                let state = self.source(operands.get(1), "b64")?;
                let none = Address { base: Src::Immediate(0), offset: 0 };
                (none, MbarrierOp::PendingCount { dst, state })
            }
            _ => return Err(unsupported()),
        };
        let window = match () {
            () if cluster => Window::Cluster,
            () if window(op).is_some() => Window::Shared,
            () => Window::Generic,
        };
        Ok((Op::Mbarrier { window, address, op: decoded }, Class::Synchronization))
    }
}
