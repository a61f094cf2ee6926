"""The exhibits of a trial: which clips, as which files, of which trials; and errors about them."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
import soundfile
import torch
from optuna.trial import FrozenTrial, TrialState

from features.clips.clip import ANOMALY, NORMAL, Clip
from features.clips.corpus import Corpus, read_corpus
from features.clips.wav import Waveform, read_waveform
from features.frames.framing import Frames
from features.frames.logmel import HIGHEST, LOWEST
from models.scoring.scores import Scores
from search.dashboard.exhibits import Exhibit, exhibits_of, upload
from search.dashboard.pictures import MOST_BYTES
from search.evaluation.misses import worst_ranked
from search.evaluation.truth import Truth
from search.study.recipe import Recipe, ValidationSettings
from search.training.protocols import Showable
from search.validation.split import blind, labelled_test_clips
from search.workers import worker
from tests.support.faulty_worker import faulty
from tests.support.quick import QuickTraining
from tests.support.tiny_study import trials_of
from tests.support.training import excerpts_of, models_of, trained

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

NAMES = [
    "1 ROC curves.png",
    "2 scores.png",
    "3 most missed anomaly.png",
    "3 most missed anomaly.flac",
    "4 worst false alarm.png",
    "4 worst false alarm.flac",
]


def recipe_with(*, context: int = 3, **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "study": "exhibits",
            "features": {"n_mels": 32},
            "model": {"family": "vae", "context": context, "h_dim": 16, "z_dim": 4},
            "training": {"learning_rate": 0.01, "batch_size": 64, "epochs": 1, "seed": 1, "threads": 1, **training},
        }
    )


@pytest.fixture
def corpus(corpus_root: Path) -> Corpus:
    """The corpus without the labels of its test clips, as a search has it."""
    return blind(read_corpus(corpus_root), ValidationSettings())


def test_they_are_four_pictures_and_two_sounds(corpus: Corpus) -> None:
    training = trained(recipe_with(), corpus)
    scores = training.validation_scores()
    exhibits = list(exhibits_of(training, scores))

    assert [exhibit.name for exhibit in exhibits] == NAMES
    for exhibit in exhibits:
        is_sound = exhibit.name.endswith(".flac")
        assert exhibit.mimetype == ("audio/flac" if is_sound else "image/png")
        assert exhibit.content.startswith(b"fLaC" if is_sound else b"\x89PNG\r\n\x1a\n")
        assert len(exhibit.content) <= MOST_BYTES
    truth = Truth.of(training.validation_clips)
    for number, label in ((3, ANOMALY), (5, NORMAL)):
        position = worst_ranked(scores, truth, label=label)[0].position
        samples, rate = soundfile.read(io.BytesIO(exhibits[number].content), dtype="int16")
        original, _ = soundfile.read(training.validation_clips[position].path, dtype="int16")
        assert rate == 16000
        assert samples.tolist() == original.tolist()  # bit by bit


class Hall:
    """A training on one long clip, as far as exhibits ask for it."""

    frame_seconds = 0.032
    unit = "dB"

    def __init__(self, clips: Sequence[Clip], frames: Frames) -> None:
        self.validation_clips, self._frames = clips, frames

    def frames_of(self, clip: Clip) -> Frames:
        return self._frames

    def reconstruction_of(self, clip: Clip) -> Frames | None:
        return self._frames[::-1]


def clip_at(path: Path, label: int, *, machine: str = "hall") -> Clip:
    return Clip(
        path=path,
        name=path.name,
        machine=machine,
        machine_id="00",
        split="test",
        source="development",
        domain=None,
        attributes="",
        label=label,
        sample_rate=16000,
        samples=1,
        digest=path.name,
    )


def noise(path: Path, *, seconds: float) -> None:
    soundfile.write(path, np.random.default_rng(2).uniform(-1, 1, int(seconds * 16000)), 16000, subtype="PCM_16")


def test_a_long_clips_sound_is_cut_and_no_file_is_larger_than_the_limit(tmp_path: Path) -> None:
    noise(tmp_path / "hours.wav", seconds=300)
    clips = [clip_at(tmp_path / "hours.wav", label) for label in (0, 1)]
    frames = np.random.default_rng(3).uniform(-90, 0, (9375, 128)).astype(np.float32)  # nothing to compress

    exhibits = {exhibit.name: exhibit for exhibit in exhibits_of(Hall(clips, frames), np.array([1.0, 0.0]))}

    assert list(exhibits) == NAMES
    assert {len(exhibit.content) <= MOST_BYTES for exhibit in exhibits.values()} == {True}
    samples, _ = soundfile.read(io.BytesIO(exhibits["3 most missed anomaly.flac"].content), dtype="int16")
    original, _ = soundfile.read(tmp_path / "hours.wav", dtype="int16", frames=len(samples))
    assert len(samples) > 20 * 16000
    assert samples.tolist() == original.tolist()


@pytest.mark.filterwarnings("ignore:Glyph .* missing from font")
@pytest.mark.parametrize("name", ["$a$.wav", "100 % $\\frac{1$.wav", "_hidden.wav", "größe 音.wav"])
def test_any_name_can_be_a_title(tmp_path: Path, name: str) -> None:
    noise(tmp_path / name, seconds=0.1)
    clips = [clip_at(tmp_path / name, label, machine="pump $x") for label in (0, 1)]
    frames = np.full((3, 4), -90.0, dtype=np.float32)  # and silence a picture

    assert [exhibit.name for exhibit in exhibits_of(Hall(clips, frames), np.array([0.0, 1.0]))] == NAMES


@pytest.mark.parametrize("model", [{"family": "stat"}, {"family": "vae", "context": 1}], ids=["stat", "vae"])
def test_a_single_frame_is_shown_too(corpus: Corpus, model: dict[str, Any]) -> None:
    recipe = recipe_with().tree() | {"features": {"kind": "clip_spectrum", "n_bands": 40}, "model": model}
    training = trained(Recipe.model_validate(recipe), corpus)

    exhibits = list(exhibits_of(training, training.validation_scores()))

    assert [exhibit.name for exhibit in exhibits] == NAMES


def test_only_validation_clips_are_shown(corpus_root: Path, corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    validation_data = set(labelled_test_clips(corpus))
    held_out = set(labelled_test_clips(read_corpus(corpus_root))) - validation_data
    assert held_out
    assert validation_data
    training = trained(recipe_with(), corpus)
    titles: list[str] = []
    read: list[Path] = []

    def draw(*frames: object, title: str, frame_seconds: float, unit: str) -> bytes:
        titles.append(title)
        return b""

    def listen(path: Path) -> Waveform:
        read.append(path)
        return read_waveform(path)

    monkeypatch.setattr("search.dashboard.pictures.clip_picture", draw)
    monkeypatch.setattr("search.dashboard.exhibits.read_waveform", listen)

    for seed in range(3):  # whatever is scored how
        scores = np.random.default_rng(seed).standard_normal(len(validation_data))
        list(exhibits_of(training, scores))

    assert len(titles) == len(read) == 6
    assert set(read) <= {clip.path for clip in validation_data}
    assert not [title for title in titles for clip in held_out if clip.path.name in title and clip.id_name in title]


@pytest.mark.parametrize("context", [1, 2, 3, 4, 8, 32])
def test_a_reconstruction_has_the_shape_of_the_clips_frames(corpus: Corpus, context: int) -> None:
    training = trained(recipe_with(context=context), corpus)
    clip = training.validation_clips[-1]
    frames, reconstruction = training.frames_of(clip), training.reconstruction_of(clip)

    assert reconstruction is not None
    assert reconstruction.shape == frames.shape == (32, 32)
    assert np.isfinite(reconstruction).all()


@pytest.mark.parametrize("context", [1, 3])
@pytest.mark.parametrize("batch", [1024, 7], ids=["in one batch", "in several"])
def test_each_frame_is_taken_from_the_window_that_it_is_the_middle_of(
    corpus: Corpus, context: int, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.scoring.reconstruction._BATCH", batch)
    training = trained(recipe_with(context=context), corpus)
    clip = training.validation_clips[0]
    whole = next(iter(excerpts_of(training, [clip]).in_order(1024)))
    with torch.inference_mode():
        reconstructed = models_of(training)[0].reconstruct(whole)
    assert reconstructed is not None
    windows = reconstructed.view(-1, context, 32).numpy()
    middle = context // 2

    reconstruction = training.reconstruction_of(clip)

    assert reconstruction is not None
    expected = [*windows[0, :middle], *windows[:, middle], *windows[-1, middle + 1 :]]
    np.testing.assert_allclose(reconstruction, expected, atol=1e-4)


def test_a_score_is_the_mean_squared_error_of_what_is_shown(corpus: Corpus) -> None:
    training = trained(recipe_with(context=1), corpus)  # each frame once
    scores = training.validation_scores()
    for clip, score in zip(training.validation_clips, scores, strict=True):
        reconstruction = training.reconstruction_of(clip)
        assert reconstruction is not None
        frames = np.clip((training.frames_of(clip) - LOWEST) / (HIGHEST - LOWEST), 0, 1)
        error = np.mean(((reconstruction - LOWEST) / (HIGHEST - LOWEST) - frames) ** 2)
        assert error == pytest.approx(score, rel=1e-4)


def test_after_a_training_in_bfloat16_it_is_computed_in_float32(corpus: Corpus) -> None:
    training = trained(recipe_with(context=1, precision="bfloat16"), corpus)
    clip = training.validation_clips[0]
    reconstruction = training.reconstruction_of(clip)

    assert reconstruction is not None
    as_stored = torch.from_numpy((reconstruction - LOWEST) / (HIGHEST - LOWEST))
    assert not torch.allclose(as_stored, as_stored.bfloat16().float(), atol=1e-6)


def files_of(trial: FrozenTrial) -> dict[str, Path]:
    """The files that the dashboard lists of a trial, by their names there."""
    metas = [json.loads(value) for key, value in trial._system_attrs.items() if key.startswith("artifacts:")]
    place = Path(os.environ["OFFKEY_CACHE"]) / "artifacts"
    return {meta["filename"]: place / meta["artifact_id"] for meta in metas}


class Scripted(QuickTraining):
    """A training of one epoch whose n-th trial of the process gets the n-th AUC, and shows a small file."""

    aucs: tuple[float, ...] = ()
    begun = 0
    shows: Callable[[], Sequence[Exhibit]] = staticmethod(lambda: [Exhibit("a.png", "image/png", b"a picture")])

    def __init__(self, recipe: Recipe, corpus: Corpus, device: str) -> None:
        super().__init__(recipe, corpus, device)
        self._auc = type(self).aucs[type(self).begun % len(self.aucs)]
        type(self).begun += 1

    def validation_scores(self) -> Scores:
        """Of each ID's n anomalies the first auc · n are above all normal clips, the others below."""
        truth = Truth.of(self.validation_clips)
        scores = np.zeros(len(truth.ids))
        for name in set(truth.ids):
            anomalies = [n for n, key in enumerate(zip(truth.ids, truth.labels, strict=True)) if key == (name, 1)]
            scores[anomalies] = -1
            scores[anomalies[: round(self._auc * len(anomalies))]] = 1
        return scores


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> type[Scripted]:
    monkeypatch.setattr(Scripted, "begun", 0)
    return Scripted


