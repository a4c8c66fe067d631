//! Launches that are taken down and run again.

use ptxsim::{
    Card, FaultKind, GlobalMemory, LaunchConfig, LaunchError, Module, Options, Recording, RecordingError,
    ReplayError,
};

/// Adds `count[0]` to each element of `data`, and counts launches in `count[0]`; a module variable holds a factor.
const PTX: &str = "
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .u32 factor = 3;
.visible .entry other(.param .u64 data) {
    ret;
}
.visible .entry scale(.param .u64 data, .param .u64 out) {
    .reg .b32 %r<3>;
    .reg .b64 %a<4>;
    ld.param.u64 %a0, [data];
    ld.param.u64 %a1, [out];
    mov.u32 %r0, %tid.x;
    mul.wide.u32 %a2, %r0, 4;
    add.s64 %a0, %a0, %a2;
    add.s64 %a1, %a1, %a2;
    ld.global.u32 %r1, [%a0];
    ld.global.u32 %r2, [factor];
    mul.lo.u32 %r1, %r1, %r2;
    st.global.u32 [%a1], %r1;
    ret;
}";

struct Launch {
    memory: GlobalMemory,
    module: Module,
    parameters: Vec<u8>,
    out: u64,
}

const WARP: LaunchConfig = LaunchConfig {
    grid: [1; 3],
    block: [32, 1, 1],
    cluster: [1; 3],
    dynamic_shared_bytes: 0,
    overlaps: false,
};

