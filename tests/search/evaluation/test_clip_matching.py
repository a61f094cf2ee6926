"""Which clip of the truth a score is of."""

from __future__ import annotations

from pathlib import Path, PurePath

import pytest

from features.clips.clip import Description, Split
from search.errors import StudyError
from search.evaluation.clip_matching import match
from search.evaluation.known_clips import KnownClip, KnownClips
from search.evaluation.score_files import ScoreRow

UNKNOWN = "unlabelled"


def known(*paths: str, machine: str = "") -> KnownClips:
    """Clips at these paths, <machine>/<split>/<name> or with another machine type; each is a normal clip."""
    clips = []
    for path in map(PurePath, paths):
        split: Split = "train" if path.parent.name == "train" else "test"
        clips.append(
            KnownClip(
                path,
                Description(
                    machine=machine or path.parent.parent.name,
                    machine_id="00",
                    split=split,
                    label=None if UNKNOWN in path.name else 0,
                    source="development",
                    domain=None,
                    attributes="",
                ),
            )
        )
    return KnownClips(Path("truth.csv"), clips)


def row(path: str, machine: str = "", where: str = "scores.csv, line 2") -> ScoreRow:
    return ScoreRow(path, 1.0, None, where, machine=machine)


@pytest.mark.parametrize(
    ("truth", "scored", "place"),
    [
        (known("fan/train/a.wav", "fan/test/a.wav"), row("elsewhere/fan/test/a.wav"), 1),
        (known("fan/train/a.wav", "fan/test/a.wav"), row("a.wav", "fan"), 1),
        (known("fan/test/a.wav", "pump/test/a.wav"), row("x/pump/test/a.wav"), 1),
        (known("fan/test/a.wav", "pump/test/a.wav"), row("a.wav", "pump"), 1),
        (known("fan/test/a.wav", "pump/test/b.wav"), row("b.wav"), 1),
        (known("fan/test/a.wav", "pump/test/b.wav"), row("clips/b.wav"), 1),
        (known("day1/a.wav", "day2/a.wav", machine="fan"), row("day2/a.wav"), 1),
        (known("day1/a.wav", "day2/a.wav", machine="fan"), row("./day1/../day2/a.wav"), 1),
        (known("week1/day1/a.wav", "week2/day1/a.wav", machine="fan"), row("x/week2/day1/a.wav"), 1),
        (known("fan/test/a.WAV"), row("fan/test/a"), 0),
    ],
)
def test_a_score_belongs_to_the_clip_of_its_path_else_to_the_only_one(
    truth: KnownClips, scored: ScoreRow, place: int
) -> None:
    assert match([scored], truth).labelled == {place: scored}


def test_the_very_same_file_counts_before_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scored inside the folder of training clips: the paths of the scores have no folder."""
    monkeypatch.chdir(tmp_path)
    truth = known(f"{tmp_path}/a.wav", "/elsewhere/fan/test/a.wav", machine="fan")

    assert list(match([row("a.wav", "fan")], truth).labelled) == [0]


@pytest.mark.parametrize(
    ("truth", "scored", "message"),
    [
        (known("day1/a.wav", "day2/a.wav", machine="fan"), row("a.wav"), "may be day1/a.wav or day2/a.wav of truth"),
        (known("day1/a.wav", "day2/a.wav", machine="fan"), row("x/a.wav", "fan"), "x/a.wav may be day1/a.wav or"),
        (known("fan/test/a.wav", "pump/test/a.wav"), row("a.wav"), "line 2: no machine in the path of a.wav, and"),
        (known("fan/test/a.wav", "pump/test/a.wav"), row("test/a.wav"), "truth.csv is of fan, pump: write <machine>"),
    ],
)
def test_what_may_be_two_clips_is_refused(truth: KnownClips, scored: ScoreRow, message: str) -> None:
    with pytest.raises(StudyError, match=message):
        match([scored], truth)


def test_two_scores_of_one_clip_are_refused() -> None:
    scored = [row("x/fan/test/a.wav"), row("y/fan/test/a.wav", where="scores.csv, line 3")]

    with pytest.raises(StudyError, match="line 3: fan, a.wav has a score already, in scores.csv, line 2"):
        match(scored, known("fan/test/a.wav"))


def test_the_score_whose_folders_agree_is_the_clip_s_and_the_other_is_left_out() -> None:
    first, second = row("day1/a.wav"), row("day2/a.wav")

    matches = match([first, second], known("day2/a.wav", machine="fan"))

    assert (matches.labelled, matches.unlabelled) == ({0: second}, [first])


def test_scores_without_a_label_are_told_by_kind() -> None:
    training, foreign, other_id, unlabelled, missing = rows = [
        row("fan/train/a.wav"),
        row("pump/test/a.wav"),
        row("fan/test/normal_id_07_00000000.wav"),
        row(f"fan/test/{UNKNOWN}.wav"),
        row("fan/test/nowhere.wav"),
    ]

    matches = match(rows, known("fan/train/a.wav", "fan/test/a.wav", f"fan/test/{UNKNOWN}.wav"))

    assert matches.labelled == {}
    assert matches.training == [training]
    assert matches.of_other_ids == {"pump/00": [foreign], "fan/07": [other_id]}
    assert matches.unlabelled == [unlabelled, missing]
