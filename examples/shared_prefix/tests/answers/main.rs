//! Every mode against the definition and against transformers, and what goes wrong where positions are wrong.

mod goldens;
mod reference;

use indicatif::ProgressBar;
use reference::{Reference, both};
use serde_json::json;
use shared_prefix::attention::Sequences;
use shared_prefix::cache::KvCache;
use shared_prefix::config::Config;
use shared_prefix::generate::{Method, Request, Stats, generate, prefill};
use shared_prefix::model::Model;

const METHODS: [Method; 3] = [Method::Shared, Method::Copies, Method::Recompute];
/// f32 sums in another order; logits are of size 1.
const TOLERANCE: f64 = 1e-4;

fn config(heads: usize, kv_heads: usize, tied: bool) -> Config {
    Config::of(json!({
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": 8, "rope_theta": 100.0,
        "tie_word_embeddings": tied,
    }))
    .unwrap()
}

/// Ids without a pattern.
fn ids(count: usize, seed: usize) -> Vec<u32> {
    (0..count).map(|i| (((i + 1) * (i + 7) * (2 * seed + 3) * 2_654_435_761) >> 7) as u32 % 64).collect()
}

fn request(document: usize, prompts: &[usize], new_tokens: usize) -> Request {
    Request {
        document: ids(document, 0),
        prompts: prompts.iter().enumerate().map(|(i, n)| ids(*n, i + 1)).collect(),
        new_tokens,
        ends: Vec::new(),
    }
}

fn answers(model: &Model, method: Method, request: &Request) -> (Vec<Vec<u32>>, Stats) {
    generate(model, method, request, &ProgressBar::hidden()).unwrap()
}

fn behind(document: &[u32], prompt: &[u32]) -> Vec<u32> {
    [document, prompt].concat()
}

/// Greedy ids by the definition, of requests for which no id depends on rounding.
fn expected(reference: &Reference, request: &Request) -> Vec<Vec<u32>> {
    let of_prompt = |prompt: &Vec<u32>| {
        let (ids, lead) = reference.greedy(&behind(&request.document, prompt), request.new_tokens);
        assert!(lead > 2.0 * TOLERANCE, "a close call, {lead}: choose other ids");
        ids
    };
    request.prompts.iter().map(of_prompt).collect()
}

/// The K/V of these tokens from position 0 on.
fn prefilled(model: &Model, tokens: &[u32]) -> KvCache {
    let own = KvCache::new(&model.config, 1, tokens.len()).unwrap();
    let mut sequences = Sequences { prefix: None, own };
    prefill(model, &mut sequences, 0, tokens, &ProgressBar::hidden()).unwrap();
    sequences.own
}

/// Logits behind each token of each prompt, the prompts behind the shared document: `[prompts][tokens][vocab]`.
fn shared_logits(model: &Model, request: &Request) -> Vec<Vec<Vec<f32>>> {
    let document = prefilled(model, &request.document);
    let longest = request.prompts.iter().map(Vec::len).max().unwrap();
    let own = KvCache::new(&model.config, request.prompts.len(), longest).unwrap();
    let mut sequences = Sequences { prefix: Some(document), own };
    let x = model.pass(&request.prompts, &mut sequences).unwrap();
    let tokens: usize = request.prompts.iter().map(Vec::len).sum();
    let logits = model.logits(&x, &(0..tokens as u32).collect::<Vec<_>>()).unwrap();
    let mut rows = logits.chunks_exact(model.config.vocab).map(<[f32]>::to_vec);
    request.prompts.iter().map(|prompt| rows.by_ref().take(prompt.len()).collect()).collect()
}

fn largest_difference(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).abs()).fold(0.0, f64::max)
}

