//! The CUDA backend as the tests see it: host operands in, host results out.

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaViewMut, DeviceRepr};
use onekv::cuda::{Kernels, Prepared, Queue};
use onekv::plan::{Plan, PlanOptions};
use onekv::{Element, Problem, Result, SharedKv, View};

/// A card with the kernels loaded.
pub struct Card {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub kernels: Arc<Kernels>,
    pub queue: Queue,
}

impl Card {
    /// The first card. cudarc tracks events, as it does where nobody asks otherwise, or with `ONEKV_EVENT_TRACKING=0` not.
    fn open() -> Result<Self> {
        let context = onekv::cuda::context(0)?;
        if std::env::var("ONEKV_EVENT_TRACKING").is_ok_and(|tracking| tracking == "0") {
            // SAFETY: the tests keep what they allocate themselves to one stream, or synchronise.
            unsafe { context.disable_event_tracking() };
        }
        let kernels = Kernels::new(&context)?;
        // The legacy default stream would order itself against every other test's work.
        let stream = context.new_stream().expect("a stream");
        let queue = Queue::new(&kernels, &stream)?;
        Ok(Self { context, stream, kernels, queue })
    }
}

/// The machine's card, if it has one; with `ONEKV_REQUIRE_CUDA` it must.
pub fn card() -> Option<&'static Card> {
    static CARD: OnceLock<Option<Card>> = OnceLock::new();
    CARD.get_or_init(|| match Card::open() {
        Ok(card) => Some(card),
        Err(error) if std::env::var_os("ONEKV_REQUIRE_CUDA").is_none() => {
            println!("CUDA is not tested: {error}");
            None
        }
        Err(error) => panic!("CUDA is required: {error}"),
    })
    .as_ref()
}

/// A copy on the card. Memory of no bytes does not exist: one element more than needed.
pub fn upload<T: DeviceRepr + Copy>(data: &[T], padding: T) -> CudaSlice<T> {
    let stream = &card().expect("asked for only where there is a card").stream;
    stream.clone_htod(&[data, &[padding]].concat()).unwrap()
}

/// Copies Q to the card, runs a plan with `run`, copies the results back.
pub fn run_plan<E: Element + DeviceRepr>(
    plan: &Plan,
    q: View<&[E]>,
    out: View<&mut [E]>,
    lse: Option<View<&mut [f32]>>,
    run: impl FnOnce(
        &Prepared,
        &View<CudaSlice<E>>,
        View<CudaViewMut<'_, E>>,
        Option<View<CudaViewMut<'_, f32>>>,
    ) -> Result<()>,
) -> Result<()> {
    let Card { stream, queue, .. } = card().expect("asked for only where there is a card");
    let prepared = queue.prepare(plan)?;
    let q = q.map(|q| upload(q, E::from_f32(f32::NAN)));
    let mut on_card = out.reborrow().map(|out| upload(out, E::from_f32(f32::NAN)));
    let mut lse_on_card = lse.as_ref().map(|lse| lse.reborrow().map(|lse| upload(lse, 0.0)));
    run(&prepared, &q, on_card.as_view_mut(), lse_on_card.as_mut().map(View::<CudaSlice<f32>>::as_view_mut))?;
    // What it used is gone while it runs.
    drop((prepared, q));
    out.data.copy_from_slice(&stream.clone_dtoh(&on_card.data).unwrap()[..out.data.len()]);
    if let (Some(on_card), Some(lse)) = (lse_on_card, lse) {
        lse.data.copy_from_slice(&stream.clone_dtoh(&on_card.data).unwrap()[..lse.data.len()]);
    }
    Ok(())
}

/// Copies the operands to the card, runs, copies the results back.
pub fn attend_with<E: Element + DeviceRepr>(
    options: &PlanOptions,
    problem: &Problem,
    q: View<&[E]>,
    kv: SharedKv<&[E]>,
    out: View<&mut [E]>,
    lse: Option<View<&mut [f32]>>,
) -> Result<Plan> {
    let card = card().expect("asked for only where there is a card");
    let plan = Plan::new(problem, E::DTYPE, card.kernels.facts(), options)?;
    let [k, v] = [kv.k, kv.v].map(|view| view.map(|data| upload(data, E::from_f32(f32::NAN))));
    let kv = SharedKv { k, v };
    run_plan(&plan, q, out, lse, |prepared, q, out, lse| prepared.run(q.as_view(), kv.as_view(), out, lse))?;
    Ok(plan)
}

/// The plan that the cost model chooses.
pub fn attend<E: Element + DeviceRepr>(
    problem: &Problem,
    q: View<&[E]>,
    kv: SharedKv<&[E]>,
    out: View<&mut [E]>,
    lse: Option<View<&mut [f32]>>,
) -> Result<()> {
    attend_with(&PlanOptions::default(), problem, q, kv, out, lse).map(|_| ())
}

/// Fixed splits and tiles: results do not depend on the batch.
pub fn fixed(split_keys: usize, tile_rows: usize) -> PlanOptions {
    PlanOptions::default().with_split_keys(split_keys).with_tile_rows(tile_rows)
}

/// Fixed splits that a second launch combines.
pub fn split() -> PlanOptions {
    fixed(64, 16).with_split_cluster(1)
}

/// With fixed splits and tiles.
pub fn attend_fixed<E: Element + DeviceRepr>(
    problem: &Problem,
    q: View<&[E]>,
    kv: SharedKv<&[E]>,
    out: View<&mut [E]>,
    lse: Option<View<&mut [f32]>>,
) -> Result<()> {
    attend_with(&fixed(64, 16), problem, q, kv, out, lse).map(|_| ())
}

/// Runs `work` of the test `name` in a process of its own, where a virtual card queues kernels but does not run them: nobody
/// asks what comes of them. A real card runs them.
pub fn without_kernels(name: &str, work: impl FnOnce()) {
    const KERNELS: &str = "PTXSIM_KERNELS";
    if std::env::var(KERNELS).is_ok_and(|run| run == "0") {
        return work();
    }
    if card().is_none() {
        return;
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact", "--nocapture", "--test-threads=1"])
        .env(KERNELS, "0")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    println!("{said}");
    assert!(
        child.status.success() && said.contains("1 passed"),
        "{}",
        String::from_utf8_lossy(&child.stderr)
    );
}
