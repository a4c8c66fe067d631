//! Programmatic dependent launches and clusters by cuLaunchKernelEx: in streams and in captured graphs.

mod support;

use cudarc::driver::sys::{self, CUresult, CUstreamCaptureMode as Mode};
use cudarc::driver::{CudaContext, CudaStream};
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;
use support::in_child;

/// `double` doubles 64 words of the one buffer into the other after `griddepcontrol.wait`, `early` before.
/// `ranks` stores each block's rank in its cluster.
fn ptx() -> String {
    let double = |name: &str, before: &str, after: &str| {
        format!(
            ".visible .entry {name}(.param .u64 from, .param .u64 to) {{\n.reg .b64 %a<4>;\n.reg .b32 %r<3>;\n\
             ld.param.u64 %a0, [from];\nld.param.u64 %a1, [to];\nmov.u32 %r0, %tid.x;\nmul.wide.u32 %a2, %r0, 4;\n\
             add.s64 %a0, %a0, %a2;\nadd.s64 %a1, %a1, %a2;\n{before}ld.global.u32 %r1, [%a0];\n{after}\
             griddepcontrol.launch_dependents;\nadd.u32 %r1, %r1, %r1;\nst.global.u32 [%a1], %r1;\nret;\n}}\n"
        )
    };
    let wait = "griddepcontrol.wait;\n";
    ".version 8.0\n.target sm_90\n.address_size 64\n".to_owned()
        + &double("double", wait, "")
        + &double("early", "", wait)
        + ".visible .entry ranks(.param .u64 from, .param .u64 to) {\n.reg .b64 %a<4>;\n.reg .b32 %r<3>;\n\
           ld.param.u64 %a1, [to];\nmov.u32 %r0, %ctaid.x;\nmul.wide.u32 %a2, %r0, 4;\nadd.s64 %a1, %a1, %a2;\n\
           mov.u32 %r1, %cluster_ctarank;\nst.global.u32 [%a1], %r1;\nret;\n}\n"
}

struct Kernels {
    stream: Arc<CudaStream>,
    module: sys::CUmodule,
}

impl Kernels {
    fn new() -> Self {
        let context = CudaContext::new(0).unwrap();
        // SAFETY: one stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream().unwrap();
        let text = std::ffi::CString::new(ptx()).unwrap();
        let mut module = null_mut();
        // SAFETY: valid pointers to live values.
        unsafe { sys::cuModuleLoadData(&mut module, text.as_ptr().cast()).result().unwrap() };
        Self { stream, module }
    }

    /// Launches `name(from, to)` with attributes: may it overlap with the kernel before, blocks per cluster.
    fn launch(&self, name: &str, from: u64, to: u64, overlaps: bool, cluster: u32) {
        let name = std::ffi::CString::new(name).unwrap();
        let mut function = null_mut();
        // SAFETY: all-zero bytes are a valid launch attribute.
        let mut attributes: [sys::CUlaunchAttribute; 2] = unsafe { std::mem::zeroed() };
        attributes[0].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION;
        attributes[0].value.programmaticStreamSerializationAllowed = overlaps.into();
        attributes[1].id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        attributes[1].value.clusterDim.x = cluster;
        attributes[1].value.clusterDim.y = 1;
        attributes[1].value.clusterDim.z = 1;
        let config = sys::CUlaunchConfig {
            gridDimX: cluster,
            gridDimY: 1,
            gridDimZ: 1,
            blockDimX: 64,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: 0,
            hStream: self.stream.cu_stream(),
            attrs: attributes.as_mut_ptr(),
            numAttrs: 2,
        };
        let (mut from, mut to) = (from, to);
        let mut values = [(&raw mut from).cast::<c_void>(), (&raw mut to).cast()];
        // SAFETY: valid pointers to live values; the kernels touch 64 words of each buffer.
        unsafe {
            sys::cuModuleGetFunction(&mut function, self.module, name.as_ptr()).result().unwrap();
            sys::cuLaunchKernelEx(&config, function, values.as_mut_ptr(), null_mut()).result().unwrap();
        }
    }

    fn buffer(&self, value: u32) -> u64 {
        let mut at = 0;
        // SAFETY: a valid pointer, then 64 words at the address that was just allocated.
        unsafe {
            sys::cuMemAlloc_v2(&mut at, 256).result().unwrap();
            sys::cuMemsetD32Async(at, value, 64, self.stream.cu_stream()).result().unwrap();
        }
        at
    }

