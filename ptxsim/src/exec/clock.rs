//! Vector clocks: what each actor has seen of the others.

/// Writes that come before what a warp does, but that it need not see: `barrier.cluster.arrive.relaxed` gives an order of
/// execution, and "no memory ordering and visibility guarantees" (PTX ISA, "barrier.cluster").
#[derive(Debug, Clone, Copy)]
pub struct Hidden {
    pub actor: usize,
    /// Epochs after the first one, up to the second.
    pub after: u32,
    pub until: u32,
}

impl Hidden {
    pub fn holds(&self, actor: usize, epoch: u32) -> bool {
        self.actor == actor && self.after < epoch && epoch <= self.until
    }
}

/// `seen` learns all that `from` knows.
pub fn join(seen: &mut [u32], from: &[u32]) {
    for (a, b) in seen.iter_mut().zip(from) {
        *a = (*a).max(*b);
    }
}
