//! One sweep of attention, joined by shape, and what is computed from it.

use std::collections::BTreeMap;

use super::data::{AttentionRun, Line, Owner, Shape};

/// What was measured on one shape.
#[derive(Default)]
pub struct Row<'a> {
    /// The plan of the cost model.
    pub ours: Option<&'a Line>,
    /// Other plans, where the sweep has them.
    pub others: Vec<&'a Line>,
    pub replicated: Option<&'a Line>,
    pub e4m3: Option<&'a Line>,
    pub peers: Vec<&'a Line>,
}

/// A sweep with its lines by shape.
pub struct Joined<'a> {
    pub run: &'a AttentionRun,
    /// By shape with K and V in 16 bits.
    pub rows: BTreeMap<Shape, Row<'a>>,
    /// Models and peers in the order of the file.
    pub models: Vec<&'a str>,
    pub peers: Vec<&'a str>,
}

impl<'a> Joined<'a> {
    pub fn new(run: &'a AttentionRun) -> Self {
        let mut joined = Self { run, rows: BTreeMap::new(), models: Vec::new(), peers: Vec::new() };
        for line in &run.lines {
            let row = joined.rows.entry(line.shape.with_16_bit_kv()).or_default();
            match (line.owner, line.plan.as_ref().is_none_or(|plan| plan.by_cost)) {
                (Owner::Ours, true) => row.ours = Some(line),
                (Owner::Ours, false) => row.others.push(line),
                (Owner::Replicated, _) => row.replicated = Some(line),
                (Owner::E4m3, true) => row.e4m3 = Some(line),
                // For `fit` alone.
                (Owner::E4m3, false) => {}
                (Owner::Peer, _) => row.peers.push(line),
            }
            let known = |names: &mut Vec<&'a str>, name: &'a str| {
                if !names.contains(&name) {
                    names.push(name);
                }
            };
            known(&mut joined.models, &line.shape.model);
            if line.owner == Owner::Peer {
                known(&mut joined.peers, &line.system);
            }
        }
        joined
    }

    /// Shapes that ours has a time for.
    pub fn ours(&self) -> impl Iterator<Item = (&'a Shape, &Row<'a>, &'a Line)> {
        self.rows.values().filter_map(|row| Some((&row.ours?.shape, row, row.ours?)))
    }

    /// Part of the copy's bandwidth at which the bytes that must move did.
    pub fn of_copy(&self, line: &Line) -> f64 {
        line.bytes / (line.cold_us * 1e-6) / self.run.copy_bytes_per_s
    }

    /// The number of inputs that figures show: 8, or else the most there are.
    pub fn shown_inputs(&self) -> usize {
        let inputs = self.rows.keys().map(|shape| shape.inputs);
        if inputs.clone().any(|b| b == 8) { 8 } else { inputs.max().unwrap_or(1) }
    }

    /// The key lengths that figures show: those nearest to 512 and to 4096.
    pub fn shown_keys(&self) -> Vec<usize> {
        let near = |want: f64| {
            let far = |n: usize| (n as f64 / want).ln().abs();
            let shown = self.rows.keys().filter(|shape| shape.inputs == self.shown_inputs());
            shown.map(|shape| shape.keys).min_by(|a, b| far(*a).total_cmp(&far(*b)))
        };
        let mut keys: Vec<usize> = [512.0, 4096.0].into_iter().filter_map(near).collect();
        keys.dedup();
        keys
    }

    /// How much longer than the best plan measured each shape's chosen plan takes: 0 is the best. Shapes with one
    /// plan are left out.
    pub fn regrets(&self) -> Vec<(f64, &'a Shape)> {
        let regret = |(shape, row, ours): (&'a Shape, &Row<'a>, &'a Line)| {
            // The chosen plan is among the others too; the two differ by noise alone.
            let same =
                |line: &&&Line| line.plan.as_ref().zip(ours.plan.as_ref()).is_some_and(|(a, b)| a.same(b));
            let best =
                row.others.iter().filter(|l| !same(l)).map(|line| line.cold_us).min_by(f64::total_cmp)?;
            Some((ours.cold_us / best.min(ours.cold_us) - 1.0, shape))
        };
        self.ours().filter_map(regret).collect()
    }
}

impl Row<'_> {
    /// The quickest peer.
    pub fn best_peer(&self) -> Option<&Line> {
        self.peers.iter().copied().min_by(|a, b| a.cold_us.total_cmp(&b.cold_us))
    }
}

/// The same shapes but for the number of rows, with times of ours, by rows.
pub fn by_rows<'a>(joined: &Joined<'a>) -> Vec<Vec<(&'a Shape, &'a Line)>> {
    let mut groups: BTreeMap<Shape, Vec<(&Shape, &Line)>> = BTreeMap::new();
    for (shape, _, line) in joined.ours() {
        groups.entry(Shape { rows: 0, ..shape.clone() }).or_default().push((shape, line));
    }
    // A shape's order has the rows before the keys; within a group only the rows differ.
    groups.into_values().collect()
}
