//! Which rows are decoded at once: they enter in order, as others make room, and bring their input if it is not there.

use std::collections::VecDeque;
use std::ops::Range;

/// A row in the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seated {
    /// Its number among all rows.
    pub row: usize,
    pub input: usize,
    /// Its own until it leaves.
    pub slot: usize,
    /// That of its input, until the last row of that leaves.
    pub place: usize,
}

/// Rows that wait, that are in the batch, and that have left.
#[derive(Debug, Clone)]
pub struct Schedule {
    /// Of every row, its input; ascending.
    inputs: Vec<usize>,
    /// Rows that have entered so far.
    pub entered: usize,
    /// In the order in which they became free: where there is one for each, the first row takes the first.
    free_slots: VecDeque<usize>,
    free_places: VecDeque<usize>,
    /// Inputs that are there, and where.
    present: Vec<(usize, usize)>,
    pub batch: Vec<Seated>,
}

/// Who has entered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entered {
    /// The rows that are new in the batch.
    pub rows: Range<usize>,
    /// Inputs that were not there, and their places.
    pub inputs: Vec<(usize, usize)>,
}

impl Schedule {
    /// At most `slots` rows of at most `places` inputs at once.
    pub fn new(inputs: Vec<usize>, slots: usize, places: usize) -> Self {
        Self {
            inputs,
            entered: 0,
            free_slots: (0..slots).collect(),
            free_places: (0..places).collect(),
            present: Vec::new(),
            batch: Vec::new(),
        }
    }

    /// Lets rows enter as long as there is a slot for the next one, and a place for its input.
    pub fn enter(&mut self) -> Entered {
        let (before, mut inputs) = (self.entered, Vec::new());
        while let (Some(&input), Some(&slot)) = (self.inputs.get(self.entered), self.free_slots.front()) {
            let place = match self.present.iter().find(|(present, _)| *present == input) {
                Some((_, place)) => *place,
                None => {
                    let Some(place) = self.free_places.pop_front() else { break };
                    self.present.push((input, place));
                    inputs.push((input, place));
                    place
                }
            };
            self.free_slots.pop_front();
            self.batch.push(Seated { row: self.entered, input, slot, place });
            self.entered += 1;
        }
        Entered { rows: before..self.entered, inputs }
    }

    /// Takes the rows that have ended from the batch, and inputs that no row reads any more.
    pub fn leave(&mut self, ended: &[bool]) {
        let (left, batch): (Vec<_>, Vec<_>) = self.batch.iter().zip(ended).partition(|(_, ended)| **ended);
        self.free_slots.extend(left.iter().map(|(seated, _)| seated.slot));
        let batch: Vec<Seated> = batch.into_iter().map(|(seated, _)| *seated).collect();
        let waits = self.inputs.get(self.entered);
        let free_places = &mut self.free_places;
        self.present.retain(|(input, place)| {
            let read = waits == Some(input) || batch.iter().any(|seated| seated.input == *input);
            if !read {
                free_places.push_back(*place);
            }
            read
        });
        self.batch = batch;
    }
}
