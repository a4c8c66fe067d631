//! Which registers share a place. PTX has as many registers as a compiler likes to name, thousands in an unrolled loop, most
//! of them for a few instructions: one place for each would be more than a cache holds.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::ops::Range;

use bit_set::BitSet;

use crate::ir::{Instr, Op, uses};

/// For each register its place, and how many places there are; of one that occurs nowhere any place.
///
/// A register has its place to itself as long as it lives. Threads that have diverged do not disturb each other: each has lanes
/// of its own.
pub fn places(instructions: &[Instr], registers: u32) -> (Vec<u32>, u32) {
    let lives = lives(instructions, registers);
    let mut places = vec![0; lives.len()];
    let mut count = 0;
    let mut lives: Vec<(Life, usize)> =
        lives.iter().enumerate().filter_map(|(r, life)| life.map(|life| (life, r))).collect();
    lives.sort_unstable();
    let (mut taken, mut free) = (BinaryHeap::new(), Vec::new());
    for ((first, last), r) in lives {
        // An instruction may write one result before it reads all its sources: those places are not shared.
        while let Some(Reverse((end, place))) = taken.peek()
            && *end < first
        {
            free.push(*place);
            taken.pop();
        }
        places[r] = free.pop().unwrap_or_else(|| {
            count += 1;
            count - 1
        });
        taken.push(Reverse((last, places[r])));
    }
    (places, count)
}

/// The first and the last instruction, in the order of the text, at which a register is named, a thread may still read it, or a
/// product still write it. What is read before anything has written it lives from the beginning on, when places hold zeros.
type Life = (usize, usize);

fn lives(instructions: &[Instr], registers: u32) -> Vec<Option<Life>> {
    let blocks = blocks(instructions);
    let mut lives: Vec<Option<Life>> = vec![None; registers as usize];
    let mut lives_at = |register: usize, at: usize| {
        let (first, last) = lives[register].get_or_insert((at, at));
        (*first, *last) = (at.min(*first), at.max(*last));
    };
    live(instructions, &blocks, &mut lives_at);
    written_later(instructions, &blocks, &mut lives_at);
    lives
}

/// A basic block.
struct Block {
    instructions: Range<usize>,
    /// The blocks that may follow it.
    next: Vec<usize>,
}

fn blocks(instructions: &[Instr]) -> Vec<Block> {
    // Where an instruction may go to, if it may not just go on; and whether it may go on, for threads that run it.
    let leaves = |op: &Op| -> Option<(Vec<usize>, bool)> {
        let at = |targets: &[u32]| targets.iter().map(|target| *target as usize).collect();
        match op {
            Op::Branch { target } => Some((at(&[*target]), false)),
            Op::BranchIndexed { targets, .. } => Some((at(targets), false)),
            Op::Call { target, .. } => Some((at(&[*target]), true)),
            Op::Return | Op::Exit | Op::Trap => Some((Vec::new(), false)),
            _ => None,
        }
    };
    let mut starts = BTreeSet::from([0]);
    let mut returns = Vec::new();
    for (at, instruction) in instructions.iter().enumerate() {
        if let Some((targets, _)) = leaves(&instruction.op) {
            starts.extend(targets);
            starts.insert(at + 1);
        }
        if matches!(instruction.op, Op::Call { .. }) {
            returns.push(at + 1);
        }
    }
    starts.retain(|start| *start < instructions.len());
    let starts: Vec<usize> = starts.into_iter().collect();
    let of = |i: usize| {
        let (start, end) = (starts[i], starts.get(i + 1).copied().unwrap_or(instructions.len()));
        let last = &instructions[end - 1];
        let (mut next, goes_on) = leaves(&last.op).unwrap_or((Vec::new(), true));
        if matches!(last.op, Op::Return) {
            next.extend(&returns);
        }
        if goes_on || last.guard.is_some() {
            next.push(end);
        }
        let next = next.iter().filter_map(|at| starts.binary_search(at).ok()).collect();
        Block { instructions: start..end, next }
    };
    (0..starts.len()).map(of).collect()
}

