//! Ways to have many outputs, by what they cost.

use t5::advice::ways::{Way, cheapest};
use t5::cost::{self, Breakdown, Method, Roofline, Workload};

use crate::cost::BASE as MODEL;
use crate::memory::Need;

const WORK: Workload = Workload { inputs: 1, prompts: 30, keys: 512, prompt_tokens: 3, new_tokens: 4 };
const DEVICE: Roofline = Roofline { flops_per_s: 8e14, bytes_per_s: 4e12 };

#[test]
fn ways_of_prompts_cost_what_their_method_does() {
    for method in [Method::Pid, Method::PidReplicated, Method::Pie] {
        let way = Way::Prompts(method);
        assert_eq!(way.cost(&MODEL, &WORK), cost::breakdown(method, &MODEL, &WORK).total());
        assert_eq!(
            way.least_seconds(&MODEL, &WORK, &DEVICE),
            cost::least_seconds(method, &MODEL, &WORK, &DEVICE)
        );
        assert_eq!(way.memory_bytes(&MODEL, &WORK, 64), Need::new(method, &MODEL, &WORK, 64).total());
    }
}

/// 30 answers of 4 tokens and 29 between them, one pass over the decoder for each.
#[test]
fn one_sequence_reads_the_decoder_for_every_token() {
    let long = Workload { prompts: 1, new_tokens: 149, ..WORK };
    assert_eq!(Way::OneSequence.cost(&MODEL, &WORK), cost::breakdown(Method::Pid, &MODEL, &long).total());
    assert_eq!(Way::OneSequence.cost(&MODEL, &Workload { new_tokens: 0, ..WORK }).flops, {
        cost::breakdown(Method::Pid, &MODEL, &Workload { prompts: 1, new_tokens: 0, ..WORK }).total().flops
    });
}

#[test]
fn separate_decoders_encode_once_and_decode_alone() {
    let alone = Workload { prompts: 1, prompt_tokens: 0, ..WORK };
    let Breakdown { encoder, self_attention, cross_attention, feed_forward, head } =
        cost::breakdown(Method::Pid, &MODEL, &alone);
    let decoder = self_attention + cross_attention + feed_forward + head;
    let all = Way::SeparateDecoders.cost(&MODEL, &WORK);
    assert_eq!(all.flops, encoder.flops + 30 * decoder.flops);
    assert_eq!(all.bytes, encoder.bytes + 30 * decoder.bytes);
    // 29 more decoders: 12 layers of 8 projections and 2 matrices each, 2 bytes an element.
    let more = 29 * 12 * (8 * 768 * 768 + 2 * 768 * 3072) * 2;
    let one = Need::new(Method::Pid, &MODEL, &alone, 64).total();
    assert_eq!(Way::SeparateDecoders.memory_bytes(&MODEL, &WORK, 64), one + more);
    // A device on which bytes are free: time is arithmetic.
    let device = Roofline { flops_per_s: 1e12, bytes_per_s: 1e30 };
    let seconds = Way::SeparateDecoders.least_seconds(&MODEL, &WORK, &device);
    assert!((seconds / (all.flops as f64 / 1e12) - 1.0).abs() < 1e-9);
}

#[test]
fn the_cheapest_way_is_named_where_there_is_one() {
    let pid = Some(Way::Prompts(Method::Pid));
    assert_eq!(cheapest(&MODEL, &WORK, Some(&DEVICE)), pid);
    // 120 passes over the decoder against 4: more bytes, but no prompt is read 30 times. It depends on the device.
    let long = Workload { prompt_tokens: 400, ..WORK };
    assert_eq!(cheapest(&MODEL, &long, None), None);
    let free_bytes = Roofline { flops_per_s: 1e12, bytes_per_s: 1e30 };
    assert_eq!(cheapest(&MODEL, &long, Some(&free_bytes)), Some(Way::OneSequence));
    let free_flops = Roofline { flops_per_s: 1e30, bytes_per_s: 1e12 };
    assert_eq!(cheapest(&MODEL, &long, Some(&free_flops)), pid);
}
