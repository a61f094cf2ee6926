from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from features.cache import cache_folder
from features.clips.clip import Clip
from features.clips.corpus import read_corpus
from features.errors import CorpusError, StoreError
from features.frames.feature_settings import FeatureSettings
from features.store.building import open_store
from features.store.files import FrameStore, map_store
from features.store.upkeep import cached_stores, damage_of, remove_store, stale_folders, unfinished_folders

FEATURES = FeatureSettings(n_mels=16, n_fft=256, hop_length=128)

#: The first lines of scripts that open a store in a process of their own, FEATURES and clips at hand.
SCRIPT = """
import os, resource, signal, sys
from pathlib import Path
import features.store.building as store
from features.cache import cache_folder
from features.clips.corpus import read_corpus
from features.errors import StoreError
from features.frames.feature_settings import FeatureSettings

FEATURES = FeatureSettings(n_mels=16, n_fft=256, hop_length=128)
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


def assert_holds(store: FrameStore, clips: Sequence[Clip], features: FeatureSettings = FEATURES) -> None:
    assert len(store.offsets) == len(clips) + 1
    assert store.frames.shape == (store.offsets[-1], features.bins)
    for position, clip in enumerate(clips):
        expected = features.frames(features.waveform(clip.path.read_bytes()))
        np.testing.assert_array_equal(store.of_clip(position), expected)


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
    assert (told["frames"], told["bins"]) == open_store(clips, FEATURES).frames.shape
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
        other = FeatureSettings.model_validate(FEATURES.model_dump() | setting)
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
        (left,) = stores()
        assert left.suffix == ".partial"
        assert unfinished_folders() == [left]
        assert cached_stores() == []

        built: list[int] = []
        store = open_store(clips, FEATURES, progress=lambda done, of: built.append(done))
        assert len(built) == 3
        assert_holds(store, clips)
        assert len(cached_stores()) == 1

    def test_is_cleared_away_by_the_next_builder_of_the_same_store_once_nobody_has_written_to_it_for_an_hour(
        self, clips: tuple[Clip, ...], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        open_store(clips, FEATURES)
        (folder,) = stores()
        other = folder.with_name("0" * 32)
        old, young, of_another = (
            path.with_name(f"{path.name}.host-1-{name}.partial")
            for path, name in ((folder, "old"), (folder, "young"), (other, "old"))
        )
        for partial in (old, young, of_another):
            shutil.copytree(folder, partial)
        grow_old(old)
        grow_old(of_another)
        remove_store(folder)

        # Another host's clock may say what it likes: the file system's own counts.
        monkeypatch.setattr(time, "time", lambda: 0.0)
        open_store(clips, FEATURES)
        assert unfinished_folders() == sorted([young, of_another])
        assert stale_folders() == [of_another]


def grow_old(folder: Path, *, days: float = 1) -> None:
    """As if nobody had written there for so long."""
    then = time.time() - days * 86400
    for path in (folder, *folder.iterdir()):
        os.utime(path, (then, then))


class TestAStackOfFeatures:
    stack = FeatureSettings(kind="logmel+chroma", n_mels=16, n_fft=256, hop_length=128)
    standardised = FeatureSettings(kind="rms", n_fft=256, hop_length=128, normalize="clip")

    @pytest.mark.parametrize("features", [stack, standardised], ids=["stack", "standardised"])
    def test_is_made_of_its_parts_stores_and_never_of_the_files(
        self, root: Path, clips: tuple[Clip, ...], features: FeatureSettings
    ) -> None:
        expected = [features.frames(features.waveform(clip.path.read_bytes())) for clip in clips]
        for part in features.parts:
            open_store(clips, part)
        shutil.rmtree(root)
        store = open_store(clips, features)
        for position, frames in enumerate(expected):
            np.testing.assert_array_equal(store.of_clip(position), frames)

    def test_leaves_its_parts_stores_to_others(self, root: Path, clips: tuple[Clip, ...]) -> None:
        open_store(clips, self.stack)
        assert len(stores()) == 3
        shutil.rmtree(root)
        for part in self.stack.parts:
            assert open_store(clips, part).frames.shape[1] == part.bins
        open_store(clips, FeatureSettings.model_validate(self.stack.model_dump() | {"normalize": "clip"}))
        assert len(stores()) == 4

    def test_tells_its_progress_over_all_that_is_built(self, clips: tuple[Clip, ...]) -> None:
        seen: list[tuple[int, int]] = []
        open_store(clips, self.stack, progress=lambda done, of: seen.append((done, of)))
        done = [done for done, of in seen if of == 60]
        assert len(done) == len(seen) > 3
        assert done == sorted(set(done))
        assert done[-1] == 60


# Eight processes build four stores at once, each in another order; three of them are killed in the middle.
CROWD = """
import errno, random, time
from features.frames.feature_settings import FeatureSettings

