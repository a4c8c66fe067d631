//! The CPU's choice of the next token under rules, worked out by hand.

use crate::backend::cpu::Cpu;
use crate::backend::{Backend as _, BatchRow, RowsSpec};
use crate::config::Rules;

#[test]
fn rules_are_obeyed() {
    let cpu = Cpu::new();
    let rules = Rules {
        ends: vec![4, 5],
        suppressed: vec![3],
        suppressed_first: vec![2],
        forced_first: Some(1),
        forced_last: Some(0),
    };
    let spec = RowsSpec { slots: 3, most_tokens: 2, max_new_tokens: 3, rules, ..RowsSpec::default() };
    let mut rows = cpu.rows(spec, Vec::new()).unwrap();
    let begins = |slot, tokens| BatchRow { slot, begins: Some(tokens) };
    let batch = [begins(0, &[0][..]), begins(1, &[0, 9]), begins(2, &[0, 9])];
    cpu.seat(&mut rows, &batch).unwrap();
    // Ids 3, 2 and what comes then, from the likeliest down, for every row.
    let mut choose = |then: [usize; 3]| {
        let row = |then: usize| {
            let mut row = vec![0.0; 6];
            (row[3], row[2]) = (9.0, 8.0);
            row[then] += 7.0;
            row
        };
        cpu.choose(cpu.table(then.map(row).concat(), 6).unwrap(), &mut rows).unwrap();
        (cpu.outputs(&rows).unwrap(), cpu.left(&rows).unwrap())
    };
    // Forced without a prompt; with one, what is not taken first is passed by, and 5 is an end.
    assert_eq!(choose([0, 0, 5]), (vec![vec![1], vec![0], vec![5]], vec![2, 2, 0]));
    // Behind a forced id comes the first that is free; 2 may come second.
    assert_eq!(choose([0, 0, 0]), (vec![vec![1, 0], vec![0, 2], vec![5]], vec![1, 1, 0]));
    assert_eq!(choose([1, 1, 1]), (vec![vec![1, 0, 0], vec![0, 2, 0], vec![5]], vec![0, 0, 0]));
}
