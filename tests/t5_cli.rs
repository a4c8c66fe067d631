//! Bad input: one clear line, exit code 2, no panic.

mod t5_example;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use t5_example::{error, path_text, root, stdout};

/// A copy of a golden model to damage.
struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config.json", "model.safetensors", "request.json"] {
            std::fs::copy(root().join("tests/t5/relu-tied").join(name), folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn config(self, change: impl FnOnce(&mut Value)) -> Self {
        self.edit("config.json", change)
    }

    fn request(self, change: impl FnOnce(&mut Value)) -> Self {
        self.edit("request.json", change)
    }

    fn edit(self, name: &str, change: impl FnOnce(&mut Value)) -> Self {
        let mut value = serde_json::from_slice(&std::fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut value);
        self.write(name, value.to_string().as_bytes())
    }

    fn write(self, name: &str, bytes: &[u8]) -> Self {
        std::fs::write(self.path(name), bytes).unwrap();
        self
    }

    /// The error of asking this model, without the temporary folder's name.
    fn error(self) -> String {
        let request = self.path("request.json");
        let text = error(&["--model", path_text(self.folder.path()), "--ids", path_text(&request), "--json"]);
        text.replace(path_text(self.folder.path()), "DIR")
    }
}

#[test]
fn an_undamaged_copy_runs() {
    let model = Model::new();
    stdout(&[
        "--model",
        path_text(model.folder.path()),
        "--ids",
        path_text(&model.path("request.json")),
        "--json",
    ]);
}

#[test]
fn damaged_weights() {
    let whole = std::fs::read(root().join("tests/t5/relu-tied/model.safetensors")).unwrap();
    for end in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        let text = Model::new().write("model.safetensors", &whole[..end]).error();
        assert!(text.contains("DIR/model.safetensors is not a whole safetensors file"), "{text}");
    }
    let mut corrupt = whole.clone();
    corrupt[..8].fill(0xff);
    let text = Model::new().write("model.safetensors", &corrupt).error();
    assert!(text.contains("is not a whole safetensors file"), "{text}");
    let header = u64::from_le_bytes(whole[..8].try_into().unwrap()) as usize;
    let name = b"decoder.block.0.layer.1.EncDecAttention.k.weight";
    let at = whole[..8 + header].windows(name.len()).position(|w| w == name).unwrap();
    let mut renamed = whole;
    renamed[at] = b'D';
    let text = Model::new().write("model.safetensors", &renamed).error();
    assert!(
        text.contains("tensor decoder.block.0.layer.1.EncDecAttention.k.weight is missing in DIR"),
        "{text}"
    );
}

#[test]
fn missing_files() {
    let no_folder = error(&["--model", "/nowhere", "--ids", "/nowhere/request.json", "--json"]);
    assert!(no_folder.contains("cannot read /nowhere/request.json"), "{no_folder}");
    let no_folder = error(&["--model", "/nowhere"]);
    assert!(no_folder.contains("model is /nowhere, allowed: a folder with config.json"), "{no_folder}");
    for name in ["config.json", "model.safetensors"] {
        let model = Model::new();
        std::fs::remove_file(model.path(name)).unwrap();
        let text = model.error();
        assert!(text.contains(&format!("cannot read DIR/{name}")), "{text}");
    }
    let no_tokenizer = error(&["--model", path_text(&root().join("tests/t5/relu-tied"))]);
    assert!(no_tokenizer.contains("tokenizer.json does not exist"), "{no_tokenizer}");
    assert!(error(&["--input", "/nowhere/input.txt"]).contains("cannot read input /nowhere/input.txt"));
    assert!(error(&["--prompts", "/nowhere/p.txt"]).contains("cannot read prompts /nowhere/p.txt"));
    // A folder is not a file.
    assert!(error(&["--input", "/"]).contains("cannot read input /"));
}

