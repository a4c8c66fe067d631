//! Kernels that run through the driver API, by cudarc: results, order, faults, reports.

mod support;

use cudarc::driver::sys::{self, CUresult};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaSlice, CudaStream, DriverError, LaunchConfig, PushKernelArg,
};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;
use support::in_child;

const SCALE: &str = include_str!("data/scale.ptx");
const BASIC: &str = include_str!("../../tests/kernels/basic.ptx");

fn function(context: &Arc<CudaContext>, text: &str, name: &str) -> CudaFunction {
    context.load_module(Ptx::from_src(text)).unwrap().load_function(name).unwrap()
}

fn shape(blocks: u32, threads: u32) -> LaunchConfig {
    LaunchConfig { grid_dim: (blocks, 1, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 }
}

fn scale(
    stream: &Arc<CudaStream>,
    f: &CudaFunction,
    out: &mut CudaSlice<f32>,
    input: &CudaSlice<f32>,
    factor: f32,
    n: u32,
) {
    // SAFETY: the arguments are the kernel's, and what goes past the memory is checked by the virtual card.
    unsafe { stream.launch_builder(f).arg(out).arg(input).arg(&factor).arg(&n).launch(shape(4, 64)) }
        .unwrap();
}

#[test]
fn kernels_run_from_text_and_from_every_packing() {
    in_child("kernels_run_from_text_and_from_every_packing", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let data: Vec<f32> = (0..200).map(|i| i as f32).collect();
        let input = stream.clone_htod(&data).unwrap();
        let fatbins: [&[u8]; 4] = [
            include_bytes!("data/scale.plain.fatbin"),
            include_bytes!("data/scale.speed.fatbin"),
            include_bytes!("data/scale.balance.fatbin"),
            include_bytes!("data/scale.size.fatbin"),
        ];
        let mut modules = vec![context.load_module(Ptx::from_src(SCALE)).unwrap()];
        modules.extend(fatbins.map(|bytes| context.load_module(Ptx::from_binary(bytes.to_vec())).unwrap()));
        for (i, module) in modules.iter().enumerate() {
            let mut out = stream.alloc_zeros::<f32>(200).unwrap();
            scale(&stream, &module.load_function("scale").unwrap(), &mut out, &input, i as f32, 200);
            let want: Vec<f32> = data.iter().map(|x| x * i as f32).collect();
            assert_eq!(stream.clone_dtoh(&out).unwrap(), want);

            // Dynamic shared memory, and a module variable.
            let mut words = stream.clone_htod(&(0..128u32).collect::<Vec<_>>()).unwrap();
            let config = LaunchConfig { shared_mem_bytes: 512, ..shape(1, 128) };
            let reverse = module.load_function("reverse").unwrap();
            // SAFETY: as above.
            unsafe { stream.launch_builder(&reverse).arg(&mut words).launch(config) }.unwrap();
            assert_eq!(stream.clone_dtoh(&words).unwrap(), (0..128).rev().collect::<Vec<u32>>());
            let table = module.load_function("read_table").unwrap();
            // SAFETY: as above.
            unsafe { stream.launch_builder(&table).arg(&mut words).launch(shape(1, 8)) }.unwrap();
            assert_eq!(stream.clone_dtoh(&words).unwrap()[..8], [1, 2, 3, 4, 1, 2, 3, 4]);
        }
    });
}

/// Two streams: the second reads what the first writes. With the event it always sees it; without, never
/// (nothing asked the first stream to run), so that a missing event shows every time.
#[test]
fn only_events_order_kernels_of_two_streams() {
    for seed in ["", "1", "2", "3"] {
        let environment = [("PTXSIM_SEED", seed), ("PTXSIM_CHECKS", "none")];
        let environment = if seed.is_empty() { &environment[1..] } else { &environment[..] };
        in_child("only_events_order_kernels_of_two_streams", environment, || {
            let context = CudaContext::new(0).unwrap();
            // SAFETY: the order between the streams is this test's own business.
            unsafe { context.disable_event_tracking() };
            let f = function(&context, SCALE, "scale");
            let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
            let input = first.clone_htod(&[1f32; 64]).unwrap();
            let (mut middle, mut out) = (first.alloc_zeros(64).unwrap(), first.alloc_zeros(64).unwrap());
            first.synchronize().unwrap();
            scale(&first, &f, &mut middle, &input, 2.0, 64);
            second.wait(&first.record_event(None).unwrap()).unwrap();
            scale(&second, &f, &mut out, &middle, 3.0, 64);
            assert_eq!(second.clone_dtoh(&out).unwrap(), [6f32; 64]);

            if std::env::var_os("PTXSIM_SEED").is_none() {
                scale(&first, &f, &mut middle, &input, 5.0, 64);
                scale(&second, &f, &mut out, &middle, 3.0, 64);
                assert_eq!(
                    second.clone_dtoh(&out).unwrap(),
                    [6f32; 64],
                    "the old value: no event orders them"
                );
            }
        });
    }
}

