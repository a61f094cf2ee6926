"""An analysis: its results, that it never uses what is held out, and that its page loads nothing."""

from __future__ import annotations

import csv
import io
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile
from sklearn.covariance import LedoitWolf

from features.clips.clip import ANOMALY, NORMAL
from features.clips.corpus import read_corpus
from features.frames.feature_settings import KINDS
from search.analysis.analysis import Analysis, analyse
from search.analysis.differences import distances
from search.analysis.findings import separability_finding
from search.analysis.folder import MARK
from search.analysis.page import page
from search.analysis.separability import DETECTORS, SeparationMethod, mahalanobis, nearest
from search.analysis.settings import AnalysisSettings, analysis_settings
from search.analysis.statistics import Statistics, standardised
from search.analysis.tables import separability_csv
from search.analysis.view import view_of
from search.errors import StudyFileError
from search.study.recipe import ValidationSettings
from search.validation.split import held_out_clips
from tests.support.html_page import Page

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]
    MakeClips = Callable[..., Path]

RATE = 16000

#: Few bins: no result depends on their number.
QUICK = ("features.n_fft=256", "features.hop_length=256", "features.n_mels=32")


def silent(what: str, done: int, of: int) -> None:
    """Shows no progress."""


def analysis_of(root: Path, *overrides: str, all_labels: bool = False) -> Analysis:
    corpus = read_corpus(root)
    settings = analysis_settings([*QUICK, *overrides], corpus)
    return analyse(corpus, settings, all_labels=all_labels, progress=silent)


def page_of(analysis: Analysis) -> Page:
    return Page(page(analysis, progress=silent))


def noise(seed: int, *, gain: float = 0.1, seconds: float = 0.5) -> Any:
    """Noise of one level and of any timbre: each clip leans to low or to high frequencies as it likes."""
    rng = np.random.default_rng(seed)
    samples = rng.normal(0, 1, int(seconds * RATE))
    samples[1:] += rng.uniform(-0.9, 0.9) * samples[:-1]
    return gain * samples / np.sqrt(np.mean(samples**2))


def write(path: Path, samples: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, RATE, "PCM_16")


def write_id(folder: Path, machine_id: str, *, train: int, normal: int, anomaly: int, louder: float = 1.0) -> None:
    """Clips of noise of one machine ID: anomalies differ from the others in loudness, if in anything."""
    start = 1000 * int(machine_id)
    for number in range(train):
        write(folder / "train" / f"normal_id_{machine_id}_{number:08}.wav", noise(start + number))
    for number in range(normal):
        write(folder / "test" / f"normal_id_{machine_id}_{number:08}.wav", noise(start + 300 + number))
    for number in range(anomaly):
        samples = noise(start + 600 + number, gain=0.1 * louder)
        write(folder / "test" / f"anomaly_id_{machine_id}_{number:08}.wav", samples)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A cache for what the tests of this module share; each test then has its own."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def analysis(cache: None, corpus_root: Path) -> Analysis:
    return analysis_of(corpus_root)


@pytest.fixture(scope="module")
def html(analysis: Analysis) -> str:
    return page(analysis, progress=silent)


@pytest.fixture(scope="module")
def shown(html: str) -> Page:
    return Page(html)


# The page


def test_the_questions_are_answered_in_their_order(shown: Page) -> None:
    questions = [
        "Which clips there are",
        "Which feature tells",
        "How machines, IDs and sets differ",
        "How different an anomaly",
    ]
    places = [shown.text.rindex(f"{number}. {question}") for number, question in enumerate(questions, 1)]

    assert places == sorted(places)
    assert places[-1] < shown.text.rindex("5. Clips to see and hear")


def test_the_page_loads_nothing_and_is_not_too_heavy(shown: Page, html: str) -> None:
    named = [
        value or "" for _, attributes in shown.elements for name, value in attributes.items() if name in ("src", "href")
    ]

    assert all(value.startswith(("data:", "#")) for value in named)
    assert [name for name, _ in shown.elements if name == "link"] == []
    policies = [attributes["content"] for _, attributes in shown.elements if "http-equiv" in attributes]
    assert policies and "default-src 'none'" in str(policies[0])
    assert len(html) < 15e6


