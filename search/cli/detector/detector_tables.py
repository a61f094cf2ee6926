"""Tables that show metrics on the command line. This module prints nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from search.cli.terminal import shown
from search.detector.caveats import OPTIMISM, SPREAD, sentences_beside
from search.detector.optimism import varying
from search.detector.threshold_card import counts_in_words, rate_in_words
from search.evaluation.evaluate import Metrics
from search.evaluation.official import rule_in_words
from search.evaluation.system_differences import SystemDifferences
from search.evaluation.system_metrics import DecisionMetrics, SystemMetrics
from search.results.wording import difference_interval, interval

if TYPE_CHECKING:
    from collections.abc import Mapping

    from search.detector.detector import Detector
    from search.detector.thresholds import Threshold
    from search.evaluation.decisions import Decisions

_METRICS = {"auc": "AUC", "pauc": "pAUC", "official": "official"}


def detector_metrics(detector: Detector) -> RenderableType:
    """Validation and test metrics of a detector, sentences on how to read them, and test metrics of each machine ID."""
    validation, test, optimism = detector.validation, detector.test, detector.optimism
    table = Table(
        "", "AUC", "95 % interval", "pAUC", "pooled AUC", "clips", box=None, padding=(0, 2), header_style="bold"
    )
    validated_on = "synthetic faults" if detector.recipe.validation.uses_proxies else "validation"
    for name, measured in ((validated_on, validation), ("test, held out", test)):
        if measured is None:
            table.add_row(name, "n/a", "n/a", "n/a", "n/a", "no labelled clips, or too few")
        else:
            auc, pooled = f"{measured.auc:.3f}", f"{measured.pooled:.3f}"
            table.add_row(name, auc, interval(measured.interval), _pauc(measured.pauc), pooled, _clips(measured))
    best = detector.best_member
    if best is not None and best.test is not None:
        gain = best.test.gain
        table.add_row(f"test, {best.name} alone", f"{best.test.auc:.3f}", interval(best.test.interval), "", "", "")
        difference = (f"{gain.difference:+.3f}", difference_interval(gain.interval))
        table.add_row(f"ensemble − {best.name}", *difference, "", "", gain.in_words)
    if optimism is not None:
        difference = (f"{optimism.difference:+.3f}", difference_interval(optimism.interval))
        table.add_row("validation − test", *difference, "", "", OPTIMISM)
    parts: list[RenderableType] = [table]
    if varying(detector.seeds):
        parts += [Text(), _seeds(detector), Text(f"{SPREAD}.")]
    parts += [Text(), *(Text(f"{sentence}.") for sentence in sentences_beside(detector))]
    if test is None:
        return Group(*parts)
    decided = detector.decisions_per_id or {}
    per_id = Table("machine ID", "test AUC", "pAUC", "normal", "anomaly", box=None, padding=(0, 2), header_style="bold")
    for column in ("false alarms", "found") if decided else ():
        per_id.add_column(column)
    for name, of_id in test.per_id.items():
        counts = _counts(decided.get(name)) if decided else ()
        per_id.add_row(name, f"{of_id.auc:.3f}", _pauc(of_id.pauc), str(of_id.normal), str(of_id.anomaly), *counts)
    parts += [Text(), per_id]
    if detector.decisions is not None:
        parts += [Text(), Text(f"{detector.decisions.in_words}.")]
    return Group(*parts)


def thresholds(moved: Mapping[str, Threshold], decided: Mapping[str, Decisions] | None) -> Table:
    """Thresholds after a move, what their withheld clips promise, and what they decide on the test clips."""
    table = Table("machine ID", "threshold", "withheld clips", box=None, padding=(0, 2), header_style="bold")
    for column in ("false-alarm rate", "95 % interval", *(() if decided is None else ("false alarms", "found"))):
        table.add_column(column)
    for name, threshold in moved.items():
        counts = () if decided is None else _counts(decided.get(name))
        table.add_row(name, f"{threshold.value:.6g}", str(threshold.clips), *rate_in_words(threshold), *counts)
    return table


def _counts(decided: Decisions | None) -> tuple[str, str]:
    return ("n/a", "n/a") if decided is None else counts_in_words(decided)


def _seeds(detector: Detector) -> Table:
    """How the AUC of one model varies with its seed."""
    table = Table(
        "one seed's model",
        "",
        "mean AUC",
        "deviation",
        "lowest",
        "highest",
        box=None,
        padding=(0, 2),
        header_style="bold",
    )
    for name, spread in varying(detector.seeds).items():
        recipe = f"{len(spread.seeds)} of {name}"
        for part, of_part in (("validation", spread.validation), ("test", spread.test)):
            if of_part is not None:
                values = (of_part.mean, of_part.deviation, min(of_part.aucs), max(of_part.aucs))
                table.add_row(recipe, part, *(f"{value:.3f}" for value in values))
                recipe = ""
    return table


def system_metrics(measured: SystemMetrics) -> RenderableType:
    """The metrics of any system: for each machine ID, their means, the challenge's official score."""
    table = Table("machine ID", "AUC", "pAUC", box=None, padding=(0, 2), header_style="bold")
    domains = list(next(iter(measured.of_domains.values()), {}))
    for column in (
        *(f"AUC {domain}" for domain in domains),
        *(("precision", "recall", "F1") if measured.decided else ()),
    ):
        table.add_column(column)
    table.add_column("normal")
    table.add_column("anomaly")
    for name, of_id in measured.metrics.per_id.items():
        of_domains = [f"{measured.of_domains[name][domain]:.3f}" for domain in domains]
        decided = measured.decided.get(name)
        decisions = ["n/a"] * 3 if decided is None else _decisions(decided)
        table.add_row(
            shown(name),
            f"{of_id.auc:.3f}",
            _pauc(of_id.pauc),
            *of_domains,
            *(decisions if measured.decided else ()),
            str(of_id.normal),
            str(of_id.anomaly),
        )
    metrics = measured.metrics
    by_domain = Table(
        "decisions in", "domain", "precision", "recall", "F1", box=None, padding=(0, 2), header_style="bold"
    )
    for name, of_decisions in measured.decided.items():
        for domain, of_domain in of_decisions.domains.items():
            by_domain.add_row(shown(name), domain, *_decisions(of_domain))
    means = Table(
        "mean over machine IDs", "AUC", "95 % interval", "pAUC", box=None, padding=(0, 2), header_style="bold"
    )
    means.add_row("arithmetic", f"{metrics.auc:.3f}", interval(metrics.interval), _pauc(metrics.pauc))
    means.add_row("harmonic", f"{measured.harmonic_auc:.3f}", "", _pauc(measured.harmonic_pauc))
    means.add_row("all clips together", f"{metrics.pooled:.3f}", "", "")
    tables = [table, by_domain, means] if by_domain.row_count else [table, means]
    parts: list[RenderableType] = [part for shown_table in tables for part in (shown_table, Text())]
    if metrics.why_no_interval:
        parts += [Text(f"{metrics.why_no_interval}."), Text()]
    if measured.against is not None:
        parts += [_differences(measured.against), Text()]
    return Group(*parts, Text.from_markup(_official(measured)))


