"""What the studies of all methods, and of the forms of GEMU and GeFeU, have found: docs/forms.md, and the ablation in
the notebooks. All but the figure of repair by distillation is read from the stored studies, which may be older than the
code."""

from dataclasses import replace

import numpy as np
import pandas as pd
from IPython.display import Markdown
from optuna import Study
from pandas.io.formats.style import Styler

from helpers.data.task import Task
from helpers.evaluation.distances import accuracy
from helpers.evaluation.frame import Estimate, holm, t_estimate
from helpers.evaluation.logits import logits_of, parts_of
from helpers.files import StudyError
from helpers.models.ensembles import Ensemble, baseline
from helpers.objective import complete, winner
from helpers.report.export import markdown
from helpers.report.studies import NOT_STORED
from helpers.report.style import Figure, colour_of, figure
from helpers.report.tables import NONE, styled
from helpers.studies import stored, study_name, to_tune
from helpers.unlearning import FORMS, METHODS, TITLES, method_of, unlearned
from helpers.unlearning.forms import PARTS

NO_STUDY = (
    "No finished study of these forms is stored for this data set and request: `python -m helpers tune forms` makes "
    "them, after `tune all --adopt`."
)
GOAL_IS = """Goal, lower is better: energy distance left open on the forgotten training samples in %, plus ten times
the percentage points of accuracy lost on held-out retained samples, plus ten times those lost of the classes touched
(less than nothing is lost where a method keeps more than retrained models do): mean (standard error) over fresh
tuning models, which no trial has seen; their median, and the worst of them. Goal in the study: of the same trial, on
the models of its study; the best of many is too good there. Up to three of the best trials are measured on fresh
models; shown is the one with the lowest mean over both, so that its goal may still be a little too good. A method and
the same *tuned anew* may differ: another of the best trials won. Differences are paired by model, with a 95 % interval,
each for itself; the retrained models are held fixed.""".replace("\n", " ")

DISTILLED = (0.03, 0.06, 0.1)  # budgets


def ablation_table(method: str, task: Task) -> Styler | Markdown:
    """What each part of GEMU or GeFeU adds: a row per form, of the same cost, each with the learning rate and weight
    decay that 20 trials found for it."""
    found = _ablation(method, study_name("", task))
    if not found:
        return Markdown(NO_STUDY)
    rows = {_changed(name): _row(study, found[f"{method}_whole"]) for name, study in found.items()}
    return styled(_table(rows, METHODS[method].title), GOAL_IS)


def ablation_figure(method: str, task: Task) -> Figure | Markdown:
    """The goal of each form minus that of the method as it is, with 95 % intervals."""
    found = _ablation(method, study_name("", task))
    if not found:
        return Markdown("")  # the table says why
    whole = found.pop(f"{method}_whole")
    more = {_changed(name): _more(study, whole) for name, study in found.items()}
    made, axes = figure(1, 1, (6.8, 0.6 + 0.32 * len(more)))
    axis, places = axes[0, 0], np.arange(len(more))[::-1]
    means = np.array([each.mean for each in more.values()])
    ends = np.array([(each.mean - each.low, each.high - each.mean) for each in more.values()]).T
    axis.errorbar(means, places, xerr=ends, fmt="o", color=colour_of(method), capsize=3)
    axis.axvline(0, color="0.5", lw=1)
    axis.set_yticks(places, list(more))
    axis.set_xlabel(f"goal minus that of {METHODS[method].title} as it is (right: worse)")
    told = "; ".join(f"{name} {_signed(each)}" for name, each in more.items())
    made.alt = f"Goal of each form of {METHODS[method].title} minus that of the method as it is: {told}."
    return made


