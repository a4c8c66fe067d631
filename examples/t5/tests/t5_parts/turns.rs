//! Who is decoded when.

use onekv_cost::places;
use proptest::prelude::*;

use crate::schedule::Schedule;

proptest! {
    /// Every row is in the batch once, in order, for as long as it takes; limits hold; nobody shares a slot, and
    /// inputs share no place; an input comes in once and stays until its last row has left; a row enters as soon
    /// as there is room.
    #[test]
    fn every_row_is_decoded_once(
        rows_of in prop::collection::vec(1usize..6, 1..12),
        slots in 1usize..40,
        steps in prop::collection::vec(1usize..9, 12 * 6),
        lazy in any::<bool>(),
    ) {
        let inputs: Vec<usize> = rows_of.iter().enumerate().flat_map(|(i, n)| vec![i; *n]).collect();
        let most = *rows_of.iter().max().unwrap();
        let places = places(rows_of.len() as u64, most as u64, slots as u64) as usize;
        let mut schedule = Schedule::new(inputs.clone(), slots, places);
        let mut left = vec![0; inputs.len()];
        let (mut order, mut ended, mut brought) = (Vec::new(), 0, Vec::new());
        loop {
            let before = schedule.batch.clone();
            let entered = schedule.enter();
            prop_assert_eq!(&schedule.batch[..before.len()], &before[..]);
            for seated in &schedule.batch[before.len()..] {
                prop_assert_eq!(seated.row, order.len());
                prop_assert_eq!(seated.input, inputs[seated.row]);
                left[seated.row] = steps[seated.row];
                order.push(seated.row);
            }
            prop_assert_eq!(order.len(), schedule.entered);
            prop_assert_eq!(entered.rows.end, order.len());
            prop_assert_eq!(entered.rows.len(), schedule.batch.len() - before.len());
            brought.extend(entered.inputs.iter().map(|(input, _)| *input));
            if schedule.batch.is_empty() {
                break;
            }
            let mut taken: Vec<usize> = schedule.batch.iter().map(|s| s.slot).collect();
            taken.sort();
            taken.dedup();
            prop_assert!(taken.len() == schedule.batch.len() && taken.iter().all(|slot| *slot < slots));
            let mut there: Vec<(usize, usize)> = schedule.batch.iter().map(|s| (s.place, s.input)).collect();
            there.sort();
            there.dedup();
            prop_assert!(there.iter().all(|(place, _)| *place < places));
            prop_assert!(there.windows(2).all(|w| w[0].0 != w[1].0 && w[0].1 != w[1].1), "{:?}", there);
            // Where one waits, its slot or its place is missing.
            if let Some(input) = inputs.get(order.len()) {
                let new = there.iter().all(|(_, there)| there != input);
                prop_assert!(schedule.batch.len() == slots || (new && there.len() == places));
            }
            loop {
                schedule.batch.iter().for_each(|s| left[s.row] = left[s.row].saturating_sub(1));
                let gone: Vec<bool> = schedule.batch.iter().map(|s| left[s.row] == 0).collect();
                let count = gone.iter().filter(|gone| **gone).count();
                // A device that looks seldom lets several go together.
                if count == gone.len() || (count > 0 && (!lazy || 2 * count >= gone.len())) {
                    ended += count;
                    schedule.leave(&gone);
                    break;
                }
            }
        }
        prop_assert_eq!(ended, inputs.len());
        prop_assert_eq!(order, (0..inputs.len()).collect::<Vec<_>>());
        prop_assert_eq!(brought, (0..rows_of.len()).collect::<Vec<_>>());
    }
}

/// Where everything fits, slots are rows and places are inputs, however many enter at once.
#[test]
fn with_room_for_all_nobody_takes_anothers_place() {
    let mut schedule = Schedule::new(vec![0, 0, 1, 2], 2, 3);
    let entered = schedule.enter();
    assert_eq!((entered.rows, entered.inputs), (0..2, vec![(0, 0)]));
    schedule.leave(&[true, true]);
    assert_eq!(schedule.enter().inputs, [(1, 1), (2, 2)]);
    assert_eq!(schedule.batch.iter().map(|s| s.slot).collect::<Vec<_>>(), [0, 1]);
}
