//! Which registers an instruction reads or writes.

use std::collections::HashSet;

use crate::ir::{
    Address, Alu, Bulk, Class, Instr, MbarrierOp, Op, PredicateSrc, ScaleD, Src, VoteMode, Wgmma,
};

/// Calls `f` with the registers of a product's fragments: accumulators, and A if it comes from registers.
pub fn fragments(op: &Wgmma, f: &mut dyn FnMut(u32)) {
    op.d.iter().for_each(|d| f(*d));
    for src in op.a.iter().filter(|_| op.a.len() > 1) {
        if let Src::Register(r) = src {
            f(*r);
        }
    }
}

/// Where a move takes values from, and to.
pub fn moved(op: &Op) -> (Vec<u32>, Vec<u32>) {
    let registers = |sources: &[Src]| {
        sources.iter().filter_map(|s| if let Src::Register(r) = s { Some(*r) } else { None }).collect()
    };
    match op {
        Op::Alu(Alu { dst, src, count, .. }) => (registers(&src[..usize::from(*count)]), vec![*dst]),
        Op::Select { dst, a, b, .. } => (registers(&[*a, *b]), vec![*dst]),
        Op::Pack { dst, parts, .. } => (registers(parts), vec![*dst]),
        Op::Moves { dst, src } => (registers(src), dst.iter().flatten().copied().collect()),
        Op::Unpack { dst, src, .. } => (registers(&[*src]), dst.iter().flatten().copied().collect()),
        _ => (Vec::new(), Vec::new()),
    }
}

/// Sets [`Instr::fragments`]. A compiler renames registers by moves where it likes: what becomes a fragment by moves alone
/// is one already.
pub fn mark_fragments(instructions: &mut [Instr]) {
    let mut all = HashSet::new();
    for instruction in instructions.iter() {
        if let Op::Wgmma(op) = &instruction.op {
            fragments(op, &mut |r| {
                all.insert(r);
            });
        }
    }
    if all.is_empty() {
        return;
    }
    let mut known = 0;
    while known < all.len() {
        known = all.len();
        for instruction in instructions.iter_mut().rev().filter(|i| i.class == Class::Move) {
            let (from, to) = moved(&instruction.op);
            instruction.fragments = to.iter().any(|r| all.contains(r));
            if instruction.fragments {
                all.extend(from);
            }
        }
    }
    for instruction in instructions {
        if instruction.class != Class::Move && !matches!(instruction.op, Op::Wgmma(_)) {
            registers(&instruction.op, &mut |r| instruction.fragments |= all.contains(&r));
        }
    }
}

/// Calls `f` with every predicate of `op`.
pub fn predicates(op: &Op, f: &mut dyn FnMut(u32)) {
    match op {
        Op::Compare { dst, complement, combine, .. } => {
            dst.iter().chain(complement).for_each(|p| f(*p));
            combine.iter().for_each(|(_, p)| p.index.iter().for_each(|p| f(*p)));
        }
        Op::ComparePair { low, high, combine, .. } => {
            low.iter().chain(high).for_each(|p| f(*p));
            combine.iter().for_each(|(_, p)| p.index.iter().for_each(|p| f(*p)));
        }
        Op::Set { combine: Some((_, p)), .. } | Op::Select { predicate: p, .. } => {
            p.index.iter().for_each(|p| f(*p));
        }
        Op::AluTest { predicate, with, .. } => predicate.iter().chain(&with.index).for_each(|p| f(*p)),
        Op::PredicateLogic { dst, a, b, .. } => {
            f(*dst);
            a.index.iter().chain(&b.index).for_each(|p| f(*p));
        }
        Op::Vote { mode, dst, value, .. } => {
            if *mode != VoteMode::Ballot {
                f(*dst);
            }
            value.index.iter().for_each(|p| f(*p));
        }
        Op::Shuffle { predicate: Some(p), .. }
        | Op::Match { predicate: Some(p), .. }
        | Op::Elect { predicate: p, .. }
        | Op::IsWindow { dst: p, .. }
        | Op::Mbarrier { op: MbarrierOp::Wait { done: p, .. }, .. } => f(*p),
        Op::Barrier { reduce: Some(reduce), .. } if reduce.logic.is_some() => f(reduce.dst),
        _ => {}
    }
    predicate_sources(op, &mut |p| p.index.iter().for_each(|p| f(*p)));
}

/// Calls `f` with every predicate that decides what `op` does to more than registers.
pub fn predicate_sources(op: &Op, f: &mut dyn FnMut(PredicateSrc)) {
    match op {
        Op::Barrier { reduce: Some(reduce), .. } => f(reduce.value),
        Op::CopyAsync { ignore: Some(p), .. } => f(*p),
        Op::Wgmma(op) => {
            if let ScaleD::Predicate(p) = op.scale_d {
                f(p);
            }
        }
        _ => {}
    }
}

/// Calls `f` with the registers that `op` reads, unless it also writes them.
pub fn sources(op: &Op, f: &mut dyn FnMut(u32)) {
    let mut written = Vec::new();
    results(op, &mut |r| written.push(r));
    registers(op, &mut |r| {
        if !written.contains(&r) {
            f(r);
        }
    });
}

