"""What the command line shows: studies, corpora and figures as rich tables. Nothing is printed here."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optuna.trial import FrozenTrial
from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.corpus import Corpus
from features.clips.inspection import Suspicion
from features.clips.machine_id import MachineId
from search.detector.caveats import OPTIMISM, SPREAD, sentences_beside
from search.evaluation.figures import Figures
from search.evaluation.measured import Decided, Measured
from search.results.comparison import Comparison
from search.results.status import SHOWN_TRIALS, Status, worth
from search.results.wording import difference_interval, interval, number, objective_value
from search.study.described import Described
from search.study.objectives import IN_WORDS, LOWEST_CAUTION, PROXY_CAUTION

if TYPE_CHECKING:
    from search.detector.detector import Detector

_SHOWN_FAILURES = 5
_SHOWN_SUSPICIONS = 10


def progress(status: Status, *, note: str | None = None) -> RenderableType:
    """The live view of a search: one line for the study, one for each trial at work, and what hinders it."""
    head = Table.grid(padding=(0, 2))
    best = "—" if status.best is None else f"[bold]{worth(status.best):.3f}[/bold] (trial {status.best.number})"
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items() if count and state != "waiting")
    head.add_row(
        f"[bold]{escape(status.study)}[/bold]",
        ProgressBar(total=status.budget, completed=status.done, width=30),
        f"{status.done}/{status.budget} trials",
        f"best {status.metric_name} {best}",
        f"[dim]{counts}[/dim]",
    )
    hindrance = [] if note is None else [Text(note, style="yellow")]
    return Group(head, _at_work(status), *hindrance)


def finished_line(status: Status, done_before: int) -> str | None:
    """One line for a terminal that cannot redraw, if trials ended since."""
    if status.done == done_before:
        return None
    best = (
        "none complete yet"
        if status.best is None
        else f"best {status.metric_name} {worth(status.best):.3f} (trial {status.best.number})"
    )
    return f"{status.study}: {status.done}/{status.budget} trials, {best}"


def summary(status: Status, comparison: Comparison | None) -> RenderableType:
    """A study's counts, best trials, ties and gain."""
    counts = ", ".join(f"{count} {state}" for state, count in status.counts.items() if count)
    parts: list[RenderableType] = [
        Text.from_markup(
            f"[bold]{escape(status.study)}[/bold]: budget of {status.budget} trials; {counts or 'none yet'}"
        )
    ]
    if status.running:
        parts.append(_at_work(status))
    if status.best is not None and comparison is not None:
        several = len(status.objectives) > 1
        table = _trade_offs(status, comparison) if several else _best_trials(status, comparison)
        parts += [table, _best_sentence(status, comparison)]
    if status.beyond_limits:
        trials = "1 complete trial is" if status.beyond_limits == 1 else f"{status.beyond_limits} complete trials are"
        parts.append(Text(f"{trials} beyond search.constraints, and not among the best."))
    if "proxy" in status.objectives:
        parts.append(Text(f"Mind: {PROXY_CAUTION}.", style="yellow"))
    if status.objectives[0] == "worst_id":
        parts.append(Text(f"Mind: {LOWEST_CAUTION}.", style="yellow"))
    for failed, reason in status.failures[:_SHOWN_FAILURES]:
        parts.append(Text.from_markup(f"[red]trial {failed} failed[/red]: {escape(reason)}"))
    if len(status.failures) > _SHOWN_FAILURES:
        parts.append(Text(f"… and {len(status.failures) - _SHOWN_FAILURES} more failed; --json lists them"))
    return Group(*parts)


def _at_work(status: Status) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for column in ("trial", status.step, status.metric_name, "batches/s", "device", "memory", "lease"):
        table.add_column(column, no_wrap=True)
    table.add_column("worker", overflow="ellipsis")  # what a narrow terminal has no room for
    for r in status.running:
        table.add_row(
            str(r.number),
            "—" if r.epoch is None else str(r.epoch),
            "—" if r.value is None else f"{r.value:.3f}",
            "—" if r.rate is None else f"{r.rate:.3g}",
            escape(r.device or "—"),
            "—" if r.memory is None else decimal(r.memory),
            f"{r.lease_seconds:.0f} s" if r.lease_seconds >= 0 else "[yellow]lost[/yellow]",
            escape(r.owner),
        )
    return table


def _best_trials(status: Status, comparison: Comparison) -> Table:
    table = Table(
        "trial", status.metric_name, "95 % interval", "", "settings", box=None, padding=(0, 2), header_style="bold"
    )
    for trial in status.finished[:SHOWN_TRIALS]:
        tie = "tie" if trial.number in comparison.ties else ""
        table.add_row(
            str(trial.number),
            f"{worth(trial):.3f}",
            interval(comparison.intervals[trial.number]),
            tie,
            _settings(trial),
        )
    return table


