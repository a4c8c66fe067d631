//! The cost model, by hand.

use t5::cost::*;

pub const BASE: ModelShape = ModelShape {
    d_model: 768,
    heads: 12,
    head_dim: 64,
    d_ff: 3072,
    gated: false,
    vocab: 32128,
    encoder_layers: 12,
    decoder_layers: 12,
    element_bytes: 2,
};
const DIALOGUE: Workload = Workload { inputs: 1, prompts: 30, keys: 512, prompt_tokens: 0, new_tokens: 10 };

#[test]
fn kv_of_t5_base_is_18_9_mb_shared_and_566_mb_replicated() {
    assert_eq!(cross_kv_bytes(Method::Pid, &BASE, &DIALOGUE), 18_874_368);
    assert_eq!(cross_kv_bytes(Method::Pie, &BASE, &DIALOGUE), 566_231_040);
}

#[test]
fn intensity_is_about_one_replicated_and_the_harmonic_sum_shared() {
    let pie = cross_attention_step(Method::Pie, &BASE, &DIALOGUE).intensity();
    assert!((pie - 1.0 / (1.0 + 1.0 / 512.0)).abs() < 1e-12, "{pie}");
    let pid = cross_attention_step(Method::Pid, &BASE, &DIALOGUE).intensity();
    assert!((pid - 1.0 / (1.0 / 30.0 + 1.0 / 512.0)).abs() < 1e-12, "{pid}");
}

#[test]
fn encoder_tokens_count_the_prompt_only_in_the_encoder() {
    let work = Workload { inputs: 2, prompt_tokens: 3, ..DIALOGUE };
    assert_eq!(encoder_tokens(Method::Pie, &work), 2 * 30 * 515);
    assert_eq!(encoder_tokens(Method::Pid, &work), 2 * 512);
}

/// A model small enough to count by hand: d = 2, inner = 1, ff = 3, 5 words, one layer each.
#[test]
fn a_hand_worked_model() {
    let model = ModelShape {
        d_model: 2,
        heads: 1,
        head_dim: 1,
        d_ff: 3,
        gated: true,
        vocab: 5,
        encoder_layers: 1,
        decoder_layers: 1,
        element_bytes: 4,
    };
    let work = Workload { inputs: 1, prompts: 2, keys: 4, prompt_tokens: 1, new_tokens: 2 };
    let pid = breakdown(Method::Pid, &model, &work);
    // 4 tokens; per token 4 projections of 2 MACs and 3 matrices of 6 MACs, 4 keys of 2 MACs.
    assert_eq!(pid.encoder, Cost { flops: 4 * 2 * (8 + 18 + 8), bytes: (8 + 18) * 4 });
    // 2 rows x (start, prompt, first new token): 6 tokens; keys read per row: 1 + 2 + 3.
    assert_eq!(pid.self_attention.flops, 6 * 16 + 2 * 6 * 4);
    // Two passes of 8 weights; the second reads 2 cached K and V of both rows; q, k, v, o.
    assert_eq!(pid.self_attention.bytes, (16 + 2 * 2 * 2 + 6 * 4) * 4);
    // K and V of 4 tokens; q and o of 6 tokens; 6 tokens x 4 keys.
    assert_eq!(pid.cross_attention.flops, 4 * 8 + 6 * 8 + 6 * 4 * 4);
    // k, v once and q, o twice; 4 K and 4 V read twice; q and o of 6 tokens.
    assert_eq!(pid.cross_attention.bytes, (4 + 8 + 16 + 12) * 4);
    assert_eq!(pid.feed_forward, Cost { flops: 6 * 36, bytes: 2 * 18 * 4 });
    assert_eq!(pid.head, Cost { flops: 2 * 2 * 2 * 10, bytes: 2 * 10 * 4 });

    let pie = breakdown(Method::Pie, &model, &work);
    // 2 sequences of 5 tokens.
    assert_eq!(pie.encoder.flops, 10 * 2 * (8 + 18 + 10));
    // 2 rows x (start, first new token).
    assert_eq!(pie.feed_forward.flops, 4 * 36);
    assert_eq!(pie.cross_attention.flops, 10 * 8 + 4 * 8 + 4 * 5 * 4);
}

