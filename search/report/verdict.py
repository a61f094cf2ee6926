"""What a study says, in plain language: for somebody who runs machines and not studies."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from optuna.distributions import FloatDistribution, IntDistribution

from features.clips.clip import ANOMALY, NORMAL
from search.report.facts import detector_commands
from search.results.comparison import Comparison
from search.results.status import Status, machines, worth
from search.results.wording import difference_interval, interval
from search.storage.stored_study import StoredStudy
from search.study.objectives import IN_WORDS, LOWEST_CAUTION, PROXY_CAUTION
from search.study.study import Study

#: What a first objective says to somebody who runs machines.
_HEADLINES = {
    "auc": (
        "In {hundreds:.0f} of 100 comparisons, the best detector finds a faulty machine's sound stranger than a normal "
        "one's."
    ),
    "proxy": (
        "In {hundreds:.0f} of 100 comparisons, the best detector finds a sound with a made fault stranger than a "
        "normal one."
    ),
}

#: The share of a range, at either end, in which a best value asks for a wider one.
_EDGE = 0.05
#: More kinds of machines than this are not named in a sentence.
_NAMED = 5


@dataclass(frozen=True)
class Step:
    """Something to do next, and the commands that do it."""

    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A headline, what supports it, and what to do next."""

    headline: str
    sentences: tuple[str, ...]
    steps: tuple[Step, ...]


def verdict(
    stored: StoredStudy, study: Study, status: Status, comparison: Comparison | None, *, storage: str
) -> Verdict:
    """The verdict on a study as it stands; `storage` is the URL that commands name."""
    steps = tuple(_steps(stored, status, comparison, storage))
    if status.best is None or comparison is None:
        return Verdict(_headline_without(status), (_tried(stored, study, status), *_limits(status)), steps)
    headline = _HEADLINES.get(status.objectives[0], "The best detector's {name} is {value:.3f}.").format(
        hundreds=100 * worth(status.best), name=status.metric_name, value=worth(status.best)
    )
    if comparison.may_guess:
        headline = "These clips cannot tell that the best detector is any better than guessing."
    scale = LOWEST_CAUTION if stored.metric == "worst_id" else "guessing has 0.5, a perfect detector 1"
    measured = (
        f"The best has a validation {status.metric_name} of {worth(status.best):.3f}, with a 95 % interval from "
        f"{interval(comparison.interval)}: {scale}. The clips that measured it also chose it, which flatters it: "
    )
    if stored.validation.uses_proxies:
        measured += (
            "the figure to quote is what “offkey train” measures on recorded faults, as soon as there are some. "
            f"Mind: {PROXY_CAUTION}."
        )
    else:
        measured += "the figure to quote is what “offkey train” measures, on clips that no search has seen."
    told = (
        _tried(stored, study, status),
        measured,
        *_several(status),
        _gain(stored, status, comparison),
        *_limits(status),
    )
    return Verdict(headline, told, steps)


def _several(status: Status) -> Iterator[str]:
    """What there is to say of several objectives."""
    if len(status.objectives) > 1:
        others = " and ".join(IN_WORDS[objective] for objective in status.objectives[1:])
        yield (
            f"The search looked for {others} too: {len(status.front)} of its trials are trade-offs that no other is "
            "better than in everything (under “Trade-offs”). “Best” is said of the first objective alone."
        )


def _limits(status: Status) -> Iterator[str]:
    """What there is to say of the study's constraints."""
    if status.beyond_limits:
        one = status.beyond_limits == 1
        yield (
            f"{status.beyond_limits} complete {'trial is' if one else 'trials are'} beyond the study's limits "
            f"(search.constraints), and {'is' if one else 'are'} not counted among the best."
        )


def _tried(stored: StoredStudy, study: Study, status: Status) -> str:
    """What was searched, in a sentence."""
    ids, families = set(stored.truth.ids), study.space.families
    named = list(machines(stored.truth))
    kinds = ", ".join(named[:_NAMED]) + (", …" if len(named) > _NAMED else "")
    normal, faulty = (stored.truth.count(label) for label in (NORMAL, ANOMALY))
    faulty_in_words = "clips with made faults" if stored.validation.uses_proxies else "faulty clips"
    models = f"the model family {families[0]}" if len(families) == 1 else f"the model families {', '.join(families)}"
    tried = "1 setting" if status.done == 1 else f"{status.done} settings"
    heard = "1 machine ID" if len(ids) == 1 else f"{len(ids)} machine IDs"
    return (
        f"The search has tried {tried} of {models} on recordings of {heard} ({kinds}), judged by {normal} normal and "
        f"{faulty} {faulty_in_words}."
    )


def _headline_without(status: Status) -> str:
    """The headline of a study without a complete trial."""
    if status.done == 0:
        return "No trial has ended yet: there is nothing to tell of a detector."
    if status.counts["failed"] == status.done:
        every = "The only trial" if status.done == 1 else f"All {status.done} trials"
        return f"{every} that ended failed: there is no detector yet."
    if status.beyond_limits == status.counts["complete"] > 0:
        return "No complete trial keeps to the study's limits: there is no detector yet."
    return f"None of the {status.done} trials that ended is complete: there is no detector yet."


def _gain(stored: StoredStudy, status: Status, comparison: Comparison) -> str:
    assert status.best is not None
    if comparison.gain is None or status.baseline is None:
        if stored.tree.get("baseline"):
            return "The baseline is not complete, so that nothing can be said of a gain over it."
        return "The study has no baseline: it cannot say whether the search was worth while."
    if status.best.number == 0:
        return "The best detector is the baseline itself: no gain over it was found."
    gain = comparison.gain
    return (
        f"Over the baseline, the known setting that it is compared with, this is {gain.in_words}: "
        f"{gain.difference:+.3f}, with a 95 % interval from {difference_interval(gain.interval)}."
    )


def _steps(stored: StoredStudy, status: Status, comparison: Comparison | None, url: str) -> Iterator[Step]:
    best = status.best
    left = status.budget - status.done
    if best is None and status.counts["failed"]:
        yield Step("Read why trials failed (under “Failures”), mend the study file, and search it under a new name.")
    elif status.counts["failed"] > status.done / 5:
        yield Step(f"{status.counts['failed']} trials failed: see “Failures” for what they ask of the ranges.")
    if left > 0:
        goes_on = f"offkey search {shlex.quote(stored.name)} --storage {shlex.quote(url)}"
        yield Step(f"Go on: {left} of {status.budget} trials are left.", (goes_on,))
    if best is None:
        return
    measured = "" if stored.validation.uses_proxies else ", and measure it on the clips that were kept aside"
    aside = f"Train the detector{measured}:"
    yield Step(aside, tuple(detector_commands(stored, best, url)))
    if comparison is not None and comparison.gain is not None and best.number != 0 and comparison.gain.may_be_chance:
        yield Step("Label more clips of faults: the more there are, the smaller the gains that they can tell.")
    edges = [named for named in best.params if _at_an_edge(best.distributions[named], best.params[named])]
    if edges:
        yield Step(f"Search wider ranges: the best trial lies at the edge of {', '.join(edges)}.")


def _at_an_edge(distribution: object, value: float) -> bool:
    """Whether a value lies so close to an end of its range that better ones may lie beyond."""
    if not isinstance(distribution, IntDistribution | FloatDistribution) or distribution.single():
        return False
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return not _EDGE < (value - low) / (high - low) < 1 - _EDGE
