"""Scores clips with a trained detector, one at a time: memory does not grow with their number."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from features.clips.clip import parse_stem
from features.clips.corpus import SPLIT_FOLDERS
from features.clips.machine_id import MachineId
from features.clips.wav import UnreadableWav, read_header
from features.errors import CorpusError
from models.labels import Labels
from models.recordings import Recordings
from search.detector.bundle import Bundle
from search.errors import StudyError
from search.evaluation.score_files import ScoreRow


@dataclass(frozen=True)
class ScoredClip:
    """One row of scores; `error` says why a part is missing."""

    path: str
    machine: str
    machine_id: str
    score: float | None
    decision: int | None  # 1 anomaly, 0 normal
    error: str | None


def as_score_row(row: ScoredClip) -> ScoreRow:
    """The row in the form that is read from a file. Raises StudyError for a row without a score."""
    if row.score is None:
        raise StudyError(f"{row.path} has no score ({row.error}): leave it out")
    where = f"the row of {row.path}"
    return ScoreRow(row.path, row.score, row.decision, where, machine=row.machine, machine_id=row.machine_id)


def clip_paths(paths: Iterable[Path]) -> Iterator[Path]:
    """The wav files among `paths` and in the folders among them, each folder's in order. Folders are read lazily.

    A path that does not exist is yielded too: `score_clips` gives it a row with the reason.
    """
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path):
            wavs = sorted(name for name in (*files, *folders) if name.lower().endswith(".wav"))
            folders[:] = sorted(set(folders).difference(wavs))  # a folder called *.wav gets a row with the reason
            yield from (Path(folder, name) for name in wavs)


def score_clips(bundle: Bundle, paths: Iterable[Path], device: torch.device) -> Iterator[ScoredClip]:
    """One row for each clip, in order; a clip that cannot be scored gets a row with the reason."""
    bundle.scorer.to(device)
    for path in paths:
        of_id, unnamed = _machine_id_of(path, bundle.labels)
        if not path.exists():
            yield ScoredClip(str(path), *of_id, None, None, "does not exist")
            continue
        if unnamed:
            yield ScoredClip(str(path), *of_id, None, None, unnamed)
            continue
        try:
            score = _score(bundle, path, str(of_id), device)
        except (UnreadableWav, CorpusError, OSError) as error:
            yield ScoredClip(str(path), *of_id, None, None, str(error))
            continue
        threshold = bundle.thresholds.get(str(of_id))
        decision = None if threshold is None else int(score > threshold)
        undecided = None if threshold is not None else f"no decision: {of_id} {_why_no_threshold(bundle, str(of_id))}"
        yield ScoredClip(str(path), *of_id, score, decision, undecided)


def _why_no_threshold(bundle: Bundle, id_name: str) -> str:
    if id_name not in bundle.labels.ids:
        return "was not trained on"
    return "has no threshold, since none of its training clips was withheld to set one"


def _machine_id_of(path: Path, labels: Labels) -> tuple[MachineId, str]:
    """The machine ID of a clip by its folder and file name; and, if its number is unknown, the reason, otherwise "".

    Where folder and name do not give the machine type or the number, the detector's own is taken if it has only one.
    """
    known = [MachineId.parse(name) for name in labels.ids]
    machines = {of_id.machine for of_id in known}
    folder = Path(os.path.abspath(path)).parent
    is_split = folder.name in SPLIT_FOLDERS
    machine = folder.parent.name if is_split else folder.name
    if machine not in machines and not is_split and len(machines) == 1:
        (machine,) = machines
    numbers = [of_id.number for of_id in known if of_id.machine == machine]
    parts = parse_stem(path.stem)
    if parts.has_id or not numbers:
        return MachineId(machine, parts.machine_id), ""
    if len(numbers) == 1:
        return MachineId(machine, numbers[0]), ""
    return (
        MachineId(machine, ""),
        f"its name gives no machine ID, as normal_id_{numbers[0]}_00000000.wav does: one of {', '.join(numbers)}",
    )


def _score(bundle: Bundle, path: Path, name: str, device: torch.device) -> float:
    header = read_header(path)
    for member in bundle.recipe.members:
        if header.sample_rate != member.features.sample_rate and not member.features.resample:
            raise CorpusError(f"{header.sample_rate} Hz, but the detector takes {member.features.sample_rate} Hz")
    recording = Recordings.of_file(path, name=name, attributes=parse_stem(path.stem).attributes, device=device)
    return float(bundle.scorer.scores_of(recording)[0])
