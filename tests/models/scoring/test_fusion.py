"""An ensemble: members on one scale, combined; what it refuses to be made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from features.store.files import FrameStore
from models.labels import Labels
from models.member import Member
from models.recordings import Recordings
from models.scoring.fusion import Fusion, Settings
from models.scoring.scorer import Single
from models.scoring.scores import Scores

VAE: dict[str, Any] = {"model": {"family": "vae"}}
LABELS = Labels.of([("fan/00", ""), ("fan/02", "")])
NORMALS = ("fan/00", "fan/00", "fan/00", "fan/02", "fan/02", "fan/02")


class Told(Single):
    """A member that scores clips as it is told: by the number in their path."""

    def __init__(self, scores: Sequence[float]) -> None:
        nn.Module.__init__(self)
        self.told = np.array(scores, dtype=np.float64)
        self.densities = None

    def scores_of(self, recordings: Recordings) -> Scores:
        return np.array([self.told[int(path.stem)] for path in recordings.paths])


def recordings(numbers: Sequence[int], ids: Sequence[str]) -> Recordings:
    def no_frames(features: object) -> FrameStore:
        raise NotImplementedError

    return Recordings(
        store=no_frames,
        positions=tuple(numbers),
        paths=tuple(Path(f"{number}.wav") for number in numbers),
        ids=tuple(ids),
        attributes=("",) * len(ids),
        device=torch.device("cpu"),
    )


def fused(clips: Sequence[tuple[float, float]], *, ids: Sequence[str] = ("fan/00",), **settings: Any) -> list[float]:
    """Scores of clips that two members, a and b, score so. Both score three normal clips of each ID 1, 2, 3; b, in
    tens, and 100 higher for ID 02."""
    of_a = [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, *(a for a, _ in clips)]
    of_b = [10.0, 20.0, 30.0, 110.0, 120.0, 130.0, *(b for _, b in clips)]
    weights = settings.pop("weights", (1.0, 1.0))
    members = {name: {"model": {"family": "vae"}, "weight": weight} for name, weight in zip("ab", weights, strict=True)}
    fusion = Fusion(Settings.model_validate({"members": members, **settings}), LABELS, [Told(of_a), Told(of_b)])
    # Members come to their scale by the clips that they were trained on and by the withheld ones.
    fusion.fit(recordings((0, 1, 3, 4), ("fan/00",) * 2 + ("fan/02",) * 2), recordings((2, 5), ("fan/00", "fan/02")))
    numbers = range(len(NORMALS), len(NORMALS) + len(clips))
    return list(fusion.scores_of(recordings(numbers, list(ids) * (len(clips) // len(ids)))))


# On scale z, by hand: of a the mean is 2 and the deviation 1, of b (of ID 00) 20 and 10.
@pytest.mark.parametrize(
    ("settings", "score"),
    [
        ({"combine": "mean"}, (3.0 + 1.0) / 2),
        ({"combine": "min"}, 1.0),
        ({"combine": "max"}, 3.0),
        ({"combine": "weights", "weights": (3.0, 1.0)}, (3 * 3.0 + 1.0) / 4),
        ({"combine": "weights", "weights": (0.0, 2.0)}, 1.0),
    ],
)
def test_members_meet_in_standard_deviations_of_the_id_s_normal_clips(settings: dict[str, Any], score: float) -> None:
    assert fused([(5.0, 30.0)], **settings) == [pytest.approx(score, abs=1e-12)]


# By hand: the same z, 3 and 1, and −2 of a clip below the normal ones.
@pytest.mark.parametrize(
    ("settings", "clip", "score"),
    [
        ({"combine": "mean"}, (5.0, 30.0), (np.log(4) + np.log(2)) / 2),
        ({"combine": "mean"}, (0.0, 20.0), -np.log(3) / 2),
        ({"combine": "weights", "weights": (3.0, 1.0)}, (5.0, 30.0), (3 * np.log(4) + np.log(2)) / 4),
        ({"combine": "max"}, (5.0, 30.0), 3.0),  # the order stays, so that the squash has no effect
        ({"combine": "min"}, (5.0, 30.0), 1.0),
    ],
)
def test_means_may_be_of_squashed_scores(settings: dict[str, Any], clip: tuple[float, float], score: float) -> None:
    assert fused([clip], squash=True, **settings) == [pytest.approx(score, abs=1e-12)]


def test_squashed_members_outvote_one_that_shouts() -> None:
    calm, shouted = (4.0, 40.0), (0.0, 220.0)  # z of 2 and 2; of −2 and 20

    plain, squashed = fused([calm, shouted]), fused([calm, shouted], squash=True)

    assert plain[1] > plain[0]
    assert squashed[0] > squashed[1]


def test_ranks_are_those_that_normal_clips_would_have() -> None:
    # Of three normal clips the middle one has rank 2 of 4, the highest 3 of 4.
    assert fused([(2.0, 20.0), (2.0, 30.0)], combine="rank") == pytest.approx([0.5, (0.5 + 0.75) / 2], abs=1e-12)


def test_a_member_that_shouts_is_heard_no_more_by_its_rank() -> None:
    loud, louder = fused([(2.0, 1e3), (2.0, 1e9)], combine="rank")
    assert louder == pytest.approx(loud, abs=1e-6)
    assert fused([(2.0, 1e9)], combine="mean")[0] > 1e6


def test_each_id_has_a_scale_of_its_own() -> None:
    of_00, of_02 = fused([(2.0, 20.0), (2.0, 120.0)], ids=("fan/00", "fan/02"))

    assert of_00 == of_02 == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize(("withheld", "zero"), [(9, 10.0), (10, 100.0)])
def test_ten_withheld_clips_of_each_id_are_scale_enough(withheld: int, zero: float) -> None:
    # Both members score trained clips 0 and withheld ones 100, of one ID; the scale's zero is their mean.
    told = [0.0] * 81 + [100.0] * withheld + [zero]
    labels = Labels.of([("fan/00", "")])
    fusion = Fusion(Settings.model_validate({"members": {"a": VAE, "b": VAE}}), labels, [Told(told), Told(told)])
    ids = ("fan/00",) * len(told)

    fusion.fit(recordings(range(81), ids[:81]), recordings(range(81, 81 + withheld), ids[:withheld]))

    assert fusion.scores_of(recordings([len(told) - 1], ids[:1])) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("combine", ["mean", "min", "max", "rank"])
@pytest.mark.parametrize("calibrate", ["z", "empirical"])
def test_members_that_agree_on_the_order_are_not_overruled(combine: str, calibrate: str) -> None:
    rising = [(step / 2, 5.0 * step) for step in range(12)]

    scores = fused(rising, combine=combine, calibrate=calibrate)

    assert np.all(np.diff(scores) > 0)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ({"per_id": True}, "is for members, each by its own"),
        ({"unknown_id": "shared"}, "is for members, each by its own"),
        ({"members": {"a": VAE, "b": {"model": {"family": "fusion", "members": {"c": VAE, "d": VAE}}}}}, "b is an ens"),
        ({"members": {"a.b": VAE, "c": VAE}}, r"letters, digits, _, \+ and -, but got 'a.b'"),
        ({"members": {}}, "two members at least, but got 0"),
        ({"members": {"a": VAE}}, "two members at least, but got 1"),
        (
            {"combine": "weights", "members": {"a": {**VAE, "weight": 0.0}, "b": {**VAE, "weight": 0.0}}},
            "at least one member's weight must be above 0",
        ),
        ({"members": {"a": VAE, "b": {**VAE, "weight": -1.0}}}, "greater than or equal to 0"),
    ],
)
def test_what_is_no_ensemble_is_refused(block: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Settings.model_validate({"members": {"a": VAE, "b": VAE}, **block})


def test_a_member_is_asked_what_it_requires_of_the_labels() -> None:
    per_id: dict[str, Any] = {"family": "vae", "per_id": True}
    settings = Settings.model_validate({"members": {"a": {"model": {"family": "vae"}}, "b": {"model": per_id}}})

    settings.require(LABELS, {"fan/00"})
    with pytest.raises(Exception, match="cannot score fan/04: no training clip of it"):
        settings.require(LABELS, {"fan/04"})


def test_its_members_are_members_with_all_that_one_model_has() -> None:
    settings = Settings.model_validate({"members": {"a": VAE, "b": VAE}})

    assert isinstance(settings.ensemble["a"], Member)
    assert settings.is_trained
