#!/usr/bin/env bash
# Runs onekv's GPU kit on a machine with an NVIDIA driver and Python 3; PyTorch for the peers. No Rust, no network.
set -u

usage() {
    cat <<'END'
Usage: run.sh [--out DIR] [--budget SECONDS] [STAGE...]

Stages, in the order in which `all` (the default) runs them:
  features      does every kernel load, do overlapping launches, clusters and graphs work, do 10,000 rounds have equal bits?
  correctness   the CUDA tests, against the f64 reference
  conformance   one program per PTX instruction; its results are what ptxsim is compared with
  sanitizer     compute-sanitizer's memcheck, racecheck, initcheck and synccheck over the CUDA tests
  flashinfer    compiles FlashInfer's kernels, for minutes: the next two stages have no figures of it without this
  must-show     attention on the shapes of the project's targets, ours and the peers'
  bench-first   attention on T5-base and T5Gemma shapes, likewise
  t5            T5 end to end, ours and the peers'; where PID pays and where it does not
  profile       what Nsight Compute counts: few rows on 67 and 268 MB of K/V, many rows
  fit-sweep     every tile and split of many shapes, for `cargo xtask fit`
  bench-full    attention on every model, 1 to 2048 prompts, 128 to 16384 keys, 1 to 32 inputs
Apart from `all`:
  smoke         a little of all that: does the kit run here?

A stage that fails or runs out of time does not stop the next. Every step leaves its results at once, in at most nine files:
  stages.jsonl  the machine, and how each stage ended      attention-*.jsonl, t5.jsonl, crossover.jsonl   figures
  logs.tar.gz   what everything printed, and profiles      goldens.tar.gz                 conformance

Options:
  --out DIR         where they go [default: $OUT, else results-out]
  --budget SECONDS  end after about so long; stages that no time is left for are skipped
  --dry-run         print the stages and stop
  -h, --help        this text

Environment: PYTHON, the Python with PyTorch [default: python3].
END
}

# of_wheels NAME: the folders of this name in the CUDA wheels that PyTorch comes with, one after the other with colons.
of_wheels() {
    "$python" - "$1" <<'END' 2>/dev/null
import glob, site, sys
found = [p for s in site.getsitepackages() for p in glob.glob(s + "/nvidia/*/" + sys.argv[1])]
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
dry_run=false
stages=()
all=(features correctness conformance sanitizer flashinfer must-show bench-first t5 profile fit-sweep bench-full)

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
    --dry-run) dry_run=true ;;
    all) stages+=("${all[@]}") ;;
    smoke) stages+=(smoke) ;;
    *) [[ " ${all[*]} " == *" $1 "* ]] && stages+=("$1") || fail "stage is $1, allowed: ${all[*]} smoke all" ;;
    esac
    shift
