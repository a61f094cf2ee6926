"""Training clips that do not sound normal: which are listed, and the page to listen to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile

from tests.support.html_page import Page

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]

RATE = 16000


def write(path: Path, seed: int, *, gain: float = 0.05, bang: bool = False, channels: int = 1) -> None:
    """Half a second of noise; in one that bangs, a loud click train."""
    samples: Any = np.random.default_rng(seed).normal(0, gain, RATE // 2)
    if bang:
        samples[::400] = 0.9
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.stack([samples] * channels, axis=1), RATE, "PCM_16")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve training clips of each of two IDs, one of them not normal; among the test clips as well."""
    for machine_id in ("00", "02"):
        for number in range(12):
            path = tmp_path / "sounds" / "fan" / "train" / f"normal_id_{machine_id}_{number:08}.wav"
            write(path, 100 * int(machine_id) + number, bang=(machine_id, number) == ("02", 7))
    for number in range(2):
        write(tmp_path / "sounds" / "fan" / "test" / f"anomaly_id_00_{number:08}.wav", 900 + number, bang=True)
    return tmp_path / "sounds"


def test_a_training_clip_that_is_unlike_the_rest_is_listed_first_by_both_methods(offkey: Offkey, root: Path) -> None:
    ran = offkey("corpus", root, "--outliers", "--json")

    document = json.loads(ran.stdout)
    assert (ran.code, document["page"]) == (0, "outliers.html")
    worst = document["outliers"][0]
    assert worst["path"] == "fan/train/normal_id_02_00000007.wav"
    assert set(worst["reasons"]) == {"zscore", "neighbours"}
    deviations = [one["deviation"] for one in document["outliers"]]
    assert deviations == sorted(deviations, reverse=True) and deviations[-1] >= 3.5
    assert not [one for one in document["outliers"] if "/test/" in one["path"]], "test clips are not used"


def test_the_page_plays_each_beside_a_typical_clip_and_loads_nothing(offkey: Offkey, root: Path) -> None:
    ran = offkey("corpus", root, "--outliers", "-o", "listen.html")

    assert ran.code == 0
    assert "fan/train/normal_id_02_00000007.wav" in ran.stdout
    assert "cleaning: {method: zscore, drop: 0.05}" in ran.stdout
    assert "Wrote listen.html" in ran.stderr
    shown = Page(Path("listen.html").read_text(encoding="utf-8"))
    sources = [attributes["src"] or "" for name, attributes in shown.elements if name in ("audio", "img")]
    assert sources and all(source.startswith(("data:audio/flac;", "data:image/webp;")) for source in sources)
    assert "Test clips were not used." in shown.text
    assert "the most ordinary clip of its machine ID" in shown.text


def test_clips_that_all_sound_alike_have_no_outliers(offkey: Offkey, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / "sounds" / "fan" / "train" / f"normal_id_00_{number:08}.wav", 1, channels=2)

    ran = offkey("corpus", tmp_path / "sounds", "--outliers")

    assert ran.code == 0
    assert "All 3 training clips sound like the others of their machine ID." in ran.stdout
    assert "1 of 1 machine IDs have fewer than 10 training clips" in ran.stdout


def test_a_corpus_without_training_clips_has_no_outliers(offkey: Offkey, tmp_path: Path) -> None:
    write(tmp_path / "sounds" / "fan" / "test" / "anomaly_id_00_00000000.wav", 1, bang=True)

    ran = offkey("corpus", tmp_path / "sounds", "--outliers", "--json")

    assert (ran.code, json.loads(ran.stdout)["outliers"]) == (0, [])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["-o", "listen.html"], 2, "-o names the page that --outliers writes"),
        (["--outliers", "-o", "nowhere/listen.html"], 1, "nowhere/listen.html cannot be written: No such file"),
    ],
)
def test_a_page_that_cannot_be_is_an_error(
    offkey: Offkey, corpus_root: Path, arguments: list[str], code: int, message: str
) -> None:
    ran = offkey("corpus", corpus_root, *arguments)

    assert ran.code == code
    assert ran.stderr.startswith(f"error: {message}")


def test_a_broken_clip_is_an_error_that_names_it(offkey: Offkey, root: Path) -> None:
    (root / "fan" / "train" / "normal_id_00_00000003.wav").write_bytes(b"")

    ran = offkey("corpus", root, "--outliers")

    assert ran.code == 1
    assert "fan/train/normal_id_00_00000003.wav: the file is empty" in ran.stderr
