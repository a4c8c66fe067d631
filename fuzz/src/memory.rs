//! An allocator that counts: a run that holds more memory than its target states ends the process, which libFuzzer takes for a
//! crash and the gate for a failure.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

/// Bytes that all threads hold.
static LIVE: AtomicUsize = AtomicUsize::new(0);
/// Most bytes that they may hold.
static MOST: AtomicUsize = AtomicUsize::new(usize::MAX);

/// Runs `body`, in which no more than `most` bytes may be allocated beside those that were before.
pub fn bounded(most: usize, body: impl FnOnce()) {
    let before = LIVE.load(Relaxed);
    MOST.store(before + most, Relaxed);
    body();
    MOST.store(usize::MAX, Relaxed);
}

/// Counts `bytes` more; ends the process where they are too many.
fn take(bytes: usize) {
    let live = LIVE.fetch_add(bytes, Relaxed).saturating_add(bytes);
    let most = MOST.load(Relaxed);
    if live > most {
        // Saying so allocates, too.
        MOST.store(usize::MAX, Relaxed);
        eprintln!(
            "{bytes} bytes more make {live} bytes of memory, allowed: {most}, the target's bound on top of what was there \
             before (fuzz/src/lib.rs)\n{}",
            std::backtrace::Backtrace::force_capture()
        );
        std::process::abort();
    }
}

// SAFETY: all memory is the system's; counting touches none of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        take(layout.size());
        // SAFETY: the caller's contract.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        take(size);
        LIVE.fetch_sub(layout.size(), Relaxed);
        // SAFETY: the caller's contract.
        unsafe { System.realloc(at, layout, size) }
    }
}
