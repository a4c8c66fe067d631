//! Ways to have many outputs of one input, by what they cost.

use crate::memory::Need;
use crate::numbers::count;
use crate::problem::{Method, ModelShape, Workload};
use crate::time::{self, Roofline};
use crate::work::{Cost, breakdown};

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

impl Way {
    /// Of equals the first is the cheapest.
    pub const ALL: [Self; 5] = [
        Self::Prompts(Method::Pid),
        Self::Prompts(Method::PidReplicated),
        Self::Prompts(Method::Pie),
        Self::OneSequence,
        Self::SeparateDecoders,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Prompts(method) => method.name(),
            Self::OneSequence => "one sequence",
            Self::SeparateDecoders => "separate decoders",
        }
    }

    /// The model that it takes.
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
        let first = breakdown(method, model, &pass);
        let (more, again) = (self.more_decoders(work), first.decoder());
        let (flops, bytes) = (more.saturating_mul(again.flops), more.saturating_mul(again.bytes));
        first.total() + Cost { flops, bytes }
    }

    /// Seconds that a device cannot do without, all but launches and waiting.
    pub fn least_seconds(self, model: &ModelShape, work: &Workload, device: &Roofline) -> f64 {
        let (method, pass) = self.pass(work);
        let first = time::least_seconds(method, model, &pass, device);
        let encoding = device.seconds(breakdown(method, model, &pass).encoder);
        first + self.more_decoders(work) as f64 * (first - encoding)
    }

    /// Bytes of memory, with at most `batch_rows` rows at once.
    pub fn memory_bytes(self, model: &ModelShape, work: &Workload, batch_rows: u64) -> u64 {
        let (method, pass) = self.pass(work);
        let need = Need::new(method, model, &pass, batch_rows);
        let decoder = count(model.decoder_weights() * model.element_bytes as f64);
        // Decoders take turns: K and V are there of one at a time.
        let others = self.more_decoders(work).saturating_mul(decoder);
        need.total().saturating_add(others)
    }
}

/// The way with the least of something.
fn least(key: impl Fn(Way) -> f64) -> Way {
    let mut best = Way::ALL[0];
    for way in Way::ALL {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::T5_BASE;
    use crate::work::Breakdown;

    const WORK: Workload = Workload { inputs: 1, prompts: 30, keys: 512, prompt_tokens: 3, new_tokens: 4 };
    const DEVICE: Roofline = Roofline { flops_per_s: 8e14, bytes_per_s: 4e12 };

    #[test]
    fn ways_of_prompts_cost_what_their_method_does() {
        for method in [Method::Pid, Method::PidReplicated, Method::Pie] {
            let way = Way::Prompts(method);
            assert_eq!(way.cost(&T5_BASE, &WORK), breakdown(method, &T5_BASE, &WORK).total());
            assert_eq!(
                way.least_seconds(&T5_BASE, &WORK, &DEVICE),
                time::least_seconds(method, &T5_BASE, &WORK, &DEVICE)
            );
            assert_eq!(way.memory_bytes(&T5_BASE, &WORK, 64), Need::new(method, &T5_BASE, &WORK, 64).total());
        }
    }

    /// 30 answers of 4 tokens and 29 between them, one pass over the decoder for each.
    #[test]
    fn one_sequence_reads_the_decoder_for_every_token() {
        let long = Workload { prompts: 1, new_tokens: 149, ..WORK };
        assert_eq!(Way::OneSequence.cost(&T5_BASE, &WORK), breakdown(Method::Pid, &T5_BASE, &long).total());
        assert_eq!(Way::OneSequence.cost(&T5_BASE, &Workload { new_tokens: 0, ..WORK }).flops, {
            breakdown(Method::Pid, &T5_BASE, &Workload { prompts: 1, new_tokens: 0, ..WORK }).total().flops
        });
    }

    #[test]
    fn separate_decoders_encode_once_and_decode_alone() {
        let alone = Workload { prompts: 1, prompt_tokens: 0, ..WORK };
        let Breakdown { encoder, self_attention, cross_attention, feed_forward, head } =
            breakdown(Method::Pid, &T5_BASE, &alone);
        let decoder = self_attention + cross_attention + feed_forward + head;
        let all = Way::SeparateDecoders.cost(&T5_BASE, &WORK);
        assert_eq!(all.flops, encoder.flops + 30 * decoder.flops);
        assert_eq!(all.bytes, encoder.bytes + 30 * decoder.bytes);
        // 29 more decoders: 12 layers of 8 projections and 2 matrices each, 2 bytes an element.
        let more = 29 * 12 * (8 * 768 * 768 + 2 * 768 * 3072) * 2;
        let one = Need::new(Method::Pid, &T5_BASE, &alone, 64).total();
        assert_eq!(Way::SeparateDecoders.memory_bytes(&T5_BASE, &WORK, 64), one + more);
        // A device on which bytes are free: time is arithmetic.
        let device = Roofline { flops_per_s: 1e12, bytes_per_s: 1e30 };
        let seconds = Way::SeparateDecoders.least_seconds(&T5_BASE, &WORK, &device);
        assert!((seconds / (all.flops as f64 / 1e12) - 1.0).abs() < 1e-9);
    }

    #[test]
    fn the_cheapest_way_is_named_where_there_is_one() {
        let pid = Some(Way::Prompts(Method::Pid));
        assert_eq!(cheapest(&T5_BASE, &WORK, Some(&DEVICE)), pid);
        // 120 passes over the decoder against 4: more bytes, but no prompt is read 30 times. It depends on the device.
        let long = Workload { prompt_tokens: 400, ..WORK };
        assert_eq!(cheapest(&T5_BASE, &long, None), None);
        let free_bytes = Roofline { flops_per_s: 1e12, bytes_per_s: 1e30 };
        assert_eq!(cheapest(&T5_BASE, &long, Some(&free_bytes)), Some(Way::OneSequence));
        // Of one prompt all ways are alike: the first is named.
        assert_eq!(cheapest(&T5_BASE, &Workload { prompts: 1, prompt_tokens: 0, ..WORK }, None), pid);
        let free_flops = Roofline { flops_per_s: 1e30, bytes_per_s: 1e12 };
        assert_eq!(cheapest(&T5_BASE, &long, Some(&free_flops)), pid);
    }
}
