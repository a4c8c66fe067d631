//! `ptxsim run`, `lint`, `replay` and `mutate`, as a user has them.

use ptxsim::{Card, GlobalMemory, LaunchConfig, Module, Options, Recording};
use std::path::PathBuf;
use std::process::{Command, Output};

const PTX: &str = ".version 8.0\n.target sm_80\n.address_size 64\n\
    .visible .entry scale(.param .u64 in, .param .u64 out, .param .f32 by) {\n.reg .b32 %r<2>;\n.reg .f32 %f<3>;\n\
    .reg .b64 %a<4>;\nld.param.u64 %a0, [in];\nld.param.u64 %a1, [out];\nld.param.f32 %f1, [by];\nmov.u32 %r0, %tid.x;\n\
    mul.wide.u32 %a2, %r0, 4;\nadd.s64 %a0, %a0, %a2;\nadd.s64 %a1, %a1, %a2;\nld.global.f32 %f0, [%a0];\n\
    mul.f32 %f0, %f0, %f1;\nst.global.f32 [%a1], %f0;\nret;\n}\n";

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        std::fs::write(self.0.join(name), bytes).unwrap();
    }

    fn run(&self, arguments: &str) -> Output {
        let program = env!("CARGO_BIN_EXE_ptxsim");
        let mut command = Command::new(program);
        command.current_dir(&self.0).args(arguments.split(' ')).env("PTXSIM_CHECKS", "all").output().unwrap()
    }

    /// The error's text; there is nothing on stdout.
    fn refused(&self, arguments: &str) -> String {
        let Output { status, stdout, stderr } = self.run(arguments);
        assert_eq!((status.code(), stdout.len()), (Some(2), 0), "{arguments}");
        String::from_utf8(stderr).unwrap()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed stays in the build's own folder.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn variables_are_checked() {
    let folder = Folder::new("variables");
    folder.write("scale.ptx", PTX);
    folder.write("in.bin", [0; 128]);
    let run = |mma: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ptxsim"));
        command.current_dir(&folder.0).env("PTXSIM_MMA", mma);
        command.args("run scale.ptx --block 32 --arg file=in.bin --arg space=128 --arg f32=1".split(' '));
        let output = command.output().unwrap();
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    for allowed in ["", "sequential", "truncate"] {
        assert_eq!(run(allowed), (true, String::new()));
    }
    let (success, told) = run("exact");
    assert!(!success);
    let wanted = "PTXSIM_MMA=exact: `exact` is no way to add up; allowed: sequential, truncate";
    assert!(told.contains(wanted), "{told}");
}

#[test]
fn a_kernel_runs_on_files() {
    let folder = Folder::new("run");
    folder.write("scale.ptx", PTX);
    let floats = |by: f32| (0..32).flat_map(|i| (i as f32 * by).to_le_bytes()).collect::<Vec<u8>>();
    folder.write("in.bin", floats(1.0));
    let launch = "run scale.ptx --block 32 --arg file=in.bin --arg space=128 --arg f32=2.5 --dump 1=out.bin";
    let output = folder.run(launch);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(std::fs::read(folder.0.join("out.bin")).unwrap(), floats(2.5));
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(
        said.lines().any(|line| line.starts_with("global bytes loaded") && line.ends_with(" 128")),
        "{said}"
    );
    let json = folder.run(&format!("{launch} --json"));
    let counters: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&counters["kernel"], &counters["global_store_bytes"]), (&"scale".into(), &128.into()));
}

