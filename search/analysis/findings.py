"""The results of an analysis in plain language: a headline for each part, and the sentences that support it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from search.analysis.analysis import Analysis
from search.analysis.listening import times_as_far
from search.analysis.separability import MethodResult, Scope, Separability, SeparationMethod

#: A sentence names at most this many machine IDs, and counts the others.
_NAMED = 6
_MOST_MACHINES = 20
#: With fewer normal clips of an ID, its AUC depends much on each of them.
_FEW_NORMALS = 10
#: A smaller distance between groups is shown as 0.0.
_NOTHING = 0.05
#: Above this AUC of loudness alone, the anomalies may have been recorded at another level.
_LOUD = 0.75
#: From this distance on, groups lie as far apart as clips of one group: a detector should consider it.
_FAR = 1.0

_FEATURES = {
    "logmel": "log-mel",
    "mfcc": "MFCC",
    "chroma": "chroma",
    "logspectrum": "log-spectrum",
    "rms": "RMS",
    "zero_crossings": "zero crossings",
    "centroid": "centroid",
    "clip_spectrum": "spectrum of the clip",
}


@dataclass(frozen=True)
class Finding:
    """A headline, the sentences that support it, and a sentence for each machine."""

    headline: str
    sentences: tuple[str, ...] = ()
    machines: tuple[tuple[str, str], ...] = ()  # name, sentence


def feature_name(kind: str) -> str:
    """The usual name of a kind or a stack of features."""
    return " + ".join(_FEATURES.get(part, part) for part in kind.split("+"))


def method_name(method: SeparationMethod) -> str:
    return f"{feature_name(method.feature)}, {method.detector}"


def auc_in_words(measured: MethodResult) -> str:
    """The AUC with its interval."""
    if measured.interval is None:
        return f"{measured.auc:.2f} (too few clips for an interval)"
    low, high = measured.interval
    return f"{measured.auc:.2f} ({low:.2f} to {high:.2f})"


def reasons(separability: Separability) -> list[tuple[str, list[str]]]:
    """The reasons why IDs have no AUC, each with these IDs."""
    by_reason: dict[str, list[str]] = defaultdict(list)
    for name, why in separability.undefined.items():
        by_reason[why].append(name)
    return list(by_reason.items())


def warning(analysis: Analysis) -> str | None:
    """The warning for an analysis that used all labels; None for others."""
    if not analysis.view.all_labels:
        return None
    return (
        "All labelled test clips were used (--all-labels), also those that are held out for the final detector. If you "
        "choose features by this page, the test AUC that “offkey train” measures on them will be optimistic."
    )


def inventory_finding(analysis: Analysis) -> Finding:
    inventory, clips = analysis.inventory, analysis.view.corpus.clips
    machines = analysis.view.corpus.machines
    seconds = sum(clip.seconds for clip in clips)
    headline = (
        f"{_counted(len(clips), 'clip')} of {_counted(len(machines), 'machine')} "
        f"({_counted(len(inventory.rows), 'machine ID')}), {_duration(seconds)} in all"
    )
    problems = []
    if inventory.suspicions:
        suspicious = len({suspicion.name for suspicion in inventory.suspicions})
        problems.append(f"{_counted(suspicious, 'clip')} {_are(suspicious)} suspicious")
    if inventory.leaks:
        problems.append(f"{_counted(len(inventory.leaks), 'test clip')} {_are(len(inventory.leaks))} in train too")
    headline += f"; {' and '.join(problems)}." if problems else "; no clip is suspicious."
    sentences = []
    shortest = min((row.seconds[0] for row in inventory.rows), default=0.0)
    longest = max((row.seconds[1] for row in inventory.rows), default=0.0)
    rates = sorted({clip.sample_rate for clip in clips})
    if inventory.rows and longest - shortest < 0.05 and len(rates) == 1:
        sentences.append(f"Each lasts {longest:.1f} s and has {rates[0] / 1000:g} kHz.")
    if analysis.view.held_out:
        sentences.append(
            f"{_counted(len(analysis.view.held_out), 'labelled test clip')} {_are(len(analysis.view.held_out))} held "
            "out for the test AUC that “offkey train” measures: this page uses neither their sound nor their labels. "
            "“offkey corpus” reports whether one of them is nearly the same recording as another clip."
        )
    copies = len({suspicion.name for suspicion in inventory.suspicions if suspicion.kind == "near-duplicate"})
    if copies:
        sentences.append(
            f"{_counted(copies, 'test clip')} {'shares' if copies == 1 else 'share'} a part of the recording with "
            "another clip. An AUC on such clips is less reliable; if the other clip is trained on, it is worthless."
        )
    if inventory.supplemental:
        sentences.append(
            f"{_counted(inventory.supplemental, 'supplemental clip')} "
            f"{_are(inventory.supplemental)} used neither for training nor for tests, and not shown."
        )
    for row, decibels in inventory.louder[:_NAMED]:
        sentences.append(
            f"{row.id}: normal test clips are {abs(decibels):.0f} dB "
            f"{'louder' if decibels > 0 else 'quieter'} than training clips, and outside their range: a detector whose "
            "features keep the level will call them anomalous."
        )
    if len(inventory.louder) > _NAMED:
        sentences.append(f"The same holds for {_counted(len(inventory.louder) - _NAMED, 'other machine ID')}.")
    return Finding(headline, tuple(sentences))


def separability_finding(analysis: Analysis) -> Finding:
    separability = analysis.separability
    if separability.overall is None:
        reasons = sorted(set(separability.undefined.values()))
        return Finding(
            "No machine ID has the clips that are needed to compare features.",
            (f"An ID needs normal and anomalous test clips, and training clips; here: {'; '.join(reasons)}.",),
        )
    overall = separability.overall
    best = overall.best
    sentences = [_verdict_of(overall)]
    if not overall.best.beats_guessing:
        headline = "These clips do not show that any of these features is better than guessing."
    elif len(overall.ties) == len(overall.methods) - 1:
        headline = "Some features tell anomalies apart, but these clips do not show which one does it best."
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
            f"Loudness alone detects them (AUC {loudness.auc:.2f}), while training clips of one ID differ by "
            f"{spread:.1f} dB at most (median over IDs). Check whether the anomalies were recorded in another session "
            "or at another gain: then a detector would detect the recording, not the fault. features.normalize: clip "
            "removes the level."
        )
    sentences.append(
        f"The best of {len(overall.methods)} is chosen by the same clips that measure it, so its AUC is slightly "
        "optimistic. A trained model may do better with any of these features: this comparison needs no training."
    )
    if "clip_spectrum" not in {measured.method.feature for measured in overall.methods}:
        sentences.append(
            f"The {feature_name('clip_spectrum')} is not compared: a clip is too short for its bands. --set "
            "features.n_bands=… sets fewer (offkey settings features)."
        )
    fewest = min(scope.normal for scope in separability.ids.values())
    if fewest < _FEW_NORMALS:
        sentences.append(
            f"Some machine IDs have only {_counted(fewest, 'normal test clip')} here: too few to represent all normal "
            "sounds, even where an interval is narrow."
        )
    of_machines = [(machine, _verdict_of(scope)) for machine, scope in separability.machines.items()]
    return Finding(headline, tuple(sentences), tuple(of_machines[:_MOST_MACHINES]) if len(of_machines) > 1 else ())


def differences_finding(analysis: Analysis) -> Finding:
    pairs = [(of.machine, *pair) for of in analysis.within_machines for pair in of.distances.pairs]
    between = analysis.between_machines.pairs
    sentences = []
    if between:
        near, far = between[0], between[-1]
        if far[2] < _NOTHING:
            sentences.append("The machines differ no more than clips differ by chance.")
        elif len(between) == 1:
            sentences.append(f"The distance between {near[0]} and {near[1]} is {near[2]:.1f}.")
        else:
            sentences.append(
                f"The machines {near[0]} and {near[1]} sound most alike (distance {near[2]:.1f}), "
                f"{far[0]} and {far[1]} least ({far[2]:.1f})."
            )
    if not pairs:
        return Finding("There is only one group of clips, and none to compare it with.", tuple(sentences))
    several = any(len({spectrum.group.set for spectrum in of.spectra}) > 1 for of in analysis.within_machines)
    groups = "IDs or sets" if several else "IDs"
    far_pairs = [pair for pair in pairs if pair[3] >= _FAR]
    machine, first, second, largest = max(pairs, key=lambda pair: pair[3])
    most = f"{machine} {first} and {second} ({largest:.1f})"
    headline = (
        f"In {len(far_pairs)} of {len(pairs)} pairs, {groups} of a machine differ more than clips of one ID do. The "
        f"largest distance: {most}."
    )
    if not far_pairs:
        headline = f"No two {groups} of a machine differ more than clips of one ID do. The largest distance: {most}."
    if len(far_pairs) > len(pairs) / 2:
        sentences.append(
            "Since IDs differ this much, try models that use the ID: one model for each ID (per_id: true), or a "
            "classifier of IDs."
        )
    return Finding(headline, tuple(sentences))


def maps_finding(analysis: Analysis) -> Finding:
    separability = analysis.separability
    ratios = {name: ratio for name in separability.ids if (ratio := times_as_far(separability, name)) is not None}
    if not ratios:
        if not analysis.maps:
            return Finding("There are too few clips for a map.")
        return Finding("How different an anomaly is cannot be measured without labels. The map shows the normal clips.")
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
            "Averages over a whole clip hardly show such faults: models that use detail in time may do better."
        )
    return Finding(headline, tuple(sentences))


def examples_finding(analysis: Analysis) -> Finding:
    if not analysis.examples:
        return Finding("There is nothing to compare by ear without normal and anomalous test clips.")
    of = len(analysis.separability.machines)
    which = (
        f"for the {len(analysis.examples)} of {of} machines with the highest AUC"
        if of > len(analysis.examples)
        else "for each machine"
    )
    return Finding(f"A normal clip beside anomalous ones, {which}.")


def _verdict_of(scope: Scope) -> str:
    best, others = scope.best, len(scope.methods) - 1
    sentence = f"{method_name(best.method)} has AUC {auc_in_words(best)}"
    if best.interval is None:
        sentence = f"{method_name(best.method)} has AUC {best.auc:.2f}, on too few clips for an interval"
    if scope.few:
        return f"{sentence}: these clips do not show which feature is best."
    guessing = "" if scope.best.beats_guessing else ", which may be guessing"
    if not scope.ties:
        return f"{sentence}{guessing}, and is better than all {others} others."
    if len(scope.ties) == others:
        return f"{sentence}{guessing}; all {others} others tie with it."
    worse = others - len(scope.ties)
    ties = _counted(len(scope.ties), "other")
    return f"{sentence}{guessing}; it is better than {worse}, and {ties} {_tie(len(scope.ties))} with it."


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _tie(count: int) -> str:
    return "ties" if count == 1 else "tie"


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{minutes} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"


def _upper(text: str) -> str:
    return text[0].upper() + text[1:]
