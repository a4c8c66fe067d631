"""What is in results/: the one reader of its files, whose tables of kinds are their schema; results/README.md describes the
fields. What a file lacks, or holds that cannot be, is an error that names the file, the line, the field, its value and what
is allowed. Fields that no page shows may be anything."""

import json
import math
from collections import namedtuple
from itertools import product
from statistics import median_high
from types import SimpleNamespace
from typing import Any, Callable, NamedTuple


class Refused(ValueError):
    """A result that no page is made of."""


# Kinds of values, and the reader of them.


class Value(NamedTuple):
    allowed: str
    fits: Callable[[Any], bool]


class Maybe(NamedTuple):
    """Or null, or missing."""

    kind: Any


class Many(NamedTuple):
    kind: Any
    least: int = 0


class Named(NamedTuple):
    """An object of any names."""

    kind: Any


class Record(NamedTuple):
    fields: dict
    # Checks what concerns several fields, and adds what is computed from them.
    finish: Callable[[Any], None] = lambda made: None


class File(NamedTuple):
    """A head in the first line, then a line for each thing. `lines`: by their field `kind`, of the most None, the list that
    they go into and what they are."""

    head: dict
    lines: dict
    finish: Callable[[Any], None] = lambda made: None


def line(fields, timed, finish):
    """What a record is to be: one of these fields, and of those of `timed` unless it has an error."""
    always = {"error": Maybe(TEXT), **fields}
    failed = lambda value: type(value) is dict and value.get("error") is not None
    return lambda value: Record(always if failed(value) else always | timed, finish)


def is_number(value):
    # True is an int to Python.
    return type(value) in (int, float) and -math.inf < value < math.inf


def one_of(*names):
    return Value(", ".join(names), lambda value: value in names)


TEXT = Value("a text", lambda value: type(value) is str)
FLAG = Value("true or false", lambda value: type(value) is bool)
NUMBER = Value("a number", is_number)
POSITIVE = Value("more than 0", lambda value: is_number(value) and value > 0)
SHARE = Value("0 to 1", lambda value: is_number(value) and 0 <= value <= 1)
NATURAL = Value("a whole number, 0 or more", lambda value: type(value) is int and value >= 0)
COUNT = Value("a whole number, 1 or more", lambda value: type(value) is int and value >= 1)
LIST = Value("a list", lambda value: type(value) is list)
OBJECT = Value("an object", lambda value: type(value) is dict)


def read(kind, value, at=""):
    """`value` as a `kind`; `at`: its place in the file."""
    match kind:
        case Value(allowed, fits):
            if not fits(value):
                raise Refused(f"{at or 'all of it'} is {json.dumps(value)[:80]}, allowed: {allowed}")
            return value
        case Maybe(kind):
            return None if value is None else read(kind, value, at)
        case Many(kind, least):
            if len(read(LIST, value, at)) < least:
                raise Refused(f"{at} is {value}, allowed: {least} or more of them")
            return [read(kind, one, f"{at}[{i}]") for i, one in enumerate(value)]
        case Named(kind):
            return {name: read(kind, one, f"{at}.{name}".lstrip(".")) for name, one in sorted(read(OBJECT, value, at).items())}
    kind = kind if type(kind) is Record else kind(value)
    place = f"{at}." if at else ""
    made = SimpleNamespace()
    read(OBJECT, value, at)
    for name, of in kind.fields.items():
        if name not in value and type(of) is not Maybe:
            why = ", and there is no error to say why" if "error" in kind.fields else ""
            raise Refused(f"{place}{name} is missing{why}")
        setattr(made, name, read(of, value.get(name), place + name))
    try:
        kind.finish(made)
    except Refused as error:
        raise Refused(f"{place}{error}") from None
    return made


def no_number(name):
    raise Refused(f"{name} is no number")


def each_once(pairs):
    made = dict(pairs)
    if len(made) < len(pairs):
        raise Refused(f"an object has a field twice, of {', '.join(made)}")
    return made


def parse(text):
    try:
        return json.loads(text, parse_constant=no_number, object_pairs_hook=each_once)
    except json.JSONDecodeError as error:
        raise Refused(f"no JSON at column {error.colno}: {error.msg}") from None


def read_head(file, value):
    # A stage of the kit that came to nothing leaves this.
    if type(value) is dict and type(value.get("error")) is str:
        raise Refused(f"nothing was measured: {value['error']}; delete the file")
    made = read(Record(file.head), value)
    for into, _ in file.lines.values():
        setattr(made, into, [])
    return made


