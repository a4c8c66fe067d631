//! One attention on two cards, heads or keys shared out as examples/two_cards.rs does, and NCCL between them: one process, and
//! an all-gather after which each card has what both found.

#[path = "../../../examples/two_cards.rs"]
#[allow(dead_code, reason = "its own way between the cards is another")]
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
            same(cards, gathered, |card, both| {
                let (out, lse) = card.read(&both)?;
                let ((first, second), (sums, others)) =
                    (out.split_at(out.len() / 2), lse.split_at(lse.len() / 2));
                Ok(side_by_side(spec, [(first.to_vec(), sums.to_vec()), (second.to_vec(), others.to_vec())]))
            })
        },
        |cards, spec, options, operands, cuts| {
            let gathered = gather(&comms, &keys_apart(cards, spec, options, operands, cuts)?)?;
            same(cards, gathered, |card, both| {
                let (out, lse) = (both.out.len() / 2, both.lse.len() / 2);
                let parts = [
                    (both.out.slice(..out), both.lse.slice(..lse)),
                    (both.out.slice(out..), both.lse.slice(lse..)),
                ];
                card.read(&card.join(spec, parts)?)
            })
        },
    )
}

/// What each card has, one after the other, in the memory of both.
fn gather<E: Real + NcclType>(comms: &[Comm], parts: &[OnCard<E>; 2]) -> Result<[OnCard<E>; 2]> {
    let [first, second] = all_gather(comms, parts.each_ref().map(|part| &part.out))?;
    let [sums, others] = all_gather(comms, parts.each_ref().map(|part| &part.lse))?;
    Ok([OnCard { out: first, lse: sums }, OnCard { out: second, lse: others }])
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

/// What `answer` makes of each card's memory, which is the same.
fn same<E: Real + PartialEq>(
    cards: &[Card; 2],
    [first, second]: [OnCard<E>; 2],
    answer: impl Fn(&Card, OnCard<E>) -> Result<Answer<E>>,
) -> Result<Answer<E>> {
    let (first, second) = (answer(&cards[0], first)?, answer(&cards[1], second)?);
    ensure!(first == second, "the cards found different answers");
    Ok(first)
}

/// The error of one of NCCL's functions, of which cudarc shows no code.
fn nccl(call: &'static str) -> impl Fn(NcclError) -> anyhow::Error {
    move |error| anyhow!("NCCL: {call}: {:?}", error.0)
}