def test_clips_are_shown_and_played_side_by_side(shown: Page) -> None:
    players = [attributes["src"] or "" for name, attributes in shown.elements if name == "audio"]
    pictures = [attributes["src"] or "" for name, attributes in shown.elements if name == "img"]

    assert [player.partition(",")[0] for player in players] == ["data:audio/flac;base64"] * 3
    assert len(pictures) == 1 and pictures[0].startswith("data:image/webp;base64,")
    for what in ("a typical normal clip", "a typical anomaly", "the strangest anomaly"):
        assert what in shown.text


def test_every_chart_is_there(shown: Page) -> None:
    assert set(shown.figures) == {"methods", "spectra0", "distances0", "map0"}


def test_the_map_shows_only_clips_that_a_search_may_use(analysis: Analysis) -> None:
    (shown,) = analysis.maps

    assert {clip.name for clip in shown.clips} == {clip.name for clip in analysis.view.seen}
    assert not {clip.name for clip in analysis.view.held_out} & {clip.name for clip in shown.clips}
    assert 0 < shown.explained[1] <= shown.explained[0] < 1


def test_clips_are_counted(shown: Page) -> None:
    assert "54 clips of 1 machine (3 machine IDs), 54 s in all; no clip is suspicious." in shown.text
    assert "18 labelled test clips are held out for the test AUC" in shown.text
    assert "Each lasts 1.0 s and has 16 kHz." in shown.text
    assert shown.row("compressor/00")[1:5] == ["6", "3", "3", "6"]


def test_names_with_markup_are_shown_as_they_stand(tmp_path: Path) -> None:
    machine = tmp_path / "sounds" / "<b>fan<script>alert(1)<"
    write_id(machine, "00", train=3, normal=1, anomaly=1, louder=2)
    write(machine / "test" / "anomaly_<img src=x>.wav", noise(7, gain=0.3))
    write(machine / "test" / "normal_<img src=x>.wav", noise(8))

    shown = page_of(analysis_of(tmp_path / "sounds", all_labels=True))

    assert "<b>fan<script>alert(1)<" in shown.text
    assert "_<img src=x>.wav" in shown.text
    assert not [name for name, _ in shown.elements if name == "b"]
    assert all("alert(1)" not in script or script.startswith("draw(") for script in shown.scripts)
    assert [attributes["src"] for name, attributes in shown.elements if name == "img"] != ["x"]


# Which feature is best


def test_the_only_feature_that_the_anomaly_changes_is_the_best(tmp_path: Path) -> None:
    write_id(tmp_path / "sounds" / "fan", "00", train=12, normal=12, anomaly=12, louder=1.1)

    analysis = analysis_of(tmp_path / "sounds")

    overall = analysis.separability.overall
    assert overall is not None
    assert overall.best.method.feature == "rms"
    assert overall.best.auc == 1
    deaf = [of for of in overall.methods if of.method.feature in ("chroma", "centroid", "zero_crossings")]
    assert not any(of.beats_guessing for of in deaf) and max(of.auc for of in deaf) < 0.9
    assert "Loudness alone detects them" in page_of(analysis).text


def test_where_nothing_differs_no_feature_is_better_than_guessing(tmp_path: Path) -> None:
    write_id(tmp_path / "sounds" / "fan", "00", train=12, normal=12, anomaly=12)

    finding = separability_finding(analysis_of(tmp_path / "sounds"))

    assert finding.headline == "These clips do not show that any of these features is better than guessing."


def test_every_kind_and_the_stack_are_compared_by_every_detector(analysis: Analysis) -> None:
    compared = [*KINDS, "logmel+chroma"]
    rows = list(csv.DictReader(io.StringIO(separability_csv(analysis.separability))))

    for scope in (("(all)", "(mean)"), ("compressor", "(mean)"), ("compressor", "02")):
        own = [row for row in rows if (row["machine"], row["machine_id"]) == scope]
        assert {(row["feature"], row["detector"]) for row in own} == {(k, d) for k in compared for d in DETECTORS}
        assert [row["auc"] for row in own] == sorted((row["auc"] for row in own), reverse=True)
    assert {row["remark"] for row in rows if row["machine_id"] == "02"} == {"too few clips for an interval"}


