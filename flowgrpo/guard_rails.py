"""Guard rails: what should not happen to samples and scores while the reward rises. Pure functions over metrics rows.

A rail compares the last `run.guard_window` iterations with the first, or with the best, and says one sentence where
its limit is passed. Alarms are warnings: the run goes on, and whoever watches it decides. The limits are judgement, not
theory: loose enough that the demo and the method recipes stay quiet, and to be changed by `run.guard_rails`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from statistics import fmean, variance
from typing import Any

from flowgrpo.recipe import Recipe

Row = Mapping[str, Any]
_NO_SCATTER = 1e-12
"""Stands for a standard error of 0: any difference between constants is one."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One passed limit.

    Attributes:
        rail: key of `RAILS`.
        about: the metric that passed it.
        message: one sentence.
    """

    rail: str
    about: str
    message: str


@dataclass(frozen=True, slots=True)
class Watch:
    """What is watched.

    Attributes:
        limits: rail -> limit; 0 switches it off.
        window: iterations whose mean is looked at.
        trained: scorer -> 1, or -1 where the policy is to lower it. Without those whose mean cannot move (win rates).
        monitors: the same of scorers with weight 0.
    """

    limits: Mapping[str, float]
    window: int
    trained: Mapping[str, float]
    monitors: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Rail:
    """A limit and how it is found to be passed.

    Attributes:
        limit: unless the recipe says otherwise.
        meaning: what the limit is, in a few words.
        check: (name, watch, rows, limit) -> alarms.
    """

    limit: float
    meaning: str
    check: Callable[[str, Watch, Sequence[Row], float], Iterator[Alarm]]


def watch_of(recipe: Recipe, cards: Mapping[str, Any]) -> Watch:
    """What a run watches.

    Args:
        recipe: weights of scorers, limits and window.
        cards: scorer -> its card (`reward_models.scorer.Card`), of all that the recipe names.
    """
    weights = recipe.reward.names
    better = {name: 1.0 if card.higher_is_better else -1.0 for name, card in cards.items()}
    moving = {name: weight for name, weight in weights.items() if weight and cards[name].kind == "pointwise"}
    trained = {name: 1.0 if weight > 0 else -1.0 for name, weight in moving.items()}
    monitors = {name: better[name] for name, weight in weights.items() if not weight}
    limits = {name: recipe.run.guard_rails.get(name, rail.limit) for name, rail in RAILS.items()}
    return Watch(limits, recipe.run.guard_window, trained, monitors)


def alarms(rows: Sequence[Row], watch: Watch) -> tuple[Alarm, ...]:
    """Every limit that is passed after the last of these iterations.

    Args:
        rows: of metrics.jsonl, from the first iteration on.
        watch: from `watch_of`.
    """
    on = {name: limit for name, limit in watch.limits.items() if limit > 0}
    return tuple(alarm for name, limit in on.items() for alarm in RAILS[name].check(name, watch, rows, limit))


def new_alarms(rows: Sequence[Row], watch: Watch) -> list[Alarm]:
    """Alarms that none of the `window` iterations before the last one raised: what is worth saying now."""
    now = alarms(rows, watch)
    if not now:
        return []
    earlier = (rows[: len(rows) - back] for back in range(1, min(watch.window, len(rows)) + 1))
    known = {(alarm.rail, alarm.about) for part in earlier for alarm in alarms(part, watch)}
    return [alarm for alarm in now if (alarm.rail, alarm.about) not in known]


def difference(late: Sequence[float], early: Sequence[float]) -> float:
    """By how many standard errors the mean of `late` lies above that of `early`, by their own scatter (Welch).

    Args:
        late: two numbers or more.
        early: two numbers or more.
    """
    error = (variance(late) / len(late) + variance(early) / len(early)) ** 0.5
    return (fmean(late) - fmean(early)) / max(error, _NO_SCATTER)


def _column(rows: Sequence[Row], key: str) -> list[float]:
    """The finite numbers under a key."""
    values = (row.get(key) for row in rows)
    return [float(value) for value in values if isinstance(value, int | float) and abs(value) < float("inf")]


def _ends(rows: Sequence[Row], key: str, window: int) -> tuple[float, float] | None:
    """Means of the first and the last window; None before there are two of them."""
    values = _column(rows, key)
    if len(values) < 2 * window:
        return None
    return fmean(values[:window]), fmean(values[-window:])


def _fallen(name: str, watch: Watch, rows: Sequence[Row], limit: float, *, key: str) -> Iterator[Alarm]:
    ends = _ends(rows, key, watch.window)
    if ends and ends[1] < (1 - limit) * ends[0]:
        yield Alarm(name, key, _moved(name, key, ends, watch, rows, f"fell by {1 - ends[1] / ends[0]:.0%}", limit))


def _risen(name: str, watch: Watch, rows: Sequence[Row], limit: float, *, key: str) -> Iterator[Alarm]:
    ends = _ends(rows, key, watch.window)
    if ends and ends[1] > (1 + limit) * ends[0] > 0:
        yield Alarm(name, key, _moved(name, key, ends, watch, rows, f"rose by {ends[1] / ends[0] - 1:.0%}", limit))


def _moved(
    name: str, key: str, ends: tuple[float, float], watch: Watch, rows: Sequence[Row], how: str, limit: float
) -> str:
    risen = _risen_rewards(watch, rows[: watch.window], rows[-watch.window :], limit=2.0)
    beside = f" while {' and '.join(risen)} rose" if risen else ""
    return (
        f"guard rail {name}: {key} {how} since the first {watch.window} iterations "
        f"({ends[0]:.3g} to {ends[1]:.3g}, limit {limit:.0%}){beside}"
    )


def _share(name: str, watch: Watch, rows: Sequence[Row], limit: float, *, key: str, what: str) -> Iterator[Alarm]:
    values = _column(rows[-watch.window :], key)
    if len(values) >= watch.window and fmean(values) > limit:
        yield Alarm(
            name,
            key,
            f"guard rail {name}: {fmean(values):.0%} of {what} over the last {watch.window} iterations "
            f"(limit {limit:.0%})",
        )


def _risen_rewards(watch: Watch, early: Sequence[Row], late: Sequence[Row], *, limit: float) -> list[str]:
    """Trained scorers that went where they are to go, by more than `limit` standard errors."""
    found = []
    for scorer, sign in watch.trained.items():
        before, after = (_column(part, f"reward/{scorer}/mean") for part in (early, late))
        if min(len(before), len(after)) > 1 and sign * difference(after, before) > limit:
            found.append(scorer)
    return found


def _hacked(name: str, watch: Watch, rows: Sequence[Row], limit: float) -> Iterator[Alarm]:
    """A scorer that is not trained on got worse than it has been, while one that is trained on got better."""
    window = watch.window
    if len(rows) < 2 * window or window < 2:
        return
    late = rows[-window:]
    for scorer, sign in watch.monitors.items():
        key = f"reward/{scorer}/mean"
        blocks = [rows[start : start + window] for start in range(0, len(rows) - 2 * window + 1, window)]
        heard = [block for block in blocks if len(_column(block, key)) > 1]
        if not heard or len(_column(late, key)) < 2:
            continue
        best = max(heard, key=lambda block: sign * fmean(_column(block, key)))
        before, after = _column(best, key), _column(late, key)
        gap = sign * difference(after, before)
        risen = _risen_rewards(watch, best, late, limit=limit)
        if gap < -limit and (risen or not watch.trained):
            beside = f" while {' and '.join(risen)}, which is trained on, got better" if risen else ""
            yield Alarm(
                name,
                key,
                f"guard rail {name}: {scorer}, which is not trained on, got worse{beside}: {fmean(before):.4g} to "
                f"{fmean(after):.4g} since its best {window} iterations, up to iteration {best[-1]['iteration']} "
                f"({abs(gap):.1f} standard errors, limit {limit:g})",
            )


RAILS: dict[str, Rail] = {
    "edges": Rail(0.4, "share of image/edges that may be lost", partial(_fallen, key="image/edges")),
    "sharpness": Rail(0.5, "share of image/sharpness that may be lost", partial(_fallen, key="image/sharpness")),
    "colour_entropy": Rail(
        0.4, "share of image/colour_entropy that may be lost", partial(_fallen, key="image/colour_entropy")
    ),
    "diversity": Rail(0.5, "share of image/diversity that may be lost", partial(_fallen, key="image/diversity")),
    "clip_diversity": Rail(
        0.5,
        "share of the scorer clip_diversity (weight 0) that may be lost",
        partial(_fallen, key="reward/clip_diversity/mean"),
    ),
    "saturation": Rail(0.5, "share by which image/saturation may rise", partial(_risen, key="image/saturation")),
    "hacking": Rail(4.0, "standard errors by which a scorer of weight 0 may fall while the reward rises", _hacked),
    "zero_std": Rail(
        0.5,
        "share of groups without spread",
        partial(_share, key="reward/zero_std_groups", what="the groups had equal rewards, which teach nothing,"),
    ),
    "invalid": Rail(
        0.05,
        "share of samples without a score",
        partial(_share, key="reward/invalid", what="the samples got no score (failed or unreadable judgements)"),
    ),
}
"""Every rail by its name in `run.guard_rails`."""
