//! The virtual GPU's driver: its functions in any order, with handles, addresses and sizes that fit and that do not.
//!
//! Promised: no panic, which the driver answers as CUDA_ERROR_UNKNOWN; every call ends; host memory that the driver
//! takes is bounded, whatever sizes and counts say. Host pointers are good, or run into a page that is not there, or
//! are wild: the driver probes them. Host functions are real ones, as it calls them.

use std::ffi::c_void;
use std::sync::OnceLock;

use ptxsim_driver::api::{context, copy, device, function, graph, launch, library, link, memory, module};
use ptxsim_driver::api::{occupancy, pool, stream, unified};

use crate::bytes::Bytes;

/// Most calls of a run.
const CALLS: usize = 40;
/// Bytes of the program's memory; behind them nothing is mapped.
const HOST_BYTES: usize = 64 << 10;
const PAGE: usize = 4096;

/// CUDA_ERROR_UNKNOWN.
const UNKNOWN: i32 = 999;

// Offsets in the program's memory: of results, names, structures and arrays, a kernel's parameters, images.
const OUT: usize = 0;
const NAME: usize = 256;
const WORDS: usize = 512;
const VALUES: usize = 1024;
const IMAGE: usize = PAGE;

const MODULE: &str = "\
.version 8.0
.target sm_80
.address_size 64
.global .align 4 .b8 table[16];
.visible .entry store(.param .u64 data, .param .u32 value) {
 .reg .b32 %r<4>; .reg .b64 %a<4>;
 ld.param.u64 %a0, [data]; ld.param.u32 %r0, [value];
 mov.u32 %r1, %tid.x; mul.wide.u32 %a1, %r1, 4; add.s64 %a2, %a0, %a1;
 st.global.u32 [%a2], %r0;
 ret;
}
.visible .entry nothing() { ret; }
.visible .entry traps() { trap; }
";

/// The program's memory, in front of a page that nobody may touch.
fn host() -> usize {
    static HOST: OnceLock<usize> = OnceLock::new();
    *HOST.get_or_init(|| {
        let (read_write, private) =
            (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        // SAFETY: a new mapping, at an address of the kernel's choice; its end is then made inaccessible.
        unsafe {
            let at = libc::mmap(std::ptr::null_mut(), HOST_BYTES + PAGE, libc::PROT_NONE, private, -1, 0);
            assert_ne!(at, libc::MAP_FAILED, "memory");
            assert_eq!(libc::mprotect(at, HOST_BYTES, read_write), 0, "memory to read and write");
            at as usize
        }
    })
}

/// Writes to the program's memory.
fn write(at: usize, data: &[u8]) {
    assert!(at + data.len() <= HOST_BYTES);
    // SAFETY: within the mapping of `host`, which nothing else refers to between calls.
    unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), (host() + at) as *mut u8, data.len()) }
}

/// A word of the program's memory.
fn word(at: usize) -> usize {
    // SAFETY: as above; any bits are a number.
    unsafe { ((host() + at) as *const usize).read_unaligned() }
}

unsafe extern "C" fn host_function(_: *mut c_void) {}

pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    // SAFETY: the whole mapping of `host`, which nothing else refers to between calls.
    unsafe { std::ptr::write_bytes(host() as *mut u8, 0, HOST_BYTES) };
    write(NAME, b"store\0");
    write(NAME + 16, b"table\0");
    write(NAME + 32, b"nothing\0");
    write(NAME + 48, b"traps\0");
    write(NAME + 64, b"none\0");
    assert_eq!(ptxsim_driver::api::info::cuInit(0), 0, "cuInit");
    let mut program = Program { known: vec![0, 1, 2], begun: Vec::new() };
    program.keep(context::cuDevicePrimaryCtxRetain(host() + OUT, 0), None);
    let primary = program.known[3];
    assert_eq!(context::cuCtxSetCurrent(primary), 0, "the primary context");
    for _ in 0..CALLS {
        if bytes.is_empty() {
            break;
        }
        let code = program.call(&mut bytes);
        assert_ne!(code, UNKNOWN, "CUDA_ERROR_UNKNOWN: the simulator panicked");
    }
    program.end();
}

