//! Memory of matrices that are gone, for the next ones: the allocator hands large memory back to the system, which then
//! clears every page of it anew. A pass over many tokens spent a quarter of its time there.

use std::sync::{Mutex, PoisonError};

/// Elements from which on memory is kept: smaller pieces the allocator keeps itself.
const LEAST: usize = 1 << 16;
/// Pieces that are kept at most: what a layer has at once, and what the next needs.
const MOST: usize = 8;

/// Memory without an owner.
#[derive(Default)]
pub struct Kept(Mutex<Vec<Vec<f32>>>);

impl Kept {
    /// `len` numbers of any value: the smallest piece that has room for them, or a new one.
    pub fn take(&self, len: usize) -> Vec<f32> {
        let fitting = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let pieces = kept.iter().enumerate().filter(|(_, piece)| piece.capacity() >= len);
            let best = pieces.min_by_key(|(_, piece)| piece.capacity()).map(|(i, _)| i);
            best.filter(|_| len >= LEAST).map(|i| kept.swap_remove(i))
        };
        let Some(mut piece) = fitting else { return vec![0.0; len] };
        piece.resize(len, 0.0);
        piece
    }

    /// Keeps `piece`; where there are enough, the smallest goes.
    pub fn keep(&self, piece: Vec<f32>) {
        if piece.capacity() < LEAST {
            return;
        }
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push(piece);
        if kept.len() > MOST {
            let smallest = kept.iter().enumerate().min_by_key(|(_, piece)| piece.capacity());
            if let Some(i) = smallest.map(|(i, _)| i) {
                kept.swap_remove(i);
            }
        }
    }

    /// Gives all of it back.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
