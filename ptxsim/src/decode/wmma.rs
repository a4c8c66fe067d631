//! `wmma`, and the `mma.sync` of f64, of eight rows and with `.satfinite`.

use super::matrix::{mma_type, shape};
use super::{Decoded, Decoder, Opcode, unsupported};
use crate::ir::{Class, Fragments, Op, Product, Products, WmmaTransfer};
use crate::ptx::{Operand, bits_of};

/// Whether `wmma` has a shape for multiplicands of a type (9.7.14.4.1).
fn wmma_has((m, n, k): (usize, usize, usize), ty: &str) -> bool {
    match ty {
        "f16" | "bf16" | "s8" | "u8" => matches!((m, n, k), (16, 16, 16) | (32, 8, 16) | (8, 32, 16)),
        "tf32" => (m, n, k) == (16, 16, 8),
        "f64" => (m, n, k) == (8, 8, 4),
        _ => false,
    }
}

/// Whether `wmma` has a shape for accumulators of a type.
fn wmma_accumulates(shape: (usize, usize, usize), ty: &str) -> bool {
    match ty {
        "f16" | "s32" => wmma_has(shape, "f16"),
        "f32" => wmma_has(shape, "f16") || wmma_has(shape, "tf32"),
        "f64" => wmma_has(shape, "f64"),
        _ => false,
    }
}

/// Registers of a fragment of `elements`; f16 multiplicands always have eight.
fn registers(elements: usize, ty: &str, multiplicand: bool) -> usize {
    match ty {
        "f16" if multiplicand => 8,
        ty => (elements / 32 * element_bits(ty)).div_ceil(32.max(element_bits(ty))),
    }
}

fn element_bits(ty: &str) -> usize {
    bits_of(ty) as usize
}

fn products(a: &str, b: &str, saturate: bool) -> Option<Products> {
    if (a, b, saturate) == ("f64", "f64", false) {
        return Some(Products::F64);
    }
    match (mma_type(a)?, mma_type(b)?) {
        (a, b) if a.is_integer() && b.is_integer() => Some(Products::Integer { a, b, saturate }),
        (a, b) if a == b && a.bits() > 8 && !saturate => Some(Products::Float(a)),
        _ => None,
    }
}

fn counted(what: &str, found: usize, wanted: usize) -> Result<(), String> {
    match found == wanted {
        true => Ok(()),
        false => Err(format!("{found} registers of {what}, {wanted} are expected")),
    }
}

impl<'m> Decoder<'m> {
    /// 9.7.14.4
    pub(super) fn wmma(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        if !op.has("sync") {
            return Err(unsupported());
        }
        match op.modifiers.first() {
            Some(&"load") => self.wmma_load(op, operands),
            Some(&"store") => self.wmma_store(op, operands),
            Some(&"mma") => self.wmma_mma(op, operands),
            _ => Err(unsupported()),
        }
    }

    /// `wmma.load.a.sync.aligned.row.m16n16k16{.space}.f16 r, [p]{, stride}`
    fn wmma_load(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let (m, n, k) = shape(op).ok_or_else(unsupported)?;
        let matrix = op.modifiers.get(1).copied().unwrap_or_default();
        let (rows, columns, exists) = match matrix {
            "a" => (m, k, wmma_has((m, n, k), op.ty())),
            "b" => (k, n, wmma_has((m, n, k), op.ty())),
            "c" => (m, n, wmma_accumulates((m, n, k), op.ty())),
            _ => return Err(unsupported()),
        };
        if !exists {
            return Err(unsupported());
        }
        let dst = self.registers_of(operands.first())?;
        counted(matrix, dst.len(), registers(rows * columns, op.ty(), matrix != "c"))?;
        let transfer = self.transfer(
            op,
            rows,
            columns,
            matrix == "c",
            dst.len(),
            operands.get(1..).unwrap_or_default(),
        )?;
        Ok((Op::WmmaLoad(Box::new((transfer, dst))), Class::TensorCore))
    }

    /// `wmma.store.d.sync.aligned.row.m16n16k16{.space}.f32 [p], r{, stride}`
    fn wmma_store(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let (m, n, k) = shape(op).ok_or_else(unsupported)?;
        if op.modifiers.get(1) != Some(&"d") || !wmma_accumulates((m, n, k), op.ty()) {
            return Err(unsupported());
        }
        let src = self.sources(operands.get(1), op.ty())?;
        counted("d", src.len(), registers(m * n, op.ty(), false))?;
        let rest: Vec<&Operand> =
            operands.iter().enumerate().filter(|(i, _)| *i != 1).map(|(_, o)| o).collect();
        let transfer = self.transfer(op, m, n, true, src.len(), &rest)?;
        Ok((Op::WmmaStore(Box::new((transfer, src))), Class::TensorCore))
    }

    /// The memory's side: `[p]{, stride}`.
    fn transfer<O: std::borrow::Borrow<Operand>>(
        &mut self,
        op: &Opcode<'_>,
        rows: usize,
        columns: usize,
        accumulators: bool,
        registers: usize,
        operands: &[O],
    ) -> Result<WmmaTransfer, String> {
        let by_column = match (op.has("row"), op.has("col")) {
            (true, false) => false,
            (false, true) => true,
            _ => return Err(unsupported()),
        };
        let (address, space) = self.address(operands.first().map(O::borrow))?;
        let stride = operands.get(1).map(|s| self.source(Some(s.borrow()), "u32")).transpose()?;
        let (lines, length) = if by_column { (columns, rows) } else { (rows, columns) };
        Ok(WmmaTransfer {
            window: self.place(op, space),
            address,
            stride,
            lines,
            length,
            element_bytes: (element_bits(op.ty()) / 8) as u32,
            // Multiplicands keep the memory's order; accumulators go by rows.
            across: accumulators && by_column,
            fragment_bytes: (registers * element_bits(op.ty()).max(32) / 8) as u64,
        })
    }

