"""Does the virtual GPU notice mistakes? Launches of onekv's kernels are recorded in the tests on virtual cards, the kernels' PTX is
edited by rule, one mistake at a time, and run again: `ptxsim mutate`. Writes results/ptxsim/mutants.md, and prints the mutants that
went unnoticed and that nobody has read yet."""

from common import ROOT, TARGET, Command, Failed, card_env, main, number, output, step, table, workspace

import argparse
import json
import shutil
from collections import Counter, defaultdict

from results import TEXT, Many, Record, one_of

CARDS = ("a100", "h200")
# Tests whose launches are recorded: rings that go round, to a short tile with NaN behind it; maxima that grow; blocks of
# clusters; splits in memory; launches that overlap; inputs without keys; further entries for a block.
TESTS = {
    "every_ring_goes_round": "cuda",
    "maxima_grow_row_by_row": "cuda",
    "clusters_change_no_bit": "cuda",
    "clusters_join_splits_as_a_second_launch_does": "cuda",
    "every_number_of_splits_equals_the_reference": "cuda",
    "settled_keys_and_values_do_not_wait": "cuda",
    "blocks_go_on_to_further_work": "cuda",
    "empty_inputs": "attention",
    "merges_are_recorded": "streams",
}
# Kernels in f16 are those in bf16 with another type.
LEFT_OUT = "_f16_"
FOLDER = TARGET / "mutants"
PAGE = ROOT / "results/ptxsim/mutants.md"
# Survivors that were read, and what the fields say.
READ = ROOT / "tools/checks/survivors.toml"
JUDGEMENTS = ("harmless", "not shown", "lenient")
REASON = Record({name: TEXT for name in ("rule", "kernel", "place", "why")} | {"judgement": one_of(*JUDGEMENTS)})
# Kernels of one kind have this in their names; the first counts.
FAMILIES = {
    "merge": "merge of states",
    "combine": "combination of splits",
    "_sm90a_": "many rows on Hopper",
    "e4m3": "few rows from 9.0 on, e4m3",
    "_sm90_": "few rows from 9.0 on",
    "_f32_": "f32",
    "": "16 bits from 8.0 on",
}
COLUMNS = ("fault", "differs", *JUDGEMENTS, "unread", "noticed", "not run", "refused")


def reasons():
    return table(Record({"read": Many(REASON)}), READ).read


def record():
    """Runs the tests on virtual cards that write their launches down."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    for card in CARDS:
        for test, binary in TESTS.items():
            # Each test's first launches: in a process with others they might not be the first.
            words = workspace("test", "--test", binary, "--", "--exact", test).words
            env = card_env(card) | {"PTXSIM_RECORD": FOLDER / card / test}
            step(f"record {test} on a virtual {card}", Command(words, env))


def mutated(limit, seed):
    """What `ptxsim mutate` says: how many launches there were, the rules, the mutants."""
    step("build ptxsim", workspace("build", "--bin", "ptxsim"))
    # On a card without clusters some tests launch nothing.
    files = sorted(file for card in CARDS for test in TESTS for file in FOLDER.glob(f"{card}/{test}/*") if LEFT_OUT not in file.name)
    if not files:
        raise Failed(f"no launch is recorded in {FOLDER}: leave out --again")
    # Some launches failed as they were meant to.
    words = [TARGET / "debug/ptxsim", "mutate", "--json", "--skip-failed", f"--limit={limit}", f"--seed={seed}", *files]
    said = output("mutate the kernels", Command(words, {"PTXSIM_CHECKS": "all"}))
    head, *tried = map(json.loads, said.splitlines())
    return head["launches"], {rule["name"]: rule["about"] for rule in head["rules"]}, tried


def reason_for(mutant, judged):
    """The first that is for a survivor."""
    texts = [mutant["place"], mutant["before"], mutant["after"]]
    fits = lambda one: one.rule == mutant["rule"] and one.kernel in mutant["kernel"] and any(one.place in text for text in texts)
    return next(filter(fits, judged), None)


def column(mutant, judged):
    verdict = mutant["verdict"]
    verdict = verdict if type(verdict) is str else next(iter(verdict))
    if verdict == "survived":
        reason = reason_for(mutant, judged)
        return reason.judgement if reason else "unread"
    return verdict.replace("_", " ")


def family(kernel):
    return next(name for part, name in FAMILIES.items() if part in kernel)


def cells(counts):
    # Noticed, of those that a card could get wrong in these launches. Rounded down: 100 % is all of them.
    noticed = counts["fault"] + counts["differs"]
    could = noticed + counts["lenient"] + counts["unread"] + counts["panicked"]
    share = f"{noticed * 100 // could}.{noticed * 1000 // could % 10} %" if could else "-"
    return " | ".join(share if name == "noticed" else str(counts[name]) for name in COLUMNS) + " |\n"


def page(launches, rules, tried, judged, limit, seed):
    for one in judged:
        if one.rule not in rules:
            raise Failed(f"{READ}: rule is {one.rule}, allowed: {', '.join(rules)}")
    by_rule, by_family, why = defaultdict(Counter), defaultdict(Counter), Counter()
    for mutant in tried:
        at = column(mutant, judged)
        by_rule[mutant["rule"]][at] += 1
        by_family[family(mutant["kernel"])][at] += 1
        if at in JUDGEMENTS:
            why[id(reason_for(mutant, judged))] += 1
    total = sum(by_rule.values(), Counter())
    head = " | ".join(COLUMNS) + " |\n| ---" + " | ---:" * len(COLUMNS) + " |\n"
    text = f"""# Mutants