/// What a program knows: handles and addresses that it was given, and numbers.
struct Program {
    known: Vec<usize>,
    /// What is to be ended, and by which call.
    begun: Vec<(End, usize)>,
}

type End = extern "C" fn(usize) -> i32;

extern "C" fn free(address: usize) -> i32 {
    memory::cuMemFree_v2(address as u64)
}

extern "C" fn end_capture(stream: usize) -> i32 {
    match graph::cuStreamEndCapture(stream, host() + OUT) {
        0 => graph::cuGraphDestroy(word(OUT)),
        code => code,
    }
}

/// The call that ends what call number `which` of [`Program::call`] made.
fn end_of(which: usize) -> Option<End> {
    Some(match which {
        0..=5 | 92 => free,
        24..=26 => stream::cuStreamDestroy_v2,
        36 | 37 => stream::cuEventDestroy_v2,
        47 | 48 => graph::cuGraphDestroy,
        51..=53 => graph::cuGraphExecDestroy,
        61..=64 => module::cuModuleUnload,
        81 => context::cuCtxDestroy_v2,
        87 => pool::cuMemPoolDestroy,
        89 => unified::cuMemFreeHost,
        94 => library::cuLibraryUnload,
        95 => link::cuLinkDestroy,
        _ => return None,
    })
}

impl Program {
    /// Keeps the handle or address that a call wrote, where it succeeded, and how that is ended.
    fn keep(&mut self, code: i32, end: Option<End>) -> i32 {
        if code == 0 {
            self.known.push(word(OUT));
            self.begun.extend(end.map(|end| (end, word(OUT))));
        }
        code
    }

    /// A handle or device address: one that it was given, most often the last ones, or another number.
    fn handle(&self, bytes: &mut Bytes) -> usize {
        let at = bytes.byte();
        let last = self.known.len() - 1;
        match at {
            0..192 => self.known[last - usize::from(at) % (last + 1).min(64)],
            192..224 => self.known[usize::from(at) % (last + 1)],
            224..240 => {
                self.known[last - usize::from(at) % (last + 1)].wrapping_add(usize::from(bytes.byte()) * 4)
            }
            _ => bytes.number(),
        }
    }

    /// A host pointer: memory, its end, none, or what is not mapped.
    fn pointer(&self, bytes: &mut Bytes) -> usize {
        match bytes.below(16) {
            0 => 0,
            1 => 8,
            2 => usize::MAX - 7,
            3 => host() + HOST_BYTES - usize::from(bytes.byte()),
            4 => host() + HOST_BYTES,
            _ => host() + WORDS + 8 * bytes.below(64),
        }
    }

    /// Where a result is written.
    fn out(&self, bytes: &mut Bytes) -> usize {
        if bytes.once_in(16) { self.pointer(bytes) } else { host() + OUT }
    }

    fn name(&self, bytes: &mut Bytes) -> usize {
        if bytes.once_in(8) { self.pointer(bytes) } else { host() + NAME + 16 * bytes.below(5) }
    }

    /// Bytes that a test program asks for, or more than any card has.
    fn size(&self, bytes: &mut Bytes) -> usize {
        match bytes.below(12) {
            0 => usize::MAX - bytes.below(256),
            1 => isize::MAX as usize,
            2 => 1 << 40,
            3 => 200 << 30,
            4 => 1 << 20,
            5 => PAGE,
            6 => 0,
            _ => 4 * bytes.below(256),
        }
    }

    fn dimension(&self, bytes: &mut Bytes) -> u32 {
        if bytes.once_in(8) { bytes.one_of(&[0, 0x8000_0000, u32::MAX]) } else { 1 + bytes.below(3) as u32 }
    }

    fn flags(&self, bytes: &mut Bytes) -> u32 {
        if bytes.once_in(8) { bytes.number() as u32 } else { bytes.below(4) as u32 }
    }

