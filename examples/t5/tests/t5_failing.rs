//! A driver that fails under the CUDA backend: it opens, loads a tiny model and decodes with each kind of call failing. The error
//! says what failed, nothing panics or leaks, and where the card is still there the same backend goes on.
#![cfg(feature = "cuda")]

use anyhow::Result;
use cudarc::driver::sys::CUresult::{self, *};
use indicatif::ProgressBar;
use onekv_cost::Method;
use ptxsim_failing::{
    After, Failing, STICKY, Table, Wrong, assert_no_leak, base, calmly, is_told_later, picks, without_hanging,
};
use t5::backend::Backend as _;
use t5::backend::cuda::Cuda;
use t5::cli::arguments::{Dtype, Products};
use t5::generate::{Limits, Outputs, Task, generate};
use t5::load::{Shape, random};

fn open() -> Result<Cuda> {
    Cuda::open(Some(Dtype::Bf16), Some(Products::Own))
}

/// A session on a new model of random weights: rows that end and enter, steps that are recorded.
fn answer(cuda: &Cuda) -> Result<Outputs> {
    let mut config = Shape::Tiny.config()?;
    (config.encoder_layers, config.decoder_layers) = (1, 1);
    let model = random(config, 3, cuda)?;
    let ids =
        |n: usize, seed: usize| (0..n).map(|i| (3 + (i * 37 + seed * 11) % 97) as u32).collect::<Vec<_>>();
    let tasks = [Task { input: ids(9, 1), prompts: vec![ids(2, 2), ids(1, 3)] }];
    let limits = Limits { max_new_tokens: 4, stop_at_eos: false, batch_rows: None };
    Ok(generate(&model, Method::Pid, &tasks, limits, 1, &ProgressBar::hidden())?.0)
}

/// Operations whose errors do not name one call of several, or say more than its name.
const OPERATIONS: [&str; 4] =
    ["out of device memory", "cannot open the card", "cannot wait for the card", "cannot ask the card"];

#[track_caller]
fn assert_said(place: &str, error: &anyhow::Error, call: &str, status: CUresult) {
    let text = format!("{error:#}");
    let status = format!("{status:?}");
    let named = text.contains(base(call)) || OPERATIONS.iter().any(|what| text.contains(what));
    let out = text.contains("out of device memory") && status == "CUDA_ERROR_OUT_OF_MEMORY";
    assert!(named && (out || text.contains(&status)), "{place}: the error is: {text}");
}

/// What to fail with: of a name's first call three statuses and a lost context, of others one.
fn few(statuses: Vec<CUresult>, first: bool) -> Vec<CUresult> {
    let (mut some, lost): (Vec<_>, Vec<_>) =
        statuses.into_iter().partition(|status| !STICKY.contains(status));
    some.truncate(if first { 2 } else { 1 });
    some.extend(lost.into_iter().take(usize::from(first)));
    some
}

#[test]
fn every_kind_of_call_fails_in_turn() {
    let Some(failing) = Failing::open() else { return };
    let mut table = Table::default();
    let mut wrong = Wrong::default();
    without_hanging(|| {
        drop(open().unwrap());
        opens(&failing, &mut table, &mut wrong);
        decodes(&failing, &mut table, &mut wrong);
    });
    wrong.assert_nothing();
    table.tell("ONEKV_RELIABILITY", "failing-driver-t5.json");
}

/// Opens the card and closes it.
fn opens(failing: &Failing, table: &mut Table, wrong: &mut Wrong) {
    failing.none();
    let opened = open().unwrap();
    let opening = failing.calls().len();
    drop(opened);
    let calls = failing.calls();
    let mut before = failing.live();
    for (at, statuses) in picks(&calls, 3) {
        let call = &calls[at];
        let first = calls.iter().position(|name| name == call) == Some(at);
        for status in few(statuses, first) {
            let place = format!("open and close, call {at} of {}, {call}: {status:?}", calls.len());
            wrong.unless(|| {
                failing.fail("*", at, status, false);
                let opened = calmly(&place, open);
                let error = opened.as_ref().err();
                if let Some(error) = error {
                    assert_said(&place, error, call, status);
                }
                if let Ok(cuda) = &opened {
                    assert!(cuda.driver.hopper, "{place}: it is taken for another card");
                }
                assert!(error.is_some() || at >= opening || is_told_later(call), "{place}: it is not told");
                let after = if error.is_some() { After::Error } else { After::Dropped };
                calmly(&place, || drop(opened));
                let fired = failing.failed();
                failing.none();
                assert_eq!(fired, 1, "{place}: the calls are others than in the rehearsal");
                table.note(call, status, after);
                if !STICKY.contains(&status) {
                    assert_no_leak(&place, before, failing.live(), call);
                }
            });
            failing.none();
            failing.heal();
            before = failing.live();
        }
    }
}

