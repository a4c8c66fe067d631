"""What the kernels and the T5 example must show, computed from the measurements: target, measured, pass or miss."""

from math import fsum

from page import table, times

PASS, MISS, NOT_MEASURED = "pass", "**miss**", "not measured"


def percent(value):
    return f"{value * 100:.1f} %"


def micros(value):
    return f"{value:.2f} us"


def tflops(value):
    return f"{value:.0f} TFLOPS"


def tokens_per_s(value):
    return f"{value:.0f} tokens/s"


def judge(what, shown, values, at_least=None, at_most=None):
    """Judges the worst of `values`, each with what it is of: a target is met where all meet it."""
    up = at_least is not None
    target = f">= {shown(at_least)}" if up else f"<= {shown(at_most)}"
    if not values:
        return what, target, "no such case in this run", NOT_MEASURED
    meets = (lambda value: value >= at_least) if up else (lambda value: value <= at_most)
    worst, at = min(values, key=lambda value: value[0] if up else -value[0])
    measured = f"{shown(worst)} ({at})"
    if len(values) > 1:
        met = sum(meets(value) for value, _ in values)
        measured = f"worst of {len(values)}: {measured}; {met} meet it"
    return what, target, measured, PASS if meets(worst) else MISS


def as_table(targets):
    return table(["what", "target", "measured", None], targets)


MIB = 1 << 20

# FlashAttention-4's microseconds on an H200 by U and n, its number of splits chosen by itself: b = 1, 32/8 heads of 128
# (github.com/Dao-AILab/flash-attention/pull/2415).
FLASH_ATTENTION_4 = {
    (1, 4096): 60, (1, 16384): 70, (1, 65536): 200, (1, 131072): 370, (64, 16384): 60, (128, 32768): 110, (256, 65536): 380,
}  # fmt: skip


def attention(sweep):
    """Targets of attention, those that the sweep can say something about and those that it cannot."""
    run, ours = sweep.run, sweep.ours
    multiprocessors = run.machine.multiprocessors
    few = [(shape, line) for shape, _, line in ours if shape.folded_rows <= 64]
    large = [(sweep.of_copy(line), shape) for shape, line in few if shape.kv_bytes >= 64 * MIB]
    small = [
        ((line.alone_us or line.cold_us).median - run.empty_pair_us.median, shape)
        for shape, line in few
        if shape.kv_bytes <= 2 * MIB
    ]
    targets = [
        judge(
            "Few rows (up to 64 per K/V head), K/V of 64 MiB or more: part of the copy's bandwidth",
            percent, large, at_least=0.9,
        ),
        judge("Few rows, K/V of 2 MiB or less: time above an empty pair of kernels", micros, small, at_most=1.5),
    ]  # fmt: skip
    for rows, limit in [(64, 1.15), (128, 1.4)]:
        groups = [{shape.rows: (shape, line) for shape, line in group} for group in sweep.by_rows]
        growth = [(of[rows][1].us / of[1][1].us, of[rows][0]) for of in groups if 1 in of and rows in of]
        targets.append(judge(f"Flat in U: time at U = {rows} over that at U = 1", times, growth, at_most=limit))
    if run.machine.compute_capability == "9.0":
        for head_dim, limit in [(64, 500), (128, 660), (256, 720)]:
            # Well past the ridge of every card, and tiles of 128 enough to fill every multiprocessor twice.
            many = [
                (line.flops / line.us * 1e-6, shape)
                for shape, _, line in ours
                if shape.head_dim == head_dim
                and shape.keys >= 2048
                and shape.folded_rows >= 512
                and shape.inputs * shape.heads * shape.rows >= 2 * 128 * multiprocessors
            ]
            what = (
                "Many rows (512 or more per K/V head, the card filled twice by tiles of 128), n >= 2048, head_dim "
                f"{head_dim}: throughput"
            )
            targets.append(judge(what, tflops, many, at_least=limit))
    against = [(row.best_peer.us / line.us, shape) for shape, row, line in ours if row.best_peer]
    targets.append(judge("Every shape: time of the best peer over ours", times, against, at_least=0.95))
    unfilled = [
        (ratio, shape)
        for ratio, shape in against
        if 16 <= shape.rows <= 128 and shape.inputs * shape.heads < multiprocessors
    ]
    what = "U = 16 .. 128, fewer heads in all than multiprocessors: time of the best peer over ours"
    targets.append(judge(what, times, unfilled, at_least=1.5))
    published = [
        (FLASH_ATTENTION_4[shape.rows, shape.keys] / line.us, shape)
        for shape, _, line in ours
        if run.machine.card == "NVIDIA H200"
        and (shape.inputs, shape.heads, shape.kv_heads, shape.head_dim) == (1, 32, 8, 128)
        and (shape.rows, shape.keys) in FLASH_ATTENTION_4
    ]
    # One row is bound by bytes, of which FlashAttention-4 moves a third of what a copy does; many are by tensor cores.
    for rows, these, limit in [("U = 1", lambda u: u == 1, 2.5), ("U = 64 .. 256", lambda u: u > 1, 0.95)]:
        what = f"FlashAttention-4 as published for an H200, {rows}: its time over ours"
        targets.append(judge(what, times, [value for value in published if these(value[1].rows)], at_least=limit))
    replicated = [
        (row.replicated.us / line.us, shape)
        for shape, row, line in ours
        if row.replicated and (shape.rows, shape.keys, shape.inputs) == (30, 512, 8)
    ]
    what = "U = 30, n = 512, b = 8: time with a K/V per prompt (PIE) over that with one"
    targets.append(judge(what, times, replicated, at_least=15))
    if regrets := sweep.regrets:
        mean = fsum(regret for regret, _ in regrets) / len(regrets)
        of_all = [(mean, f"{len(regrets)} shapes")]
        targets.append(judge("Plan against the best plan measured: mean regret", percent, of_all, at_most=0.05))
        targets.append(
            judge("Plan against the best plan measured: regret of each shape", percent, regrets, at_most=0.2)
        )
    return targets