KINDS = [
    FeatureSettings(kind=kind, n_mels=16, n_fft=256, hop_length=128, normalize=normalize)
    for kind, normalize in (("logmel", "none"), ("rms", "none"), ("logmel+rms", "none"), ("rms+logmel", "clip"))
]
FEATURES.frames(FEATURES.waveform(clips[0].path.read_bytes()))  # imports what is imported late

class NoLock:
    def __init__(self, path): pass
    def acquire(self, timeout): raise OSError(errno.ENOLCK, "No locks available")

if sys.argv[2] == "off":
    store.FileLock = NoLock

def work(number):
    chance = random.Random(number)
    left = 2 + number if number < 3 else 10**9

    def note(done, of):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(chance.uniform(0, 0.02))

    order = KINDS[number % 4:] + KINDS[: number % 4]
    for features in order:
        opened = store.open_store(clips, features, progress=note)
        assert opened.frames.shape[1] == features.bins

children = []
for number in range(8):
    child = os.fork()
    if child == 0:
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            work(number)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    children.append(child)
print([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
"""


@pytest.mark.parametrize("locks", ["on", "off"])
def test_a_crowd_of_builders_some_of_them_killed_makes_the_same_files_as_one_builder_with_locks_or_without(
    root: Path, clips: tuple[Clip, ...], tmp_path: Path, run_python: Callable[..., str],
    monkeypatch: pytest.MonkeyPatch, locks: str,
) -> None:  # fmt: skip
    ended = json.loads(run_python(SCRIPT + CROWD, root, locks))
    killed = ended.count(-signal.SIGKILL)
    assert sorted(ended) == [-signal.SIGKILL] * killed + [0] * (8 - killed)
    assert 1 <= killed <= 3  # whoever comes late may find nothing left to be killed at
    assert len(unfinished_folders()) <= killed
    crowd = {path.name: path for path in stores() if path.suffix != ".partial"}

    monkeypatch.setenv("OFFKEY_CACHE", str(tmp_path / "alone"))
    for kind, normalize in (("logmel+rms", "none"), ("rms+logmel", "clip")):
        settings = {"kind": kind, "n_mels": 16, "n_fft": 256, "hop_length": 128, "normalize": normalize}
        open_store(clips, FeatureSettings.model_validate(settings))
    alone = stores()
    assert [path.name for path in alone] == sorted(crowd)
    for folder in alone:
        for file in folder.iterdir():
            assert file.read_bytes() == (crowd[folder.name] / file.name).read_bytes()
        assert damage_of(crowd[folder.name]) == []


def test_who_finds_the_store_finished_by_another_throws_its_own_away(clips: tuple[Clip, ...], tmp_path: Path) -> None:
    open_store(clips, FEATURES)
    (folder,) = stores()
    others = Path(shutil.move(folder, tmp_path / "others"))

    def meanwhile(done: int, of: int) -> None:
        if done == of:
            others.rename(folder)

    assert_holds(open_store(clips, FEATURES, progress=meanwhile), clips)
    assert stores() == [folder]


class TestALockThatNobodyGivesBack:
    @pytest.fixture
    def folder(self, clips: tuple[Clip, ...], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        """A store's place, whose lock is held. Whoever waits loses patience after half a second."""
        monkeypatch.setattr("features.store.building._LOOK_SECONDS", 0.05)
        monkeypatch.setattr("features.store.building._SILENCE_SECONDS", 0.5)
        open_store(clips, FEATURES)
        (folder,) = stores()
        with Path(f"{folder}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield folder

    def test_stops_nobody(self, clips: tuple[Clip, ...], folder: Path) -> None:
        remove_store(folder)
        assert_holds(open_store(clips, FEATURES), clips)

    def test_is_waited_for_as_long_as_its_holder_gives_signs_of_life(
        self, clips: tuple[Clip, ...], folder: Path
    ) -> None:
        partial = folder.rename(folder.with_name(f"{folder.name}.another-1-0.partial"))

        def build_slowly() -> None:
            for second in range(1, 16):
                os.utime(partial / "frames.npy", (time.time() + second, time.time() + second))
                time.sleep(0.1)
            partial.rename(folder)

        other = threading.Thread(target=build_slowly)
        other.start()
        built: list[int] = []
        open_store(clips, FEATURES, progress=lambda done, of: built.append(done))
        other.join()
        assert built == []


def overwritten(path: Path, position: int) -> None:
    """Another byte at this position."""
    with path.open("r+b") as file:
        file.seek(position, os.SEEK_SET if position >= 0 else os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))


class TestDamage:
    @pytest.fixture
    def folder(self, clips: tuple[Clip, ...]) -> Path:
        open_store(clips, FEATURES)
        (folder,) = stores()
        return folder

    def test_is_found_in_the_clips_that_it_befell_and_in_no_others(self, clips: tuple[Clip, ...], folder: Path) -> None:
        assert damage_of(folder) == []
        overwritten(folder / "frames.npy", -1)
        start = (folder / "frames.npy").stat().st_size - open_store(clips, FEATURES).frames.nbytes
        overwritten(folder / "frames.npy", start)
        assert damage_of(folder) == [clips[0].name, clips[19].name]

    @pytest.mark.parametrize("file", ["frames.npy", "offsets.npy", "checksums.npy", "store.json"])
    @pytest.mark.parametrize("how", ["removed", "emptied", "halved", "one byte of its head", "one byte of its end"])
    def test_of_any_file_is_found(self, folder: Path, file: str, how: str) -> None:
        path = folder / file
        size = path.stat().st_size
        match how:
            case "removed":
                path.unlink()
            case "emptied":
                os.truncate(path, 0)
            case "halved":
                os.truncate(path, size // 2)
            case "one byte of its head":
                overwritten(path, 3)
            case "one byte of its end":
                overwritten(path, -2)
        assert damage_of(folder)

    def test_that_cannot_be_mended_is_an_error(
        self, clips: tuple[Clip, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (folder / "frames.npy").unlink()

        def read_only(*arguments: object) -> None:
            raise OSError(errno.EROFS, "Read-only file system")

        monkeypatch.setattr(Path, "rename", read_only)
        with pytest.raises(StoreError, match="read-only"):
            open_store(clips, FEATURES)

    @pytest.mark.parametrize("file", ["frames.npy", "offsets.npy"])
    @pytest.mark.parametrize("size", [None, 0, 100, 1000])
    def test_that_would_kill_a_reader_is_mended_by_building_the_store_anew(
        self, clips: tuple[Clip, ...], folder: Path, file: str, size: int | None
    ) -> None:
        whole = open_store(clips, FEATURES)
        path = folder / file
        if size is None:
            path.unlink()
        else:
            os.truncate(path, min(size, path.stat().st_size - 1))

        anew = open_store(clips, FEATURES)

        assert damage_of(folder) == []
        np.testing.assert_array_equal(anew.offsets, whole.offsets)
        assert stores() == [folder]


class TestTheLastUse:
    def test_is_noted_but_not_at_every_opening(self, clips: tuple[Clip, ...]) -> None:
        open_store(clips, FEATURES)
        (folder,) = stores()
        grow_old(folder, days=30)
        open_store(clips, FEATURES)
        (store,) = cached_stores()
        assert abs(store.used - time.time()) < 60
        open_store(clips, FEATURES)
        assert cached_stores() == [store]

    def test_of_a_stack_leaves_its_parts_as_they_are(self, clips: tuple[Clip, ...]) -> None:
        stack = FeatureSettings(kind="logmel+rms", n_mels=16, n_fft=256, hop_length=128)
        open_store(clips, stack)
        for folder in stores():
            grow_old(folder, days=30)
        open_store(clips, stack)
        kinds = [store.described["features"]["kind"] for store in cached_stores() if store.used > time.time() - 86400]
        assert kinds == ["logmel+rms"]


# Fills the disk, or sets a limit to the size of files; opens a store; mends what was wrong and opens it again.
ON_A_FULL_DISK = """
# Imported late, and then not from a full disk.
store.open_store(clips[:1], FEATURES)

whole = resource.getrlimit(resource.RLIMIT_FSIZE)
ballast = cache_folder() / "ballast"
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
print(sum(path.suffix != ".lock" for path in (cache_folder() / "frames").iterdir()))
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
        assert reason in message
        assert message.endswith("$OFFKEY_CACHE names another folder.")
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
            self.assert_is_explained_and_leaves_room_for_the_next(printed, "does not fit: ")
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
        (store,) = (open_folder / "cache/frames").glob("*/store.json")
        os.utime(store, (0, 0))  # its use would be noted
        for folder in (open_folder / "cache", open_folder / "cache/frames"):
            folder.chmod(0o555)
        assert run_python(SCRIPT + AS_NOBODY, open_folder / "sounds", open_folder / "cache") == "20 clips"


def test_frames_are_mapped_not_read(clips: tuple[Clip, ...]) -> None:
    store = open_store(clips, FEATURES)
    (folder,) = stores()
    assert f"{folder}/frames.npy" in Path("/proc/self/maps").read_text()
    assert store.frames.base is not None


def test_what_is_written_to_the_frames_never_reaches_the_file(clips: tuple[Clip, ...]) -> None:
    store = open_store(clips, FEATURES)
    store.frames[:] = 7
    assert_holds(open_store(clips, FEATURES), clips)


def test_a_store_may_be_larger_than_the_hosts_memory(tmp_path: Path) -> None:
    rows = 2 * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 512
    with (tmp_path / "frames.npy").open("wb") as file:  # one hole
        shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, 128)}
        np.lib.format.write_array_header_1_0(file, shape)
        file.truncate(file.tell() + rows * 512)
    np.save(tmp_path / "offsets.npy", np.array([0, rows - 1, rows]))
    store = map_store(tmp_path)
    assert store.of_clip(1).tolist() == [[0] * 128]


@pytest.mark.parametrize(("frames_of_memory", "ahead"), [(0.4, True), (0.6, False)])
def test_pages_are_read_ahead_unless_the_frames_fill_much_of_memory(
    clips: tuple[Clip, ...], monkeypatch: pytest.MonkeyPatch, frames_of_memory: float, ahead: bool
) -> None:
    open_store(clips, FEATURES)
    (folder,) = stores()
    size = (folder / "frames.npy").stat().st_size
    monkeypatch.setattr("features.store.files._memory", lambda: size / frames_of_memory)
    store = open_store(clips, FEATURES)
    mapped = Path("/proc/self/smaps").read_text().partition(f"{folder}/frames.npy")[2]
    flags = next(line for line in mapped.splitlines() if line.startswith("VmFlags:")).split()
    assert ("rr" in flags) is not ahead  # read at random
    assert len(store.frames) == store.offsets[-1]