def ablation_words(method: str, task: Task) -> Markdown:
    """What the learned noise adds, and what it adds that impair moves the last layers alone."""
    found, title = _ablation(method, study_name("", task)), METHODS[method].title
    if not found:
        return Markdown("")
    lines = [
        f"{SAID[name].format(LEFT[method])}, {title} is {word or 'neither clearly worse nor better'}: its goal changes "
        f"by {_signed(more)}."
        for name, (more, word) in _verdicts(found).items()
        if name in SAID
    ]
    return Markdown(" ".join([*lines, "Verdicts are after Holm's correction, intervals before."]))


SAID = {
    "untrained": "With a generator that is not trained",
    "none": "With an impair on retained samples alone",
    "unimpaired": "Without any impair, so that {} remains",
    "random": "With randomly labelled forgotten pictures in place of noise",
    "everywhere": "With an impair that moves all layers",
    "redrawn": "With the same layers drawn anew in place of impair",
    "pictures": "With forgotten pictures to which no noise is added",
    "alone": "With noise that is not added to forgotten pictures",
    "outputs": "With all outputs of the trained model as labels",
    "kept": "Without layers drawn anew",
}


LEFT = {"gemu": "fine-tuning", "gefeu": "Reset"}  # what there is of a method that does not impair


def distillation() -> dict[str, list]:
    """GEMU, and GEMU whose repair learns the trained model's outputs -> settings for each budget of the figure."""
    names = ("gemu_distilled", "gemu")
    return {name: [replace(method_of(name).settings, budget=share) for share in DISTILLED] for name in names}


def distillation_figure(task: Task, n: int, stored: bool) -> Figure | Markdown:
    """What a model still reads of the forget set after GEMU whose repair learns the labels of retained samples, and
    after the same whose repair learns the trained model's outputs on them, against the cost: mean and standard
    deviation over n models; both have GEMU's settings, and reading the outputs takes a quarter of the cost. In the
    title the difference, paired by model, with its 95 % interval. stored: True makes no model; where some are missing,
    a sentence says what to do."""
    made, axes = figure(1, 1, (6.4, 3.0))
    axis, part = axes[0, 0], ("test" if task.forget["test"].any() else "train", "forget")

    def read(ensemble: Ensemble) -> np.ndarray:
        return 100 * accuracy(*parts_of(task, logits_of(ensemble, task))[part])

    for name in ("trained", "retrained"):
        level = read(baseline(name, task, n, stored=True)).mean()
        axis.axhline(level, color=colour_of(name), lw=1, ls=":")
        axis.text(1.01, level, TITLES[name], transform=axis.get_yaxis_transform(), va="center", fontsize=8)
    last = {}
    looks = (("the trained model's outputs", "--s"), ("labels", "-o"))
    for (name, budgets), (learned, line) in zip(distillation().items(), looks, strict=True):
        try:
            models = [unlearned(name, task, n, stored, settings) for settings in budgets]
        except StudyError:
            if stored:
                return Markdown(NOT_STORED)
            raise
        found = [read(each) for each in models]
        means, whiskers = np.mean(found, 1), np.std(found, 1, ddof=1)
        label = f"repair learns {learned}"
        shares = 100 * np.array(DISTILLED)
        axis.errorbar(shares, means, whiskers, fmt=line, label=label, color=colour_of("gemu"), capsize=3, ms=5)
        last[learned] = found[-1]
    told = ", ".join(f"{each.mean():.0f} % after {learned}" for learned, each in last.items())
    if n > 1:
        told += f": {_signed(t_estimate(np.subtract(*last.values())))} points"
    axis.set_title(f"At {100 * DISTILLED[-1]:.0f} % of the cost: {told}", fontsize=9, loc="left")
    axis.set_xlabel("cost: samples, % of retraining's")
    axis.set_ylabel(f"accuracy on the forget set ({part[0]}), %")
    axis.legend(fontsize=8, frameon=False)
    made.alt = f"Accuracy on the forget set after GEMU, against its cost. {axis.get_title(loc='left')}."
    return made


