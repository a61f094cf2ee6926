"""The worst misses on a report: validation clips alone, with sounds that play, and a page without them."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from features.clips.clip import ANOMALY
from features.clips.corpus import read_corpus
from features.clips.wav import read_waveform
from search.report.misses import Misses, worst_misses
from search.results.export import export_recipe
from search.validation.split import held_out_clips, labelled_test_clips
from tests.support.ended_trials import end, page_of, scored

if TYPE_CHECKING:
    from tests.support.html_page import Page
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

RATE = 16000


def sounds_on(page: Page) -> list[bytes]:
    """The contents of the players."""
    sources = [attributes["src"] or "" for tag, attributes in page.elements if tag == "audio"]
    assert all(source.startswith("data:audio/flac;base64,") for source in sources)
    return [base64.b64decode(source.partition(",")[2]) for source in sources]


def misses_of(tiny: TinyStudy, *, wrong: int) -> Misses:
    """The misses of the study's only trial."""
    scores = scored(tiny, wrong=wrong)
    end(tiny, scores)
    return worst_misses(tiny.stored, export_recipe(tiny.storage, tiny.stored), scores)


def test_the_worst_misses_are_validation_clips_with_their_sound_score_and_rank(tiny_study: MakeStudy) -> None:
    tiny = tiny_study()
    scores = scored(tiny, wrong=2)
    end(tiny, scores)
    corpus = read_corpus(tiny.root)
    (view,) = tiny.stored.validation_data(corpus).views
    clips = labelled_test_clips(view)
    first, second, *_ = [place for place, clip in enumerate(clips) if clip.label == ANOMALY]

    page = page_of(tiny)

    for place in (first, second):
        below = f"score {scores[place]:.4g}; 3 of 3 normal ones score as high or higher"
        name = f"{clips[place].name}{clips[place].id_name}, faulty"
        rank = 6 if scores[place] == min(scores[first], scores[second]) else 5
        assert page.row(name)[1] == f"{rank} of 6{below}"
    assert "Normal clips that score highest" in page.text
    named = {clip.name for clip in corpus.clips if any(row[0].startswith(clip.name) for row in page.rows)}
    assert len(named) == 5  # and the three normal clips
    assert not named & {clip.name for clip in held_out_clips(corpus, tiny.stored.validation)}
    played, rate = soundfile.read(io.BytesIO(sounds_on(page)[0]), dtype="float32")
    assert rate == RATE
    heard = [clip for clip in clips if np.allclose(read_waveform(clip.path), played, atol=2**-15)]
    assert [clip.name for clip in heard] == [clips[first].name]


def test_of_many_misses_three_of_either_kind_are_shown_and_all_are_counted(tiny_study: MakeStudy) -> None:
    misses = misses_of(tiny_study(), wrong=7)

    assert (len(misses.missed), len(misses.alarms)) == (3, 3)
    assert misses.of == (7, 9)


def test_a_trial_without_a_miss_says_so(tiny_study: MakeStudy) -> None:
    misses = misses_of(tiny_study(), wrong=0)

    assert misses.instead == "None: each faulty validation clip scores higher than every normal one of its machine ID."


def test_a_long_sound_is_cut_and_the_page_says_so(tiny_study: MakeStudy, copied: Path) -> None:
    noise = np.random.default_rng(1).uniform(-1, 1, 20 * RATE)  # nothing to compress
    for path in (copied / "compressor" / "test").iterdir():
        soundfile.write(path, noise, RATE, subtype="PCM_16")
    tiny = tiny_study(corpus={"root": str(copied)})
    end(tiny, scored(tiny, wrong=9))

    page = page_of(tiny)

    assert page.text.count("its first 4 s") == 6
    assert sum(map(len, sounds_on(page))) < 6 * 150_000


@pytest.fixture
def copied(corpus_root: Path, tmp_path: Path) -> Path:
    """A corpus of this test's own."""
    return Path(shutil.copytree(corpus_root, tmp_path / "copied"))


def _remove_all(root: Path) -> None:
    shutil.rmtree(root)


def _cut_one_off(root: Path) -> None:
    path = next((root / "compressor" / "train").iterdir())
    path.write_bytes(path.read_bytes()[:2000])


def _replace_one(root: Path) -> None:
    path = next((root / "compressor" / "train").iterdir())
    soundfile.write(path, np.zeros(RATE), RATE, subtype="PCM_16")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (_remove_all, "Not shown: the recordings cannot be read here. The corpus root"),
        (_cut_one_off, "Not shown: the recordings cannot be read here. 1 of the wav files"),
        (_replace_one, "are not those that the study searched on."),
    ],
)
def test_without_the_studys_recordings_the_page_comes_out_and_says_why_it_has_no_sound(
    tiny_study: MakeStudy, copied: Path, change: Callable[[Path], None], sentence: str
) -> None:
    tiny = tiny_study(corpus={"root": str(copied)})
    end(tiny, scored(tiny, wrong=2))
    change(copied)

    page = page_of(tiny)

    assert sentence in page.text
    assert "The best trial: 0" in page.text
    assert sounds_on(page) == []


def test_a_study_whose_clips_were_divided_in_another_way_shows_none(tiny_study: MakeStudy) -> None:
    tiny = tiny_study()
    scores = scored(tiny, wrong=2)
    end(tiny, scores)
    truth = replace(tiny.stored.truth, labels=tiny.stored.truth.labels[::-1])

    misses = worst_misses(replace(tiny.stored, truth=truth), export_recipe(tiny.storage, tiny.stored), scores)

    assert "are not those that the study searched on" in misses.instead


def test_misses_of_synthetic_faults_are_not_played(tiny_study: MakeStudy) -> None:
    misses = misses_of(tiny_study(validation={"metric": "proxy"}, baseline={}), wrong=2)

    assert misses.instead.startswith("None is played: the faults among the validation clips are synthetic")


def test_with_folds_the_misses_are_those_of_the_last_folds_model(tiny_study: MakeStudy) -> None:
    changes: dict[str, Any] = {"validation": {"folds": 2}}
    tiny = tiny_study(**changes)
    truth = tiny.stored.truth
    last = labelled_test_clips(tiny.stored.validation_data(read_corpus(tiny.root)).views[-1])
    scores = np.array(truth.labels, dtype=float)
    scores[: truth.last_fold.start] *= -1  # the other fold's model misses every fault
    missed = next(place for place, clip in enumerate(last) if clip.label == ANOMALY)
    scores[truth.last_fold.start + missed] = -1
    end(tiny, scores)

    misses = worst_misses(tiny.stored, export_recipe(tiny.storage, tiny.stored), scores)

    assert [miss.name for miss in misses.missed] == [last[missed].name]
    assert misses.of_last_fold
    assert "The ranks are those of the last fold's model." in page_of(tiny).text
