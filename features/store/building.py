"""The frames of a whole corpus, computed once and memory-mapped by everyone after.

    <cache>/frames/<key>/frames.npy      (frames, bins) float32: all clips one after another
    <cache>/frames/<key>/offsets.npy     (clips + 1,) int64: clip i holds rows offsets[i] to offsets[i + 1]
    <cache>/frames/<key>/checksums.npy   (clips,) uint32: CRC-32 of each clip's frames
    <cache>/frames/<key>/store.json      what it was computed from, for people; its time is that of the last use

The key is a digest of the feature settings and of the clips' contents, in order: with another clip or
setting the key differs, so that no stale frames are ever served. A stack of features is put together from the stores
of its parts, so that no feature is computed twice.

A store is built in a folder whose name nobody else has, and then renamed. Renaming is atomic on network folders
too, and builders of one key write the same files: a builder that finds the store there discards its own. Correctness
rests on that alone. The lock beside the store saves double work, where locks work.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import BinaryIO

import joblib
import numpy as np
from filelock import FileLock, Timeout

from features.clips.clip import Clip
from features.clips.verified_reading import read_clip
from features.disk_space import lack_of_space
from features.errors import StoreError
from features.frames.feature_settings import FeatureSettings
from features.frames.framing import Frames
from features.progress import Progress
from features.signs_of_life import sign_of_life, work_of_a_place
from features.store.files import (
    FORMAT,
    FrameStore,
    explain,
    frames_folder,
    key_of,
    last_written,
    map_store,
    partial_of,
    partials,
    stale,
    write_header,
)

_log = logging.getLogger(__name__)

#: Clips computed by one task: enough to hide joblib's dispatch, few enough to share the cores evenly.
_CLIPS_PER_TASK = 8

#: A process that waits for a builder looks this often, and builds itself after this long without a sign of life (s).
_LOOK_SECONDS, _SILENCE_SECONDS = 5.0, 120.0

#: Uses are noted at most once in this many seconds: a note is a write, perhaps to a server.
_NOTE_SECONDS = 3600.0


def open_store(clips: Sequence[Clip], features: FeatureSettings, *, progress: Progress | None = None) -> FrameStore:
    """The frame store of these clips under these settings, built first if nobody has.

    Any number of processes may ask at the same moment: one builds, the others wait and map its work.
    A store that lacks a file, or whose file is cut off, is built anew.
    Raises StoreError if the store cannot be written, CorpusError if a clip is no longer what it was when the corpus was
    read; nothing half-written is left behind.
    """
    with work_of_a_place():
        return _opened(clips, features, progress)


def _opened(clips: Sequence[Clip], features: FeatureSettings, progress: Progress | None) -> FrameStore:
    folder = frames_folder() / key_of(FORMAT, version("librosa"), features.key, [clip.digest for clip in clips])
    try:
        while True:  # until the store is mapped: it may be removed at any moment
            if folder.exists():
                with suppress(FileNotFoundError, StoreError):
                    store = map_store(folder)
                    _log.debug("frames of %d clips: mapped from %s", len(clips), folder)
                    _note_use(folder)
                    return store
            _build_in_turn(folder, clips, features, progress)
    except OSError as error:
        raise StoreError(explain(error, folder)) from error


def _is_whole(folder: Path) -> bool:
    try:
        map_store(folder)
    except (FileNotFoundError, StoreError):
        return False
    return True


def _remove(folder: Path) -> None:
    """Removes a store that cannot be mapped, if it is there. Whoever has mapped it before keeps what was there."""
    aside = partial_of(folder)
    with suppress(FileNotFoundError):  # `offkey cache prune` may have been quicker
        folder.rename(aside)
        _log.warning("the frame store %s lacks a file, or a part of one: it is built anew", folder)
        shutil.rmtree(aside, ignore_errors=True)


def _note_use(folder: Path) -> None:
    description = folder / "store.json"
    with suppress(OSError):  # a cache that may only be read serves all the same
        if time.time() - description.stat().st_mtime > _NOTE_SECONDS:
            os.utime(description)


def _build_in_turn(folder: Path, clips: Sequence[Clip], features: FeatureSettings, progress: Progress | None) -> None:
    """Builds a store, or waits for another who does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    frames_of: Callable[[int], Frames]
    stages = 1
    if features.is_derived:
        stages += len(features.parts)
        parts = [
            open_store(clips, part, progress=_stage(progress, number, stages))
            for number, part in enumerate(features.parts)
        ]

        def frames_of(clip: int) -> Frames:
            return features.combined([part.of_clip(clip) for part in parts])
    else:

        def frames_of(clip: int) -> Frames:
            # From the very bytes that the key is a digest of: the store serves them as this clip's from then on.
            return read_clip(clips[clip], lambda contents: features.frames(features.waveform(contents)))

    with _turn(folder):
        if not _is_whole(folder):
            _remove(folder)
            _build(folder, clips, features, frames_of, _stage(progress, stages - 1, stages))


