"""What a trial keeps beside its parameters: the variant that it took."""

from __future__ import annotations

from optuna.trial import create_trial

from search.study.taken_variant import TakenVariant, taken_variant


def test_a_trial_that_kept_its_variant_shows_it() -> None:
    variant = TakenVariant({"score": "knn", "neighbours": 4}, tried=7)

    assert taken_variant(create_trial(value=0.5, system_attrs=variant.system_attributes)) == variant
    assert variant.user_attributes == {"chosen": "score knn, neighbours 4 (one of 7 tried on this training)"}


def test_a_trial_without_a_choice_or_of_an_earlier_version_shows_none() -> None:
    assert taken_variant(create_trial(value=0.5)) is None
