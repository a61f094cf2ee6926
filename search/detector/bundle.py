"""A trained detector as a folder that needs nothing else, on a disk or in a bucket.

recipe.yaml           the recipe: `offkey train recipe.yaml` trains the same detector again
weights.safetensors   the model's arrays
scores.json           scores of the withheld clips, which set the thresholds, and of the test clips
detector.json         machine IDs, thresholds by machine/ID and the false-alarm rate that they aim at, versions, the
                      corpus's fingerprint, digests of all files but the model card
metrics.json          the validation and test metrics
README.md             the model card

A bundle is loaded only if its files are those that were written, and its numbers are finite. Bundles of earlier
versions have neither digests nor scores: they are loaded, and a warning says what they lack.

No file is a pickle: models of scikit-learn are stored as arrays beside the networks' arrays. Other versions of the
packages than those that wrote a bundle may score a little differently: `load_bundle` warns of them.
"""

from __future__ import annotations

import logging
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from features.errors import OffkeyError, StoreError
from models.labels import Labels
from models.member import Member
from models.scoring.scorer import Scorer, Single
from models.scoring.scorer_of_recipe import scorer_of
from search.artifacts.bucket import BucketFolder, bucket_of
from search.detector.bundle_files import NOT_AS_WRITTEN, DetectorFile, MetricsFile, not_whole, read_scores
from search.detector.detector import Detector
from search.detector.digests import COVERED, changed_file, file_digests
from search.detector.model_card import model_card
from search.detector.thresholds import ThresholdScores
from search.errors import BundleError, StudyError
from search.rescue import kept_elsewhere
from search.study.computation import COMPUTATION
from search.study.recipe import Recipe
from search.study.study_file import load_study, to_yaml

_log = logging.getLogger(__name__)

#: The order in which a bucket gets the files: detector.json comes last, since without it there is no bundle.
_FILES = ("README.md", "metrics.json", "recipe.yaml", "scores.json", "weights.safetensors", "detector.json")

#: The files of a bundle that an earlier version wrote.
_WITHOUT_DIGESTS = ("recipe.yaml", "weights.safetensors")

_NO_DIGESTS = (
    "{place} was written by an earlier Offkey: it has no digests, by which damage would be noticed, and no withheld "
    "scores, so its thresholds cannot be moved. Train its recipe again for both"
)

#: Packages whose version may change a score, in its last digits or more.
_PACKAGES = ("offkey", "torch", "timm", "numpy", "scipy", "librosa", "scikit-learn")


@dataclass(frozen=True)
class Bundle:
    """A loaded detector."""

    recipe: Recipe
    scorer: Scorer
    labels: Labels
    thresholds: dict[str, float]  # by machine/ID
    false_alarm_rate: float | None = None  # that the thresholds aim at; None if an early version wrote the bundle
    scores: ThresholdScores | None = None  # by which thresholds can be moved; None if an earlier version wrote it


def require_free(place: str | Path) -> None:
    """Raises BundleError if something exists where the bundle is to go, or if that cannot be checked.

    Nothing is ever overwritten.
    """
    try:
        is_free = not Path(place).exists() if bucket_of(place) is None else BucketFolder(place).is_empty()
    except (StoreError, StudyError) as error:
        raise BundleError(str(error)) from error
    if not is_free:
        raise BundleError(f"{place} exists already, and is left as it is. Choose another place (-o), or remove it.")


def save_bundle(detector: Detector, place: str | Path) -> None:
    """Writes the bundle, whole or not at all, to a folder or to `s3://BUCKET/PREFIX`.

    Raises BundleError if it cannot be written there, for example because another process has written there meanwhile.
    The bundle is then kept in a temporary folder of this host, and the error names it: hours of training are not lost
    with a disk or a connection.
    """
    try:
        require_free(place)
        if bucket_of(place) is None:
            _write_folder(detector, Path(place))
            return
    except BundleError as error:
        raise BundleError(f"{error}{_kept(detector, None if bucket_of(place) else Path(place))}") from error
    try:
        folder = Path(tempfile.mkdtemp(prefix="offkey-detector-"))
    except OSError as error:
        raise BundleError(f"{place} also needs a temporary folder on this host: {error}") from error
    try:
        _write_folder(detector, folder)
        BucketFolder(place).put(_FILES, folder)
    except (OSError, StoreError) as error:
        raise BundleError(f"{error}\nThe detector is kept in {folder}, to be copied from there.") from error
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _kept(detector: Detector, target: Path | None) -> str:
    def write(folder: Path) -> Path:
        _write_folder(detector, folder)
        return folder

    return kept_elsewhere("The detector", target, write)


