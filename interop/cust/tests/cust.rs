//! Operands of cust against the f64 reference, on the machine's card: what is computed, what is refused, what lives how long.

#[path = "../../../tests/common/mod.rs"]
#[allow(unexpected_cfgs, reason = "it asks for features of onekv")]
mod common;

use std::sync::Arc;

use common::{Answer, Case, Layout, Operands, assert_close};
use cust::context::{Context, CurrentContext};
use cust::device::Device;
use cust::memory::{CopyDestination as _, DeviceBuffer, DeviceCopy, DeviceSlice};
use cust::stream::{Stream, StreamFlags};
use onekv::cuda::Kernels;
use onekv::cudarc::driver::sys;
use onekv::plan::{Plan, PlanOptions};
use onekv::{DType, Element as _, PartialState, Problem, Shape, SharedKv, View};
use onekv_cust::{Element, Error, Prepared, Queue};

/// An engine on cust: a device's context, current to this thread, a stream, a queue.
struct Engine {
    context: Context,
    stream: Arc<Stream>,
    queue: Queue,
}

impl Engine {
    fn new(device: u32) -> Self {
        let context = Context::new(Device::get_device(device).unwrap()).unwrap();
        let stream = Arc::new(Stream::new(StreamFlags::DEFAULT, None).unwrap());
        let kernels = Kernels::new(&onekv::cuda::context(device as usize).unwrap()).unwrap();
        let queue = Queue::new(&kernels, &stream).unwrap();
        Self { context, stream, queue }
    }

    fn prepare(&self, problem: &Problem, dtype: DType, options: &PlanOptions) -> Prepared {
        self.queue
            .prepare(&Plan::new(problem, dtype, self.queue.kernels().facts(), options).unwrap())
            .unwrap()
    }
}

/// Where the machine has so many cards; with `ONEKV_REQUIRE_CUDA` it must.
fn has_cards(least: u32) -> bool {
    let cards = cust::init(cust::CudaFlags::empty()).and_then(|()| Device::num_devices());
    let enough = cards.is_ok_and(|cards| cards >= least);
    assert!(
        enough || std::env::var_os("ONEKV_REQUIRE_CUDA").is_none(),
        "{least} cards are required: {cards:?}"
    );
    if !enough {
        println!("not tested, for want of {least} cards: {cards:?}");
    }
    enough
}

/// An element of onekv's as cust has it, and back: the same bits.
trait Convert: Element {
    fn from_onekv(x: Self::Onekv) -> Self;
    fn into_onekv(self) -> Self::Onekv;
}

impl Convert for f32 {
    fn from_onekv(x: f32) -> Self {
        x
    }
    fn into_onekv(self) -> f32 {
        self
    }
}

impl Convert for half_1::f16 {
    fn from_onekv(x: half::f16) -> Self {
        Self::from_bits(x.to_bits())
    }
    fn into_onekv(self) -> half::f16 {
        half::f16::from_bits(self.to_bits())
    }
}

impl Convert for half_1::bf16 {
    fn from_onekv(x: half::bf16) -> Self {
        Self::from_bits(x.to_bits())
    }
    fn into_onekv(self) -> half::bf16 {
        half::bf16::from_bits(self.to_bits())
    }
}

/// f16 of half 2, as an engine would make it known to cust.
#[derive(Debug, Clone, Copy)]
#[repr(transparent)]
struct F16(half::f16);

// SAFETY: a u16.
unsafe impl DeviceCopy for F16 {}
// SAFETY: transparent.
unsafe impl Element for F16 {
    type Onekv = half::f16;
}

impl Convert for F16 {
    fn from_onekv(x: half::f16) -> Self {
        Self(x)
    }
    fn into_onekv(self) -> half::f16 {
        self.0
    }
}

fn upload<T: Convert>(data: &[T::Onekv]) -> DeviceBuffer<T> {
    let data: Vec<T> = data.iter().map(|&x| T::from_onekv(x)).collect();
    DeviceBuffer::from_slice(&data).unwrap()
}

fn download<T: Convert>(from: &DeviceSlice<T>, to: &mut [T::Onekv]) {
    let mut host: Vec<T> = to.iter().map(|&x| T::from_onekv(x)).collect();
    from.copy_to(&mut host[..]).unwrap();
    to.iter_mut().zip(host).for_each(|(to, x)| *to = x.into_onekv());
}

