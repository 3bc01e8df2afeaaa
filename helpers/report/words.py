"""Words: what was found, computed from the results frame."""

import time

import numpy as np
import pandas as pd
from IPython.display import Markdown

from helpers.data.task import NAMES, Task
from helpers.device import STARTED, describe, pick_device
from helpers.evaluation.frame import (
    Estimate,
    difference,
    diverged,
    forgets_more,
    headline,
    holm,
    mean,
    null_of,
    time_share,
    values,
)
from helpers.report.tables import BESIDE, FEWEST_FOR_VERDICTS, best_plain, models_in, no_gap
from helpers.unlearning import OURS, TITLES

KEPT = ("accuracy", "test", "retain")


def run_note(task: Task, n: int, results: pd.DataFrame) -> Markdown:
    """Which run the outputs of a notebook are from, and how long all its models took when they were computed."""
    when = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
    seconds, minutes = results[results.measure == "seconds"], (time.time() - STARTED) / 60
    return Markdown(
        f"*This run: {task.data.source}, forgotten: {task.request.title}, {n} models of each kind, "
        f"{describe(pick_device())}; ended {when} UTC after {minutes:.1f} minutes. Making the models took "
        f"{seconds.value.sum() / 60:.1f} minutes of processor time on {', '.join(seconds['at'].unique())}; "
        "what is stored is not computed again.*"
    )


def conclusions(results: pd.DataFrame) -> Markdown:
    """What was found, as a numbered list: how close GEMU and GeFeU come, how that compares with the best of the rivals
    and with a new model, what an attacker sees, and what Gradient Ascent does."""
    name, split = NAMES[results.iloc[0].dataset], headline(results)
    if no_gap(results):
        return Markdown(no_gap(results))
    others = [kind for kind in (best_plain(results), "new") if kind in set(results.kind)]
    gap = {kind: 100 * values(results, kind, "energy_gap", split, "forget") for kind in ("gemu", "gefeu", *others)}

    def percent(kind: str, measure: str, *where: str) -> str:
        digits = 0 if measure == "samples_share" else 1
        return f"{100 * mean(results, kind, measure, *where):.{digits}f} %"

    costs = list(dict.fromkeys(percent(kind, "samples_share") for kind in ("gemu", "gefeu")))
    times = [time_share(results, kind) for kind in ("gemu", "gefeu")]
    times = f", {_listed([f'{100 * share:.0f} %' for share in times])} in time" if np.isfinite(times).all() else ""
    null = ""
    if len(values(results, "null", "energy_gap", split, "forget")):
        low, high = (100 * end for end in null_of(results, "energy_gap", split, "forget"))
        null = f" (as good as retraining: {low:.1f} to {high:.1f} %)"
    lines = [
        f"On {name} GEMU closes {gap['gemu'].mean():.1f} % and GeFeU {gap['gefeu'].mean():.1f} % of the distance to "
        f"retrained models{null}, at {' and '.join(costs)} of retraining's cost in samples{times}. They still classify "
        f"{percent('gemu', 'accuracy', split, 'forget')} and {percent('gefeu', 'accuracy', split, 'forget')} of the "
        f"forgotten samples correctly, retrained models {percent('retrained', 'accuracy', split, 'forget')}, and lose "
        f"{lost(results, 'gemu'):.2f} and {lost(results, 'gefeu'):.2f} percentage points of accuracy on the rest."
    ]
    n = models_in(results)
    lines += [
        f"{k} of {n} models of {TITLES[kind]} diverged and count as having closed nothing; it is not called closer."
        for kind in dict.fromkeys((*OURS, *others))
        if (k := diverged(results, kind))
    ]
    pairs = [(kind, other) for other in others * (n >= FEWEST_FOR_VERDICTS) for kind in ("gemu", "gefeu")]
    apart = {pair: difference(results, *pair, "energy_gap", split, "forget") for pair in pairs}
    adjusted = dict(zip(pairs, holm([each.p for each in apart.values()]), strict=True))
    for (kind, other), more in apart.items():  # no kind of which a model diverged is closer than another
        closer = kind if more.mean > 0 else other
        adjusted[kind, other] = 1.0 if diverged(results, closer) else adjusted[kind, other]
    compared = []
    for other in others * (n >= FEWEST_FOR_VERDICTS):
        known = f"the best rival, {TITLES[other]}"
        if other == "new":
            known = f"a new model at {percent(other, 'samples_share')} of that cost"
        both = [(apart[kind, other], adjusted[kind, other]) for kind in ("gemu", "gefeu")]
        about = f"{gap[other].mean():.1f} % closed, {lost(results, other):.2f} points lost"
        compared.append(_compared(both, known, about, again=bool(compared)))
    if compared:
        how = "paired by seed, verdicts after Holm's correction"
        lines.append(f"{' '.join(compared)[:-1]} ({how}).")
    elif n < FEWEST_FOR_VERDICTS:
        lines.append(f"Whether that is closer than a rival, {n} models of each kind cannot tell: 6 are needed.")
    attack = {kind: mean(results, kind, "u_lira", "train", "forget") for kind in gap}
    low, high = null_of(results, "u_lira", "train", "forget")
    if attack["gemu"] == attack["gemu"]:  # not nan, as with fewer than six models
        names = {kind: "a new model" if kind == "new" else TITLES[kind] for kind in attack}
        told, parts = [names[kind] for kind, right in attack.items() if right > high], []
        for kind, right in attack.items():
            parts.append(f"{100 * right:.1f} %{' of models and samples' * (not parts)} for {names[kind]}")
        lines.append(
            f"An attack (U-LiRA, {models_in(results)} models of each kind) guesses from a "
            "model's confidence on one forgotten sample whether the model was unlearned or retrained. It is right for "
            f"{_listed(parts)}; retrained models against each other give {100 * low:.1f} to {100 * high:.1f} %. So it "
            f"distinguishes {'all of them' if len(told) == len(attack) else _listed(told) or 'none of them'} from "
            "retrained models."
        )
    if "ascent" in set(results.kind) and not diverged(results, "ascent"):
        too_far = forgets_more(results, "ascent")
        lines.append(
            f"Gradient Ascent {'forgets more' if too_far else 'does not forget more'} than retraining: it classifies "
            f"{percent('ascent', 'accuracy', split, 'forget')} of the forgotten samples correctly, and loses "
            f"{lost(results, 'ascent'):.0f} percentage points of accuracy on the rest."
        )
    return Markdown("\n".join(f"{place}. {line}" for place, line in enumerate(lines, 1)))