/// Calls `lives_at` with where each register is named, and with both ends of each block for what a thread may still read there.
fn live(instructions: &[Instr], blocks: &[Block], lives_at: &mut impl FnMut(usize, usize)) {
    // What a block reads of what came before it, and what it overwrites.
    let (mut reads, mut overwrites) = (Vec::new(), Vec::new());
    for block in blocks {
        let (mut read, mut overwritten) = (BitSet::new(), BitSet::new());
        for at in block.instructions.clone() {
            let Instr { op, guard, .. } = &instructions[at];
            let (mut named, mut written) = (Vec::new(), Vec::new());
            uses::registers(op, &mut |r| named.push(r));
            uses::results(op, &mut |r| written.push(r));
            let count = |list: &[u32], r: u32| list.iter().filter(|x| **x == r).count();
            for r in &named {
                lives_at(*r as usize, at);
                // Where a guard holds it back, the old value stays.
                let only_written = guard.is_none() && count(&named, *r) == count(&written, *r);
                if !only_written && !overwritten.contains(*r as usize) {
                    read.insert(*r as usize);
                }
            }
            if guard.is_none() {
                overwritten.extend(written.iter().map(|r| *r as usize));
            }
        }
        reads.push(read);
        overwrites.push(overwritten);
    }
    let mut live_in = reads;
    let mut live_out = vec![BitSet::new(); blocks.len()];
    let mut changed = true;
    while changed {
        changed = false;
        for (i, block) in blocks.iter().enumerate().rev() {
            let mut out = live_out[i].clone();
            block.next.iter().for_each(|next| out.union_with(&live_in[*next]));
            if out != live_out[i] {
                changed = true;
                live_out[i].clone_from(&out);
                out.difference_with(&overwrites[i]);
                live_in[i].union_with(&out);
            }
        }
    }
    for (i, block) in blocks.iter().enumerate() {
        live_in[i].iter().for_each(|r| lives_at(r, block.instructions.start));
        live_out[i].iter().for_each(|r| lives_at(r, block.instructions.end - 1));
    }
}

/// Groups of products that a wait can leave under way, and one more for all that are older.
const GROUPS: usize = 8;

/// Registers that products may still write: of the group that is open, then of those that were closed, the latest first.
type UnderWay = [BitSet; GROUPS + 1];

/// Calls `lives_at` with the ends of what products that were not waited for still write, though nobody may read it.
fn written_later(instructions: &[Instr], blocks: &[Block], lives_at: &mut impl FnMut(usize, usize)) {
    let mut at_start: Vec<UnderWay> = blocks.iter().map(|_| UnderWay::default()).collect();
    let mut changed = true;
    while changed {
        changed = false;
        for block in 0..blocks.len() {
            let mut groups = at_start[block].clone();
            for at in blocks[block].instructions.clone() {
                match &instructions[at].op {
                    Op::Wgmma(product) => groups[0].extend(product.d.iter().map(|d| *d as usize)),
                    Op::WgmmaCommit => {
                        let oldest = std::mem::take(&mut groups[GROUPS]);
                        groups.rotate_right(1);
                        groups[GROUPS].union_with(&oldest);
                    }
                    Op::WgmmaWait { pending } => {
                        for group in groups.iter_mut().skip(*pending as usize + 1) {
                            std::mem::take(group).iter().for_each(|r| lives_at(r, at));
                        }
                    }
                    _ => {}
                }
            }
            let last = blocks[block].instructions.end - 1;
            groups.iter().flatten().for_each(|r| lives_at(r, last));
            for next in &blocks[block].next {
                for (known, group) in at_start[*next].iter_mut().zip(&groups) {
                    if !group.is_subset(known) {
                        known.union_with(group);
                        changed = true;
                    }
                }
            }
        }
    }
    for (groups, block) in at_start.iter().zip(blocks) {
        groups.iter().flatten().for_each(|r| lives_at(r, block.instructions.start));
    }
}

#[cfg(test)]
mod tests {
    use super::super::decode_with;
    use super::{lives, places};
    use crate::ir::Code;
    use crate::ptx;

