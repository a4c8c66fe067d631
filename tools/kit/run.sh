#!/usr/bin/env bash
# Runs onekv's GPU kit on a machine with an NVIDIA driver and Python 3; PyTorch for the peers. No Rust, no network.
set -u

usage() {
    cat <<'END'
Usage: run.sh [--out DIR] [--budget SECONDS] [STAGE...]

Stages, in the order in which `all` (the default) runs them:
  correctness   the CUDA tests, against the f64 reference
  conformance   one program per PTX instruction; its results are what ptxsim is compared with
  sanitizer     compute-sanitizer's memcheck, racecheck and synccheck over the CUDA tests
  must-show     attention on the shapes of the project's targets, ours and the peers'
  bench-first   attention on T5-base and T5Gemma shapes, likewise
  t5            T5 end to end, ours and the peers'; where PID pays and where it does not
  fit-sweep     every tile and split of many shapes, for `cargo xtask fit`
  bench-full    attention on every model, 1 to 2048 prompts, 128 to 16384 keys, 1 to 32 inputs
Apart from `all`:
  smoke         a little of all that: does the kit run here?

A stage that fails or runs out of time does not stop the next. Results are in at most nine files:
  stages.jsonl  the machine, and how each stage ended      attention-*.jsonl, t5.jsonl, crossover.jsonl   figures
  logs.tar.gz   what everything printed                    goldens.tar.gz                 conformance

Options:
  --out DIR         where they go [default: $OUT, else results-out]
  --budget SECONDS  end after about so long; stages that no time is left for are skipped
  -h, --help        this text

Environment: PYTHON, the Python with PyTorch [default: python3].
END
}

# cublasLt of PyTorch's wheels, where the system has none.
libraries() {
    "$python" - <<'END' 2>/dev/null
import glob, site
found = [p for s in site.getsitepackages() for p in glob.glob(s + "/nvidia/*/lib")]
print(":".join(found))
END
}

kit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
python=${PYTHON:-python3}
# Steps run in a folder of their own.
case $python in
/*) ;;
*/*) python=$PWD/$python ;;
esac
out=${OUT:-results-out}
budget=1000000
stages=()
all=(correctness conformance sanitizer must-show bench-first t5 fit-sweep bench-full)

fail() {
    echo "error: $1" >&2
    exit 2
}

while [ $# -gt 0 ]; do
    case $1 in
    -h | --help) usage && exit 0 ;;
    --out) [ $# -gt 1 ] || fail "--out needs a folder" && out=$2 && shift ;;
    --budget)
        [ $# -gt 1 ] && [[ $2 =~ ^[0-9]+$ ]] || fail "--budget is ${2:-missing}, allowed: a number of seconds"
        budget=$2 && shift
        ;;
    all) stages+=("${all[@]}") ;;
    smoke) stages+=(smoke) ;;
    *) [[ " ${all[*]} " == *" $1 "* ]] && stages+=("$1") || fail "stage is $1, allowed: ${all[*]} smoke all" ;;
    esac
    shift
