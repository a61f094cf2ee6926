"""An analysis on one page: self-contained HTML that needs no network, for the screen and for paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from features.clips.machine_id import MachineId
from features.clips.verified_reading import read_clip
from search.analysis import findings, pictures, plots, tables
from search.analysis.analysis import MOST_MACHINES, Analysis, MachineDifferences
from search.analysis.differences import frequencies
from search.analysis.folder import MARK
from search.analysis.listening import Example
from search.analysis.plots import MOST_DISTANCES, MOST_SPECTRA
from search.analysis.statistics import KindProgress
from search.pages.page import Chart, template

_MOST_ROWS = 60
_MOST_METHODS = 8
_MOST_SUSPICIONS = 40
#: How many machines get a table of their IDs, and how many machines or IDs stand side by side in one table.
_MOST_TABLES = 12
_MOST_COLUMNS = 6


@dataclass(frozen=True)
class _Player:
    """A clip to listen to."""

    what: str
    name: str
    remark: str
    sound: str


@dataclass(frozen=True)
class _ShownExample:
    """The clips of one machine, side by side."""

    title: str
    method: str
    players: tuple[_Player, ...]
    picture: str


def page(analysis: Analysis, *, progress: KindProgress) -> str:
    """The page of an analysis. Raises CorpusError if a clip that is shown can no longer be read."""
    separability, view = analysis.separability, analysis.view
    machines = view.corpus.machines
    examples = []
    for done, example in enumerate(analysis.examples):
        progress("drawing clips", done, len(analysis.examples))
        examples.append(_shown_example(analysis, example))
    suspicions = analysis.inventory.suspicions
    return template(__package__, "index.html").render(
        mark=MARK,
        root=view.corpus.root.name or str(view.corpus.root),
        warning=findings.warning(analysis),
        findings=[
            ("Which clips there are", findings.inventory_finding(analysis)),
            ("Which feature tells anomalies from normal clips best", findings.separability_finding(analysis)),
            ("How machines, IDs and sets differ", findings.differences_finding(analysis)),
            ("How different an anomaly is", findings.maps_finding(analysis)),
            ("Clips to see and hear", findings.examples_finding(analysis)),
        ],
        rows=tables.inventory_rows(analysis.inventory, most=_MOST_ROWS),
        several_sets=len({clip.source for clip in view.corpus.clips}) > 1,
        several_lengths=len({round(seconds, 1) for row in analysis.inventory.rows for seconds in row.seconds}) > 1,
        several_rates=len({clip.sample_rate for clip in view.corpus.clips}) > 1,
        unlabelled=any(row.unlabelled for row in analysis.inventory.rows),
        rows_left=max(0, len(analysis.inventory.rows) - _MOST_ROWS),
        suspicions=suspicions[:_MOST_SUSPICIONS],
        suspicions_left=max(0, len(suspicions) - _MOST_SUSPICIONS),
        judged=_judged(analysis),
        methods=None if separability.overall is None else Chart("methods", "", "", plots.methods(separability.overall)),
        tables=list(_separability_tables(analysis)),
        undefined=findings.reasons(separability),
        between=_between(analysis),
        within=list(_within(analysis)),
        machines_left=machines[MOST_MACHINES:],
        maps=list(_maps(analysis)),
        examples=examples,
        left=f"{pictures.LEFT:.0%}",
        settings={
            **analysis.settings.features.model_dump(mode="json", exclude={"kind", "normalize"}, exclude_none=True),
            "validation share": analysis.settings.validation.share,
            "validation seed": analysis.settings.validation.seed,
        },
        fingerprint=view.corpus.fingerprint,
    )


def _judged(analysis: Analysis) -> str:
    """The clips that AUCs are measured on."""
    view, clips = analysis.view, analysis.separability.clips
    anomalies = sum(clip.label == 1 for clip in clips)
    which = "all labelled test clips"
    if not view.all_labels:
        which = f"validation clips, {analysis.settings.validation.share:.0%} of the labelled test clips"
    return f"{len(clips) - anomalies} normal and {anomalies} anomalous clips: {which}"


def _separability_tables(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """One table over all machines, one for each machine over its IDs."""
    separability = analysis.separability
    if separability.overall is None:
        return
    several = len(separability.machines) > 1
    if several:
        scopes = dict(list(separability.machines.items())[:_MOST_COLUMNS])
        left = len(separability.machines) - len(scopes)
        yield {
            "title": "All machines: mean over machine IDs",
            "columns": list(scopes),
            "rows": tables.method_rows(separability.overall, scopes),
            "left": f"{left} more machines" if left else "",
            "methods_left": 0,
        }
    for machine, scope in list(separability.machines.items())[:_MOST_TABLES]:
        if len(scope.ids) == 1 and several:
            continue  # the table above has the same numbers
        ids = {MachineId.parse(name).number: separability.ids[name] for name in scope.ids[:_MOST_COLUMNS]}
        left = len(scope.ids) - len(ids)
        yield {
            "title": f"{machine}: its machine IDs",
            "columns": [f"ID {name}" for name in ids],
            "rows": tables.method_rows(scope, ids)[:_MOST_METHODS],
            "left": f"{left} more IDs" if left else "",
            "methods_left": max(0, len(scope.methods) - _MOST_METHODS),
        }


def _between(analysis: Analysis) -> Chart | None:
    shown = analysis.between_machines
    if not shown.pairs:
        return None
    left = len(shown.names) - MOST_DISTANCES
    which = f" The first {MOST_DISTANCES} of {len(shown.names)} machines." if left > 0 else ""
    return Chart(
        "between",
        "Distances between machines",
        f"Of training clips.{which}",
        plots.distances(shown, largest=_largest(analysis)),
    )


def _within(analysis: Analysis) -> Iterator[Chart]:
    hertz = frequencies(analysis.settings)
    for place, of in enumerate(analysis.within_machines):
        names = _group_names(of)
        shown = of.spectra[:MOST_SPECTRA]
        which = "" if len(shown) == len(of.spectra) else f" The first {len(shown)} of {len(of.spectra)}."
        yield Chart(
            f"spectra{place}",
            f"{of.machine}: mean log-spectra of {_what(of)}",
            f"Around each, one standard deviation from clip to clip.{which}",
            plots.spectra(shown, hertz, names[: len(shown)]),
        )
        if of.distances.pairs:
            left = len(of.distances.names) - MOST_DISTANCES
            which = f" The first {MOST_DISTANCES} of {len(of.distances.names)}." if left > 0 else ""
            drawn = plots.distances(of.distances, largest=_largest(analysis))
            yield Chart(f"distances{place}", f"{of.machine}: distances between {_what(of)}", which.strip(), drawn)


def _largest(analysis: Analysis) -> float:
    tables = [analysis.between_machines, *(of.distances for of in analysis.within_machines)]
    return max((table.pairs[-1][2] for table in tables if table.pairs), default=1.0)


def _what(of: MachineDifferences) -> str:
    return "IDs and sets" if len({spectrum.group.set for spectrum in of.spectra}) > 1 else "IDs"


def _group_names(of: MachineDifferences) -> list[str]:
    groups = [spectrum.group for spectrum in of.spectra]
    if len({group.set for group in groups}) == 1:
        return [f"ID {group.id.number} ({len(group.clips)} clips)" for group in groups]
    return [f"ID {group.id.number}, {group.set} ({len(group.clips)} clips)" for group in groups]


def _maps(analysis: Analysis) -> Iterator[Chart]:
    for place, shown in enumerate(analysis.maps):
        which = "" if shown.of == len(shown.clips) else f" An even choice of {len(shown.clips)} of {shown.of} clips."
        yield Chart(f"map{place}", f"{shown.machine}: a map of its clips", which.strip(), plots.clip_map(shown))


def _shown_example(analysis: Analysis, example: Example) -> _ShownExample:
    settings = [analysis.settings.features_of(kind) for kind in pictures.SHOWN]
    waveforms, players = [], []
    for chosen in example.clips:
        waveform = read_clip(chosen.clip, settings[0].waveform)
        waveforms.append(waveform)
        sound = pictures.sound(waveform, settings[0].sample_rate)
        remark = f"score {chosen.score:.3g}" + (f"; the first {sound.seconds:.0f} s" if sound.is_cut else "")
        players.append(_Player(chosen.what, chosen.clip.path.name, remark, sound.uri))
    return _ShownExample(
        title=f"{example.id.machine}, ID {example.id.number}",
        method=findings.method_name(example.best.method),
        players=tuple(players),
        picture=pictures.comparison(waveforms, settings),
    )
