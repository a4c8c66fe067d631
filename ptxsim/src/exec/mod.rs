//! Running a launch.

mod access;
mod accumulate;
mod atomic;
mod bulk;
mod clock;
mod cluster;
mod collective;
mod copies;
mod fillings;
mod fragments;
mod grid;
mod machine;
mod matrix;
mod mbarrier;
mod options;
mod pending;
mod print;
mod reduce;
mod scalar;
mod shared;
mod step;
mod sync;
mod tensormap;
mod undefined;
mod warp;
mod warpwide;
mod wgmma;
mod wmma;

use std::collections::VecDeque;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

pub use grid::LaunchConfig;
pub use options::{Accumulation, Checks, Options, Random};

use crate::card::Card;
use crate::counters::{Counters, Tally};
use crate::fault::Fault;
use crate::ir::Code;
use crate::memory::GlobalMemory;
use cluster::Cluster;
use grid::Grid;

/// Warp instructions after which a cluster makes room for others, so that blocks that wait for each other
/// through global memory all get on.
const TURN: u64 = 2_000_000;

/// Clusters that have begun and wait for a turn, and the number of the next to begin.
struct Queue {
    waiting: VecDeque<Cluster>,
    next: u64,
}

/// Runs a grid to its end: what it did, and how often warps ran each instruction.
pub(crate) fn run(
    code: &Code,
    config: &LaunchConfig,
    card: &Card,
    parameters: &[u8],
    globals: &[u64],
    memory: &GlobalMemory,
    options: Options,
) -> Result<(Counters, Vec<u64>), Box<Fault>> {
    let grid = Grid::new(code, config, card, parameters, globals, memory, options);
    let clusters = grid.clusters();
    let threads = match options.threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        n => n,
    };
    let threads = threads.min(usize::try_from(clusters).unwrap_or(usize::MAX)).max(1);
    let queue = Mutex::new(Queue { waiting: VecDeque::new(), next: 0 });
    let fault: Mutex<Option<Box<Fault>>> = Mutex::new(None);

    let work = || {
        let mut tally = Tally::new(code);
        loop {
            let mut cluster = {
                let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                // New clusters first: those that wait may wait for them.
                if queue.next < clusters && queue.waiting.len() < resident(card) {
                    queue.next += 1;
                    let turn = queue.next - 1;
                    drop(queue);
                    Cluster::new(&grid, grid.begins(turn))
                } else if let Some(cluster) = queue.waiting.pop_front() {
                    cluster
                } else {
                    break;
                }
            };
            let outcome =
                if grid.stop.load(Relaxed) { Ok(true) } else { cluster.run(&grid, &mut tally, TURN) };
            let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
            match outcome {
                Ok(true) => {}
                Ok(false) => queue.waiting.push_back(cluster),
                Err(found) => {
                    grid.stop.store(true, Relaxed);
                    queue.waiting.clear();
                    queue.next = clusters;
                    fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(found);
                }
            }
        }
        tally
    };
    let tallies = match threads {
        1 => vec![work()],
        _ => std::thread::scope(|scope| {
            let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            // A worker that panicked has a bug of ours to show: it goes on here.
            workers
                .into_iter()
                .map(|w| w.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        }),
    };
    match fault.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some(fault) => Err(fault),
        None => Ok(Tally::sum(code, tallies)),
    }
}

/// Clusters that may be begun at once; a card holds that many blocks at least.
fn resident(card: &Card) -> usize {
    (card.multiprocessors * card.blocks_per_multiprocessor) as usize
}
