from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from features.clips.corpus import Corpus, Unreadable, read_corpus
from features.digests import digest_of
from features.errors import CorpusError

TRAIN = "fan/train/normal_id_00_00000000.wav"
TEST = "fan/test/anomaly_id_00_00000000.wav"


def make_tree(root: Path, *names: str, sample_rate: int = 16000) -> Path:
    """Writes a wav file of 100 samples at each of the names below `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(list(os.fsencode(name))).integers(-99, 99, 100).astype(np.int16)
        with path.open("wb") as file:
            soundfile.write(file, samples, sample_rate, "PCM_16", format="WAV")
    return root


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "sounds"


DEVELOPMENT, ADDITIONAL, EVALUATION = "development", "additional", "evaluation"
PLACES = {
    # name below the root → (machine, ID, split, label, source, domain)
    "fan/train/normal_id_00_00000000.wav": ("fan", "00", "train", 0, DEVELOPMENT, None),
    "fan/test/normal_id_00_00000001.wav": ("fan", "00", "test", 0, DEVELOPMENT, None),
    "fan/test/anomaly_id_02_00000000.wav": ("fan", "02", "test", 1, DEVELOPMENT, None),
    "fan/test/Monday.WAV": ("fan", "00", "test", None, DEVELOPMENT, None),
    "dev_data/pump/train/section_00_source_train_normal_0000.wav": ("pump", "00", "train", 0, DEVELOPMENT, "source"),
    "dev_data/pump/test/section_01_target_test_anomaly_0003.wav": ("pump", "01", "test", 1, DEVELOPMENT, "target"),
    "dev_data/pump/source_test/section_02_0001.wav": ("pump", "02", "test", None, DEVELOPMENT, "source"),
    "dev_data/pump/target_test/section_02_0001.wav": ("pump", "02", "test", None, DEVELOPMENT, "target"),
    "eval_data/pump/train/section_03_target_train_normal_0000.wav": ("pump", "03", "train", 0, ADDITIONAL, "target"),
    "eval_data/pump/test/section_03_0000.wav": ("pump", "03", "test", None, EVALUATION, None),
    "eval_data/pump/test/normal_id_05_00000000.wav": ("pump", "05", "test", 0, EVALUATION, None),
    "eval_data/pump/supplemental/section_00_noise_0000.wav": ("pump", "00", "supplemental", None, ADDITIONAL, None),
    "dev_data/pump/supplemental/section_00_machine_0000.wav": ("pump", "00", "supplemental", None, DEVELOPMENT, None),
    "dev_data/raw/pump/train/section_00_0000.wav": ("pump", "00", "train", 0, DEVELOPMENT, None),
    "eval_data/raw/valve/test/section_00_0000.wav": ("valve", "00", "test", None, EVALUATION, None),
    "eval_data/raw/fan/test_rename/section_00_source_test_normal_0000.wav": (
        "fan",
        "00",
        "test",
        0,
        EVALUATION,
        "source",
    ),
    "raw/train/hum.wav": ("raw", "00", "train", 0, DEVELOPMENT, None),
    # By the data set's rule training clips are normal, whatever they are called.
    "fan/train/anomaly_id_00_00000009.wav": ("fan", "00", "train", 0, DEVELOPMENT, None),
    "fan/train/hum.wav": ("fan", "00", "train", 0, DEVELOPMENT, None),
}


@pytest.mark.parametrize(("name", "expected"), PLACES.items())
def test_a_clips_place_and_name_say_what_it_is(root: Path, name: str, expected: tuple[object, ...]) -> None:
    (clip,) = read_corpus(make_tree(root, name)).clips
    assert (clip.name, clip.path) == (name, root / name)
    assert (clip.machine, clip.machine_id, clip.split, clip.label, clip.source, clip.domain) == expected
    assert (clip.sample_rate, clip.samples, clip.channels) == (16000, 100, 1)


def test_clips_come_in_the_order_of_their_names_and_all_are_there(root: Path) -> None:
    corpus = read_corpus(make_tree(root, *PLACES))
    assert [clip.name for clip in corpus.clips] == sorted(PLACES)
    assert corpus.machines == ["fan", "pump", "raw", "valve"]
    assert (corpus.unreadable, corpus.warnings) == ((), ())


def test_a_missing_root_is_named_with_the_layout_that_was_expected(root: Path) -> None:
    with pytest.raises(CorpusError, match=r"sounds does not exist.*<machine>/{train,test}"):
        read_corpus(root)


def test_a_file_is_no_root(root: Path) -> None:
    root.write_bytes(b"")
    with pytest.raises(CorpusError, match="sounds is not a folder"):
        read_corpus(root)


@pytest.mark.parametrize("names", [(), ("fan/train/notes.txt",)], ids=["empty", "no wav files"])
def test_a_root_without_wav_files_is_refused(root: Path, names: tuple[str, ...]) -> None:
    root.mkdir()
    make_tree(root, *names)
    with pytest.raises(CorpusError, match="No wav file below .*sounds"):
        read_corpus(root)


@pytest.mark.parametrize(
    "name",
    [
        "clip.wav",
        "fan/clip.wav",
        "train/clip.wav",
        "dev_data/raw/clip.wav",
        "fan/validation/clip.wav",
        "fan/train/old/clip.wav",
        "a/b/c/d.wav",
    ],
)
def test_a_clip_elsewhere_than_in_train_or_test_is_listed(root: Path, name: str) -> None:
    corpus = read_corpus(make_tree(root, TRAIN, name))
    assert [clip.name for clip in corpus.clips] == [TRAIN]
    (stray,) = corpus.unreadable
    assert stray.name == name
    assert stray.reason.startswith("not where a clip is looked for")


def test_an_unreadable_clip_is_listed_with_the_reason_and_the_others_are_read(root: Path) -> None:
    make_tree(root, TRAIN, TEST)
    (root / "fan/train/cut.wav").write_bytes((root / TRAIN).read_bytes()[:-50])
    (root / "fan/test/empty.wav").touch()
    (root / "fan/test/nowhere.wav").symlink_to(root / "gone.wav")
    (root / "fan/test/round.wav").symlink_to(root / "fan/test/round.wav")
    (root / "fan/train/folder.wav").mkdir()
    os.mkfifo(root / "fan/train/pipe.wav")
    corpus = read_corpus(root)
    assert [clip.name for clip in corpus.clips] == [TEST, TRAIN]
    assert corpus.unreadable == (
        Unreadable("fan/test/empty.wav", "the file is empty (0 bytes)"),
        Unreadable("fan/test/nowhere.wav", "cannot be opened (No such file or directory)"),
        Unreadable("fan/test/round.wav", "cannot be opened (Too many levels of symbolic links)"),
        Unreadable("fan/train/cut.wav", "cut off: its header promises 50 bytes more than the file holds"),
        Unreadable("fan/train/folder.wav/", "a folder, not a wav file"),
        Unreadable("fan/train/pipe.wav", "not a file, but a folder, a pipe or a device"),
    )
    with pytest.raises(CorpusError, match=r"6 of the wav files in .*\n  fan/test/empty.wav: the file is empty"):
        corpus.require_readable()


def test_many_unreadable_clips_are_counted_not_poured_out(root: Path) -> None:
    make_tree(root, TRAIN)
    for number in range(9):
        (root / f"fan/train/{number}.wav").touch()
    with pytest.raises(CorpusError, match="9 of the wav files") as caught:
        read_corpus(root).require_readable()
    assert "fan/train/4.wav" in str(caught.value)
    assert "fan/train/5.wav" not in str(caught.value)
    assert "… and 4 more" in str(caught.value)


def test_a_corpus_of_unreadable_clips_alone_is_refused_with_the_reasons(root: Path) -> None:
    (root / "fan/train").mkdir(parents=True)
    (root / "fan/train/a.wav").touch()
    with pytest.raises(
        CorpusError, match=r"None of the 1 wav files .* can be used:\n  fan/train/a.wav: the file is emp"
    ):
        read_corpus(root)


def test_clips_of_several_channels_and_any_rate_or_width_are_listed(root: Path) -> None:
    make_tree(root, TRAIN)
    for number, (subtype, rate, channels) in enumerate(
        [("PCM_U8", 16000, 1), ("PCM_24", 16000, 8), ("PCM_32", 44100, 2), ("FLOAT", 16000, 1), ("DOUBLE", 8000, 3)]
    ):
        soundfile.write(root / f"fan/train/{number}.wav", np.full((50, channels), 0.25), rate, subtype)
    corpus = read_corpus(root)
    assert corpus.unreadable == ()
    assert [(clip.sample_rate, clip.channels, clip.samples) for clip in corpus.clips] == [
        (16000, 1, 50), (16000, 8, 50), (44100, 2, 50), (16000, 1, 50), (8000, 3, 50), (16000, 1, 100),
    ]  # fmt: skip


def test_names_of_no_pattern_and_of_no_utf8_are_read(root: Path) -> None:
    names = [os.fsdecode(b"L\xfcfter/train/1.wav"), "fan [red]/test/pump 3, Monday.wav", "fan/train/.wav"]
    corpus = read_corpus(make_tree(root, *names))
    assert [clip.name for clip in corpus.clips] == sorted(names)
    assert {clip.machine_id for clip in corpus.clips} == {"00"}


def test_renamed_copies_of_the_evaluation_clips_are_read_in_place_of_these(root: Path) -> None:
    make_tree(
        root,
        "eval_data/raw/fan/test/section_00_0000.wav",
        "eval_data/raw/fan/test_rename/section_00_source_test_anomaly_0000_x_1.wav",
        "eval_data/raw/pump/test/section_00_0000.wav",
    )
    corpus = read_corpus(root)
    assert [(clip.machine, clip.label) for clip in corpus.clips] == [("fan", 1), ("pump", None)]
    assert corpus.warnings == ("1 clips in test are read in test_rename, where names have labels",)


def test_progress_is_told_to_the_last_file(root: Path) -> None:
    calls: list[tuple[int, int]] = []
    read_corpus(make_tree(root, TRAIN, TEST), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 2), (2, 2)]


def test_all_readable_is_no_error(root: Path) -> None:
    read_corpus(make_tree(root, TRAIN, TEST)).require_readable()


# Permissions: root may read everything, so that the reading is done by nobody, in a process of its own.
AS_NOBODY = """
import sys
from pathlib import Path
from features.clips.corpus import read_corpus

