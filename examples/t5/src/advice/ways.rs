//! Ways to have many outputs of one input, by what they cost: those that the example runs, and two that it does not.

use crate::advice::memory::Need;
use crate::cost::{self, Cost, Method, ModelShape, Roofline, Workload};

/// How `U` outputs are had of one input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A prompt for each.
    Prompts(Method),
    /// One prompt in the decoder that asks for all of them, answered one behind the other in one sequence.
    OneSequence,
    /// A decoder for each, trained for it alone, without prompts, over one encoding.
    SeparateDecoders,
}

pub const WAYS: [Way; 5] = [
    Way::Prompts(Method::Pid),
    Way::Prompts(Method::PidReplicated),
    Way::Prompts(Method::Pie),
    Way::OneSequence,
    Way::SeparateDecoders,
];

impl Way {
    pub fn name(self) -> &'static str {
        match self {
            Self::Prompts(method) => method.name(),
            Self::OneSequence => "one sequence",
            Self::SeparateDecoders => "separate decoders",
        }
    }

    /// What a way needs beyond PID's model and the example.
    pub fn needs(self) -> &'static str {
        match self {
            Self::Prompts(Method::Pie) => {
                "a model trained with the prompts in the encoder, as published T5s are"
            }
            Self::Prompts(_) => "a model trained with the prompts in the decoder",
            Self::OneSequence => "a model trained to answer everything in one sequence",
            Self::SeparateDecoders => "a decoder trained for each prompt",
        }
    }

    /// The method that computes as one pass of this way does, and what it is given.
    fn pass(self, work: &Workload) -> (Method, Workload) {
        let one = Workload { prompts: 1.min(work.prompts), ..*work };
        match self {
            Self::Prompts(method) => (method, *work),
            // A token parts an answer from the next.
            Self::OneSequence => {
                let parted = work.new_tokens.saturating_add(1).saturating_mul(work.prompts).saturating_sub(1);
                (Method::Pid, Workload { new_tokens: if work.new_tokens == 0 { 0 } else { parted }, ..one })
            }
            Self::SeparateDecoders => (Method::Pid, Workload { prompt_tokens: 0, ..one }),
        }
    }

    /// Decoders beside the first.
    fn more_decoders(self, work: &Workload) -> u64 {
        if self == Self::SeparateDecoders { work.prompts.saturating_sub(1) } else { 0 }
    }

    /// Arithmetic, and the least traffic.
    pub fn cost(self, model: &ModelShape, work: &Workload) -> Cost {
        let (method, pass) = self.pass(work);
        let first = cost::breakdown(method, model, &pass);
        let (more, again) = (self.more_decoders(work), first.decoder());
        let (flops, bytes) = (more.saturating_mul(again.flops), more.saturating_mul(again.bytes));
        first.total() + Cost { flops, bytes }
    }

    /// Seconds that a device cannot do without, as [`cost::least_seconds`].
    pub fn least_seconds(self, model: &ModelShape, work: &Workload, device: &Roofline) -> f64 {
        let (method, pass) = self.pass(work);
        let first = cost::least_seconds(method, model, &pass, device);
        let encoding = device.seconds(cost::breakdown(method, model, &pass).encoder);
        first + self.more_decoders(work) as f64 * (first - encoding)
    }

    /// Bytes of memory, with at most `batch_rows` rows at once.
    pub fn memory_bytes(self, model: &ModelShape, work: &Workload, batch_rows: u64) -> u64 {
        let (method, pass) = self.pass(work);
        let need = Need::new(method, model, &pass, batch_rows);
        // Decoders take turns: K and V are there of one at a time.
        let others = self.more_decoders(work).saturating_mul(cost::decoder_weight_bytes(model));
        need.total().saturating_add(others)
    }
}

/// The way with the least of something; of equals the first.
fn least(key: impl Fn(Way) -> f64) -> Way {
    let mut best = WAYS[0];
    for way in WAYS {
        if key(way) < key(best) {
            best = way;
        }
    }
    best
}

/// The ways of the fewest FLOPs and of the fewest bytes.
pub fn fewest(model: &ModelShape, work: &Workload) -> (Way, Way) {
    let cost = |way: Way| way.cost(model, work);
    (least(|way| cost(way).flops as f64), least(|way| cost(way).bytes as f64))
}

/// The way of the least time where the device says how fast it is; else that of the fewest FLOPs and bytes, if one has both.
pub fn cheapest(model: &ModelShape, work: &Workload, device: Option<&Roofline>) -> Option<Way> {
    match device {
        Some(device) => Some(least(|way| way.least_seconds(model, work, device))),
        None => Some(fewest(model, work)).filter(|(flops, bytes)| flops == bytes).map(|(way, _)| way),
    }
}
