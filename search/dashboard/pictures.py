"""Pictures of a trial, as PNG files: how its scores part anomalies from normal clips, and what it made of one clip.

frames : (frames, bins) float32, dB.
"""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features.cache import cache_folder
from features.clips.clip import ANOMALY, NORMAL
from features.frames.framing import Frames
from search.evaluation.truth import Scores, Truth

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: No exhibit is larger (bytes): a picture that would be is drawn coarser, a sound cut off.
MOST_BYTES = 1_000_000

# Okabe and Ito's colours, told apart by everyone.
_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#888888"
_ID_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")


def roc_picture(by_id: Mapping[str, tuple[Scores, npt.NDArray[np.int64]]], aucs: Mapping[str, float]) -> bytes:
    """The ROC curve of each machine ID, from scores and labels by ID."""
    from sklearn.metrics import roc_curve

    figure = _figure(6.0, 5.5)
    axes = figure.add_subplot()
    many = len(by_id) > len(_ID_COLOURS)
    for number, (name, (scores, labels)) in enumerate(by_id.items()):
        false_positives, true_positives, _ = roc_curve(labels, scores)
        colour = _GREY if many else _ID_COLOURS[number]
        axes.plot(
            false_positives,
            true_positives,
            color=colour,
            lw=1 if many else 2,
            label=_plain(f"{name}: {aucs[name]:.3f}"),
        )
    axes.plot([0, 1], [0, 1], color=_GREY, lw=1, ls="--")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.set_title(f"Mean AUC {np.mean(list(aucs.values())):.3f} over {len(aucs)} machine IDs")
    if not many:
        axes.legend(title="AUC", loc="lower right", frameon=False)
    return _png(figure)


def score_picture(scores: Scores, truth: Truth) -> bytes:
    """Histograms of the clips' scores, normal and anomalous."""
    labels = np.array(truth.labels)
    figure = _figure(7.0, 4.0)
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges(scores, bins=min(40, max(10, len(scores) // 5)))
    for label, name, colour in ((NORMAL, "normal", _BLUE), (ANOMALY, "anomalous", _ORANGE)):
        chosen = scores[labels == label]
        axes.hist(chosen, bins=edges.tolist(), color=colour, alpha=0.6, label=f"{len(chosen)} {name} clips")
    axes.set(xlabel="score (higher is more anomalous)", ylabel="clips")
    axes.legend(frameon=False)
    return _png(figure)


def clip_picture(
    frames: Frames, reconstruction: Frames | None, *, frame_seconds: float, unit: str, title: str
) -> bytes:
    """A clip's frames, in their unit; below them what the model took it for, and what it found strange."""
    of_unit = f", {unit}" if unit else ""
    panels = [("sound", frames)] + ([] if reconstruction is None else [("reconstruction", reconstruction)])
    rows = len(panels) + (reconstruction is not None)
    figure = _figure(8.0, 1.0 + 2.1 * rows)
    all_axes = figure.subplots(rows, 1, sharex=True, squeeze=False)[:, 0]
    low, high = np.percentile(frames, [1, 99.5])
    extent = (0.0, len(frames) * frame_seconds, 0.0, float(frames.shape[1]))
    for axes, (name, shown) in zip(all_axes, panels, strict=False):
        _spectrogram(figure, axes, shown, extent, (low, high), "magma", f"{name}{of_unit}")
    if reconstruction is not None:
        difference = np.abs(frames - reconstruction)
        limits = (0.0, float(np.nanpercentile(difference, 99.5)) or 1.0)
        _spectrogram(figure, all_axes[-1], difference, extent, limits, "viridis", f"difference{of_unit}")
    all_axes[-1].set_xlabel("seconds")
    figure.suptitle(_plain(title), fontsize=10)
    return _png(figure)


def _spectrogram(
    figure: Figure,
    axes: Axes,
    frames: Frames,
    extent: tuple[float, float, float, float],
    limits: tuple[float, float],
    colours: str,
    label: str,
) -> None:
    image: AxesImage = axes.imshow(
        frames.T, origin="lower", aspect="auto", extent=extent, cmap=colours, vmin=limits[0], vmax=limits[1]
    )
    axes.set_ylabel("bin")
    figure.colorbar(image, ax=axes, label=label, pad=0.02)


def _plain(text: str) -> str:
    """Without formulas: between two $ of a file's name there is none."""
    return text.replace("$", r"\$")


def _figure(width: float, height: float) -> Figure:
    # Its font list takes seconds to make: kept where Offkey keeps what it computes, also without a home folder.
    os.environ.setdefault("MPLCONFIGDIR", str(cache_folder() / "matplotlib"))
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(figure: Figure) -> bytes:
    """Coarser where it would be too large: noise cannot be compressed."""
    for dpi in (100, 70, 50):
        file = io.BytesIO()
        figure.savefig(file, format="png", dpi=dpi)
        if len(file.getvalue()) <= MOST_BYTES:
            break
    return file.getvalue()
