from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from features.clip import Clip
from features.corpus import read_corpus
from features.errors import CorpusError
from features.logmel import LogMelSettings
from features.store import FrameStore, cache_folder, open_store
from features.wav import read_waveform

FEATURES = LogMelSettings(n_mels=16, n_fft=256, hop_length=128)

#: The first lines of scripts that open a store in a process of their own, FEATURES and clips at hand.
SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
import features.store as store
from features.corpus import read_corpus
from features.errors import StoreError
from features.logmel import LogMelSettings

FEATURES = LogMelSettings(n_mels=16, n_fft=256, hop_length=128)
clips = read_corpus(Path(sys.argv[1])).clips
"""


@pytest.fixture
def root(tmp_path: Path, make_clips: Callable[..., Path]) -> Path:
    """20 clips: more than one task of a build takes."""
    return make_clips(tmp_path / "sounds", count=20)


@pytest.fixture
def clips(root: Path) -> tuple[Clip, ...]:
    return read_corpus(root).clips


def stores() -> list[Path]:
    """What lies in the cache beside locks: whole stores, and what was left of others."""
    return sorted(path for path in (cache_folder() / "frames").iterdir() if path.suffix != ".lock")


def assert_holds(store: FrameStore, clips: Sequence[Clip], features: LogMelSettings = FEATURES) -> None:
    assert len(store.offsets) == len(clips) + 1
    assert store.frames.shape == (store.offsets[-1], features.bins)
    for position, clip in enumerate(clips):
        np.testing.assert_array_equal(store.of_clip(position), features.frames(read_waveform(clip.path)))


def overwrite(clip: Clip, *, seed: int) -> None:
    """Other samples in a clip, as many, and its times set back to what they were."""
    times = clip.path.stat()
    noise = np.random.default_rng(seed).normal(0, 0.1, clip.samples)
    soundfile.write(clip.path, noise, clip.sample_rate, "PCM_16")
    os.utime(clip.path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (clip.path.stat().st_size, clip.path.stat().st_mtime_ns) == (times.st_size, times.st_mtime_ns)


def test_a_store_holds_the_frames_of_each_clip_in_the_order_asked_for(clips: tuple[Clip, ...]) -> None:
    assert_holds(open_store(clips, FEATURES), clips)
    some = [clips[17], clips[3], clips[11]]
    assert_holds(open_store(some, FEATURES), some)
    assert_holds(open_store(some[::-1], FEATURES), some[::-1])


def test_a_store_lies_in_the_cache_and_tells_people_what_it_was_computed_from(clips: tuple[Clip, ...]) -> None:
    assert cache_folder() == Path(os.environ["OFFKEY_CACHE"])
    open_store(clips, FEATURES)
    (folder,) = stores()
    told = json.loads((folder / "store.json").read_text())
    assert told["features"] == FEATURES.model_dump()
    assert told["clips"] == [{"name": clip.name, "digest": clip.digest} for clip in clips]


def test_progress_counts_up_to_all_clips_while_a_store_is_built(clips: tuple[Clip, ...]) -> None:
    seen: list[tuple[int, int]] = []
    open_store(clips, FEATURES, progress=lambda done, of: seen.append((done, of)))
    done = [done for done, of in seen if of == 20]
    assert len(done) == len(seen) > 1
    assert done == sorted(set(done))
    assert done[-1] == 20


def test_a_store_is_computed_once_even_for_a_copy_of_the_clips_elsewhere(
    root: Path, clips: tuple[Clip, ...], tmp_path: Path
) -> None:
    open_store(clips, FEATURES)
    copy = read_corpus(Path(shutil.copytree(root, tmp_path / "copy"))).clips
    shutil.rmtree(root)
    built: list[int] = []
    store = open_store(copy, FEATURES, progress=lambda done, of: built.append(done))
    assert built == []
    assert_holds(store, copy)


def test_six_processes_that_ask_at_the_same_moment_build_once(
    root: Path, clips: tuple[Clip, ...], tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
) -> None:
    script = """
build = store._build

def noted_build(*arguments):
    with open(sys.argv[2], "a") as log:
        log.write("built\\n")
    build(*arguments)

