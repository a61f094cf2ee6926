"""A detector as an ONNX file: the front end is librosa's, the network gives Offkey's scores, and so does the file."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import librosa
import numpy as np
import onnxruntime
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from features.clips.corpus import read_corpus
from features.clips.synthetic_corpus import synthesize
from features.clips.wav import Waveform
from features.frames.feature_settings import FeatureSettings
from features.frames.waveform_network import WaveformNetwork
from features.store.files import FrameStore
from features.windows.excerpts import Batch
from models.labels import Labels
from models.recordings import Recordings
from models.scoring.densities.each_id import DensityOfEachId
from models.scoring.scorer import Calibrated, Single
from models.scoring.scorer_of_recipe import scorer_of
from models.settings import STATISTICS, CropSettings, DensitySettings
from search.cli.detector.onnx import onnx
from search.detector.bundle import Bundle, load_bundle, save_bundle
from search.detector.onnx_export import TOLERANCE, require_same_scores
from search.detector.onnx_network import DetectorNetwork, OnnxError
from search.detector.scored_clips import clip_paths, score_clips
from search.study.recipe import Recipe
from tests.support.detectors import detector_of

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]

CPU = torch.device("cpu")
RNG = np.random.default_rng(0)
TONE = 0.9 * np.sin(2 * np.pi * 1234.5 * np.arange(9000) / 16000)

SOUNDS: dict[str, Waveform] = {
    "machine": synthesize("00", RNG, fault="rub", seconds=0.6).astype(np.float32),
    "noise": RNG.normal(0, 0.1, 7001).astype(np.float32),
    "faint noise": RNG.normal(0, 1e-6, 7000).astype(np.float32),
    "a tone beside 16-bit noise": (np.round(32767 * TONE) / 32768).astype(np.float32),
    "silence": np.zeros(6000, dtype=np.float32),
}

FEATURES: dict[str, dict[str, Any]] = {
    "as usual": {},
    "magnitudes": {"power": 1},
    "an odd n_fft": {"n_fft": 1023, "hop_length": 400, "n_mels": 64},
    "gaps between frames": {"n_fft": 256, "hop_length": 300, "n_mels": 20, "fmin": 50.0, "fmax": 4000.0},
}


def frames_by_network(features: FeatureSettings, waveform: Waveform) -> Any:
    with torch.inference_mode():
        return WaveformNetwork(features)(torch.from_numpy(waveform)[None])[0].numpy()


@pytest.mark.parametrize("sound", SOUNDS)
@pytest.mark.parametrize("setting", FEATURES)
def test_the_front_end_is_librosa_s_to_a_thousandth_of_a_decibel(setting: str, sound: str) -> None:
    features, waveform = FeatureSettings.model_validate(FEATURES[setting]), SOUNDS[sound]
    mel = librosa.feature.melspectrogram(
        y=waveform,
        sr=16000,
        n_fft=features.n_fft,
        hop_length=features.hop_length,
        n_mels=features.n_mels,
        fmin=features.fmin,
        fmax=features.highest_frequency,
        power=features.power,
    )
    to_db = librosa.power_to_db if features.power == 2 else librosa.amplitude_to_db

    np.testing.assert_allclose(frames_by_network(features, waveform), to_db(mel, top_db=None).T, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sound", SOUNDS)
def test_the_front_end_normalises_each_clip_as_the_store_does(sound: str) -> None:
    features = FeatureSettings(n_mels=40, normalize="clip")

    frames = features.frames(SOUNDS[sound])

    np.testing.assert_allclose(frames_by_network(features, SOUNDS[sound]), frames, rtol=0, atol=1e-4)


@given(samples=st.integers(1, 3000), n_fft=st.integers(16, 300), hop_length=st.integers(1, 400))
@settings(max_examples=30, deadline=None, database=None)
def test_the_front_end_makes_as_many_frames_of_any_clip(samples: int, n_fft: int, hop_length: int) -> None:
    features = FeatureSettings(n_fft=n_fft, hop_length=hop_length, n_mels=4)
    waveform = np.random.default_rng(samples).normal(0, 0.1, max(samples, n_fft % 2)).astype(np.float32)

    np.testing.assert_allclose(frames_by_network(features, waveform), features.frames(waveform), rtol=0, atol=1e-3)


#: Of each family, and of what is learnt around it: the `model:` and the `scoring:` block.
DETECTORS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "vae": ({"family": "vae"}, {}),
    "the worst window": ({"family": "vae"}, {"pooling": "max"}),
    "the worst windows": ({"family": "vae"}, {"pooling": "top", "top_share": 0.25}),
    "windows by rank": ({"family": "vae"}, {"pooling": "gwrp", "decay": 0.7}),
    "calibrated": ({"family": "vae"}, {"calibration": "z"}),
    "conditional": ({"family": "ae", "conditional": True}, {}),
    "per ID": ({"family": "ae", "per_id": True}, {}),
    "per ID, and a shared one": ({"family": "vae", "per_id": True, "unknown_id": "shared"}, {"calibration": "z"}),
    "a distance for each ID": (
        {"family": "ae", "per_id": True, "score": "mahalanobis", "unknown_id": "shared"},
        {},
    ),
    "a distance from the mean": ({"family": "ae", "score": "mahalanobis", "unknown_id": "shared"}, {}),
    "cae": ({"family": "cae", "frames": 32, "crop_hop": 9, "width": 2}, {}),
    "made": ({"family": "made", "components": 2, "orderings": 2}, {}),
    "group_made": ({"family": "group_made", "score": "last_frame", "conditional": True}, {}),
    "classifier": ({"family": "classifier", "frames": 16}, {"pooling": "max"}),
    "classifier of augmentations": (
        {"family": "classifier", "frames": 16, "classes": "augmentations", "loss": "arcface", "score": "softmax"},
        {},
    ),
    "nearest centre": (
        {"family": "classifier", "frames": 16, "classes": "attributes", "loss": "subcluster_adacos", "score": "cosine"},
        {"calibration": "z"},
    ),
    "nearest neighbours": ({"family": "classifier", "frames": 16, "spectrum": True, "score": "knn"}, {}),
    "stat": ({"family": "stat", "decay": 0.9, "score": "knn"}, {}),
    "stat by maxima": ({"family": "stat", "decay": 0}, {}),
    "standardised": ({"family": "stat", "standardize": True}, {}),
    "tied covariance": ({"family": "stat", "standardize": True, "covariance": "tied", "unknown_id": "shared"}, {}),
    "cosine distances": ({"family": "stat", "score": "knn", "distance": "cosine", "standardize": True}, {}),
    "exposure": ({"family": "stat", "score": "exposure", "standardize": True, "unknown_id": "shared"}, {}),
    "one-class SVM": ({"family": "vae", "score": "ocsvm", "nu": 0.3}, {"calibration": "z"}),
    **{f"stat, {name}": ({"family": "stat", "statistic": name, "share": 0.3}, {}) for name in STATISTICS},
    "stat, stacked and whitened": ({"family": "stat", "statistic": "quantile+maximum+change", "whiten": 7}, {}),
    "stat, whitened over more bands than there are": ({"family": "stat", "whiten": 81}, {}),
    "latents of quiet windows": ({"family": "ae", "score": "mahalanobis", "statistic": "quiet"}, {}),
    "latents of loud crops": (
        {"family": "cae", "frames": 32, "crop_hop": 9, "width": 2, "score": "knn", "statistic": "loud", "share": 0.4},
        {},
    ),
}

SMALL = {"context": 3, "h_dim": 16, "z_dim": 4}
LABELS = Labels.of([("pump/00", "slow"), ("pump/00", "fast"), ("pump/02", ""), ("pump/04", "")])


def bundle_of(model: dict[str, Any], scoring: dict[str, Any], **blocks: Any) -> Bundle:
    """A detector of untrained networks; its densities and calibration are fitted to random embeddings and scores."""
    small = {name: size for name, size in SMALL.items() if model["family"] in ("vae", "ae") or name in model}
    tree = {"study": "onnx", "features": {"n_mels": 32, "n_fft": 512}, "model": {**small, **model}, "scoring": scoring}
    recipe = Recipe.model_validate({**tree, **blocks})
    torch.manual_seed(0)
    scorer = scorer_of(
        recipe.member, LABELS, lambda member, labels: Single.fresh(member, labels, member.features.limits)
    )
    scorer.eval()
    rng = np.random.default_rng(0)
    for single in scorer.singles():
        if isinstance(single.densities, DensityOfEachId):
            count = len(single.labels.ids)
            points, ids = rng.normal(0, 1, (12 * count, embedding_size(single))), np.arange(12 * count) % count
            single.densities.fit(points, ids, faults=(2 * points[::-1], ids[::-1]))
    if isinstance(scorer, Calibrated):
        scorer.calibration.fit(rng.normal(0.02, 0.01, 12), np.arange(12) % 3)
    return Bundle(recipe=recipe, scorer=scorer, labels=LABELS, thresholds={"pump/00": 0.5})


def embedding_size(single: Single) -> int:
    """Values of the vector that a density judges."""
    model, bins = single.member.model, single.member.features.bins
    assert isinstance(model, DensitySettings)
    length = model.excerpt_frames(bins)
    zeros = torch.zeros(2, dtype=torch.int64)
    inputs = torch.zeros((2, 1, bins, length) if isinstance(model, CropSettings) else (2, length * bins))
    with torch.inference_mode():
        embedded = single.model.embed(Batch(inputs=inputs, clips=zeros, ids=zeros))
    return len(model.statistics) * embedded.shape[1]


def own_scores(bundle: Bundle, waveforms: list[Waveform], ids: list[str]) -> Any:
    def store(features: FeatureSettings) -> FrameStore:
        frames = [features.frames(waveform) for waveform in waveforms]
        return FrameStore(np.concatenate(frames), np.cumsum([0, *map(len, frames)]))

    count = len(waveforms)
    paths = (Path("random.wav"),) * count
    clips = Recordings(store, tuple(range(count)), paths, tuple(ids), ("",) * count, CPU)
    return bundle.scorer.scores_of(clips)


def scores_by_network(bundle: Bundle, waveforms: list[Waveform], indices: list[int]) -> Any:
    network = DetectorNetwork(bundle).eval()
    with torch.inference_mode():
        ids = [torch.tensor(indices)] if network.takes_ids else []
        return network(torch.from_numpy(np.stack(waveforms)), *ids).numpy()


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_network_gives_the_detector_s_own_scores(detector: str) -> None:
    bundle = bundle_of(*DETECTORS[detector])
    rng = np.random.default_rng(1)
    waveforms = [synthesize(name, rng, seconds=1.21).astype(np.float32) for name in ("00", "02", "04")]

    scores = scores_by_network(bundle, waveforms, [2, 0, 1])

    own = own_scores(bundle, waveforms, ["pump/04", "pump/00", "pump/02"])
    assert len(set(own)) == 3
    np.testing.assert_allclose(scores, own, rtol=1e-4)


@pytest.mark.parametrize(
    "detector", ["calibrated", "per ID, and a shared one", "a distance for each ID", "tied covariance"]
)
def test_a_machine_id_never_trained_on_is_scored_as_the_detector_scores_it(detector: str) -> None:
    bundle, waveform = bundle_of(*DETECTORS[detector]), SOUNDS["machine"]

    scores = scores_by_network(bundle, [waveform] * 2, [-1, 1])

    np.testing.assert_allclose(scores, own_scores(bundle, [waveform] * 2, ["", "pump/02"]), rtol=1e-4)
    assert scores[0] != scores[1]


@pytest.mark.parametrize("detector", ["conditional", "per ID", "classifier", "stat"])
def test_a_machine_id_that_the_detector_cannot_score_has_no_score(detector: str) -> None:
    scores = scores_by_network(bundle_of(*DETECTORS[detector]), [SOUNDS["machine"]] * 3, [-1, 3, 2])

    assert np.isnan(scores).tolist() == [True, True, False]


VAE = {"family": "vae"}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "other features": ({"features": {"kind": "logmel+chroma"}}, "features.kind: logmel .* this is logmel+chroma"),
    "a mixture": (
        {"model": {"family": "stat", "score": "gmm"}},
        "mahalanobis, knn, ocsvm and exposure .* model.score is gmm",
    ),
    "outliers": (
        {"model": {"family": "stat", "score": "lof"}},
        "mahalanobis, knn, ocsvm and exposure .* model.score is lof",
    ),
    "ranks": ({"scoring": {"calibration": "empirical"}}, "none and z .* this is empirical"),
    "an ensemble": (
        {"model": {"family": "fusion", "members": {"a": {"model": VAE}, "b": {"model": VAE}}}},
        "an ensemble cannot .* each of its members can",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_exported_is_refused_with_the_setting(what: str) -> None:
    blocks, message = REFUSED[what]
    recipe = Recipe.model_validate({"study": "onnx", "model": {**VAE, **SMALL}, **blocks})

    with pytest.raises(OnnxError, match=message.replace("+", r"\+")):
        DetectorNetwork(replace(bundle_of(*DETECTORS["vae"]), recipe=recipe))


@dataclass(frozen=True)
class Exported:
    """A trained detector's folder, and the file that `offkey onnx` wrote."""

    folder: Path
    file: Path

    @property
    def session(self) -> Any:
        return onnxruntime.InferenceSession(self.file, providers=["CPUExecutionProvider"])


