"""What an analysis found, in plain language: a headline for each part, and what supports it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from search.analysis.analysis import Analysis
from search.analysis.listening import times_as_far
from search.analysis.separability import FEWEST_FOR_INTERVAL, MethodResult, Scope, Separability, SeparationMethod

#: More names than this are counted, not listed.
_NAMED = 6
_MOST_MACHINES = 20
#: With fewer normal clips of an ID, one of them says much of its AUC.
_FEW_NORMALS = 10
#: A distance between groups that is shown as 0.0.
_NOTHING = 0.05
#: From this AUC on, loudness is a suspect.
_LOUD = 0.75
#: A distance between groups that a detector should care about: as far apart as clips of one group are.
_FAR = 1.0

_FEATURES = {
    "logmel": "log-mel",
    "mfcc": "MFCC",
    "chroma": "chroma",
    "logspectrum": "log-spectrum",
    "rms": "RMS",
    "zero_crossings": "zero crossings",
    "centroid": "centroid",
}


@dataclass(frozen=True)
class Told:
    """A headline, sentences that support it, and what it is for each machine."""

    headline: str
    sentences: tuple[str, ...] = ()
    machines: tuple[tuple[str, str], ...] = ()  # name, sentence


def feature_name(kind: str) -> str:
    """A kind or a stack, as people say it."""
    return " + ".join(_FEATURES.get(part, part) for part in kind.split("+"))


def method_name(method: SeparationMethod) -> str:
    return f"{feature_name(method.feature)}, {method.detector}"


def figure_of(measured: MethodResult) -> str:
    """AUC and interval."""
    if measured.interval is None:
        return f"{measured.auc:.2f} (too few clips for an interval)"
    low, high = measured.interval
    return f"{measured.auc:.2f} ({low:.2f} to {high:.2f})"


def reasons(found: Separability) -> list[tuple[str, list[str]]]:
    """Why IDs have no AUC, and which ones."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, why in found.undefined.items():
        by_reason[why].append(name)
    return list(by_reason.items())


def warning(analysis: Analysis) -> str | None:
    """What anybody who quotes a figure of this analysis must know, if all labels were used."""
    if not analysis.view.all_labels:
        return None
    return (
        "All labelled test clips were used (--all-labels), also those that are kept for the final figure. Whoever "
        "chooses features by this page has seen them: what “offkey train” measures on them afterwards flatters."
    )


def of_inventory(analysis: Analysis) -> Told:
    found, clips = analysis.inventory, analysis.view.corpus.clips
    machines = analysis.view.corpus.machines
    seconds = sum(clip.samples / clip.sample_rate for clip in clips)
    headline = (
        f"{_counted(len(clips), 'clip')} of {_counted(len(machines), 'machine')} "
        f"({_counted(len(found.rows), 'machine ID')}), {_duration(seconds)} in all"
    )
    problems = []
    if found.suspicions:
        suspicious = len({suspicion.name for suspicion in found.suspicions})
        problems.append(f"{_counted(suspicious, 'clip')} {'looks' if suspicious == 1 else 'look'} wrong")
    if found.leaks:
        stand = "stands" if len(found.leaks) == 1 else "stand"
        problems.append(f"{_counted(len(found.leaks), 'test clip')} {stand} in train too")
    headline += f"; {' and '.join(problems)}." if problems else "; no file looks wrong."
    sentences = []
    shortest = min((row.seconds[0] for row in found.rows), default=0.0)
    longest = max((row.seconds[1] for row in found.rows), default=0.0)
    rates = sorted({clip.sample_rate for clip in clips})
    if found.rows and longest - shortest < 0.05 and len(rates) == 1:
        sentences.append(f"Each lasts {longest:.1f} s and has {rates[0] / 1000:g} kHz.")
    if analysis.view.held_out:
        sentences.append(
            f"{_counted(len(analysis.view.held_out), 'labelled test clip')} {_are(len(analysis.view.held_out))} kept "
            "for the final figure that “offkey train” measures: this page uses neither "
            "their sound nor their labels. Whether one of them is nearly the same recording as another clip, “offkey "
            "corpus” tells."
        )
    copies = len({suspicion.name for suspicion in found.suspicions if suspicion.kind == "near-duplicate"})
    if copies:
        sentences.append(
            f"{_counted(copies, 'test clip')} {'has' if copies == 1 else 'have'} a part of another clip's recording: "
            "what is measured there says less, and where that other clip is trained on, nothing."
        )
    if found.supplemental:
        sentences.append(
            f"{_counted(found.supplemental, 'supplemental clip')} neither train nor test, and are not shown."
        )
    for row, decibels in found.louder[:_NAMED]:
        sentences.append(
            f"{row.id}: normal test clips are {abs(decibels):.0f} dB "
            f"{'louder' if decibels > 0 else 'quieter'} than training clips, and outside their range: a detector that "
            "hears the level will call them anomalous."
        )
    if len(found.louder) > _NAMED:
        sentences.append(f"So it is for {len(found.louder) - _NAMED} other machine IDs.")
    return Told(headline, tuple(sentences))


