//! What profilers see with the feature `tracing`.

mod common;

use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};

use common::{Case, Operands};
use onekv::cpu;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

/// Writes down what is entered and left.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<(Vec<String>, Vec<String>)>>);

struct Fields(String);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "onekv"
    }
    fn new_span(&self, span: &Attributes<'_>) -> Id {
        let mut fields = Fields(span.metadata().name().to_owned());
        span.record(&mut fields);
        let (names, _) = &mut *self.0.lock().unwrap();
        names.push(fields.0);
        Id::from_u64(names.len() as u64)
    }
    fn enter(&self, span: &Id) {
        let (names, log) = &mut *self.0.lock().unwrap();
        log.push(names[span.into_u64() as usize - 1].clone());
    }
    fn exit(&self, _: &Id) {
        self.0.lock().unwrap().1.push("end".to_owned());
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn event(&self, _: &Event<'_>) {}
}

/// What `work` enters and leaves.
fn spans(work: impl FnOnce()) -> Vec<String> {
    let log = Log::default();
    tracing::subscriber::with_default(log.clone(), work);
    log.0.lock().unwrap().1.clone()
}

#[test]
fn attention_on_the_cpu() {
    let operands = Operands::<f32>::new(&Case::packed(4, 2, 64, &[(5, 100), (2, 30)]));
    let seen = spans(|| drop(operands.run(cpu::attend)));
    assert_eq!(seen, ["attend on the CPU rows=7 keys=130 dtype=f32", "end"]);
}

#[cfg(feature = "cuda")]
#[test]
fn plans_and_runs_on_a_card() {
    use onekv::plan::{Plan, PlanOptions};
    use onekv::{DType, SharedKv, View};

    let Some(card) = common::device::card() else { return };
    let problem = Case::packed(4, 2, 64, &[(5, 100)]).problem();
    let (facts, queue) = (card.kernels.facts(), &card.queue);
    let options = PlanOptions::default().with_tile_rows(16).with_split_keys(1000);
    let seen = spans(|| {
        let plan = Plan::new(&problem, DType::F16, facts, &options).unwrap();
        let mut prepared = queue.prepare(&plan).unwrap();
        let memory = |shape: onekv::Shape| {
            View::contiguous(shape, queue.zeros::<half::f16>(shape.elements()).unwrap())
        };
        let (q, out) = (memory(problem.query_shape()), memory(problem.query_shape()));
        let kv = SharedKv { k: memory(problem.kv_shape()), v: memory(problem.kv_shape()) };
        prepared.run(q, kv, out, None).unwrap();
        prepared.replan(&plan).unwrap();
    });
    let kernel = Plan::new(&problem, DType::F16, facts, &options).unwrap().variant().kernel();
    let want = [
        "plan rows=5 keys=100 dtype=f16".to_owned(),
        format!("prepare kernel=\"{kernel}\" blocks=2"),
        format!("run kernel=\"{kernel}\" captured=false"),
        format!("replan kernel=\"{kernel}\" blocks=2"),
    ];
    let entered: Vec<String> = seen.iter().filter(|line| *line != "end").cloned().collect();
    assert_eq!(entered, want);
    assert_eq!(seen.len(), 2 * want.len(), "each ends");
}
