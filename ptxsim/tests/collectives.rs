//! Exchanges within a warp, against what the CUDA guide says of groups of lanes.

mod support;

use ptxsim::FaultKind;
use support::config;
use support::kernel::*;

/// Each of 32 lanes has its word of `data` in `%r0` and leaves a word in `%r1`.
fn lanes(what: &str, data: &[u32], text: &str) -> Vec<u32> {
    let body = format!(
        "mul.wide.u32 %a3, %t, 4;\nadd.s64 %a4, %a3, %a0;\nadd.s64 %a5, %a3, %a1;\nld.global.b32 %r0, [%a4];\n{text}\
         st.global.b32 [%a5], %r1;\n"
    );
    run(what, &config(1, 32), &body, NO_MAP, data, 32)
}

#[test]
fn shuffles_move_words_within_groups_of_lanes() {
    let data = numbers(32);
    for width in [2, 4, 8, 16, 32usize] {
        for by in [0, 1, 2, 3, 5, 8, 15, 31usize] {
            for (mode, clamp) in [("up", 0), ("down", 31), ("bfly", 31), ("idx", 31)] {
                let control = (32 - width) << 8 | clamp;
                let text = format!(
                    "shfl.sync.{mode}.b32 %r1|%p1, %r0, {by}, {control}, 0xffffffff;\n@%p1 xor.b32 %r1, %r1, 1;\n"
                );
                let got = lanes(&format!("shfl {mode}"), &data, &text);
                for (lane, got) in got.iter().enumerate() {
                    let (base, place) = (lane / width * width, lane % width);
                    let from = match mode {
                        "up" => (place >= by).then(|| lane - by),
                        "down" => (place + by < width).then(|| lane + by),
                        // Lanes of groups before may be read, of groups after not.
                        "bfly" => Some(lane ^ by).filter(|from| from / width <= lane / width),
                        _ => Some(base + by % width),
                    };
                    let want = from.map_or(data[lane], |from| data[from] ^ 1);
                    assert_eq!(*got, want, "{mode} by {by}, width {width}, lane {lane}");
                }
            }
        }
    }
    // From a register, different in each lane; the upper half of the warp has its own collective.
    let text = "sub.u32 %r2, 31, %t;\nmov.u32 %r3, 0x0000ffff;\nsetp.gt.u32 %p1, %t, 15;\n@%p1 not.b32 %r3, %r3;\n\
                and.b32 %r2, %r2, 15;\n@%p1 or.b32 %r2, %r2, 16;\nshfl.sync.idx.b32 %r1, %r0, %r2, 31, %r3;\n";
    let got = lanes("halves", &data, text);
    assert!((0..32).all(|lane| got[lane] == data[lane / 16 * 16 + 15 - lane % 16]));
}

