//! The conformance kit's runner, through the plain driver API of whatever libcuda it is given.
//!
//! `cargo test -p ptxsim-driver --test conformance` runs it on virtual cards, and compares results with what the host
//! works out and with the goldens that are there. With `PTXSIM_CONFORMANCE=card` it runs on the machine's own driver
//! and writes goldens.

mod encodings;
mod programs;
#[path = "../driver/tests/support/mod.rs"]
mod support;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::{self, CUresult, CUtensorMapDataType as DataType, CUtensorMapSwizzle as Swizzle};
use programs::{Compare, Element, Input, Program, Target, Tensor};
use std::ffi::{CString, c_void};
use std::path::{Path, PathBuf};
use std::ptr::null_mut;

/// Rounds of operands per program, where they are random.
const ROUNDS: u64 = 4;

/// Where a program's results are kept: `PTXSIM_GOLDENS`, or this folder's goldens/.
fn golden(name: &str) -> PathBuf {
    let own = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../conformance/goldens");
    let file = format!("{}.bin", name.replace("::", "-"));
    std::env::var_os("PTXSIM_GOLDENS").map_or_else(own, PathBuf::from).join(file)
}

fn check(code: CUresult) -> Result<(), CUresult> {
    if code == CUresult::CUDA_SUCCESS { Ok(()) } else { Err(code) }
}

/// Loads a program and gives its kernel.
fn load(program: &Program) -> Result<sys::CUfunction, CUresult> {
    let text = CString::new(program.ptx.as_str()).expect("no NUL in a program");
    let (mut module, mut function) = (null_mut(), null_mut());
    // SAFETY: valid pointers to live values; the module lives to the end of the process.
    unsafe {
        check(sys::cuModuleLoadData(&mut module, text.as_ptr().cast()))?;
        check(sys::cuModuleGetFunction(&mut function, module, c"k".as_ptr()))?;
    }
    Ok(function)
}

/// The map of a tensor that starts at `address`.
fn encode(tensor: &Tensor, address: u64) -> Result<sys::CUtensorMap, CUresult> {
    let data_type = match tensor.element {
        Element::U8 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
        Element::U16 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT16,
        Element::U32 => DataType::CU_TENSOR_MAP_DATA_TYPE_UINT32,
        Element::F16 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
        Element::F32 => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32,
        Element::Bf16 => DataType::CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
        Element::F32Ftz => DataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT32_FTZ,
        Element::Tf32 => DataType::CU_TENSOR_MAP_DATA_TYPE_TFLOAT32,
        Element::Tf32Ftz => DataType::CU_TENSOR_MAP_DATA_TYPE_TFLOAT32_FTZ,
    };
    let swizzle = match tensor.swizzle {
        0 => Swizzle::CU_TENSOR_MAP_SWIZZLE_NONE,
        1 => Swizzle::CU_TENSOR_MAP_SWIZZLE_32B,
        2 => Swizzle::CU_TENSOR_MAP_SWIZZLE_64B,
        _ => Swizzle::CU_TENSOR_MAP_SWIZZLE_128B,
    };
    let fill = match tensor.fills_nan {
        true => sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NAN_REQUEST_ZERO_FMA,
        false => sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
    };
    let rank = tensor.dimensions.len();
    let row = |d: usize| tensor.dimensions[..=d].iter().product::<u64>() * tensor.element.bytes() as u64;
    // One more than the driver reads, so that a tensor of one dimension has a pointer, too.
    let strides: Vec<u64> = (0..rank).map(row).collect();
    assert!(tensor.box_size.len() == rank && tensor.steps.len() == rank);
    // SAFETY: all-zero bytes are a valid, if meaningless, map: it is 16 integers.
    let mut map: sys::CUtensorMap = unsafe { std::mem::zeroed() };
    // SAFETY: valid pointers to live values: `rank` elements of each array, as asserted; the address is not read.
    check(unsafe {
        sys::cuTensorMapEncodeTiled(
            &mut map,
            data_type,
            rank as u32,
            address as *mut c_void,
            tensor.dimensions.as_ptr(),
            strides.as_ptr(),
            tensor.box_size.as_ptr(),
            tensor.steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            swizzle,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_NONE,
            fill,
        )
    })?;
    Ok(map)
}

