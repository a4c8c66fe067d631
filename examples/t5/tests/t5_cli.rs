//! Bad input: one clear line, exit code 2, no panic.

mod t5_example;

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use t5_example::{error, path_text, root};

/// A copy of a golden model to damage.
struct Model {
    folder: tempfile::TempDir,
}

impl Model {
    fn new() -> Self {
        Self::of("tests/goldens/relu-tied")
    }

    fn of(original: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for entry in std::fs::read_dir(root().join(original)).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.path().join(path.file_name().unwrap())).unwrap();
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

    /// Changes the header of the weights, and the bytes of the tensors.
    fn weights(self, change: impl FnOnce(&mut Value, &mut Vec<u8>)) -> Self {
        let file = std::fs::read(self.path("model.safetensors")).unwrap();
        let (length, rest) = file.split_at(8);
        let (header, data) = rest.split_at(u64::from_le_bytes(length.try_into().unwrap()) as usize);
        let (mut header, mut data) = (serde_json::from_slice(header).unwrap(), data.to_vec());
        change(&mut header, &mut data);
        let header = header.to_string();
        let whole = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &data].concat();
        self.write("model.safetensors", &whole)
    }

    /// A folder in the place of a file.
    fn folder_at(self, name: &str) -> Self {
        std::fs::remove_file(self.path(name)).unwrap();
        std::fs::create_dir(self.path(name)).unwrap();
        self
    }

    /// What this model answers to its request.
    fn answers(&self, more: &[&str]) -> Value {
        let request = self.path("request.json");
        let arguments = ["--model", path_text(self.folder.path()), "--ids", path_text(&request), "--json"];
        t5_example::answers(&t5_example::json(&[&arguments[..], more].concat()))
    }

    /// The error of asking this model, without the temporary folder's name.
    fn error(self) -> String {
        let request = path_text(&self.path("request.json")).to_string();
        self.error_with(&["--ids", &request, "--json"])
    }

    /// The error of asking this model about a text.
    fn text_error(self) -> String {
        let assets = root().join("assets");
        let (input, prompts) = (assets.join("dialogue.txt"), assets.join("prompts.txt"));
        self.error_with(&["--input", path_text(&input), "--prompts", path_text(&prompts)])
    }

    fn error_with(self, arguments: &[&str]) -> String {
        let folder = path_text(self.folder.path());
        error(&[&["--model", folder], arguments].concat()).replace(folder, "DIR")
    }
}

#[test]
fn an_undamaged_copy_runs() {
    let model = Model::new();
    model.answers(&[]);
}

