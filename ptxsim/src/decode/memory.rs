//! Loads, stores, atomics and address conversions.

use super::{Decoded, Decoder, Opcode, unsupported};
use crate::ir::{AtomicOp, Bulk, Class, Element, Op, Src, Window, window_of};
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
            // Hints: nothing that a program can see. A policy is any value.
            "prefetch" | "prefetchu" | "applypriority" | "discard" => Ok((Op::Nop, Class::OtherMemory)),
            _ => {
                let f = super::value::alu!(|a: u64| a);
                let dst = self.register(operands.first())?;
                let src = [Src::Immediate(0); 4];
                Ok((Op::Alu { f, dst, src, count: 1, pre: None, post: None }, Class::Move))
            }
        }
    }

    /// The window of a load or store: what the opcode says, made exact by a named base.
    fn place(&self, op: &Opcode<'_>, space: Option<Space>) -> Window {
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
        let bytes = (crate::ptx::bits_of(ty) / 8) as u8;
        if bytes == 0 || bytes > 8 {
            return Err(unsupported());
        }
        let dst = self.targets(operands.first())?;
        check_vector(op, dst.len())?;
        let (address, space) = self.address(operands.get(1))?;
        let window = self.place(op, space);
        let class = match window {
            Window::Global | Window::Generic => Class::GlobalLoad,
            Window::Shared | Window::Cluster => Class::SharedLoad,
            _ => Class::OtherMemory,
        };
        let signed = ty.starts_with('s');
        Ok((Op::Load { window, address, dst, bytes, signed, strong: strong(op) }, class))
    }

    fn store(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        if op.has("async") {
            return self.store_async(op, operands);
        }
        let ty = op.ty();
        let bytes = (crate::ptx::bits_of(ty) / 8) as u8;
        if bytes == 0 || bytes > 8 {
            return Err(unsupported());
        }
        let (address, space) = self.address(operands.first())?;
        let src = self.sources(operands.get(1), ty)?;
        check_vector(op, src.len())?;
        let window = self.place(op, space);
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

    fn atomic(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        if op.has("async") || op.has("b128") {
            return Err(unsupported());
        }
        let (kind, element) = (atomic_op(op), element(op.ty()));
        let (Some(kind), Some(element)) = (kind, element) else { return Err(unsupported()) };
        let reduces = op.base == "red";
        let mut rest = operands.iter();
        let dst = if reduces { None } else { self.target(rest.next())? };
        let (address, space) = self.address(rest.next())?;
        let b = self.sources(rest.next(), op.ty())?;
        check_vector(op, b.len())?;
        if b.len() > 1 && !reduces {
            return Err(unsupported());
        }
        let c = match kind {
            AtomicOp::CompareExchange => self.source(rest.next(), op.ty())?,
            _ => Src::Immediate(0),
        };
        let window = self.place(op, space);
        Ok((Op::Atomic { window, address, op: kind, element, dst, b, c }, Class::Atomic))
    }
}

fn check_vector(op: &Opcode<'_>, elements: usize) -> Result<(), String> {
    let wanted = match () {
        () if op.has("v2") => 2,
        () if op.has("v4") => 4,
        () if op.has("v8") => 8,
        () => 1,
    };
    if elements != wanted {
        return Err(format!("{elements} elements where {wanted} are expected"));
    }
    Ok(())
}

/// The window that the opcode names.
pub(super) fn window(op: &Opcode<'_>) -> Option<Window> {
    op.modifiers.iter().find_map(|m| {
        Some(match *m {
            "global" => Window::Global,
            "const" => Window::Const,
            "shared" | "shared::cta" => Window::Shared,
            "shared::cluster" => Window::Cluster,
            "local" => Window::Local,
            "param" | "param::entry" | "param::func" => Window::Param,
            _ => return None,
        })
    })
}

/// Volatile and stronger accesses: flags between threads, not data races.
fn strong(op: &Opcode<'_>) -> bool {
    ["volatile", "relaxed", "acquire", "release", "mmio"].iter().any(|m| op.has(m))
}

pub(super) fn atomic_op(op: &Opcode<'_>) -> Option<AtomicOp> {
    op.modifiers.iter().find_map(|m| {
        Some(match *m {
            "add" => AtomicOp::Add,
            "min" => AtomicOp::Min,
            "max" => AtomicOp::Max,
            "and" => AtomicOp::And,
            "or" => AtomicOp::Or,
            "xor" => AtomicOp::Xor,
            "exch" => AtomicOp::Exchange,
            "cas" => AtomicOp::CompareExchange,
            "inc" => AtomicOp::Increment,
            "dec" => AtomicOp::Decrement,
            _ => return None,
        })
    })
}

pub(super) fn element(ty: &str) -> Option<Element> {
    Some(match ty {
        "u32" | "b32" => Element::U32,
        "s32" => Element::S32,
        "u64" | "b64" => Element::U64,
        "s64" => Element::S64,
        "f16" => Element::F16,
        "f16x2" => Element::F16x2,
        "bf16" => Element::Bf16,
        "bf16x2" => Element::Bf16x2,
        "f32" => Element::F32,
        "f64" => Element::F64,
        "b16" => Element::B16,
        _ => return None,
    })
}
