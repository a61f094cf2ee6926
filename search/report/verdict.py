"""The result of a study in plain language, and the next steps: for somebody who runs machines, not studies."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterator
from dataclasses import dataclass

from optuna.distributions import FloatDistribution, IntDistribution

from features.clips.clip import ANOMALY, NORMAL
from search.report.tables import detector_commands
from search.results.comparison import Comparison
from search.results.status import Status, worth
from search.results.wording import interval_or_why
from search.storage.counted_evaluations import MeasuredOnTest
from search.storage.early_end import GO_ON
from search.storage.stored_study import StoredStudy
from search.study.objectives import IN_WORDS, LOWEST_CAUTION, PROXY_CAUTION
from search.study.study import Study

#: The headline by the first objective. An AUC is a share of comparisons.
_HEADLINES = {
    "auc": (
        "In {hundreds:.0f} of 100 comparisons, the best detector gives a faulty machine's sound a higher anomaly score "
        "than a normal one's."
    ),
    "proxy": (
        "In {hundreds:.0f} of 100 comparisons, the best detector gives a sound with a synthetic fault a higher "
        "anomaly score than a normal one."
    ),
}

#: The share of a range, at either end, in which a best value suggests a wider range.
_EDGE = 0.05

#: With fewer complete trials, a best value lies there by chance. The baseline's values were chosen, not found.
_FEWEST_FOR_EDGES = 10

#: A sentence names at most this many machine types.
_NAMED = 5


@dataclass(frozen=True)
class Step:
    """Something to do next, and the commands that do it."""

    text: str
    commands: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """A headline, the sentences that support it, and the next steps."""

    headline: str
    sentences: tuple[str, ...]
    steps: tuple[Step, ...]


def verdict(
    stored: StoredStudy,
    study: Study,
    status: Status,
    comparison: Comparison | None,
    *,
    storage: str,
    on_test: MeasuredOnTest | None = None,
) -> Verdict:
    """The verdict on a study as it stands; `storage` is the URL that commands name.

    `on_test` is the test evaluation of the best trial's recipe, if there was one.
    """
    steps = tuple(_steps(stored, status, comparison, storage, is_measured=on_test is not None))
    if status.best is None or comparison is None:
        return Verdict(_headline_without(status), (_tried(stored, study, status), *_limits(status)), steps)
    headline = _HEADLINES.get(status.objectives[0], "The best detector's {name} is {value:.3f}.").format(
        hundreds=100 * worth(status.best), name=status.metric_name, value=worth(status.best)
    )
    if comparison.may_guess:
        headline = "These clips do not show that the best detector is any better than guessing."
    scale = LOWEST_CAUTION if stored.metric == "worst_id" else "guessing has 0.5, a perfect detector 1"
    measured = (
        f"The best trial has a validation {status.metric_name} of {worth(status.best):.3f} "
        f"({interval_or_why(comparison.interval, comparison.why_no_interval)}): {scale}. "
        "The search chose it by these same clips, so this value is optimistic: "
    )
    if stored.validation.uses_proxies:
        measured += (
            "as soon as there are recorded faults, quote the test AUC that “offkey train” measures on them. "
            f"Note: {PROXY_CAUTION}."
        )
    elif on_test is None:
        measured += "quote the test AUC that “offkey train” measures, on clips that no search has used."
    else:
        measured += (
            f"quote the test AUC, {on_test.auc:.3f} ({interval_or_why(on_test.interval, on_test.why_no_interval)}), "
            "which was measured on clips that no search has used."
        )
    sentences = (
        _tried(stored, study, status),
        measured,
        *_several(status),
        _gain(stored, status, comparison),
        *_ensemble(status, comparison),
        *_limits(status),
        *_end(status),
    )
    return Verdict(headline, sentences, steps)


def _several(status: Status) -> Iterator[str]:
    """A sentence about the other objectives, if there are several."""
    if len(status.objectives) > 1:
        others = " and ".join(IN_WORDS[objective] for objective in status.objectives[1:])
        yield (
            f"The search's objectives include {others} too: {len(status.front)} of its trials are trade-offs, which no "
            "other trial beats in every objective (under “Trade-offs”). “Best” refers to the first objective alone."
        )


def _ensemble(status: Status, comparison: Comparison) -> Iterator[str]:
    """A sentence about the ensemble of the leading trials, if there are enough of them and it may be better."""
    if comparison.ensemble is not None:
        assert status.best is not None
        if promise := comparison.ensemble.in_words(shlex.quote(status.study), worth(status.best)):
            yield f"{promise}."


def _limits(status: Status) -> Iterator[str]:
    """A sentence about the trials beyond the study's constraints, if there are any."""
    if status.beyond_limits:
        one = status.beyond_limits == 1
        yield (
            f"{status.beyond_limits} complete {'trial is' if one else 'trials are'} beyond the study's limits "
            f"(search.constraints), and {'is' if one else 'are'} not counted among the best."
        )