impl Launch {
    /// On the second of two cards, with something freed before and after, so that addresses are not a new memory's.
    fn new() -> Self {
        let card = Card::by_name("a100").unwrap();
        let memory = GlobalMemory::of_card(card.memory_bytes, 1);
        memory.free(memory.allocate(5000).unwrap()).unwrap();
        let module = Module::load(PTX, card, &memory).unwrap();
        let [data, out] = [128, 140].map(|bytes| memory.allocate(bytes).unwrap());
        memory.write(data, &(0..32u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
        // Bytes behind the output that stay, one of them within a word.
        memory.write(out + 128, &[9; 5]).unwrap();
        let parameters = [data.to_le_bytes(), out.to_le_bytes()].concat();
        Self { memory, module, parameters, out }
    }

    fn begin(&self, config: &LaunchConfig) -> Recording {
        Recording::begin(PTX, &self.module, "scale", config, &self.parameters, &self.memory)
    }

    fn launch(&self, config: &LaunchConfig) -> Result<ptxsim::Counters, LaunchError> {
        self.module.launch("scale", config, &self.parameters, &self.memory, Options::default())
    }
}

#[test]
fn a_replay_gives_the_same_bytes_and_counters() {
    let launch = Launch::new();
    let begun = launch.begin(&WARP);
    let counters = launch.launch(&WARP).unwrap();
    let recording = begun.end(&launch.memory);
    // What happens to the memory afterwards is not the recording's.
    launch.memory.free(launch.out).unwrap();
    let read = Recording::from_bytes(&recording.to_bytes()).unwrap();
    for recording in [recording, read.clone(), read] {
        let replay = recording.replay(Options::default()).unwrap();
        assert_eq!((replay.counters, replay.difference), (counters.clone(), None));
        assert_eq!((recording.kernel(), recording.card().name, recording.failed()), ("scale", "a100", false));
        assert_eq!(recording.config(), &WARP);
        assert!(
            !recording.text().contains("other") && recording.text().lines().count() == PTX.lines().count()
        );
    }
}

/// The file's bytes with another text, of the same length.
fn edited(recording: &Recording, from: &str, to: &str) -> Recording {
    let bytes = recording.to_bytes();
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    Recording::from_bytes(&[&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat()).unwrap()
}

#[test]
fn another_text_differs_or_fails() {
    let launch = Launch::new();
    let begun = launch.begin(&WARP);
    launch.launch(&WARP).unwrap();
    let recording = begun.end(&launch.memory);
    // 31 of 32 values have another lowest byte; 0 stays 0.
    let added = edited(&recording, "mul.lo.u32 %r1, %r1, %r2", "mul.lo.u32 %r1, %r1,  2 ");
    let difference = added.replay(Options::default()).unwrap().difference.unwrap();
    assert_eq!((difference.address, difference.bytes), (launch.out + 4, 31));
    // A store to where nothing was written before leaves another mark, even of the same byte.
    let silent = edited(&recording, "st.global.u32 [%a1], %r1;", "mov.u32 %r0, %r1;        ");
    let difference = silent.replay(Options::default()).unwrap().difference.unwrap();
    assert_eq!((difference.address, difference.bytes), (launch.out, 128));
    let beyond = edited(&recording, "[%a1], %r1", "[%a1+99],0");
    let Err(ReplayError::Launch(LaunchError::Fault(fault))) = beyond.replay(Options::default()) else {
        panic!("a misaligned store passed");
    };
    assert_eq!(fault.kind, FaultKind::Misaligned);
}

#[test]
fn a_launch_that_failed_fails_again() {
    let launch = Launch::new();
    let two_warps = LaunchConfig { block: [64, 1, 1], ..WARP };
    let begun = launch.begin(&two_warps);
    let Err(error) = launch.launch(&two_warps) else { panic!("64 elements of 32 were read") };
    let recording = Recording::from_bytes(&begun.to_bytes()).unwrap();
    assert!(recording.failed());
    let Err(ReplayError::Launch(again)) = recording.replay(Options::default()) else { panic!("no fault") };
    assert_eq!(error, again);
}

/// `griddepcontrol.wait` is missing: that shows only where the marks of the launch before are kept.
#[test]
fn what_the_launch_before_did_is_recorded() {
    const OVERLAPS: &str = ".version 8.0\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 p) {\n\
        .reg .b64 %a<2>;\n.reg .b32 %r<2>;\nld.param.u64 %a0, [p];\nst.global.u32 [%a0], 1;\nret;\n}\n";
    let card = Card::by_name("h200").unwrap();
    let memory = GlobalMemory::new(card.memory_bytes);
    let module = Module::load(OVERLAPS, card, &memory).unwrap();
    let data = memory.allocate(4).unwrap().to_le_bytes();
    let alone = LaunchConfig::new([1; 3], [1; 3]);
    module.launch("k", &alone, &data, &memory, Options::default()).unwrap();
    for (overlaps, fails) in [(true, true), (false, false)] {
        let config = LaunchConfig { overlaps, ..alone.clone() };
        let recording = Recording::begin(OVERLAPS, &module, "k", &config, &data, &memory);
        let recording = Recording::from_bytes(&recording.to_bytes()).unwrap();
        match recording.replay(Options::default()) {
            Err(ReplayError::Launch(LaunchError::Fault(fault))) => {
                assert!(fails && fault.kind == FaultKind::LaunchPending, "{fault}");
            }
            other => assert!(!fails && other.is_ok(), "{overlaps}"),
        }
    }
}

#[test]
fn damaged_files_are_errors() {
    let launch = Launch::new();
    let begun = launch.begin(&WARP);
    launch.launch(&WARP).unwrap();
    let bytes = begun.end(&launch.memory).to_bytes();
    for length in 0..bytes.len() {
        assert!(Recording::from_bytes(&bytes[..length]).is_err(), "{length} bytes of {}", bytes.len());
    }
    let header = |from: &str, to: &str| {
        let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
        let mut bytes = [&bytes[..at], to.as_bytes(), &bytes[at + from.len()..]].concat();
        let length =
            u64::from_le_bytes(bytes[16..24].try_into().unwrap()) + to.len() as u64 - from.len() as u64;
        bytes[16..24].copy_from_slice(&length.to_le_bytes());
        match Recording::from_bytes(&bytes) {
            Err(RecordingError::Field { field, .. }) => field,
            Err(RecordingError::Header(_)) => "header",
            other => panic!("{to}: {:?}", other.map(|_| ())),
        }
    };
    assert_eq!(header("a100", "a10"), "card");
    assert_eq!(header("\"bytes\":140", "\"bytes\":139999"), "an allocation");
    assert_eq!(header("\"bytes\":140", "\"bytes\":18446744073709551615"), "address");
    assert_eq!(header("\"changes\":[[2,0,", "\"changes\":[[2,9,"), "a change");
    assert_eq!(header("\"changes\":[[2,", "\"changes\":[[3,"), "a change");
    assert_eq!(header("\"card\"", "\"cart\""), "header");
    // Any byte may be another: an error or another launch, never a panic.
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 0x11;
        if let Ok(recording) = Recording::from_bytes(&other) {
            let _ = recording.replay(Options { instruction_limit: 1000, ..Options::default() });
        }
    }
}
