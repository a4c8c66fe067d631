//! `ptxsim run` and `ptxsim lint`, as a user has them.

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
        Command::new(program).current_dir(&self.0).args(arguments.split(' ')).output().unwrap()
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

#[test]
fn lint_lists_what_is_not_supported() {
    let folder = Folder::new("lint");
    folder.write("sound.ptx", PTX);
    let sound = folder.run("lint sound.ptx");
    assert_eq!((sound.status.code(), sound.stdout), (Some(0), b"scale: ok\n".to_vec()));
    folder.write("odd.ptx", PTX.replace("mul.f32", "wmma.mma.f32"));
    let odd = folder.run("lint odd.ptx");
    assert_eq!(odd.status.code(), Some(1));
    let said = String::from_utf8(odd.stdout).unwrap();
    assert_eq!(said, "scale: PTX line 16: unsupported instruction: `wmma.mma.f32`\n");
}