/// Runs on copies of the host's memory in buffers, and copies the results back.
fn attend<T: Convert>(
    engine: &Engine,
    prepared: &Prepared,
    q: View<&[T::Onekv]>,
    kv: SharedKv<&[T::Onekv]>,
    out: View<&mut [T::Onekv]>,
    lse: Option<View<&mut [f32]>>,
) -> onekv_cust::Result<()> {
    let [q, k, v] = [q, kv.k, kv.v].map(|view| view.map(upload::<T>));
    let mut on_card = out.reborrow().map(upload::<T>);
    let mut lse_on_card = lse.as_ref().map(|lse| lse.reborrow().map(upload::<f32>));
    // SAFETY: the stream is waited for before any of them is used or freed.
    unsafe {
        prepared.run(
            View::strided(q.shape, q.strides, &q.data),
            SharedKv {
                k: View::strided(k.shape, k.strides, &k.data),
                v: View::strided(v.shape, v.strides, &v.data),
            },
            View::strided(on_card.shape, on_card.strides, &mut on_card.data),
            lse_on_card.as_mut().map(|lse| View::strided(lse.shape, lse.strides, &mut *lse.data)),
        )?;
    }
    engine.stream.synchronize().unwrap();
    download(&on_card.data, out.data);
    if let (Some(from), Some(to)) = (lse_on_card, lse) {
        download(&from.data, to.data);
    }
    Ok(())
}

fn equals_the_reference<T: Convert>(engine: &Engine, case: &Case) {
    let operands = Operands::<T::Onekv>::new(case);
    for options in [PlanOptions::default(), PlanOptions::default().with_split_keys(64)] {
        let prepared = engine.prepare(&operands.problem, T::Onekv::DTYPE, &options);
        let got = operands.run(|_, q, kv, out, lse| {
            attend::<T>(engine, &prepared, q, kv, out, lse).unwrap();
            Ok(())
        });
        assert_close(T::Onekv::DTYPE, &got, &operands.reference(), case);
    }
}

/// Two inputs with grouped heads.
fn two_inputs() -> Case {
    Case::packed(4, 2, 64, &[(5, 150), (19, 70)])
}

/// Two inputs in slots of a `[inputs, heads, capacity, head_dim]` cache, with room for more keys and gaps between.
fn cache() -> Case {
    let mut case = two_inputs();
    case.layouts = [Layout { gaps: [0, 3, 1], ..Layout::PLAIN }; 4];
    case.layouts[1] = Layout { gaps: [5, 1, 2], ..Layout::HEAD_MAJOR };
    case.layouts[2] = Layout::HEAD_MAJOR;
    case.pad(11);
    case
}

#[test]
fn every_type_equals_the_reference() {
    if !has_cards(1) {
        return;
    }
    let engine = Engine::new(0);
    // Without keys there is no memory of K and V.
    for case in [two_inputs(), cache(), Case::packed(2, 2, 64, &[(3, 0)])] {
        equals_the_reference::<f32>(&engine, &case);
        equals_the_reference::<half_1::f16>(&engine, &case);
        equals_the_reference::<half_1::bf16>(&engine, &case);
        equals_the_reference::<F16>(&engine, &case);
    }
}

