//! Candle's own T5 against transformers and ours: where it is right, and each fault that README.md names.

mod common;

use candle_core::quantized::{GgmlDType, QTensor, gguf_file};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_t5::load;
use candle_transformers::models::{quantized_t5, t5};
use common::{Case, TOLERANCE, off};

fn config(case: &Case) -> t5::Config {
    serde_json::from_str(&std::fs::read_to_string(case.folder.join("config.json")).unwrap()).unwrap()
}

fn candles(case: &Case, config: &t5::Config) -> t5::T5ForConditionalGeneration {
    let bytes = std::fs::read(case.folder.join("model.safetensors")).unwrap();
    let weights = VarBuilder::from_buffered_safetensors(bytes, DType::F32, &Device::Cpu).unwrap();
    t5::T5ForConditionalGeneration::load(weights, config).unwrap()
}

/// Of every prompt's tokens, fed one by one: how many the decoder has seen, candle's logits with its cache, transformers'.
fn logits(case: &Case, config: &t5::Config) -> Vec<(usize, Vec<f32>, Vec<f32>)> {
    let mut model = candles(case, config);
    let ids = |ids: &[u32]| Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let encoding = model.encode(&ids(&case.input)).unwrap();
    let mut all = Vec::new();
    for (i, prompt) in case.prompts.iter().enumerate() {
        model.clear_kv_cache();
        for (tokens, id) in [0].iter().chain(prompt).enumerate() {
            let got =
                model.decode(&ids(&[*id]), &encoding).unwrap().flatten_all().unwrap().to_vec1().unwrap();
            all.push((tokens + 1, got, case.expected(i, tokens)));
        }
    }
    all
}

/// Right up to the ninth token, wrong from the tenth on: there the first is nine positions back, which the decoder's 32
/// buckets tell from eight, and the encoder's do not. (The model is tied: its logits are divided by d_model.)
#[test]
fn decoders_positions_are_the_encoders_from_the_tenth_token_on() {
    let case = Case::new("long-prompts");
    let logits = logits(&case, &config(&case));
    assert!(logits.iter().any(|(seen, ..)| *seen < 10) && logits.iter().any(|(seen, ..)| *seen > 100));
    for (seen, got, want) in logits {
        let got: Vec<f32> = got.iter().map(|x| x / 32.0).collect();
        let off = off(&got, &want);
        assert_eq!(off <= TOLERANCE, seen < 10, "{seen} tokens: off by {off}");
    }
}

/// An untied model, gated as v1.1 is, of fewer than ten tokens.
#[test]
fn it_is_right_where_readme_says() {
    let case = Case::new("gated-untied");
    let logits = logits(&case, &config(&case));
    assert!(logits.iter().any(|(seen, ..)| *seen == 8));
    for (seen, got, want) in logits {
        assert!(off(&got, &want) <= TOLERANCE, "{seen} tokens");
    }
}

/// They are multiplied by the square root of d_model, where transformers divides by it.
#[test]
fn tied_logits_are_d_model_times_too_large() {
    let case = Case::new("relu-tied");
    let config = config(&case);
    assert_eq!((config.d_model, config.tie_word_embeddings), (32, true));
    for (_, got, want) in logits(&case, &config).into_iter().filter(|(seen, ..)| *seen < 10) {
        let dot = |x: &[f32]| x.iter().zip(&want).map(|(x, y)| f64::from(x * y)).sum::<f64>();
        let factor = dot(&got) / dot(&want);
        assert!((factor / 32.0 - 1.0).abs() < 1e-4, "{factor}");
    }
}

/// Where it is not gated it is ReLU, whatever the folder says.
#[test]
fn activations_other_than_relu_are_ignored() {
    for name in ["gelu-erf", "silu"] {
        let case = Case::new(name);
        let named = config(&case);
        let mut relu = named.clone();
        relu.feed_forward_proj.activation = candle_nn::Activation::Relu;
        assert!(!named.feed_forward_proj.gated && named != relu);
        for ((seen, got, want), (_, by_relu, _)) in
            logits(&case, &named).into_iter().zip(logits(&case, &relu))
        {
            assert_eq!(got, by_relu, "{name}");
            let factor = if named.tie_word_embeddings { named.d_model as f32 } else { 1.0 };
            let got: Vec<f32> = got.iter().map(|x| x / factor).collect();
            assert!(off(&got, &want) > 10.0 * TOLERANCE, "{name}, {seen} tokens");
        }
    }
}

/// Another encoding at a later step is heeded, so K and V are not what the first step projected.
#[test]
fn cross_attention_is_projected_in_every_step() {
    let case = Case::new("gated-untied");
    let mut model = candles(&case, &config(&case));
    let ids = |ids: &[u32]| Tensor::new(ids, &Device::Cpu).unwrap().unsqueeze(0).unwrap();
    let encoding = model.encode(&ids(&case.input)).unwrap();
    let mut second = |other: &Tensor| -> Vec<f32> {
        model.clear_kv_cache();
        model.decode(&ids(&[0, 5]), &encoding).unwrap();
        model.decode(&ids(&[7]), other).unwrap().flatten_all().unwrap().to_vec1().unwrap()
    };
    let same = second(&encoding);
    assert_eq!(same, second(&encoding));
    assert!(off(&same, &second(&(&encoding * 0.5).unwrap())) > 10.0 * TOLERANCE);
}

/// The quantized T5 with weights that are not quantized: its encoder is the other's up to 128 tokens, and drifts beyond, as
/// it counts on where the buckets end.
#[test]
fn the_quantized_encoder_drifts_beyond_128_tokens() {
    let case = Case::new("gated-untied");
    let file = tempfile::NamedTempFile::new().unwrap();
    let tensors =
        candle_core::safetensors::load(case.folder.join("model.safetensors"), &Device::Cpu).unwrap();
    let tensors: Vec<(String, QTensor)> = tensors
        .into_iter()
        .map(|(name, tensor)| (name, QTensor::quantize(&tensor, GgmlDType::F32).unwrap()))
        .collect();
    let named: Vec<(&str, &QTensor)> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut file.as_file(), &[], &named).unwrap();
    let weights = quantized_t5::VarBuilder::from_gguf(file.path(), &Device::Cpu).unwrap();
    let text = std::fs::read_to_string(case.folder.join("config.json")).unwrap();
    let mut quantized =
        quantized_t5::T5ForConditionalGeneration::load(weights, &serde_json::from_str(&text).unwrap())
            .unwrap();
    let (mut plain, ours) =
        (candles(&case, &config(&case)), load::folder(&case.folder, &Device::Cpu).unwrap());
    for tokens in [20, 127, 128, 129, 160] {
        let input: Vec<u32> = (0..tokens).map(|i| 2 + i * 31 % 90).collect();
        let ids = Tensor::new(&input[..], &Device::Cpu).unwrap().unsqueeze(0).unwrap();
        let flat = |x: Tensor| -> Vec<f32> { x.flatten_all().unwrap().to_vec1().unwrap() };
        let want = flat(ours.encoding(&input).unwrap());
        assert!(off(&flat(plain.encode(&ids).unwrap()), &want) <= TOLERANCE, "{tokens} tokens");
        let off = off(&flat(quantized.encode(&ids).unwrap()), &want);
        assert_eq!(off <= TOLERANCE, tokens <= 128, "{tokens} tokens: off by {off}");
    }
}