def of_separability(analysis: Analysis) -> Told:
    found = analysis.separability
    if found.overall is None:
        reasons = sorted(set(found.undefined.values()))
        return Told(
            "Which feature tells anomalies apart cannot be told: no machine ID has what it takes.",
            (f"It takes normal and anomalous test clips of an ID, and training clips; here: {'; '.join(reasons)}.",),
        )
    overall = found.overall
    best = overall.best
    sentences = [_verdict_of(overall)]
    if not overall.best.beats_guessing:
        headline = "These clips cannot tell that any of these features is better than guessing."
    elif len(overall.ties) == len(overall.methods) - 1:
        headline = "Some features tell anomalies apart, but these clips cannot tell which one does it best."
    else:
        tied = dict.fromkeys(tie.method.feature for tie in overall.ties)
        others = [feature for feature in tied if feature != best.method.feature]
        leads = "leads" if others else "tells anomalies apart best"
        headline = (
            f"{_upper(feature_name(best.method.feature))} ({best.method.detector}) {leads}: in "
            f"{100 * best.auc:.0f} of 100 comparisons an anomaly lies further from normal clips than a normal one does."
        )
        if others:
            more = f" and {_counted(len(others) - 2, 'other')}" if len(others) > 2 else ""
            names = (", " if more else " and ").join(map(feature_name, others[:2]))
            headline += f" {_upper(names)}{more} may do as well."
    loudness = next(measured for measured in overall.methods if measured.method.feature == "rms")
    if loudness.beats_guessing and loudness.auc > _LOUD and (loudness is best or loudness.ties):
        levels = [row.training_level for row in analysis.inventory.rows if row.training_level is not None]
        spread = float(np.median([highest - lowest for lowest, _, highest in levels]))
        sentences.append(
            f"Loudness alone tells them (AUC {loudness.auc:.2f}), while training clips of one ID differ by "
            f"{spread:.1f} dB at most (median over IDs). Ask whether the anomalies were recorded in another session or "
            "at another gain: then the recording is heard, and not the fault. features.normalize: clip takes the level "
            "away."
        )
    sentences.append(
        f"The best of {len(overall.methods)} is chosen by the clips that measure it, which flatters it a little. A "
        "trained model may do better with any of them: this says what there is to be heard with no training at all."
    )
    fewest = min(scope.normal for scope in found.ids.values())
    if fewest < _FEW_NORMALS:
        sentences.append(
            f"Some machine IDs have only {fewest} normal test clips here: so few stand badly for all there are, "
            "whatever an interval says."
        )
    of_machines = [(machine, _verdict_of(scope)) for machine, scope in found.machines.items()]
    return Told(headline, tuple(sentences), tuple(of_machines[:_MOST_MACHINES]) if len(of_machines) > 1 else ())