def _trade_offs(status: Status, comparison: Comparison) -> Table:
    names = [IN_WORDS[objective] for objective in status.objectives]
    table = Table(
        "trial", names[0], "95 % interval", *names[1:], "settings", box=None, padding=(0, 2), header_style="bold"
    )
    for trial in sorted(status.front, key=lambda trial: -worth(trial)):
        first, *others = (
            objective_value(objective, value) for objective, value in zip(status.objectives, trial.values, strict=True)
        )
        table.add_row(str(trial.number), first, interval(comparison.intervals[trial.number]), *others, _settings(trial))
    return table


def _settings(trial: FrozenTrial) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in trial.params.items())


def _best_sentence(status: Status, comparison: Comparison) -> Text:
    assert status.best is not None
    first = "Best" if len(status.objectives) == 1 else "First of these in the first objective"
    sentence = (
        f"{first}: trial {status.best.number}, validation {status.metric_name} {worth(status.best):.3f} "
        f"({interval(comparison.interval)})."
    )
    if comparison.ties:
        sentence += f" {len(comparison.ties)} of {len(status.finished) - 1} other complete trials tie with it."
    if comparison.gain is not None and status.best.number != 0:
        gain = comparison.gain
        told = f"{gain.difference:+.3f} ({interval(gain.interval)}), {gain.in_words}."
        sentence += f" Over the baseline ({status.baseline:.3f}): {told}"
    return Text(sentence)


def corpus(found: Corpus) -> RenderableType:
    """Machines, IDs, splits, labels, lengths; supplemental clips, domains and channels where there are any."""
    columns: dict[str, Callable[[Sequence[Clip]], object]] = {
        "train": lambda clips: sum(clip.split == "train" for clip in clips),
        "normal": lambda clips: _tested(clips, NORMAL),
        "anomaly": lambda clips: _tested(clips, ANOMALY),
        "unlabelled": lambda clips: _tested(clips, None),
    }
    if any(clip.split == "supplemental" for clip in found.clips):
        columns["supplemental"] = lambda clips: sum(clip.split == "supplemental" for clip in clips)
    if any(clip.domain for clip in found.clips):
        columns["source/target"] = lambda clips: "/".join(
            str(sum(clip.domain == domain for clip in clips)) for domain in ("source", "target")
        )
    columns["seconds"] = lambda clips: _spread([clip.samples / clip.sample_rate for clip in clips])
    columns["Hz"] = lambda clips: ", ".join(map(str, sorted({clip.sample_rate for clip in clips})))
    if any(clip.channels > 1 for clip in found.clips):
        columns["channels"] = lambda clips: ", ".join(map(str, sorted({clip.channels for clip in clips})))
    columns["sets"] = lambda clips: "\n".join(sorted({clip.source for clip in clips}))

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("machine", "ID", *columns):
        table.add_column(column, overflow="fold")  # a narrow terminal cuts nothing off
    groups: dict[MachineId, list[Clip]] = defaultdict(list)
    for clip in found.clips:
        groups[clip.id].append(clip)
    for of_id, clips in sorted(groups.items()):
        table.add_row(*map(shown, of_id), *(str(told(clips)) for told in columns.values()))
    return table


def suspicious(suspicions: Sequence[Suspicion]) -> RenderableType:
    """The first of a corpus's suspicious clips, and how many more there are."""
    lines = [Text.assemble(("suspicious: ", "yellow"), f"{s.name}: {s.reason}") for s in suspicions[:_SHOWN_SUSPICIONS]]
    if len(suspicions) > _SHOWN_SUSPICIONS:
        lines.append(Text(f"… and {len(suspicions) - _SHOWN_SUSPICIONS} more suspicious; --json lists them"))
    return Group(*lines)


def corpus_json(found: Corpus, suspicions: Sequence[Suspicion] = ()) -> dict[str, Any]:
    """The document that `offkey corpus --json` prints."""
    machines: dict[str, dict[str, dict[str, int]]] = {}
    for clip in found.clips:
        counts = machines.setdefault(clip.machine, {}).setdefault(
            clip.machine_id, {"train": 0, "normal": 0, "anomaly": 0, "unlabelled": 0, "supplemental": 0}
        )
        if clip.split == "test":
            counts["unlabelled" if clip.label is None else "anomaly" if clip.label == ANOMALY else "normal"] += 1
        else:
            counts[clip.split] += 1
    return {
        "clips": len(found.clips),
        "unreadable": [{"path": str(found.folder / u.name), "reason": u.reason} for u in found.unreadable],
        "machines": machines,
        "suspicious": [{"path": str(found.folder / s.name), "reason": s.reason} for s in suspicions],
        "warnings": list(found.warnings),
    }


def shown(text: str) -> str:
    """A name as it stands, whatever brackets it holds; with � for what of it is no UTF-8 and cannot be printed."""
    return escape(os.fsencode(text).decode(errors="replace"))


def _tested(clips: Sequence[Clip], label: int | None) -> int:
    return sum(clip.split == "test" and clip.label == label for clip in clips)


def _spread(seconds: Sequence[float]) -> str:
    low, high = min(seconds), max(seconds)
    return f"{low:.1f}" if high - low < 0.05 else f"{low:.1f}–{high:.1f}"