/// Ids of every mode, and logits of the shared one, equal the definition's.
fn check(config: &Config, request: &Request) {
    let (model, reference) = both(config);
    let want = expected(&reference, request);
    for method in METHODS {
        assert_eq!(answers(&model, method, request).0, want, "{method:?}");
    }
    for (got, prompt) in shared_logits(&model, request).iter().zip(&request.prompts) {
        let want = reference.logits(&behind(&request.document, prompt), 0);
        for (got, want) in got.iter().zip(&want[request.document.len()..]) {
            let worst = largest_difference(got, want);
            assert!(worst < TOLERANCE, "{worst}");
        }
    }
}

#[test]
fn ragged_prompts() {
    check(&config(4, 2, false), &request(17, &[3, 1, 7, 5], 6));
}

#[test]
fn one_prompt() {
    check(&config(4, 2, false), &request(23, &[6], 6));
}

#[test]
fn many_prompts() {
    check(&config(4, 2, false), &request(19, &[2; 40], 3));
}

#[test]
fn a_document_and_prompts_of_one_token() {
    check(&config(4, 2, false), &request(1, &[1, 1, 1], 5));
    check(&config(4, 2, false), &request(1, &[4, 1], 5));
}

#[test]
fn one_new_token() {
    check(&config(4, 2, false), &request(9, &[2, 5], 1));
}

#[test]
fn kv_heads_as_many_as_heads_and_a_single_one() {
    check(&config(4, 4, false), &request(17, &[3, 1, 7], 6));
    check(&config(4, 1, false), &request(17, &[3, 1, 7], 6));
    check(&config(3, 1, false), &request(17, &[3, 1, 7], 6));
}

#[test]
fn a_tied_head() {
    check(&config(4, 2, true), &request(17, &[3, 1, 7], 6));
}

/// A document in several pieces, and in recomputation a prompt across them.
#[test]
fn what_is_longer_than_a_piece_of_prefill() {
    check(&config(4, 2, false), &request(130, &[140, 2], 2));
    check(&config(4, 2, false), &request(256, &[3, 1], 2));
}

/// Sequences that have ended take no further part, and the others go on as they would.
#[test]
fn answers_end_at_their_ends() {
    let (model, reference) = both(&config(4, 2, false));
    let all = request(17, &[3, 1, 7, 5], 6);
    let whole = expected(&reference, &all);
    // The second's second: it ends early, and a step later there are fewer rows than sequences.
    let end = whole[1][1];
    let cut = |ids: &Vec<u32>| ids.iter().position(|id| *id == end).map_or(ids.len(), |at| at + 1);
    let want: Vec<Vec<u32>> = whole.iter().map(|ids| ids[..cut(ids)].to_vec()).collect();
    assert!(want.iter().any(|ids| ids.len() == 6) && want[1].len() < 6, "{want:?}");
    let ending = Request { ends: vec![end], ..all.clone() };
    for method in METHODS {
        let (ids, stats) = answers(&model, method, &ending);
        assert_eq!(ids, want, "{method:?}");
        assert_eq!(stats.new_tokens, want.iter().map(Vec::len).sum::<usize>());
        assert!(stats.read_kv_bytes < answers(&model, method, &all).1.read_kv_bytes, "{method:?}");
    }
}

/// Positions go on behind the document: if they began anew the answers of these tests' model would be others.
#[test]
fn positions_go_on_behind_the_document() {
    let (model, reference) = both(&config(4, 2, false));
    let (document, prompt) = (ids(17, 0), ids(4, 1));
    let prefix = prefilled(&model, &document);
    let own = KvCache::new(&model.config, 1, 5).unwrap();
    let mut sequences = Sequences { prefix: Some(prefix), own };
    assert_eq!(sequences.position(0), 17);
    model.pass(std::slice::from_ref(&prompt), &mut sequences).unwrap();
    assert_eq!(sequences.position(0), 21);
    let (got, whole) = (shared_logits(&model, &request(17, &[4], 1)), behind(&document, &prompt));
    let want = &reference.logits(&whole, 0)[20];
    assert!(largest_difference(&got[0][3], want) < TOLERANCE);
    // Only distances matter: where the whole sequence begins does not.
    assert!(largest_difference(&got[0][3], &reference.logits(&whole, 100)[20]) < TOLERANCE);
    // A prompt at position 0 is one as if there were no document.
    assert!(largest_difference(&got[0][3], &reference.logits(&prompt, 0)[3]) > 0.1);
}