    /// An image at `IMAGE`: text, whole or cut; a container, whole or damaged.
    fn image(&self, bytes: &mut Bytes) -> usize {
        let text = MODULE.as_bytes();
        let mut image = match bytes.below(4) {
            0 => text[..(bytes.below(256) * 3).min(text.len())].to_vec(),
            1 | 2 => text.to_vec(),
            _ => {
                let mut header = vec![0u8; 16 + 64];
                header[..8].copy_from_slice(&[0x50, 0xed, 0x55, 0xba, 1, 0, 16, 0]);
                header[8..16].copy_from_slice(&(64 + text.len() as u64).to_le_bytes());
                header[16] = 1;
                header[20] = 64;
                header[24..32].copy_from_slice(&(text.len() as u64).to_le_bytes());
                header[44] = 80;
                for _ in 0..bytes.below(4) {
                    header[4 + bytes.below(76)] = bytes.byte();
                }
                [header, text.to_vec()].concat()
            }
        };
        image.push(0);
        write(IMAGE, &image);
        host() + IMAGE
    }

    /// Pointers to a kernel's parameters: an address and a number.
    fn values(&self, bytes: &mut Bytes) -> usize {
        let (address, number) = (self.handle(bytes), usize::from(bytes.byte()));
        for (at, value) in [address, number].into_iter().enumerate() {
            write(VALUES + 64 + 8 * at, &value.to_le_bytes());
            write(VALUES + 8 * at, &(host() + VALUES + 64 + 8 * at).to_le_bytes());
        }
        if bytes.once_in(16) { self.pointer(bytes) } else { host() + VALUES }
    }

    /// A launch's CUlaunchConfig, at `WORDS`.
    fn config(&self, bytes: &mut Bytes) -> usize {
        let mut words: Vec<u32> = (0..6).map(|_| self.dimension(bytes)).collect();
        words.extend([self.flags(bytes), 0]);
        let stream = self.handle(bytes);
        let attributes = if bytes.once_in(8) { self.pointer(bytes) } else { host() + WORDS + 64 };
        for long in [stream, attributes] {
            words.extend([long as u32, (long >> 32) as u32]);
        }
        words.push(if bytes.once_in(16) { bytes.number() as u32 } else { bytes.below(3) as u32 });
        let data: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        write(WORDS, &data);
        for at in 0..2 {
            write(WORDS + 64 + 72 * at, &u32::from(bytes.byte() % 20).to_le_bytes());
            write(WORDS + 72 + 72 * at, &[bytes.byte() % 3, 0, 0, 0, bytes.byte() % 3, 0, 0, 0, 1]);
        }
        if bytes.once_in(16) { self.pointer(bytes) } else { host() + WORDS }
    }

