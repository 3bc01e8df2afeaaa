"""What was found, in three sentences whose every number is read from the results frame."""

import pandas as pd
from IPython.display import Markdown

from helpers.data.task import NAMES
from helpers.evaluation.frame import headline, interval, mean, null_of, values
from helpers.report.tables import best_plain
from helpers.unlearning import TITLES


def conclusions(results: pd.DataFrame) -> Markdown:
    """How close GEMU and GeFeU come, whether a plain method comes closer, and whether an attacker sees a difference."""
    name, split = NAMES[results.iloc[0].dataset], headline(results)
    read = {kind: 100 * mean(results, kind, "accuracy", split, "forget") for kind in ("retrained", "gemu", "gefeu")}
    gap = {kind: 100 * mean(results, kind, "energy_gap", split, "forget") for kind in ("gemu", "gefeu")}
    lines = [
        f"On {name} GEMU closes {gap['gemu']:.0f} % and GeFeU {gap['gefeu']:.0f} % of the energy distance to "
        f"retrained models; they still read {read['gemu']:.0f} % and {read['gefeu']:.0f} % of the forgotten samples, "
        f"retrained models {read['retrained']:.0f} %."
    ]
    best, ours = best_plain(results), max(gap, key=gap.get)
    if best:
        mine, theirs = (100 * values(results, kind, "energy_gap", split, "forget") for kind in (ours, best))
        low, high = interval(mine - theirs)
        verdict = "closer than" if low > 0 else "not as close as" if high < 0 else "not told apart from"
        lines.append(
            f"{TITLES[ours]} is {verdict} the best of the rivals, {TITLES[best]} ({theirs.mean():.0f} %): "
            f"the difference is {(mine - theirs).mean():+.1f} percentage points ({low:+.1f} to {high:+.1f})."
        )
    attack = {kind: mean(results, kind, "u_lira", "train", "forget") for kind in ("gemu", "gefeu")}
    low, high = null_of(results, "u_lira", "train", "forget")
    if attack["gemu"] == attack["gemu"]:  # not nan, as with fewer than four models
        lines.append(
            f"An attacker (U-LiRA) tells GEMU's models from retrained ones with accuracy {attack['gemu']:.2f} and "
            f"GeFeU's with {attack['gefeu']:.2f}; retrained models among themselves give {low:.2f} to {high:.2f}."
        )
    return Markdown("\n".join(f"{place}. {line}" for place, line in enumerate(lines, 1)))