done
[ ${#stages[@]} -gt 0 ] || stages=("${all[@]}")

# What T5's tests run and read.
export ONEKV_T5=$kit/bin/t5 ONEKV_ROOT=$kit/root
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(libraries)

mkdir -p "$out" || fail "cannot make $out"
out=$(cd "$out" && pwd)
work=$(mktemp -d) || fail "cannot make a folder for work"
mkdir "$work/logs"
trap 'rm -rf "$work"' EXIT

# Seconds that are left.
left() { echo $((budget - SECONDS)); }

# capped N: N seconds, or what is left if that is less; at least 1.
capped() {
    local most
    most=$(left)
    [ "$1" -lt "$most" ] && most=$1
    [ "$most" -gt 0 ] || most=1
    echo "$most"
}

# step NAME SECONDS COMMAND...: runs it with a time limit, its output in logs/NAME.log; one line says how it ended.
step() {
    local name=$1 limit begin=$SECONDS status how
    limit=$(capped "$2")
    shift 2
    if [ "$(left)" -lt 5 ]; then
        how=skipped
        status=0
        echo "no time was left" >"$work/logs/$name.log"
    else
        (cd "$work" && timeout -k 10 "$limit" "$@") >"$work/logs/$name.log" 2>&1
        status=$?
        case $status in
        0) how=passed ;;
        124 | 137) how="out of time" ;;
        *) how=failed ;;
        esac
    fi
    printf '%s\t%s\t%s\t%s\n' "$name" "$how" "$status" $((SECONDS - begin)) >>"$work/steps.tsv"
    echo "$name: $how after $((SECONDS - begin)) s"
    [ "$how" = passed ] || tail -n 5 "$work/logs/$name.log" | cut -c -300 | sed 's/^/    /'
    [ "$how" = passed ]
}

# skip NAME REASON: a step that cannot run here.
skip() {
    echo "$2" >"$work/logs/$1.log"
    printf '%s\tskipped\t0\t0\n' "$1" >>"$work/steps.tsv"
    echo "$1: skipped, $2"
}

simulated() { grep -qs '"simulated": true' "$work/machine.json"; }

# tests PREFIX SECONDS [FILTER...]: every binary of tests.
tests() {
    local test library=()
    # A simulator may have no cublasLt; a card's machine without it is told so.
    simulated || library=(ONEKV_REQUIRE_CUBLASLT=1)
    for test in "$kit"/bin/test-*; do
        step "$1${test##*/}" "$2" env ONEKV_REQUIRE_CUDA=1 "${library[@]}" "$test" "${@:3}"
    done
}

conformance() {
    mkdir -p "$work/goldens"
    step conformance 90 env PTXSIM_CONFORMANCE=card PTXSIM_GOLDENS="$work/goldens" "$kit/bin/conformance" \
        --exact conformance --nocapture
    # A simulator's results are no goldens.
    if ! simulated; then
        tar -czf "$out/goldens.tar.gz" -C "$work" goldens
    fi
}

sanitizer() {
    local tool sanitizer
    sanitizer=$(PATH=$PATH:/usr/local/cuda/bin command -v compute-sanitizer)
    if [ -z "$sanitizer" ]; then
        skip sanitizer "compute-sanitizer was not found"
        return
    fi
    for tool in memcheck racecheck synccheck; do
        step "$tool" 110 env ONEKV_REQUIRE_CUDA=1 PROPTEST_CASES=1 \
            "$sanitizer" --tool "$tool" --error-exitcode 77 --print-limit 50 \
            "$kit/bin/test-cuda" --test-threads=1 --exact every_variant_equals_the_reference every_number_of_splits_equals_the_reference \
            a_captured_graph_replays_with_new_data merging_states_equals_the_cpu
    done
    # Not racecheck, which may take what the copy engine and wgmma do for races.
    for tool in memcheck synccheck; do
        step "t5-$tool" 110 env ONEKV_REQUIRE_CUDA=1 "$sanitizer" --tool "$tool" --error-exitcode 77 --print-limit 50 \
            "$kit/bin/test-t5_cuda" --test-threads=1 --exact products::hoppers_products_equal_plain_ones elementwise::norms_are_by_token
    done
}

