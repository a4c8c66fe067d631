//! A folder with a T5 of a few kilobytes.

use std::path::Path;

pub const CONFIG: &str = r#"{"model_type":"t5","vocab_size":16,"d_model":4,"d_kv":2,"d_ff":8,"num_heads":2,"num_layers":1,
"relative_attention_num_buckets":4,"relative_attention_max_distance":8,"tie_word_embeddings":true}"#;
pub const TOKENIZER: &str = r#"{"version":"1.0","added_tokens":[],"pre_tokenizer":{"type":"Whitespace"},
"model":{"type":"WordLevel","vocab":{"<pad>":0,"</s>":1,"<unk>":2,"a":3,"b":4,"c":5},"unk_token":"<unk>"}}"#;

/// Names and shapes of its tensors.
fn tensors() -> Vec<(String, Vec<usize>)> {
    let (d, inner, ff, heads) = (4, 4, 8, 2);
    let mut all = vec![("shared.weight".to_owned(), vec![16, d])];
    for (stack, attentions) in
        [("encoder", &["SelfAttention"][..]), ("decoder", &["SelfAttention", "EncDecAttention"])]
    {
        let block = format!("{stack}.block.0.layer");
        for (layer, attention) in attentions.iter().enumerate() {
            for (name, shape) in [("q", [inner, d]), ("k", [inner, d]), ("v", [inner, d]), ("o", [d, inner])]
            {
                all.push((format!("{block}.{layer}.{attention}.{name}.weight"), shape.to_vec()));
            }
            all.push((format!("{block}.{layer}.layer_norm.weight"), vec![d]));
        }
        all.push((format!("{block}.0.SelfAttention.relative_attention_bias.weight"), vec![4, heads]));
        let last = attentions.len();
        all.push((format!("{block}.{last}.DenseReluDense.wi.weight"), vec![ff, d]));
        all.push((format!("{block}.{last}.DenseReluDense.wo.weight"), vec![d, ff]));
        all.push((format!("{block}.{last}.layer_norm.weight"), vec![d]));
        all.push((format!("{stack}.final_layer_norm.weight"), vec![d]));
    }
    all
}

/// Its model.safetensors.
pub fn weights() -> Vec<u8> {
    let mut header = String::from("{");
    let mut data: Vec<u8> = Vec::new();
    for (at, (name, shape)) in tensors().into_iter().enumerate() {
        let (from, count) = (data.len(), shape.iter().product::<usize>());
        let values = (0..count).map(|i| ((i * 37 + at * 11) % 64) as f32 / 64.0 - 0.5);
        data.extend(values.flat_map(|x| half::bf16::from_f32(x).to_le_bytes()));
        let comma = if at > 0 { "," } else { "" };
        header += &format!(
            "{comma}\"{name}\":{{\"dtype\":\"BF16\",\"shape\":{shape:?},\"data_offsets\":[{from},{}]}}",
            data.len()
        );
    }
    header.push('}');
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &data].concat()
}

/// Writes its files and those in `instead`, which take the place of its own of the same name.
pub fn write(folder: &Path, instead: &[(&str, &[u8])]) {
    let weights = weights();
    let own = [
        ("config.json", CONFIG.as_bytes()),
        ("tokenizer.json", TOKENIZER.as_bytes()),
        ("model.safetensors", &weights[..]),
    ];
    for (name, data) in
        own.iter().filter(|(name, _)| instead.iter().all(|(other, _)| name != other)).chain(instead)
    {
        std::fs::write(folder.join(name), data).expect("a file in a folder of our own");
    }
}

/// A new folder, in memory where the system has such a place, deleted when it is dropped.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.expect("a folder")
}

/// Asserts that an error says what is wrong, or what is allowed.
pub fn assert_told(error: &anyhow::Error) {
    let told = format!("{error:#}");
    let says = [
        "allowed",
        "is not",
        "cannot",
        "differ",
        "missing",
        "choose",
        "adapter",
        "not JSON",
        "not a JSON object",
    ];
    assert!(says.iter().any(|word| told.contains(word)), "an error that does not say what is wrong: {told}");
}