/// The second input has no keys in the first part, so that its LSE there is minus infinity.
#[test]
fn parts_join_to_the_whole() {
    if !has_cards(1) {
        return;
    }
    let engine = Engine::new(0);
    let case = Case::packed(2, 2, 64, &[(3, 90), (2, 40)]);
    let operands = Operands::<f32>::new(&case);
    let token = 2 * 64;
    let q = upload::<f32>(&operands.q);
    let part = |keys: [usize; 2], from: [usize; 2]| {
        let problem = Case::packed(2, 2, 64, &[(3, keys[0]), (2, keys[1])]).problem();
        let prepared = engine.prepare(&problem, DType::F32, &PlanOptions::default());
        let pick = |all: &[f32]| {
            let input = |at: usize, keys: usize| &all[at * token..][..keys * token];
            upload::<f32>(&[input(from[0], keys[0]), input(from[1], keys[1])].concat())
        };
        let (k, v) = (pick(&operands.k), pick(&operands.v));
        let mut out = upload::<f32>(&vec![f32::NAN; 5 * token]);
        let mut lse = upload::<f32>(&[f32::NAN; 10]);
        // SAFETY: waited for below.
        unsafe {
            prepared.run(
                View::contiguous(problem.query_shape(), &q),
                SharedKv::contiguous(problem.kv_shape(), &k, &v),
                View::contiguous(problem.query_shape(), &mut out),
                Some(View::contiguous(problem.lse_shape(), &mut lse)),
            )
        }
        .unwrap();
        engine.stream.synchronize().unwrap();
        (out, lse)
    };
    // Keys of the whole: 0..90 and 90..130.
    let parts = [part([50, 0], [0, 90]), part([40, 40], [50, 90])];
    let shape = [5, 2, 64];
    let states = parts.each_ref().map(|(out, lse)| PartialState {
        out: View::contiguous(shape, out.as_slice()),
        lse: View::contiguous([5, 2], lse.as_slice()),
    });
    let (mut out, mut lse) = (upload::<f32>(&vec![f32::NAN; 5 * token]), upload::<f32>(&[f32::NAN; 10]));
    // SAFETY: waited for below.
    unsafe {
        let lse = View::contiguous([5, 2], &mut *lse);
        engine.queue.merge_states(&states, View::contiguous(shape, &mut out), Some(lse)).unwrap();
    }
    engine.stream.synchronize().unwrap();
    let mut got = Answer { out: vec![0.0; 5 * token], lse: vec![0.0; 10] };
    download(&out, &mut got.out);
    download(&lse, &mut got.lse);
    assert_close(DType::F32, &got, &operands.reference(), &case);
    // Not of the length that the shape asks for.
    let nine = parts[0].1.index(0..9);
    let short = PartialState { lse: View::contiguous([5, 2], &nine), ..states[0] };
    // SAFETY: refused.
    let refused = unsafe { engine.queue.merge_states(&[short], View::contiguous(shape, &mut out), None) };
    assert_eq!(refused, Err(onekv::Error::TooShort { tensor: "states.lse", value: 9, min: 10 }.into()));
    // Not of the shape of the output.
    let sums = Shape::from([5, 1]);
    let wrong = PartialState { lse: View::contiguous(sums, parts[0].1.as_slice()), ..states[0] };
    // SAFETY: refused.
    let refused = unsafe { engine.queue.merge_states(&[wrong], View::contiguous(shape, &mut out), None) };
    let allowed = [5, 2].into();
    assert_eq!(refused, Err(onekv::Error::WrongShape { tensor: "states.lse", value: sums, allowed }.into()));
}

#[test]
fn other_lengths_are_taken_in_place() {
    if !has_cards(1) {
        return;
    }
    let engine = Engine::new(0);
    let mut prepared = engine.prepare(&two_inputs().problem(), DType::F16, &PlanOptions::default());
    let plan = |case: &Case| {
        let like = PlanOptions::like(&plan_of(&engine, &two_inputs()));
        Plan::new(&case.problem(), DType::F16, engine.queue.kernels().facts(), &like).unwrap()
    };
    let shorter = Case::packed(4, 2, 64, &[(2, 30), (19, 70)]);
    prepared.replan(&plan(&shorter)).unwrap();
    let operands = Operands::<half::f16>::new(&shorter);
    let got = operands.run(|_, q, kv, out, lse| {
        attend::<half_1::f16>(&engine, &prepared, q, kv, out, lse).unwrap();
        Ok(())
    });
    assert_close(DType::F16, &got, &operands.reference(), &shorter);
    let longer = prepared.replan(&plan(&Case::packed(4, 2, 64, &[(5, 150), (20, 70)])));
    assert_eq!(longer, Err(onekv::Error::OverPrepared { field: "rows", value: 25, max: 24 }.into()));
}

fn plan_of(engine: &Engine, case: &Case) -> Plan {
    Plan::new(&case.problem(), DType::F16, engine.queue.kernels().facts(), &PlanOptions::default()).unwrap()
}

