from __future__ import annotations

import signal
import subprocess
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from features.clips.corpus import read_corpus
from features.clips.synthetic_corpus import FAULTS, MACHINE, MACHINE_IDS, SAMPLE_RATE, Sound, make_corpus, synthesize
from features.frames.feature_settings import FeatureSettings

FEATURES = FeatureSettings()


def small_corpus(root: Path, *, seed: int = 0) -> Path:
    make_corpus(root, train_clips=2, test_clips=1, seconds=0.5, seed=seed)
    return root


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.wav")}


def test_the_same_seed_writes_the_same_bytes(tmp_path: Path) -> None:
    assert contents(small_corpus(tmp_path / "one")) == contents(small_corpus(tmp_path / "other"))


def test_another_seed_writes_other_sounds_under_the_same_names(tmp_path: Path) -> None:
    one, other = (contents(small_corpus(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    assert one.keys() == other.keys()
    assert not set(one.values()) & set(other.values())


def test_no_two_clips_of_a_corpus_are_alike(corpus_root: Path) -> None:
    sounds = contents(corpus_root)
    assert len(set(sounds.values())) == len(sounds)


def test_a_corpus_reads_back_with_its_counts_labels_and_lengths(tmp_path: Path) -> None:
    make_corpus(tmp_path / "sounds", train_clips=3, test_clips=2, seconds=0.5)
    corpus = read_corpus(tmp_path / "sounds")
    assert corpus.unreadable == ()
    counts = Counter((clip.id_name, clip.split, clip.label) for clip in corpus.clips)
    assert counts == {
        (f"{MACHINE}/{machine_id}", split, label): count
        for machine_id in MACHINE_IDS
        for split, label, count in (("train", 0, 3), ("test", 0, 2), ("test", 1, 2))
    }
    assert {(clip.sample_rate, clip.samples) for clip in corpus.clips} == {(SAMPLE_RATE, SAMPLE_RATE // 2)}


def test_progress_counts_the_machine_ids(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    make_corpus(
        tmp_path / "sounds",
        train_clips=1,
        test_clips=1,
        seconds=0.3,
        progress=lambda done, of: seen.append((done, of)),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]


def sound(machine_id: str, fault: str | None, *, seed: int = 0) -> Sound:
    return synthesize(machine_id, np.random.default_rng(seed), fault=fault, seconds=1.0)


@pytest.mark.parametrize("machine_id", MACHINE_IDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_changes_the_sound_audibly_but_faintly(
    fault: str, machine_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    faulty, healthy = sound(machine_id, fault), sound(machine_id, None)
    assert not np.array_equal(faulty, healthy)
    # The hall is drawn after the fault and so differs as well: the fault alone is what its silence takes away.
    audible = FAULTS[fault]
    monkeypatch.setitem(FAULTS, fault, lambda *drawn: 0 * audible(*drawn))
    assert 0.1 < np.std(faulty - sound(machine_id, fault)) / np.std(healthy) < 0.5


@pytest.mark.parametrize("machine_id", MACHINE_IDS)
@pytest.mark.parametrize("fault", [None, *FAULTS])
def test_sounds_keep_clear_of_full_scale_and_are_finite(fault: str | None, machine_id: str) -> None:
    for seed in range(3):
        peak = np.abs(sound(machine_id, fault, seed=seed)).max()
        assert 0.01 < peak < 1


def test_machine_ids_differ_more_than_the_clips_of_one() -> None:
    # (IDs, clips, bands): levels over a whole clip
    levels = np.array(
        [
            [FEATURES.frames(sound(machine_id, None, seed=seed).astype(np.float32)).mean(axis=0) for seed in range(4)]
            for machine_id in MACHINE_IDS
        ]
    )
    spread = np.linalg.norm(levels - levels.mean(axis=1, keepdims=True), axis=-1).mean()
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.linalg.norm(levels[one].mean(axis=0) - levels[other].mean(axis=0)) > spread


class TestACorpusThatIsKilledInTheMiddle:
    script = """
import os, signal, sys
from pathlib import Path
from features.clips.synthetic_corpus import make_corpus

make_corpus(
    Path(sys.argv[1]), train_clips=2, test_clips=1, seconds=0.5,
    progress=lambda done, of: os.kill(os.getpid(), signal.SIGKILL),
)
"""

    def test_is_not_at_its_root_and_the_next_is_whole(
        self, tmp_path: Path, start_python: Callable[..., subprocess.Popen[str]]
    ) -> None:
        root = tmp_path / "sounds"
        assert start_python(self.script, root).wait() == -signal.SIGKILL
        assert not root.exists()

        small_corpus(root)
        assert contents(root) == contents(small_corpus(tmp_path / "undisturbed"))
        assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".partial")] == []
