//! Which registers share a place. PTX has as many registers as a compiler likes to name, thousands in an unrolled loop, most
//! of them for a few instructions: one place for each would be more than a cache holds.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use crate::ir::{Instr, Op, uses};

/// Where a register occurs.
struct Life {
    first: usize,
    last: usize,
    /// It lives in one basic block, which it enters by an instruction that overwrites it for all threads that run the block.
    short: bool,
}

/// For each register its place, and how many places there are.
///
/// A register that lives in one basic block has its place to itself from its first to its last instruction there. Threads
/// that have diverged do not disturb each other: each has lanes of its own. Registers of `wgmma` keep theirs, as products write
/// and read them after their instruction.
pub fn places(instructions: &[Instr], registers: u32) -> (Vec<u32>, u32) {
    let starts = block_starts(instructions);
    let mut lives: Vec<Option<Life>> = (0..registers).map(|_| None).collect();
    let mut block = 0;
    for (at, Instr { op, guard, .. }) in instructions.iter().enumerate() {
        if starts.contains(&at) {
            block = at;
        }
        let (mut named, mut written) = (Vec::new(), Vec::new());
        uses::registers(op, &mut |r| named.push(r));
        uses::results(op, &mut |r| written.push(r));
        let count = |list: &[u32], r: u32| list.iter().filter(|x| **x == r).count();
        for r in &named {
            let life = &mut lives[*r as usize];
            let begins = guard.is_none() && count(&named, *r) == count(&written, *r);
            let life = life.get_or_insert(Life { first: at, last: at, short: begins });
            life.last = at;
            life.short &= life.first >= block && !matches!(op, Op::Wgmma(_));
        }
    }
    let mut places = vec![0; lives.len()];
    let mut count = 0;
    let mut new = || {
        count += 1;
        count - 1
    };
    let mut short: Vec<(&Life, usize)> = Vec::new();
    for (r, life) in lives.iter().enumerate() {
        match life {
            Some(life) if life.short => short.push((life, r)),
            _ => places[r] = new(),
        }
    }
    short.sort_by_key(|(life, _)| life.first);
    let (mut taken, mut free) = (BinaryHeap::new(), Vec::new());
    for (life, r) in short {
        // An instruction may write one result before it reads all its sources: those places are not shared.
        while let Some(Reverse((last, place))) = taken.peek()
            && *last < life.first
        {
            free.push(*place);
            taken.pop();
        }
        places[r] = free.pop().unwrap_or_else(&mut new);
        taken.push(Reverse((life.last, places[r])));
    }
    (places, count)
}

/// First instructions of basic blocks.
fn block_starts(instructions: &[Instr]) -> HashSet<usize> {
    let mut starts = HashSet::new();
    for (at, instruction) in instructions.iter().enumerate() {
        let targets: &[u32] = match &instruction.op {
            Op::Branch { target } | Op::Call { target, .. } => std::slice::from_ref(target),
            Op::BranchIndexed { targets, .. } => targets,
            Op::Return | Op::Exit | Op::Trap => &[],
            _ => continue,
        };
        starts.extend(targets.iter().map(|target| *target as usize).chain([at + 1]));
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::super::decode_with;
    use super::places;
    use crate::ptx;

    /// Places of `%r0` to `%r9` in a kernel, and the places in all.
    fn of(body: &str) -> ([u32; 10], u32) {
        let text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n\
             .func callee () {{\n.reg .b32 %x<3>;\nmov.u32 %x0, 1;\nadd.u32 %x1, %x0, %x0;\nret;\n}}\n\
             .visible .entry run() {{\n.reg .b32 %r<10>;\n.reg .pred %p<2>;\n.reg .b64 %a<2>;\n{body}\nret;\n}}\n"
        );
        let module = ptx::parse(&text).unwrap();
        let kernel = module.functions.iter().find(|f| f.name == "run").unwrap();
        let code = decode_with(&module, kernel, &[]).unwrap();
        let (places, count) = places(&code.instructions, code.registers);
        assert!(places.iter().all(|place| *place < count));
        (places[..10].try_into().unwrap(), count)
    }

    #[test]
    fn what_is_over_makes_room() {
        let chain: String = (0..8).map(|i| format!("add.u32 %r{}, %r{i}, 1;\n", i + 1)).collect();
        let (chain, count) = of(&format!("mov.u32 %r0, 1;\n{chain}"));
        // Two live at a time, %r9 and the two addresses occur nowhere.
        assert_eq!(count, 2 + 3, "{chain:?}");
        assert_eq!(chain[0], chain[2]);
        assert_ne!(chain[0], chain[1], "a result and its source");
    }

    #[test]
    fn what_lives_on_keeps_its_place() {
        let apart = |body: &str, a: usize, b: usize| {
            let (places, _) = of(body);
            assert_ne!(places[a], places[b], "{body}");
        };
        let (uses, again) = ("st.global.u32 [%a1], %r0;\n", "mov.u32 %r1, 2;\nadd.u32 %r2, %r1, %r1;\n");
        apart(&format!("mov.u32 %r0, 1;\n{again}{uses}"), 0, 1);
        // Its last use comes round again.
        apart(&format!("mov.u32 %r0, 1;\nL:\n{uses}{again}@%p0 bra L;\n"), 0, 1);
        // Some threads, or some rounds, do not overwrite it.
        apart(&format!("L:\n@%p0 mov.u32 %r0, 1;\n{uses}{again}@%p1 bra L;\n"), 0, 1);
        apart(&format!("L:\n@%p0 bra M;\nmov.u32 %r0, 1;\nM:\n{uses}{again}@%p1 bra L;\n"), 0, 1);
        apart(&format!("L:\nadd.u32 %r0, %r0, 1;\n{again}@%p1 bra L;\n"), 0, 1);
        apart(&format!("L:\n{uses}mov.u32 %r0, 1;\n{again}@%p1 bra L;\n"), 0, 1);
        apart(&format!("mov.u32 %r0, 1;\nbra M;\nM:\n{uses}{again}bra M;\n"), 0, 1);
        // A product writes its registers when others have long followed.
        let product =
            "wgmma.mma_async.sync.aligned.m64n8k16.f16.f16.f16 {%r0, %r3}, %a0, %a0, 1, 1, 1, 0, 0;\n";
        let body = format!("mov.u32 %r0, 1;\nmov.u32 %r3, 1;\n{product}{again}");
        apart(&body, 0, 1);
        apart(&body, 3, 1);
    }

    #[test]
    fn functions_leave_each_others_registers_alone() {
        let (across, count) = of("mov.u32 %r0, 1;\ncall callee, ();\nadd.u32 %r1, %r0, %r0;\n");
        let (before, fewer) = of("mov.u32 %r0, 1;\nadd.u32 %r1, %r0, %r0;\ncall callee, ();\n");
        assert_eq!((count - fewer, before[0] != before[1]), (1, true), "{across:?} {before:?}");
    }
}
