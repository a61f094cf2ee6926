"""Tables that show a study on the command line, during a search and afterwards. This module prints nothing."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.filesize import decimal
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from search.results.comparison import Comparison
from search.results.families import columns
from search.results.status import SHOWN_TRIALS, Status, worth
from search.results.trial_in_words import trial_in_words
from search.results.wording import interval, interval_or_why, objective_value, settings
from search.storage.early_end import GO_ON
from search.storage.lease_rules import LOST
from search.study.objectives import IN_WORDS, LOWEST_CAUTION, PROXY_CAUTION

_SHOWN_FAILURES = 5


def progress(status: Status, *, note: str | None = None) -> RenderableType:
    """The live view of a search: a line for the study, one for each running trial, and a note on what it waits for."""
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
    notes = [] if note is None else [Text(note, style="yellow")]
    return Group(head, _at_work(status), *notes)


def finished_line(status: Status, done_before: int) -> str | None:
    """A line for a terminal that cannot redraw; None if no trial has ended since `done_before` of them had."""
    if status.done == done_before:
        return None
    best = (
        "none complete yet"
        if status.best is None
        else f"best {status.metric_name} {worth(status.best):.3f} (trial {status.best.number})"
    )
    return f"{status.study}: {status.done}/{status.budget} trials, {best}"


def summary(status: Status, comparison: Comparison | None) -> RenderableType:
    """The counts, best trials, ties and gain of a study."""
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
        parts += [table, *_families(status), _best_sentence(status, comparison), Text(trial_in_words(status.best))]
    else:
        parts += _families(status)
    if status.portfolio is not None:
        parts.append(Text(status.portfolio.in_words(status.metric_name)))
    if status.best is not None and comparison is not None and comparison.ensemble is not None:
        promise = comparison.ensemble.in_words(status.study, worth(status.best))
        parts += [Text(promise)] if promise else []
    if status.why_ended is not None:
        parts.append(Text(f"{status.why_ended} To go on: offkey search {status.study} {GO_ON}"))
    if status.beyond_limits:
        trials = "1 complete trial is" if status.beyond_limits == 1 else f"{status.beyond_limits} complete trials are"
        parts.append(Text(f"{trials} beyond search.constraints, and not among the best."))
    if "proxy" in status.objectives:
        parts.append(Text(f"Note: {PROXY_CAUTION}.", style="yellow"))
    if status.objectives[0] == "worst_id":
        parts.append(Text(f"Note: {LOWEST_CAUTION}.", style="yellow"))
    for host in status.failing_hosts:
        parts.append(Text(host.in_words, style="yellow"))
    if status.failing_hosts and any(LOST in reason for _, reason in status.failures):
        again = f"Once that is mended: offkey retry {status.study} --failed, and search again."
        parts.append(Text(again, style="yellow"))
    for failed, reason in status.failures[:_SHOWN_FAILURES]:
        parts.append(Text.from_markup(f"[red]trial {failed} failed[/red]: {escape(reason)}"))
    if len(status.failures) > _SHOWN_FAILURES:
        parts.append(Text(f"… and {len(status.failures) - _SHOWN_FAILURES} more failed; --json lists them"))
    return Group(*parts)


def _at_work(status: Status) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    for column in ("trial", status.step, status.metric_name, "batches/s", "device", "precision", "memory", "lease"):
        table.add_column(column, no_wrap=True)
    table.add_column("worker", overflow="ellipsis")  # cut off on a narrow terminal
    for r in status.running:
        table.add_row(
            str(r.number),
            "—" if r.epoch is None else str(r.epoch),
            "—" if r.value is None else f"{r.value:.3f}",
            "—" if r.rate is None else f"{r.rate:.3g}",
            escape(r.device or "—"),
            escape(r.precision or "—"),
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
            settings(trial),
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
        table.add_row(str(trial.number), first, interval(comparison.intervals[trial.number]), *others, settings(trial))
    return table


def _families(status: Status) -> list[RenderableType]:
    """Where the time went, if there are several families."""
    if not any(family.trials for family in status.families):
        return []
    table = Table(box=None, padding=(0, 2), header_style="bold")
    label, *others = columns(status.metric_name)
    table.add_column(label)
    for title in others:
        table.add_column(title, justify="right")
    for family in status.families:
        table.add_row(*family.row)
    return [table]


def _best_sentence(status: Status, comparison: Comparison) -> Text:
    assert status.best is not None
    first = "Best" if len(status.objectives) == 1 else "First of these in the first objective"
    sentence = (
        f"{first}: trial {status.best.number}, validation {status.metric_name} {worth(status.best):.3f} "
        f"({interval_or_why(comparison.interval, comparison.why_no_interval)})."
    )
    if comparison.ties:
        sentence += f" {len(comparison.ties)} of {len(status.finished) - 1} other complete trials tie with it."
    if comparison.gain is not None and status.best.number != 0:
        gain = comparison.gain
        sentence += f" Over the baseline ({status.baseline:.3f}): {gain.measured_in_words}, {gain.in_words}."
        sentence += f" {gain.power_in_words}"
    if comparison.may_guess:
        sentence += " These clips do not show that it is any better than guessing."
    return Text(sentence)
