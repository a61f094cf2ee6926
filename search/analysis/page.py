"""An analysis on one page: self-contained HTML that needs no network, for the screen and for paper."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from features.clips.machine_id import MachineId
from features.clips.reading import read_clip
from search.analysis import figures, pictures, tables, words
from search.analysis.analysis import MOST_MACHINES, Analysis, MachineDifferences
from search.analysis.differences import frequencies
from search.analysis.figures import MOST_DISTANCES, MOST_SPECTRA
from search.analysis.folder import MARK
from search.analysis.listening import Example
from search.analysis.statistics import KindProgress
from search.pages.page import Chart, template

_MOST_ROWS = 60
_MOST_METHODS = 8
_MOST_SUSPICIONS = 40
#: Machines whose IDs have a table of their own, and machines or IDs side by side in one.
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
class _Shown:
    """The clips of one machine side by side."""

    title: str
    method: str
    players: tuple[_Player, ...]
    picture: str


def page(analysis: Analysis, *, progress: KindProgress) -> str:
    """The page of an analysis. Raises CorpusError if a clip that is shown can no longer be read."""
    found, view = analysis.separability, analysis.view
    machines = view.corpus.machines
    examples = []
    for done, example in enumerate(analysis.examples):
        progress("drawing clips", done, len(analysis.examples))
        examples.append(_shown(analysis, example))
    suspicions = analysis.inventory.suspicions
    return template(__package__, "index.html").render(
        mark=MARK,
        root=view.corpus.root.name or str(view.corpus.root),
        warning=words.warning(analysis),
        told=[
            ("What is there", words.of_inventory(analysis)),
            ("Which feature tells anomalies from normal clips best", words.of_separability(analysis)),
            ("How machines, IDs and sets differ", words.of_differences(analysis)),
            ("How different an anomaly is", words.of_maps(analysis)),
            ("To look at, and to listen to", words.of_examples(analysis)),
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
        methods=None if found.overall is None else Chart("methods", "", "", figures.methods(found.overall)),
        tables=list(_separability_tables(analysis)),
        undefined=words.reasons(found),
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
    """What the figures are measured on."""
    view, clips = analysis.view, analysis.separability.clips
    anomalies = sum(clip.label == 1 for clip in clips)
    which = "all labelled test clips"
    if not view.all_labels:
        which = f"the {analysis.settings.validation.share:.0%} of the labelled test clips that may steer a search"
    return f"{len(clips) - anomalies} normal and {anomalies} anomalous clips: {which}"


def _separability_tables(analysis: Analysis) -> Iterator[dict[str, Any]]:
    """One table over all machines, one for each machine over its IDs."""
    found = analysis.separability
    if found.overall is None:
        return
    several = len(found.machines) > 1
    if several:
        scopes = dict(list(found.machines.items())[:_MOST_COLUMNS])
        left = len(found.machines) - len(scopes)
        yield {
            "title": "All machines: mean over machine IDs",
            "columns": list(scopes),
            "rows": tables.method_rows(found.overall, scopes),
            "left": f"{left} more machines" if left else "",
            "methods_left": 0,
        }
    for machine, scope in list(found.machines.items())[:_MOST_TABLES]:
        if len(scope.ids) == 1 and several:
            continue  # the table above says it all
        ids = {MachineId.parse(name).number: found.ids[name] for name in scope.ids[:_MOST_COLUMNS]}
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
        figures.distances(shown, largest=_largest(analysis)),
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
            figures.spectra(shown, hertz, names[: len(shown)]),
        )
        if of.distances.pairs:
            left = len(of.distances.names) - MOST_DISTANCES
            which = f" The first {MOST_DISTANCES} of {len(of.distances.names)}." if left > 0 else ""
            drawn = figures.distances(of.distances, largest=_largest(analysis))
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
        yield Chart(f"map{place}", f"{shown.machine}: a map of its clips", which.strip(), figures.clip_map(shown))


def _shown(analysis: Analysis, example: Example) -> _Shown:
    settings = [analysis.settings.features_of(kind) for kind in pictures.SHOWN]
    waveforms, players = [], []
    for heard in example.heard:
        waveform = read_clip(heard.clip, settings[0].waveform)
        waveforms.append(waveform)
        sound = pictures.sound(waveform, settings[0].sample_rate)
        remark = f"score {heard.score:.3g}" + (f"; the first {sound.seconds:.0f} s" if sound.is_cut else "")
        players.append(_Player(heard.what, heard.clip.path.name, remark, sound.uri))
    return _Shown(
        title=f"{example.id.machine}, ID {example.id.number}",
        method=words.method_name(example.best.method),
        players=tuple(players),
        picture=pictures.comparison(waveforms, settings),
    )