store._build = noted_build
print("ready", flush=True)
sys.stdin.readline()
print(float(store.open_store(clips, FEATURES).frames.sum(dtype="float64")))
"""
    processes = [start_python(SCRIPT + script, root, tmp_path / "log") for _ in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    printed = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 6
    assert (tmp_path / "log").read_text().splitlines() == ["built"]
    store = open_store(clips, FEATURES)
    assert_holds(store, clips)
    assert {float(line) for line in printed} == {float(store.frames.sum(dtype=np.float64))}


class TestNothingStaleIsServed:
    def test_when_a_clip_gets_other_samples_under_the_same_name_size_and_time(
        self, root: Path, clips: tuple[Clip, ...]
    ) -> None:
        before = open_store(clips, FEATURES)
        overwrite(clips[5], seed=99)
        changed = read_corpus(root).clips
        after = open_store(changed, FEATURES)
        assert_holds(after, changed)
        assert not np.array_equal(after.of_clip(5), before.of_clip(5))
        assert len(stores()) == 2

    @pytest.mark.parametrize(
        "setting", [{"n_mels": 17}, {"n_fft": 250}, {"hop_length": 127}, {"power": 1}, {"sample_rate": 16001}]
    )
    def test_when_a_setting_changes(self, clips: tuple[Clip, ...], setting: dict[str, int]) -> None:
        open_store(clips[:2], FEATURES)
        other = LogMelSettings.model_validate(FEATURES.model_dump() | setting)
        assert_holds(open_store(clips[:2], other), clips[:2], other)
        assert len(stores()) == 2

    def test_when_a_clip_changes_between_reading_the_corpus_and_the_build(self, clips: tuple[Clip, ...]) -> None:
        overwrite(clips[5], seed=99)
        with pytest.raises(CorpusError, match=rf"{clips[5].path} changed after the corpus was read"):
            open_store(clips, FEATURES)
        assert stores() == []

    def test_when_a_clip_vanishes_between_reading_the_corpus_and_the_build(self, clips: tuple[Clip, ...]) -> None:
        clips[5].path.unlink()
        with pytest.raises(CorpusError, match=rf"{clips[5].path} can no longer be read \(No such file or directory\)"):
            open_store(clips, FEATURES)
        assert stores() == []


class TestABuildThatEndsInTheMiddle:
    @pytest.mark.filterwarnings("ignore:.*tasks")  # joblib counts what was under way
    @pytest.mark.parametrize("ending", [KeyboardInterrupt, RuntimeError])
    def test_leaves_nothing_when_it_is_interrupted(self, clips: tuple[Clip, ...], ending: type[BaseException]) -> None:
        def stop(done: int, of: int) -> None:
            raise ending

        with pytest.raises(ending):
            open_store(clips, FEATURES, progress=stop)
        assert stores() == []

    def test_leaves_nothing_that_is_taken_for_a_store_when_it_is_killed_and_the_next_builds_the_whole(
        self, root: Path, clips: tuple[Clip, ...], start_python: Callable[..., subprocess.Popen[str]]
    ) -> None:
        script = "store.open_store(clips, FEATURES, progress=lambda done, of: os.kill(os.getpid(), signal.SIGKILL))"
        killed = start_python(SCRIPT + script, root)
        assert killed.wait() == -signal.SIGKILL
        assert [path.suffix for path in stores()] == [".partial"]

        built: list[int] = []
        store = open_store(clips, FEATURES, progress=lambda done, of: built.append(done))
        assert len(built) == 3
        assert_holds(store, clips)
        assert [path.suffix for path in stores()] == [""]


# Fills the disk, or sets a limit to the size of files; opens a store; mends what was wrong and opens it again.
ON_A_FULL_DISK = """
# Imported late, and then not from a full disk.
store.open_store(clips[:1], FEATURES)

whole = resource.getrlimit(resource.RLIMIT_FSIZE)
ballast = store.cache_folder() / "ballast"
if sys.argv[2] == "fill":
    try:
        with ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    except OSError:
        os.truncate(ballast, ballast.stat().st_size - 4096)
else:
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, whole[1]))
try:
    store.open_store(clips, FEATURES)
except StoreError as error:
    print(error)
