"""All results of the page: computes them from the clips, and draws nothing."""

from __future__ import annotations

from dataclasses import dataclass

from features.clips.clip import Clip
from features.clips.corpus import Corpus
from search.analysis.differences import Distances, Spectrum, distances, groups_of, spectrum_of
from search.analysis.embedding import Map, map_of
from search.analysis.inventory import Inventory, inventory
from search.analysis.listening import Example, example_of
from search.analysis.separability import Separability, separability
from search.analysis.settings import AnalysisSettings
from search.analysis.statistics import KindProgress, statistics_of
from search.analysis.view import View, view_of

#: How many machines get spectra and maps, and how many get clips to play: more would make the page slow to open.
MOST_MACHINES = 8
MOST_EXAMPLES = 5


@dataclass(frozen=True)
class MachineDifferences:
    """How the IDs and sets of one machine differ."""

    machine: str
    spectra: tuple[Spectrum, ...]
    distances: Distances


@dataclass(frozen=True)
class Analysis:
    """The results of an analysis."""

    settings: AnalysisSettings
    view: View
    inventory: Inventory
    separability: Separability
    between_machines: Distances
    within_machines: tuple[MachineDifferences, ...]  # for the first machines
    maps: tuple[Map, ...]  # for the first machines
    examples: tuple[Example, ...]  # from the machines with the highest AUC


def analyse(corpus: Corpus, settings: AnalysisSettings, *, all_labels: bool, progress: KindProgress) -> Analysis:
    """Analyses a corpus that has all its labels. The test clips are set aside first, unless `all_labels`.

    Raises StoreError or CorpusError where frames cannot be computed.
    """
    corpus = corpus.of_machines(settings.corpus.machines)
    corpus.require_readable()
    settings.features.require(corpus)
    view = view_of(corpus, settings.validation, all_labels=all_labels)
    kinds = settings.kinds_of(corpus)
    statistics = statistics_of(view.seen, corpus, settings, kinds, progress=progress)
    result = separability(view, statistics, kinds, progress=progress)
    training: dict[str, list[Clip]] = {machine: [] for machine in corpus.machines}
    for clip in view.training:
        training[clip.machine].append(clip)
    groups = groups_of(view)
    within = []
    for machine in corpus.machines[:MOST_MACHINES]:
        own = [group for group in groups if group.id.machine == machine]
        if own:
            named = [(f"{group.id.number} {group.set}", group.clips) for group in own]
            if len({group.set for group in own}) == 1:
                named = [(group.id.number, group.clips) for group in own]
            spectra = tuple(spectrum_of(group, statistics) for group in own)
            within.append(MachineDifferences(machine, spectra, distances(named, statistics)))
    by_auc = sorted(result.machines, key=lambda machine: -result.machines[machine].best.auc)
    return Analysis(
        settings=settings,
        view=view,
        inventory=inventory(view, statistics, progress=progress),
        separability=result,
        between_machines=distances([(name, clips) for name, clips in training.items() if clips], statistics),
        within_machines=tuple(within),
        maps=tuple(
            of_machine
            for machine in corpus.machines[:MOST_MACHINES]
            if (of_machine := map_of(machine, view, statistics)) is not None
        ),
        examples=tuple(example_of(machine, result) for machine in by_auc[:MOST_EXAMPLES]),
    )