What the virtual GPU notices of mistakes in onekv's kernels; written by `cargo xtask mutants`. {launches} launches on
virtual cards ({", ".join(CARDS)}) were recorded. Each mutant is a kernel with one edit. Of each rule, kernel and card {limit} are
tried that a launch runs, chosen by seed {seed}: {len(tried) - total["not run"]} in all. Kernels in f16, as those in bf16, are left out.

Noticed is a fault, or a bit of memory that differs after one of the kernel's launches, with every check, in the usual
order of warps or in one of two others. Survivors are read: *harmless*
where no card goes wrong by the PTX manual, *not shown* where none goes wrong in these launches, *lenient* where a card
may and the simulator does not say so. The share noticed is of all but the first two. *Not run*: no launch reaches the
edit. *Refused*: no valid PTX.

"""
    text += f"| | {head}| all | {cells(total)}"
    text += f"\n| kernels | {head}" + "".join(f"| {name} | {cells(by_family[name])}" for name in sorted(by_family))
    text += f"\n| rule | {head}" + "".join(f"| {name} | {cells(by_rule[name])}" for name in rules if name in by_rule)
    text += "\n## Rules\n\n| rule | the mistake |\n| --- | --- |\n" + "".join(f"| {name} | {about} |\n" for name, about in rules.items())
    text += "\n## Survivors\n\n| rule | how many | judgement | why |\n| --- | ---: | --- | --- |\n"
    return text + "".join(f"| {one.rule} | {why[id(one)]} | {one.judgement} | {one.why} |\n" for one in judged if why[id(one)])


def mutants():
    parser = argparse.ArgumentParser(prog="cargo xtask mutants", description=__doc__)
    limit = "mutants of each rule, kernel and card that a launch runs [default: 2]"
    parser.add_argument("--limit", metavar="N", type=number(1), default=2, help=limit)
    parser.add_argument("--seed", metavar="N", type=number(0), default=1, help="chooses them [default: 1]")
    parser.add_argument("--again", action="store_true", help="do not write results/ptxsim/mutants.md, and take what is recorded already")
    arguments = parser.parse_args()
    if not arguments.again:
        record()
    judged = reasons()
    launches, rules, tried = mutated(arguments.limit, arguments.seed)
    text = page(launches, rules, tried, judged, arguments.limit, arguments.seed)
    for mutant in tried:
        if column(mutant, judged) == "unread":
            print("not read: {rule}, {kernel} on {card}, line {line}\n  {place}\n- {before}\n+ {after}".format(**mutant))
    if arguments.again:
        print(text, end="")
    else:
        PAGE.write_text(text, "utf-8")


if __name__ == "__main__":
    main(mutants)
