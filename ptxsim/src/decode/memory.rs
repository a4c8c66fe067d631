//! Loads, stores, atomics and address conversions.

use super::{Decoded, Decoder, Opcode, unsupported};
use crate::ir::{Alu, Bulk, Class, Op, Src, Window, window_of};
use crate::ptx::{Operand, Space};

impl<'m> Decoder<'m> {
    pub(super) fn memory(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        match op.base {
            "ld" | "ldu" => self.load(op, operands),
            "st" => self.store(op, operands),
            "atom" | "red" => self.atomic(op, operands),
            "cvta" => {
                let window = window(op).ok_or_else(unsupported)?;
                let dst = self.register(operands.first())?;
                let a = self.source(operands.get(1), "u64")?;
                if op.has("to") {
                    Ok((Op::FromGeneric { window, dst, a }, Class::Integer))
                } else {
                    Ok((Op::ToGeneric { window, dst, a }, Class::Integer))
                }
            }
            "isspacep" => {
                let window = window(op).ok_or_else(unsupported)?;
                let dst = self.predicate_target(operands.first())?.ok_or_else(unsupported)?;
                let a = self.source(operands.get(1), "u64")?;
                Ok((Op::IsWindow { window, dst, a }, Class::Predicate))
            }
            "mapa" => {
                let dst = self.register(operands.first())?;
                let a = self.source(operands.get(1), "u64")?;
                let rank = self.source(operands.get(2), "u32")?;
                Ok((Op::MapShared { dst, a, rank, generic: !op.has("shared::cluster") }, Class::Integer))
            }
            "getctarank" => {
                let dst = self.register(operands.first())?;
                let a = self.source(operands.get(1), "u64")?;
                Ok((Op::SharedRank { dst, a, generic: !op.has("shared::cluster") }, Class::Integer))
            }
            "multimem" => Err("multimem addresses are not supported".to_owned()),
            // Hints: nothing that a program can see. A policy is any value.
            "prefetch" | "prefetchu" | "applypriority" | "discard" => Ok((Op::Nop, Class::OtherMemory)),
            _ => {
                let dst = self.register(operands.first())?;
                Ok((Op::Alu(assign(dst, Src::Immediate(0))), Class::Move))
            }
        }
    }

    /// The window of a load or store: what the opcode says, made exact by a named base.
    pub(super) fn place(&self, op: &Opcode<'_>, space: Option<Space>) -> Window {
        match (window(op), space) {
            // Call parameters and device functions' parameters lie in local memory.
            (_, Some(space @ (Space::Param | Space::Local))) => window_of(space),
            (Some(window), _) => window,
            (None, Some(space)) => window_of(space),
            (None, None) => Window::Generic,
        }
    }

    fn load(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let ty = op.ty();
        known(op)?;
        let bytes = element_bytes(ty)?;
        let dst = self.targets(operands.first())?;
        check_vector(op, dst.len())?;
        let (address, space) = self.address(operands.get(1))?;
        let window = self.place(op, space);
        self.wide(bytes, dst.len(), window)?;
        let class = match window {
            Window::Global | Window::Generic => Class::GlobalLoad,
            Window::Shared | Window::Cluster => Class::SharedLoad,
            _ => Class::OtherMemory,
        };
        let signed = ty.starts_with('s');
        Ok((Op::Load { window, address, dst, bytes, signed, strong: strong(op) }, class))
    }

    /// More than 128 bits at once are for global memory, of newer cards.
    fn wide(&self, bytes: u8, count: usize, window: Window) -> Result<(), String> {
        match usize::from(bytes) * count {
            0..=16 => Ok(()),
            32 if window == Window::Global => self.requires(100),
            n => Err(format!("{n} bytes, allowed are 16, or 32 of global memory")),
        }
    }

