"""A detector as one ONNX file, for any ONNX runtime: front end, networks, pooling and calibration.

`search.detector.onnx_network` describes its inputs and its output; batch and length are free. Its metadata:

    format          1
    recipe          its name
    offkey          the version that wrote it
    sample_rate     Hz
    channel         which channel of clips with several: its number from 0, or mean; empty for a detector of mono clips
    least_samples   how many samples a clip must have
    machine_ids     JSON, a list of machine/ID: the input is a position in it
    unknown_id      the input for an ID never trained on; empty if such clips get no score, or there is no input for IDs
    thresholds      JSON, machine/ID → the score above which a clip is called an anomaly
    false_alarm_rate   that the thresholds aim at; empty if the bundle does not say it
    false_alarm_rates  JSON, machine/ID → the rate by the withheld clips, and the ends of its 95 % interval;
                    {} if the bundle has no withheld scores
    units           JSON, of each input and output
    tolerance       how far a score may be from Offkey's own, as a share of it, or of the median score if that is larger
    difference      the largest such difference when the file was written

The file is written only if onnxruntime gives Offkey's own scores for noise and for machine sounds, for every machine
ID, for several clips at once and for a single one of another length. Sums in another order change the last digits of a
score; a wrong computation changes the first ones.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from features.clips.synthetic_corpus import FAULTS, MACHINE_IDS, SAMPLE_RATE, synthesize
from features.clips.wav import Waveform
from features.errors import first_line
from features.frames.feature_settings import FeatureSettings
from features.store.files import FrameStore
from models.labels import UNKNOWN
from models.recordings import Recordings
from search.detector.bundle import Bundle
from search.detector.onnx_network import DetectorNetwork, OnnxError
from search.rescue import kept_elsewhere

_FORMAT = "1"

#: How far a score may be from Offkey's own, as a share of it, or of the median score: calibrated ones come close to 0.
TOLERANCE = 1e-3

_UNITS = {
    "waveforms": "float32 (batch, samples), full scale is [-1, 1)",
    "machine_ids": "int64 (batch,), position in machine_ids",
    "scores": "float64 (batch,), higher is more anomalous",
}

#: A machine sound is synthesized at least this long: bursts in its background take a quarter of a second.
_LEAST_SECONDS = 0.5

_CPU = torch.device("cpu")


@dataclass(frozen=True)
class OnnxFile:
    """An ONNX file that was written."""

    sample_rate: int  # Hz
    takes_ids: bool  # whether there is an input for machine IDs
    difference: float  # the largest one of a score from Offkey's own, as a share of it


def export_onnx(bundle: Bundle, path: Path) -> OnnxFile:
    """Writes a detector as an ONNX file, whole or not at all. One that cannot be written is kept elsewhere.

    Raises OnnxError if packages are missing, `path` exists already, the detector has a part that cannot be exported, or
    the file's scores would not be Offkey's.
    """
    _require_packages()
    _require_free(path)
    bundle.scorer.to(_CPU)
    network = DetectorNetwork(bundle).eval()
    model = _exported(network, _trials(bundle, network)[0])
    difference = require_same_scores(bundle, model.SerializeToString())
    contents = _described(model, bundle, network, difference)
    try:
        _write(contents, path)
    except OnnxError as error:

        def keep(folder: Path) -> Path:
            (folder / path.name).write_bytes(contents)
            return folder / path.name

        raise OnnxError(f"{error}{kept_elsewhere('The detector', path, keep)}") from error
    return OnnxFile(bundle.recipe.features.sample_rate, network.takes_ids, difference)


def require_same_scores(bundle: Bundle, contents: bytes) -> float:
    """The largest difference between a score of an ONNX file and the detector's own, as a share of the latter.

    Raises OnnxError if it is above TOLERANCE.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(contents, options, providers=["CPUExecutionProvider"])
    difference = 0.0
    for trial in _trials(bundle, DetectorNetwork(bundle)):
        (scores,) = session.run(["scores"], trial.inputs)
        own = bundle.scorer.scores_of(_recordings(bundle, trial))
        sizes = np.maximum(np.abs(own), np.median(np.abs(own)) + np.finfo(np.float64).tiny)
        difference = max(difference, float(np.nan_to_num(np.abs(scores - own) / sizes, nan=np.inf).max()))
    if difference > TOLERANCE:
        raise OnnxError(
            f"no ONNX file is written: its scores in onnxruntime differ from Offkey's own by {difference:.1e} of them, "
            f"and {TOLERANCE:g} is allowed"
        )
    return difference


@dataclass(frozen=True)
class _Trial:
    """Clips of one length, and the machine IDs that they are taken for."""

    waveforms: npt.NDArray[np.float32]  # (clips, samples)
    ids: npt.NDArray[np.int64]  # (clips,)
    has_ids: bool  # whether the network has an input for them

    @property
    def inputs(self) -> dict[str, npt.NDArray[Any]]:
        return {"waveforms": self.waveforms} | ({"machine_ids": self.ids} if self.has_ids else {})


def _trials(bundle: Bundle, network: DetectorNetwork) -> list[_Trial]:
    """Two batches: every machine ID and every sound, a second longer than necessary; and one clip of least length."""
    ids = np.arange(network.least_id, network.id_count)
    shortest = _least_samples(bundle)
    sounds = _sounds(shortest + bundle.recipe.features.sample_rate)
    count = max(len(ids), len(sounds))
    waveforms = np.stack([sounds[index % len(sounds)] for index in range(count)])
    all_of_them = _Trial(waveforms, np.resize(ids, count), network.takes_ids)
    return [all_of_them, _Trial(waveforms[:1, :shortest], ids[-1:], network.takes_ids)]