def test_a_spectrum_that_a_clip_is_too_short_for_is_left_out_and_the_page_says_so(tmp_path: Path) -> None:
    write_id(tmp_path / "sounds" / "fan", "00", train=3, normal=2, anomaly=2, louder=2)
    write(tmp_path / "sounds" / "fan" / "train" / "normal_id_00_00000009.wav", noise(9)[:2000])

    without = analysis_of(tmp_path / "sounds")
    fewer = analysis_of(tmp_path / "sounds", "features.n_bands=1000")

    assert without.separability.overall is not None and fewer.separability.overall is not None
    left_out = {of.method.feature for of in fewer.separability.overall.methods} - {
        of.method.feature for of in without.separability.overall.methods
    }
    assert left_out == {"clip_spectrum"}
    assert "The spectrum of the clip is not compared: a clip is too short for its bands" in page_of(without).text
    assert "is not compared" not in page_of(fewer).text


def test_the_mean_over_ids_is_that(analysis: Analysis) -> None:
    found = analysis.separability
    method = SeparationMethod("mfcc", "kNN")

    assert found.overall is not None
    assert found.overall.of(method).auc == pytest.approx(
        np.mean([scope.of(method).auc for scope in found.ids.values()])
    )


def test_another_stack_that_is_set_is_compared_too(corpus_root: Path) -> None:
    corpus = read_corpus(corpus_root)

    assert analysis_settings(["features.kind=[logmel, mfcc]"], corpus).kinds[-1] == "logmel+mfcc"
    assert analysis_settings(["features.kind=mfcc"], corpus).kinds == AnalysisSettings().kinds


@pytest.mark.parametrize("clips", [4, 9, 50])
def test_mahalanobis_is_scikit_learns(clips: int) -> None:
    rng = np.random.default_rng(0)
    normal, tested = rng.normal(size=(clips, 20)), rng.normal(size=(4, 20))

    expected = np.sqrt(LedoitWolf().fit(normal).mahalanobis(tested))

    assert mahalanobis(tested, normal) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("normal", "tested", "distance"),
    [
        ([[0.0], [1.0]], [[3.0]], 2.5),  # both of two
        ([[0.0], [1.0], [2.0], [90.0]], [[3.0]], 2.0),  # the nearest three
        ([[1.0], [1.0]], [[1.0]], 0.0),
    ],
)
def test_nearest_is_the_mean_distance_to_three(normal: list[Any], tested: list[Any], distance: float) -> None:
    assert nearest(np.array(tested), np.array(normal)) == pytest.approx([distance])


def test_training_clips_that_are_all_the_same_measure_in_their_own_unit() -> None:
    normal = np.ones((3, 2))

    assert standardised(np.array([[1.0, 3.0]]), normal).tolist() == [[0.0, 2.0]]
    assert mahalanobis(np.array([[0.0, 2.0]]), standardised(normal, normal)) > 0


@pytest.mark.parametrize(
    ("clips", "why"),
    [
        ({"train": 3, "normal": 2, "anomaly": 0}, "only normal test clips"),
        ({"train": 3, "normal": 0, "anomaly": 2}, "only anomalous test clips"),
        ({"train": 3, "normal": 0, "anomaly": 0}, "no labelled test clip"),
        ({"train": 0, "normal": 2, "anomaly": 2}, "0 training clips: there is no normal sound to compare with"),
        ({"train": 1, "normal": 2, "anomaly": 2}, "1 training clips: there is no normal sound to compare with"),
    ],
)
def test_an_id_that_cannot_be_judged_is_left_out_with_the_reason(
    tmp_path: Path, clips: dict[str, int], why: str
) -> None:
    write_id(tmp_path / "sounds" / "fan", "00", train=3, normal=2, anomaly=2)
    write_id(tmp_path / "sounds" / "fan", "02", **clips)

    found = analysis_of(tmp_path / "sounds").separability

    assert dict(found.undefined) == {"fan/02": why}
    assert list(found.ids) == ["fan/00"]
    assert f"fan,02,,,,,,,,,n/a: {why}\n" in separability_csv(found)