def shown(model: Showable, scores: Scores) -> Sequence[Exhibit]:
    assert isinstance(model, Scripted)
    return model.shows()


def run(study: TinyStudy, training: type[Scripted]) -> list[FrozenTrial]:
    each = study.worker()
    each.train, each.show = training, shown
    each.run()
    return trials_of(study)


def test_a_trial_that_leads_when_it_ends_leaves_them_and_no_other_does(
    tiny_study: MakeStudy, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scripted, "aucs", (1 / 3, 0.0, 2 / 3, 2 / 3, 1.0, 0.0))
    trials = run(tiny_study(trials=6), scripted)

    assert [round(trial.value or 0.0, 3) for trial in trials] == [0.333, 0.0, 0.667, 0.667, 1.0, 0.0]
    assert [trial.number for trial in trials if files_of(trial)] == [0, 2, 4]
    assert [path.read_bytes() for trial in trials for path in files_of(trial).values()] == [b"a picture"] * 3


def test_a_real_trial_leaves_six_files_where_the_checkpoints_were(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1)
    study.worker().run()
    (trial,) = trials_of(study)

    assert sorted(files_of(trial)) == sorted(NAMES)
    left = {path.name for path in (Path(os.environ["OFFKEY_CACHE"]) / "artifacts").iterdir()}
    assert left == {path.name for path in files_of(trial).values()}