#[test]
fn replication_encodes_like_pid_and_reads_like_pie() {
    let work = Workload { prompt_tokens: 3, ..DIALOGUE };
    assert_eq!(encoder_tokens(Method::PidReplicated, &work), 512);
    assert_eq!(cross_kv_bytes(Method::PidReplicated, &BASE, &work), 566_231_040);
    let [pid, copies] = [Method::Pid, Method::PidReplicated].map(|m| breakdown(m, &BASE, &work));
    assert_eq!(copies.total().flops, pid.total().flops);
    // 10 passes over 29 copies more, and one copying pass that reads 1 and writes 30.
    let one = 18_874_368;
    assert_eq!(copies.cross_attention.bytes - pid.cross_attention.bytes, (10 * 29 + 31) * one);
    assert_eq!(copies.encoder, pid.encoder);
}

#[test]
fn bytes_of_weights_and_of_a_step() {
    // T5-base: 2 x 32128 x 768 of words; 12 x (4 x 768^2 + 2 x 768 x 3072) of the encoder, 12 x (8 ..) of the decoder.
    assert_eq!(BASE.weight_bytes(), 2 * (49_348_608 + 84_934_656 + 113_246_208));
    let step = decode_step_bytes(Method::Pid, &BASE, &DIALOGUE);
    assert_eq!(step, 2 * (24_674_304 + 12 * (6 * 589_824 + 4_718_592)) + 18_874_368);
}

/// A device on which bytes are free, or arithmetic is.
#[test]
fn least_time_is_arithmetic_or_traffic() {
    let total = breakdown(Method::Pid, &BASE, &DIALOGUE).total();
    let seconds = |flops_per_s, bytes_per_s| {
        least_seconds(Method::Pid, &BASE, &DIALOGUE, &Roofline { flops_per_s, bytes_per_s })
    };
    assert!((seconds(1e9, 1e30) / (total.flops as f64 / 1e9) - 1.0).abs() < 1e-12);
    assert!((seconds(1e30, 1e9) / (total.bytes as f64 / 1e9) - 1.0).abs() < 1e-12);
    // Encoding is bound by arithmetic, decoding by traffic: both together take longer than either.
    let both = seconds(1e14, 1e12);
    assert!(both > total.flops as f64 / 1e14 && both > total.bytes as f64 / 1e12);
    assert!(both < total.flops as f64 / 1e14 + total.bytes as f64 / 1e12);
}

#[test]
fn the_crossover_is_where_the_gain_is_reached() {
    let device = Roofline { flops_per_s: 8e14, bytes_per_s: 4e12 };
    let work = Workload { prompt_tokens: 3, prompts: 4, new_tokens: 16, ..DIALOGUE };
    let at = |work: Workload| gain(&BASE, &work, &device);
    for times in [1.05, 1.2, 1.6] {
        let found = crossover(&BASE, &work, &device, times);
        let prompts = found.least_prompts.unwrap();
        assert!(at(Workload { prompts, ..work }) >= times);
        assert!(prompts == 1 || at(Workload { prompts: prompts - 1, ..work }) < times);
        let keys = found.least_keys.unwrap();
        assert!(at(Workload { keys, ..work }) >= times && at(Workload { keys: keys - 1, ..work }) < times);
        if let Some(new_tokens) = found.most_new_tokens {
            assert!(at(Workload { new_tokens, ..work }) >= times);
            assert!(at(Workload { new_tokens: new_tokens + 1, ..work }) < times);
        }
    }
    assert!(crossover(&BASE, &work, &device, 1.2).most_new_tokens.is_some());
    // Nothing is shared by one prompt: the methods differ by its few tokens.
    assert!((at(Workload { prompts: 1, ..work }) - 1.0).abs() < 0.02);
    assert_eq!(crossover(&BASE, &Workload { prompts: 1, ..work }, &device, 1.2).least_keys, None);
}

#[test]
fn the_largest_is_not_passed() {
    assert_eq!([2f64.powi(64), 2f64.powi(80), f64::INFINITY].map(count), [u64::MAX; 3]);
    let work = Workload { inputs: 1 << 40, keys: 1 << 40, ..DIALOGUE };
    assert_eq!(encoder_tokens(Method::Pid, &work), u64::MAX);
}

#[test]
fn t5_base_dialogue_saves_about_the_factor_of_the_issue() {
    let work = Workload { prompt_tokens: 3, ..DIALOGUE };
    let pie = breakdown(Method::Pie, &BASE, &work).total().flops as f64;
    let pid = breakdown(Method::Pid, &BASE, &work).total().flops as f64;
    assert!((13.0..18.0).contains(&(pie / pid)), "{}", pie / pid);
}
