"""The null distribution of every measure of outputs, and of the probes: what a method as good as retraining would have.

There are twice as many retrained models as models of any kind, the second half with other seeds ("retrained again").
The pool of 2N is split at random into two disjoint sets of N, 200 times: one is in the place of the method, the other
in that of the retrained models. Each draw is the same statistic, over as many models, as what is shown of a method; of
means and of pairs as a difference between the two sets, added to what the retrained models have.
"""

from collections.abc import Callable

import numpy as np

from helpers.evaluation.distances import energy, mean_over_others
from helpers.evaluation.measures import Measure, Part, View

DRAWS = 200


def splits(n: int, draws: int = DRAWS) -> list[tuple[np.ndarray, np.ndarray]]:
    """Random splits (seed 0) of 2n positions into two sets of n."""
    random = np.random.default_rng(0)
    return [(order[:n], order[n:]) for order in (random.permutation(2 * n) for _ in range(draws))]


def null_of_means(pool: np.ndarray) -> np.ndarray:
    """Of a measure with one value per model: its mean over the retrained models, plus the difference of the two sets'
    means. pool: [2N], the retrained models first -> [DRAWS]."""
    n = len(pool) // 2
    return np.array([pool[:n].mean() + pool[a].mean() - pool[b].mean() for a, b in splits(n)])


def null_of_few(pool: np.ndarray, n: int, of: Callable = np.mean) -> np.ndarray:
    """Of a measure that a method has of n models alone: its mean over the whole pool of retrained models, plus that of
    n of them, minus that of the others. pool: [2M], M >= n; of: np.mean, or np.median in its place -> [DRAWS]."""
    order = (np.concatenate(both) for both in splits(len(pool) // 2))
    return np.array([of(pool) + of(pool[each[:n]]) - of(pool[each[n:]]) for each in order])


def null_draws(about: Measure, pool: View, part: Part, halved: tuple) -> dict[str, np.ndarray]:
    """`at` -> [DRAWS] of a measure of outputs. pool: 2N retrained models; halved: positions in either set, as
    "halves" draws them."""
    n = len(pool) // 2
    if about.compares == "alone":
        found = about.formula(pool, part)
        return {at: null_of_means(each) for at, each in by_at(found).items()}
    if about.compares == "energy":
        pairs = about.formula(pool, pool, part)
        return {"": np.array([of_pairs(about, *blocks(pairs, a, b)).mean() for a, b in splits(n)])}
    if about.compares == "all pairs":
        return {"": _null_of_pairs(about.formula(pool, pool, part))}
    a, b = halved
    drawn = [by_at(about.formula(pool, pool, mine[a], theirs[b], part)) for mine, theirs in splits(n)]
    return {at: np.array([each[at].mean() for each in drawn]) for at in drawn[0]}


def _null_of_pairs(pairs: np.ndarray) -> np.ndarray:
    """[DRAWS] of a mean over pairs of models: between two sets, minus that within the set in the place of the retrained
    models, plus that within the retrained models. A model that is far from all others is so in either set: without this
    contrast the splits would vary too little. pairs: [2N, 2N]."""
    n = len(pairs) // 2

    def between(a: np.ndarray, b: np.ndarray) -> float:
        return mean_over_others(pairs[np.ix_(b, a)]).mean()

    first = np.arange(n)
    return np.array([between(first, first) + between(a, b) - between(b, b) for a, b in splits(n)])


def blocks(pairs: np.ndarray, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a matrix of all pairs: models b against a, a among themselves, b among themselves."""
    return tuple(pairs[np.ix_(rows, columns)] for rows, columns in ((b, a), (a, a), (b, b)))


def of_pairs(about: Measure, between: np.ndarray, *others: np.ndarray) -> np.ndarray:
    """One value per model of matrices of pairs [N, N]: retrained models (rows) against the kind's; of the energy
    distance also those within the kind and among the retrained ones."""
    return energy(between, *others) if about.compares == "energy" else mean_over_others(between)


def by_at(found) -> dict:
    """What a formula gave, as a dictionary from `at` to values."""
    return found if isinstance(found, dict) else {"": found}