/// Calls `f` with the registers that `op` writes for every thread that runs it, but those of a `wgmma`.
pub fn results(op: &Op, f: &mut dyn FnMut(u32)) {
    match op {
        Op::Alu(Alu { dst, .. })
        | Op::AluOf { alu: Alu { dst, .. }, .. }
        | Op::AluTest { dst: Some(dst), .. }
        | Op::Carry { dst, .. }
        | Op::Convert { dst, .. }
        | Op::Select { dst, .. }
        | Op::Set { dst, .. }
        | Op::Pack { dst, .. }
        | Op::ToGeneric { dst, .. }
        | Op::FromGeneric { dst, .. }
        | Op::SharedRank { dst, .. }
        | Op::MapShared { dst, .. }
        | Op::MoveMatrix { dst, .. }
        | Op::Match { dst, .. }
        | Op::Redux { dst, .. }
        | Op::Shuffle { dst, .. }
        | Op::Vote { mode: VoteMode::Ballot, dst, .. }
        | Op::Elect { dst: Some(dst), .. }
        | Op::ActiveMask { dst }
        | Op::Mbarrier { op: MbarrierOp::Arrive { state: Some(dst), .. }, .. }
        | Op::Mbarrier { op: MbarrierOp::PendingCount { dst, .. }, .. } => f(*dst),
        Op::Moves { dst, .. } | Op::Unpack { dst, .. } => dst.iter().flatten().for_each(|d| f(*d)),
        Op::Load { dst, .. } | Op::Atomic { dst, .. } => dst.iter().flatten().for_each(|d| f(*d)),
        Op::LoadMatrix { dst, .. } => dst.iter().for_each(|d| f(*d)),
        Op::Mma(mma) => mma.d.iter().for_each(|d| f(*d)),
        Op::Product(product) => product.d.iter().for_each(|d| f(*d)),
        Op::WmmaLoad(load) => load.1.iter().for_each(|d| f(*d)),
        Op::Barrier { reduce: Some(reduce), .. } if reduce.logic.is_none() => f(reduce.dst),
        _ => {}
    }
}