# bench SWEEP SECONDS PEERS_SECONDS [OPTION...]: ours, then the peers on the same shapes.
bench() {
    local sweep=$1 ours peers sampler=
    ours=$(capped "$2")
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi --query-gpu=timestamp,clocks.sm,clocks.mem,power.draw,temperature.gpu \
            --format=csv,noheader,nounits -lms 2000 >"$work/clocks.csv" 2>/dev/null &
        sampler=$!
    fi
    step "ours-$sweep" $((ours + 30)) "$kit/bin/card" --sweep "$sweep" --budget "$ours" --out "$work/ours.jsonl" "${@:4}"
    "$kit/bin/card" --sweep "$sweep" --list >"$work/shapes.json"
    if ! "$python" -c 'import torch' 2>/dev/null; then
        skip "peers-$sweep" "$python has no PyTorch"
    elif [ "$(cat "$work/shapes.json")" != "[]" ]; then
        peers=$(capped "$3")
        step "peers-$sweep" $((peers + 60)) "$python" "$kit/scripts/card.py" --shapes "$work/shapes.json" \
            --budget "$peers" --out "$work/peers.jsonl"
    fi
    [ -z "$sampler" ] || kill "$sampler"
    collect merge --machine "$work/machine.json" --ours "$work/ours.jsonl" --peers "$work/peers.jsonl" \
        --clocks "$work/clocks.csv" --out "$out/attention-$sweep.jsonl"
    rm -f "$work/ours.jsonl" "$work/peers.jsonl" "$work/clocks.csv"
}

t5() {
    local site=$work/site limit
    if ls "$kit"/wheels/*.whl >/dev/null 2>&1; then
        step wheels 120 "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" \
            "$kit"/wheels/*.whl
    fi
    limit=$(capped 400)
    step t5 $((limit + 30)) env PYTHONPATH="$site${PYTHONPATH:+:$PYTHONPATH}" "$python" "$kit/scripts/t5_gpu.py" \
        --t5 "$kit/bin/t5" --assets "$kit/assets" --budget "$limit" --out "$work/t5.jsonl"
    collect merge --machine "$work/machine.json" --ours "$work/t5.jsonl" --out "$out/t5.jsonl"
    limit=$(capped 90)
    step crossover $((limit + 30)) "$python" "$kit/scripts/crossover.py" --t5 "$kit/bin/t5" --backend cuda \
        --budget "$limit" --out "$work/crossover.jsonl"
    collect merge --machine "$work/machine.json" --ours "$work/crossover.jsonl" --out "$out/crossover.jsonl"
}

smoke() {
    tests smoke- 60 --test-threads=1 a_captured_graph_replays_with_new_data the_same_bits_twice
    conformance
    bench smoke 60 60 --replicated --e4m3
}

# collect COMMAND...: writes results files.
collect() {
    "$python" "$kit/scripts/collect.py" "$@" || echo "collect $1 failed" >&2
}

# What is known so far: after every stage, so that whoever is stopped in the middle leaves it.
save() {
    collect stages --machine "$work/machine.json" --steps "$work/steps.tsv" --logs "$work/logs" --out "$out/stages.jsonl"
    tar -czf "$out/logs.tar.gz" -C "$work" logs
}

: >"$work/steps.tsv"
# The card says what it is, and the driver whether it is new enough for the kernels: without that nothing else works.
if ! step start 60 "$kit/bin/card" --machine --out "$work/machine.json"; then
    save
    why=$(sed -n 's/^error: //p' "$work/logs/start.log" | head -n 1)
    fail "${why:-bin/card does not start: $(tail -n 1 "$work/logs/start.log")}"
fi
collect machine --kit "$kit/kit.json" --out "$work/machine.json"
for stage in "${stages[@]}"; do
    echo "==> $stage, $SECONDS s after the start"
    case $stage in
    correctness) tests '' 200 ;;
    conformance) conformance ;;
    sanitizer) sanitizer ;;
    must-show) bench must-show 140 200 --replicated --e4m3 ;;
    bench-first) bench first 150 200 --replicated --e4m3 ;;
    bench-full) bench full 460 420 ;;
    fit-sweep) bench fit 540 1 --every-plan --e4m3 ;;
    t5) t5 ;;
    smoke) smoke ;;
    esac
    save
done
awk -F '\t' '$2 != "passed" && $2 != "skipped" { failed = 1 } END { exit failed }' "$work/steps.tsv"