/// The cache holds each K turned by its own absolute position; V is not turned.
#[test]
fn k_is_turned_by_its_own_position_before_it_is_cached() {
    let (model, reference) = both(&config(4, 2, false));
    // In the first layer K and V depend on the token and its position alone.
    let cache = prefilled(&model, &[5; 12]);
    let kv = cache.layer(0);
    let token = |data: &[f32], at: usize| data[at * 16..][..16].to_vec();
    for position in 1..12 {
        assert_eq!(token(kv.v.data, position), token(kv.v.data, 0));
        let mut want: Vec<f64> = token(kv.k.data, 0).into_iter().map(f64::from).collect();
        assert!(largest_difference(&token(kv.k.data, position), &want) > 0.1);
        want.chunks_exact_mut(8).for_each(|head| reference.rope(head, position));
        assert!(largest_difference(&token(kv.k.data, position), &want) < 1e-5, "position {position}");
    }
}

/// The same tokens at other positions, or behind other tokens, have other K/V: it is no prefix.
#[test]
fn kv_from_the_middle_of_a_document_is_no_prefix() {
    let (model, _) = both(&config(4, 2, false));
    let document = ids(16, 0);
    let whole = prefilled(&model, &document);
    let (begin, end) = (prefilled(&model, &document[..8]), prefilled(&model, &document[8..]));
    let f64s = |data: &[f32]| data.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    for layer in 0..2 {
        let [whole, begin, end] = [&whole, &begin, &end].map(|cache| cache.layer(layer));
        let (first, last) = whole.k.data.split_at(8 * 16);
        assert!(largest_difference(begin.k.data, &f64s(first)) < 1e-5, "what stands behind changes nothing");
        assert!(largest_difference(end.k.data, &f64s(last)) > 0.1, "K of layer {layer} knows its position");
        let (first, last) = whole.v.data.split_at(8 * 16);
        assert!(largest_difference(begin.v.data, &f64s(first)) < 1e-5);
        let differs = largest_difference(end.v.data, &f64s(last)) > 0.1;
        assert_eq!(differs, layer > 0, "V of layer {layer}: from the second on it knows what stands before");
    }
}

/// No padding: what a sequence answers does not depend on the lengths of the others.
#[test]
fn a_sequence_does_not_depend_on_the_others() {
    let (model, _) = both(&config(4, 2, false));
    let together = request(17, &[3, 1, 9, 5], 6);
    for method in METHODS {
        let (all, _) = answers(&model, method, &together);
        for (prompt, want) in together.prompts.iter().zip(&all) {
            let alone = Request { prompts: vec![prompt.clone()], ..together.clone() };
            assert_eq!(answers(&model, method, &alone).0[0], *want, "{method:?}");
        }
    }
    let together_logits = shared_logits(&model, &together);
    for (prompt, want) in together.prompts.iter().zip(&together_logits) {
        let alone = shared_logits(&model, &Request { prompts: vec![prompt.clone()], ..together.clone() });
        for (got, want) in alone[0].iter().zip(want) {
            let want: Vec<f64> = want.iter().map(|x| f64::from(*x)).collect();
            assert!(largest_difference(got, &want) < 1e-5);
        }
    }
}