def no_picture() -> Sequence[Exhibit]:
    raise RuntimeError("CUDA out of memory")


def vanished_clip() -> Sequence[Exhibit]:
    return [Exhibit("a.flac", "audio/flac", Path("moved-away.wav").read_bytes())]


@pytest.mark.parametrize(("shows", "reason"), [(no_picture, "CUDA out of memory"), (vanished_clip, "moved-away.wav")])
def test_exhibits_that_cannot_be_drawn_are_logged_and_the_trial_ends_all_the_same(
    shows: Callable[[], Sequence[Exhibit]],
    reason: str,
    tiny_study: MakeStudy,
    scripted: type[Scripted],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(scripted, "aucs", (0.0, 1.0))
    monkeypatch.setattr(scripted, "shows", staticmethod(shows))
    trials = run(tiny_study(trials=2), scripted)

    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 2
    assert [files_of(trial) for trial in trials] == [{}, {}]
    assert caplog.text.count("has no pictures") == 2
    assert reason in caplog.text


def test_a_place_that_cannot_be_written_is_logged_and_the_trial_ends_all_the_same(
    tiny_study: MakeStudy, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    place = Path(os.environ["OFFKEY_CACHE"]) / "artifacts"

    def fill_the_place() -> Sequence[Exhibit]:
        # It took the checkpoints; from here on a file is where the folder was.
        place.rename(place.with_name("full"))
        place.write_text("in the way")
        return [Exhibit("a.png", "image/png", b"a picture")]

    monkeypatch.setattr(scripted, "aucs", (1.0,))
    monkeypatch.setattr(scripted, "shows", staticmethod(fill_the_place))
    (trial,) = run(tiny_study(trials=1), scripted)

    assert trial.state == TrialState.COMPLETE
    assert files_of(trial) == {}
    assert f"has no pictures: Exhibits in {place} cannot be written" in caplog.text
    assert "--artifacts or $OFFKEY_ARTIFACTS names another folder" in caplog.text


def test_the_same_trials_exhibits_have_the_same_ids_whoever_writes_them(tmp_path: Path) -> None:
    exhibit = Exhibit("1 ROC curves.png", "image/png", b"first")
    first = upload([exhibit], str(tmp_path), uid="0" * 32, number=3)
    again = upload([Exhibit(exhibit.name, exhibit.mimetype, b"second")], str(tmp_path), uid="0" * 32, number=3)
    others = [
        upload([exhibit], str(tmp_path), uid="1" * 32, number=3),
        upload([exhibit], str(tmp_path), uid="0" * 32, number=4),
        upload([Exhibit("2 scores.png", "image/png", b"")], str(tmp_path), uid="0" * 32, number=3),
    ]

    assert again == first
    assert len({key for attributes in [first, *others] for key in attributes}) == 4
    assert (tmp_path / next(iter(first)).removeprefix("artifacts:")).read_bytes() == b"second"


def test_a_trial_whose_worker_was_killed_right_before_its_end_has_its_exhibits_once(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "_POLL_SECONDS", 0.1)
    study = tiny_study(trials=1)
    with faulty(study, "between ledger and value", signal.SIGKILL, lease=1.0, real=True) as process:
        process.join(timeout=60)
        assert process.exitcode == -signal.SIGKILL
    (trial,) = trials_of(study)
    assert trial.state == TrialState.RUNNING
    left = {path.name for path in (Path(os.environ["OFFKEY_CACHE"]) / "artifacts").iterdir()}

    study.worker(lease=1.0).run()

    (trial,) = trials_of(study)
    assert trial.state == TrialState.COMPLETE
    assert sorted(files_of(trial)) == sorted(NAMES)
    written = {path.name for path in files_of(trial).values()}
    assert written <= left  # where the first worker had put them
    assert {path.name for path in (Path(os.environ["OFFKEY_CACHE"]) / "artifacts").iterdir()} == written


AUCS = {"AUC compressor/00", "AUC compressor/02", "AUC compressor/04"}
COSTS = {"seconds", "memory, MB", "device"}


def own(trial: FrozenTrial) -> set[str]:
    return set(trial.user_attrs) - {"threads", "precision", "repeat"}


def test_the_attributes_of_a_complete_and_a_pruned_trial(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    def may_be_pruned(trial: optuna.Trial) -> bool:
        return trial.number == 1

    monkeypatch.setattr("search.sampling.suggestions._Trial.should_prune", may_be_pruned)
    study = tiny_study(trials=2)
    began = time.time()
    study.worker().run()
    complete, pruned = trials_of(study)

    assert (complete.state, pruned.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    for trial in (complete, pruned):
        assert own(trial) == COSTS | AUCS
        assert np.mean([trial.user_attrs[name] for name in AUCS]) == pytest.approx(trial.value, abs=1e-4)
        assert 0 <= trial.user_attrs["seconds"] <= time.time() - began + 0.1
        assert trial.user_attrs["memory, MB"] > 0
        assert trial.user_attrs["device"]
    assert files_of(pruned) == {}


def test_the_attributes_of_a_failed_trial(tiny_study: MakeStudy) -> None:
    study = tiny_study(trials=1, training={"learning_rate": 1e30, "batch_size": 16, "epochs": 3, "threads": 1})
    study.worker().run()
    (trial,) = trials_of(study)

    assert trial.state == TrialState.PRUNED  # which teaches the sampler
    assert own(trial) == COSTS | {"failure"}
    assert "the loss diverged in epoch" in trial.user_attrs["failure"] or "not finite" in trial.user_attrs["failure"]
    assert files_of(trial) == {}


def test_a_trial_that_somebody_gave_an_attribute_of_that_name_ends_all_the_same(
    tiny_study: MakeStudy, scripted: type[Scripted], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = tiny_study(trials=1)

    def meddle() -> Sequence[Exhibit]:
        (trial,) = trials_of(study)
        study.storage.set_trial_user_attr(trial._trial_id, "device", "mine")
        return []

    monkeypatch.setattr(scripted, "aucs", (1.0,))
    monkeypatch.setattr(scripted, "shows", staticmethod(meddle))
    (trial,) = run(study, scripted)

    assert trial.state == TrialState.COMPLETE
    assert trial.user_attrs["device"] != "mine"


def test_drawing_says_nothing_in_the_log(corpus: Corpus, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    training = trained(recipe_with(), corpus)
    list(exhibits_of(training, training.validation_scores()))

    assert caplog.records == []