    fn first_words<const N: usize>(&self, at: u64) -> Result<[u32; N], CUresult> {
        let mut words = [0u32; N];
        // SAFETY: a live buffer of 64 words, of which N are read to a live array.
        unsafe {
            sys::cuStreamSynchronize(self.stream.cu_stream()).result().map_err(|e| e.0)?;
            sys::cuMemcpyDtoH_v2(words.as_mut_ptr().cast(), at, 4 * N).result().map_err(|e| e.0)?;
        }
        Ok(words)
    }
}

/// What `queue` leaves in its last buffer, where the second kernel is `second`; and stderr.
fn chain(test: &str, second: &'static str, queue: fn(&Kernels, &str, [u64; 3]), works: bool) {
    let told = in_child(test, &[("PTXSIM_DEVICE", "h200"), ("SECOND", second)], || {
        let second = std::env::var("SECOND").unwrap();
        let kernels = Kernels::new();
        let buffers = [kernels.buffer(3), kernels.buffer(0), kernels.buffer(0)];
        queue(&kernels, &second, buffers);
        let got = kernels.first_words::<2>(buffers[2]);
        match second.as_str() {
            "double" => assert_eq!(got, Ok([12, 12])),
            _ if got.is_ok() => eprintln!("went through"),
            _ => assert_eq!(got, Err(CUresult::CUDA_ERROR_LAUNCH_FAILED)),
        }
    });
    if let Some(told) = told {
        let blamed = told.contains("LaunchPending") && told.contains("griddepcontrol.wait comes first");
        assert_eq!(blamed, !works, "{second}: {told}");
    }
}

#[test]
fn a_kernel_that_may_start_early_waits_before_it_reads() {
    for (second, works) in [("double", true), ("early", false)] {
        chain(
            "a_kernel_that_may_start_early_waits_before_it_reads",
            second,
            |kernels, second, [a, b, c]| {
                kernels.launch("double", a, b, false, 1);
                kernels.launch(second, b, c, true, 1);
            },
            works,
        );
    }
}

#[test]
fn without_the_attribute_or_with_work_between_nothing_overlaps() {
    chain(
        "without_the_attribute_or_with_work_between_nothing_overlaps",
        "early",
        |kernels, second, [a, b, c]| {
            kernels.launch("double", a, b, false, 1);
            kernels.launch(second, b, c, false, 1);
            kernels.launch("double", a, b, false, 1);
            // SAFETY: a live buffer of 64 words.
            unsafe { sys::cuMemsetD32Async(c, 0, 64, kernels.stream.cu_stream()).result().unwrap() };
            kernels.launch(second, b, c, true, 1);
        },
        true,
    );
}

/// Captures `queue`, runs the graph twice.
fn replay(kernels: &Kernels, queue: impl FnOnce()) {
    // SAFETY: valid pointers to live values.
    unsafe {
        let stream = kernels.stream.cu_stream();
        sys::cuStreamSynchronize(stream).result().unwrap();
        sys::cuStreamBeginCapture_v2(stream, Mode::CU_STREAM_CAPTURE_MODE_GLOBAL).result().unwrap();
        queue();
        let (mut graph, mut executable) = (null_mut(), null_mut());
        sys::cuStreamEndCapture(stream, &mut graph).result().unwrap();
        sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0).result().unwrap();
        for _ in 0..2 {
            sys::cuGraphLaunch(executable, stream).result().unwrap();
        }
    }
}

#[test]
fn a_captured_chain_is_held_to_the_same() {
    for (second, works) in [("double", true), ("early", false)] {
        chain(
            "a_captured_chain_is_held_to_the_same",
            second,
            |kernels, second, [a, b, c]| {
                replay(kernels, || {
                    kernels.launch("double", a, b, false, 1);
                    kernels.launch(second, b, c, true, 1);
                });
            },
            works,
        );
    }
}

#[test]
fn a_captured_launch_keeps_its_cluster() {
    in_child("a_captured_launch_keeps_its_cluster", &[("PTXSIM_DEVICE", "h200")], || {
        let kernels = Kernels::new();
        let (a, b) = (kernels.buffer(0), kernels.buffer(9));
        replay(&kernels, || kernels.launch("ranks", a, b, false, 4));
        assert_eq!(kernels.first_words(b), Ok([0, 1, 2, 3, 9]));
    });
}