def _end(status: Status) -> Iterator[str]:
    """A sentence about why the study has ended itself, if it has."""
    if status.why_ended is not None:
        yield status.why_ended


def _tried(stored: StoredStudy, study: Study, status: Status) -> str:
    """A sentence about the trials, the models and the clips."""
    ids = set(stored.truth.ids)
    types = list(stored.truth.machines)
    types_in_words = ", ".join(types[:_NAMED]) + (", …" if len(types) > _NAMED else "")
    normal, faulty = (stored.truth.count(label) for label in (NORMAL, ANOMALY))
    faulty_in_words = "clips with synthetic faults" if stored.validation.uses_proxies else "faulty clips"
    families = f"{'family' if len(study.space.families) == 1 else 'families'} {study.space.families_in_words}"
    trials = "1 trial" if status.done == 1 else f"{status.done} trials"
    ids_in_words = "1 machine ID" if len(ids) == 1 else f"{len(ids)} machine IDs"
    return (
        f"The search has run {trials} of the model {families} on recordings of {ids_in_words} ({types_in_words}), "
        f"validated on {normal} normal and {faulty} {faulty_in_words}."
    )


def _headline_without(status: Status) -> str:
    """The headline of a study without a complete trial."""
    if status.done == 0:
        return "No trial has ended yet: there is no detector yet."
    if status.counts["failed"] == status.done:
        every = "The only trial" if status.done == 1 else f"All {status.done} trials"
        return f"{every} that ended failed: there is no detector yet."
    if status.beyond_limits == status.counts["complete"] > 0:
        return "No complete trial keeps to the study's limits: there is no detector yet."
    return f"None of the {status.done} trials that ended is complete: there is no detector yet."


def _gain(stored: StoredStudy, status: Status, comparison: Comparison) -> str:
    """A sentence about the gain over the baseline."""
    assert status.best is not None
    if comparison.gain is None or status.baseline is None:
        if stored.tree.get("baseline"):
            return "The baseline is not complete, so that the gain over it is unknown."
        return "The study has no baseline: whether the search improved on a known recipe is unknown."
    if status.best.number == 0:
        return "The best detector is the baseline itself: the search found nothing better."
    gain = comparison.gain
    return (
        f"Compared with the baseline, the known recipe that the study tried first, this is {gain.in_words}: "
        f"{gain.measured_in_words}. {gain.power_in_words}"
    )


def _steps(
    stored: StoredStudy, status: Status, comparison: Comparison | None, url: str, *, is_measured: bool
) -> Iterator[Step]:
    best = status.best
    left = status.budget - status.done
    if best is None and status.counts["failed"]:
        yield Step("Read why trials failed (under “Failures”), correct the study file, and search under a new name.")
    elif status.counts["failed"] > status.done / 5:
        yield Step(f"{status.counts['failed']} trials failed: see “Failures” for the ranges to change.")
    if left > 0:
        command = f"offkey search {shlex.quote(stored.name)} --storage {shlex.quote(url)}"
        if status.enough is None:
            yield Step(f"Go on: {left} of {status.budget} trials are left.", (command,))
        else:
            yield Step(f"To search the other {left} trials all the same:", (f"{command} {GO_ON}",))
    if best is None:
        return
    measured = "" if stored.validation.uses_proxies else ", and measure it on the test clips, which no search has used"
    text = f"Train the detector{measured}:"
    if is_measured:
        text = "The detector was trained and measured. If it is lost, train it again, which is another test evaluation:"
    yield Step(text, tuple(detector_commands(stored, best, url)))
    if comparison is not None and comparison.gain is not None and best.number != 0 and comparison.gain.may_be_chance:
        yield Step("Label more clips, above all of the label that has fewer: then the study can show smaller gains.")
    is_baseline = best.number == 0 and bool(stored.tree.get("baseline"))
    edges = [name for name in best.params if _at_an_edge(best.distributions[name], best.params[name])]
    if edges and not is_baseline and len(status.finished) >= _FEWEST_FOR_EDGES:
        yield Step(f"Search wider ranges: the best trial lies at the edge of {', '.join(edges)}.")


def _at_an_edge(distribution: object, value: float) -> bool:
    """Whether a value lies so close to an end of its range that better ones may lie beyond."""
    if not isinstance(distribution, IntDistribution | FloatDistribution) or distribution.single():
        return False
    low, high = float(distribution.low), float(distribution.high)
    if distribution.log:
        low, high, value = math.log(low), math.log(high), math.log(value)
    return not _EDGE < (value - low) / (high - low) < 1 - _EDGE