done
[ ${#stages[@]} -gt 0 ] || stages=("${all[@]}")
if $dry_run; then
    printf '%s\n' "${stages[@]}"
    exit
fi

# What T5's tests run and read.
export ONEKV_T5=$kit/bin/t5 ONEKV_ROOT=$kit/root
# cublasLt, where the system has none.
export LD_LIBRARY_PATH=${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$(of_wheels lib)

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
    save
    echo "$name: $how after $((SECONDS - begin)) s"
    [ "$how" = passed ] || tail -n 5 "$work/logs/$name.log" | cut -c -300 | sed 's/^/    /'
    [ "$how" = passed ]
}

# skip NAME REASON: a step that cannot run here.
skip() {
    echo "$2" >"$work/logs/$1.log"
    printf '%s\tskipped\t0\t0\n' "$1" >>"$work/steps.tsv"
    save
    echo "$1: skipped, $2"
}

simulated() { grep -qs '"simulated": true' "$work/machine.json"; }

# tests SECONDS: every binary of tests.
tests() {
    local test
    for test in "$kit"/bin/test-*; do
        step "${test##*/}" "$1" env "${required[@]}" "$test"
    done
}

# named NAME SECONDS PROGRAM TEST...: these tests of one binary, run by `under` where the caller has set that.
named() {
    step "$1" "$2" env "${required[@]}" ${under[@]+"${under[@]}"} "$kit/bin/test-$3" --test-threads=1 --nocapture --exact "${@:4}"
}

features() {
    named kernels 60 cuda all_kernels_are_loaded_ahead
    named overlap 60 cuda settled_keys_and_values_do_not_wait
    named clusters-of-2 60 cuda clusters_change_no_bit
    named clusters-of-8 60 cuda clusters_join_splits_as_a_second_launch_does
    named clusters-of-products 60 t5_cuda products::parts_of_hoppers_products_are_added_in_order
    named graphs 60 streams a_recording_keeps_what_it_uses a_recording_replays_with_other_lengths
    named rounds 120 t5_cuda rounds::rounds_have_the_bits_of_kernels_one_at_a_time
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
    local -x PROPTEST_CASES=1
    for tool in memcheck racecheck initcheck synccheck; do
        local under=("$sanitizer" --tool "$tool" --error-exitcode 77 --print-limit 50)
        named "$tool" 110 cuda every_variant_equals_the_reference every_number_of_splits_equals_the_reference \
            merging_states_equals_the_cpu
        # Racecheck may take what the copy engine and wgmma do for races.
        [ "$tool" = racecheck ] || named "t5-$tool" 110 t5_cuda products::hoppers_products_equal_plain_ones \
            elementwise::norms_are_by_token
    done
}

# profile: each on the first launches of a shape, which are those that check it.
profile() {
    local ncu entry
    ncu=$(PATH=$PATH:/usr/local/cuda/bin command -v ncu)
    if [ -z "$ncu" ]; then
        skip profile "ncu was not found"
        return
    fi
    for entry in few-67MB:b=8,U=32,n=1024,h=32,d=64 few-268MB:b=8,U=32,n=8192,h=16,d=64 many:b=8,U=2048,n=2048,h=32,d=128; do
        step "profile-${entry%%:*}" 100 "$ncu" --clock-control none --set full --kernel-name regex:^onekv --launch-count 2 \
            --export "$work/logs/${entry%%:*}" --page details \
            "$kit/bin/card" --shape "${entry#*:}" --runs 1 --out "$work/profiled.jsonl"
    done
}

# figures SWEEP: ours and the peers', as far as they are there.
figures() {
    collect merge --machine "$work/machine.json" --ours "$work/ours.jsonl" --peers "$work/peers.jsonl" \
        --clocks "$work/clocks.csv" --out "$out/attention-$1.jsonl"
}

# has_torch NAME: if not, the step is skipped.
has_torch() {
    "$python" -c 'import torch' 2>/dev/null && return
    skip "$1" "$python has no PyTorch"
    return 1
}

# wheels: the peers', once; they come before the machine's own. One by one: what this Python does not take keeps out no other.
wheels() {
    local wheel name
    [ ! -d "$work/site" ] || return
    mkdir "$work/site"
    for wheel in "$kit"/wheels/*.whl; do
        name=${wheel##*/}
        [ ! -f "$wheel" ] || step "wheel-${name%%-*}" 120 "$python" -m pip install --quiet --no-index --no-deps \
            --no-compile --target "$work/site" "$wheel"
    done
    export PYTHONPATH=$work/site${PYTHONPATH:+:$PYTHONPATH}
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
    figures "$sweep"
    "$kit/bin/card" --sweep "$sweep" --list >"$work/shapes.json"
    if [ "$(cat "$work/shapes.json")" != "[]" ] && has_torch "peers-$sweep"; then
        wheels
        peers=$(capped "$3")
        step "peers-$sweep" $((peers + 60)) "$python" "$kit/scripts/card.py" --shapes "$work/shapes.json" \
            --budget "$peers" --out "$work/peers.jsonl"
    fi
    [ -z "$sampler" ] || kill "$sampler"
    figures "$sweep"
    rm -f "$work/ours.jsonl" "$work/peers.jsonl" "$work/clocks.csv"
}

# flashinfer: compiles its kernels, once for a machine; peers' figures are without it where this was not done.
flashinfer() {
    local sweep
    has_torch flashinfer || return
    wheels
    # cuRAND's header, where the toolkit has none.
    local -x CPATH=${CPATH:+$CPATH:}$(of_wheels include)
    for sweep in must-show first; do
        "$kit/bin/card" --sweep "$sweep" --list >"$work/shapes.json"
        step "flashinfer-$sweep" 300 "$python" "$kit/scripts/card.py" --shapes "$work/shapes.json" --build
    done
}

t5() {
    local limit
    wheels
    limit=$(capped 400)
    step t5 $((limit + 30)) "$python" "$kit/scripts/t5_gpu.py" --t5 "$kit/bin/t5" --assets "$kit/root/assets" \
        --budget "$limit" --out "$work/t5.jsonl"
    collect merge --machine "$work/machine.json" --ours "$work/t5.jsonl" --out "$out/t5.jsonl"
    limit=$(capped 90)
    step crossover $((limit + 30)) "$python" "$kit/scripts/crossover.py" --t5 "$kit/bin/t5" --backend cuda \
        --budget "$limit" --out "$work/crossover.jsonl"
    collect merge --machine "$work/machine.json" --ours "$work/crossover.jsonl" --out "$out/crossover.jsonl"
}

smoke() {
    named smoke-attention 60 attention the_same_bits_twice
    named smoke-graphs 60 streams a_recording_keeps_what_it_uses
    conformance
    bench smoke 60 60 --replicated --e4m3
}

# collect COMMAND...: writes results files.
collect() {
    "$python" "$kit/scripts/collect.py" "$@" || echo "collect $1 failed" >&2
}

# What is known so far: after every step, so that whoever is stopped in the middle leaves it.
save() {
    collect stages --machine "$work/machine.json" --steps "$work/steps.tsv" --logs "$work/logs" --out "$out/stages.jsonl"
    tar -czf "$out/logs.tar.gz" -C "$work" logs
}

: >"$work/steps.tsv"
# The card says what it is, and the driver whether it is new enough for the kernels: without that nothing else works.
if ! step start 60 "$kit/bin/card" --machine --out "$work/machine.json"; then
    why=$(sed -n 's/^error: //p' "$work/logs/start.log" | head -n 1)
    fail "${why:-bin/card does not start: $(tail -n 1 "$work/logs/start.log")}"
fi
collect machine --kit "$kit/kit.json" --out "$work/machine.json"
required=(ONEKV_REQUIRE_CUDA=1)
# A simulator may have no cublasLt; a card's machine without it is told so.
simulated || required+=(ONEKV_REQUIRE_CUBLASLT=1)
for stage in "${stages[@]}"; do
    echo "==> $stage, $SECONDS s after the start"
    case $stage in
    features) features ;;
    correctness) tests 200 ;;
    conformance) conformance ;;
    sanitizer) sanitizer ;;
    must-show) bench must-show 140 300 --replicated --e4m3 ;;
    bench-first) bench first 150 200 --replicated --e4m3 ;;
    bench-full) bench full 460 420 ;;
    fit-sweep) bench fit 540 1 --every-plan --e4m3 ;;
    flashinfer) flashinfer ;;
    t5) t5 ;;
    profile) profile ;;
    smoke) smoke ;;
    esac
done
awk -F '\t' '$2 != "passed" && $2 != "skipped" { failed = 1 } END { exit failed }' "$work/steps.tsv"
