"""The exhibits of a leading trial in the dashboard: pictures of its scores, and its two worst mistakes as pictures and
sounds. They show validation clips only.
"""

from __future__ import annotations

import io
import json
import uuid
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from optuna.artifacts._upload import ArtifactMeta

from features.clips.clip import ANOMALY, NORMAL
from features.clips.wav import read_waveform
from models.scoring.scores import Scores
from search.artifacts.artifact_store import open_artifacts, store_errors
from search.dashboard import pictures
from search.dashboard.pictures import MOST_BYTES
from search.evaluation.metrics import id_aucs
from search.evaluation.misses import worst_ranked
from search.evaluation.truth import Truth, scores_by_id
from search.pages.media import flac
from search.storage.optuna_rows import ARTIFACT_KEY
from search.training.protocols import Showable


@dataclass(frozen=True)
class Exhibit:
    """One file."""

    name: str
    mimetype: str
    content: bytes


def exhibits_of(training: Showable, scores: Scores) -> Iterable[Exhibit]:
    """All exhibits of a training whose validation clips have these scores, (clips,)."""
    clips = training.validation_clips
    truth = Truth.of(clips)
    yield _png("1 ROC curves.png", pictures.roc_picture(scores_by_id(scores, truth), id_aucs(scores, truth)))
    yield _png("2 scores.png", pictures.score_picture(scores, truth))
    missed, alarm = (worst_ranked(scores, truth, label=label)[0].position for label in (ANOMALY, NORMAL))
    for name, position in (("3 most missed anomaly", missed), ("4 worst false alarm", alarm)):
        clip = clips[position]
        yield _png(
            f"{name}.png",
            pictures.clip_picture(
                training.frames_of(clip),
                training.reconstruction_of(clip),
                frame_seconds=training.frame_seconds,
                unit=training.unit,
                title=f"{clip.id_name}, {clip.name}: score {scores[position]:.4g}",
            ),
        )
        sound = flac(read_waveform(clip.path), clip.sample_rate, most_bytes=MOST_BYTES)
        yield Exhibit(f"{name}.flac", "audio/flac", sound.content)


def upload(exhibits: Iterable[Exhibit], place: str, *, uid: str, number: int) -> dict[str, str]:
    """Writes a trial's exhibits; returns the system attributes by which optuna-dashboard finds them.

    A trial's exhibits have the same IDs whichever worker writes them: if a worker is killed right after writing, its
    successor overwrites them. Raises StoreError if the place cannot be written.
    """
    attributes = {}
    for exhibit in exhibits:
        identifier = str(uuid.uuid5(uuid.UUID(uid), f"{number}/{exhibit.name}"))
        with store_errors(place, "Exhibits", "written"):
            open_artifacts(place).write(identifier, io.BytesIO(exhibit.content))
        meta = ArtifactMeta(artifact_id=identifier, filename=exhibit.name, mimetype=exhibit.mimetype, encoding=None)
        attributes[f"{ARTIFACT_KEY}{identifier}"] = json.dumps(asdict(meta))
    return attributes


def _png(name: str, content: bytes) -> Exhibit:
    return Exhibit(name, "image/png", content)
