#!/usr/bin/env bash
# torch.onnx.export puts a model that was in eval() back to training: dropout is on afterwards.
#
# Version: torch 2.15.0, torch.onnx.export(dynamo=False).
# One would expect: exporting changes nothing of the model; it warns where it exports a model that is in training.
# What happens: a wrapper around the model, as an encoder or a decoder step needs one to be exported, is a new Module, and a
#   new Module says training=True whatever it holds. The exporter switches it to eval for the time of the export and then
#   restores "its" mode with train(True), which goes down to every module within. Nothing is said. Seen on 2026-11-28:
#     before: wrapper True, model False; two forwards equal: True
#     after: wrapper True, model True; two forwards equal: False
# Who is hit: who exports a T5 in parts and compares the graphs with the model in the same process: the model's tokens are
#   those of a dropout, and the graphs look wrong. wrapper.eval() before the export, or model.eval() after it, mends it.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
python3 -m venv "$tmp/venv"
"$tmp/venv/bin/pip" install --quiet torch==2.15.0 numpy onnx
"$tmp/venv/bin/python" - <<'PY' 2> "$tmp/warnings" | tee "$tmp/seen"
import io

import torch


class Wrapper(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x)


torch.manual_seed(1)
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Dropout(0.5)).eval()
wrapper, x = Wrapper(model), torch.ones(1, 64)


def tell(when):
    equal = torch.equal(model(x), model(x))
    print(f"{when}: wrapper {wrapper.training}, model {model.training}; two forwards equal: {equal}")


tell("before")
torch.onnx.export(wrapper, (x,), io.BytesIO(), dynamo=False)
tell("after")
PY
cat > "$tmp/expected" <<'TXT'
before: wrapper True, model False; two forwards equal: True
after: wrapper True, model True; two forwards equal: False
TXT
diff "$tmp/expected" "$tmp/seen" || { echo "CHANGED: expected <, got >"; exit 1; }
