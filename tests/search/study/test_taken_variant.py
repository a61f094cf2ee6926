"""What a trial keeps beside its parameters: the variant that it took."""

from __future__ import annotations

from typing import Any

import pytest
from optuna.trial import create_trial

from search.study.taken_variant import taken_variant, variant_in_short


@pytest.mark.parametrize(
    ("chosen", "family", "in_words"),
    [
        ({"vae.score": "knn", "vae.neighbours": 4}, "vae", "score knn, neighbours 4 (one of 7 tried on this training)"),
        ({"pooling": "top", "top_share": 0.1}, None, "pooling top, top_share 0.1 (one of 7 tried on this training)"),
    ],
    ids=["a family's own settings", "settings of a study with one family"],
)
def test_a_trial_that_kept_its_variant_shows_it(chosen: dict[str, Any], family: str | None, in_words: str) -> None:
    variant = variant_in_short(chosen, family, 7)
    assert variant is not None

    assert taken_variant(create_trial(value=0.5, system_attrs=variant.system_attributes)) == variant
    assert variant.user_attributes == {"chosen": in_words}


def test_a_trial_without_a_choice_or_of_an_earlier_version_shows_none() -> None:
    assert variant_in_short({}, "stat", 1) is None
    assert taken_variant(create_trial(value=0.5)) is None