root = Path(sys.argv[1])
read_corpus(root)  # imports what is imported late
become_nobody()
corpus = read_corpus(root)
print(*(clip.name for clip in corpus.clips), sep="\\n")
print(*(f"{u.name}: {u.reason}" for u in corpus.unreadable), sep="\\n")
"""


def test_files_and_folders_without_read_permission_are_listed(
    open_folder: Path, run_python: Callable[..., str]
) -> None:
    make_tree(open_folder, TRAIN, TEST, "pump/train/normal_id_00_00000000.wav")
    (open_folder / TEST).chmod(0)
    (open_folder / "pump/train").chmod(0)
    assert run_python(AS_NOBODY, open_folder).splitlines() == [
        TRAIN,
        "pump/train/: cannot be opened (Permission denied)",
        f"{TEST}: cannot be opened (Permission denied)",
    ]


def test_a_loop_of_symbolic_links_ends(root: Path) -> None:
    make_tree(root, TRAIN)
    (root / "fan/train/again").symlink_to(root / "fan")
    (root / "fan/test").symlink_to(root)
    (root / "itself").symlink_to(root / "itself")
    assert [clip.name for clip in read_corpus(root).clips] == [TRAIN]


def test_linked_machines_are_read_and_none_twice(root: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    make_tree(elsewhere, TRAIN)
    root.mkdir(exist_ok=True)
    (root / "fan").symlink_to(elsewhere / "fan")
    (root / "the_same_fan").symlink_to(elsewhere / "fan")
    assert [clip.name for clip in read_corpus(root).clips] == [TRAIN]


def test_a_linked_root_is_read(root: Path, tmp_path: Path) -> None:
    make_tree(root, TRAIN)
    (tmp_path / "link").symlink_to(root)
    assert [clip.name for clip in read_corpus(tmp_path / "link").clips] == [TRAIN]


class TestFingerprint:
    def test_is_the_same_for_a_copy_elsewhere(self, root: Path, tmp_path: Path) -> None:
        make_tree(root, *PLACES)
        copy = tmp_path / "other" / "name"
        shutil.copytree(root, copy, copy_function=shutil.copyfile)
        assert read_corpus(copy).fingerprint == read_corpus(root).fingerprint

    @pytest.mark.parametrize("position", [50, -1], ids=["in the middle", "at the end"])
    def test_differs_when_one_byte_of_a_clip_does(self, root: Path, position: int) -> None:
        before = read_corpus(make_tree(root, TRAIN, TEST)).fingerprint
        contents = bytearray((root / TRAIN).read_bytes())
        contents[position] ^= 1
        (root / TRAIN).write_bytes(contents)
        assert read_corpus(root).fingerprint != before

    def test_differs_when_a_name_does(self, root: Path) -> None:
        before = read_corpus(make_tree(root, TRAIN, TEST)).fingerprint
        (root / TEST).rename(root / "fan/test/normal_id_00_00000000.wav")
        assert read_corpus(root).fingerprint != before

    def test_differs_when_a_clip_is_gone_or_two_are_swapped(self, root: Path) -> None:
        whole = read_corpus(make_tree(root, TRAIN, TEST)).fingerprint
        (root / TEST).rename(root / "kept")
        without = read_corpus(root).fingerprint
        (root / TRAIN).rename(root / TEST)
        (root / "kept").rename(root / TRAIN)
        swapped = read_corpus(root).fingerprint
        assert len({whole, without, swapped}) == 3

    def test_is_of_names_and_contents_alone_where_names_tell_all(self, root: Path) -> None:
        corpus = read_corpus(make_tree(root, *PLACES))
        assert corpus.fingerprint == digest_of(f"{clip.name}\0{clip.digest}" for clip in corpus.clips)

    @pytest.mark.parametrize(
        "told",
        [{"label": 0}, {"split": "train"}, {"domain": "source"}, {"source": "additional"}, {"machine": "pump"},
         {"machine_id": "02"}],
        ids=str,
    )  # fmt: skip
    def test_differs_where_something_beside_the_name_tells_another_thing(
        self, root: Path, told: dict[str, Any]
    ) -> None:
        corpus = read_corpus(make_tree(root, "fan/test/id_00_00000000.wav"))
        other = replace(corpus, clips=tuple(replace(clip, **told) for clip in corpus.clips))
        assert other.fingerprint != corpus.fingerprint

    def test_takes_names_that_are_no_utf8(self, root: Path) -> None:
        names = [os.fsdecode(b"fan/train/L\xfcfter 1.wav"), os.fsdecode(b"fan/train/L\xf6fter 1.wav")]
        first = read_corpus(make_tree(root, names[0])).fingerprint
        (root / names[0]).rename(root / names[1])
        assert read_corpus(root).fingerprint != first

    @settings(max_examples=50, deadline=None, database=None)
    @given(st.lists(st.text(max_size=3), max_size=4), st.lists(st.text(max_size=3), max_size=4))
    def test_digests_are_equal_for_equal_sequences_alone(self, one: list[str], other: list[str]) -> None:
        assert (digest_of(one) == digest_of(other)) == (one == other)


@pytest.fixture
def two_machines(root: Path) -> Corpus:
    make_tree(root, TRAIN, TEST, "eval_data/pump/train/id_01_00000000.wav", "dev_data/pump/train/hum.wav")
    (root / "fan/train/empty.wav").touch()
    (root / "eval_data/pump/train/empty.wav").touch()
    return read_corpus(root)


class TestOfMachines:
    def test_keeps_their_clips_and_what_of_theirs_is_unreadable(self, two_machines: Corpus) -> None:
        fan, pump = (two_machines.of_machines([machine]) for machine in ("fan", "pump"))
        assert [clip.name for clip in fan.clips] == [TEST, TRAIN]
        assert [u.name for u in fan.unreadable] == ["fan/train/empty.wav"]
        assert {clip.machine for clip in pump.clips} == {"pump"}
        assert [u.name for u in pump.unreadable] == ["eval_data/pump/train/empty.wav"]
        assert fan.fingerprint != pump.fingerprint

    def test_keeps_what_may_be_any_machine_s_and_leaves_what_is_no_machine_s(self, two_machines: Corpus) -> None:
        closed, stray = Unreadable("eval_data/", "closed"), Unreadable("clip.wav", "stray", "")
        corpus = replace(two_machines, unreadable=(closed, stray))
        assert corpus.of_machines(["fan"]).unreadable == (closed,)

    def test_takes_none_for_all_of_them(self, two_machines: Corpus) -> None:
        assert two_machines.of_machines(None) == two_machines == two_machines.of_machines(["pump", "fan"])

    def test_refuses_an_unknown_machine_and_names_those_there_are(self, two_machines: Corpus) -> None:
        with pytest.raises(CorpusError, match=r"corpus.machines: fans, valve not found in .*; it holds fan, pump"):
            two_machines.of_machines(["valve", "fan", "fans"])


def test_a_clip_of_another_sample_rate_is_named_with_the_remedy(root: Path) -> None:
    make_tree(root, TRAIN)
    make_tree(root, TEST, sample_rate=22050)
    corpus = read_corpus(root)
    with pytest.raises(
        CorpusError,
        match=rf"sample_rate is 16000 Hz, but 1 of 2 clips differ: {TEST} has 22050 Hz. Set features.resample",
    ):
        corpus.require_sample_rate(16000)


def test_clips_of_the_expected_sample_rate_are_no_error(root: Path) -> None:
    read_corpus(make_tree(root, TRAIN, TEST, sample_rate=8000)).require_sample_rate(8000)