    /// One call. Those that make something leave it at `OUT`, to be kept; all others return at once.
    fn call(&mut self, b: &mut Bytes) -> i32 {
        let which = b.below(96);
        let code = match which {
            0 | 1 => memory::cuMemAlloc_v2(self.out(b), self.size(b)),
            2 => {
                // A few rows, or so many that the product overflows: between lie sizes that the card has and no test
                // asks for.
                let (out, pitch, width) = (self.out(b), self.pointer(b), self.size(b));
                let height = if b.once_in(4) { usize::MAX } else { b.below(8) };
                memory::cuMemAllocPitch_v2(out, pitch, width, height, self.flags(b).wrapping_mul(4))
            }
            3 => return memory::cuMemFree_v2(self.handle(b) as u64),
            4 => memory::cuMemAllocAsync(self.out(b), self.size(b), self.handle(b)),
            5 => memory::cuMemAllocFromPoolAsync(self.out(b), self.size(b), self.handle(b), self.handle(b)),
            6 => return memory::cuMemFreeAsync(self.handle(b) as u64, self.handle(b)),
            7 => return memory::cuMemGetInfo_v2(self.pointer(b), self.pointer(b)),
            8 => {
                return memory::cuMemGetAddressRange_v2(
                    self.pointer(b),
                    self.pointer(b),
                    self.handle(b) as u64,
                );
            }
            9 => return memory::cuMemsetD8_v2(self.handle(b) as u64, b.byte(), self.size(b)),
            10 => return memory::cuMemsetD16_v2(self.handle(b) as u64, 7, self.size(b)),
            11 => return memory::cuMemsetD32Async(self.handle(b) as u64, 7, self.size(b), self.handle(b)),
            12 => {
                return memory::cuMemsetD2D8_v2(
                    self.handle(b) as u64,
                    self.size(b),
                    7,
                    self.size(b),
                    self.size(b),
                );
            }
            13 => {
                return memory::cuMemsetD2D32_v2(
                    self.handle(b) as u64,
                    self.size(b),
                    7,
                    self.size(b),
                    self.size(b),
                );
            }
            14 | 15 => return copy::cuMemcpyHtoD_v2(self.handle(b) as u64, self.pointer(b), self.size(b)),
            16 => return copy::cuMemcpyDtoH_v2(self.pointer(b), self.handle(b) as u64, self.size(b)),
            17 => return copy::cuMemcpyDtoD_v2(self.handle(b) as u64, self.handle(b) as u64, self.size(b)),
            18 => {
                return copy::cuMemcpyHtoDAsync_v2(
                    self.handle(b) as u64,
                    self.pointer(b),
                    self.size(b),
                    self.handle(b),
                );
            }
            19 => {
                return copy::cuMemcpyDtoHAsync_v2(
                    self.pointer(b),
                    self.handle(b) as u64,
                    self.size(b),
                    self.handle(b),
                );
            }
            20 => {
                return copy::cuMemcpyDtoDAsync_v2(
                    self.handle(b) as u64,
                    self.handle(b) as u64,
                    self.size(b),
                    self.handle(b),
                );
            }
            21 => return copy::cuMemcpy(self.handle(b) as u64, self.pointer(b) as u64, self.size(b)),
            22 => {
                return copy::cuMemcpyAsync(
                    self.pointer(b) as u64,
                    self.handle(b) as u64,
                    self.size(b),
                    self.handle(b),
                );
            }
            23 => {
                let (to, from) =
                    ((self.handle(b) as u64, self.handle(b)), (self.handle(b) as u64, self.handle(b)));
                return copy::cuMemcpyPeer(to.0, to.1, from.0, from.1, self.size(b));
            }
            24 | 25 => stream::cuStreamCreate(self.out(b), self.flags(b)),
            26 => stream::cuStreamCreateWithPriority(self.out(b), self.flags(b), self.flags(b) as i32),
            27 => return stream::cuStreamDestroy_v2(self.handle(b)),
            28 => return stream::cuStreamGetFlags(self.handle(b), self.pointer(b)),
            29 => return stream::cuStreamGetPriority(self.handle(b), self.pointer(b)),
            30 => return stream::cuStreamGetId(self.handle(b), self.pointer(b)),
            31 => return stream::cuStreamGetCtx(self.handle(b), self.pointer(b)),
            32 => return stream::cuStreamSynchronize(self.handle(b)),
            33 => return stream::cuStreamQuery(self.handle(b)),
            34 => return stream::cuStreamWaitEvent(self.handle(b), self.handle(b), self.flags(b)),
            35 => {
                let function = if b.once_in(8) { 0 } else { host_function as *const () as usize };
                return stream::cuLaunchHostFunc(self.handle(b), function, 0);
            }
            36 | 37 => stream::cuEventCreate(self.out(b), self.flags(b)),
            38 => return stream::cuEventDestroy_v2(self.handle(b)),
            39 | 40 => return stream::cuEventRecord(self.handle(b), self.handle(b)),
            41 => return stream::cuEventRecordWithFlags(self.handle(b), self.handle(b), self.flags(b)),
            42 => return stream::cuEventSynchronize(self.handle(b)),
            43 => return stream::cuEventQuery(self.handle(b)),
            44 => return stream::cuEventElapsedTime(self.pointer(b), self.handle(b), self.handle(b)),
            45 | 46 => {
                let stream = self.handle(b);
                let code = graph::cuStreamBeginCapture_v2(stream, self.flags(b) as i32);
                self.begun.extend((code == 0).then_some((end_capture as End, stream)));
                return code;
            }
            47 | 48 => graph::cuStreamEndCapture(self.handle(b), self.out(b)),
            49 => return graph::cuStreamIsCapturing(self.handle(b), self.pointer(b)),
            50 => {
                let stream = self.handle(b);
                let [status, id, of, nodes, count] = std::array::from_fn(|_| self.pointer(b));
                return graph::cuStreamGetCaptureInfo_v2(stream, status, id, of, nodes, count);
            }
            51 | 52 => {
                graph::cuGraphInstantiateWithFlags(self.out(b), self.handle(b), u64::from(self.flags(b)))
            }
            53 => graph::cuGraphInstantiateWithParams(self.out(b), self.handle(b), self.pointer(b)),
            54 => return graph::cuGraphExecGetFlags(self.handle(b), self.pointer(b)),
            55 | 56 => return graph::cuGraphLaunch(self.handle(b), self.handle(b)),
            57 => return graph::cuGraphExecDestroy(self.handle(b)),
            58 => return graph::cuGraphDestroy(self.handle(b)),
            59 => {
                write(WORDS, &b.number().to_le_bytes());
                return graph::cuGraphGetNodes(self.handle(b), self.pointer(b), host() + WORDS);
            }
            60 => {
                write(WORDS, &b.number().to_le_bytes());
                return graph::cuGraphGetEdges(
                    self.handle(b),
                    self.pointer(b),
                    self.pointer(b),
                    host() + WORDS,
                );
            }
            61 | 62 => module::cuModuleLoadData(self.out(b), self.image(b)),
            63 => {
                let count = self.flags(b);
                for at in 0..4 {
                    write(WORDS + 4 * at, &u32::from(b.byte() % 40).to_le_bytes());
                    write(WORDS + 32 + 8 * at, &self.pointer(b).to_le_bytes());
                }
                module::cuModuleLoadDataEx(
                    self.out(b),
                    self.image(b),
                    count,
                    host() + WORDS,
                    host() + WORDS + 32,
                )
            }
            64 => module::cuModuleLoadFatBinary(self.out(b), self.image(b)),
            65 => return module::cuModuleUnload(self.handle(b)),
            66 | 67 => module::cuModuleGetFunction(self.out(b), self.handle(b), self.name(b)),
            68 => return module::cuModuleEnumerateFunctions(self.pointer(b), self.flags(b), self.handle(b)),
            69 => return module::cuModuleGetFunctionCount(self.pointer(b), self.handle(b)),
            70 => module::cuModuleGetGlobal_v2(self.out(b), self.pointer(b), self.handle(b), self.name(b)),
            71..=73 => {
                let function = self.handle(b);
                let [gx, gy, gz, bx, by, bz] = std::array::from_fn(|_| self.dimension(b));
                let (shared, stream) = (self.flags(b), self.handle(b));
                return launch::cuLaunchKernel(
                    function,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shared,
                    stream,
                    self.values(b),
                    0,
                );
            }
            74 => return launch::cuLaunchKernelEx(self.config(b), self.handle(b), self.values(b), 0),
            75 => return function::cuFuncGetAttribute(self.pointer(b), self.flags(b) as i32, self.handle(b)),
            76 => return function::cuFuncSetAttribute(self.handle(b), b.below(20) as i32, b.number() as i32),
            77 => {
                return function::cuFuncGetParamInfo(
                    self.handle(b),
                    b.count(3),
                    self.pointer(b),
                    self.pointer(b),
                );
            }
            78 => {
                let [count, threads, dynamic] = [self.pointer(b), b.count(1024), b.number()];
                let function = self.handle(b);
                return occupancy::cuOccupancyMaxActiveBlocksPerMultiprocessor(
                    count,
                    function,
                    threads as i32,
                    dynamic,
                );
            }
            79 if b.once_in(2) => {
                let (size, function) = (self.pointer(b), self.handle(b));
                return occupancy::cuOccupancyMaxPotentialClusterSize(size, function, self.config(b));
            }
            79 => {
                return occupancy::cuOccupancyMaxActiveClusters(
                    self.pointer(b),
                    self.handle(b),
                    self.config(b),
                );
            }
            80 => context::cuDevicePrimaryCtxRetain(self.out(b), b.below(3) as i32),
            81 => context::cuCtxCreate_v2(self.out(b), self.flags(b), b.below(3) as i32),
            82 => return context::cuCtxDestroy_v2(self.handle(b)),
            83 => return context::cuCtxSetCurrent(self.handle(b)),
            84 => return context::cuCtxSynchronize(),
            85 => return context::cuDevicePrimaryCtxReset_v2(b.below(3) as i32),
            86 => pool::cuDeviceGetDefaultMemPool(self.out(b), b.below(3) as i32),
            87 => {
                for (at, value) in [1, 0, 1, 0].into_iter().enumerate() {
                    write(WORDS + 4 * at, &u32::to_le_bytes(value));
                }
                write(WORDS + 16, &[0; 64]);
                pool::cuMemPoolCreate(self.out(b), host() + WORDS)
            }
            88 => return pool::cuMemPoolDestroy(self.handle(b)),
            89 => unified::cuMemHostAlloc(self.out(b), self.size(b), self.flags(b)),
            90 => return unified::cuMemFreeHost(self.handle(b)),
            91 => {
                let address = self.pointer(b);
                let code = unified::cuMemHostRegister_v2(address, self.size(b), self.flags(b));
                self.begun.extend((code == 0).then_some((unified::cuMemHostUnregister as End, address)));
                return code;
            }
            92 => unified::cuMemAllocManaged(self.out(b), self.size(b), self.flags(b)),
            93 => {
                let (count, numbers, out) = (self.flags(b), self.pointer(b), self.pointer(b));
                return unified::cuPointerGetAttributes(count, numbers, out, self.handle(b) as u64);
            }
            94 => match b.below(4) {
                0 => library::cuLibraryLoadData(
                    self.out(b),
                    self.image(b),
                    0,
                    0,
                    0,
                    self.pointer(b),
                    0,
                    self.flags(b),
                ),
                1 => library::cuLibraryGetKernel(self.out(b), self.handle(b), self.name(b)),
                2 => library::cuKernelGetFunction(self.out(b), self.handle(b)),
                _ => return library::cuLibraryUnload(self.handle(b)),
            },
            _ => match b.below(6) {
                0 => link::cuLinkCreate_v2(0, 0, 0, self.out(b)),
                1 => {
                    return link::cuLinkAddData_v2(
                        self.handle(b),
                        self.flags(b) as i32,
                        self.image(b),
                        self.size(b),
                        0,
                        0,
                        0,
                        0,
                    );
                }
                2 => link::cuLinkComplete(self.handle(b), self.pointer(b), self.pointer(b)),
                3 => return link::cuLinkDestroy(self.handle(b)),
                4 => return device::cuDeviceGetName(self.pointer(b), b.number() as i32, b.below(3) as i32),
                _ => {
                    return device::cuDeviceGetAttribute(
                        self.pointer(b),
                        b.number() as i32,
                        b.below(3) as i32,
                    );
                }
            },
        };
        self.keep(code, end_of(which))
    }

    /// Ends all that was begun, and the primary contexts.
    fn end(&mut self) {
        while let Some((end, handle)) = self.begun.pop() {
            assert_ne!(end(handle), UNKNOWN, "CUDA_ERROR_UNKNOWN: the simulator panicked");
        }
        for card in 0..2 {
            assert_ne!(context::cuDevicePrimaryCtxReset_v2(card), UNKNOWN);
            while context::cuDevicePrimaryCtxRelease_v2(card) == 0 {}
        }
    }
}