def read_line(file, made, value):
    kind = read(Maybe(TEXT), read(OBJECT, value).get("kind"), "kind")
    if kind not in file.lines:
        raise Refused(f"kind is {json.dumps(kind)}, allowed: {', '.join(name or 'none' for name in file.lines)}")
    into, of = file.lines[kind]
    getattr(made, into).append(one := read(of, value))
    return one


def read_lines(file, text):
    """What a `File` of this text holds; its lines have a `number`, for what is found out later."""
    *lines, cut = text.split("\n")
    if cut or not lines:
        # Whoever wrote it was stopped.
        raise Refused(f"line {len(lines) + 1} is cut after {json.dumps(cut[-40:])}, allowed: a line feed at the end of every line")
    for number, line in enumerate(lines, 1):
        try:
            if number == 1:
                made = read_head(file, parse(line))
            else:
                read_line(file, made, parse(line)).number = number
        except ValueError as error:
            raise Refused(f"line {number}: {error}") from None
    file.finish(made)
    return made


def read_file(kind, path):
    try:
        return read_lines(kind, path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise Refused(f"{path}: {error}") from None


# Machines and lines.


def measured(machine):
    if machine.simulated:
        raise Refused(
            f"simulated is true ({machine.card}): a simulator's time says nothing about a card; delete the file"
        )


CARD = dict(card=TEXT, compute_capability=TEXT, multiprocessors=NATURAL, simulated=FLAG)
CARD |= dict(date=Maybe(TEXT), driver=Maybe(TEXT), commit=Maybe(TEXT), torch=Maybe(TEXT))
ON_CARD = dict(machine=Record(CARD, measured))
# What the time budget left no room for is a line too.
LEFT_OUT = {"left out": ("left_out", Record({}))}
ON_CPU = dict(machine=TEXT, threads=NATURAL, date=TEXT)
PEERS = Maybe(Named(Record(dict(version=Maybe(TEXT), absent=Maybe(TEXT)))))
MEDIAN = Record(dict(median=POSITIVE))
SECONDS = Record(dict(median=POSITIVE, min=POSITIVE))


def apart(run, key=None):
    """Lines without a time go into `failed`: system and reason. The others measure something once."""
    seen = set()
    for line in run.lines:
        if key and line.error is None and (line.name, key(line)) in seen:
            raise Refused(f"line {line.number} measures {line.name} a second time: {line.what}")
        if key and line.error is None:
            seen.add((line.name, key(line)))
    run.failed = [(line.name, line.error) for line in run.lines if line.error is not None]
    run.lines = [line for line in run.lines if line.error is None]
    run.left_out = len(getattr(run, "left_out", []))


def named_by_system(line):
    line.name = line.system


# attention-<sweep>.jsonl


class Shape(namedtuple("Shape", "model heads kv_heads head_dim inputs rows keys")):
    def __str__(self):
        return f"{self.model}, b = {self.inputs}, U = {self.rows}, n = {self.keys}"

    @property
    def folded_rows(self):
        """Rows that read one K/V head of one input."""
        return self.rows * self.heads // self.kv_heads

    @property
    def kv_bytes(self):
        """Of one K and one V in 16 bits."""
        return 4 * self.inputs * self.keys * self.kv_heads * self.head_dim


# Layouts of ours, each with the one system that has it; the others are peers'.
SYSTEMS = {"shared": "onekv", "replicated": "onekv, K/V per prompt", "e4m3": "onekv, K/V in e4m3"}
PLAN = ("kernel", "split_keys", "split_cluster", "tile_rows")


def attention_line(line):
    wanted = SYSTEMS.get(line.layout)
    if line.system != wanted and (wanted or line.system.startswith("onekv")):
        allowed = ", ".join(f'"{system}" {layout}' for layout, system in SYSTEMS.items())
        raise Refused(f'layout is {line.layout} of "{line.system}", allowed: {allowed}, others expanded or folded')
    line.is_peer = not wanted
    line.name = f"{line.system}, {line.layout}" if line.is_peer else line.system
    line.what = line.shape = Shape(*(getattr(line, name) for name in Shape._fields))
    if line.error is None:
        line.us = line.cold_us.median
        # Whether the cost model chose the plan.
        line.by_cost = line.chosen is not False
        line.launch = None if line.is_peer else (line.kernel, line.split_keys, line.split_cluster)
        for name in PLAN:
            if not line.is_peer and getattr(line, name) is None:
                raise Refused(f"{name} is missing, and the line is ours")


def attention_run(run):
    run.copy_bytes_per_s_after = run.after[-1].copy_bytes_per_s if run.after else None
    # What every system's output must agree with, but for copies of K and V, which differ.
    ours = {line.shape: line.mean_abs for line in run.lines if line.layout == "shared" and line.mean_abs is not None}
    for line in run.lines:
        compared = (
            line.error is None and line.layout != "replicated" and line.mean_abs is not None and line.shape in ours
        )
        if compared and abs(line.mean_abs - ours[line.shape]) > 0.01 * ours[line.shape]:
            line.error = "left out: its output is not ours within 1 %"
    apart(run, lambda line: (line.shape, line.launch, line.tile_rows, line.by_cost))


ATTENTION_LINE = line(
    dict(system=TEXT, layout=one_of(*SYSTEMS, "expanded", "folded"), model=TEXT, mean_abs=Maybe(NUMBER))
    | {name: COUNT for name in Shape._fields[1:]},
    dict(bytes=POSITIVE, flops=POSITIVE, cold_us=MEDIAN, warm_us=Maybe(MEDIAN), alone_us=Maybe(MEDIAN))
    | dict(kernel=Maybe(TEXT), chosen=Maybe(FLAG))
    | {name: Maybe(NATURAL) for name in PLAN[1:]},
    attention_line,
)
ATTENTION = File(
    ON_CARD | dict(sweep=TEXT, copy_bytes_per_s=POSITIVE, empty_pair_us=MEDIAN, peers=PEERS),
    {None: ("lines", ATTENTION_LINE)}
    | LEFT_OUT
    | {"after": ("after", Record(dict(copy_bytes_per_s=POSITIVE))), "clock": ("clocks", Record(dict(seconds=NUMBER)))},
    attention_run,
)


# t5.jsonl of a card


class Work(namedtuple("Work", "shape dtype keys prompts prompt_tokens new_tokens")):
    @property
    def title(self):
        return f"{self.shape}, {self.dtype}, n = {self.keys}, {self.new_tokens} new tokens"


def t5_line(line):
    named_by_system(line)
    line.work = Work(*(getattr(line, name) for name in Work._fields))
    line.what = f"{line.work.title}, U = {line.prompts}"
    if line.error is None:
        # Of ours no other is known.
        line.fastest_s = line.latency_s.min


T5_LINE = line(
    dict(system=TEXT, shape=TEXT, dtype=TEXT, keys=COUNT, prompts=COUNT, prompt_tokens=NATURAL, new_tokens=COUNT),
    dict(latency_s=SECONDS, peak_bytes=Maybe(POSITIVE), decode_step_median_s=Maybe(POSITIVE))
    | dict(decode_step_floor_bytes=Maybe(POSITIVE)),
    t5_line,
)
SAME = Value("true, false or a text", lambda value: type(value) in (bool, str))
T5 = File(
    ON_CARD | dict(same_answers_f32=Maybe(SAME), peers=PEERS),
    {None: ("lines", T5_LINE)} | LEFT_OUT,
    lambda run: apart(run, lambda line: line.work),
)


# crossover.jsonl


def crossover_line(line):
    line.name = "onekv"
    line.what = f"U = {line.prompts}, n = {line.keys}, {line.new_tokens} new tokens"
    if line.error is None:
        # PIE's time over PID's.
        line.gain = line.pie_s.min / line.pid_s.min


def crossover(machine):
    limits = dict(least_prompts=Maybe(NATURAL), least_keys=Maybe(NATURAL), most_new_tokens=Maybe(NATURAL))
    predicted = dict(roofline=Record(dict(flops_per_s=POSITIVE, bytes_per_s=POSITIVE)))
    predicted |= dict(pays_from=POSITIVE, gain=POSITIVE, crossover=Record(limits))
    at = dict(keys=COUNT, prompts=COUNT, new_tokens=COUNT)
    of_line = line(at, dict(pid_s=SECONDS, pie_s=SECONDS, predicted_gain=POSITIVE), crossover_line)
    fields = dict(shape=TEXT, dtype=TEXT, prompt_tokens=NATURAL, base=Record(at), predicted=Record(predicted))
    lines = {None: ("lines", of_line)} | LEFT_OUT
    return File(machine | fields, lines, lambda run: apart(run, lambda line: line.what))


# attention.jsonl and t5.jsonl of cpu/


PROBE = Record(dict(fma_flops_per_s=POSITIVE, copy_bytes_per_s=POSITIVE))
# Of a peer's time over ours in the same turn, over turns.
OF_OURS = Record(dict(median=NUMBER, min=NUMBER, max=NUMBER))
CPU_LINE = line(
    dict(system=TEXT, shape=Maybe(TEXT), rows=NATURAL, keys=NATURAL),
    dict(median_s=POSITIVE, of_ours=Maybe(OF_OURS)),
    named_by_system,
)


def cpu_run(run):
    if len(run.probes) != 2:
        raise Refused(f"lines of kind probe are {len(run.probes)}, allowed: two, before the others and after them")
    apart(run)


CPU = File(
    ON_CPU | dict(peers=Named(Record(dict(version=TEXT, note=TEXT)))),
    {None: ("lines", CPU_LINE), "probe": ("probes", PROBE)},
    cpu_run,
)


# intensity.jsonl


STEP, PREFIX = ("shared", "replicated", "pie"), ("prefix shared", "prefix copied")


def counted(line):
    line.intensity = line.flops / (line.read_bytes + line.written_bytes)
    line.of_model = line.flops / line.model_bytes
    if line.layout in PREFIX and line.distinct_bytes is None:
        raise Refused("distinct_bytes is missing")
    # Where each byte counts once for a launch, however many blocks ask for it.
    line.once = line.flops / line.distinct_bytes if line.distinct_bytes else None


def intensity_run(run):
    """Every backend has the points of every other one, in each layout; behind a prefix all of them or none."""
    prompts = {line.prompts for line in run.lines}
    by_name = {backend.name: backend for backend in run.backends}
    for backend in run.backends:
        backend.at = {}
    if not run.lines:
        raise Refused("no line is of a point")
    for line in run.lines:
        if line.backend not in by_name:
            raise Refused(f'line {line.number}: backend is "{line.backend}", allowed: {", ".join(by_name)}')
        by_name[line.backend].at[line.layout, line.prompts] = line
    for backend in run.backends:
        backend.has_prefix = any(layout in PREFIX for layout, _ in backend.at)
        for at in product(STEP + PREFIX if backend.has_prefix else STEP, prompts):
            if at not in backend.at:
                raise Refused(f"{backend.name} lacks {at[0]} at {at[1]}")


COUNTED = dict(backend=TEXT, layout=one_of(*STEP, *PREFIX), kernels=Maybe(Many(TEXT)))
COUNTED |= {name: COUNT for name in ("prompts", "flops", "model_bytes", "read_bytes", "written_bytes")}
COUNTED |= dict(distinct_bytes=Maybe(COUNT), tensor_flops=Maybe(COUNT), instructions=Maybe(NATURAL))
DECODER = dict(model=TEXT) | {name: NATURAL for name in ("heads", "kv_heads", "head_dim", "prefix_keys", "suffix_keys")}
INTENSITY = File(
    dict(date=TEXT, heads=NATURAL, head_dim=NATURAL, keys=NATURAL, prompt_tokens=NATURAL)
    | dict(backends=Many(Record(dict(name=TEXT, dtype=TEXT, counted=TEXT)), 1), decoder_only=Record(DECODER)),
    {None: ("lines", Record(COUNTED, counted))},
    intensity_run,
)


# method/


def by_task(lines):
    made = {line.task: line for line in lines}
    for line in lines:
        if made[line.task] is not line:
            raise Refused(f'line {line.number}: task is "{line.task}", which further down has another line')
    return dict(sorted(made.items()))


TASK = Record(
    dict(task=TEXT, prompts=NATURAL, input_tokens=NUMBER, prompt_tokens=NUMBER, new_tokens=NUMBER)
    | dict(always_nothing=Maybe(Record(dict(accuracy=SHARE))))
    | dict(size=Maybe(Record(dict(of=TEXT, counts=TEXT, value=NATURAL))))
    | dict(example=Record(dict(text=TEXT, prompts=Many(TEXT, 1), answers=Many(TEXT, 1))))
)
TRAINING = Record(
    dict(
        task=TEXT, way=TEXT, steps=NATURAL, parameters=NATURAL, loss_every_50_steps=Many(NUMBER), held_out=Named(SHARE)
    )
)


def quality(made):
    made.tasks = by_task(made.tasks)
    for run in made.runs:
        if run.task not in made.tasks:
            raise Refused(f'line {run.number}: task is "{run.task}", allowed: those of lines of kind task')
    if not made.runs:
        raise Refused("no line is of a training")


QUALITY = File(
    dict(date=TEXT, packages=Named(TEXT), examples_of_a_step=NATURAL, prompts_of_an_example=NATURAL)
    | dict(evaluated_examples=NATURAL),
    {None: ("runs", TRAINING), "task": ("tasks", TASK)},
    quality,
)
LENGTHS = dict(prompts=NATURAL, prompt_tokens=NATURAL, new_tokens=NATURAL)
WORK = dict(task=TEXT, keys=NATURAL) | LENGTHS


def way_cost(way):
    way.median = median_high(way.seconds)


def costs(made):
    tasks = {}
    for way in made.lines:
        work = tuple((name, getattr(way, name)) for name in WORK)
        by_way = tasks.setdefault(work, {})
        if way.way in by_way:
            raise Refused(f"line {way.number} measures {way.way} a second time: {way.task}")
        by_way[way.way] = way
    made.tasks = [SimpleNamespace(**dict(work), by_way=by_way, ways=list(by_way.values())) for work, by_way in tasks.items()]
    if not made.tasks:
        raise Refused("no line is of a way")
    for task in made.tasks:
        for name in ["PID", "PIE", *made.tasks[0].by_way]:
            if name not in task.by_way:
                raise Refused(f"{task.task} lacks {name}")


WAY = dict(way=TEXT, seconds=Many(POSITIVE, 1), flops=Maybe(NATURAL), bytes=Maybe(NATURAL), peak_bytes=Maybe(NATURAL))
COSTS = File(ON_CPU | dict(transformers=TEXT, shape=TEXT), {None: ("lines", Record(WORK | WAY, way_cost))}, costs)
MODES = ("shared", "copies", "recompute")


def decoder_only(made):
    made.modes = {mode: [run for run in made.lines if run.mode == mode] for mode in MODES}
    for mode, runs in made.modes.items():
        if not runs:
            raise Refused(f"no line is of mode {mode}")


DECODER_ONLY_RUN = Record(
    dict(mode=one_of(*MODES), prefilled_tokens=NATURAL, kv_bytes=NATURAL, decode_step_kv_bytes=NATURAL, peak_bytes=NATURAL)
    | dict(prefill_s=NUMBER, copy_kv_s=NUMBER, decode_s=NUMBER, tokens_per_s=NUMBER)
)
DECODER_ONLY = File(
    ON_CPU | LENGTHS | dict(shape=TEXT, document_tokens=NATURAL), {None: ("lines", DECODER_ONLY_RUN)}, decoder_only
)
LONG_PROMPTS = Record(
    dict(prompt_tokens=NATURAL, prompts=NATURAL, pid_flops=COUNT, pid_bytes=COUNT, pie_flops=COUNT, pie_bytes=COUNT)
)
OF_WAYS = Record(dict(task=TEXT, pid=COUNT, pie=COUNT, one=COUNT, decoders=COUNT))


def formula(made):
    made.tasks = by_task(made.tasks)


FORMULA = File(
    dict(shape=TEXT, dtype=TEXT, keys=NATURAL, new_tokens=NATURAL),
    {None: ("tasks", OF_WAYS), "long prompts": ("long_prompts", LONG_PROMPTS)},
    formula,
)


# ptxsim/peers.jsonl, host-overhead.jsonl


OUTCOMES = ["right", "unsupported", "wrong", "blamed"]
PTXSIM_ROW = Record(
    dict(package=TEXT, version=TEXT, kernel=TEXT, card=TEXT, outcome=one_of(*OUTCOMES), message=TEXT)
)
PTXSIM = File(dict(date=TEXT), {None: ("rows", PTXSIM_ROW)})
CALLS = Record(
    dict(name=TEXT, old=TEXT, new=TEXT, events_tracked=FLAG, batch=COUNT, ns_old=POSITIVE, ns_new=POSITIVE)
)
HOST_OVERHEAD = File(
    dict(date=TEXT, machine=TEXT, driver=TEXT, commit_old=TEXT, commit_new=TEXT, statistic=TEXT),
    {None: ("lines", CALLS)},
)


# reliability/


def caught(line):
    if line.test and not (line.date and line.commit):
        raise Refused("date or commit is missing beside test")


RUN = Record(dict(what=TEXT, command=TEXT, found=TEXT))
TESTED = File(dict(date=TEXT, commit=TEXT, tool=TEXT), {None: ("runs", RUN)})
FUZZED_FIELDS = dict(target=TEXT, runs=NATURAL, seconds=NATURAL, coverage=NATURAL, features=NATURAL, corpus=NATURAL)
FUZZED_FIELDS |= dict(corpus_bytes=TEXT, peak_mb=NATURAL, date=TEXT, commit=TEXT)
FUZZED = File(dict(timeout=COUNT, rss_limit_mb=COUNT), {None: ("targets", Record(FUZZED_FIELDS))})
CALL = Record(dict(call=TEXT, injected=NATURAL, statuses=Many(TEXT), error=NATURAL, recovered=NATURAL, dropped=NATURAL))
FAILING_DRIVER = File(dict(date=TEXT, commit=TEXT, card=TEXT, injected=NATURAL), {None: ("calls", CALL)})
PLANTED_BUG = Record(dict(bug=TEXT, test=Maybe(TEXT), date=Maybe(TEXT), commit=Maybe(TEXT)), caught)
PLANTED = File(dict(table=TEXT), {None: ("bugs", PLANTED_BUG)})


# Folders.


CPU_FILES = {"attention.jsonl": CPU, "crossover.jsonl": crossover(ON_CPU), "t5.jsonl": CPU}
CARD_FILES = {"attention-<sweep>.jsonl": ATTENTION, "crossover.jsonl": crossover(ON_CARD), "t5.jsonl": T5}
METHOD_FILES = {"cost.jsonl": COSTS, "decoder-only.jsonl": DECODER_ONLY, "formula.jsonl": FORMULA, "quality.jsonl": QUALITY}
# Parts of `cargo xtask reliability` whose files have one form.
PARTS = ("soak", "cards", "miri", "address", "thread", "builds")
RELIABILITY_FILES = {f"{part}.jsonl": TESTED for part in PARTS}
RELIABILITY_FILES |= {"failing-driver.jsonl": FAILING_DRIVER, "failing-driver-t5.jsonl": FAILING_DRIVER}
RELIABILITY_FILES |= {"fuzz.jsonl": FUZZED, "planted.jsonl": PLANTED}
# How a run of the kit went, and the list of all parts: nothing to report.
NOT_READ = ("stages.jsonl", "onekv.cdx.json")


def known(path, kinds):
    """What a file of this name holds."""
    name = "attention-<sweep>.jsonl" if path.name.startswith("attention-") else path.name
    if name not in kinds:
        raise Refused(f"{path}: known names are {', '.join(kinds)}")
    return kinds[name]


def results(folder):
    """All of a folder: `cpu`, `method` and `reliability` by the names of their files, `cards` by those of their folders too. A file
    of an unknown name is an error: it would silently be missing from the report."""
    path = folder / "intensity.jsonl"
    intensity = read_file(INTENSITY, path) if path.exists() else None
    # No page shows it.
    host = folder / "host-overhead.jsonl"
    if host.exists():
        read_file(HOST_OVERHEAD, host)
    found = SimpleNamespace(cpu={}, method={}, reliability={}, cards={}, intensity=intensity)
    for machine in sorted(path for path in folder.iterdir() if path.is_dir()):
        paths = sorted(path for path in machine.glob("*.json*") if path.name not in NOT_READ)
        read_all = lambda kinds: {path.name: read_file(known(path, kinds), path) for path in paths}
        match machine.name:
            case "cpu":
                found.cpu = read_all(CPU_FILES)
            case "method":
                found.method = read_all(METHOD_FILES)
                with_formula(machine / "formula.jsonl", found.method)
            case "reliability":
                found.reliability = read_all(RELIABILITY_FILES)
            # Its page is that of cargo xtask peers ptxsim.
            case "ptxsim":
                read_all({"peers.jsonl": PTXSIM})
            case name if paths:
                found.cards[name] = read_all(CARD_FILES)
                of_one_card(machine, found.cards[name])
    return found


def with_formula(path, found):
    """What was trained, the cost model was asked about."""
    tasks = found["quality.jsonl"].tasks if "quality.jsonl" in found else []
    if tasks and path.name not in found:
        raise Refused(f"{path} is missing beside quality.jsonl: cargo xtask method writes both")
    for task in tasks:
        if task not in found[path.name].tasks:
            raise Refused(f"{path}: no line is of {task}")


def of_one_card(folder, runs):
    for name, run in runs.items():
        if name.startswith("attention-") and name != f"attention-{run.sweep}.jsonl":
            raise Refused(f"{folder / name}: sweep is {run.sweep}, which belongs into attention-{run.sweep}.jsonl")
        card, other = run.machine.card, next(iter(runs.values())).machine.card
        if card != other:
            raise Refused(f"{folder / name}: machine.card is {card}, but other files of its folder are of {other}")
