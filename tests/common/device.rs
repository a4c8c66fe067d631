//! The CUDA backend as the tests see it: host operands in, host results out.

use std::sync::{Arc, OnceLock};

use cudarc::driver::{CudaContext, CudaSlice, CudaStream, CudaViewMut, DeviceRepr};
use onekv::cuda::{DeviceKv, DeviceLse, DeviceOutput, DeviceQueries, Kernels, Launch};
use onekv::plan::{Plan, PlanOptions};
use onekv::{Element, Lse, Output, Problem, Queries, Result, SharedKv};

/// A card with the kernels loaded.
pub struct Card {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    pub kernels: Arc<Kernels>,
}

/// The machine's card, if it has one; with `ONEKV_REQUIRE_CUDA` it must.
pub fn card() -> Option<&'static Card> {
    static CARD: OnceLock<Option<Card>> = OnceLock::new();
    CARD.get_or_init(|| {
        let open = || -> Result<Card> {
            let context = onekv::cuda::context(0)?;
            // SAFETY: every test keeps its memory to one stream, or synchronises between two.
            unsafe { context.disable_event_tracking() };
            let kernels = Kernels::new(&context)?;
            // The legacy default stream would order itself against every other test's work.
            let stream = context.new_stream().expect("a stream");
            Ok(Card { stream, context, kernels })
        };
        match open() {
            Ok(card) => Some(card),
            Err(error) if std::env::var_os("ONEKV_REQUIRE_CUDA").is_none() => {
                println!("CUDA is not tested: {error}");
                None
            }
            Err(error) => panic!("CUDA is required: {error}"),
        }
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
    plan: Plan,
    q: Queries<'_, E>,
    out: Output<'_, E>,
    lse: Option<Lse<'_>>,
    run: impl FnOnce(
        &Launch,
        DeviceQueries<'_, E>,
        DeviceOutput<'_, E>,
        Option<DeviceLse<'_>>,
        &mut CudaViewMut<'_, f32>,
    ) -> Result<()>,
) -> Result<Plan> {
    let Card { stream, kernels, .. } = card().expect("asked for only where there is a card");
    let launch = Launch::new(kernels, plan, stream)?;
    let q_data = upload(q.data, E::from_f32(f32::NAN));
    let mut out_data = upload(out.data, E::from_f32(f32::NAN));
    let mut lse_data = lse.as_ref().map(|l| upload(l.data, 0.0));
    // SAFETY: never read before the kernels write it, which the virtual card checks.
    let mut workspace = unsafe { stream.alloc::<f32>(launch.plan().workspace_len().max(1)) }.unwrap();
    run(
        &launch,
        DeviceQueries { data: q_data.as_view(), strides: q.strides },
        DeviceOutput { data: out_data.as_view_mut(), strides: out.strides },
        match (&mut lse_data, &lse) {
            (Some(data), Some(lse)) => Some(DeviceLse { data: data.as_view_mut(), strides: lse.strides }),
            _ => None,
        },
        &mut workspace.as_view_mut(),
    )?;
    out.data.copy_from_slice(&stream.clone_dtoh(&out_data).unwrap()[..out.data.len()]);
    if let (Some(data), Some(lse)) = (lse_data, lse) {
        lse.data.copy_from_slice(&stream.clone_dtoh(&data).unwrap()[..lse.data.len()]);
    }
    Ok(launch.plan().clone())
}

/// Copies the operands to the card, runs, copies the results back.
pub fn attend_with<E: Element + DeviceRepr>(
    options: &PlanOptions,
    problem: &Problem,
    q: Queries<'_, E>,
    kv: SharedKv<'_, E>,
    out: Output<'_, E>,
    lse: Option<Lse<'_>>,
) -> Result<Plan> {
    let Card { stream, kernels, .. } = card().expect("asked for only where there is a card");
    let plan = Plan::new(problem, E::DTYPE, kernels.facts(), options)?;
    let (k, v) = (upload(kv.k, E::from_f32(f32::NAN)), upload(kv.v, E::from_f32(f32::NAN)));
    run_plan(plan, q, out, lse, |launch, q, out, lse, workspace| {
        let (k_strides, v_strides) = (kv.k_strides, kv.v_strides);
        let kv = DeviceKv { k: k.as_view(), v: v.as_view(), k_strides, v_strides };
        launch.run(stream, q, kv, out, lse, workspace)
    })
}

/// The plan that the cost model chooses.
pub fn attend<E: Element + DeviceRepr>(
    problem: &Problem,
    q: Queries<'_, E>,
    kv: SharedKv<'_, E>,
    out: Output<'_, E>,
    lse: Option<Lse<'_>>,
) -> Result<()> {
    attend_with(&PlanOptions::default(), problem, q, kv, out, lse).map(|_| ())
}

/// Fixed tiles and splits: results do not depend on the batch.
pub fn attend_fixed<E: Element + DeviceRepr>(
    problem: &Problem,
    q: Queries<'_, E>,
    kv: SharedKv<'_, E>,
    out: Output<'_, E>,
    lse: Option<Lse<'_>>,
) -> Result<()> {
    let options = PlanOptions { split_keys: Some(64), tile_rows: Some(16), ..PlanOptions::default() };
    attend_with(&options, problem, q, kv, out, lse).map(|_| ())
}
