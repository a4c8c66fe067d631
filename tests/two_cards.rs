//! Heads and keys shared out over two cards, by the example that shows it, against one card and the f64 reference.
#![cfg(feature = "cuda")]

mod common;
#[path = "../examples/two_cards.rs"]
mod two_cards;

use common::device::fixed;
use common::{Answer, Case, Operands, assert_close};
use onekv::Element;
use onekv::plan::PlanOptions;
use two_cards::{Card, Real, by_heads, by_keys, whole};

/// The machine's first two cards, if it has them; with `ONEKV_REQUIRE_CUDA` it must.
fn cards() -> Option<[Card; 2]> {
    match Card::two() {
        Ok(cards) => {
            assert_eq!(cards.each_ref().map(|card| card.stream.context().ordinal()), [0, 1]);
            Some(cards)
        }
        Err(error) => {
            println!("two cards are not tested: {error:#}");
            assert!(std::env::var_os("ONEKV_REQUIRE_CUDA").is_none(), "two cards are required: {error:#}");
            None
        }
    }
}

fn close<E: Element>(got: two_cards::Answer<E>, operands: &Operands<E>, case: &Case) {
    assert_close(E::DTYPE, &Answer::of(&got.0, got.1), &operands.reference(), case);
}

fn heads_equal_one_card<E: Real + PartialEq>(cards: &[Card; 2], case: &Case) {
    let operands = Operands::<E>::new(case);
    let memory = [&operands.q[..], &operands.k, &operands.v];
    let got = by_heads(cards, &case.spec, &fixed(64, 16), memory).unwrap();
    for card in cards {
        let one = whole(card, &case.spec, &fixed(64, 16), memory).unwrap();
        assert!(got == one, "{:?} in heads: other bits than on one card", E::DTYPE);
    }
    close(got, &operands, case);
}

#[test]
fn heads_of_two_cards_are_those_of_one() {
    let Some(cards) = cards() else { return };
    for (heads, kv_heads) in [(4, 4), (8, 2), (12, 4)] {
        let case = Case::packed(heads, kv_heads, 64, &[(5, 150), (19, 70), (1, 0)]);
        for_each_dtype!(heads_equal_one_card(&cards, &case));
    }
    let case = Case::packed(6, 3, 64, &[(5, 150)]);
    let operands = Operands::<f32>::new(&case);
    let refused =
        by_heads(&cards, &case.spec, &fixed(64, 16), [&operands.q, &operands.k, &operands.v]).unwrap_err();
    assert_eq!(refused.to_string(), "kv_heads is 3, allowed: an even number");
}

fn keys_join<E: Real>(cards: &[Card; 2], case: &Case, cuts: &[usize]) {
    let operands = Operands::<E>::new(case);
    let memory = [&operands.q[..], &operands.k, &operands.v];
    for options in [PlanOptions::default(), fixed(64, 16)] {
        let got = by_keys(cards, &case.spec, &options, memory, cuts).unwrap();
        close(got, &operands, case);
    }
}

/// In the middle of a tile; all keys of an input on one card, the first or the second; all of all; no keys at all.
#[test]
fn keys_of_two_cards_are_joined_on_one() {
    let Some(cards) = cards() else { return };
    let case = Case::packed(4, 2, 64, &[(5, 150), (19, 70), (3, 40), (1, 0)]);
    for cuts in [[75, 33, 20, 0], [150, 0, 7, 0], [150, 70, 40, 0], [0; 4]] {
        for_each_dtype!(keys_join(&cards, &case, &cuts));
    }
}

#[test]
fn cuts_that_do_not_fit_are_refused() {
    let Some(cards) = cards() else { return };
    let case = Case::packed(1, 1, 64, &[(1, 7), (1, 8)]);
    let operands = Operands::<f32>::new(&case);
    for (cuts, error) in [
        (&[3][..], "cuts has 1 entries, allowed: 2, one per input"),
        (&[3, 9], "a cut is 9, allowed: up to 8, the keys of its input"),
    ] {
        let memory = [&operands.q[..], &operands.k, &operands.v];
        let refused = by_keys(&cards, &case.spec, &fixed(64, 16), memory, cuts).unwrap_err();
        assert_eq!(refused.to_string(), error);
    }
}

#[test]
fn the_example_runs() {
    if cards().is_some() {
        two_cards::main().unwrap();
    }
}

/// In a process of its own that sees one card, or none.
#[test]
fn fewer_cards_are_told() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["the_example_runs", "--exact", "--nocapture"])
        .envs([("PTXSIM_DEVICES", "1"), ("CUDA_VISIBLE_DEVICES", "0")])
        .env_remove("ONEKV_REQUIRE_CUDA")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    let one =
        "this wants two cards: CUDA: opening a device: device 1, allowed: below 1, as many as there are";
    let none = "this wants two cards: CUDA: loading the driver: libcuda was not found";
    assert!(child.status.success() && (said.contains(one) || said.contains(none)), "{said}");
}