    /// `wmma.mma.sync.aligned.row.col.m16n16k16{.rn}.types{.satfinite} d, a, b, c`
    fn wmma_mma(&mut self, op: &Opcode<'_>, operands: &'m [Operand]) -> Decoded {
        let (m, n, k) = shape(op).ok_or_else(unsupported)?;
        let layouts: Vec<&str> =
            op.modifiers.iter().copied().filter(|m| matches!(*m, "row" | "col")).collect();
        let [a_layout, b_layout] = layouts.as_slice() else { return Err(unsupported()) };
        let types: Vec<&str> = op.modifiers.iter().copied().filter(|m| bits_of(m) != 0).collect();
        let (d_type, a_type, b_type, c_type) = match types.as_slice() {
            [d, c] => (*d, "f16", "f16", *c),
            [d, a, b, c] => (*d, *a, *b, *c),
            _ => return Err(unsupported()),
        };
        let rest = |m: &&str| matches!(*m, "mma" | "sync" | "aligned" | "rn" | "satfinite" | "row" | "col");
        if op.modifiers.iter().any(|m| !rest(m) && bits_of(m) == 0 && !m.starts_with('m')) {
            return Err(unsupported());
        }
        let accumulators = match a_type {
            "f16" => matches!(d_type, "f16" | "f32") && matches!(c_type, "f16" | "f32"),
            "bf16" | "tf32" => d_type == "f32" && c_type == "f32",
            "f64" => d_type == "f64" && c_type == "f64",
            _ => d_type == "s32" && c_type == "s32",
        };
        if a_type != b_type || !accumulators || !wmma_has((m, n, k), a_type) {
            return Err(unsupported());
        }
        let products = products(a_type, b_type, op.has("satfinite")).ok_or_else(unsupported)?;
        let fragments = Fragments::Wmma { a_by_column: *a_layout == "col", b_by_column: *b_layout == "col" };
        let d = self.registers_of(operands.first())?;
        let a = self.sources(operands.get(1), a_type)?;
        let (b, c) = (self.sources(operands.get(2), b_type)?, self.sources(operands.get(3), c_type)?);
        counted("D", d.len(), registers(m * n, d_type, false))?;
        counted("A", a.len(), registers(m * k, a_type, true))?;
        counted("B", b.len(), registers(k * n, b_type, true))?;
        counted("C", c.len(), registers(m * n, c_type, false))?;
        let (half_c, half_d) = (c_type == "f16", d_type == "f16");
        let product = Product { m, n, k, products, fragments, half_c, half_d, d, a, b, c };
        Ok((Op::Product(Box::new(product)), Class::TensorCore))
    }

    /// 9.7.14.5.14, the shapes that [`Op::Mma`] is not for; `None` for others.
    pub(super) fn mma_product(
        &mut self,
        op: &Opcode<'_>,
        operands: &'m [Operand],
    ) -> Result<Option<Op>, String> {
        let Some((m, n, k)) = shape(op) else { return Ok(None) };
        let (saturate, types) = match op.modifiers.as_slice() {
            ["sync", "aligned", _, "row", "col", "satfinite", types @ ..] => (true, types),
            ["sync", "aligned", _, "row", "col", types @ ..] => (false, types),
            _ => return Ok(None),
        };
        let types = types.strip_suffix(&["rn"]).unwrap_or(types);
        let [d_type, a_type, b_type, c_type] = types else { return Ok(None) };
        let integer = matches!(*a_type, "s8" | "u8") && matches!(*b_type, "s8" | "u8");
        match (m, n, k) {
            (8, 8, 16) | (16, 8, 16 | 32) if integer && (m == 8 || saturate) => {}
            (8, 8, 4) if *a_type == "f64" => {}
            (16, 8, 4 | 8 | 16) if *a_type == "f64" => self.requires(90)?,
            _ => return Ok(None),
        }
        let sum = if integer { "s32" } else { "f64" };
        let Some(products) = products(a_type, b_type, saturate) else { return Err(unsupported()) };
        if *d_type != sum || *c_type != sum {
            return Err(unsupported());
        }
        let d = self.registers_of(operands.first())?;
        let a = self.sources(operands.get(1), a_type)?;
        let (b, c) = (self.sources(operands.get(2), b_type)?, self.sources(operands.get(3), c_type)?);
        // 32 bits hold four integers; an f64 has a register of its own.
        let each = if integer { 4 } else { 1 };
        counted("D", d.len(), m * n / 32)?;
        counted("A", a.len(), m * k / 32 / each)?;
        counted("B", b.len(), k * n / 32 / each)?;
        counted("C", c.len(), m * n / 32)?;
        let (half_c, half_d, fragments) = (false, false, Fragments::Mma);
        Ok(Some(Op::Product(Box::new(Product { m, n, k, products, fragments, half_c, half_d, d, a, b, c }))))
    }
}