    /// A kernel with registers `%r0` to `%r9`.
    fn decoded(body: &str) -> Code {
        let text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n\
             .func callee () {{\n.reg .b32 %x<3>;\nmov.u32 %x0, 1;\nadd.u32 %x1, %x0, %x0;\nret;\n}}\n\
             .visible .entry run() {{\n.reg .b32 %r<10>;\n.reg .pred %p<2>;\n.reg .b64 %a<2>;\n{body}\nret;\n}}\n"
        );
        let module = ptx::parse(&text).unwrap();
        let kernel = module.functions.iter().find(|f| f.name == "run").unwrap();
        decode_with(&module, kernel, &[]).unwrap()
    }

    /// Whether `%r0` and `%r1` may share a place.
    fn share(body: &str) -> bool {
        let code = decoded(body);
        let lives = lives(&code.instructions, code.registers);
        let [(a, a_end), (b, b_end)] = [lives[0].unwrap(), lives[1].unwrap()];
        a_end < b || b_end < a
    }

    const USES: &str = "st.global.u32 [%a1], %r0;\n";
    const AGAIN: &str = "mov.u32 %r1, 2;\nadd.u32 %r2, %r1, %r1;\n";

    #[test]
    fn what_is_over_makes_room() {
        let chain: String = (0..8).map(|i| format!("add.u32 %r{}, %r{i}, 1;\n", i + 1)).collect();
        let code = decoded(&format!("mov.u32 %r0, 1;\n{chain}"));
        let (chain, count) = places(&code.instructions, code.registers);
        // Two live at a time.
        assert_eq!(count, 2, "{chain:?}");
        assert_eq!(chain[0], chain[2]);
        assert_ne!(chain[0], chain[1], "a result and its source");
        // In another block, or another round.
        assert!(share(&format!("mov.u32 %r0, 1;\nbra M;\nM:\n{USES}{AGAIN}bra M2;\nM2:\n")));
        assert!(share(&format!("L:\nmov.u32 %r0, 1;\n@%p0 bra M;\n{USES}M:\n{AGAIN}@%p1 bra L;\n")));
    }

    #[test]
    fn what_lives_on_keeps_its_place() {
        let apart = |body: &str| assert!(!share(body), "{body}");
        apart(&format!("mov.u32 %r0, 1;\n{AGAIN}{USES}"));
        // Its last use comes round again.
        apart(&format!("mov.u32 %r0, 1;\nL:\n{USES}{AGAIN}@%p0 bra L;\n"));
        // On one of the ways alone.
        apart(&format!("mov.u32 %r0, 1;\n{AGAIN}@%p0 bra M;\n{USES}M:\n"));
        // Some threads, or some rounds, do not overwrite it.
        apart(&format!("L:\n@%p0 mov.u32 %r0, 1;\n{USES}{AGAIN}@%p1 bra L;\n"));
        apart(&format!("L:\n@%p0 bra M;\nmov.u32 %r0, 1;\nM:\n{USES}{AGAIN}@%p1 bra L;\n"));
        apart(&format!("L:\nadd.u32 %r0, %r0, 1;\n{AGAIN}@%p1 bra L;\n"));
        apart(&format!("L:\n{USES}mov.u32 %r0, 1;\n{AGAIN}@%p1 bra L;\n"));
        // Some threads exit, some go on.
        apart(&format!("mov.u32 %r0, 1;\n{AGAIN}@%p0 exit;\n{USES}"));
        // What nothing has written is zero to the end.
        apart(&format!("{AGAIN}{USES}"));
        // What the table of a branch has.
        let table = "ts: .branchtargets M, N;\n";
        apart(&format!("mov.u32 %r0, 1;\n{AGAIN}{table}brx.idx %r2, ts;\nM:\nret;\nN:\n{USES}"));
    }

    #[test]
    fn products_keep_what_they_write_until_they_are_waited_for() {
        let product = |d: usize| {
            format!(
                "wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16 {{%r{d}, %r9}}, %a0, %a0, 1, 1, 1, 0, 0;\n"
            )
        };
        let (first, commit) = (product(0), "wgmma.commit_group.sync.aligned;\n");
        let wait = |n: u32| format!("wgmma.wait_group.sync.aligned {n};\n");
        // Nobody reads %r0.
        for (between, shared) in [
            (String::new(), false),
            (wait(0), false),
            (commit.into(), false),
            (format!("{commit}{}", wait(1)), false),
            (format!("{commit}{}", wait(0)), true),
            (format!("{commit}{}{commit}{}", product(3), wait(1)), true),
            (format!("{commit}{}{commit}{}", product(3), wait(2)), false),
            (format!("{commit}{}", wait(0).repeat(2)), true),
            // One way waits, the other does not.
            (format!("{commit}@%p0 bra M;\n{}M:\n", wait(0)), false),
            (format!("{commit}bra M;\nM:\n{}", wait(0)), true),
            // The second round finds what the first has begun.
            (format!("L:\n{}{commit}{}@%p0 bra L;\n{}", product(3), wait(1), wait(0)), true),
        ] {
            assert_eq!(share(&format!("mov.u32 %r0, 1;\n{first}{between}{AGAIN}")), shared, "{between}");
        }
        // What begins before the end of a loop is under way at its beginning.
        let body = format!("L:\n{AGAIN}mov.u32 %r0, 1;\n{first}{commit}@%p0 bra L;\n");
        assert!(!share(&body));
    }

    #[test]
    fn functions_leave_each_others_registers_alone() {
        // The callee's come behind the kernel's ten and two.
        const CALLEES: usize = 12;
        let shared = |body: &str| {
            let code = decoded(body);
            assert_eq!(code.registers as usize, CALLEES + 3);
            let lives = lives(&code.instructions, code.registers);
            let [(start, end), (callee, _)] = [lives[0].unwrap(), lives[CALLEES].unwrap()];
            end < callee || callee < start
        };
        assert!(!shared("mov.u32 %r0, 1;\ncall callee, ();\nadd.u32 %r1, %r0, %r0;\n"));
        assert!(shared("mov.u32 %r0, 1;\nadd.u32 %r1, %r0, %r0;\ncall callee, ();\n"));
    }
}
