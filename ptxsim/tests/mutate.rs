//! What is said of mutants of small kernels.

use ptxsim::mutate::{MutateError, Selection, Tried, Verdict, mutate, rules};
use ptxsim::{Card, Checks, FaultKind, GlobalMemory, LaunchConfig, Module, Options, Recording};

/// Hands each thread its neighbour's number through shared memory, 128 threads. Barrier 1 does what barrier 0 did; what
/// comes after the branch is for other blocks.
const PTX: &str = "
.version 8.0
.target sm_90a
.address_size 64
.visible .entry hand_on(.param .u64 out) {
    .reg .b32 %r<6>;
    .reg .b64 %a<3>;
    .reg .pred %p<3>;
    .shared .align 4 .b8 places[512];
    setmaxnreg.inc.sync.aligned.u32 256;
    ld.param.u64 %a0, [out];
    mov.u32 %r0, %tid.x;
    mov.u32 %r1, places;
    shl.b32 %r2, %r0, 2;
    add.s32 %r3, %r1, %r2;
    st.shared.u32 [%r3], %r0;
    bar.sync 0, 128;
    bar.sync 1, 128;
    xor.b32 %r2, %r2, 4;
    add.s32 %r3, %r1, %r2;
    ld.shared.u32 %r4, [%r3];
    mul.wide.u32 %a1, %r0, 4;
    add.s64 %a0, %a0, %a1;
    st.global.u32 [%a0], %r4;
    mov.u32 %r5, %ctaid.x;
    setp.eq.u32 %p1, %r5, 0;
    @%p1 bra done;
    st.shared.u32 [%r1], %r0;
    bar.sync 2, 128;
done:
    ret;
}";

/// The second of two launches: the first left the same result.
fn recording() -> Recording {
    let card = Card::by_name("h200").unwrap();
    let memory = GlobalMemory::new(card.memory_bytes);
    let module = Module::load(PTX, card, &memory).unwrap();
    let out = memory.allocate(512).unwrap().to_le_bytes();
    let config = LaunchConfig::new([1; 3], [128, 1, 1]);
    let launch = || module.launch("hand_on", &config, &out, &memory, Options::default());
    launch().unwrap();
    let begun = Recording::begin(PTX, &module, "hand_on", &config, &out, &memory);
    launch().unwrap();
    begun.end(&memory)
}

fn tried(rule: &str, limit: Option<usize>, seed: u64) -> Vec<Tried> {
    let selection = Selection { rule: Some(rule.to_owned()), limit, seed };
    let options = Options { checks: Checks::ALL, ..Options::default() };
    mutate(vec![recording()], &selection, options, &|_, _| {}).unwrap()
}

fn verdicts(rule: &str) -> Vec<(u32, Verdict)> {
    let mut found: Vec<_> = tried(rule, None, 1).into_iter().map(|t| (t.line, t.verdict)).collect();
    found.sort_by_key(|(line, _)| *line);
    found
}

/// Line of an instruction in the text.
fn line(of: &str) -> u32 {
    1 + PTX.lines().position(|line| line.contains(of)).unwrap() as u32
}

#[test]
fn verdicts_are_what_a_launch_shows() {
    use Verdict::*;
    // One barrier of two is enough; both are the same mistake twice, which no mutant makes.
    let barriers = [("bar.sync 0", Survived), ("bar.sync 1", Survived), ("bar.sync 2", NotRun)];
    assert_eq!(verdicts("drop-barrier"), barriers.map(|(of, verdict)| (line(of), verdict)));
    let stores = verdicts("drop-store");
    assert_eq!(stores[0], (line("st.shared.u32 [%r3]"), Fault(FaultKind::Uninitialized)));
    // What the first launch left there does not hide it.
    assert!(matches!(stores[1], (at, Differs(d)) if at == line("st.global") && d.bytes == 512), "{stores:?}");
    assert_eq!(stores[2].1, NotRun);
    let counts = verdicts("register-count");
    let refused = counts.iter().filter(|(_, v)| matches!(v, Refused(why) if why.contains("264 registers")));
    let survived = counts.iter().filter(|(_, v)| *v == Survived);
    assert_eq!((refused.count(), survived.count(), counts.len()), (1, 1, 2), "{counts:?}");
    let threads = verdicts("barrier-threads");
    assert!(threads[..4].iter().all(|(_, v)| matches!(v, Fault(_))), "{threads:?}");
    // A guard that kept nothing from running is edited where it is.
    let guards = verdicts("negate-guard");
    assert_eq!((guards.len(), &guards[0].1), (1, &Fault(FaultKind::Race)), "{guards:?}");
}

#[test]
fn each_mutant_says_what_it_is() {
    let found = tried("swizzle", None, 1);
    let [only] = &found[..] else { panic!("{found:?}") };
    assert_eq!(only.place, "bar.sync bar.sync <xor.b32> add.s32 ld.shared.u32");
    assert_eq!((only.before.as_str(), only.after.as_str()), ("xor.b32 %r2, %r2, 4;", "mov.b32 %r2, %r2;"));
    assert_eq!(
        (only.rule, only.kernel.as_str(), only.card, only.line),
        ("swizzle", "hand_on", "h200", line("xor.b32"))
    );
}

#[test]
fn a_sample_is_as_large_as_asked_and_follows_its_seed() {
    let lines =
        |seed| tried("address", Some(2), seed).iter().map(|t| (t.line, t.after.clone())).collect::<Vec<_>>();
    // Two that run, and all that do not.
    assert_eq!(lines(1).len(), 2 + 2);
    assert_eq!(lines(1), lines(1));
    assert!((2..9).any(|seed| lines(seed) != lines(1)));
}

#[test]
fn what_cannot_be_mutated_is_named() {
    let selection = Selection { rule: Some("drop-all".to_owned()), ..Selection::default() };
    let Err(error @ MutateError::Rule { .. }) =
        mutate(vec![recording()], &selection, Options::default(), &|_, _| {})
    else {
        panic!("a rule that is none");
    };
    assert!(error.to_string().contains("drop-all") && error.to_string().contains("drop-fence"), "{error}");
    // A limit that the original does not keep.
    let few = Options { instruction_limit: 10, ..Options::default() };
    let Err(error) = mutate(vec![recording()], &Selection::default(), few, &|_, _| {}) else {
        panic!("10 were enough")
    };
    assert!(
        error.to_string().contains("hand_on") && error.to_string().contains("InstructionLimit"),
        "{error}"
    );
    let names: Vec<_> = rules().map(|(name, _)| name).collect();
    assert!(names.iter().enumerate().all(|(at, name)| !names[..at].contains(name)), "{names:?}");
}
