//! Matrix instructions: `ldmatrix`, `stmatrix`, `movmatrix`, `mma` and `wgmma`.

use super::memory::window;
use super::{Decoded, Decoder, Opcode, unsupported};
use crate::ir::{Class, Mma, MmaType, Op, ScaleD, Wgmma, Window};
use crate::ptx::{Operand, Register};

/// `mMnNkK`
pub(super) fn shape(op: &Opcode<'_>) -> Option<(usize, usize, usize)> {
    op.modifiers.iter().find_map(|m| {
        let (m, rest) = m.strip_prefix('m')?.split_once('n')?;
        let (n, k) = rest.split_once('k')?;
        Some((m.parse().ok()?, n.parse().ok()?, k.parse().ok()?))
    })
}

pub(super) fn mma_type(name: &str) -> Option<MmaType> {
    Some(match name {
        "f16" => MmaType::F16,
        "bf16" => MmaType::Bf16,
        "tf32" => MmaType::Tf32,
        "e4m3" => MmaType::E4M3,
        "e5m2" => MmaType::E5M2,
        "s8" => MmaType::S8,
        "u8" => MmaType::U8,
        _ => return None,
    })
}

/// Whether products of these types add up to `d_type`.
fn accumulates(a: MmaType, b: MmaType, d_type: &str) -> bool {
    let right = match d_type {
        "f32" => !a.is_integer(),
        "f16" => matches!(a, MmaType::F16 | MmaType::E4M3 | MmaType::E5M2),
        "s32" => a.is_integer(),
        _ => false,
    };
    right && a.goes_with(b)
}

impl<'m> Decoder<'m> {
    pub(super) fn matrix(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let class = Class::TensorCore;
        let decoded = match op.base {
            "ldmatrix" => {
                let dst = self.registers_of(operands.first())?;
                self.matrix_form(op, dst.len())?;
                let (address, _) = self.address(operands.get(1))?;
                return Ok((Op::LoadMatrix { address, dst, transpose: op.has("trans") }, Class::SharedLoad));
            }
            "stmatrix" => {
                let (address, _) = self.address(operands.first())?;
                let src = self.sources(operands.get(1), "b32")?;
                self.matrix_form(op, src.len())?;
                return Ok((
                    Op::StoreMatrix { address, src, transpose: op.has("trans") },
                    Class::SharedStore,
                ));
            }
            "movmatrix" => {
                let (dst, a) = (self.register(operands.first())?, self.source(operands.get(1), "b32")?);
                return Ok((Op::MoveMatrix { dst, a }, Class::Collective));
            }
            "mma" => match self.mma_product(op, operands)? {
                Some(product) => product,
                None => self.mma(op, operands)?,
            },
            _ => match op.modifiers.first().copied() {
                Some("fence") => Op::WgmmaFence,
                Some("commit_group") => Op::WgmmaCommit,
                Some("wait_group") => Op::WgmmaWait { pending: self.constant(operands.first())? as u32 },
                Some("mma_async") => self.wgmma(op, operands)?,
                _ => return Err(unsupported()),
            },
        };
        Ok((decoded, class))
    }

    fn matrix_form(&self, op: &Opcode<'_>, registers: usize) -> Result<(), String> {
        let shared = matches!(window(op), Some(Window::Shared | Window::Cluster) | None);
        if !op.has("m8n8") || op.ty() != "b16" || !shared {
            return Err(unsupported());
        }
        let matrices = [("x1", 1), ("x2", 2), ("x4", 4)].iter().find(|(name, _)| op.has(name));
        if matrices.is_none_or(|(_, n)| *n != registers) {
            return Err(format!("{registers} registers"));
        }
        Ok(())
    }

    fn mma(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Result<Op, String> {
        let Some((16, 8, k)) = shape(op) else { return Err(unsupported()) };
        let [.., d_type, a_type, b_type, c_type] = op.modifiers.as_slice() else { return Err(unsupported()) };
        let (Some(a_type), Some(b_type)) = (mma_type(a_type), mma_type(b_type)) else {
            return Err(unsupported());
        };
        if !op.has("row")
            || !op.has("col")
            || op.has("sp")
            || op.has("satfinite")
            || op.has("xor")
            || op.has("and")
        {
            return Err(unsupported());
        }
        let half_accumulate = *d_type == "f16";
        if !accumulates(a_type, b_type, d_type)
            || c_type != d_type
            || k * a_type.bits() > 256
            || k * a_type.bits() < 128
        {
            return Err(unsupported());
        }
        let d = self.registers_of(operands.first())?;
        let (a, b) = (self.sources(operands.get(1), "b32")?, self.sources(operands.get(2), "b32")?);
        let c = self.sources(operands.get(3), d_type)?;
        let words = k * a_type.bits() / 64;
        let accumulators = if half_accumulate { 2 } else { 4 };
        if a.len() != words || b.len() * 2 != words || d.len() != accumulators || c.len() != accumulators {
            return Err(format!(
                "{}, {}, {}, {} registers of D, A, B, C",
                d.len(),
                a.len(),
                b.len(),
                c.len()
            ));
        }
        Ok(Op::Mma(Box::new(Mma { k, a_type, b_type, half_accumulate, d, a, b, c })))
    }

    /// `wgmma.mma_async.sync.aligned.m64nNkK.d.a.b d, a, b, scale-d, imm-a, imm-b [, trans-a, trans-b]`
    fn wgmma(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Result<Op, String> {
        let Some((64, n, k)) = shape(op) else { return Err(unsupported()) };
        let [.., d_type, a_type, b_type] = op.modifiers.as_slice() else { return Err(unsupported()) };
        let (Some(a_type), Some(b_type)) = (mma_type(a_type), mma_type(b_type)) else {
            return Err(unsupported());
        };
        let half_accumulate = *d_type == "f16";
        if n == 0
            || n % 8 != 0
            || n > 256
            || k * a_type.bits() != 256
            // Of integers not every width.
            || a_type.is_integer() && n % 16 != 0 && n != 8 && n != 24
            || !accumulates(a_type, b_type, d_type)
            || op.has("satfinite")
        {
            return Err(unsupported());
        }
        let d = self.registers_of(operands.first())?;
        if d.len() != n / if half_accumulate { 4 } else { 2 } {
            return Err(format!("{} registers of D for n = {n}", d.len()));
        }
        let a = self.sources(operands.get(1), "b64")?;
        if a.len() != 1 && a.len() != 4 {
            return Err(format!("{} registers of A", a.len()));
        }
        let b = self.source(operands.get(2), "b64")?;
        let scale_d = match operands.get(3) {
            Some(Operand::Integer(scale)) => ScaleD::Constant(*scale != 0),
            Some(Operand::Register(Register::Predicate(_)) | Operand::Not(_)) => {
                ScaleD::Predicate(self.predicate(operands.get(3))?)
            }
            // The short form without scale accumulates.
            None => ScaleD::Constant(true),
            other => return Err(format!("{other:?} where scale-d is expected")),
        };
        let flag = |at: usize| match operands.get(at) {
            Some(Operand::Integer(value)) => *value as i64,
            _ => 0,
        };
        let from_registers = a.len() == 4;
        Ok(Op::Wgmma(Box::new(Wgmma {
            n,
            k,
            a_type,
            b_type,
            half_accumulate,
            d,
            a,
            b,
            scale_d,
            negate_a: flag(4) == -1,
            negate_b: flag(5) == -1,
            transpose_a: !from_registers && flag(6) == 1,
            transpose_b: flag(if from_registers { 6 } else { 7 }) == 1,
        })))
    }
}