/// Runs a kernel of one array of 128 words that must fail; the code, and that it stays.
fn fails(name: &str, text: &str, blocks: u32, threads: u32) -> CUresult {
    let context = CudaContext::new(0).unwrap();
    let stream = context.default_stream();
    let f = function(&context, text, name);
    let mut out = stream.alloc_zeros::<u32>(128).unwrap();
    // SAFETY: the kernel is wrong on purpose; the virtual card catches it.
    let launched = unsafe { stream.launch_builder(&f).arg(&mut out).launch(shape(blocks, threads)) };
    let DriverError(code) = launched.and_then(|_| stream.synchronize()).unwrap_err();
    let DriverError(again) = stream.synchronize().unwrap_err();
    assert_eq!(code, again, "a fault is sticky");
    std::mem::forget(out);
    code
}

#[test]
fn faults_have_the_cards_codes_and_a_line_that_names_the_place() {
    // Each in a process of its own: a fault loses the context.
    let cases: [(&str, u32, u32, CUresult, &str); 3] = [
        ("deadlock", 1, 128, CUresult::CUDA_ERROR_LAUNCH_TIMEOUT, "barrier 1"),
        ("absent", 1, 32, CUresult::CUDA_ERROR_LAUNCH_FAILED, "Divergence"),
        ("warp_exchange_missing_sync", 1, 32, CUresult::CUDA_ERROR_LAUNCH_FAILED, "Race"),
    ];
    for (kernel, blocks, threads, code, word) in cases {
        let environment = [("PTXSIM_TEST_KERNEL", kernel)];
        let told =
            in_child("faults_have_the_cards_codes_and_a_line_that_names_the_place", &environment, || {
                if std::env::var("PTXSIM_TEST_KERNEL").as_deref() == Ok(kernel) {
                    assert_eq!(fails(kernel, BASIC, blocks, threads), code);
                }
            });
        if let Some(told) = told {
            let line = told
                .lines()
                .find(|l| l.contains(&format!("kernel `{kernel}`")))
                .unwrap_or_else(|| panic!("{told}"));
            assert!(
                line.contains(word) && line.contains("block (0, 0, 0)") && line.contains("PTX line"),
                "{line}"
            );
        }
    }
}

#[test]
fn pointers_that_are_none_are_illegal_addresses() {
    let told = in_child("pointers_that_are_none_are_illegal_addresses", &[], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = function(&context, SCALE, "scale");
        let here = [1f32; 64];
        let out = stream.alloc_zeros::<f32>(64).unwrap();
        let (host, factor, n) = (here.as_ptr().addr() as u64, 1f32, 64u32);
        // SAFETY: a host address on purpose; the virtual card catches it.
        unsafe { stream.launch_builder(&f).arg(&out).arg(&host).arg(&factor).arg(&n).launch(shape(1, 64)) }
            .unwrap();
        let DriverError(code) = stream.synchronize().unwrap_err();
        assert_eq!(code, CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
        std::mem::forget(out);
    });
    if let Some(told) = told {
        assert!(
            told.contains("OutOfBounds in kernel `scale`") && told.contains("thread (0, 0, 0)"),
            "{told}"
        );
    }
}

