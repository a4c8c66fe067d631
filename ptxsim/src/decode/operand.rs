//! Operands.

use super::Decoder;
use crate::ir::{Address, DYNAMIC, PredicateSrc, Special, Src};
use crate::ptx::{Operand, Register, Space};

impl Decoder<'_> {
    /// A value of type `ty`: literals take its bits.
    pub(super) fn source(&mut self, operand: Option<&Operand>, ty: &str) -> Result<Src, String> {
        Ok(match operand {
            Some(Operand::Register(Register::Value { index, .. })) => {
                Src::Register(self.layout.register(*index))
            }
            Some(Operand::Integer(n)) => match ty {
                // PTX has no implicit conversion, but takes integers where bits are meant.
                "f32" if *n != 0 => return Err(format!("integer {n} as an f32")),
                _ => Src::Immediate(*n),
            },
            Some(Operand::F32(bits)) => match ty {
                "f64" => Src::Immediate(f64::from(f32::from_bits(*bits)).to_bits()),
                _ => Src::Immediate((*bits).into()),
            },
            Some(Operand::F64(bits)) => match ty {
                "f32" => Src::Immediate((f64::from_bits(*bits) as f32).to_bits().into()),
                _ => Src::Immediate(*bits),
            },
            Some(Operand::Name(name)) => self.named(name)?.0,
            Some(Operand::NameOffset(name, offset)) => match self.named(name)?.0 {
                Src::Global(index, _) => Src::Global(index, *offset),
                Src::Local(at) => Src::Local(at.wrapping_add(*offset as u32)),
                Src::Shared(at) if at != DYNAMIC => Src::Shared(at.wrapping_add(*offset as u32)),
                Src::Parameter(at) => Src::Parameter(at.wrapping_add(*offset as u32)),
                _ => return Err(format!("offset of `{name}`")),
            },
            Some(Operand::Sink) => Src::Immediate(0),
            other => return Err(unexpected(other, "a value")),
        })
    }

    fn named(&mut self, name: &str) -> Result<(Src, Option<Space>), String> {
        if let Some(special) = special(name) {
            return Ok((special, None));
        }
        match self.layout.resolve(name) {
            Some((src, space)) => Ok((src, Some(space))),
            None if name.starts_with("%envreg") => {
                Err(format!("`{name}` of cooperative grids is not supported"))
            }
            None => Err(format!("`{name}` is not declared")),
        }
    }

    /// The register that a result goes to; `None` for `_`.
    pub(super) fn target(&self, operand: Option<&Operand>) -> Result<Option<u32>, String> {
        match operand {
            Some(Operand::Register(Register::Value { index, .. })) => Ok(Some(self.layout.register(*index))),
            Some(Operand::Sink) => Ok(None),
            other => Err(unexpected(other, "a register")),
        }
    }

    /// The register that a result must go to.
    pub(super) fn register(&self, operand: Option<&Operand>) -> Result<u32, String> {
        self.target(operand)?.ok_or_else(|| "`_` where a register is needed".to_owned())
    }

    /// The predicate that a result goes to; `None` for `_`.
    pub(super) fn predicate_target(&self, operand: Option<&Operand>) -> Result<Option<u32>, String> {
        match operand {
            Some(Operand::Register(Register::Predicate(index))) => Ok(Some(self.layout.predicate(*index))),
            Some(Operand::Sink) => Ok(None),
            other => Err(unexpected(other, "a predicate")),
        }
    }

    /// The same of an operand that may be left out.
    pub(super) fn optional_predicate(&self, operand: Option<&Operand>) -> Result<Option<u32>, String> {
        operand.map_or(Ok(None), |operand| self.predicate_target(Some(operand)))
    }

    pub(super) fn predicate(&self, operand: Option<&Operand>) -> Result<PredicateSrc, String> {
        match operand {
            Some(Operand::Register(Register::Predicate(index))) => {
                Ok(PredicateSrc { index: Some(self.layout.predicate(*index)), negated: false })
            }
            Some(Operand::Not(Register::Predicate(index))) => {
                Ok(PredicateSrc { index: Some(self.layout.predicate(*index)), negated: true })
            }
            Some(Operand::Integer(n)) => Ok(PredicateSrc { index: None, negated: *n == 0 }),
            other => Err(unexpected(other, "a predicate")),
        }
    }

    /// `[base + offset]`, and the space of a named base.
    pub(super) fn address(&mut self, operand: Option<&Operand>) -> Result<(Address, Option<Space>), String> {
        let (base, offset) = match operand {
            Some(Operand::Address(base, offset)) => (base.as_ref(), *offset),
            // Within brackets with more than an address.
            Some(base @ (Operand::Register(_) | Operand::Name(_) | Operand::Integer(_))) => (base, 0),
            other => return Err(unexpected(other, "an address")),
        };
        match base {
            Operand::Name(name) => {
                let (src, space) = self.named(name)?;
                Ok((Address { base: src, offset }, space))
            }
            base => Ok((Address { base: self.source(Some(base), "u64")?, offset }, None)),
        }
    }

    /// The elements of `{...}`, or one operand.
    pub(super) fn elements<'o>(&self, operand: Option<&'o Operand>) -> Vec<&'o Operand> {
        match operand {
            Some(Operand::Vector(elements)) => elements.iter().collect(),
            Some(one) => vec![one],
            None => Vec::new(),
        }
    }

    /// Like [`Decoder::source`] of each element; registers of 128 bits are two.
    pub(super) fn sources(&mut self, operand: Option<&Operand>, ty: &str) -> Result<Box<[Src]>, String> {
        let mut found = Vec::new();
        for element in self.elements(operand) {
            let source = self.source(Some(element), ty)?;
            found.push(source);
            found.extend(self.upper(element).map(Src::Register));
        }
        Ok(found.into())
    }

    /// The second one of a register of 128 bits.
    fn upper(&self, operand: &Operand) -> Option<u32> {
        match operand {
            Operand::Register(Register::Value { index, bits: 128 }) => Some(self.layout.register(index + 1)),
            _ => None,
        }
    }

    pub(super) fn targets(&self, operand: Option<&Operand>) -> Result<Box<[Option<u32>]>, String> {
        let mut found = Vec::new();
        for element in self.elements(operand) {
            let target = self.target(Some(element))?;
            found.push(target);
            found.extend(self.upper(element).map(Some));
        }
        Ok(found.into())
    }

    pub(super) fn registers_of(&self, operand: Option<&Operand>) -> Result<Box<[u32]>, String> {
        self.elements(operand).into_iter().map(|e| self.register(Some(e))).collect()
    }

    pub(super) fn label(&self, operand: Option<&Operand>) -> Result<u32, String> {
        match operand {
            Some(Operand::Name(name)) => self.target_of(name),
            other => Err(unexpected(other, "a label")),
        }
    }

    /// Where a label stands, the innermost of that name.
    pub(super) fn target_of(&self, name: &str) -> Result<u32, String> {
        let mut scope = self.scope;
        loop {
            if let Some(at) = self.labels.get(&(name, scope)) {
                return Ok(*at);
            }
            match self.function.scopes.get(scope as usize) {
                Some(outer) if *outer != scope => scope = *outer,
                _ => return Err(format!("no label `{name}`")),
            }
        }
    }

    /// A constant.
    pub(super) fn constant(&self, operand: Option<&Operand>) -> Result<u64, String> {
        match operand {
            Some(Operand::Integer(n)) => Ok(*n),
            other => Err(unexpected(other, "a constant")),
        }
    }
}