#[test]
fn damaged_weights() {
    let whole = std::fs::read(root().join("tests/goldens/relu-tied/model.safetensors")).unwrap();
    for end in [0, 4, 8, 100, whole.len() / 2, whole.len() - 1] {
        let text = Model::new().write("model.safetensors", &whole[..end]).error();
        assert!(text.contains("DIR/model.safetensors is not a whole safetensors file"), "{text}");
    }
    for length in [0, 1, 50, 100_000_000, whole.len() as u64, 1 << 63, u64::MAX] {
        let mut lies = whole.clone();
        lies[..8].copy_from_slice(&length.to_le_bytes());
        let text = Model::new().write("model.safetensors", &lies).error();
        assert!(text.contains("is not a whole safetensors file"), "{length}: {text}");
    }
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

/// Headers that are JSON but not true.
#[test]
fn lies_in_the_header() {
    const NAME: &str = "decoder.block.0.layer.0.SelfAttention.k.weight";
    let not_whole = "DIR/model.safetensors is not a whole safetensors file";
    let cases: [(&str, Value, &str); 8] = [
        ("data_offsets", json!([0, 8]), not_whole),
        ("data_offsets", json!([4096, 0]), not_whole),
        ("data_offsets", json!([4096, 8192]), not_whole),
        ("shape", json!([1u64 << 40, 1u64 << 40]), not_whole),
        ("shape", json!([-1]), not_whole),
        ("shape", json!([1024]), "SelfAttention.k.weight has shape [1024], allowed: [32, 32] by config.json"),
        ("dtype", json!("U8"), not_whole),
        ("dtype", json!("I32"), "model.safetensors: dtype is I32, allowed: F32, F16, BF16"),
    ];
    for (field, value, words) in cases {
        let text = Model::new().weights(|header, _| header[NAME][field] = value).error();
        assert!(text.contains(words), "{text}");
    }
    let text = Model::new().weights(|_, data| data.extend([0; 4])).error();
    assert!(text.contains(not_whole), "{text}");
    let text = Model::new().weights(|_, data| data[..4].copy_from_slice(&f32::NAN.to_le_bytes())).error();
    assert!(text.contains(".weight in DIR/model.safetensors holds NaN, allowed: finite numbers"), "{text}");
}

#[test]
fn damaged_indices() {
    let index = "model.safetensors.index.json";
    let to = |name: &str| {
        let name = json!(name);
        let all = |map: &mut Value| map.as_object_mut().unwrap().values_mut().for_each(|v| *v = name.clone());
        Model::of("tests/goldens/sharded").edit(index, |json| all(&mut json["weight_map"])).error()
    };
    assert!(to("nowhere.safetensors").contains("cannot read DIR/nowhere.safetensors"));
    for outside in ["../model.safetensors", "/etc/passwd", "a\\b"] {
        let text = to(outside);
        assert!(text.contains("weight_map in DIR/model.safetensors.index.json names"), "{text}");
        assert!(text.contains("allowed: file names beside the index"), "{text}");
    }
    for folder in ["..", ".", ""] {
        assert!(to(folder).contains("is not a file, allowed: a safetensors file"), "{}", to(folder));
    }
    assert!(to("config.json").contains("DIR/config.json is not a whole safetensors file"));
    let text = Model::of("tests/goldens/sharded").edit(index, |json| json["weight_map"] = json!(5)).error();
    assert!(text.contains("DIR/model.safetensors.index.json is not a weight index"), "{text}");
    let model = Model::of("tests/goldens/sharded");
    let shard = |i| format!("model-0000{i}-of-00003.safetensors");
    std::fs::copy(model.path(&shard(1)), model.path(&shard(2))).unwrap();
    let text = model.error();
    assert!(text.contains("is in an earlier file too, allowed: once"), "{text}");
}

/// Things that are no files, or never end.
#[test]
fn what_stands_in_the_place_of_files() {
    let text = Model::new().folder_at("config.json").error();
    assert!(text.contains("cannot read config DIR/config.json"), "{text}");
    let text = Model::new().folder_at("model.safetensors").error();
    assert!(text.contains("DIR/model.safetensors is not a file, allowed: a safetensors file"), "{text}");
    let text = Model::new().folder_at("request.json").error();
    assert!(text.contains("cannot read request DIR/request.json"), "{text}");
    let model = Model::new();
    std::fs::rename(model.path("model.safetensors"), model.path("pytorch_model.bin")).unwrap();
    let text = model.error();
    assert!(text.contains("DIR/model.safetensors does not exist, allowed: a safetensors file"), "{text}");
    assert!(text.contains("this makes it of pytorch_model.bin (pip install torch safetensors"), "{text}");
    if cfg!(unix) {
        let text = error(&["--input", "/dev/zero"]);
        assert!(text.contains("input /dev/zero is longer than allowed"), "{text}");
    }
}

/// A full disk is an error, a reader that has gone is none.
#[cfg(target_os = "linux")]
#[test]
fn output_that_takes_nothing() {
    use std::process::{Command, Stdio};
    let run = |stdout: Stdio| {
        let child = Command::new(t5_example::program()).stdout(stdout).stderr(Stdio::piped()).spawn();
        child.unwrap().wait_with_output().unwrap()
    };
    let full = run(Stdio::from(std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap()));
    let text = String::from_utf8(full.stderr).unwrap();
    assert!(
        text.starts_with("error: cannot write to standard output: ") && text.lines().count() == 1,
        "{text}"
    );
    assert_eq!(full.status.code(), Some(2));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let gone = run(Stdio::from(writer));
    assert!(gone.status.success() && gone.stderr.is_empty(), "{gone:?}");
}

#[test]
fn tokenizers() {
    let model = || Model::of("assets/pid");
    // The library panics on the last.
    let broken = r#"{"model": {"type": "BPE", "vocab": {}, "merges": []}, "decoder": {"#;
    for bytes in ["", "{}", "[1]", broken] {
        let text = model().write("tokenizer.json", bytes.as_bytes()).text_error();
        assert!(text.contains("DIR/tokenizer.json is not a tokenizer"), "{text}");
    }
    // Another model's tokenizer.
    let shift = |json: &mut Value| {
        for id in json["model"]["vocab"].as_object_mut().unwrap().values_mut() {
            *id = json!(id.as_u64().unwrap() + 1000);
        }
    };
    let text = model().edit("tokenizer.json", shift).text_error();
    assert!(text.contains("the tokenizer has id "), "{text}");
    assert!(text.contains("allowed: 0 to 447 by vocab_size in config.json"), "{text}");

    // Settings of another use change nothing.
    let settings = |json: &mut Value| {
        json["truncation"] =
            json!({"direction": "Right", "max_length": 8, "strategy": "LongestFirst", "stride": 0});
        json["padding"] = json!({"strategy": {"Fixed": 600}, "direction": "Right", "pad_to_multiple_of": null,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "<pad>"});
        json["post_processor"] = Value::Null;
    };
    let model = model().edit("tokenizer.json", settings);
    let assets = root().join("assets");
    let (input, prompts) = (assets.join("dialogue.txt"), assets.join("prompts.txt"));
    let asked = ["--input", path_text(&input), "--prompts", path_text(&prompts), "--json"];
    let got = t5_example::json(&[&["--model", path_text(model.folder.path())], &asked[..]].concat());
    let want = t5_example::json(&["--mode", "pid", "--json"]);
    assert_eq!(got["inputs"], want["inputs"]);
}

/// A folder without a tokenizer whose vocabulary is ByT5's, or that names ByT5's: byte `b` is id `b + 3`, EOS is 1.
#[test]
fn byt5_has_no_tokenizer() {
    check_byt5(Model::new(), 384);
    check_byt5(Model::new().write("tokenizer_config.json", br#"{"tokenizer_class": "ByT5Tokenizer"}"#), 700);
    check_byt5(Model::new().config(|c| c["tokenizer_class"] = json!("ByT5Tokenizer")), 500);
}

fn check_byt5(model: Model, vocab: usize) {
    let model = model.config(|config| config["vocab_size"] = json!(vocab)).weights(|header, data| {
        // The embedding lies last: its words are repeated.
        let shared = &mut header["shared.weight"];
        assert_eq!(shared["data_offsets"][1], json!(data.len()));
        let start = shared["data_offsets"][0].as_u64().unwrap() as usize;
        let width = shared["shape"][1].as_u64().unwrap() as usize;
        let table = data.split_off(start);
        data.extend(table.iter().cycle().take(vocab * width * 4));
        *shared = json!({"dtype": "F32", "shape": [vocab, width], "data_offsets": [start, data.len()]});
    });
    let (input, prompts) = (model.path("input.txt"), model.path("prompts.txt"));
    std::fs::write(&input, "\n h\u{e9} ?\n").unwrap();
    std::fs::write(&prompts, "  who \n\n\u{3b2}\n").unwrap();
    let folder = path_text(model.folder.path());
    let texts = t5_example::json(&[
        "--model",
        folder,
        "--input",
        path_text(&input),
        "--prompts",
        path_text(&prompts),
        "--mode",
        "pid",
        "--max-new-tokens",
        "8",
        "--json",
    ]);
    let ids = |text: &str| text.bytes().map(|b| u32::from(b) + 3).collect::<Vec<_>>();
    let mut input_ids = ids("h\u{e9} ?");
    input_ids.push(1);
    let request = json!({
        "input_ids": input_ids,
        "prompts": [ids("who"), ids("\u{3b2}")],
        "max_new_tokens": 8,
    });
    std::fs::write(model.path("request.json"), request.to_string()).unwrap();
    let answers =
        t5_example::json(&["--model", folder, "--ids", path_text(&model.path("request.json")), "--json"]);
    for (i, ids) in t5_example::answers(&answers).as_array().unwrap().iter().enumerate() {
        let ids = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap());
        let bytes: Vec<u8> = ids.filter(|id| (3..259).contains(id)).map(|id| (id - 3) as u8).collect();
        assert!(!bytes.is_empty());
        let want = String::from_utf8_lossy(&bytes);
        assert_eq!(texts["inputs"][0]["outputs"][i]["pid"], json!(want));
    }
}

#[test]
fn missing_files() {
    let no_folder = error(&["--model", "/nowhere", "--ids", "/nowhere/request.json", "--json"]);
    assert!(no_folder.contains("cannot read request /nowhere/request.json"), "{no_folder}");
    let request = root().join("tests/goldens/relu-tied/request.json");
    let no_folder = error(&["--model", "/nowhere", "--ids", path_text(&request)]);
    assert!(no_folder.contains("model is /nowhere, allowed: a folder with config.json"), "{no_folder}");
    for name in ["config.json", "model.safetensors"] {
        let model = Model::new();
        std::fs::remove_file(model.path(name)).unwrap();
        let text = model.error();
        let words = match name {
            "config.json" => "cannot read config DIR/config.json",
            _ => "DIR/model.safetensors does not exist, allowed: a safetensors file",
        };
        assert!(text.ends_with(words) || text.contains(&format!("{words}:")), "{text}");
    }
    let no_tokenizer = Model::new().text_error();
    assert!(no_tokenizer.ends_with("tokenizers file (or --ids, which needs none)"), "{no_tokenizer}");
    assert!(error(&["--input", "/nowhere/input.txt"]).contains("cannot read input /nowhere/input.txt"));
    assert!(error(&["--prompts", "/nowhere/p.txt"]).contains("cannot read prompts /nowhere/p.txt"));
    // A folder is not a file.
    assert!(error(&["--input", "/"]).contains("cannot read input /"));
}

#[test]
fn nonsense_in_the_config() {
    let cases = [
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
        (
            "feed_forward_proj",
            json!("mish"),
            "feed_forward_proj is \"mish\", allowed: relu, gelu, gelu_python",
        ),
        ("feed_forward_proj", json!("gated-gelu-2"), "feed_forward_proj is \"gated-gelu-2\", allowed: "),
        ("feed_forward_proj", json!(3), "feed_forward_proj is 3, allowed: a text"),
        (
            "dense_act_fn",
            json!("quick_gelu"),
            "dense_act_fn is \"quick_gelu\", allowed: relu, gelu, gelu_python",
        ),
        ("is_gated_act", json!("yes"), "is_gated_act is \"yes\", allowed: true or false"),
        ("tie_word_embeddings", Value::Null, "tie_word_embeddings is null, allowed: true or false"),
        ("scale_decoder_outputs", json!(1), "scale_decoder_outputs is 1, allowed: true or false"),
        ("model_type", json!("bart"), "model_type is \"bart\", allowed: \"t5\", \"mt5\", \"umt5\""),
        ("model_type", json!("longt5"), "\"umt5\": LongT5 attends to blocks and summaries of its input"),
        ("model_type", json!("switch_transformers"), "Switch Transformers send each token to experts"),
        ("model_type", json!("t5gemma"), "T5Gemma has Gemma's layers"),
        ("model_type", json!("t5gemma2"), "T5Gemma 2 has Gemma's layers"),
        ("architectures", json!(["T5EncoderModel"]), "[\"T5EncoderModel\"], allowed: a T5ForConditional"),
        ("architectures", json!(["MT5ForSequenceClassification"]), "its head classifies"),
        ("architectures", json!(["T5ForTokenClassification"]), "its head classifies"),
        ("architectures", json!(["UMT5ForQuestionAnswering"]), "its head marks answers in the input"),
        ("architectures", json!(["T5Model"]), "it has no head"),
        ("quantization_config", json!({"bits": 4}), "quantization_config is there, allowed: weights that"),
        ("decoder_start_token_id", json!([0, 2]), "decoder_start_token_id is [0,2], allowed: one id"),
        (
            "suppress_tokens",
            json!([5, -1]),
            "suppress_tokens is [5,-1], allowed: an integer from 0 to 95, or a",
        ),
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
        let set = |config: &mut Value| {
            if field == "feed_forward_proj" {
                // It counts where these do not say otherwise.
                let fields = config.as_object_mut().unwrap();
                fields.retain(|name, _| !["dense_act_fn", "is_gated_act"].contains(&name.as_str()));
            }
            config[field] = value;
        };
        let text = Model::new().config(set).error();
        assert!(text.contains(words), "{text}");
    }
    // Contradictions with the weights.
    let text = Model::new().config(|c| c["num_layers"] = json!(9)).error();
    assert!(text.contains("is missing in DIR"), "{text}");
    let text = Model::new().config(|c| c["is_gated_act"] = json!(true)).error();
    assert!(text.contains("DenseReluDense.wi_0.weight is missing"), "{text}");
    for bytes in ["", "{", "[1]", "null"] {
        let text = Model::new().write("config.json", bytes.as_bytes()).error();
        assert!(text.starts_with("error: in DIR/config.json: not"), "{text}");
    }
}

/// What the file says of the head and config.json contradict each other, as transformers 4 and 5 do.
#[test]
fn heads_that_are_read_in_two_ways() {
    let tie = |value: Value| move |config: &mut Value| config["tie_word_embeddings"] = value;
    let own = || Model::of("tests/goldens/gated-untied");
    let untold = own().config(|config| {
        config.as_object_mut().unwrap().remove("tie_word_embeddings");
    });
    for model in [own().config(tie(json!(true))), untold] {
        let text = model.error();
        assert!(text.contains("config.json in DIR does not say how logits are made"), "{text}");
        assert!(text.contains("transformers 4 takes the embedding, scaled by d_model^-0.5"), "{text}");
        assert!(text.contains("transformers 5 lm_head.weight, scaled by d_model^-0.5"), "{text}");
        assert!(text.ends_with("choose by --transformers 4 or --transformers 5"), "{text}");
    }
    let none = Model::new().config(tie(json!(false))).error();
    assert!(none.contains("transformers 4 takes lm_head.weight, not scaled"), "{none}");
    assert!(none.contains("transformers 5 the embedding, not scaled"), "{none}");
    assert!(none.contains("(the file has no lm_head.weight)"), "{none}");
    let model = Model::new().config(tie(json!(false)));
    let request = path_text(&model.path("request.json")).to_string();
    let text = model.error_with(&["--ids", &request, "--transformers", "4"]);
    assert!(text.contains("tensor lm_head.weight is missing in DIR"), "{text}");
    // What is clear needs no choice, and takes none.
    let said = |value: bool| own().config(|c| c["scale_decoder_outputs"] = json!(value));
    for model in [said(true), said(false), own()] {
        let ask = |more: &[&str]| model.answers(more);
        assert_eq!(ask(&["--transformers", "4"]), ask(&["--transformers", "5"]));
    }
}

#[test]
fn tensors_that_are_not_a_models() {
    let model = Model::new().write("adapter_config.json", b"{}");
    // Adapters come without it.
    std::fs::remove_file(model.path("config.json")).unwrap();
    let adapter = model.error();
    assert!(
        adapter.contains("DIR has adapter_config.json, allowed: a whole model; merge the adapter"),
        "{adapter}"
    );
    const NAME: &str = "encoder.block.0.layer.0.SelfAttention.q";
    let rename = |to: &str| {
        Model::new().weights(|header, _| {
            let tensor = header.as_object_mut().unwrap().remove(&format!("{NAME}.weight")).unwrap();
            header[to] = tensor;
        })
    };
    let text = rename(&format!("{NAME}.lora_A.weight")).error();
    assert!(text.contains("lora_A.weight in DIR is an adapter's; merge the adapter first"), "{text}");
    // An embedding of the decoder's own.
    let text = Model::new()
        .weights(|header, data| {
            let shape = header["shared.weight"]["shape"].clone();
            let bytes = shape[0].as_u64().unwrap() * shape[1].as_u64().unwrap() * 4;
            let at = [data.len() as u64, data.len() as u64 + bytes];
            data.resize(at[1] as usize, 0);
            header["decoder.embed_tokens.weight"] =
                json!({"dtype": "F32", "shape": shape, "data_offsets": at});
        })
        .error();
    assert!(
        text.contains("shared.weight and decoder.embed_tokens.weight differ in DIR, allowed: one embedding"),
        "{text}"
    );
    // Layers that config.json leaves out.
    let model = Model::new().config(|c| c["num_layers"] = json!(1));
    let request = path_text(&model.path("request.json")).to_string();
    let output = t5_example::run(&["--model", path_text(model.folder.path()), "--ids", &request]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{said}");
    assert!(said.starts_with("unused tensors in ") && said.ends_with(" and 5 more\n"), "{said}");
    assert!(said.contains(": encoder.block.1.layer.0."), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

/// Numbers beyond f32 end the run: an answer of ids 0 would look like one.
#[test]
fn activations_that_overflow() {
    let text = Model::new()
        .weights(|header, data| {
            let place = &header["decoder.block.1.layer.2.DenseReluDense.wo.weight"]["data_offsets"];
            let at = |i: usize| place[i].as_u64().unwrap() as usize;
            data[at(0)..at(1)].chunks_exact_mut(4).for_each(|x| x.copy_from_slice(&3e38f32.to_le_bytes()));
        })
        .error();
    assert!(text.contains("all logits of a prompt are NaN or infinite"), "{text}");
    assert!(text.contains("bf16"), "{text}");
}

/// Folders without a file that is read here: the error has the command that makes it.
#[test]
fn what_can_be_converted() {
    let model = Model::new().write("spiece.model", b"");
    let text = model.text_error();
    assert!(text.contains("DIR/tokenizer.json does not exist"), "{text}");
    assert!(
        text.contains("this makes it of spiece.model (pip install 'transformers>=5' sentencepiece"),
        "{text}"
    );
    assert!(text.contains("cd 'DIR' && python3 -c \"from transformers import T5Tokenizer as T;"), "{text}");
    let text = Model::of("tests/goldens/sharded-bin-unclear").error();
    assert!(text.contains("this makes it of pytorch_model-00001-of-00002.bin (pip install torch"), "{text}");
    let bpe = || Model::new().write("vocab.json", b"{}").write("merges.txt", b"");
    assert!(bpe().text_error().contains("import RobertaTokenizer as T;"));
    let named = bpe().write("tokenizer_config.json", br#"{"tokenizer_class": "RobertaTokenizer"}"#);
    assert!(named.text_error().contains("import AutoTokenizer as T;"));
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
    assert!(error(&["--input", path_text(&empty)]).contains("empty.txt is not text, allowed: UTF-8"));
    for (option, value, allowed) in [
        ("--threads", "0", "1 to 1024"),
        ("--threads", "-1", "1 to 1024"),
        ("--threads", "1e3", "1 to 1024"),
        ("--threads", "1025", "1 to 1024"),
        ("--max-new-tokens", "0", "1 to 1048576"),
        ("--max-new-tokens", "1000000000", "1 to 1048576"),
        ("--max-new-tokens", "99999999999999999999999", "1 to 1048576"),
        ("--batch-rows", "0", "1 to 1048576"),
        ("--batch-rows", "all", "1 to 1048576"),
        ("--keys", "1000000000", "1 to 65536"),
        ("--prompt-count", "0", "1 to 4096"),
        ("--prompt-tokens", "1000000000000", "0 to 4096"),
    ] {
        let text = error(&["--random", "t5-small", option, value]);
        let words = format!("'{value}' for '{option}");
        assert!(
            text.contains(&words) && text.contains(&format!("allowed: an integer from {allowed}")),
            "{text}"
        );
    }
    let on_cpu = ["--random", "tiny", "--backend", "cpu"];
    let text = error(&[&on_cpu[..], &["--dtype", "bf16"]].concat());
    assert_eq!(text, "error: --dtype is bf16, allowed on the CPU: f32");
    let text = error(&[&on_cpu[..], &["--gemm", "own"]].concat());
    assert_eq!(text, "error: --gemm is own, allowed on CUDA only");
    let text = error(&["--frob"]);
    assert_eq!(text, "error: unexpected argument '--frob' found (--help shows the options)");
    let model = path_text(&root().join("tests/goldens/relu-tied")).to_string();
    for some in [&["--input", "x"][..], &["--prompts", "x"], &[]] {
        let text = error(&[&["--model", &model], some].concat());
        assert!(
            text.ends_with("allowed: with --input and --prompts, or with --ids: what the model is asked"),
            "{text}"
        );
    }
    let text = error(&["--ids", "x"]);
    assert!(text.contains("required arguments were not provided: --model <DIR>"), "{text}");
    let unwritable = Path::new("/nowhere/logits.safetensors");
    let case = root().join("tests/goldens/relu-tied");
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