#[test]
fn the_report_has_a_line_per_launch() {
    let path = std::env::temp_dir().join(format!("ptxsim-report-{}.jsonl", std::process::id()));
    let text = path.to_string_lossy().into_owned();
    let told = in_child("the_report_has_a_line_per_launch", &[("PTXSIM_REPORT", &text)], || {
        let context = CudaContext::new(0).unwrap();
        let stream = context.default_stream();
        let f = function(&context, SCALE, "scale");
        let input = stream.clone_htod(&[1f32; 200]).unwrap();
        let mut out = stream.alloc_zeros(200).unwrap();
        scale(&stream, &f, &mut out, &input, 2.0, 200);
        scale(&stream, &f, &mut out, &input, 2.0, 64);
        stream.synchronize().unwrap();
    });
    if told.is_some() {
        let report = std::fs::read_to_string(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let lines: Vec<serde_json::Value> =
            report.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(
            (&lines[0]["global_load_bytes"], &lines[0]["global_load_sectors"]),
            (&800.into(), &25.into())
        );
        assert_eq!((&lines[1]["global_store_bytes"], &lines[1]["kernel"]), (&256.into(), &"scale".into()));
    }
}

#[test]
fn launches_are_recorded_once_each_and_failures_always() {
    let folder = std::env::temp_dir().join(format!("ptxsim-record-{}", std::process::id()));
    let text = folder.to_string_lossy().into_owned();
    let told =
        in_child("launches_are_recorded_once_each_and_failures_always", &[("PTXSIM_RECORD", &text)], || {
            let context = CudaContext::new(0).unwrap();
            let stream = context.default_stream();
            let f = function(&context, SCALE, "scale");
            let input = stream.clone_htod(&[1f32; 200]).unwrap();
            let mut out = stream.alloc_zeros(200).unwrap();
            // The same configuration twice, then a launch that fails.
            for factor in [2.0, 3.0] {
                scale(&stream, &f, &mut out, &input, factor, 200);
            }
            stream.synchronize().unwrap();
            scale(&stream, &f, &mut out, &input, 4.0, 201);
            assert!(stream.synchronize().is_err());
        });
    if told.is_some() {
        let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        let [first, failed] = &files[..] else { panic!("{files:?}") };
        assert!(first.ends_with("scale-0.launch"), "{first:?}");
        let replay = |path| {
            let recording = ptxsim::Recording::load(path).unwrap();
            (recording.failed(), recording.replay(ptxsim::Options::default()))
        };
        let (first, failed) = (replay(first), replay(failed));
        std::fs::remove_dir_all(&folder).unwrap();
        let replay = first.1.unwrap();
        assert_eq!((first.0, replay.difference, replay.counters.global_store_bytes), (false, None, 800));
        let Err(error) = failed.1 else { panic!("the failure does not fail again") };
        assert!(failed.0 && error.to_string().contains("OutOfBounds in kernel `scale`"), "{error}");
    }
}

#[test]
fn an_unknown_instruction_spoils_its_own_kernel_only() {
    let told = in_child("an_unknown_instruction_spoils_its_own_kernel_only", &[], || {
        let context = CudaContext::new(0).unwrap();
        let text = ".version 8.0\n.target sm_80\n.address_size 64\n\
                    .visible .entry good() { ret; }\n\
                    .visible .entry bad() { .reg .b32 %r<2>;\n frobnicate.u32 %r0, %r1;\n ret; }\n";
        let module = context.load_module(Ptx::from_src(text)).unwrap();
        let good = module.load_function("good").unwrap();
        let stream = context.default_stream();
        // SAFETY: the kernel does nothing.
        unsafe { stream.launch_builder(&good).launch(shape(1, 1)) }.unwrap();
        stream.synchronize().unwrap();
        let DriverError(code) = module.load_function("bad").map(|_| ()).unwrap_err();
        assert_eq!(code, CUresult::CUDA_ERROR_NOT_SUPPORTED);
    });
    if let Some(told) = told {
        assert!(told.contains("PTX line 6") && told.contains("frobnicate.u32"), "{told}");
    }
}

/// Copies and frees run as ever; a launch that is wrong is told, and one that would fault is not.
#[test]
fn kernels_run_unless_the_environment_says_not() {
    let name = "kernels_run_unless_the_environment_says_not";
    for asked in ["1", "0", "2", ""] {
        let Some(told) = in_child(name, &[("PTXSIM_KERNELS", asked)], || {
            let asked = std::env::var("PTXSIM_KERNELS").unwrap();
            if !matches!(&*asked, "0" | "1") {
                // SAFETY: no argument but flags.
                assert_eq!(unsafe { sys::cuInit(0) }, CUresult::CUDA_ERROR_INVALID_DEVICE);
                return;
            }
            let context = CudaContext::new(0).unwrap();
            let stream = context.default_stream();
            let f = function(&context, SCALE, "scale");
            let input = stream.clone_htod(&[2.0f32; 256]).unwrap();
            let mut out = stream.clone_htod(&[1.0f32; 256]).unwrap();
            scale(&stream, &f, &mut out, &input, 3.0, 256);
            let want = if asked == "1" { 6.0 } else { 1.0 };
            assert!(stream.clone_dtoh(&out).unwrap() == [want; 256]);
            let free = context.mem_get_info().unwrap().0;
            drop(input);
            stream.synchronize().unwrap();
            assert_eq!(context.mem_get_info().unwrap().0, free + 1024);
            // SAFETY: it is refused.
            let refused = unsafe { stream.launch_builder(&f).arg(&out).launch(shape(4, 2048)) };
            assert_eq!(refused.map(drop), Err(DriverError(CUresult::CUDA_ERROR_INVALID_VALUE)));
            if asked == "0" {
                scale(&stream, &f, &mut out.clone(), &out, 3.0, 1 << 20);
                stream.synchronize().unwrap();
            }
        }) else {
            return;
        };
        let refused = told.contains(&format!("PTXSIM_KERNELS={asked}, allowed: 0, 1"));
        assert_eq!(refused, !matches!(asked, "0" | "1"), "{asked}: {told}");
    }
}