def t5(run, copy_bytes_per_s):
    """Targets of T5 end to end; the copy's bandwidth is that of the card's attention run."""

    def at(line):
        return f"{line.shape}, U = {line.prompts}, n = {line.keys}, {line.new_tokens} new tokens"

    ours = [line for line in run.lines if line.system == "onekv, PID"]
    step = [
        line for line in ours if (line.shape, line.dtype, line.prompts, line.keys) == ("flan-t5-xl", "bf16", 64, 512)
    ]
    step = [line for line in step[:1] if line.decode_step_median_s]
    floor = [
        (line.decode_step_median_s / (line.decode_step_floor_bytes / copy_bytes_per_s), at(line))
        for line in step
        if copy_bytes_per_s and line.decode_step_floor_bytes
    ]
    what = "Decode step, Flan-T5-XL, U = 64, n = 512, bf16: time over weights and K/V at the copy's bandwidth"
    rate = [(line.prompts / line.decode_step_median_s, at(line)) for line in step]
    targets = [
        judge(what, times, floor, at_most=1.5),
        judge("The same: tokens per second of the decode steps", tokens_per_s, rate, at_least=50_000),
    ]
    for what, system, least_prompts, limit in [
        ("PID, U >= 8: time of Hugging Face's PIE over ours", "HF, PIE", 8, 4.6),
        (
            "PID: time of Hugging Face that encodes once and expands over ours",
            "HF, encoded once and expanded", 1, 3,
        ),
    ]:  # fmt: skip
        # Eager or compiled, whichever is the quicker.
        theirs = [line for line in run.lines if line.system in (system, f"{system}, compiled")]
        best = {
            work: min(line.fastest_s for line in theirs if line.work == work) for work in {line.work for line in theirs}
        }
        ratios = [
            (best[line.work] / line.fastest_s, at(line))
            for line in ours
            if line.work in best and line.prompts >= least_prompts
        ]
        targets.append(judge(what, times, ratios, at_least=limit))
    same = run.same_answers_f32
    told = {True: ("yes", PASS), False: ("no", MISS)}
    told = told[same] if isinstance(same, bool) else (same or "not recorded", NOT_MEASURED)
    targets.append(("The built-in dialogue in f32: same answers as on the CPU", "yes", *told))
    return targets