/// Calls `f` with every value register of `op`.
pub fn registers(op: &Op, f: &mut dyn FnMut(u32)) {
    let src = |s: &Src, f: &mut dyn FnMut(u32)| {
        if let Src::Register(r) = s {
            f(*r);
        }
    };
    let address = |a: &Address, f: &mut dyn FnMut(u32)| {
        if let Src::Register(r) = a.base {
            f(r);
        }
    };
    match op {
        Op::Alu(Alu { dst, src: sources, count, .. })
        | Op::AluOf { alu: Alu { dst, src: sources, count, .. }, .. } => {
            f(*dst);
            sources.iter().take(usize::from(*count)).for_each(|s| src(s, f));
        }
        Op::AluTest { dst, src: sources, .. } => {
            dst.iter().for_each(|d| f(*d));
            sources.iter().for_each(|s| src(s, f));
        }
        Op::Moves { dst, src: sources } => {
            dst.iter().flatten().for_each(|d| f(*d));
            sources.iter().for_each(|s| src(s, f));
        }
        Op::Carry { dst, src: sources, .. } => {
            f(*dst);
            sources.iter().for_each(|s| src(s, f));
        }
        Op::Convert { dst, a, b, .. } | Op::Select { dst, a, b, .. } | Op::Set { dst, a, b, .. } => {
            f(*dst);
            src(a, f);
            src(b, f);
        }
        Op::Compare { a, b, .. } | Op::ComparePair { a, b, .. } => {
            src(a, f);
            src(b, f);
        }
        Op::Pack { dst, parts, .. } => {
            f(*dst);
            parts.iter().for_each(|s| src(s, f));
        }
        Op::Unpack { dst, src: s, .. } => {
            dst.iter().flatten().for_each(|d| f(*d));
            src(s, f);
        }
        Op::Load { address: a, dst, .. } => {
            address(a, f);
            dst.iter().flatten().for_each(|d| f(*d));
        }
        Op::Store { address: a, src: sources, .. } | Op::StoreMatrix { address: a, src: sources, .. } => {
            address(a, f);
            sources.iter().for_each(|s| src(s, f));
        }
        Op::Atomic { address: a, dst, b, c, .. } => {
            address(a, f);
            dst.iter().flatten().for_each(|d| f(*d));
            b.iter().for_each(|s| src(s, f));
            src(c, f);
        }
        Op::ToGeneric { dst, a, .. }
        | Op::FromGeneric { dst, a, .. }
        | Op::SharedRank { dst, a, .. }
        | Op::MoveMatrix { dst, a } => {
            f(*dst);
            src(a, f);
        }
        Op::Match { dst, a, mask, .. } | Op::Redux { dst, a, mask, .. } => {
            f(*dst);
            src(a, f);
            src(mask, f);
        }
        Op::IsWindow { a, .. } => src(a, f),
        Op::MapShared { dst, a, rank, .. } => {
            f(*dst);
            src(a, f);
            src(rank, f);
        }
        Op::BranchIndexed { index, .. } => src(index, f),
        Op::Barrier { id, count, reduce, .. } => {
            src(id, f);
            count.iter().for_each(|s| src(s, f));
            if let Some(reduce) = reduce.filter(|r| r.logic.is_none()) {
                f(reduce.dst);
            }
        }
        Op::WarpSync { mask } => src(mask, f),
        Op::Shuffle { dst, a, b, c, mask, .. } => {
            f(*dst);
            [a, b, c, mask].into_iter().for_each(|s| src(s, f));
        }
        Op::Vote { mode, dst, mask, .. } => {
            if *mode == VoteMode::Ballot {
                f(*dst);
            }
            src(mask, f);
        }
        Op::Elect { dst, mask, .. } => {
            dst.iter().for_each(|d| f(*d));
            src(mask, f);
        }
        Op::ActiveMask { dst } => f(*dst),
        Op::LoadMatrix { address: a, dst, .. } => {
            address(a, f);
            dst.iter().for_each(|d| f(*d));
        }
        Op::Mma(mma) => {
            mma.d.iter().for_each(|d| f(*d));
            mma.a.iter().chain(&mma.b).chain(&mma.c).for_each(|s| src(s, f));
        }
        Op::Product(product) => {
            product.d.iter().for_each(|d| f(*d));
            product.a.iter().chain(&product.b).chain(&product.c).for_each(|s| src(s, f));
        }
        Op::WmmaLoad(load) => {
            address(&load.0.address, f);
            load.0.stride.iter().for_each(|s| src(s, f));
            load.1.iter().for_each(|d| f(*d));
        }
        Op::WmmaStore(store) => {
            address(&store.0.address, f);
            store.0.stride.iter().chain(&store.1).for_each(|s| src(s, f));
        }
        Op::Wgmma(wgmma) => {
            wgmma.d.iter().for_each(|d| f(*d));
            wgmma.a.iter().chain([&wgmma.b]).for_each(|s| src(s, f));
        }
        Op::CopyAsync { dst, src: s, src_bytes, .. } => {
            address(dst, f);
            address(s, f);
            src_bytes.iter().for_each(|s| src(s, f));
        }
        Op::CopyAsyncArrive { barrier, .. } => address(barrier, f),
        Op::MapReplace(op) => {
            address(&op.address, f);
            src(&op.value, f);
        }
        Op::MapCopy { dst, src: s } => [dst, s].into_iter().for_each(|a| address(a, f)),
        Op::Mbarrier { address: a, op, .. } => {
            address(a, f);
            match op {
                MbarrierOp::Init { count: s }
                | MbarrierOp::ExpectTx { tx: s }
                | MbarrierOp::CompleteTx { tx: s }
                | MbarrierOp::Wait { phase: s, .. } => src(s, f),
                MbarrierOp::Arrive { count, tx, state, .. } => {
                    src(count, f);
                    tx.iter().for_each(|s| src(s, f));
                    state.iter().for_each(|d| f(*d));
                }
                MbarrierOp::PendingCount { dst, state } => {
                    f(*dst);
                    src(state, f);
                }
                MbarrierOp::Invalidate => {}
            }
        }
        Op::Bulk(bulk) => match bulk.as_ref() {
            Bulk::ToShared { dst, src: s, bytes, barrier, multicast, .. } => {
                [dst, s, barrier].into_iter().for_each(|a| address(a, f));
                src(bytes, f);
                multicast.iter().for_each(|s| src(s, f));
            }
            Bulk::Store { dst, src: values, barrier, .. } => {
                [dst, barrier].into_iter().for_each(|a| address(a, f));
                values.iter().for_each(|s| src(s, f));
            }
            Bulk::Reduce { dst, value, barrier, .. } => {
                [dst, barrier].into_iter().for_each(|a| address(a, f));
                src(value, f);
            }
            Bulk::ToGlobal { dst, src: s, bytes, .. } => {
                address(dst, f);
                address(s, f);
                src(bytes, f);
            }
            Bulk::TensorToShared { dst, map, coordinates, barrier, multicast } => {
                [dst, map, barrier].into_iter().for_each(|a| address(a, f));
                coordinates.iter().chain(multicast).for_each(|s| src(s, f));
            }
            Bulk::TensorToGlobal { map, coordinates, src: s, .. } => {
                address(map, f);
                address(s, f);
                coordinates.iter().for_each(|s| src(s, f));
            }
        },
        Op::Nop
        | Op::PredicateLogic { .. }
        | Op::Branch { .. }
        | Op::Call { .. }
        | Op::Return
        | Op::Exit
        | Op::Trap
        | Op::Printf { .. }
        | Op::AssertFail { .. }
        | Op::Sleep
        | Op::SetRegisters { .. }
        | Op::ClusterArrive { .. }
        | Op::ClusterWait
        | Op::Fence(_)
        | Op::LaunchWait
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::WgmmaWait { .. }
        | Op::CopyAsyncCommit
        | Op::CopyAsyncWait { .. }
        | Op::BulkCommit
        | Op::BulkWait { .. } => {}
    }
}