def _write_folder(detector: Detector, folder: Path) -> None:
    """Writes the bundle to a folder that is missing or empty."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise BundleError(f"{folder} cannot be written: {error.strerror}") from error
    try:
        partial.chmod(0o755)
        _write_files(detector, partial)
        os.rename(partial, folder)
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{folder} cannot be written: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_files(detector: Detector, folder: Path) -> None:
    arrays = {name: array.contiguous() for name, array in detector.scorer.state_dict().items()}
    if (name := _not_finite(arrays)) is not None:
        raise BundleError(f"the detector is not written: {name} is not finite. Train it again with another seed")
    save_file(arrays, folder / "weights.safetensors")
    (folder / "weights.safetensors").chmod(0o644)  # as the other files: safetensors lets only the owner read it
    (folder / "recipe.yaml").write_text(to_yaml(detector.recipe.tree()))
    (folder / "metrics.json").write_text(MetricsFile.of(detector).text())
    (folder / "scores.json").write_text(detector.scores.model_dump_json())
    (folder / "detector.json").write_text(DetectorFile.of(detector, _versions(), file_digests(folder)).text())
    (folder / "README.md").write_text(model_card(detector))


def load_bundle(place: str | Path, *, tell: Callable[[str], None] = _log.warning) -> Bundle:
    """The bundle in a folder or at `s3://BUCKET/PREFIX`; `tell` is called with a warning if other versions wrote it.

    Raises BundleError if there is no complete bundle of a format known here, it cannot be read, a file is not the one
    that was written, or a number is not finite.
    """
    with opened_bundle(place) as (folder, details):
        if differing := _other_versions(details.versions):
            tell(f"{place} was written with {', '.join(differing)}: its scores may differ a little")
        if details.digests is None:
            tell(_NO_DIGESTS.format(place=place))
        recipe = load_study(folder / "recipe.yaml").first_recipe()
        return Bundle(
            recipe=recipe,
            scorer=_with_weights(recipe, details.labels, folder / "weights.safetensors", place).eval(),
            labels=details.labels,
            thresholds=details.thresholds,
            false_alarm_rate=details.false_alarm_rate,
            scores=None if details.digests is None else read_scores(folder / "scores.json", place),
        )


@contextmanager
def opened_bundle(place: str | Path) -> Iterator[tuple[Path, DetectorFile]]:
    """The files of a bundle in a folder on this host, and its detector.json; their digests are compared.

    Errors within that come from the files are raised as BundleError.
    """
    try:
        with _on_disk(place) as (folder, details):
            if details.digests is not None and (changed := changed_file(folder, details.digests)) is not None:
                raise not_whole(place, f"{changed} is {NOT_AS_WRITTEN}")
            yield folder, details
    except BundleError:
        raise
    except (OSError, OffkeyError) as error:
        raise not_whole(place, error) from error


def _with_weights(recipe: Recipe, labels: Labels, path: Path, place: str | Path) -> Scorer:
    try:
        scorer = scorer_of(recipe.member, labels, _untrained)
        arrays = load_file(path)
        if (name := _not_finite(arrays)) is not None:
            raise not_whole(place, f"{path.name}: {name} has numbers that are not finite")
        scorer.load_state_dict(arrays)
        return scorer
    except (RuntimeError, SafetensorError) as error:
        raise not_whole(place, f"{path.name}: {error}") from error


def _not_finite(arrays: Mapping[str, torch.Tensor]) -> str | None:
    """The name of the first array with a NaN or an infinity."""
    return next((name for name, array in arrays.items() if not torch.isfinite(array).all()), None)


@contextmanager
def _on_disk(place: str | Path) -> Iterator[tuple[Path, DetectorFile]]:
    """The folder itself, or a temporary folder with the files of the bucket that a detector is loaded from."""
    if bucket_of(place) is None:
        yield Path(place), DetectorFile.read(Path(place, "detector.json"), place)
        return
    with tempfile.TemporaryDirectory(prefix="offkey-detector-") as name:
        folder = Path(name)
        try:
            bucket = BucketFolder(place)
            bucket.fetch(["detector.json"], folder)
            details = DetectorFile.read(folder / "detector.json", place)
            bucket.fetch(_WITHOUT_DIGESTS if details.digests is None else COVERED, folder)
        except (StoreError, StudyError) as error:
            raise BundleError(str(error)) from error
        yield folder, details


def _untrained(member: Member, labels: Labels) -> Single:
    """A model whose weights are still to be loaded, including the limits of its bins."""
    untrained = member.model_copy(update={"model": member.model.to_be_loaded})
    return Single.fresh(untrained, labels, member.features.limits)


def _versions() -> dict[str, str]:
    """The versions that a score may depend on."""
    return {
        **{package: version(package) for package in _PACKAGES},
        "torch": torch.__version__,  # with the device that it was built for, such as +cu128
        "computation": str(COMPUTATION),
        "python": platform.python_version(),
    }


def _other_versions(written_by: Mapping[str, str]) -> list[str]:
    """The packages whose version differs here from the one in the bundle.

    Python is not compared, nor is the kind of device that a package was built for (what follows a +).
    """
    here = _versions()
    return [
        f"{name} {then} (here {here.get(name, '—')})"
        for name, then in written_by.items()
        if name != "python" and then.partition("+")[0] != here.get(name, "—").partition("+")[0]
    ]
