//! Runs device work and graphs.

use std::sync::atomic::Ordering::Relaxed;

use crate::backend::Devices;
use crate::guard;
use crate::host;
use crate::state::lock;
use crate::status::{Code, Outcome};
use crate::work::{Executable, Graph, HostRange, Source, Work};

/// Runs one piece of work of a card's stream. The driver's state is not locked meanwhile. `follows`: the kernel that ran
/// last on the card is what this work comes directly after.
pub(crate) fn execute(work: &Work, devices: &Devices, card: usize, seed: u64, follows: bool) -> Outcome {
    let at = |address| devices.of_address(address, card);
    match work {
        Work::Nothing | Work::Mark { .. } => Ok(()),
        Work::Launch(launch) => devices.0[launch.card].launch(launch, follows),
        Work::CopyIn { to, from: Source::Taken(bytes) } => at(*to)?.write(*to, bytes),
        Work::CopyIn { to, from: Source::Later(from) } => {
            let mut buffer = vec![0; from.bytes];
            from.still_pinned(|| host::read_bytes(from.address, &mut buffer))?;
            at(*to)?.write(*to, &buffer)
        }
        Work::CopyOut { from, to } => {
            let mut buffer = vec![0; to.bytes];
            at(*from)?.read(*from, &mut buffer)?;
            to.still_pinned(|| host::write_bytes(to.address, &buffer))
        }
        Work::CopyDevice { from, to, bytes } => {
            let mut buffer = vec![0; *bytes];
            at(*from)?.read(*from, &mut buffer)?;
            at(*to)?.write(*to, &buffer)
        }
        Work::Fill(fill) => {
            let row = fill.element.repeat(fill.columns);
            let device = at(fill.to)?;
            (0..fill.rows).try_for_each(|at| device.write(fill.to + (at * fill.pitch_bytes) as u64, &row))
        }
        Work::Allocate { at: base, bytes } => at(*base)?.renew(*base, *bytes),
        Work::Free(address) => at(*address)?.free(*address),
        Work::Host { function, data } => {
            // SAFETY: by cuLaunchHostFunc's contract the address is a function of this type, alive until
            // the stream has run it; null was refused when the work was issued.
            let function: extern "C" fn(usize) = unsafe { std::mem::transmute(*function) };
            guard::in_callback(|| function(*data));
            Ok(())
        }
        Work::Graph(executable) => executable.run(devices, seed),
    }
}

impl Executable {
    /// Runs the graph. cuGraphLaunch: what a launch has allocated must have been freed before the next one, but for graphs
    /// that free it themselves, by a node or by a flag.
    fn run(&self, devices: &Devices, seed: u64) -> Outcome {
        const AUTO_FREE: u64 = 1;
        if self.launched.swap(true, Relaxed) && self.flags & AUTO_FREE == 0 {
            let left = self.graph.nodes.iter().find_map(|node| {
                match node.work {
                    Work::Allocate { at, .. } => Some(at),
                    _ => None,
                }
                .filter(|at| {
                    devices
                        .of_address(*at, self.graph.card)
                        .is_ok_and(|device| device.allocation(*at).is_some())
                })
            });
            if let Some(at) = left {
                return Err(Code::INVALID_VALUE.because(format!(
                    "a graph is launched again while what it allocated at {at:#x} is not freed; the flag \
                     CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH frees it"
                )));
            }
        }
        self.graph.run(devices, seed)
    }
}

impl Graph {
    /// Runs every node once: in order, or with a seed in a random order that the edges allow.
    pub(crate) fn run(&self, devices: &Devices, seed: u64) -> Outcome {
        let mut done = vec![false; self.nodes.len()];
        let mut random = seed;
        let mut latest_launch = None;
        for _ in 0..self.nodes.len() {
            let ready: Vec<usize> = (0..self.nodes.len())
                .filter(|at| !done[*at] && self.nodes[*at].after.iter().all(|before| done[*before]))
                .collect();
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let choice = if seed == 0 { 0 } else { (random >> 33) as usize % ready.len().max(1) };
            let Some(at) = ready.get(choice) else {
                return Err(Code::UNKNOWN.because("a graph whose nodes wait for each other"));
            };
            let node = &self.nodes[*at];
            let follows = latest_launch.is_some_and(|launch| node.after.contains(&launch));
            execute(&node.work, devices, self.card, random | u64::from(seed != 0), follows)?;
            if matches!(node.work, Work::Launch(_)) {
                latest_launch = Some(*at);
            }
            done[*at] = true;
        }
        Ok(())
    }
}

impl HostRange {
    /// Does the host's side of a copy, unless the pinned memory it was issued with has been freed since. The lock
    /// keeps it from being freed meanwhile. A card may take such a copy or not: cuMemFreeHost may synchronise, but no
    /// documentation says that it does, so here it is always a fault.
    fn still_pinned(&self, body: impl FnOnce() -> Outcome) -> Outcome {
        let driver = lock();
        if self.pinned.is_some() && driver.pinned(self.address, self.bytes).map(|now| now.id) != self.pinned {
            return Err(Code::ILLEGAL_ADDRESS.because(format!(
                "a copy uses {} bytes of pinned memory at {:#x}, which was freed or unregistered before it ran",
                self.bytes, self.address
            )));
        }
        body()
    }
}
