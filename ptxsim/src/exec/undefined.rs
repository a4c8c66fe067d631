//! Values that nothing has written. A program may load them, move them about and drop them: a row's tail, lanes that are masked
//! later. It may not let them decide where it goes or what it touches.
//!
//! Each register has bits that are undefined, lane by lane. An instruction with such a source runs once for each of several
//! fillings of these bits; what differs between the results is undefined, too.

use std::collections::HashMap;

use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Address, Lanes, Op, Src, WARP, lanes_of, lanes_where, uses};

/// Undefined bits of a warp's registers, and lanes of its predicates.
#[derive(Default)]
pub struct Undefined {
    pub registers: HashMap<u32, Lanes>,
    pub predicates: HashMap<u32, u32>,
    /// Line of the latest load of such a value.
    pub line: u32,
}

impl Undefined {
    pub fn is_empty(&self) -> bool {
        self.registers.is_empty() && self.predicates.is_empty()
    }

    /// The undefined bits of a source.
    pub fn bits(&self, source: Src) -> Option<&Lanes> {
        match source {
            Src::Register(r) => self.registers.get(&r),
            _ => None,
        }
    }

    /// Lanes of `exec` now have these undefined bits.
    pub fn set(&mut self, register: u32, bits: &Lanes, exec: u32) {
        if bits.iter().all(|b| *b == 0) && !self.registers.contains_key(&register) {
            return;
        }
        let held = self.registers.entry(register).or_insert([0; WARP]);
        for lane in lanes_of(exec) {
            held[lane] = bits[lane];
        }
        if held.iter().all(|b| *b == 0) {
            self.registers.remove(&register);
        }
    }

    pub fn set_predicate(&mut self, predicate: u32, undefined: u32, exec: u32) {
        let held = self.predicates.get(&predicate).copied().unwrap_or(0) & !exec | undefined & exec;
        match held {
            0 => self.predicates.remove(&predicate),
            held => self.predicates.insert(predicate, held),
        };
    }

    /// Whether an instruction uses anything undefined, or overwrites it.
    pub fn touches(&self, op: &Op) -> bool {
        let mut touched = false;
        uses::registers(op, &mut |r| touched |= self.registers.contains_key(&r));
        if !self.predicates.is_empty() {
            uses::predicates(op, &mut |p| touched |= self.predicates.contains_key(&p));
        }
        touched
    }

    /// Lanes of `mask` for which a predicate is undefined.
    pub fn predicate(&self, predicate: u32, mask: u32) -> u32 {
        self.predicates.get(&predicate).copied().unwrap_or(0) & mask
    }

    /// A guard that decides for lanes of `mask` must be defined.
    pub fn guard(&self, predicate: u32, mask: u32) -> Outcome {
        match self.predicate(predicate, mask) {
            0 => Ok(()),
            lanes => Err(self.decides("whether an instruction runs", lanes)),
        }
    }

    pub fn decides(&self, what: &str, lanes: u32) -> Trouble {
        let what = format!("memory that nothing has written, loaded at line {}, decides {what}", self.line);
        Trouble::new(FaultKind::Uninitialized, what).by(lanes.trailing_zeros() as usize)
    }

    /// Lanes of `exec` for which a source is undefined.
    pub fn lanes(&self, source: Src, exec: u32) -> u32 {
        self.bits(source).map_or(0, |bits| lanes_where(exec, |lane| bits[lane] != 0))
    }

    pub fn address(&self, address: &Address, exec: u32) -> Outcome {
        match self.lanes(address.base, exec) {
            0 => Ok(()),
            lanes => Err(self.decides("an address", lanes)),
        }
    }
}