/// The names and figures of what is wrong.
#[test]
fn wrong_operands_are_refused() {
    if !has_cards(1) {
        return;
    }
    let engine = Engine::new(0);
    let problem = Case::packed(2, 1, 64, &[(4, 10)]).problem();
    let prepared = engine.prepare(&problem, DType::F32, &PlanOptions::default());
    let (rows, keys, sums) = (problem.query_shape(), problem.kv_shape(), problem.lse_shape());
    let buffer = |len: usize| upload::<f32>(&vec![0.0; len]);
    let (q, k, v, out, lse) = (buffer(512), buffer(640), buffer(640), buffer(512), buffer(8));
    // Slices of cust are addresses: copies borrow nothing.
    let [q, k, v, out, lse] = [&q, &k, &v, &out, &lse].map(|buffer| *buffer.as_slice());
    let run = |q: DeviceSlice<f32>,
               k: View<DeviceSlice<f32>>,
               mut out: DeviceSlice<f32>,
               mut lse: DeviceSlice<f32>| {
        // SAFETY: refused before anything is queued, or waited for.
        let done = unsafe {
            prepared.run(
                View::contiguous(rows, &q),
                SharedKv { k: View::strided(k.shape, k.strides, &k.data), v: View::contiguous(keys, &v) },
                View::contiguous(rows, &mut out),
                Some(View::contiguous(sums, &mut lse)),
            )
        };
        engine.stream.synchronize().unwrap();
        done
    };
    let kept = View::contiguous(keys, k);
    assert_eq!(run(q, kept, out, lse), Ok(()));
    let short = |tensor, value, min| Err(onekv::Error::TooShort { tensor, value, min }.into());
    assert_eq!(run(q.index(0..511), kept, out, lse), short("q", 511, 512));
    assert_eq!(run(q, View::contiguous(keys, k.index(0..639)), out, lse), short("k", 639, 640));
    assert_eq!(run(q, kept, out.index(0..256), lse), short("out", 256, 512));
    assert_eq!(run(q, kept, out, lse.index(0..7)), short("lse", 7, 8));
    // An LSE whose address is 0, as it has no elements, is not one that is not wanted.
    assert_eq!(run(q, kept, out, *buffer(0)), short("lse", 0, 8));
    let overlap = |tensor, other| Err(onekv::Error::Overlap { tensor, other }.into());
    assert_eq!(run(q, kept, q, lse), overlap("out", "q"));
    assert_eq!(run(q, kept, out, out.index(100..108)), overlap("lse", "out"));
    let allowed = [rows, keys, keys, rows, sums];
    for (wrong, tensor) in ["q", "k", "v", "out", "lse"].into_iter().enumerate() {
        let mut shapes = allowed;
        shapes[wrong].tokens -= 1;
        let (mut out, mut lse) = (out, lse);
        // SAFETY: refused.
        let refused = unsafe {
            let kv = SharedKv { k: View::contiguous(shapes[1], &k), v: View::contiguous(shapes[2], &v) };
            let (out, lse) = (View::contiguous(shapes[3], &mut out), View::contiguous(shapes[4], &mut lse));
            prepared.run(View::contiguous(shapes[0], &q), kv, out, Some(lse))
        };
        let error = onekv::Error::WrongShape { tensor, value: shapes[wrong], allowed: allowed[wrong] };
        assert_eq!(refused, Err(error.into()));
    }
    let strides = onekv::Strides { row: 32, ..keys.strides() };
    let refused = Err(onekv::Error::StrideTooSmall { tensor: "k", stride: "row", value: 32, min: 64 }.into());
    assert_eq!(run(q, View::strided(keys, strides, k), out, lse), refused);
    let odd = buffer(513);
    let refused = run(odd.index(1..513), kept, out, lse);
    let address = odd.as_device_ptr().as_raw() as usize + 4;
    let misaligned = onekv::Error::Misaligned { tensor: "q", part: "data", value: address, align: 16 };
    assert_eq!(refused, Err(misaligned.into()));

    let halves = upload::<half_1::f16>(&[half::f16::ZERO; 640]);
    let mut half_out = upload::<half_1::f16>(&[half::f16::ZERO; 512]);
    // SAFETY: refused.
    let refused = unsafe {
        let kv = SharedKv::contiguous(keys, halves.as_slice(), halves.as_slice());
        prepared.run(View::contiguous(rows, &halves), kv, View::contiguous(rows, &mut half_out), None)
    };
    let types = onekv::Error::WrongDType { value: DType::F16, planned: DType::F32 };
    assert_eq!(refused, Err(types.into()));

    // Kernels of e4m3 are for newer cards than 8.0.
    let facts = engine.queue.kernels().facts();
    if facts.compute_capability.0 < 9 {
        return;
    }
    let plan = Plan::with_e4m3_kv(&problem, DType::F16, facts, &PlanOptions::default()).unwrap();
    let prepared = engine.queue.prepare(&plan).unwrap();
    // SAFETY: refused.
    let refused = unsafe {
        let kv = SharedKv::contiguous(keys, halves.as_slice(), halves.as_slice());
        prepared.run(View::contiguous(rows, &halves), kv, View::contiguous(rows, &mut half_out), None)
    };
    let planned = "e4m3 (onekv::cuda::Prepared::run_e4m3)";
    assert_eq!(refused, Err(onekv::Error::WrongKv { value: "in the type of q", planned }.into()));
}

