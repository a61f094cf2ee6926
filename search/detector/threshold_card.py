"""The model card's section on thresholds: what they promise, what they decide on test clips, how they moved."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from models.settings import ScoringSettings
from search.detector.thresholds import Threshold, doubts
from search.evaluation.decisions import Decisions
from search.results.wording import interval

_HEADING = "## Thresholds"

#: scoring.threshold → where a threshold lies.
_RULES = {
    "quantile": "Each threshold is the score of a normal clip that was withheld from training",
    "gamma": "Each threshold is a quantile of a gamma distribution, fitted to scores of normal clips withheld from "
    "training",
}

#: scoring.threshold → what the table's false-alarm rate is.
_RATES = {
    "quantile": "the false-alarm rate that the withheld clips can promise",
    "gamma": "the false-alarm rate that the withheld clips let one expect: a fitted distribution promises none",
}


def threshold_section(
    scoring: ScoringSettings,
    thresholds: Mapping[str, Threshold],
    decisions: Mapping[str, Decisions] | None,
    *,
    moved_to: Sequence[float] = (),
) -> str:
    """The section, in Markdown. `scoring` has the present false-alarm rate, `moved_to` those of all moves."""
    rate = scoring.false_alarm_rate
    if not thresholds:
        return (
            f"{_HEADING}\n\nThere are none, since no training clip was withheld to set one: clips get no decisions.\n"
        )
    rows = "".join(_row(name, threshold, (decisions or {}).get(name)) for name, threshold in thresholds.items())
    sentences = [f"{sentence}.\n" for sentence in doubts(thresholds, rate)]
    if decisions is not None:
        sentences.insert(0, f"{Decisions.together(decisions.values()).in_words}.\n")
    if moved_to:
        sentences.insert(0, f"{moves_in_words(moved_to, are_counted=decisions is not None)}.\n")
    return f"""{_HEADING}

A clip above its machine ID's threshold is called an anomaly. Thresholds aim at a false-alarm rate of {rate:g}: of a
machine ID's new normal clips at most this share is to be called faulty.
{_RULES[scoring.threshold]}
(scoring.threshold: {scoring.threshold}). The table has {_RATES[scoring.threshold]}.

| machine ID | threshold | withheld clips | false-alarm rate | 95 % interval | test: false alarms | test: found |
|---|---|---|---|---|---|---|
{rows}
{"".join(sentences)}"""


def with_section(card: str, section: str) -> str:
    """A card whose section on thresholds is this one; all text below other headings stays, and so do its line ends."""
    if "\r\n" in card:
        return with_section(card.replace("\r\n", "\n"), section).replace("\n", "\r\n")
    heading = re.search(rf"(?m)^{_HEADING}$", card)
    if heading is None:
        return f"{card.rstrip()}\n\n{section}"
    following = re.search(r"(?m)^#{1,6} ", card[heading.end() :])
    rest = "" if following is None else f"\n{card[heading.end() + following.start() :]}"
    return card[: heading.start()] + section + rest


def moves_in_words(moved_to: Sequence[float], *, are_counted: bool) -> str:
    """A sentence, without its full stop, on thresholds that were moved after the training."""
    rates = ", then ".join(f"{rate:g}" for rate in moved_to)
    moved = f"After the training, thresholds were moved by the withheld scores to a false-alarm rate of {rates}"
    if not are_counted:
        return moved
    more = "1 more test evaluation" if len(moved_to) == 1 else f"{len(moved_to)} more test evaluations"
    return f"{moved}: {more}. If the rate was chosen by the counts of test clips, these are too good"


def _row(name: str, threshold: Threshold, decisions: Decisions | None) -> str:
    counts = ("n/a", "n/a") if decisions is None else counts_in_words(decisions)
    cells = (name, f"{threshold.value:.6g}", str(threshold.clips), *rate_in_words(threshold), *counts)
    return f"| {' | '.join(cells)} |\n"


def rate_in_words(threshold: Threshold) -> tuple[str, str]:
    """The false-alarm rate of a threshold, and its interval: 0.048, 0.000 to 0.168."""
    return f"{threshold.rate:.3f}", interval(threshold.interval)


def counts_in_words(decisions: Decisions) -> tuple[str, str]:
    """False alarms and found anomalies: 3 of 20, 14 of 15."""
    return f"{decisions.false_alarms} of {decisions.normal}", f"{decisions.found} of {decisions.anomaly}"