/// `d|p` or `d`.
pub(super) fn pair(operand: Option<&Operand>) -> (Option<&Operand>, Option<&Operand>) {
    match operand {
        Some(Operand::Pair(a, b)) => (Some(a), Some(b)),
        other => (other, None),
    }
}

fn unexpected(operand: Option<&Operand>, wanted: &str) -> String {
    match operand {
        None => format!("an operand is missing, {wanted} is expected"),
        Some(operand) => format!("{} where {wanted} is expected", described(operand)),
    }
}

fn described(operand: &Operand) -> String {
    match operand {
        Operand::Register(Register::Predicate(_)) | Operand::Not(_) => "a predicate".to_owned(),
        Operand::Register(Register::Value { bits, .. }) => format!("a register of {bits} bits"),
        Operand::Integer(n) => format!("the constant {n}"),
        Operand::F32(_) | Operand::F64(_) => "a floating-point constant".to_owned(),
        Operand::Name(name) | Operand::NameOffset(name, _) => format!("`{name}`"),
        Operand::Address(..) | Operand::AddressList(_) => "an address".to_owned(),
        Operand::Vector(elements) => format!("a vector of {}", elements.len()),
        Operand::Pair(..) => "a pair".to_owned(),
        Operand::Sink => "`_`".to_owned(),
        Operand::List(_) => "a list".to_owned(),
    }
}

fn special(name: &str) -> Option<Src> {
    // 2.3: a constant of the language.
    if name == "WARP_SZ" {
        return Some(Src::Immediate(32));
    }
    let name = name.strip_prefix('%')?;
    let axis = |prefix: &str| {
        let rest = name.strip_prefix(prefix)?.strip_prefix('.')?;
        ["x", "y", "z"].iter().position(|a| *a == rest).map(|a| a as u8)
    };
    let along = |prefix: &str, make: fn(u8) -> Special| axis(prefix).map(make);
    let of_axis = along("tid", Special::Tid)
        .or_else(|| along("ntid", Special::Ntid))
        .or_else(|| along("ctaid", Special::Ctaid))
        .or_else(|| along("nctaid", Special::Nctaid))
        .or_else(|| along("clusterid", Special::ClusterId))
        .or_else(|| along("nclusterid", Special::NclusterId))
        .or_else(|| along("cluster_ctaid", Special::ClusterCtaid))
        .or_else(|| along("cluster_nctaid", Special::ClusterNctaid));
    if let Some(found) = of_axis {
        return Some(Src::Special(found));
    }
    Some(Src::Special(match name {
        "cluster_ctarank" => Special::ClusterCtarank,
        "cluster_nctarank" => Special::ClusterNctarank,
        "is_explicit_cluster" => Special::IsExplicitCluster,
        "laneid" => Special::LaneId,
        "warpid" => Special::WarpId,
        "nwarpid" => Special::NwarpId,
        "smid" => Special::SmId,
        "nsmid" => Special::NsmId,
        "gridid" => Special::GridId,
        "lanemask_eq" => Special::LanemaskEq,
        "lanemask_le" => Special::LanemaskLe,
        "lanemask_lt" => Special::LanemaskLt,
        "lanemask_ge" => Special::LanemaskGe,
        "lanemask_gt" => Special::LanemaskGt,
        "clock" | "clock64" => Special::Clock,
        "clock_hi" => Special::ClockHigh,
        "globaltimer" | "globaltimer_lo" => Special::GlobalTimer,
        "globaltimer_hi" => Special::GlobalTimerHigh,
        "dynamic_smem_size" => Special::DynamicSharedBytes,
        // 10.31: with what the system reserves, which is nothing here.
        "total_smem_size" | "aggr_smem_size" => Special::TotalSharedBytes,
        _ => return None,
    }))
}