def _stage(progress: Progress | None, number: int, stages: int) -> Progress | None:
    """Progress of one of several builds, each over all clips."""
    if progress is None:
        return None
    return lambda done, clips: progress(number * clips + done, stages * clips)


@contextmanager
def _turn(folder: Path) -> Iterator[None]:
    """Waits while another builds this store: until it is there, or the builder gives no sign of life.

    So a build goes on where the file system has no locks, and where a process never releases its lock.
    """
    lock = FileLock(f"{folder}.lock")
    signs, last_sign = _signs_of_life(folder), time.monotonic()
    with ExitStack() as held:
        while not _is_whole(folder) and time.monotonic() - last_sign < _SILENCE_SECONDS:
            try:
                held.enter_context(lock.acquire(timeout=_LOOK_SECONDS))
            except Timeout:
                before, signs = signs, _signs_of_life(folder)
                if signs != before:
                    last_sign = time.monotonic()
                    sign_of_life()  # of whoever builds for us
            except (OSError, NotImplementedError):
                break  # no locks here; if permission is missing, building reports it
            else:
                break
        yield


def _signs_of_life(folder: Path) -> set[tuple[Path, float]]:
    """A value that changes while a process builds this store. It is compared with itself only: hosts' clocks differ."""
    return {(partial, last_written(partial)) for partial in partials(folder)}


def _build(
    folder: Path,
    clips: Sequence[Clip],
    features: FeatureSettings,
    frames_of: Callable[[int], Frames],
    progress: Progress | None,
) -> None:
    partial = partial_of(folder)
    partial.mkdir()
    _log.debug("frames of %d clips: computing %s", len(clips), features.key)
    try:
        for other in stale(partials(folder), now=partial.stat().st_mtime):
            shutil.rmtree(other, ignore_errors=True)
        counts = [features.frames_of(clip) for clip in clips]
        offsets = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]).astype(np.int64)
        row_bytes = features.bins * np.dtype(np.float32).itemsize
        if lack := lack_of_space(partial, int(offsets[-1]) * row_bytes):
            raise StoreError(
                f"The frame store of {features.key} does not fit: {lack}. `offkey cache list` shows what lies there, "
                "`offkey cache prune --older-than 30` removes what no process has opened for 30 days, and "
                "$OFFKEY_CACHE names another folder."
            )
        frames_file = partial / "frames.npy"
        start_of_data = write_header(frames_file, (int(offsets[-1]), features.bins))
        checksums: list[int] = []
        for finished in joblib.Parallel(n_jobs=_jobs(), prefer="threads", return_as="generator")(
            joblib.delayed(_write_clips)(
                frames_file,
                start_of_data + int(offsets[first]) * row_bytes,
                frames_of,
                {clip: counts[clip] for clip in range(first, min(first + _CLIPS_PER_TASK, len(clips)))},
            )
            for first in range(0, len(clips), _CLIPS_PER_TASK)
        ):
            checksums += finished
            sign_of_life()
            if progress is not None:
                progress(len(checksums), len(clips))
        description = {
            "format": FORMAT,
            "librosa": version("librosa"),
            "key": features.key,
            "features": features.model_dump(mode="json"),
            "bins": features.bins,
            "frames": int(offsets[-1]),
            "clips": [{"name": clip.name, "digest": clip.digest} for clip in clips],
        }
        with _written(partial / "offsets.npy") as file:
            np.save(file, offsets)
        with _written(partial / "checksums.npy") as file:
            np.save(file, np.array(checksums, dtype=np.uint32))
        with _written(partial / "store.json") as file:
            file.write(json.dumps(description, indent=1).encode())
        _finish(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _finish(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError:
        if not folder.exists():
            raise
        shutil.rmtree(partial, ignore_errors=True)  # another process has written the same store first


def _jobs() -> int:
    """All cores, or a worker's share of them: OMP_NUM_THREADS, as for the arithmetic."""
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]  # one for each level of nested loops
    return int(threads) if threads.isdigit() and int(threads) > 0 else -1


def _write_clips(path: Path, position: int, frames_of: Callable[[int], Frames], counts: dict[int, int]) -> list[int]:
    """Computes and writes the frames of neighbouring clips; returns their checksums.

    They are written, not mapped: on a full disk a write raises an error, while a mapped page kills the process.
    """
    checksums = []
    with path.open("r+b") as file:
        file.seek(position)
        for clip, count in counts.items():
            frames = np.ascontiguousarray(frames_of(clip), dtype=np.float32)
            if len(frames) != count:  # they would be read as a neighbour's
                raise RuntimeError(f"{count} frames were expected of clip {clip}, but there are {len(frames)}")
            file.write(frames.data)
            checksums.append(zlib.crc32(frames.data))
        file.flush()
        os.fsync(file.fileno())
    return checksums


@contextmanager
def _written(path: Path) -> Iterator[BinaryIO]:
    """A file that is on the disk at the end."""
    with path.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