#[test]
fn nonsense_in_the_config() {
    let cases: [(&str, Value, &str); 15] = [
        ("num_heads", json!(0), "num_heads is 0, allowed: an integer from 1 to 4096"),
        ("num_layers", json!(-3), "num_layers is -3, allowed: an integer from 1 to 1024"),
        ("num_decoder_layers", json!(0), "num_decoder_layers is 0, allowed: an integer from 1 to 1024"),
        (
            "d_model",
            json!(1_000_000_000_000u64),
            "d_model is 1000000000000, allowed: an integer from 1 to 1048576",
        ),
        ("d_ff", json!(1e30), "d_ff is 1e+30, allowed: an integer from 1 to 1048576"),
        ("d_kv", json!("64"), "d_kv is \"64\", allowed: an integer from 1 to 512"),
        ("vocab_size", json!(1.5), "vocab_size is 1.5, allowed: an integer from 2 to 16777216"),
        ("feed_forward_proj", json!("swish"), "feed_forward_proj is \"swish\", allowed: \"relu\""),
        ("model_type", json!("bart"), "model_type is \"bart\", allowed: \"t5\""),
        ("layer_norm_epsilon", json!(-1.0), "layer_norm_epsilon is -1.0, allowed: a number between 0 and 1"),
        ("tie_word_embeddings", json!(3), "tie_word_embeddings is 3, allowed: true or false"),
        ("eos_token_id", json!(100_000), "eos_token_id is 100000, allowed: an integer from 0 to"),
        (
            "relative_attention_num_buckets",
            json!(1),
            "relative_attention_num_buckets is 1, allowed: an integer from",
        ),
        (
            "relative_attention_max_distance",
            json!(3),
            "relative_attention_max_distance is 3, allowed: more than",
        ),
        ("d_model", json!(48), "tensor shared.weight has shape"),
    ];
    for (field, value, words) in cases {
        let text = Model::new().config(|config| config[field] = value).error();
        assert!(text.contains(words), "{text}");
    }
    // Contradictions with the weights.
    let text = Model::new().config(|c| c["num_layers"] = json!(9)).error();
    assert!(text.contains("is missing in DIR"), "{text}");
    let text = Model::new().config(|c| c["feed_forward_proj"] = json!("gated-gelu")).error();
    assert!(text.contains("DenseReluDense.wi_0.weight is missing"), "{text}");
    let text = Model::new().config(|c| c["tie_word_embeddings"] = json!(false)).error();
    assert!(text.contains("lm_head.weight is missing"), "{text}");
    for bytes in ["", "{", "[1]", "null"] {
        let text = Model::new().write("config.json", bytes.as_bytes()).error();
        assert!(text.starts_with("error: in DIR/config.json: not"), "{text}");
    }
}

#[test]
fn bad_requests() {
    let text = Model::new().request(|r| r["prompts"] = json!([[5], [3, 4_000_000]])).error();
    assert!(text.contains("prompts[1][1] is 4000000, allowed: 0 to "), "{text}");
    let text = Model::new().request(|r| r["input_ids"] = json!([4_000_000])).error();
    assert!(text.contains("input_ids[0] is 4000000, allowed: 0 to "), "{text}");
    let text = Model::new().request(|r| r["input_ids"] = json!([])).error();
    assert!(text.contains("input_ids is empty, allowed: at least one token"), "{text}");
    for bytes in
        ["", "[]", "{\"input_ids\": [1]}", "{\"input_ids\": [-1], \"prompts\": [], \"max_new_tokens\": 1}"]
    {
        let text = Model::new().write("request.json", bytes.as_bytes()).error();
        assert!(text.contains("DIR/request.json is not a request, allowed: {\"input_ids\""), "{text}");
    }
    // More tokens than any memory holds are refused, not allocated.
    let text = Model::new().request(|r| r["max_new_tokens"] = json!(1u64 << 60)).error();
    assert!(text.contains("max_new_tokens is 1152921504606846976, allowed: at most"), "{text}");
}

#[test]
fn bad_arguments() {
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().join("empty.txt");
    std::fs::write(&empty, " \n").unwrap();
    let text = error(&["--input", path_text(&empty)]);
    assert!(text.contains("empty.txt is empty, allowed: at least one word"), "{text}");
    let text = error(&["--prompts", path_text(&empty)]);
    assert!(text.contains("empty.txt is empty, allowed: at least one word"), "{text}");
    std::fs::write(&empty, [0xff, 0xfe]).unwrap();
    assert!(error(&["--input", path_text(&empty)]).contains("cannot read input"));
    assert!(error(&["--threads", "0"]).contains("--threads is 0, allowed: 1 to 1024"));
    let unwritable = Path::new("/nowhere/logits.safetensors");
    let case = root().join("tests/t5/relu-tied");
    let request = case.join("request.json");
    let text = error(&[
        "--model",
        path_text(&case),
        "--ids",
        path_text(&request),
        "--json",
        "--logits",
        path_text(unwritable),
    ]);
    assert!(text.contains("cannot write /nowhere/logits.safetensors"), "{text}");
}