def figures(detector: Detector) -> RenderableType:
    """Validation and held-out figures side by side with what to know beside them, and those of each machine ID."""
    validation, test, optimism = detector.validation, detector.test, detector.optimism
    table = Table(
        "", "AUC", "95 % interval", "pAUC", "pooled AUC", "clips", box=None, padding=(0, 2), header_style="bold"
    )
    steered = "made faults" if detector.recipe.validation.goes_by_proxies else "validation"
    for name, measured in ((steered, validation), ("test, held out", test)):
        if measured is None:
            table.add_row(name, "n/a", "n/a", "n/a", "n/a", "no labelled clips, or too few")
        else:
            auc, pooled = f"{measured.auc:.3f}", f"{measured.pooled:.3f}"
            table.add_row(name, auc, interval(measured.interval), _pauc(measured.pauc), pooled, _clips(measured))
    if optimism is not None:
        difference = (f"{optimism.difference:+.3f}", difference_interval(optimism.interval))
        table.add_row("validation − test", *difference, "", "", OPTIMISM)
    parts: list[RenderableType] = [table]
    if detector.seeds:
        parts += [Text(), _seeds(detector), Text(f"{SPREAD}.")]
    parts += [Text(), *(Text(f"{sentence}.") for sentence in sentences_beside(detector))]
    if test is None:
        return Group(*parts)
    per_id = Table("machine ID", "test AUC", "pAUC", "normal", "anomaly", box=None, padding=(0, 2), header_style="bold")
    for name, of_id in test.per_id.items():
        per_id.add_row(name, f"{of_id.auc:.3f}", _pauc(of_id.pauc), str(of_id.normal), str(of_id.anomaly))
    return Group(*parts, Text(), per_id)


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
    for name, spread in detector.seeds.items():
        recipe = f"{len(spread.seeds)} of {name}"
        for part, of_part in (("validation", spread.validation), ("test", spread.test)):
            if of_part is not None:
                told = (of_part.mean, of_part.deviation, min(of_part.aucs), max(of_part.aucs))
                table.add_row(recipe, part, *(f"{value:.3f}" for value in told))
                recipe = ""
    return table


def evaluation(measured: Measured) -> RenderableType:
    """Any system's figures: of each machine ID, their means, the challenge's official score."""
    table = Table("machine ID", "AUC", "pAUC", box=None, padding=(0, 2), header_style="bold")
    domains = list(next(iter(measured.of_domains.values()), {}))
    for column in (
        *(f"AUC {domain}" for domain in domains),
        *(("precision", "recall", "F1") if measured.decided else ()),
    ):
        table.add_column(column)
    table.add_column("normal")
    table.add_column("anomaly")
    for name, of_id in measured.figures.per_id.items():
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
    figures = measured.figures
    by_domain = Table(
        "decisions in", "domain", "precision", "recall", "F1", box=None, padding=(0, 2), header_style="bold"
    )
    for name, of_decisions in measured.decided.items():
        for domain, of_domain in of_decisions.domains.items():
            by_domain.add_row(shown(name), domain, *_decisions(of_domain))
    means = Table(
        "mean over machine IDs", "AUC", "95 % interval", "pAUC", box=None, padding=(0, 2), header_style="bold"
    )
    means.add_row("arithmetic", f"{figures.auc:.3f}", interval(figures.interval), _pauc(figures.pauc))
    means.add_row("harmonic", f"{measured.harmonic_auc:.3f}", "", _pauc(measured.harmonic_pauc))
    means.add_row("all clips together", f"{figures.pooled:.3f}", "", "")
    rule = f"{measured.year}" if measured.year < 2022 else "2022 and later"
    official = (
        f"n/a: {escape(measured.unofficial)}"
        if measured.official is None
        else f"[bold]{measured.official:.4f}[/bold]" + (" (mean of AUC and pAUC)" if measured.year == 2020 else "")
    )
    told = [table, by_domain, means] if by_domain.row_count else [table, means]
    return Group(
        *(part for shown_table in told for part in (shown_table, Text())),
        Text.from_markup(f"Official score, rule of {rule}: {official}"),
    )


def _decisions(decided: Decided) -> list[str]:
    return [f"{share:.3f}" for share in (decided.precision, decided.recall, decided.f1)]


def settings(name: str, described: Sequence[Described]) -> Table:
    """The settings of a block or family."""
    table = Table("setting", "may be", "if left out", "what it is", title=name, title_justify="left")
    for setting in described:
        table.add_row(*(escape(text) for text in (setting.name, setting.values, setting.default, setting.about)))
    return table


def studies(shipped: Mapping[str, str]) -> Table:
    """The studies that ship, a line each."""
    table = Table("study", "what it is", box=None, padding=(0, 2), header_style="bold")
    for name, line in shipped.items():
        table.add_row(name, line)
    return table


def _pauc(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.3f}"


def _clips(measured: Figures) -> str:
    normal = sum(of_id.normal for of_id in measured.per_id.values())
    anomaly = sum(of_id.anomaly for of_id in measured.per_id.values())
    return f"{normal} normal, {anomaly} anomalous"
