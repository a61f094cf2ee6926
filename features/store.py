"""The frames of a whole corpus, computed once for a host and memory-mapped by everyone after.

    <cache>/frames/<key>/frames.npy     (frames, bins) float32: all clips one after another
    <cache>/frames/<key>/offsets.npy    (clips + 1,) int64: clip i holds rows offsets[i] to offsets[i + 1]
    <cache>/frames/<key>/store.json     what it was computed from, for people

The key is a digest of the feature settings and of the clips' contents, in order: whoever changes a clip or a
setting has another key, so that nothing stale is ever served. A store is built under a lock in a folder of
another name and then renamed: a builder killed in the middle leaves nothing that a reader could take for a store.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import platformdirs
from filelock import FileLock

from features.clip import Clip
from features.corpus import digest_of
from features.errors import CorpusError, StoreError
from features.logmel import Frames, LogMelSettings
from features.wav import waveform_of

#: Raised with each change to how frames are computed or laid out.
_FORMAT = 1

#: Clips computed by one task: enough to hide joblib's dispatch, few enough to share the cores evenly.
_CLIPS_PER_TASK = 8

#: Called with (clips done, clips in all) while a store is built.
Progress = Callable[[int, int], None]


def cache_folder() -> Path:
    """Where feature stores and checkpoints lie: $OFFKEY_CACHE, else the platform's cache folder."""
    return Path(os.environ.get("OFFKEY_CACHE") or platformdirs.user_cache_path("offkey"))


@dataclass(frozen=True)
class FrameStore:
    """Memory-mapped frames of some clips, in those clips' order."""

    frames: Frames  # (frames, bins), mapped
    offsets: npt.NDArray[np.int64]  # (clips + 1,)

    def of_clip(self, clip: int) -> Frames:
        """Frames of the clip at this position, (frames, bins)."""
        return self.frames[self.offsets[clip] : self.offsets[clip + 1]]


def open_store(clips: Sequence[Clip], features: LogMelSettings, *, progress: Progress | None = None) -> FrameStore:
    """The frame store of these clips under these settings, built first if nobody has.

    Any number of processes may ask at the same moment: one builds, the others wait and map its work.
    Raises StoreError if the store cannot be written, CorpusError if a clip is no longer what it was when the
    corpus was read; nothing half-written is left behind.
    """
    key = digest_of([str(_FORMAT), version("librosa"), features.model_dump_json(), *(clip.digest for clip in clips)])
    folder = cache_folder() / "frames" / key[:32]
    try:
        if not folder.exists():
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                if not folder.exists():
                    _build(folder, clips, features, progress)
        return FrameStore(
            # Copy on write: torch takes no read-only array, and what is written never reaches the file.
            frames=np.load(folder / "frames.npy", mmap_mode="c"),
            offsets=np.load(folder / "offsets.npy"),
        )
    except OSError as error:
        raise StoreError(_explain(error, folder)) from error


def _build(folder: Path, clips: Sequence[Clip], features: LogMelSettings, progress: Progress | None) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # a killed builder's; the lock is ours, so nobody writes there
    partial.mkdir()
    try:
        counts = [features.frame_count(clip.samples) for clip in clips]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        start_of_data = _write_header(partial / "frames.npy", (int(offsets[-1]), features.bins))
        row_bytes = features.bins * np.dtype(np.float32).itemsize
        tasks = [
            range(first, min(first + _CLIPS_PER_TASK, len(clips))) for first in range(0, len(clips), _CLIPS_PER_TASK)
        ]
        done = 0
        for finished in joblib.Parallel(n_jobs=_jobs(), prefer="threads", return_as="generator")(
            joblib.delayed(_write_clips)(
                partial / "frames.npy",
                [clips[i] for i in task],
                features,
                start_of_data + int(offsets[task.start]) * row_bytes,
            )
            for task in tasks
        ):
            done += finished
            if progress is not None:
                progress(done, len(clips))
        with (partial / "offsets.npy").open("wb") as file:
            np.save(file, offsets)
            file.flush()
            os.fsync(file.fileno())
        (partial / "store.json").write_text(
            json.dumps(
                {
                    "format": _FORMAT,
                    "features": features.model_dump(mode="json"),
                    "clips": [{"name": clip.name, "digest": clip.digest} for clip in clips],
                },
                indent=1,
            )
        )
        partial.rename(folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _jobs() -> int:
    """All cores, or a worker's share of them: OMP_NUM_THREADS, as for the arithmetic."""
    return int(os.environ.get("OMP_NUM_THREADS") or -1)


def _write_header(path: Path, shape: tuple[int, int]) -> int:
    """Starts an .npy file of this shape; returns where its data begin (bytes)."""
    with path.open("wb") as file:
        description = {
            "descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)),
            "fortran_order": False,
            "shape": shape,
        }
        np.lib.format.write_array_header_1_0(file, description)
        return file.tell()


def _write_clips(path: Path, clips: Sequence[Clip], features: LogMelSettings, position: int) -> int:
    """Computes and writes some neighbouring clips' frames; returns how many clips.

    Written, not mapped: on a full disk a write raises an error, while a mapped page kills the process.
    """
    with path.open("r+b") as file:
        file.seek(position)
        for clip in clips:
            file.write(features.frames(waveform_of(_contents(clip))).data)
        file.flush()
        os.fsync(file.fileno())
    return len(clips)


def _contents(clip: Clip) -> bytes:
    """The bytes that the clip's digest was taken of: others would be served as theirs ever after."""
    try:
        contents = clip.path.read_bytes()
    except OSError as error:
        raise CorpusError(f"{clip.path} can no longer be read ({error.strerror}).") from error
    if hashlib.sha256(contents).hexdigest() != clip.digest:
        raise CorpusError(f"{clip.path} changed after the corpus was read. Run again.")
    return contents


def _explain(error: OSError, folder: Path) -> str:
    what = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EFBIG: "the file would exceed the allowed size",
        errno.EACCES: "permission denied",
        errno.EROFS: "the file system is read-only",
    }.get(error.errno or 0, str(error))
    return f"The frame store in {folder.parent} cannot be written or read: {what}. $OFFKEY_CACHE names another folder."