def lost(results: pd.DataFrame, kind: str) -> float:
    """Accuracy lost on the rest: what retrained models have more, on retained test samples; in percentage points, to
    two places."""
    return round(100 * (mean(results, "retrained", *KEPT) - mean(results, kind, *KEPT)), 2) + 0.0  # no minus zero


def what_there_is_to_forget(results: pd.DataFrame) -> Markdown:
    """How trained and retrained models differ on the forget set and on the rest."""
    split = headline(results)
    read, rest = (
        {kind: 100 * mean(results, kind, "accuracy", *part) for kind in ("trained", "retrained")}
        for part in ((split, "forget"), ("test", "retain"))
    )
    return Markdown(
        f"**What was learned.** Trained models classify {read['trained']:.1f} % of the forget set ({split}) correctly, "
        f"retrained ones {read['retrained']:.1f} %: that is what there is to forget. On the retained test samples they "
        f"differ by {abs(rest['trained'] - rest['retrained']):.2f} percentage points. {no_gap(results)}"
    )


def what_was_learned(results: pd.DataFrame, kind: str) -> Markdown:
    """One method: how close it comes, at what price, and whether Reset and a new model come closer."""
    if no_gap(results):
        return Markdown(f"**What was learned.** {no_gap(results)}")
    split = headline(results)
    read = {name: 100 * mean(results, name, "accuracy", split, "forget") for name in (kind, "trained", "retrained")}
    closed = {name: 100 * values(results, name, "energy_gap", split, "forget") for name in (kind, *BESIDE)}
    too_far = " It forgets more than retraining does, which singles the forgotten samples out."
    lines = [
        f"**What was learned.** {TITLES[kind]} closes {closed[kind].mean():.1f} % of the distance to retrained models, "
        f"at {100 * mean(results, kind, 'samples_share'):.1f} % of retraining's cost in samples. It classifies "
        f"{read[kind]:.1f} % of the forgotten samples correctly (trained models {read['trained']:.1f} %, retrained "
        f"ones {read['retrained']:.1f} %), and loses {lost(results, kind):.2f} percentage points of accuracy on "
        "the rest."
        + too_far * forgets_more(results, kind)
        + f" {diverged(results, kind)} of {models_in(results)} models diverged and count as having closed nothing."
        * bool(diverged(results, kind))
    ]
    others = [name for name in BESIDE if name != kind and len(closed[name])]
    apart = [difference(results, kind, other, "energy_gap", split, "forget") for other in others]
    for other, more, p in zip(others, apart, holm([each.p for each in apart]), strict=True):
        word = "neither clearly more nor less" if not p < 0.05 else "less" if more.mean > 0 else "more"
        word = word if models_in(results) >= FEWEST_FOR_VERDICTS else "too few models to tell"
        failed = diverged(results, kind if more.mean > 0 else other)
        word = f"no verdict, {failed} of {models_in(results)} models diverged" if failed else word
        lines.append(
            f"- {TITLES[other]}, at {100 * mean(results, other, 'samples_share'):.1f} % of that cost, closes "
            f"{closed[other].mean():.1f} % and loses {lost(results, other):.2f} points: {word} ({TITLES[kind]} minus "
            f"{TITLES[other]}: {100 * more.mean:+.1f} points, 95 % interval {100 * more.low:+.1f} to "
            f"{100 * more.high:+.1f}; verdict after Holm's correction)."
        )
    return Markdown("\n".join(lines))


def _compared(both: list[tuple[Estimate, float]], other: str, about: str, again: bool) -> str:
    """A sentence on both methods. both: what GEMU and GeFeU close more than `other` does, as shares, each with its
    adjusted p-value; about: what `other` reaches; again: a sentence like it stands before."""
    words = []
    for more, p in both:
        closer, further = ("closer to retraining", "than"), ("further from retraining", "than")
        words.append(("not clearly apart", "from") if not p < 0.05 else closer if more.mean > 0 else further)
    (first, link), (second, _) = words
    both_are = f"{'Both' if again else 'GEMU and GeFeU'} are {first}".replace("Both are not", "Neither is")
    who = both_are if first == second else f"GEMU is {first}"
    also = "" if first == second else f", GeFeU is {second}"
    ends = [f"{100 * more.low:+.1f} to {100 * more.high:+.1f}" for more, _ in both]
    found = [f"{100 * both[0][0].mean:+.1f} points ({'95 % interval ' * (not again)}{ends[0]})"]
    found.append(f"{100 * both[1][0].mean:+.1f} ({ends[1]})")
    return f"{who} {link} {other} ({about}){also}: {' and '.join(found)}."


def _listed(words: list[str]) -> str:
    """a, b and c"""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