def forms_text(storage: str | None = None) -> str:
    """docs/forms.md between its marks, in Markdown: methods, ablations, other forms; empty where nothing is stored."""
    tuned, forms = (stored(names, "mnist-", storage) for names in (to_tune(), list(FORMS)))
    parts = []
    if tuned:
        budgets = {name: method_of(name).settings.budget for name in tuned}
        usual = METHODS["reset"].settings.budget
        for share in sorted(set(budgets.values()), key=lambda share: (share != usual, share)):
            mine = {name: study for name, study in tuned.items() if budgets[name] == share}
            reset = next((study for name, study in mine.items() if name.startswith("reset")), None)
            ordered = sorted(mine, key=lambda name: _goal(mine[name]))
            rows = {method_of(name).title: _row(mine[name], reset) for name in ordered}
            title = "Every method" if share == usual else f"At {100 * share:.0f} % of retraining's samples"
            parts += [f"## {title}", markdown(_table(rows, "method", "minus Reset"))]
    for method in ("gemu", "gefeu"):
        title, mine = METHODS[method].title, {name: study for name, study in forms.items() if name.startswith(method)}
        parted = {name: study for name, study in mine.items() if _short(name) in PARTS[method]}
        other = {name: study for name, study in mine.items() if name not in parted}
        if parted:
            rows = {_changed(name): _row(study, parted.get(f"{method}_whole")) for name, study in parted.items()}
            parts += [f"## What the parts of {title} add", markdown(_table(rows, title))]
        if other:
            rows = {_changed(name): _row(study, tuned.get(method)) for name, study in other.items()}
            parts += [f"## Other forms of {title}", markdown(_table(rows, title, f"minus {title}"))]
    return "\n\n".join([GOAL_IS, *parts]) if parts else ""


ASKED = {"untrained": "Does training its generator help", "unimpaired": "Does impair"}  # form -> what it answers
ANSWERS = {"worse": "yes", "better": "no, it harms", "": "not that it shows"}  # by what happens without the part


def parts_lines(storage: str | None = None) -> list[str]:
    """What the studies of GEMU and GeFeU say beside that of Reset, and what their ablations say on generator and
    impair, in a line each, in Markdown; none of what is not stored."""
    lines = _beside_reset(stored(("reset", *PARTS), "mnist-", storage))
    verdicts = {method: _verdicts(_ablation(method, "mnist-", storage)) for method in PARTS}
    told = []
    for form, question in ASKED.items():
        answers = []
        for method, found in verdicts.items():
            if form in found:
                more, word = found[form]
                remains = f" ({LEFT[method]} remains)" * (form == "unimpaired")
                answers.append(f"{METHODS[method].title} {ANSWERS[word]}, without it{remains} {_signed(more)}")
        told += [f"{question}? {'; '.join(answers)}."] * bool(answers)
    if told:
        lines.append(f"{' '.join(told)} That is what the tuning goal changes by; [every part](docs/forms.md).")
    return lines


def _beside_reset(found: dict[str, Study]) -> list[str]:
    """Whether GEMU and GeFeU have a lower goal than Reset, with Holm's correction for two. found: their studies."""
    more = {method: _more(found[method], found["reset"]) for method in PARTS if {method, "reset"} <= found.keys()}
    if len(more) < len(PARTS) or not all(np.isfinite(each.mean) for each in more.values()):
        return []
    told = []
    for (method, each), p in zip(more.items(), holm([each.p for each in more.values()]), strict=True):
        word = "not clearly" if not p < 0.05 else "yes" if each.mean < 0 else "no, it is worse"
        told.append(f"{METHODS[method].title} {word}, {_signed(each)}")
    n = len(winner(found["reset"])[1]["goals"])
    return [
        f"Tuned alike, is a method better than Reset? {'; '.join(told)}. That is its [tuning goal](docs/tuning.md) "
        f"(distance left open and accuracy lost in one number, lower is better) minus that of Reset, on {n} fresh "
        "tuning models; verdicts here and below are after Holm's correction."
    ]