/// Device memory that holds these words.
fn upload(words: &[u32]) -> Result<u64, CUresult> {
    let mut at = 0;
    // SAFETY: a valid pointer, then as many bytes as the words have at the address that was just allocated.
    unsafe {
        check(sys::cuMemAlloc_v2(&mut at, 4 * words.len()))?;
        check(sys::cuMemcpyHtoD_v2(at, words.as_ptr().cast(), 4 * words.len()))?;
    }
    Ok(at)
}

fn launch(
    function: sys::CUfunction,
    program: &Program,
    values: &mut [*mut c_void; 3],
) -> Result<(), CUresult> {
    // SAFETY: all-zero bytes are a valid launch attribute.
    let mut cluster: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    cluster.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    cluster.value.clusterDim.x = program.cluster as u32;
    cluster.value.clusterDim.y = 1;
    cluster.value.clusterDim.z = 1;
    let config = sys::CUlaunchConfig {
        gridDimX: program.cluster as u32,
        gridDimY: 1,
        gridDimZ: 1,
        blockDimX: program.threads as u32,
        blockDimY: 1,
        blockDimZ: 1,
        sharedMemBytes: 0,
        hStream: null_mut(),
        attrs: &mut cluster,
        numAttrs: u32::from(program.cluster > 1),
    };
    // SAFETY: valid pointers to live values. The kernel takes two addresses and perhaps a map, the types of the three
    // values; what they point at stays until the results are copied, which waits for the kernel.
    check(unsafe { sys::cuLaunchKernelEx(&config, function, values.as_mut_ptr(), null_mut()) })
}

/// Runs a kernel on one input and gives its results.
fn run(function: sys::CUfunction, program: &Program, input: &[u32]) -> Result<Vec<u8>, CUresult> {
    let mut results = vec![0u8; 4 * program.results.len()];
    let (mut to, mut from) = (upload(&program.results)?, upload(input)?);
    let address = |tensor: &Tensor| if tensor.of_results { to } else { from };
    // SAFETY: all-zero bytes are a valid, if meaningless, map: it is 16 integers.
    let none = || Ok(unsafe { std::mem::zeroed() });
    let mut map = program.tensor.as_ref().map_or_else(none, |tensor| encode(tensor, address(tensor)))?;
    let mut values =
        [(&raw mut to).cast::<c_void>(), (&raw mut from).cast::<c_void>(), (&raw mut map).cast::<c_void>()];
    launch(function, program, &mut values)?;
    // SAFETY: the results have as many bytes on both sides; both addresses were allocated and are freed once, after
    // the copy has waited for the kernel.
    unsafe {
        check(sys::cuMemcpyDtoH_v2(results.as_mut_ptr().cast(), to, results.len()))?;
        check(sys::cuMemFree_v2(to))?;
        check(sys::cuMemFree_v2(from))?;
    }
    Ok(results)
}

/// The results of all rounds.
fn all_rounds(function: sys::CUfunction, program: &Program) -> Result<Vec<u8>, CUresult> {
    let angles = match &program.input {
        Input::Words(words) => return run(function, program, words),
        Input::Operands => false,
        Input::Angles => true,
    };
    let mut bytes = Vec::new();
    for round in 0..ROUNDS {
        let operands = programs::operands(round, angles);
        let words: Vec<u32> = operands.iter().flat_map(|x| [*x as u32, (*x >> 32) as u32]).collect();
        bytes.extend(run(function, program, &words)?);
    }
    Ok(bytes)
}

/// What differs between results and a card's, or what the host expects; nothing if they agree.
fn difference(compare: Compare, got: &[u8], want: &[u8]) -> Option<String> {
    if got.len() != want.len() {
        return Some(format!("{} bytes of results for {}", got.len(), want.len()));
    }
    let (unit, near) = match compare {
        Compare::Exact => (4, None),
        Compare::Near { half, ulps, relative, absolute } => (8, Some((half, ulps, relative, absolute))),
    };
    let word = |part: &[u8]| part.iter().rev().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
    let agree = |got: u64, want: u64| {
        let Some((half, ulps, relative, absolute)) = near else { return got == want };
        let value = |bits: u64| {
            if half { programs::f16_value(bits as u16) } else { f32::from_bits(bits as u32).into() }
        };
        let (x, y): (f64, f64) = (value(got), value(want));
        let ulp = if half { ulp(y, 10, -14) } else { ulp(y, 23, -126) };
        let close =
            || x.is_finite() && y.is_finite() && (x - y).abs() <= ulps * ulp + relative * y.abs() + absolute;
        got == want || x.is_nan() && y.is_nan() || close()
    };
    let words = || got.chunks(unit).zip(want.chunks(unit)).map(|(got, want)| (word(got), word(want)));
    let wrong = words().filter(|(got, want)| !agree(*got, *want)).count();
    let (i, (first, wanted)) = words().enumerate().find(|(_, (got, want))| !agree(*got, *want))?;
    Some(format!("{wrong} of {} words, first word {i}: {first:#x} for {wanted:#x}", words().count()))
}