#[test]
fn kernels_print_and_assert() {
    let folder = Folder::new("print");
    folder.write("basic.ptx", include_str!("kernels/basic.ptx"));
    let output = folder.run("run basic.ptx --kernel formats --block 1 --arg i32=42 --arg f64=2.5");
    let said = String::from_utf8(output.stdout).unwrap();
    // What a C library prints of these.
    let wanted = [
        "42|   42|42   |00042|-42|42|2a|2A|52|\u{8b}|word|left  |51851851385166|fedcba9876543210|%",
        "2.500000|2|   2.500|2.5      |00002.50|2.500000e+03|2.50E+00|2.5|2.5e+09|2.5e-06|250|inf",
    ];
    for (line, wanted) in said.lines().zip(wanted) {
        assert_eq!(line, wanted);
    }
    let negative = folder.run("run basic.ptx --kernel formats --block 1 --arg i32=-7 --arg f64=-0.125");
    let said = String::from_utf8(negative.stdout).unwrap();
    assert!(said.starts_with("-7|   -7|-7   |-0007|+7|4294967289|fffffff9|"), "{said}");
    assert!(said.contains("\n-0.125000|-0|  -0.125|-0.1     |-0000.12|-1.250000e+02|"), "{said}");

    assert!(folder.run("run basic.ptx --kernel checked --arg i32=3").status.success());
    let said = folder.refused("run basic.ptx --kernel checked --arg i32=4");
    for part in [
        "Assert in kernel `checked`, block (0, 0, 0), thread (0, 0, 0)",
        "n == 3 && \"three it must be\"",
        "basic.cu:",
    ] {
        assert!(said.contains(part), "{said}");
    }
}

#[test]
fn wrong_arguments_have_one_line_each() {
    let folder = Folder::new("wrong");
    folder.write("scale.ptx", PTX);
    folder.write("hopper.ptx", PTX.replace("sm_80", "sm_90a"));
    folder.write("broken.ptx", &PTX[..200]);
    let arguments = "--arg zeros=128 --arg space=128 --arg f32=1";
    for (given, wanted) in [
        (format!("run none.ptx {arguments}"), "cannot read none.ptx"),
        (format!("run broken.ptx {arguments}"), "PTX line"),
        (format!("run hopper.ptx --device a100 {arguments}"), "PTX for sm_90a; the card a100 is sm_80"),
        (
            format!("run scale.ptx --device a1000 {arguments}"),
            "allowed are a100, rtx4090, h100, h200, b200, rtx5090",
        ),
        ("run scale.ptx --arg zeros=128".to_owned(), "takes 3 arguments, 1 are given"),
        (
            "run scale.ptx --arg f32=1 --arg space=128 --arg f32=1".to_owned(),
            "argument 0 has 4 bytes, `scale` takes 8",
        ),
        (
            "run scale.ptx --arg zeros=99999999999999 --arg space=128 --arg f32=1".to_owned(),
            "99999999999999 bytes asked for",
        ),
        (format!("run scale.ptx --kernel other {arguments}"), "no kernel `other`"),
        (format!("run scale.ptx --block 2048 {arguments}"), "block is [2048, 1, 1]"),
        (format!("run scale.ptx --cluster 2 {arguments}"), "blocks per cluster is 2"),
        (format!("run scale.ptx --dump 2=x {arguments}"), "argument 2 is no buffer"),
        (
            format!("run scale.ptx --block 33 {arguments}"),
            "OutOfBounds in kernel `scale`, block (0, 0, 0), thread (32, 0, 0)",
        ),
        ("run scale.ptx --arg space=128 --arg space=128 --arg f32=1".to_owned(), "nothing has written"),
    ] {
        let said = folder.refused(&given);
        assert!(said.contains(wanted), "{given}: `{said}` does not say `{wanted}`");
        assert!(said.lines().count() == 1 && said.starts_with("ptxsim: "), "{given}: {said}");
    }
}

/// A launch of `scale` by 2 on 32 ones, of so many threads.
fn recording(threads: u32) -> Recording {
    let card = Card::by_name("a100").unwrap();
    let memory = GlobalMemory::new(card.memory_bytes);
    let module = Module::load(PTX, card, &memory).unwrap();
    let [data, out] = [128; 2].map(|bytes| memory.allocate(bytes).unwrap());
    memory.write(data, &[1f32.to_le_bytes(); 32].concat()).unwrap();
    let parameters = [&data.to_le_bytes()[..], &out.to_le_bytes(), &2f32.to_le_bytes()].concat();
    let config = LaunchConfig::new([1; 3], [threads, 1, 1]);
    let begun = Recording::begin(PTX, &module, "scale", &config, &parameters, &memory);
    match module.launch("scale", &config, &parameters, &memory, Options::default()) {
        Ok(_) => begun.end(&memory),
        Err(_) => begun,
    }
}

