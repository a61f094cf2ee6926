"""Validation without labels: which clips are held out, which proxies are created from them, what their AUC is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from features.clips.clip import ANOMALY, NORMAL, Clip, Source
from features.clips.corpus import Corpus, read_corpus
from features.clips.synthetic_faults import GRADES, KINDS
from features.frames.feature_settings import FeatureSettings
from search.errors import StudyError
from search.evaluation.metrics import mean_auc
from search.evaluation.truth import Truth
from search.preparation.proxy_judgement import ProxyJudgement, aucs_of, judge_proxies, useful_proxies
from search.study.proxies import OTHER_IDS, PROXIES, Proxy
from search.study.recipe import Recipe, TrainOn
from search.training.loop import Training
from search.validation.proxy_clips import MOST_NORMALS, ProxyCorpus, hold_out
from search.validation.split import labelled_test_clips, training_clips

SHARE = 0.34  # of six clips two


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One cache for the tests that need real files."""
    return tmp_path_factory.mktemp("proxy") / "cache"


@pytest.fixture(scope="module")
def proxy_corpus(corpus_root: Path, cache: Path) -> Iterator[ProxyCorpus]:
    """The small corpus with all proxies: of three IDs two clips each are held out."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(cache))
        yield hold_out(read_corpus(corpus_root), share=SHARE, seed=0).with_proxies(PROXIES)


@pytest.fixture
def _in_that_cache(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFFKEY_CACHE", str(cache))


def clips_of(
    count: int, *, machine: str = "fan", machine_id: str = "00", source: Source = "development", split: str = "train"
) -> list[Clip]:
    """Clips without files."""
    data_set = "dev_data" if source == "development" else "eval_data"
    names = [f"{data_set}/{machine}/{split}/normal_id_{machine_id}_{number:08d}.wav" for number in range(count)]
    return [
        Clip(
            path=Path("root", name), name=name, machine=machine, machine_id=machine_id,
            split="train" if split == "train" else "test", label=NORMAL, source=source, domain=None, attributes="",
            sample_rate=16000, samples=16000, digest=name,
        )
        for name in names
    ]  # fmt: skip


def corpus_of(*groups: Sequence[Clip]) -> Corpus:
    return Corpus(root=Path("root"), clips=tuple(clip for group in groups for clip in group), unreadable=())


def without_faults(
    corpus: Corpus, *, share: float = 0.25, seed: int = 0, train_on: TrainOn = "development"
) -> ProxyCorpus:
    """The normal clips that are held out, and those of other IDs: what needs no files."""
    return hold_out(corpus, share=share, seed=seed, train_on=train_on).with_proxies([OTHER_IDS])


def held_out(proxy_corpus: ProxyCorpus) -> list[str]:
    return [clip.name for clip in proxy_corpus.clips if clip.proxy is None]


def recipe_with(model: dict[str, Any], **training: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "study": "proxy",
            "features": {"n_mels": 32},
            "model": model,
            "training": {"batch_size": 64, "epochs": 1, "seed": 0, "threads": 1, **training},
        }
    )


@pytest.mark.parametrize("share", [0.0, 0.1, 0.34, 0.5])
def test_no_clip_is_in_two_parts_and_none_is_lost(corpus_root: Path, proxy_corpus: ProxyCorpus, share: float) -> None:
    corpus = read_corpus(corpus_root)
    parts = training_clips(proxy_corpus.corpus, recipe_with({"family": "stat"}, calibration_share=share))
    names = [clip.name for clip in (*parts.train, *parts.withheld)] + held_out(proxy_corpus)
    assert sorted(names) == sorted(clip.name for clip in corpus.clips if clip.split == "train")


@settings(max_examples=30, deadline=None, database=None)
@given(
    counts=st.lists(st.integers(1, 60), min_size=2, max_size=5),
    share=st.floats(0.01, 0.99),
    calibration_share=st.floats(0, 0.5),
    seed=st.integers(0, 5),
)
def test_whatever_the_shares_the_parts_never_overlap(
    counts: list[int], share: float, calibration_share: float, seed: int
) -> None:
    corpus = corpus_of(
        clips_of(2, machine_id="99"), *(clips_of(n, machine_id=f"{i:02d}") for i, n in enumerate(counts))
    )
    made = without_faults(corpus, share=share, seed=seed)
    parts = training_clips(made.corpus, recipe_with({"family": "stat"}, calibration_share=calibration_share))

    names = [{clip.name for clip in parts.train}, {clip.name for clip in parts.withheld}, set(held_out(made))]
    assert sum(map(len, names)) == len(set().union(*names)) == len({clip.name for clip in corpus.clips})
    assert {clip.machine_id for clip in parts.train} == {clip.machine_id for clip in corpus.clips}


def test_the_real_test_clips_are_gone_whatever_their_labels(corpus_root: Path, proxy_corpus: ProxyCorpus) -> None:
    corpus = read_corpus(corpus_root)
    flipped = tuple(
        replace(clip, label=ANOMALY if clip.label == NORMAL else NORMAL) if clip.split == "test" else clip
        for clip in corpus.clips
    )

    assert not {clip.name for clip in corpus.clips if clip.split == "test"} & {
        c.name for c in proxy_corpus.corpus.clips
    }
    assert without_faults(replace(corpus, clips=flipped), share=SHARE) == without_faults(corpus, share=SHARE)


@pytest.mark.parametrize(
    ("clips", "share", "expected"),
    [(1, 0.25, 0), (2, 0.25, 1), (6, 0.25, 2), (6, 0.5, 3), (6, 0.99, 5), (32, 0.25, 8), (1000, 0.5, MOST_NORMALS)],
)
def test_so_many_normal_clips_of_an_id_are_held_out(clips: int, share: float, expected: int) -> None:
    corpus = corpus_of(clips_of(clips), clips_of(4, machine_id="02"))
    names = held_out(without_faults(corpus, share=share))
    assert sum("id_00" in name for name in names) == expected


def test_which_clips_are_held_out_depends_on_the_seed_and_on_no_order_and_no_other_id() -> None:
    own, others = clips_of(20), clips_of(9, machine_id="02")
    made = held_out(without_faults(corpus_of(own)))

    assert [name for name in held_out(without_faults(corpus_of(others, own[::-1]))) if "id_00" in name] == made
    assert len({tuple(held_out(without_faults(corpus_of(own), seed=seed))) for seed in range(5)}) == 5


@pytest.mark.parametrize(("train_on", "held"), [("development", 2), ("additional", 5), ("development+additional", 7)])
def test_only_clips_that_the_study_trains_on_are_held_out(train_on: TrainOn, held: int) -> None:
    corpus = corpus_of(clips_of(8), clips_of(20, source="additional"))
    assert len(held_out(without_faults(corpus, train_on=train_on))) == held


def test_without_two_clips_of_an_id_there_is_nothing_to_hold_out() -> None:
    with pytest.raises(StudyError, match=r"no machine ID in root has two of them \(additional\): add training clips"):
        without_faults(corpus_of(clips_of(9), clips_of(1, source="additional")), train_on="additional")


def test_each_proxy_of_an_id_has_as_many_clips_as_it_has_normal_ones(proxy_corpus: ProxyCorpus) -> None:
    counts = Counter((clip.id_name, clip.proxy) for clip in proxy_corpus.clips)
    assert counts == {(f"compressor/{name}", proxy): 2 for name in ("00", "02", "04") for proxy in (None, *PROXIES)}
    assert len({clip.name for clip in proxy_corpus.corpus.clips}) == len(proxy_corpus.corpus.clips)


def test_validation_clips_are_labelled_test_clips_and_the_only_ones(proxy_corpus: ProxyCorpus) -> None:
    assert labelled_test_clips(proxy_corpus.corpus) == proxy_corpus.clips
    assert all(clip.label == (NORMAL if clip.proxy is None else ANOMALY) for clip in proxy_corpus.clips)


def test_clips_of_other_ids_are_held_out_ones_of_the_same_machine() -> None:
    fans = [clips_of(count, machine_id=machine_id) for machine_id, count in (("00", 40), ("02", 12), ("04", 12))]
    corpus = corpus_of(*fans, clips_of(40, machine="pump", machine_id="06"))
    made = without_faults(corpus)

    normals = {clip.path: clip for clip in made.clips if clip.proxy is None}
    others = [clip for clip in made.clips if clip.proxy == OTHER_IDS]
    assert all(clip.machine == normals[clip.path].machine for clip in others)
    assert all(clip.machine_id != normals[clip.path].machine_id for clip in others)
    assert all(clip.digest == normals[clip.path].digest for clip in others)
    # Of 00 ten are held out, but only three each of the others; the pump has one ID.
    assert Counter(clip.id_name for clip in others) == {"fan/00": 6, "fan/02": 3, "fan/04": 3}
    sources = Counter((clip.machine_id, normals[clip.path].machine_id) for clip in others)
    assert (sources["00", "02"], sources["00", "04"]) == (3, 3)


def test_some_proxies_alone_are_the_same_clips_as_among_all(proxy_corpus: ProxyCorpus) -> None:
    chosen = (OTHER_IDS, Proxy("whine", 0.5))
    fewer = proxy_corpus.of_proxies(chosen)

    assert {clip.proxy for clip in fewer.clips} == {None, *chosen}
    assert fewer.clips == tuple(clip for clip in proxy_corpus.clips if clip.proxy in (None, *chosen))
    assert labelled_test_clips(fewer.corpus) == fewer.clips
    assert len(fewer.corpus.clips) - len(fewer.clips) == len(proxy_corpus.corpus.clips) - len(proxy_corpus.clips)


@pytest.mark.parametrize("steps", [2, 1000], ids=["many ties", "few ties"])
def test_the_value_is_the_mean_over_proxies(proxy_corpus: ProxyCorpus, steps: int) -> None:
    scores = np.random.default_rng(0).integers(0, steps, len(proxy_corpus.clips)).astype(np.float64)
    by_proxy = aucs_of(scores, proxy_corpus.clips)
    assert by_proxy.keys() == set(PROXIES)
    assert mean_auc(scores, Truth.of(proxy_corpus.clips)) == pytest.approx(np.mean(list(by_proxy.values())))


@pytest.mark.parametrize(
    ("aucs", "objection"),
    [
        ((1.0, 1.0), "always detected"),
        ((0.98, 0.99), "always detected"),
        ((1.0, 0.97), ""),
        ((0.97, 0.5), ""),
        ((0.56, 0.2), ""),
        ((0.55, 0.5), "not detected"),
        ((0.1, 0.3), "not detected"),
    ],
)
def test_a_proxy_that_every_detector_or_none_detects_is_left_out(aucs: tuple[float, ...], objection: str) -> None:
    assert ProxyJudgement(OTHER_IDS, aucs).objection == objection


def test_what_is_not_left_out_is_used_and_a_search_needs_one() -> None:
    easy, fit, hard = (
        ProxyJudgement(Proxy("noise", grade), (auc, auc)) for grade, auc in zip(GRADES, (1.0, 0.8, 0.5), strict=True)
    )
    assert useful_proxies([easy, fit, hard]) == (fit.proxy,)
    with pytest.raises(StudyError, match=r"noise 0\.25: always detected; noise 1: not detected"):
        useful_proxies([easy, hard])


@pytest.mark.usefixtures("_in_that_cache")
def test_cheap_detectors_judge_every_proxy_and_tell_the_strongest_grade_of_a_kind_best(
    proxy_corpus: ProxyCorpus,
) -> None:
    judgements = judge_proxies(proxy_corpus, FeatureSettings(n_mels=32))

    assert [judgement.proxy for judgement in judgements] == list(PROXIES)
    assert all(0 <= auc <= 1 for judgement in judgements for auc in judgement.aucs)
    aucs = {judgement.proxy: sum(judgement.aucs) for judgement in judgements}
    for kind in KINDS:
        assert aucs[Proxy(kind, GRADES[-1])] >= aucs[Proxy(kind, GRADES[0])]
    assert judge_proxies(proxy_corpus, FeatureSettings(n_mels=32)) == judgements


@pytest.mark.usefixtures("_in_that_cache")
@pytest.mark.parametrize(
    "model",
    [
        {"family": "vae", "context": 3, "h_dim": 8, "z_dim": 2},
        {"family": "vae", "context": 3, "h_dim": 8, "z_dim": 2, "per_id": True},
        {"family": "classifier", "frames": 16, "embedding_dim": 8, "crops_per_clip": 2},
    ],
    ids=["vae", "per ID", "classifier"],
)
def test_a_training_is_validated_by_these_clips_as_by_labelled_ones(
    proxy_corpus: ProxyCorpus, model: dict[str, Any]
) -> None:
    few = proxy_corpus.of_proxies([OTHER_IDS, Proxy("knock", 1.0)])
    training = Training(recipe_with(model), few.corpus, torch.device("cpu"))
    training.run_epoch()
    scores = training.validation_scores()

    assert tuple(training.validation_clips) == few.clips
    assert {clip.name for clip in training.clips.train}.isdisjoint(held_out(few))
    assert 0 <= mean_auc(scores, Truth.of(few.clips)) <= 1
    assert aucs_of(scores, few.clips).keys() == {OTHER_IDS, Proxy("knock", 1.0)}


@pytest.mark.usefixtures("_in_that_cache")
def test_another_host_makes_the_same_clips(proxy_corpus: ProxyCorpus, corpus_root: Path) -> None:
    counted: list[tuple[int, int]] = []
    held_out = hold_out(read_corpus(corpus_root), share=SHARE, seed=0)
    again = held_out.with_proxies(PROXIES, progress=lambda done, of: counted.append((done, of)))
    assert again == proxy_corpus
    assert counted[-1] == (90, 90)