/// Distance of neighbours at `x`: of numbers with `bits` of fraction and normal ones from 2^`least` on.
fn ulp(x: f64, bits: i32, least: i32) -> f64 {
    let exponent = if x == 0.0 || !x.is_finite() { least } else { x.abs().log2().floor() as i32 };
    2f64.powi(exponent.max(least) - bits)
}

fn kit(on_card: bool) {
    let context = CudaContext::new(0).expect("a driver and a card");
    let (major, minor) = context.compute_capability().expect("the card's compute capability");
    let programs = programs::all();
    // A card is asked all of it before the first failure is told: its time is scarce.
    let mut failures = Vec::new();
    let (mut ran, mut compared, mut known, mut observed) = (0, 0, 0, 0);
    for program in &programs {
        // Code for sm_90a runs on 9.0 and on nothing else.
        if program.target == Target::Sm90a && (major, minor) != (9, 0) {
            continue;
        }
        ran += 1;
        let mut fail = |what: String| failures.push(format!("{}: {what}", program.name));
        let bytes = match load(program).and_then(|function| all_rounds(function, program)) {
            Ok(bytes) => bytes,
            Err(code) => {
                fail(format!("{code:?}\n{}", program.ptx));
                continue;
            }
        };
        if let Some(expected) = &program.expected {
            let expected: Vec<u8> = expected.iter().flat_map(|word| word.to_le_bytes()).collect();
            if let Some(what) = difference(program.compare, &bytes, &expected) {
                fail(format!("not what the host works out: {what}"));
            }
            known += 1;
        }
        let path = golden(&program.name);
        if let Some(observation) = &program.observation {
            let tell = |bytes: &[u8]| (observation.tell)(&programs::words_of(bytes));
            let told = tell(&bytes);
            eprintln!("observes: {}: {told}", program.name);
            if !on_card && told != observation.of_virtual_card {
                fail(format!("ptxsim is known to have: {}, but shows: {told}", observation.of_virtual_card));
            }
            observed += 1;
        }
        if on_card {
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("the folder of the goldens");
            std::fs::write(&path, bytes).expect("a golden");
        } else if let Ok(golden) = std::fs::read(&path) {
            if let Some(observation) = &program.observation {
                let told = (observation.tell)(&programs::words_of(&golden));
                eprintln!("observed on a card: {}: {told}", program.name);
            } else {
                compared += 1;
                if let Some(what) = difference(program.compare, &bytes, &golden) {
                    fail(format!("not what the card wrote: {what}"));
                }
            }
        }
    }
    if major >= 9 {
        let differences = upload(&[0; 64]).map(encodings::differences).expect("memory");
        for what in &differences {
            eprintln!("observes: cuTensorMapEncodeTiled: {what}");
        }
        if !on_card {
            failures.extend(differences);
        }
    }
    assert!(failures.is_empty(), "{} of {ran}:\n{}", failures.len(), failures.join("\n"));
    eprintln!(
        "conformance: {major}.{minor} ran {ran} programs and skipped {}; {known} compared with the host's results, \
         {compared} with a card's; {observed} observed",
        programs.len() - ran
    );
}

/// Runs the kit on a virtual card, as test `name`.
fn on_virtual_card(name: &str, card: &str) {
    let told = support::in_child(name, &[("PTXSIM_DEVICE", card)], || kit(false));
    let telling = |line: &&str| ["conformance:", "observe"].iter().any(|start| line.starts_with(start));
    told.iter().flat_map(|told| told.lines()).filter(telling).for_each(|line| println!("{line}"));
}