/// cust cannot capture, so this is another library's graph, which would not keep what runs use.
#[test]
fn a_captured_stream_is_refused() {
    if !has_cards(1) {
        return;
    }
    let mut engine = Engine::new(0);
    // Non-blocking: copies of other tests, on the default stream, wait for blocking ones, and may not while those are
    // captured.
    engine.stream = Arc::new(Stream::new(StreamFlags::NON_BLOCKING, None).unwrap());
    engine.queue = Queue::new(engine.queue.kernels(), &engine.stream).unwrap();
    let problem = Case::packed(1, 1, 64, &[(1, 1)]).problem();
    let prepared = engine.prepare(&problem, DType::F32, &PlanOptions::default());
    let (shape, keys) = (problem.query_shape(), problem.kv_shape());
    let [q, k, v, mut out] = [(); 4].map(|()| upload::<f32>(&[1.0; 64]));
    let lse = upload::<f32>(&[0.0]);
    let stream = engine.stream.as_inner().cast();
    let mut graph = std::ptr::null_mut();
    // SAFETY: the stream is alive; the graph is destroyed, and was never run.
    unsafe {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
        sys::cuStreamBeginCapture_v2(stream, mode).result().unwrap();
        let kv = SharedKv::contiguous(keys, k.as_slice(), v.as_slice());
        let refused = prepared.run(View::contiguous(shape, &q), kv, View::contiguous(shape, &mut out), None);
        let state = PartialState::contiguous(shape, q.as_slice(), lse.as_slice());
        let merge = engine.queue.merge_states(&[state], View::contiguous(shape, &mut out), None);
        sys::cuStreamEndCapture(stream, &raw mut graph).result().unwrap();
        sys::cuGraphDestroy(graph).result().unwrap();
        let captured = onekv::Error::Captured { what: "the queue's stream" };
        assert_eq!([refused, merge], [(); 2].map(|()| Err(captured.clone().into())));
    }
}

/// A slice is no proof that its memory is there.
#[test]
fn memory_that_is_gone_is_refused() {
    if !has_cards(1) {
        return;
    }
    let engine = Engine::new(0);
    let problem = Case::packed(1, 1, 64, &[(1, 1)]).problem();
    let prepared = engine.prepare(&problem, DType::F32, &PlanOptions::default());
    let shape = problem.query_shape();
    let [k, v, q] = [(); 3].map(|()| upload::<f32>(&[1.0; 64]));
    let mut out = upload::<f32>(&[0.0; 64]);
    let gone = *k.as_slice();
    drop(k);
    let kv = SharedKv::contiguous(problem.kv_shape(), &gone, v.as_slice());
    // SAFETY: refused.
    let refused =
        unsafe { prepared.run(View::contiguous(shape, &q), kv, View::contiguous(shape, &mut out), None) };
    let address = gone.as_device_ptr().as_raw();
    assert_eq!(refused, Err(Error::NotAllocated { tensor: "k", address }));
    assert_eq!(
        refused.unwrap_err().to_string(),
        format!("k begins at {address:#x}, which is not allocated; allowed: device memory")
    );
}

#[test]
fn another_cards_memory_and_streams_are_refused() {
    if !has_cards(2) {
        return;
    }
    let engines = [Engine::new(0), Engine::new(1)];
    let problem = Case::packed(1, 1, 64, &[(1, 1)]).problem();
    let shape = problem.query_shape();
    let mut memory = engines.each_ref().map(|engine| {
        CurrentContext::set_current(&engine.context).unwrap();
        [(); 4].map(|()| upload::<f32>(&[1.0; 64]))
    });
    let prepared = engines[0].prepare(&problem, DType::F32, &PlanOptions::default());
    let names = ["q", "k", "v", "out"];
    for foreign in 0..4 {
        let [mut own, theirs] = memory.each_ref().map(|memory| memory.each_ref().map(|x| *x.as_slice()));
        own[foreign] = theirs[foreign];
        let [q, k, v, mut out] = own;
        // SAFETY: refused.
        let refused = unsafe {
            let kv = SharedKv::contiguous(problem.kv_shape(), &k, &v);
            prepared.run(View::contiguous(shape, &q), kv, View::contiguous(shape, &mut out), None)
        };
        assert_eq!(refused, Err(Error::WrongDevice { tensor: names[foreign], value: 1, allowed: 0 }));
    }
    let refused = Queue::new(engines[0].queue.kernels(), &engines[1].stream).map(drop);
    assert_eq!(refused, Err(Error::WrongContext { device: 0 }));
    // The other card by itself, whichever context is current.
    CurrentContext::set_current(&engines[0].context).unwrap();
    let prepared = engines[1].prepare(&problem, DType::F32, &PlanOptions::default());
    let [q, k, v, out] = &mut memory[1];
    // SAFETY: waited for.
    unsafe {
        let kv = SharedKv::contiguous(problem.kv_shape(), k.as_slice(), v.as_slice());
        prepared.run(View::contiguous(shape, q), kv, View::contiguous(shape, out), None).unwrap();
    }
    engines[1].stream.synchronize().unwrap();
}

