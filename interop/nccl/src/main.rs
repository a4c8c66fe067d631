//! One attention on two cards, heads or keys shared out as examples/two_cards.rs does, and NCCL between them: one process, and
//! an all-gather after which each card has what both found.

#[path = "../../../examples/two_cards.rs"]
#[allow(dead_code, reason = "NCCL takes the place of its copies between the cards")]
mod two_cards;

use anyhow::{Result, anyhow, ensure};
use cudarc::driver::CudaSlice;
use cudarc::nccl::result::NcclError;
use cudarc::nccl::{Comm, NcclType, group_end, group_start, sys};
use two_cards::{Answer, Card, OnCard, Real, heads_apart, keys_apart, side_by_side};

fn main() -> Result<()> {
    // SAFETY: NVIDIA's library: its code for being loaded and unloaded is all that runs. cudarc's calls panic without it.
    if !unsafe { sys::is_culib_present() } {
        return Err(anyhow!(
            "NVIDIA's NCCL was not found: cudarc asks for libnccl.so, in LD_LIBRARY_PATH and the system's folders. Where there \
             is libnccl.so.2 alone, as of PyPI's nvidia-nccl-cu13, make a link of that name to it"
        )
        .context("this wants two cards and NCCL"));
    }
    let cards = Card::two()?;
    let streams = cards.iter().map(|card| card.stream.clone()).collect();
    let comms = Comm::from_devices(streams).map_err(nccl("ncclCommInitAll"))?;
    two_cards::show(
        &cards,
        |cards, spec, options, operands| {
            let gathered = gather(&comms, &heads_apart(cards, spec, options, operands)?)?;
            read_both(cards, gathered, |card, both| {
                let (out, lse) = card.read(&both)?;
                let (out_0, out_1) = out.split_at(out.len() / 2);
                let (lse_0, lse_1) = lse.split_at(lse.len() / 2);
                Ok(side_by_side(spec, [(out_0.to_vec(), lse_0.to_vec()), (out_1.to_vec(), lse_1.to_vec())]))
            })
        },
        |cards, spec, options, operands, cuts| {
            let gathered = gather(&comms, &keys_apart(cards, spec, options, operands, cuts)?)?;
            read_both(cards, gathered, |card, both| {
                let (out_half, lse_half) = (both.out.len() / 2, both.lse.len() / 2);
                let parts = [
                    (both.out.slice(..out_half), both.lse.slice(..lse_half)),
                    (both.out.slice(out_half..), both.lse.slice(lse_half..)),
                ];
                card.read(&card.join(spec, parts)?)
            })
        },
    )
}

/// The parts of both cards, one after the other, in the memory of each.
fn gather<E: Real + NcclType>(comms: &[Comm], parts: &[OnCard<E>; 2]) -> Result<[OnCard<E>; 2]> {
    let [out_0, out_1] = all_gather(comms, parts.each_ref().map(|part| &part.out))?;
    let [lse_0, lse_1] = all_gather(comms, parts.each_ref().map(|part| &part.lse))?;
    Ok([OnCard { out: out_0, lse: lse_0 }, OnCard { out: out_1, lse: lse_1 }])
}

fn all_gather<T: Real + NcclType>(comms: &[Comm], parts: [&CudaSlice<T>; 2]) -> Result<[CudaSlice<T>; 2]> {
    let room = |card: usize| comms[card].stream().alloc_zeros::<T>(2 * parts[card].len());
    let mut all = [room(0)?, room(1)?];
    // One thread calls for both: alone, the first call would wait for the second. What a group holds is queued at its end.
    group_start().map_err(nccl("ncclGroupStart"))?;
    for ((comm, part), all) in comms.iter().zip(parts).zip(&mut all) {
        comm.all_gather(part, all).map_err(nccl("ncclAllGather"))?;
    }
    group_end().map_err(nccl("ncclGroupEnd"))?;
    Ok(all)
}

/// The answer that `read` finds in each card's memory, which must be the same one.
fn read_both<E: Real + PartialEq>(
    cards: &[Card; 2],
    [first, second]: [OnCard<E>; 2],
    read: impl Fn(&Card, OnCard<E>) -> Result<Answer<E>>,
) -> Result<Answer<E>> {
    let (first, second) = (read(&cards[0], first)?, read(&cards[1], second)?);
    ensure!(first == second, "the cards found different answers");
    Ok(first)
}

/// The error of one of NCCL's functions, with its code, which cudarc's own type does not print.
fn nccl(call: &'static str) -> impl Fn(NcclError) -> anyhow::Error {
    move |error| anyhow!("NCCL: {call}: {:?}", error.0)
}