def _sounds(samples: int) -> list[Waveform]:
    """Loud and faint noise, and machines without a fault and with each kind of fault: (samples,) each."""
    rng = np.random.default_rng(0)
    seconds = max(samples / SAMPLE_RATE, _LEAST_SECONDS) + 1 / SAMPLE_RATE
    machines = [
        synthesize(MACHINE_IDS[index % len(MACHINE_IDS)], rng, fault=fault, seconds=seconds)[:samples]
        for index, fault in enumerate((None, *FAULTS))
    ]
    noises = [rng.normal(0, deviation, samples) for deviation in (0.1, 1e-3)]
    return [sound.astype(np.float32) for sound in (*noises, *machines)]


def _least_samples(bundle: Bundle) -> int:
    """The number of samples that fill one window or crop with frames."""
    features = bundle.recipe.features
    frames = bundle.recipe.model.excerpt_frames(features.bins)
    return max((frames - 1) * features.hop_length + features.n_fft % 2, 1)


def _exported(network: DetectorNetwork, trial: _Trial) -> Any:
    """The network as an onnx.ModelProto, with free batch and length."""
    inputs = {name: torch.from_numpy(array) for name, array in trial.inputs.items()}
    free = {name: dict.fromkeys(range(tensor.dim()), torch.export.Dim.DYNAMIC) for name, tensor in inputs.items()}
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # of what torch will change within itself
            # strict=True: without it, `len` of a batch is taken for a constant. torch.onnx.export by itself would try
            # both, and print why one fails.
            traced = torch.export.export(network, tuple(inputs.values()), dynamic_shapes=free, strict=True)
            program = torch.onnx.export(
                traced, input_names=list(inputs), output_names=["scores"], dynamo=True, verbose=False
            )
    except RuntimeError as error:  # torch's errors about what it cannot export derive from it
        raise OnnxError(f"torch cannot write this network as ONNX: {first_line(error)}") from error
    assert program is not None
    return program.model_proto


def _recordings(bundle: Bundle, trial: _Trial) -> Recordings:
    """The clips as Offkey's own scorer takes them."""

    def store(features: FeatureSettings) -> FrameStore:
        frames = [features.frames(waveform) for waveform in trial.waveforms]
        return FrameStore(np.concatenate(frames), np.cumsum([0, *map(len, frames)]))

    count = len(trial.ids)
    return Recordings(
        store=store,
        positions=tuple(range(count)),
        paths=(Path("synthetic"),) * count,
        ids=tuple("" if index == UNKNOWN else bundle.labels.ids[index] for index in trial.ids),
        attributes=("",) * count,
        device=_CPU,
    )


def _described(model: Any, bundle: Bundle, network: DetectorNetwork, difference: float) -> bytes:
    """The bytes of the file, with its metadata."""
    import onnx

    features = bundle.recipe.features
    used = {*_UNITS} if network.takes_ids else {*_UNITS} - {"machine_ids"}
    onnx.helper.set_model_props(
        model,
        {
            "format": _FORMAT,
            "recipe": bundle.recipe.study,
            "offkey": version("offkey"),
            "sample_rate": str(features.sample_rate),
            "channel": "" if features.channel is None else str(features.channel),
            "least_samples": str(_least_samples(bundle)),
            "machine_ids": json.dumps(bundle.labels.ids),
            "unknown_id": str(UNKNOWN) if network.takes_ids and network.least_id == UNKNOWN else "",
            "thresholds": json.dumps(bundle.thresholds),
            "false_alarm_rate": "" if bundle.false_alarm_rate is None else f"{bundle.false_alarm_rate:g}",
            "false_alarm_rates": json.dumps(_false_alarm_rates(bundle)),
            "units": json.dumps({name: unit for name, unit in _UNITS.items() if name in used}),
            "tolerance": str(TOLERANCE),
            "difference": f"{difference:.1e}",
        },
    )
    contents: bytes = model.SerializeToString()
    return contents


def _false_alarm_rates(bundle: Bundle) -> dict[str, list[float]]:
    """For each machine ID what its threshold gives: the rate, and both ends of its interval."""
    rated = {} if bundle.scores is None else bundle.scores.rated(bundle.thresholds)
    return {name: [threshold.rate, *threshold.interval] for name, threshold in rated.items()}


def _write(contents: bytes, path: Path) -> None:
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise OnnxError(f"{path} cannot be written: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(contents)
        os.chmod(name, 0o644)
        _require_free(path)
        os.rename(name, path)
    except OSError as error:
        raise OnnxError(f"{path} cannot be written: {error.strerror}") from error
    finally:
        Path(name).unlink(missing_ok=True)


def _require_free(path: Path) -> None:
    if not path.parent.is_dir():
        raise OnnxError(f"{path} cannot be written: {path.parent} is not a folder")
    if os.path.lexists(path):
        raise OnnxError(f"{path} exists already, and is left as it is. Choose another file with -o, or remove it.")


def _require_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise OnnxError(f"an ONNX file needs {error.name}: pip install 'offkey[onnx]'") from error
