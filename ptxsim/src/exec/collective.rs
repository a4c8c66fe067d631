//! Exchanges within a warp.

use super::atomic;
use super::machine::{Flow, Machine};
use super::warp::{State, Warp, lanes_of};
use crate::fault::{FaultKind, Outcome, Trouble};
use crate::ir::{Element, Lanes, Op, ShuffleMode, Src, VoteMode, WARP, lanes_where};

/// The threads that take part are here, or some are still to come.
enum Gathered {
    All(u32),
    Missing,
}

impl Machine<'_, '_> {
    /// Who takes part: lanes with the same member mask form one collective each; all must be here.
    fn gather(&self, warp: &mut Warp, mask: Src, exec: u32) -> Outcome<Gathered> {
        let of = |lane: usize| warp.scalar(mask, lane, self.grid) as u32;
        let members = of(exec.trailing_zeros() as usize);
        let agreeing = match mask {
            Src::Immediate(_) => exec,
            _ => lanes_where(exec, |lane| of(lane) == members),
        };
        let outside = agreeing & !members;
        if outside != 0 {
            let what =
                format!("a thread runs a collective for the lanes {members:#010x}, which leave it out");
            return Err(Trouble::new(FaultKind::Divergence, what).by(outside.trailing_zeros() as usize));
        }
        warp.set_aside(exec & !agreeing);
        let wanted = members & warp.alive;
        Ok(if agreeing & wanted == wanted { Gathered::All(agreeing) } else { Gathered::Missing })
    }

    pub fn collective(&mut self, warp: &mut Warp, op: &Op, exec: u32) -> Outcome<Flow> {
        let grid = self.grid;
        let mask = match op {
            Op::WarpSync { mask }
            | Op::Shuffle { mask, .. }
            | Op::Vote { mask, .. }
            | Op::Match { mask, .. }
            | Op::Redux { mask, .. }
            | Op::Elect { mask, .. } => *mask,
            Op::ActiveMask { dst } => {
                warp.put(*dst, &[exec.into(); WARP], exec);
                return Ok(Flow::Next);
            }
            _ => return Err(Trouble::new(FaultKind::IllegalInstruction, "no collective")),
        };
        let Gathered::All(exec) = self.gather(warp, mask, exec)? else {
            return Ok(Flow::Wait(State::Gather));
        };
        match op {
            Op::WarpSync { .. } => warp.synchronize(exec),
            Op::Shuffle { mode, dst, predicate, a, b, c, .. } => {
                let (mut held_b, mut held_c, a) = (None, None, warp.lanes(*a, grid));
                let (b, c) = (warp.view(*b, grid, &mut held_b), warp.view(*c, grid, &mut held_c));
                let (mut out, mut valid): (Lanes, u32) = ([0; WARP], 0);
                for lane in lanes_of(exec) {
                    let (from, inside) = shuffle(*mode, lane, b[lane] as u32, c[lane] as u32);
                    // Reading a lane that does not take part is undefined; it gives this lane's own value.
                    let from = if exec >> from & 1 == 1 { from } else { lane };
                    out[lane] = a[from];
                    valid |= u32::from(inside) << lane;
                }
                warp.put(*dst, &out, exec);
                if let Some(predicate) = predicate {
                    warp.put_predicate(*predicate, valid, exec);
                }
            }
            Op::Vote { mode, dst, value, .. } => {
                let value = warp.predicate(*value) & exec;
                let truth = |t: bool| if t { u32::MAX } else { 0 };
                match mode {
                    VoteMode::Ballot => warp.put(*dst, &[value.into(); WARP], exec),
                    VoteMode::All => warp.put_predicate(*dst, truth(value == exec), exec),
                    VoteMode::Any => warp.put_predicate(*dst, truth(value != 0), exec),
                    VoteMode::Uniform => warp.put_predicate(*dst, truth(value == 0 || value == exec), exec),
                }
            }
            Op::Match { all, dst, predicate, a, bits, .. } => {
                let keep = if *bits == 64 { u64::MAX } else { 0xffff_ffff };
                let a = warp.lanes(*a, grid).map(|x| x & keep);
                let mut out = [0; WARP];
                let mut truth = 0;
                for lane in lanes_of(exec) {
                    let same = lanes_where(exec, |other| a[other] == a[lane]);
                    let whole = same == exec;
                    out[lane] = if *all { if whole { exec.into() } else { 0 } } else { same.into() };
                    truth |= u32::from(whole) << lane;
                }
                warp.put(*dst, &out, exec);
                if let Some(predicate) = predicate {
                    warp.put_predicate(*predicate, truth, exec);
                }
            }
            Op::Redux { op, signed, dst, a, .. } => {
                let a = warp.lanes(*a, grid);
                let element = if *signed { Element::S32 } else { Element::U32 };
                let all = lanes_of(exec).map(|l| a[l] & 0xffff_ffff);
                let total = all.reduce(|x, y| atomic::apply(*op, element, x, y, 0)).unwrap_or(0);
                warp.put(*dst, &[total; WARP], exec);
            }
            Op::Elect { dst, predicate, .. } => {
                let leader = exec.trailing_zeros();
                if let Some(dst) = dst {
                    warp.put(*dst, &[leader.into(); WARP], exec);
                }
                warp.put_predicate(*predicate, 1 << leader, exec);
            }
            _ => {}
        }
        Ok(Flow::Next)
    }
}

/// The lane that `shfl` reads, and whether it lies within the segment.
fn shuffle(mode: ShuffleMode, lane: usize, b: u32, c: u32) -> (usize, bool) {
    let lane = lane as i32;
    let (b, clamp, segment) = ((b & 31) as i32, (c & 31) as i32, (c >> 8 & 31) as i32);
    let most = (lane & segment) | (clamp & !segment);
    let least = lane & segment;
    let (from, inside) = match mode {
        ShuffleMode::Up => (lane - b, lane - b >= most),
        ShuffleMode::Down => (lane + b, lane + b <= most),
        ShuffleMode::Butterfly => (lane ^ b, (lane ^ b) <= most),
        ShuffleMode::Index => (least | (b & !segment), (least | (b & !segment)) <= most),
    };
    (if inside { from as usize & 31 } else { lane as usize }, inside)
}