@pytest.fixture(scope="module")
def exported(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    folder = tmp_path_factory.mktemp("onnx")
    recipe = Recipe.model_validate(
        {
            "study": "small",
            "features": {"n_mels": 32},
            "model": {"family": "group_made", "context": 3, "h_dim": 16, "orderings": "in_time"},
            "training": {
                "batch_size": 64,
                "epochs": 1,
                "precision": "bfloat16",  # which no score shows
                "calibration_share": 0.4,
                "seed": 0,
                "threads": 1,
            },
            "scoring": {"calibration": "z"},
        }
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(folder / "cache"))
        save_bundle(detector_of(recipe, read_corpus(corpus_root), CPU), folder / "detector")
        onnx(str(folder / "detector"), folder / "detector.onnx")
    return Exported(folder / "detector", folder / "detector.onnx")


def test_the_file_scores_and_decides_as_offkey_does(exported: Exported, corpus_root: Path) -> None:
    session = exported.session
    known = session.get_modelmeta().custom_metadata_map
    ids, thresholds = json.loads(known["machine_ids"]), json.loads(known["thresholds"])

    for row in score_clips(
        load_bundle(exported.folder), [*clip_paths([corpus_root / "compressor" / "test"])][::4], CPU
    ):
        waveform, sample_rate = soundfile.read(row.path, dtype="float32")
        name = f"{row.machine}/{row.machine_id}"
        inputs = {"waveforms": waveform[None], "machine_ids": np.array([ids.index(name)])}
        (scores,) = session.run(["scores"], inputs)
        assert str(sample_rate) == known["sample_rate"]
        assert scores == pytest.approx([row.score], rel=1e-3, abs=1e-4)
        assert int(scores[0] > thresholds[name]) == row.decision


def test_the_file_takes_any_number_of_clips_of_any_length(exported: Exported) -> None:
    session, bundle = exported.session, load_bundle(exported.folder)
    least = int(session.get_modelmeta().custom_metadata_map["least_samples"])
    for count, samples in ((1, least), (2, 5000), (5, 16001)):
        waveforms = [*np.random.default_rng(count).normal(0, 0.1, (count, samples)).astype(np.float32)]
        indices = np.arange(count) % 3

        (scores,) = session.run(["scores"], {"waveforms": np.stack(waveforms), "machine_ids": indices})

        own = own_scores(bundle, waveforms, [bundle.labels.ids[index] for index in indices])
        np.testing.assert_allclose(scores, own, rtol=TOLERANCE)


@pytest.mark.parametrize("missing", [1, 500])
def test_clips_that_do_not_fill_a_window_have_no_score(exported: Exported, missing: int) -> None:
    samples = int(exported.session.get_modelmeta().custom_metadata_map["least_samples"]) - missing

    (scores,) = exported.session.run(
        ["scores"], {"waveforms": np.full((2, samples), 0.1, np.float32), "machine_ids": np.array([0, 1])}
    )

    assert np.isnan(scores).all()


def test_the_file_says_what_it_takes_and_gives(exported: Exported) -> None:
    known = exported.session.get_modelmeta().custom_metadata_map

    assert known["recipe"] == "small"
    assert known["least_samples"] == "1024"  # two hops of 512 from the first of 3 frames to the last
    assert json.loads(known["machine_ids"]) == ["compressor/00", "compressor/02", "compressor/04"]
    assert json.loads(known["thresholds"]) == load_bundle(exported.folder).thresholds
    # Two clips of each machine ID were withheld: a third of all normal clips is above both, on average.
    interval = binomtest(0, 2).proportion_ci(0.95, method="exact")
    assert known["false_alarm_rate"] == "0.1"
    assert json.loads(known["false_alarm_rates"])["compressor/00"] == [1 / 3, interval.low, interval.high]
    assert (known["unknown_id"], known["channel"], float(known["tolerance"])) == ("-1", "", TOLERANCE)
    assert 0 <= float(known["difference"]) < TOLERANCE
    assert json.loads(known["units"]).keys() == {"waveforms", "machine_ids", "scores"}


def test_a_file_whose_scores_are_another_detector_s_is_refused(exported: Exported) -> None:
    bundle = load_bundle(exported.folder)
    weights = bundle.scorer.state_dict()
    bundle.scorer.load_state_dict(
        {name: 1.1 * kept if "network.last" in name else kept for name, kept in weights.items()}
    )

    with pytest.raises(OnnxError, match="differ from Offkey's own by .* and 0.001 is allowed"):
        require_same_scores(bundle, exported.file.read_bytes())


def test_nothing_is_written_over_a_file_that_is_there(exported: Exported, offkey: Offkey) -> None:
    Path("mine.onnx").write_text("mine")

    ran = offkey("onnx", exported.folder, "-o", "mine.onnx")

    assert (ran.code, ran.stdout) == (1, "")
    assert "mine.onnx exists already, and is left as it is" in ran.stderr
    assert Path("mine.onnx").read_text() == "mine"
    assert [path.name for path in exported.file.parent.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_is_not_there_is_no_place_for_the_file(exported: Exported, offkey: Offkey) -> None:
    ran = offkey("onnx", exported.folder, "-o", "nowhere/new.onnx")

    assert (ran.code, ran.stdout) == (1, "")
    assert "nowhere/new.onnx cannot be written: nowhere is not a folder" in ran.stderr


@pytest.mark.parametrize("package", ["onnx", "onnxruntime", "onnxscript"])
def test_a_package_that_is_missing_is_named_with_what_to_install(
    exported: Exported, offkey: Offkey, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)

    ran = offkey("onnx", exported.folder, "-o", "new.onnx")

    assert ran.code == 1
    assert re.search(rf"{package}\b.*: pip install 'offkey\[onnx\]'", ran.stderr)
    assert not Path("new.onnx").exists()