def of_differences(analysis: Analysis) -> Told:
    pairs = [(of.machine, *pair) for of in analysis.within_machines for pair in of.distances.pairs]
    between = analysis.between_machines.pairs
    sentences = []
    if between:
        near, far = between[0], between[-1]
        if far[2] < _NOTHING:
            sentences.append("The machines differ no more than chance lets their clips differ.")
        elif len(between) == 1:
            sentences.append(f"{near[0]} and {near[1]} lie {near[2]:.1f} apart.")
        else:
            sentences.append(
                f"Of the machines, {near[0]} and {near[1]} sound most alike ({near[2]:.1f}), {far[0]} and {far[1]} "
                f"least ({far[2]:.1f})."
            )
    if not pairs:
        return Told("There is one group of clips: nothing to compare it with.", tuple(sentences))
    several = any(len({spectrum.group.set for spectrum in of.spectra}) > 1 for of in analysis.within_machines)
    groups = "IDs or sets" if several else "IDs"
    far_pairs = [pair for pair in pairs if pair[3] >= _FAR]
    machine, first, second, largest = max(pairs, key=lambda pair: pair[3])
    most = f"{machine} {first} and {second} ({largest:.1f})"
    headline = (
        f"In {len(far_pairs)} of {len(pairs)} pairs, {groups} of a machine differ more than clips of one ID do; most "
        f"of all {most}."
    )
    if not far_pairs:
        headline = f"No two {groups} of a machine differ more than clips of one ID do; the most {most}."
    if len(far_pairs) > len(pairs) / 2:
        sentences.append(
            "Where IDs differ so much, models that know the ID are worth a try: one for each of them "
            "(per_id: true), or a classifier of IDs."
        )
    return Told(headline, tuple(sentences))


def of_maps(analysis: Analysis) -> Told:
    found = analysis.separability
    ratios = {name: ratio for name in found.ids if (ratio := times_as_far(found, name)) is not None}
    if not ratios:
        if not analysis.maps:
            return Told("There are too few clips for a map.")
        return Told("How different an anomaly is cannot be told without labels: the map shows how normal clips lie.")
    middle = float(np.median(list(ratios.values())))
    nearest, furthest = min(ratios, key=lambda name: ratios[name]), max(ratios, key=lambda name: ratios[name])
    how = "no further" if middle < 1.05 else f"{middle:.1f} times as far"
    than = "than" if middle < 1.05 else "as"
    headline = (
        f"By log-mel, a typical anomaly lies {how} from its machine ID's training clips {than} a typical normal clip."
    )
    spread = f"From {ratios[nearest]:.1f} times ({nearest}) to {ratios[furthest]:.1f} times ({furthest})."
    sentences = [spread] if len(ratios) > 1 else []
    if middle < 1.2:
        sentences.append(
            "Averages over a whole clip hardly show such faults: expect more of models that hear detail in time."
        )
    return Told(headline, tuple(sentences))


def of_examples(analysis: Analysis) -> Told:
    if not analysis.examples:
        return Told("There is nothing to compare by ear without normal and anomalous test clips.")
    of = len(analysis.separability.machines)
    which = (
        f"the {len(analysis.examples)} of {of} machines that are told best"
        if of > len(analysis.examples)
        else "each machine"
    )
    return Told(f"A normal clip beside anomalous ones, of {which}.")


def _verdict_of(scope: Scope) -> str:
    best, others = scope.best, len(scope.methods) - 1
    told = f"{method_name(best.method)} has AUC {figure_of(best)}"
    if best.interval is None:
        told = f"{method_name(best.method)} has AUC {best.auc:.2f}, of too few clips for an interval"
    if min(scope.normal, scope.anomaly) < FEWEST_FOR_INTERVAL:
        return f"{told}: which is best cannot be told here."
    guessing = "" if scope.best.beats_guessing else ", which may be guessing"
    if not scope.ties:
        return f"{told}{guessing}, and is better than all {others} others."
    if len(scope.ties) == others:
        return f"{told}{guessing}; that it is better than any other cannot be told here."
    worse = others - len(scope.ties)
    ties = _counted(len(scope.ties), "other")
    return f"{told}{guessing}; it is better than {worse}, and {ties} cannot be told from it."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
