"""What workers on a study must agree on beside the study file."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from features.clips.corpus import read_corpus
from search.study.computation import COMPUTATION
from search.study.identity import surroundings


def test_workers_agree_on_clips_and_on_versions_and_not_on_every_line_of_code(corpus_root: Path) -> None:
    corpus = read_corpus(corpus_root)

    assert surroundings(corpus) == {
        "versions": {
            "offkey": version("offkey"),
            "computation": COMPUTATION,
            "optuna": version("optuna"),
            "librosa": version("librosa"),
        },
        "data": {"clips": 54, "fingerprint": corpus.fingerprint[:16]},
    }
