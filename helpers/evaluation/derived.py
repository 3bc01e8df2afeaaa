"""What follows from other measures when a frame is read: gaps closed, and shares of what retraining costs."""

import numpy as np
import pandas as pd

from helpers.evaluation.distances import gap_closed
from helpers.evaluation.frame import WITHOUT, select

WIDEST = 0.5  # of the distance: where the null distribution of a gap closed is wider, the gap is undefined
FORGOTTEN = ("forget", "memorised")  # subsets on which a model that diverged has forgotten nothing


def with_derived(results: pd.DataFrame) -> pd.DataFrame:
    """Adds the gap closed in energy distance, joint energy distance and KL divergence, from the floor (retrained
    models; 0 for the energy distances) to the ceiling (trained ones), each also without the models of one seed; the
    energy distance in units of its root; and `samples_share`. A gap is nan where it is undefined (`_defined`)."""
    results = _with_diverged(results)
    frames = [results]
    for name in ("energy", "joint", "kl"):
        for where, full in select(results, name, None, None).groupby(["split", "subset"], sort=False):
            left = select(results, name + WITHOUT, *where)
            ends = {kind: full[full.kind == kind].value.to_numpy().mean() for kind in ("trained", "retrained")}
            floor = ends["retrained"] if name == "kl" else 0.0
            gaps = _as(full, f"{name}_gap", gap_closed(full.value, floor, ends["trained"]))
            if not _defined(gaps, floor, ends["trained"]):
                frames.append(gaps.assign(value=np.nan))
                continue
            frames.append(gaps)
            if len(left):
                by_seed = {kind: left[left.kind == kind].set_index("seed").value for kind in ends}
                ceilings, floors = (_of_seeds(left, by_seed[kind]) for kind in ("trained", "retrained"))
                floors = floors if name == "kl" else 0.0
                frames.append(_as(left, f"{name}_gap{WITHOUT}", (ceilings - left.value) / (ceilings - floors)))
            if name == "energy":
                frames += _roots(full, left, ends["trained"])
    samples = results[results.measure == "samples"]
    whole = samples[samples.kind == "retrained"].value.mean()
    frames.append(_as(samples, "samples_share", samples.value / whole))
    return pd.concat([frame for frame in frames if len(frame)], ignore_index=True)


def _defined(gaps: pd.DataFrame, floor: float, ceiling: float) -> bool:
    """Whether trained models differ from retrained ones by so much more than these from each other that a share of it
    says something: what a method as good as retraining closes of it (95 % of the null distribution, where there is
    one) spans at most WIDEST."""
    draws = gaps.value[gaps.kind == "null"].dropna()
    return ceiling > floor and (draws.empty or np.ptp(np.quantile(draws, [0.025, 0.975])) <= WIDEST)


def _with_diverged(results: pd.DataFrame) -> pd.DataFrame:
    """A model that diverged has on forgotten samples the energy distances of trained models: as one that has forgotten
    nothing it closes 0 % of each, and of N models of which k diverged N - k close what they close without the others.
    (Among the others such a model would spread their outputs, and bring them nearer to retrained models.)"""
    lost = results[(results.measure == "diverged") & (results.value == 1)]
    results = results.copy() if len(lost) else results
    for kind, seeds in lost.groupby("kind").seed:
        for name in ("energy", "joint"):
            places = select(results, name, None, None, kinds=[kind]).groupby(["split", "subset"], sort=False)
            for where, own in ((where, own) for where, own in places if where[1] in FORGOTTEN):
                trained = select(results, name, *where, kinds=["trained"]).value.mean()
                results.loc[own.index[own.seed.isin(seeds)], "value"] = trained
                left, n = select(results, name + WITHOUT, *where, kinds=[kind]), len(own)
                ceilings = select(results, name + WITHOUT, *where, kinds=["trained"]).set_index("seed").value
                k = len(seeds) - left.seed.isin(seeds)
                sound = left.value.where(n - 1 - k > 0, 0.0)  # nan where one is left, which has no pair
                mixed = ((n - 1 - k) * sound + k * _of_seeds(left, ceilings)) / (n - 1)
                results.loc[left.index, "value"] = mixed
    return results


def _as(found: pd.DataFrame, measure: str, values) -> pd.DataFrame:
    return found.assign(measure=measure, value=values)


def _of_seeds(found: pd.DataFrame, by_seed: pd.Series) -> np.ndarray:
    return found.seed.map(by_seed).to_numpy(dtype=float, na_value=np.nan)


def _roots(full: pd.DataFrame, left: pd.DataFrame, ceiling: float) -> list[pd.DataFrame]:
    """The share closed of the root of the energy distance: one value per kind, without the models of one seed, and per
    draw of the null distribution."""
    means = full[full.kind != "null"].groupby("kind", sort=False).head(1).assign(seed=pd.NA)
    means = means.assign(value=means.kind.map(full.groupby("kind").value.mean()))
    draws, by_seed = full[full.kind == "null"], left[left.kind == "trained"].set_index("seed").value

    def share(distance, most):
        return 1 - np.sqrt(np.maximum(distance, 0) / most)

    found = [_as(some, "energy_root", share(some.value, ceiling)) for some in (means, draws)]
    if not by_seed.gt(0).all():  # too near to retraining for a share without every seed
        return found
    return [*found, _as(left, "energy_root" + WITHOUT, share(left.value, _of_seeds(left, by_seed)))]
