//! Instructions of which something is [undefined](super::undefined): run for several fillings of its bits.

use super::machine::{Flow, Machine};
use super::warp::Warp;
use crate::fault::Outcome;
use crate::ir::{Instr, Lanes, Op, PredicateSrc, ScaleD, Src, WARP, WmmaTransfer, uses};

/// What undefined bits are tried as, beside what they happen to be: zeros, ones (a NaN, -1), a large number and its negative,
/// finite in every type. Registers and lanes take turns, so that two that are undefined are not alike.
const FILLINGS: [u64; 4] = [0, u64::MAX, 0x7b7b_7b7b_7b7b_7b7b, 0xfbfb_fbfb_fbfb_fbfb];

fn filling(round: usize, register: u32, lane: usize) -> u64 {
    FILLINGS[(round + register as usize + lane) % FILLINGS.len()]
}

impl Machine<'_, '_> {
    /// An instruction of which something is undefined.
    pub fn execute_undefined(
        &mut self,
        warp: &mut Warp,
        instruction: &Instr,
        exec: u32,
        pc: usize,
    ) -> Outcome<Flow> {
        match &instruction.op {
            // These say themselves what becomes of their values.
            Op::Load { address, .. }
            | Op::Store { address, .. }
            | Op::LoadMatrix { address, .. }
            | Op::StoreMatrix { address, .. } => warp.undefined.address(address, exec)?,
            Op::WmmaLoad(load) => defined_place(warp, &load.0, exec)?,
            Op::WmmaStore(store) => defined_place(warp, &store.0, exec)?,
            Op::Wgmma(op) => {
                if op.a.len() == 1 && warp.undefined.lanes(op.a[0], exec) != 0
                    || warp.undefined.lanes(op.b, exec) != 0
                {
                    return Err(warp.undefined.decides("what a wgmma multiplies", exec));
                }
                if let ScaleD::Predicate(PredicateSrc { index: Some(p), .. }) = op.scale_d {
                    warp.undefined.guard(p, exec)?;
                }
            }
            op if is_pure(op) => return self.try_fillings(warp, instruction, (exec, 0), pc),
            op => {
                let mut lanes = 0;
                uses::sources(op, &mut |r| lanes |= warp.undefined.lanes(Src::Register(r), exec));
                uses::predicate_sources(op, &mut |p: PredicateSrc| {
                    lanes |= p.index.and_then(|p| warp.undefined.predicates.get(&p)).unwrap_or(&0) & exec;
                });
                if lanes != 0 {
                    return Err(warp.undefined.decides("what an instruction does", lanes));
                }
                let flow = self.execute(warp, instruction, exec, pc)?;
                uses::registers(op, &mut |r| warp.undefined.set(r, &[0; WARP], exec));
                uses::predicates(op, &mut |p| warp.undefined.set_predicate(p, 0, exec));
                return Ok(flow);
            }
        }
        self.execute(warp, instruction, exec, pc)
    }

    /// Runs an instruction that only changes registers for every filling.
    /// Of the lanes of `unsure` nothing says whether they run it.
    pub fn try_fillings(
        &mut self,
        warp: &mut Warp,
        instruction: &Instr,
        (exec, unsure): (u32, u32),
        pc: usize,
    ) -> Outcome<Flow> {
        let (registers, predicates, carry) = (warp.registers.clone(), warp.predicates.clone(), warp.carry);
        let counted = self.tally.total.clone();
        let mut results: Vec<(Vec<Lanes>, Vec<u32>)> = Vec::new();
        for round in 0..FILLINGS.len() {
            warp.registers.clone_from(&registers);
            warp.predicates.clone_from(&predicates);
            warp.carry = carry;
            for (register, bits) in &warp.undefined.registers {
                let values = warp.registers[*register as usize].iter_mut().zip(bits);
                for (lane, (value, bits)) in values.enumerate() {
                    *value = *value & !bits | filling(round, *register, lane) & bits;
                }
            }
            for (predicate, lanes) in &warp.undefined.predicates {
                let held = &mut warp.predicates[*predicate as usize];
                *held = *held & !lanes | filling(round, *predicate, 0) as u32 & lanes;
            }
            let exec = exec & !unsure | if round % 2 == 0 { unsure } else { 0 };
            let flow = self.execute(warp, instruction, exec, pc)?;
            if !matches!(flow, Flow::Next) {
                // It waits for the rest of its warp.
                (warp.registers, warp.predicates, warp.carry) = (registers, predicates, carry);
                return Ok(flow);
            }
            results.push((warp.registers.clone(), warp.predicates.clone()));
        }
        (warp.registers, warp.predicates, warp.carry) = (registers, predicates, carry);
        self.tally.total = counted;
        let flow = self.execute(warp, instruction, exec, pc)?;
        uses::registers(&instruction.op, &mut |r| {
            let at = r as usize;
            let bits = std::array::from_fn(|lane| {
                results.iter().fold(0, |bits, (all, _)| bits | all[at][lane] ^ warp.registers[at][lane])
            });
            warp.undefined.set(r, &bits, exec | unsure);
        });
        uses::predicates(&instruction.op, &mut |p| {
            let at = p as usize;
            let lanes = results.iter().fold(0, |lanes, (_, all)| lanes | all[at] ^ warp.predicates[at]);
            warp.undefined.set_predicate(p, lanes, exec | unsure);
        });
        Ok(flow)
    }

    /// A load brought undefined bits: `line` is where.
    pub fn loaded_undefined(&self, warp: &mut Warp, register: u32, bits: &Lanes, exec: u32, pc: usize) {
        if bits.iter().any(|b| *b != 0) {
            warp.undefined.line = self.grid.code.instructions.get(pc).map_or(0, |i| i.line);
        }
        warp.undefined.set(register, bits, exec);
    }
}

/// Where a fragment lies must be defined, and how its lines follow each other.
fn defined_place(warp: &Warp, of: &WmmaTransfer, exec: u32) -> Outcome {
    warp.undefined.address(&of.address, exec)?;
    let stride = of.stride.map_or(0, |stride| warp.undefined.lanes(stride, exec));
    if stride != 0 { Err(warp.undefined.decides("a stride", stride)) } else { Ok(()) }
}

/// Whether an instruction changes registers and predicates alone, each lane's by its own.
pub fn is_lanewise(op: &Op) -> bool {
    matches!(
        op,
        Op::Alu { .. }
            | Op::AluOf { .. }
            | Op::AluTest { .. }
            | Op::Moves { .. }
            | Op::Carry { .. }
            | Op::Convert { .. }
            | Op::Select { .. }
            | Op::Compare { .. }
            | Op::ComparePair { .. }
            | Op::Set { .. }
            | Op::PredicateLogic { .. }
            | Op::Pack { .. }
            | Op::Unpack { .. }
            | Op::ToGeneric { .. }
            | Op::FromGeneric { .. }
    )
}

/// Whether an instruction's registers and predicates are all that it changes.
fn is_pure(op: &Op) -> bool {
    is_lanewise(op)
        || matches!(
            op,
            Op::Shuffle { .. }
                | Op::Vote { .. }
                | Op::Match { .. }
                | Op::Redux { .. }
                | Op::MoveMatrix { .. }
                | Op::Mma(_)
                | Op::Product(_)
        )
}
