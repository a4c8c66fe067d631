"""Times the peers of onekv's CPU path on the same work; prints one JSON document.

`attention`: PyTorch's scaled_dot_product_attention. `t5`: Hugging Face and CTranslate2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch


def times(work: Callable[[], object], seconds: float, least: int) -> list[float]:
    """Wall times of `work` after a warm-up, for `seconds` or `least` runs, whichever is more."""
    work()
    runs: list[float] = []
    end = time.perf_counter() + seconds
    while len(runs) < least or time.perf_counter() < end:
        start = time.perf_counter()
        work()
        runs.append(time.perf_counter() - start)
    return runs


def line(system: str, runs: list[float], **shape: int) -> dict:
    return {
        "system": system,
        **shape,
        "median_s": statistics.median(runs),
        "min_s": min(runs),
        "max_s": max(runs),
        "runs": len(runs),
    }


def attention(args: argparse.Namespace) -> list[dict]:
    """One input, `heads` x 64, f32: K/V expanded over the prompts (stride 0), and the queries of
    all prompts folded into rows, which is the best that SDPA can be given."""
    sdpa = torch.nn.functional.scaled_dot_product_attention
    heads, dim = 12, 64
    lines = []
    for keys in args.keys:
        k, v = torch.randn(2, 1, heads, keys, dim)
        for rows in args.rows:
            q = torch.randn(rows, heads, 1, dim)
            expand = lambda x: x.expand(rows, heads, keys, dim)
            folded = q.transpose(0, 2).contiguous()
            want = sdpa(q, expand(k), expand(v), scale=1.0)
            torch.testing.assert_close(want.transpose(0, 2), sdpa(folded, k, v, scale=1.0), rtol=1e-3, atol=1e-4)
            shape = {"rows": rows, "keys": keys}
            for system, work in [
                ("PyTorch SDPA, K/V expanded", lambda: sdpa(q, expand(k), expand(v), scale=1.0)),
                ("PyTorch SDPA, queries folded", lambda: sdpa(folded, k, v, scale=1.0)),
            ]:
                lines.append(line(system, times(work, args.seconds, 5), **shape))
                print(f"{system}: rows {rows}, keys {keys}", file=sys.stderr)
    return lines


def random_t5() -> torch.nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        d_model=768, d_kv=64, d_ff=3072, num_layers=12, num_heads=12, decoder_start_token_id=0, use_cache=True
    )
    torch.manual_seed(1)
    return T5ForConditionalGeneration(config).eval()


def convert(model: torch.nn.Module, folder: Path) -> Path:
    """The model in CTranslate2's format; its vocabulary is made of stand-in words."""
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "</s>", "<unk>"] + [f"w{i}" for i in range(3, model.config.vocab_size)]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    source, target = folder / "hf", folder / "ct2"
    model.save_pretrained(source)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(source)
    TransformersConverter(str(source)).convert(str(target), quantization="float32")
    return target


@torch.inference_mode()
def t5(args: argparse.Namespace) -> list[dict]:
    """T5-base of random weights; EOS never ends a row, so that all decode the same tokens."""
    from transformers.modeling_outputs import BaseModelOutput

    model = random_t5()
    keys, prompts, length, new = args.keys[0], args.rows[0], args.prompt_tokens, args.new_tokens
    shape = {"rows": prompts, "keys": keys}
    ids = torch.randint(3, 32000, (1, keys))
    prompt_ids = torch.randint(3, 32000, (prompts, length))
    limits = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "num_beams": 1}
    pie_ids = torch.cat([prompt_ids, ids.expand(prompts, keys)], dim=1)
    decoder_ids = torch.cat([torch.zeros(prompts, 1, dtype=torch.long), prompt_ids], dim=1)

    def hf_pie() -> torch.Tensor:
        return model.generate(pie_ids, **limits)

    def hf_expanded() -> torch.Tensor:
        memory = model.encoder(ids).last_hidden_state.expand(prompts, -1, -1)
        return model.generate(
            encoder_outputs=BaseModelOutput(memory), decoder_input_ids=decoder_ids, **limits
        )

    assert hf_expanded().shape[1] == 1 + length + new
    lines = [line("HF, encoded once and expanded", times(hf_expanded, 0, args.repeats), **shape)]
    print("HF expanded done", file=sys.stderr)
    lines.append(line("HF, PIE", times(hf_pie, 0, args.repeats), **shape))
    print("HF PIE done", file=sys.stderr)

    import ctranslate2

    with tempfile.TemporaryDirectory() as folder:
        translator = ctranslate2.Translator(
            str(convert(model, Path(folder))), device="cpu", intra_threads=args.threads, compute_type="float32"
        )
        words = [[f"w{i}" for i in row] for row in pie_ids.tolist()]

        def ct2_pie() -> object:
            return translator.translate_batch(
                words, beam_size=1, max_decoding_length=new, min_decoding_length=new, max_input_length=0
            )

        assert all(len(r.hypotheses[0]) == new for r in ct2_pie())
        lines.append(line("CTranslate2, PIE", times(ct2_pie, 0, args.repeats), **shape))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["attention", "t5"])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rows", type=int, nargs="+", default=[30], help="prompts, U")
    parser.add_argument("--keys", type=int, nargs="+", default=[512], help="input tokens, n")
    parser.add_argument("--prompt-tokens", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=0.3, help="per attention measurement")
    parser.add_argument("--repeats", type=int, default=1, help="counted runs of each T5 measurement")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    lines = attention(args) if args.what == "attention" else t5(args)
    json.dump({"torch": torch.__version__, "lines": lines}, sys.stdout)


if __name__ == "__main__":
    main()