/// What is prepared keeps its stream and its context, whatever the engine has dropped.
#[test]
fn what_is_prepared_outlives_what_it_was_made_of() {
    if !has_cards(1) {
        return;
    }
    let Engine { context, stream, queue } = Engine::new(0);
    let case = two_inputs();
    let operands = Operands::<f32>::new(&case);
    let facts = queue.kernels().facts();
    let plan = Plan::new(&operands.problem, DType::F32, facts, &PlanOptions::default()).unwrap();
    let prepared = queue.prepare(&plan).unwrap();
    let kept = Arc::downgrade(&stream);
    drop((queue, stream, context));
    let (rows, keys) = (operands.problem.query_shape(), operands.problem.kv_shape());
    let [q, k, v] = [&operands.q, &operands.k, &operands.v].map(|x| upload::<f32>(x));
    let mut out = upload::<f32>(&vec![f32::NAN; rows.elements()]);
    let stream = kept.upgrade().expect("the stream is kept");
    // Nor does a run need a context that is current.
    // SAFETY: any context may be current, and none.
    unsafe { sys::cuCtxSetCurrent(std::ptr::null_mut()) }.result().unwrap();
    // SAFETY: waited for below.
    unsafe {
        let kv = SharedKv::contiguous(keys, k.as_slice(), v.as_slice());
        prepared.run(View::contiguous(rows, &q), kv, View::contiguous(rows, &mut out), None).unwrap();
    }
    stream.synchronize().unwrap();
    let mut got = Answer { out: vec![0.0; rows.elements()], lse: Vec::new() };
    download(&out, &mut got.out);
    assert_close(DType::F32, &got, &Answer { lse: Vec::new(), ..operands.reference() }, &case);
    drop((q, k, v, out, stream, prepared));
    assert!(kept.upgrade().is_none(), "the stream is kept for good");
}

/// Allocated and freed in the order of the queue's stream, which nobody waits for between.
#[test]
fn buffers_may_go_in_the_order_of_the_stream() {
    if !has_cards(1) {
        return;
    }
    let engine = Engine::new(0);
    let case = two_inputs();
    let operands = Operands::<f32>::new(&case);
    let (rows, keys) = (operands.problem.query_shape(), operands.problem.kv_shape());
    let prepared = engine.prepare(&operands.problem, DType::F32, &PlanOptions::default().with_split_keys(64));
    let mut out = upload::<f32>(&vec![f32::NAN; rows.elements()]);
    // SAFETY: used on this stream only, between its allocation and its being freed; `out` and the host's memory outlive the wait.
    unsafe {
        let upload = |x: &[f32]| DeviceBuffer::from_slice_async(x, &engine.stream).unwrap();
        let [q, k, v] = [upload(&operands.q), upload(&operands.k), upload(&operands.v)];
        let kv = SharedKv::contiguous(keys, k.as_slice(), v.as_slice());
        prepared.run(View::contiguous(rows, &q), kv, View::contiguous(rows, &mut out), None).unwrap();
        [q, k, v].into_iter().for_each(|buffer| buffer.drop_async(&engine.stream).unwrap());
    }
    engine.stream.synchronize().unwrap();
    let mut got = Answer { out: vec![0.0; rows.elements()], lse: Vec::new() };
    download(&out, &mut got.out);
    assert_close(DType::F32, &got, &Answer { lse: Vec::new(), ..operands.reference() }, &case);
}

/// One source of truth: the page shows the program that runs.
#[test]
fn the_readme_shows_the_example() {
    let readme = include_str!("../README.md");
    let shown = readme.split("```rust\n").nth(1).and_then(|rest| rest.split("```").next());
    assert_eq!(shown, Some(include_str!("../examples/attention.rs")));
}