#[test]
fn votes_matches_and_reductions() {
    // Few different values, so that some match.
    let data: Vec<u32> = numbers(32).iter().map(|x| (x % 5).wrapping_add(0xffff_fffe)).collect();
    let among = |lane: usize, members: u32| -> Vec<u32> {
        assert!(members >> lane & 1 == 1);
        (0..32).filter(|l| members >> l & 1 == 1).map(|l| data[l]).collect()
    };
    for members in [u32::MAX, 0x00ff_00ff, 0x8000_0001] {
        let with = |text: &str| {
            let text = text.replace("MASK", &members.to_string());
            let body = format!(
                "mov.u32 %r1, 0;\nmov.u32 %r2, 1;\nshl.b32 %r2, %r2, %t;\nand.b32 %r2, %r2, {members};\n\
                 setp.eq.u32 %p2, %r2, 0;\n@%p2 bra OUT;\nsetp.eq.u32 %p0, %r0, 0;\n{text}OUT:\n"
            );
            lanes(text.lines().next().unwrap_or_default(), &data, &body)
        };
        let every = |text: &str, want: &dyn Fn(usize) -> u32| {
            for (lane, got) in with(text).into_iter().enumerate().filter(|(l, _)| members >> l & 1 == 1) {
                assert_eq!(got, want(lane), "{text} lane {lane} of {members:#x}");
            }
        };
        let zero = |x: &u32| *x == 0;
        let truth = "selp.u32 %r1, 1, 0, %p1;\n";
        every(&format!("vote.sync.all.pred %p1, %p0, MASK;\n{truth}"), &|l| {
            among(l, members).iter().all(zero).into()
        });
        every(&format!("vote.sync.any.pred %p1, %p0, MASK;\n{truth}"), &|l| {
            among(l, members).iter().any(zero).into()
        });
        every(&format!("vote.sync.any.pred %p1, !%p0, MASK;\n{truth}"), &|l| {
            among(l, members).iter().any(|x| *x != 0).into()
        });
        every(&format!("vote.sync.uni.pred %p1, %p0, MASK;\n{truth}"), &|l| {
            let all = among(l, members);
            all.iter().all(|x| zero(x) == zero(&all[0])).into()
        });
        let ballot = |f: &dyn Fn(usize) -> bool| -> u32 {
            (0..32).filter(|l| members >> l & 1 == 1 && f(*l)).map(|l| 1 << l).sum()
        };
        every("vote.sync.ballot.b32 %r1, %p0, MASK;\n", &|_| ballot(&|l| data[l] == 0));
        every("match.any.sync.b32 %r1, %r0, MASK;\n", &|lane| ballot(&|l| data[l] == data[lane]));
        let uniform =
            data.iter().enumerate().filter(|(l, _)| members >> l & 1 == 1).all(|(_, x)| *x == data[0]);
        every("match.all.sync.b32 %r1|%p1, %r0, MASK;\n", &|_| if uniform { members } else { 0 });
        every(
            "mov.u32 %r3, 9;\nmatch.all.sync.b32 %r4|%p1, %r3, MASK;\nselp.u32 %r1, %r4, 0, %p1;\n",
            &|_| members,
        );
        every(
            "cvt.u64.u32 %a6, %r0;\nshl.b64 %a6, %a6, 32;\nmatch.any.sync.b64 %r1, %a6, MASK;\n",
            &|lane| ballot(&|l| data[l] == data[lane]),
        );
        let signed = |l: usize| among(l, members).into_iter().map(|x| x as i32);
        every("redux.sync.add.s32 %r1, %r0, MASK;\n", &|l| {
            among(l, members).iter().fold(0, |a, b| a.wrapping_add(*b))
        });
        every("redux.sync.min.s32 %r1, %r0, MASK;\n", &|l| signed(l).min().unwrap() as u32);
        every("redux.sync.max.s32 %r1, %r0, MASK;\n", &|l| signed(l).max().unwrap() as u32);
        every("redux.sync.min.u32 %r1, %r0, MASK;\n", &|l| among(l, members).into_iter().min().unwrap());
        every("redux.sync.max.u32 %r1, %r0, MASK;\n", &|l| among(l, members).into_iter().max().unwrap());
        every("redux.sync.and.b32 %r1, %r0, MASK;\n", &|l| {
            among(l, members).into_iter().fold(!0, |a, b| a & b)
        });
        every("redux.sync.or.b32 %r1, %r0, MASK;\n", &|l| {
            among(l, members).into_iter().fold(0, |a, b| a | b)
        });
        every("redux.sync.xor.b32 %r1, %r0, MASK;\n", &|l| {
            among(l, members).into_iter().fold(0, |a, b| a ^ b)
        });
        // One lane is chosen, and all know which: its place, plus 100 in the lane itself.
        let elected = with("elect.sync %r1|%p1, MASK;\n@%p1 add.s32 %r1, %r1, 100;\n");
        let chosen: Vec<usize> = (0..32).filter(|l| elected[*l] >= 100).collect();
        let [leader] = chosen[..] else { panic!("{chosen:?} are elected") };
        assert_eq!(elected[leader] as usize, 100 + leader);
        assert!((0..32).all(|l| l == leader || members >> l & 1 == 0 || elected[l] as usize == leader));
        every("activemask.b32 %r1;\n", &|_| members);
    }
}

#[test]
fn absent_lanes_are_told() {
    let some = |text: &str| format!("setp.lt.u32 %p1, %t, 16;\n@!%p1 bra OUT;\n{text}OUT:\nbar.sync 0;\n");
    for text in [
        "shfl.sync.idx.b32 %r1, %t, 0, 31, 0xffffffff;\n",
        "vote.sync.any.pred %p2, %p1, 0xffffffff;\n",
        "match.any.sync.b32 %r1, %t, 0xffffffff;\n",
        "redux.sync.add.s32 %r1, %t, 0xffffffff;\n",
        "elect.sync %r1|%p2, 0xffffffff;\n",
        "bar.warp.sync 0xffffffff;\n",
    ] {
        let fault = fault("absent", 32, &some(text));
        assert_eq!(fault.kind, FaultKind::Divergence, "{text}: {fault}");
    }
    // A lane that its own mask leaves out.
    let fault = fault("outside", 32, &some("shfl.sync.idx.b32 %r1, %t, 0, 31, 0x00ff;\n"));
    assert_eq!(fault.kind, FaultKind::Divergence, "{fault}");
}