/// With `PTXSIM_MMA=truncate` every sum names the model that the card truncates by.
#[test]
fn truncating_sums_are_told() {
    if wants_card() {
        return;
    }
    for (card, number) in [("a100", 0), ("h200", 1)] {
        let environment = [("PTXSIM_DEVICE", card), ("PTXSIM_MMA", "truncate")];
        let told = support::in_child("truncating_sums_are_told", &environment, || {
            let context = CudaContext::new(0).expect("a driver and a card");
            let is_90 = context.compute_capability().expect("its compute capability") == (9, 0);
            let number = usize::from(is_90);
            for program in programs::all().iter().filter(|p| is_90 || p.target == Target::Sm80) {
                let Some(observation) = &program.observation else { continue };
                let Some(wanted) = &observation.of_truncating else { continue };
                let bytes = load(program).and_then(|function| all_rounds(function, program));
                let bytes = bytes.unwrap_or_else(|code| panic!("{}: {code:?}", program.name));
                let told = (observation.tell)(&programs::words_of(&bytes));
                assert!(
                    told.starts_with(&wanted[number]),
                    "{}: {told}, not {}",
                    program.name,
                    wanted[number]
                );
                eprintln!("truncates: {}: {told}", program.name);
            }
        });
        // The child ends here.
        let Some(told) = told else { return };
        let sums = told.lines().filter(|line| line.starts_with("truncates: ")).count();
        assert_eq!(sums, [8, 17][number], "{told}");
    }
}

fn wants_card() -> bool {
    std::env::var("PTXSIM_CONFORMANCE").as_deref() == Ok("card")
}

#[test]
fn conformance() {
    if wants_card() {
        return kit(true);
    }
    on_virtual_card("conformance", "h200");
}

#[test]
fn conformance_of_8_0() {
    if !wants_card() {
        on_virtual_card("conformance_of_8_0", "a100");
    }
}

/// Goldens go by their program's name, and ptxas is given the texts (`PTX_DUMP=folder`, `sm_80` or `sm_90a` first).
#[test]
fn names_are_unique() {
    let programs = programs::all();
    let names: std::collections::HashSet<PathBuf> =
        programs.iter().map(|program| golden(&program.name)).collect();
    assert_eq!(names.len(), programs.len());
    if let Some(folder) = std::env::var_os("PTX_DUMP").map(PathBuf::from) {
        for program in &programs {
            let file = format!("{:?}.{}.ptx", program.target, program.name.replace("::", "-")).to_lowercase();
            std::fs::write(folder.join(file), &program.ptx).expect("a program's text");
        }
    }
}

/// Approximations may be off by what is stated and no more; nothing else may be off at all.
#[test]
fn differences_are_told() {
    let near = Compare::Near { half: false, ulps: 1.0, relative: 0.0, absolute: 0.0 };
    let wide = |x: u32| u64::from(x).to_le_bytes();
    let one = 1f32.to_bits();
    assert!(difference(Compare::Exact, &wide(one), &wide(one)).is_none());
    assert!(difference(Compare::Exact, &wide(one), &wide(one + 1)).is_some());
    assert!(difference(near, &wide(one), &wide(one + 1)).is_none());
    assert!(difference(near, &wide(one), &wide(one + 2)).is_some());
    assert!(difference(near, &wide(0x7fff_ffff), &wide(0x7fc0_0000)).is_none(), "both are NaN");
    assert!(difference(near, &wide(0x7f80_0000), &wide(0x7fc0_0000)).is_some(), "one is infinite");
    assert!(difference(near, &wide(one), &[]).is_some());
    let near = Compare::Near { half: true, ulps: 0.0, relative: 0.1, absolute: 0.001 };
    assert!(difference(near, &wide(0x7c00), &wide(0xfc00)).is_some(), "infinities of both signs");
    assert!(difference(near, &wide(0x3c00), &wide(0x7c00)).is_some(), "infinite for finite");
    let near = Compare::Near { half: true, ulps: 0.0, relative: 0.0, absolute: 0.001 };
    assert!(difference(near, &wide(0x3c01), &wide(0x3c00)).is_none());
    assert!(difference(near, &wide(0x3c02), &wide(0x3c00)).is_some());
}

/// The operands hold corners and differ by round, so that a golden is more than one value.
#[test]
fn operands_differ_and_repeat() {
    let operands = |round| programs::operands(round, false);
    let first = operands(0);
    assert_eq!(first, operands(0));
    assert_ne!(first, operands(1));
    let corners = (0..ROUNDS).flat_map(operands).filter(|value| *value == 0x7fc0_0000).count();
    assert!(corners > 0, "NaN is among them");
    let angles = programs::operands(0, true);
    assert!(angles.iter().step_by(3).all(|x| f32::from_bits(*x as u32).abs() <= std::f32::consts::TAU));
}
