//! `tensormap.replace` and `tensormap.cp_fenceproxy`.

use super::memory::window;
use super::{Decoded, Decoder, Opcode, unsupported};
use crate::ir::{Class, MapField, MapReplace, Op, Src, Window};
use crate::ptx::Operand;

impl<'m> Decoder<'m> {
    pub(super) fn tensormap(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        match op.modifiers.first() {
            Some(&"replace") => self.replace(op, operands),
            Some(&"cp_fenceproxy") => self.copy_map(op, operands),
            _ => Err(unsupported()),
        }
    }

    /// 9.7.9.26: `tensormap.replace.tile.field{.space}.b1024.type [map], {ordinal,} value`
    fn replace(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        self.requires_specific(90)?;
        let (field, ty) = match op.modifiers.as_slice() {
            ["replace", "tile", field, "b1024", ty] => (*field, *ty),
            ["replace", "tile", field, "global" | "shared::cta", "b1024", ty] => (*field, *ty),
            _ => return Err(unsupported()),
        };
        let wanted = if matches!(field, "global_address" | "global_stride") { "b64" } else { "b32" };
        if ty != wanted {
            return Err(format!("{field} has the type .{wanted}"));
        }
        let (address, _) = self.address(operands.first())?;
        let per_dimension = |ordinal: u64, make: fn(u8) -> MapField| {
            let most = if field == "global_stride" { 3 } else { 4 };
            match ordinal {
                n if n <= most => Ok(make(n as u8)),
                n => Err(format!("{field} {n}, allowed are 0 to {most}")),
            }
        };
        let mut rest = operands.iter().skip(1);
        let mut ordinal = |decoder: &Self| decoder.constant(rest.next());
        let field = match field {
            "global_address" => MapField::Address,
            "rank" => MapField::Rank,
            "box_dim" => per_dimension(ordinal(self)?, MapField::Box)?,
            "global_dim" => per_dimension(ordinal(self)?, MapField::Dimension)?,
            "global_stride" => per_dimension(ordinal(self)?, MapField::Stride)?,
            "element_stride" => per_dimension(ordinal(self)?, MapField::Step)?,
            "elemtype" => MapField::DataType,
            "interleave_layout" => MapField::Interleave,
            "swizzle_mode" => MapField::Swizzle,
            "swizzle_atomicity" => {
                self.requires_specific(100)?;
                MapField::Atomicity
            }
            "fill_mode" => MapField::Fill,
            _ => return Err(unsupported()),
        };
        let value = match field.most() {
            None => self.source(rest.next(), ty)?,
            Some(most) => match self.constant(rest.next())? {
                n if n <= most => Src::Immediate(n),
                n => return Err(format!("the value {n}, allowed are 0 to {most}")),
            },
        };
        if rest.next().is_some() {
            return Err(format!("{} operands are too many", operands.len()));
        }
        let window = window(op).unwrap_or(Window::Generic);
        Ok((Op::MapReplace(Box::new(MapReplace { window, address, field, value })), Class::OtherMemory))
    }

    /// 9.7.13.16: `[global], [shared], 128`
    fn copy_map(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        self.requires(90)?;
        let scopes = ["cta", "cluster", "gpu", "sys"];
        match op.modifiers.as_slice() {
            [_, "global", "shared::cta", "tensormap::generic", "release", scope, "sync", "aligned"]
                if scopes.contains(scope) => {}
            _ => return Err(unsupported()),
        }
        let (dst, _) = self.address(operands.first())?;
        let (src, _) = self.address(operands.get(1))?;
        match self.constant(operands.get(2))? {
            128 => Ok((Op::MapCopy { dst, src }, Class::GlobalStore)),
            n => Err(format!("{n} bytes, allowed are 128")),
        }
    }
}
