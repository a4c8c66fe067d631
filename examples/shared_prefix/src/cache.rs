//! The KV cache: of the document, and of what sequences have behind it.

use anyhow::{Context as _, Result, bail};
use onekv::{SharedKv, View};

use crate::config::Config;

/// K and V of every layer, rotated by their positions: a slot of `capacity` tokens for each sequence.
pub struct KvCache {
    capacity: usize,
    /// Tokens in use, by slot.
    lengths: Vec<usize>,
    layers: Vec<Layer>,
    kv_heads: usize,
    head_dim: usize,
}

/// `[sequences, capacity, kv_heads, head_dim]` each.
struct Layer {
    k: Vec<f32>,
    v: Vec<f32>,
}

impl KvCache {
    /// Empty slots.
    ///
    /// # Errors
    /// Where there is no memory for them.
    pub fn new(config: &Config, sequences: usize, capacity: usize) -> Result<Self> {
        let elements = sequences * capacity * config.kv_heads * config.head_dim;
        let zeros = || {
            let mut zeros = Vec::new();
            zeros.try_reserve_exact(elements).with_context(|| {
                format!("K/V of {sequences} sequences of {capacity} tokens do not fit in memory")
            })?;
            zeros.resize(elements, 0.0);
            anyhow::Ok(zeros)
        };
        Ok(Self {
            capacity,
            lengths: vec![0; sequences],
            layers: (0..config.layers)
                .map(|_| Ok(Layer { k: zeros()?, v: zeros()? }))
                .collect::<Result<_>>()?,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
        })
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    pub fn lengths(&self) -> &[usize] {
        &self.lengths
    }

    /// One layer's K and V.
    pub fn layer(&self, layer: usize) -> SharedKv<&[f32]> {
        let Layer { k, v } = &self.layers[layer];
        let shape = [self.lengths.len(), self.capacity, self.kv_heads, self.head_dim];
        SharedKv { k: View::contiguous(shape, k), v: View::contiguous(shape, v) }
    }

    /// Writes one layer's K and V of new tokens, `[tokens, kv_heads, head_dim]` each, sequence after sequence, behind what
    /// the slots hold. They are in use once [`Self::advance`] says so, for all layers.
    ///
    /// # Errors
    /// Where a slot has no room for them.
    pub fn write(&mut self, layer: usize, k: &[f32], v: &[f32], new: &[usize]) -> Result<()> {
        let (key_elements, capacity) = (self.key_elements(), self.capacity);
        let Layer { k: to_k, v: to_v } = &mut self.layers[layer];
        let mut from = 0;
        for (slot, (length, new)) in self.lengths.iter().zip(new).enumerate() {
            if length + new > capacity {
                bail!("tokens of sequence {slot} are {}, allowed: up to {capacity}, its slot", length + new);
            }
            let first = slot * capacity + length;
            let to = first * key_elements..(first + new) * key_elements;
            to_k[to.clone()].copy_from_slice(&k[from..][..new * key_elements]);
            to_v[to].copy_from_slice(&v[from..][..new * key_elements]);
            from += new * key_elements;
        }
        Ok(())
    }

    /// Counts the tokens that were written in every layer.
    pub fn advance(&mut self, new: &[usize]) {
        self.lengths.iter_mut().zip(new).for_each(|(length, new)| *length += new);
    }

    /// Copies the one sequence of another cache into an empty slot.
    pub fn copy_into(&mut self, slot: usize, from: &Self) {
        let key_elements = self.key_elements();
        let (used, at) = (from.lengths[0] * key_elements, slot * self.capacity * key_elements);
        for (to, from) in self.layers.iter_mut().zip(&from.layers) {
            to.k[at..][..used].copy_from_slice(&from.k[..used]);
            to.v[at..][..used].copy_from_slice(&from.v[..used]);
        }
        self.lengths[slot] = from.lengths[0];
    }

    /// Elements of a token's K in a layer.
    fn key_elements(&self) -> usize {
        self.kv_heads * self.head_dim
    }

    /// Bytes of K and V of a token in all layers.
    pub fn token_bytes(&self) -> usize {
        2 * self.layers.len() * self.key_elements() * size_of::<f32>()
    }

    /// Bytes of all slots, used or not.
    pub fn bytes(&self) -> usize {
        self.lengths.len() * self.capacity * self.token_bytes()
    }
}