#[test]
fn recorded_launches_run_again_and_are_mutated() {
    let folder = Folder::new("replay");
    for (name, threads) in [("sound.launch", 32), ("wrong.launch", 33)] {
        let path = folder.0.join(name);
        // Of an earlier run that failed.
        let _ = std::fs::remove_file(&path);
        recording(threads).save(&path).unwrap();
    }
    let output = folder.run("replay sound.launch --ptx scale.ptx");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.lines().any(|l| l.starts_with("global bytes stored") && l.ends_with(" 128")), "{said}");
    assert_eq!(std::fs::read_to_string(folder.0.join("scale.ptx")).unwrap(), PTX);
    let said = folder.refused("replay wrong.launch");
    assert!(said.contains("OutOfBounds in kernel `scale`, block (0, 0, 0), thread (32, 0, 0)"), "{said}");
    folder.write("cut.launch", &recording(32).to_bytes()[..99]);
    for (given, wanted) in [
        ("replay none.launch", "cannot read none.launch"),
        ("replay cut.launch", "the header is"),
        ("mutate wrong.launch", "`scale` as it was recorded: the recorded launch failed"),
        ("mutate sound.launch --rule none", "rule `none`, allowed are drop-fence, "),
    ] {
        let said = folder.refused(given);
        assert!(said.contains(wanted), "{given}: `{said}` does not say `{wanted}`");
    }
    let output = folder.run("mutate sound.launch --rule drop-store");
    let said = String::from_utf8(output.stdout).unwrap();
    let row = said.lines().find(|line| line.starts_with("drop-store")).unwrap();
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["drop-store", "0", "1", "0", "0", "0", "0"]);
    let json = folder.run("mutate sound.launch wrong.launch --skip-failed --json --limit 1 --seed 3");
    let lines = String::from_utf8(json.stdout).unwrap();
    let lines =
        lines.lines().map(serde_json::from_str).collect::<Result<Vec<serde_json::Value>, _>>().unwrap();
    let (head, tried) = lines.split_first().unwrap();
    assert_eq!((&head["launches"], &head["rules"][0]["name"]), (&1.into(), &"drop-fence".into()), "{head}");
    // An access 4 bytes on or 16 before, a store left out.
    assert_eq!(tried.len(), 2, "{tried:?}");
    assert!(tried.iter().all(|t| t["kernel"] == "scale" && t["verdict"] != "survived"), "{tried:?}");
}

#[test]
fn lint_lists_what_is_not_supported() {
    let folder = Folder::new("lint");
    folder.write("sound.ptx", PTX);
    let sound = folder.run("lint sound.ptx");
    assert_eq!((sound.status.code(), sound.stdout), (Some(0), b"scale: ok\n".to_vec()));
    folder.write("odd.ptx", PTX.replace("mul.f32", "wonder.f32"));
    let odd = folder.run("lint odd.ptx");
    assert_eq!(odd.status.code(), Some(1));
    let said = String::from_utf8(odd.stdout).unwrap();
    assert_eq!(said, "scale: PTX line 16: unsupported instruction: `wonder.f32`\n");
    // Once per opcode, with its first line.
    let often =
        "wonder.f32 %f0, %f0, %f1;\nmul.wider.f32 %f0, %f0, %f1;\nwonder.f32 %f0, %f1, %f0;\nwonder.f32";
    folder.write("often.ptx", PTX.replace("mul.f32", often));
    let said = String::from_utf8(folder.run("lint often.ptx").stdout).unwrap();
    assert_eq!(
        said,
        "scale: PTX line 16: unsupported instruction: `wonder.f32` (3 times)\n\
         scale: PTX line 17: unsupported instruction: `mul.wider.f32`\n"
    );
    // Newer texts than are known.
    folder.write("newest.ptx", PTX.replace(".version 8.0", ".version 9.5"));
    assert!(folder.run("lint newest.ptx").status.success());
    folder.write("newer.ptx", PTX.replace(".version 8.0", ".version 9.6"));
    let said = folder.refused("lint newer.ptx");
    assert!(said.contains("PTX 9.6; the newest known is 9.5"), "{said}");
}