/// Decodes on an open card.
fn decodes(failing: &Failing, table: &mut Table, wrong: &mut Wrong) {
    let settled = |cuda: &Cuda| {
        let want = answer(cuda).unwrap();
        cuda.release().unwrap();
        (want, failing.live())
    };
    let mut card = Some(open().unwrap());
    let cuda = card.as_ref().unwrap();
    let (want, mut before) = settled(cuda);
    failing.none();
    answer(cuda).unwrap();
    let calls = failing.calls();
    cuda.release().unwrap();
    for (at, statuses) in picks(&calls, 3) {
        let call = &calls[at];
        let first = calls.iter().position(|name| name == call) == Some(at);
        for status in few(statuses, first) {
            let place = format!("decode, call {at} of {}, {call}: {status:?}", calls.len());
            let sticky = STICKY.contains(&status);
            let cuda = card.as_ref().unwrap();
            let kept = wrong.unless(|| {
                failing.fail("*", at, status, false);
                let done = calmly(&place, || answer(cuda));
                let fired = failing.failed();
                failing.none();
                assert_eq!(fired, 1, "{place}: the calls are others than in the rehearsal");
                assert!(done.is_err() || is_told_later(call), "{place}: it is not told");
                match &done {
                    Ok(got) => assert_eq!(got, &want, "{place}"),
                    Err(error) if sticky => assert_said(&place, error, "cu", status),
                    Err(error) => assert_said(&place, error, call, status),
                }
                table.note(call, status, if done.is_ok() { After::Recovered } else { After::Error });
                if sticky {
                    let next = calmly(&place, || answer(cuda));
                    assert_said(&place, &next.expect_err("the context is lost"), "cu", status);
                    return;
                }
                // What drops left in the context, and memory that could not be freed before the next allocation.
                let _ = cuda.driver.context.check_err();
                drop(cuda.pool.take(3 << 20).unwrap());
                cuda.release().unwrap();
                assert_no_leak(&place, before, failing.live(), call);
                if first {
                    assert_eq!(answer(cuda).unwrap(), want, "{place}: again");
                    cuda.release().unwrap();
                    assert_no_leak(&place, before, failing.live(), call);
                }
                before = failing.live();
            });
            if sticky || !kept {
                failing.none();
                wrong.unless(|| calmly(&place, || drop(card.take())));
                failing.heal();
                before = settled(card.insert(open().unwrap())).1;
            }
        }
    }
}

/// Memory of the card, or of the host, ends at each allocation in turn, and does not come back.
#[test]
fn memory_ends_at_each_allocation() {
    let Some(failing) = Failing::open() else { return };
    without_hanging(|| {
        let work = || answer(&open()?);
        let want = work().unwrap();
        failing.none();
        let before = failing.live();
        for names in ["cuMemAllocAsync", "cuMemHostAlloc"] {
            for nth in 0.. {
                let place = format!("{names} from number {nth} on");
                failing.fail(names, nth, CUDA_ERROR_OUT_OF_MEMORY, true);
                let done = calmly(&place, work);
                let failed = failing.failed();
                failing.none();
                assert_no_leak(&place, before, failing.live(), "");
                match done {
                    Ok(got) => {
                        assert_eq!((failed, &got), (0, &want), "{place}");
                        assert!(nth > 0);
                        break;
                    }
                    Err(error) => assert_said(&place, &error, names, CUDA_ERROR_OUT_OF_MEMORY),
                }
            }
        }
        assert_eq!(work().unwrap(), want);
    });
}
