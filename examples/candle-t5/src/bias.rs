//! T5's relative position biases.

use candle_core::{Result, Tensor};
use t5::buckets::{Direction, bucket};
use t5::config::Config;

/// Position biases of a stack: one table for all of its layers, or, in umT5, one for each.
pub struct RelativeBias {
    /// `[buckets + 1, heads]`; the last row is -inf, for keys that are not seen.
    tables: Vec<Tensor>,
    direction: Direction,
    buckets: usize,
    max_distance: usize,
}

impl RelativeBias {
    /// `tables`: `[buckets, heads]` each.
    pub fn new(config: &Config, tables: Vec<Tensor>, direction: Direction) -> Result<Self> {
        let with_unseen = |table: Tensor| {
            let unseen = Tensor::full(f32::NEG_INFINITY, (1, config.heads), table.device())?;
            Tensor::cat(&[&table, &unseen], 0)
        };
        let tables = tables.into_iter().map(with_unseen).collect::<Result<_>>()?;
        Ok(Self { tables, direction, buckets: config.buckets, max_distance: config.max_distance })
    }

    /// What is added to the scores, by layer: `[rows, heads, queries, keys]`, of positions `[rows][queries]` and
    /// `[rows][keys]`. A key without a position is padding. A decoder's query sees no later key.
    pub fn of(&self, queries: &[Vec<usize>], keys: &[Vec<Option<usize>>]) -> Result<ByLayer> {
        let mut table_rows = Vec::new();
        for (queries, keys) in queries.iter().zip(keys) {
            for query in queries {
                table_rows.extend(keys.iter().map(|key| self.table_row(*query, *key) as u32));
            }
        }
        let (rows, queries) = (queries.len(), queries.first().map_or(0, Vec::len));
        let keys = keys.first().map_or(0, Vec::len);
        let of_table = |table: &Tensor| {
            let table_rows = Tensor::from_slice(&table_rows, rows * queries * keys, table.device())?;
            let biases = table.index_select(&table_rows, 0)?.reshape((rows, queries, keys, ()))?;
            biases.permute((0, 3, 1, 2))?.contiguous()
        };
        Ok(ByLayer(self.tables.iter().map(of_table).collect::<Result<_>>()?))
    }

    /// The row of the table for a query and a key.
    fn table_row(&self, query: usize, key: Option<usize>) -> usize {
        match key {
            Some(key) if self.direction == Direction::Both || key <= query => {
                bucket(key as i64 - query as i64, self.direction, self.buckets, self.max_distance)
            }
            _ => self.buckets,
        }
    }
}

/// Biases of every layer.
pub struct ByLayer(Vec<Tensor>);

impl ByLayer {
    pub fn of_layer(&self, layer: usize) -> &Tensor {
        &self.0[layer.min(self.0.len() - 1)]
    }
}