    fn store(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        if op.has("async") {
            return self.store_async(op, operands);
        }
        known(op)?;
        let ty = op.ty();
        let bytes = element_bytes(ty)?;
        let (address, space) = self.address(operands.first())?;
        let src = self.sources(operands.get(1), ty)?;
        check_vector(op, src.len())?;
        let window = self.place(op, space);
        self.wide(bytes, src.len(), window)?;
        let class = match window {
            Window::Global | Window::Generic => Class::GlobalStore,
            Window::Shared | Window::Cluster => Class::SharedStore,
            _ => Class::OtherMemory,
        };
        Ok((Op::Store { window, address, src, bytes, strong: strong(op) }, class))
    }

    /// `st.async.shared::cluster.mbarrier::complete_tx::bytes{.vec}.type [dst], src, [mbarrier]`
    fn store_async(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let ty = op.ty();
        let bytes = (crate::ptx::bits_of(ty) / 8) as u8;
        let known = op.has("shared::cluster") && op.has("mbarrier::complete_tx::bytes");
        if !known || op.has("release") || !matches!(bytes, 4 | 8) {
            return Err(unsupported());
        }
        let (dst, _) = self.address(operands.first())?;
        let src = self.sources(operands.get(1), ty)?;
        check_vector(op, src.len())?;
        if usize::from(bytes) * src.len() > 16 {
            return Err(unsupported());
        }
        let (barrier, _) = self.address(operands.get(2))?;
        Ok((Op::Bulk(Box::new(Bulk::Store { dst, src, bytes, barrier })), Class::AsyncCopy))
    }
}

/// A register takes a value.
pub(super) fn assign(dst: u32, value: Src) -> Alu {
    let zero = Src::Immediate(0);
    let f = super::value::alu!(|a: u64| a);
    Alu { f, dst, src: [value, zero, zero, zero], count: 1, pre: None, post: None }
}

/// 9.7.9.8 to .11: what loads and stores may have; hints change nothing that a program sees.
fn known(op: &Opcode<'_>) -> Result<(), String> {
    const WORDS: [&str; 21] = [
        "weak", "volatile", "relaxed", "acquire", "release", "mmio", "cta", "cluster", "gpu", "sys", "ca",
        "cg", "cs", "cv", "lu", "wb", "wt", "nc", "v2", "v4", "v8",
    ];
    let hint = |m: &str| m.starts_with("L1::") || m.starts_with("L2::") || m.starts_with("level::");
    let space = |m: &str| space_of(m).is_some();
    let known = |m: &&str| WORDS.contains(m) || hint(m) || space(m) || crate::ptx::bits_of(m) != 0;
    if op.modifiers.iter().all(known) { Ok(()) } else { Err(unsupported()) }
}

/// Bytes of the elements that loads and stores move; 128 bits are two.
fn element_bytes(ty: &str) -> Result<u8, String> {
    match crate::ptx::bits_of(ty) / 8 {
        0 => Err(unsupported()),
        n => Ok(n.min(8) as u8),
    }
}

pub(super) fn check_vector(op: &Opcode<'_>, elements: usize) -> Result<(), String> {
    // 128 bits are two elements of 64.
    let wanted = op.vector() * if op.ty() == "b128" { 2 } else { 1 };
    if elements != wanted {
        return Err(format!("{elements} elements where {wanted} are expected"));
    }
    Ok(())
}

/// The window that the opcode names.
pub(super) fn window(op: &Opcode<'_>) -> Option<Window> {
    op.modifiers.iter().find_map(|m| space_of(m))
}

fn space_of(word: &str) -> Option<Window> {
    Some(match word {
        "global" => Window::Global,
        "const" => Window::Const,
        "shared" | "shared::cta" => Window::Shared,
        "shared::cluster" => Window::Cluster,
        "local" => Window::Local,
        "param" | "param::entry" | "param::func" => Window::Param,
        _ => return None,
    })
}

/// Volatile and stronger accesses: flags between threads, not data races.
fn strong(op: &Opcode<'_>) -> bool {
    ["volatile", "relaxed", "acquire", "release", "mmio"].iter().any(|m| op.has(m))
}
