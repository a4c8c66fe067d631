/// What a plan needs to know of a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DeviceFacts {
    /// Compute capability: major, minor.
    pub compute_capability: (u32, u32),
    /// Number of multiprocessors.
    pub multiprocessors: usize,
    /// Shared memory that a block can be given, in bytes.
    pub shared_bytes_per_block: usize,
    /// Shared memory of a multiprocessor, in bytes.
    pub shared_bytes_per_multiprocessor: usize,
    /// Threads that a multiprocessor holds at once.
    pub threads_per_multiprocessor: usize,
}