/// Every sequence reads all of the document, its first token and its last.
#[test]
fn all_of_the_document_is_read() {
    let (model, _) = both(&config(4, 2, false));
    let whole = request(17, &[3, 4], 1);
    let logits = shared_logits(&model, &whole);
    for changed in [0, 16] {
        let mut other = whole.clone();
        other.document[changed] = (other.document[changed] + 1) % 64;
        for (a, b) in shared_logits(&model, &other).iter().flatten().zip(logits.iter().flatten()) {
            let b: Vec<f64> = b.iter().map(|x| f64::from(*x)).collect();
            assert!(largest_difference(a, &b) > 10.0 * TOLERANCE, "token {changed} is not read");
        }
    }
}

/// Document 10, prompts of 2 and 3, three new tokens of which the last is not read: slots of 5. A token's K and V are
/// 2 x 2 layers x 2 heads x 8 x 4 = 256 bytes.
#[test]
fn what_is_counted() {
    let (model, _) = both(&config(4, 2, false));
    let of = |method| answers(&model, method, &request(10, &[2, 3], 3)).1;
    let [shared, copies, recompute] = METHODS.map(of);
    assert_eq!([&shared, &copies, &recompute].map(|s| s.prefilled_tokens), [15, 15, 25]);
    assert_eq!(shared.kv_bytes, 256 * (10 + 2 * 5));
    assert_eq!(copies.kv_bytes, 256 * 2 * 15);
    assert_eq!(recompute.kv_bytes, copies.kv_bytes);
    // Two steps: own keys 3 + 4, then 4 + 5.
    assert_eq!(shared.read_kv_bytes, 256 * (10 + 7 + 10 + 9));
    assert_eq!(copies.read_kv_bytes, 256 * (20 + 7 + 20 + 9));
    assert_eq!(recompute.read_kv_bytes, copies.read_kv_bytes);
    assert_eq!(shared.step_kv_bytes(), Some(256 * 18));
    assert_eq!(shared.steps.len(), 2);
    for stats in [shared, copies, recompute] {
        assert_eq!(stats.new_tokens, 6);
        assert_eq!(stats.total(), stats.prefill + stats.copy + stats.decode());
    }
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let (model, _) = both(&config(4, 2, false));
    let good = request(17, &[3, 1], 4);
    let error = |request: Request| {
        generate(&model, Method::Shared, &request, &ProgressBar::hidden()).unwrap_err().to_string()
    };
    let empty = Vec::new;
    assert_eq!(
        error(Request { document: empty(), ..good.clone() }),
        "document is empty, allowed: at least one token"
    );
    assert_eq!(
        error(Request { prompts: Vec::new(), ..good.clone() }),
        "prompts is empty, allowed: at least one prompt"
    );
    assert_eq!(
        error(Request { prompts: vec![ids(2, 1), empty()], ..good.clone() }),
        "prompts[1] is empty, allowed: at least one token"
    );
    assert_eq!(
        error(Request { document: vec![1, 64], ..good.clone() }),
        "document[1] is 64, allowed: 0 to 63"
    );
    assert_eq!(
        error(Request { prompts: vec![vec![2], vec![3, 99]], ..good.clone() }),
        "prompts[1][1] is 99, allowed: 0 to 63"
    );
    assert!(
        error(Request { new_tokens: 0, ..good.clone() }).starts_with("new_tokens is 0, allowed: 1 to 2028")
    );
    let long = error(Request { new_tokens: 2029, ..good });
    assert!(
        long.starts_with("new_tokens is 2029, allowed: 1 to 2028, so that 17 tokens of document"),
        "{long}"
    );
}

/// A slot that is full is not continued in its neighbour's.
#[test]
fn slots_do_not_overflow() {
    let (model, _) = both(&config(4, 2, false));
    let own = KvCache::new(&model.config, 2, 3).unwrap();
    let mut sequences = Sequences { prefix: None, own };
    model.pass(&[ids(3, 1), ids(1, 2)], &mut sequences).unwrap();
    let error = model.pass(&[ids(1, 3), ids(1, 4)], &mut sequences).err().unwrap().to_string();
    assert_eq!(error, "tokens of sequence 0 are 4, allowed: up to 3, its slot");
}