print(sum(path.suffix != ".lock" for path in (store.cache_folder() / "frames").iterdir()))
ballast.unlink(missing_ok=True)
resource.setrlimit(resource.RLIMIT_FSIZE, whole)
print(store.open_store(clips, FEATURES).frames.shape[1])
"""


def on_small_disk(folder: Path) -> tuple[str, ...]:
    """Begins a command that has a disk of 256 kB in `folder`. Nobody else sees it, and it ends with the command."""
    user = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    mount = 'mount -t tmpfs -o size=256k tmpfs "$0" && exec "$@"'
    return ("unshare", "--mount", *user, "sh", "-c", mount, str(folder))


class TestAFullDisk:
    def assert_is_explained_and_leaves_room_for_the_next(self, printed: str, reason: str) -> None:
        message, left, bins = printed.splitlines()
        assert message == (
            f"The frame store in {cache_folder() / 'frames'} cannot be written or read: {reason}. "
            "$OFFKEY_CACHE names another folder."
        )
        assert left == "1"  # the first clip's store
        assert bins == "16"

    def test_by_a_limit_to_the_size_of_files(self, root: Path, run_python: Callable[..., str]) -> None:
        printed = run_python(SCRIPT + ON_A_FULL_DISK, root, "limit")
        self.assert_is_explained_and_leaves_room_for_the_next(printed, "the file would exceed the allowed size")

    def test_by_a_disk_without_room_or_where_none_may_be_mounted_by_a_limit(
        self, root: Path, run_python: Callable[..., str]
    ) -> None:
        cache_folder().mkdir()
        before = on_small_disk(cache_folder())
        if shutil.which("unshare") and subprocess.run([*before, "true"], capture_output=True).returncode == 0:
            printed = run_python(SCRIPT + ON_A_FULL_DISK, root, "fill", before=before)
            self.assert_is_explained_and_leaves_room_for_the_next(printed, "the disk is full")
            assert list(cache_folder().iterdir()) == []  # the disk was the script's own
        else:
            printed = run_python(SCRIPT + ON_A_FULL_DISK, root, "limit")
            self.assert_is_explained_and_leaves_room_for_the_next(printed, "the file would exceed the allowed size")


# Permissions: root may write everywhere, so that the stores are opened by nobody.
AS_NOBODY = """
store.open_store(clips[:1], FEATURES)  # imports what is imported late
become_nobody()
for cache in sys.argv[2:]:
    os.environ["OFFKEY_CACHE"] = cache
    try:
        opened = store.open_store(clips, FEATURES)
    except StoreError as error:
        print(error)
    else:
        print(len(opened.offsets) - 1, "clips")
"""


class TestACacheOfSomebodyElse:
    def test_without_write_permission_is_named_in_the_error(
        self, root: Path, open_folder: Path, run_python: Callable[..., str]
    ) -> None:
        caches = [open_folder / "empty", open_folder / "used"]
        (caches[1] / "frames").mkdir(parents=True, mode=0o555)
        for cache in caches:
            cache.mkdir(exist_ok=True)
            cache.chmod(0o555)
        assert run_python(SCRIPT + AS_NOBODY, root, *caches).splitlines() == [
            f"The frame store in {cache / 'frames'} cannot be written or read: permission denied. "
            "$OFFKEY_CACHE names another folder."
            for cache in caches
        ]

    def test_serves_what_is_built_already(
        self, root: Path, open_folder: Path, run_python: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shutil.copytree(root, open_folder / "sounds")
        with monkeypatch.context() as surroundings:
            surroundings.setenv("OFFKEY_CACHE", str(open_folder / "cache"))
            open_store(read_corpus(open_folder / "sounds").clips, FEATURES)
        for folder in (open_folder / "cache", open_folder / "cache/frames"):
            folder.chmod(0o555)
        assert run_python(SCRIPT + AS_NOBODY, open_folder / "sounds", open_folder / "cache") == "20 clips"


def test_frames_are_mapped_not_read(clips: tuple[Clip, ...]) -> None:
    assert isinstance(open_store(clips, FEATURES).frames, np.memmap)


def test_what_is_written_to_the_frames_never_reaches_the_file(clips: tuple[Clip, ...]) -> None:
    store = open_store(clips, FEATURES)
    store.frames[:] = 7
    assert isinstance(store.frames, np.memmap)
    store.frames.flush()
    assert_holds(open_store(clips, FEATURES), clips)
