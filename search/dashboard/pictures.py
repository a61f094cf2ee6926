"""Pictures of a trial, as PNG files: its scores of normal and anomalous clips, and the reconstruction of one clip.

frames : (frames, bins) float32, dB.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from features.clips.clip import ANOMALY, NORMAL
from features.frames.framing import Frames
from models.scoring.scores import Scores
from search.evaluation.truth import Truth
from search.pages.colours import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION
from search.pages.media import empty_figure, png

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

#: No exhibit is larger than this (bytes): a larger picture is drawn coarser, a longer sound is cut.
MOST_BYTES = 1_000_000

_ID_COLOURS = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)


def roc_picture(by_id: Mapping[str, tuple[Scores, npt.NDArray[np.int64]]], aucs: Mapping[str, float]) -> bytes:
    """The ROC curve of each machine ID, from scores and labels by ID."""
    from sklearn.metrics import roc_curve

    figure = empty_figure(6.0, 5.5, layout="constrained")
    axes = figure.add_subplot()
    many = len(by_id) > len(_ID_COLOURS)
    for number, (name, (scores, labels)) in enumerate(by_id.items()):
        false_positives, true_positives, _ = roc_curve(labels, scores)
        colour = GREY if many else _ID_COLOURS[number]
        axes.plot(
            false_positives,
            true_positives,
            color=colour,
            lw=1 if many else 2,
            label=_plain(f"{name}: {aucs[name]:.3f}"),
        )
    axes.plot([0, 1], [0, 1], color=GREY, lw=1, ls="--")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    axes.set_aspect("equal")
    axes.set_title(f"Mean AUC {np.mean(list(aucs.values())):.3f} over {len(aucs)} machine IDs")
    if not many:
        axes.legend(title="AUC", loc="lower right", frameon=False)
    return png(figure, most_bytes=MOST_BYTES)


def score_picture(scores: Scores, truth: Truth) -> bytes:
    """Histograms of the clips' scores, normal and anomalous."""
    labels = np.array(truth.labels)
    figure = empty_figure(7.0, 4.0, layout="constrained")
    axes = figure.add_subplot()
    edges = np.histogram_bin_edges(scores, bins=min(40, max(10, len(scores) // 5)))
    for label, name, colour in ((NORMAL, "normal", BLUE), (ANOMALY, "anomalous", VERMILION)):
        chosen = scores[labels == label]
        axes.hist(chosen, bins=edges.tolist(), color=colour, alpha=0.6, label=f"{len(chosen)} {name} clips")
    axes.set(xlabel="score (higher is more anomalous)", ylabel="clips")
    axes.legend(frameon=False)
    return png(figure, most_bytes=MOST_BYTES)


def clip_picture(
    frames: Frames, reconstruction: Frames | None, *, frame_seconds: float, unit: str, title: str
) -> bytes:
    """A clip's frames, in their unit; below them the model's reconstruction, if it has one, and the difference.

    A single frame is drawn as a curve.
    """
    of_unit = f", {unit}" if unit else ""
    if len(frames) == 1:
        return _curves(frames, reconstruction, f"level{of_unit}", title)
    panels = [("sound", frames)] + ([] if reconstruction is None else [("reconstruction", reconstruction)])
    rows = len(panels) + (reconstruction is not None)
    figure = empty_figure(8.0, 1.0 + 2.1 * rows, layout="constrained")
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
    return png(figure, most_bytes=MOST_BYTES)


def _curves(frames: Frames, reconstruction: Frames | None, label: str, title: str) -> bytes:
    """A single frame, and its reconstruction if there is one, over the bins."""
    figure = empty_figure(8.0, 3.1, layout="constrained")
    axes = figure.add_subplot()
    axes.plot(frames[0], color=BLUE, lw=0.8, label="sound")
    if reconstruction is not None:
        axes.plot(reconstruction[0], color=VERMILION, lw=0.8, label="reconstruction")
        axes.legend(frameon=False)
    axes.set(xlabel="bin", ylabel=label)
    figure.suptitle(_plain(title), fontsize=10)
    return png(figure, most_bytes=MOST_BYTES)


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
    """The text with its $ escaped: matplotlib would take what is between two of them for a formula."""
    return text.replace("$", r"\$")