def test_a_page_names_the_ids_without_auc_and_the_clips_that_are_in_train_and_test(tmp_path: Path) -> None:
    fan = tmp_path / "sounds" / "fan"
    write_id(fan, "00", train=3, normal=1, anomaly=1)
    write_id(fan, "02", train=1, normal=0, anomaly=1)
    shutil.copy(fan / "train" / "normal_id_00_00000002.wav", fan / "test" / "id_00_00000077.wav")

    shown = page_of(analysis_of(tmp_path / "sounds"))

    assert ["only anomalous test clips", "fan/02"] in shown.rows
    assert "1 clip is suspicious and 1 test clip is in train too." in shown.text
    assert any(row[:1] == ["fan/test/id_00_00000077.wav"] for row in shown.rows)


def test_settings_that_do_not_fit_another_kind_that_is_compared_are_refused(corpus_root: Path) -> None:
    message = r"features does not fit logmel, which is compared too: n_mels ≤ n_fft / 2 must hold"
    with pytest.raises(StudyFileError, match=message):
        analysis_settings(["features.kind=rms", "features.n_fft=128"], read_corpus(corpus_root))


def test_clips_that_are_held_out_are_not_named_whatever_they_sound_like(tmp_path: Path) -> None:
    fan = tmp_path / "sounds" / "fan"
    write_id(fan, "00", train=3, normal=4, anomaly=4)
    corpus = read_corpus(tmp_path / "sounds")
    held_out = view_of(corpus, ValidationSettings(), all_labels=False).held_out
    for clip in held_out:
        soundfile.write(clip.path, np.zeros(RATE // 2), RATE)

    shown = page_of(analysis_of(tmp_path / "sounds"))

    assert len(held_out) == 4
    assert not any(clip.path.name in shown.text for clip in held_out)
    assert "no clip is suspicious" in shown.text


def test_without_labels_there_is_a_page_of_the_other_parts(tmp_path: Path) -> None:
    write_id(tmp_path / "sounds" / "fan", "00", train=4, normal=0, anomaly=0)
    write_id(tmp_path / "sounds" / "fan", "02", train=4, normal=0, anomaly=0)
    write(tmp_path / "sounds" / "fan" / "test" / "id_00_00000000.wav", noise(5))

    analysis = analysis_of(tmp_path / "sounds")
    shown = page_of(analysis)

    assert "No machine ID has the clips that are needed to compare features" in shown.text
    assert "How different an anomaly is cannot be measured without labels" in shown.text
    assert "There is nothing to compare by ear" in shown.text
    assert set(shown.figures) == {"spectra0", "distances0", "map0"}
    assert [clip.path.name for clip in analysis.view.unlabelled] == ["id_00_00000000.wav"]


@pytest.mark.parametrize("folder", ["train", "test", "supplemental"])
def test_one_clip_alone_has_a_page(tmp_path: Path, folder: str) -> None:
    write(tmp_path / "sounds" / "fan" / folder / "normal_id_00_00000000.wav", noise(1))

    shown = page_of(analysis_of(tmp_path / "sounds"))

    assert "1 clip of 1 machine" in shown.text
    assert "There are too few clips for a map." in shown.text


# What is held out


def test_clips_that_are_held_out_change_nothing(
    cache: None, analysis: Analysis, corpus_root: Path, tmp_path: Path
) -> None:
    root = tmp_path / "sounds"
    shutil.copytree(corpus_root, root)
    corpus = read_corpus(root)
    held_out = held_out_clips(corpus, ValidationSettings())
    for clip in held_out:  # normal clips are loud, and anomalies are faint: all labels are wrong
        write(clip.path, noise(hash(clip.name) % 1000, gain=0.3 if clip.label == NORMAL else 0.01, seconds=1.0))

    poisoned = analysis_of(root)

    assert len(held_out) == 18
    assert separability_csv(poisoned.separability) == separability_csv(analysis.separability)
    assert [row.normal_level for row in poisoned.inventory.rows] == [
        row.normal_level for row in analysis.inventory.rows
    ]
    assert poisoned.maps[0].places == pytest.approx(analysis.maps[0].places)
    for of, other in zip(poisoned.within_machines, analysis.within_machines, strict=True):
        assert of.distances.table == pytest.approx(other.distances.table)
    assert [chosen.clip.name for chosen in poisoned.examples[0].clips] == [
        chosen.clip.name for chosen in analysis.examples[0].clips
    ]


def test_labels_that_are_held_out_are_gone_before_anything_is_computed(analysis: Analysis) -> None:
    assert {clip.label for clip in analysis.view.held_out} == {None}
    assert {clip.label for clip in analysis.view.labelled} == {NORMAL, ANOMALY}
    assert not {clip.name for clip in analysis.view.held_out} & {clip.name for clip in analysis.separability.clips}


def test_all_labels_are_used_with_a_warning(offkey: Offkey, corpus_root: Path) -> None:
    ran = offkey("analyze", corpus_root, "-o", "page", "--all-labels", "--json")

    document = json.loads(ran.stdout)
    assert (ran.code, document["labels"], document["judged"]) == (0, "all", 36)
    assert ran.stderr.startswith("warning: All labelled test clips were used (--all-labels)")
    shown = Page(Path("page/index.html").read_text(encoding="utf-8"))
    assert [attributes for _, attributes in shown.elements if attributes.get("role") == "alert"]
    assert "All labelled test clips were used (--all-labels)" in shown.text


def test_without_all_labels_nothing_warns(shown: Page) -> None:
    assert not [attributes for _, attributes in shown.elements if attributes.get("role") == "alert"]


# How groups differ


@pytest.mark.parametrize(("shift", "low", "high"), [(0.0, 0.0, 0.3), (1.0, 0.8, 1.2), (3.0, 2.7, 3.3)])
def test_a_distance_counts_in_deviations_from_clip_to_clip(
    corpus_root: Path, shift: float, low: float, high: float
) -> None:
    first, second = read_corpus(corpus_root).clips[:6], read_corpus(corpus_root).clips[6:12]
    values = np.random.default_rng(1).normal(0, 5, (12, 400))
    values[6:] += 5 * shift
    rows = {clip.name: row for row, clip in enumerate((*first, *second))}
    found = distances([("a", first), ("b", second)], Statistics(rows, {"logmel": values.astype(np.float32)}))

    ((_, _, distance),) = found.pairs
    assert low <= distance <= high


def test_a_group_of_one_clip_has_no_distance(corpus_root: Path) -> None:
    clips = read_corpus(corpus_root).clips[:4]
    values = np.random.default_rng(1).normal(0, 5, (4, 8)).astype(np.float32)
    statistics = Statistics({clip.name: row for row, clip in enumerate(clips)}, {"logmel": values})

    assert distances([("a", clips[:3]), ("b", clips[3:])], statistics).pairs == []


def test_development_additional_and_evaluation_sets_stand_side_by_side(tmp_path: Path) -> None:
    root = tmp_path / "sounds"
    write_id(root / "dev_data" / "fan", "00", train=3, normal=2, anomaly=2)
    write_id(root / "eval_data" / "fan", "01", train=3, normal=0, anomaly=0)
    for number in range(3):
        write(root / "eval_data" / "fan" / "test" / f"id_01_{number:08}.wav", noise(50 + number))

    (within,) = analysis_of(root).within_machines

    assert within.distances.names == ("00 development", "01 additional", "01 evaluation")


# The command


def test_the_command_writes_a_page_and_a_table_and_prints_the_best(offkey: Offkey, corpus_root: Path) -> None:
    ran = offkey("analyze", corpus_root, "-o", "nested/page")

    assert ran.code == 0
    assert sorted(path.name for path in Path("nested/page").iterdir()) == ["index.html", "separability.csv"]
    assert sorted(path.name for path in Path("nested").iterdir()) == ["page"], "nothing partial is left"
    assert "best" in ran.stdout and "95 % interval" in ran.stdout
    assert "Wrote nested/page/index.html" in ran.stderr


@pytest.mark.parametrize(
    ("there", "code"),
    [
        ([], 0),
        (["index.html", "separability.csv"], 0),
        (["index.html", "separability.csv", "notes.txt"], 2),
        (["separability.csv"], 2),
        (["mine.html"], 2),
    ],
)
def test_a_folder_is_written_over_only_if_it_holds_an_earlier_analysis(there: list[str], code: int) -> None:
    from search.analysis.folder import require_free, write_folder
    from search.errors import MisuseError

    folder = Path("page")
    folder.mkdir()
    for name in there:
        (folder / name).write_text(f"<head>{MARK}" if name == "index.html" else "mine")
    if code:
        with pytest.raises(MisuseError, match=r"must be new, empty or hold an earlier analysis"):
            require_free(folder)
        assert {path.name for path in folder.iterdir()} == set(there)
    else:
        require_free(folder)
        write_folder(folder, {"index.html": "new", "separability.csv": "new"})
        assert {path.name: path.read_text() for path in folder.iterdir()} == {
            "index.html": "new",
            "separability.csv": "new",
        }


def test_a_page_that_is_no_analysis_is_never_written_over(offkey: Offkey, corpus_root: Path) -> None:
    Path("page").mkdir()
    Path("page/index.html").write_text("<p>my own</p>")

    ran = offkey("analyze", corpus_root, "-o", "page")

    assert ran.code == 2
    assert (
        "error: page must be new, empty or hold an earlier analysis and nothing else, but it has index.html"
        in ran.stderr
    )
    assert Path("page/index.html").read_text() == "<p>my own</p>"


def test_a_broken_clip_is_an_error_that_names_it(offkey: Offkey, tmp_path: Path) -> None:
    write_id(tmp_path / "sounds" / "fan", "00", train=3, normal=1, anomaly=1)
    broken = tmp_path / "sounds" / "fan" / "train" / "normal_id_00_00000001.wav"
    broken.write_bytes(broken.read_bytes()[:-100])

    ran = offkey("analyze", tmp_path / "sounds", "-o", "page")

    assert ran.code == 1
    assert "fan/train/normal_id_00_00000001.wav: cut off" in ran.stderr
    assert not Path("page").exists()


@pytest.mark.parametrize(
    ("override", "code", "message"),
    [
        (
            "features.n_mel=64",
            2,
            "setting features.n_mel=64: features.n_mel is not a setting of an analysis; did you mean n_mels?",
        ),
        ("model.family=vae", 2, "model is not a setting of an analysis; known here: corpus, features, validation"),
        ("features.n_mels=many", 2, "features.n_mels should be a valid integer"),
        ("features.n_mels=1000", 2, "n_mels ≤ n_fft / 2 must hold"),
        ("features.normalize=clip", 2, "features.normalize has no effect: statistics are standardised in any case"),
        ("corpus.machines=[pump]", 1, "corpus.machines: pump not found in"),
        ("features.sample_rate=8000", 1, "features.sample_rate is 8000 Hz, but 54 of 54 clips differ"),
    ],
)
def test_a_setting_that_cannot_be_is_an_error(
    offkey: Offkey, corpus_root: Path, override: str, code: int, message: str
) -> None:
    ran = offkey("analyze", corpus_root, "-o", "page", "--set", override)

    assert ran.code == code
    assert message in " ".join(ran.stderr.split())
    assert not Path("page").exists()


def test_clips_of_other_rates_and_channels_are_brought_to_one_rate(corpus_root: Path) -> None:
    corpus = read_corpus(corpus_root)
    mixed = replace(
        corpus,
        clips=(replace(corpus.clips[0], channels=2), replace(corpus.clips[1], sample_rate=44100), *corpus.clips[2:]),
    )

    features = analysis_settings([], mixed).features

    assert (features.sample_rate, features.resample, features.channel) == (16000, True, "mean")