def _verdicts(found: dict[str, Study]) -> dict[str, tuple[Estimate, str]]:
    """Form, without the method's name -> its goal minus that of the method as it is, and "worse", "better" or "" where
    that is not clear, after Holm's correction for the number of forms. found: as `_ablation` gives them."""
    if not found:
        return {}
    whole, *others = found
    more = {_short(name): _more(found[name], found[whole]) for name in others}
    words = [
        "" if not p < 0.05 else "worse" if each.mean > 0 else "better"
        for each, p in zip(more.values(), holm([each.p for each in more.values()]), strict=True)
    ]
    return dict(zip(more, zip(more.values(), words, strict=True), strict=True))


def _ablation(method: str, prefix: str, storage: str | None = None) -> dict[str, Study]:
    """Form -> its study, the method as it is first; none where that, or every other one, was not measured again."""
    found = stored([f"{method}_{name}" for name in PARTS[method]], prefix, storage)
    whole = found.get(f"{method}_whole")
    known = {name: each for name, each in found.items() if whole and np.isfinite(_more(each, whole).low)}
    return known if len(known) > 1 else {}


def _short(name: str) -> str:
    return name.partition("_")[2]


def _changed(name: str) -> str:
    """What is changed in a form, without the method's name."""
    return FORMS[name].title.partition(", ")[2]


def _table(rows: dict[str, dict], title: str, against: str = "minus as it is") -> pd.DataFrame:
    return pd.DataFrame(rows).T.rename_axis(title).rename(columns={"difference": against}).fillna(NONE)


def _goal(study: Study) -> float:
    """The mean goal on fresh models; in the study, where there is none yet."""
    best, fresh = winner(study)
    return float(np.mean(fresh["goals"])) if fresh else best.value


def _row(study: Study, against: Study | None) -> dict[str, str]:
    """Column -> cell; against: the study that the goal is compared with. Of what was not measured on fresh models yet
    the number of trials alone."""
    best, fresh = winner(study)
    cells = {"trials": str(len(complete(study))), "goal in the study": f"{best.value:.1f}"}
    if not fresh:
        return {"trials": f"{cells['trials']} so far"}
    goal, more = t_estimate(np.array(fresh["goals"])), against and _more(study, against)
    error = np.std(fresh["goals"], ddof=1) / len(fresh["goals"]) ** 0.5 if len(fresh["goals"]) > 1 else np.nan
    same = against is None or against.study_name == study.study_name or not np.isfinite(more.mean)
    return cells | {
        "goal": f"{goal.mean:.1f} ({error:.1f})",
        "median": f"{np.median(fresh['goals']):.1f}",
        "worst": f"{max(fresh['goals']):.1f}",
        "difference": NONE if same else _signed(more),
        "distance closed, %": f"{fresh['gap']:.1f}",
        "accuracy lost, points": f"{round(fresh['lost'], 2) + 0.0:.2f}",  # no minus zero
        "lost of the classes touched": f"{round(fresh['lost_class'], 2) + 0.0:.2f}",
        "cost, %": f"{100 * fresh['cost']:.1f}",
    }


def _more(study: Study, against: Study) -> Estimate:
    """The goal of one study's settings minus that of another's, on the same fresh models; nan where these are not the
    same, or where there are none yet."""
    goals = [winner(each)[1].get("goals", []) for each in (study, against)]
    models = [[each.user_attrs.get("identity", {}).get(key) for key in SAME_MODELS] for each in (study, against)]
    if not goals[0] or len(goals[0]) != len(goals[1]) or models[0] != models[1]:
        return Estimate(np.nan, np.nan, np.nan)
    return t_estimate(np.subtract(*goals))


SAME_MODELS = ("number of tuning models", "request, split or data", "training recipe")  # of a study's identity


def _signed(more: Estimate) -> str:
    return f"{more.mean:+.1f} ({more.low:+.1f} to {more.high:+.1f})"