def _official(measured: SystemMetrics) -> str:
    """The challenge's score with its rule, or why there is none; and which machine IDs it is without."""
    rule = "" if measured.year is None else f", rule of {rule_in_words(measured.year)}"
    if measured.official is None:
        return f"Official score{rule}: n/a: {escape(measured.unofficial)}"
    of_means = " (mean of AUC and pAUC)" if measured.year == 2020 else ""
    without = f", without {escape(', '.join(measured.without_scores))}" if measured.without_scores else ""
    return f"Official score{rule}: [bold]{measured.official:.4f}[/bold]{of_means}{without}"


def _differences(against: SystemDifferences) -> RenderableType:
    """How the system differs from another one on the same clips."""
    columns = ("compared with the other system", "metric", "here", "other", "difference", "95 % interval", "")
    table = Table(*columns, box=None, padding=(0, 2), header_style="bold")
    for name, of_clips in (*against.per_id.items(), ("all machine IDs", against.overall)):
        called = shown(name)
        for metric, of_metric in of_clips.named.items():
            if of_metric is not None:
                values = (f"{of_metric.value:.3f}", f"{of_metric.other:.3f}", f"{of_metric.difference:+.3f}")
                interval_of = "" if of_metric.are_same else difference_interval(of_metric.interval)
                table.add_row(called, _METRICS[metric], *values, interval_of, of_metric.in_words)
                called = ""
    alone = ", ".join(against.of_one_alone)
    note = (
        "Each interval is for one comparison: of twenty comparisons of equally good systems, one excludes 0 by chance."
    )
    left_out = [f"Only one of the two systems scored {alone}: left out of the differences."] if alone else []
    return Group(table, *map(Text, (note, *left_out)))


def _decisions(decided: DecisionMetrics) -> list[str]:
    return [f"{share:.3f}" for share in (decided.precision, decided.recall, decided.f1)]


def _pauc(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _clips(measured: Metrics) -> str:
    normal = sum(of_id.normal for of_id in measured.per_id.values())
    anomaly = sum(of_id.anomaly for of_id in measured.per_id.values())
    return f"{normal} normal, {anomaly} anomalous"
