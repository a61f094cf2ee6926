"""Which variant a trial takes: the best one in the weighted mean over trainings."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.training.choice import choose


def test_the_best_variant_is_taken() -> None:
    assert choose(np.array([0.8, 0.9, 0.85]), [], [0, 3, 1]) == 1


def test_of_equal_variants_the_one_with_the_fewest_changes_is_taken() -> None:
    assert choose(np.array([0.5, 0.9, 0.9, 0.9]), [], [0, 2, 1, 1]) == 2


def test_the_study_s_trainings_count_and_not_this_trial_s_luck() -> None:
    lucky = np.array([0.8, 0.7, 0.9])
    others = [np.array([0.7, 0.8, 0.6]), np.array([0.6, 0.7, 0.5]), np.array([0.65, 0.75, 0.55])]

    assert choose(lucky, [], [0, 1, 1]) == 2
    assert choose(lucky, others, [9, 1, 1]) == 1


def test_the_trial_s_own_table_counts_a_quarter_of_another_s() -> None:
    other = np.array([0.7, 0.6])  # one tenth in favour of the first variant

    assert choose(np.array([0.5, 0.88]), [other], [0, 1]) == 0
    assert choose(np.array([0.5, 0.92]), [other], [0, 1]) == 1


def test_a_better_training_lifts_no_variant_that_the_others_lack() -> None:
    """The second variant has a value in the good training alone, and is worse there."""
    good, weak = np.array([0.95, 0.94]), np.array([0.5, np.nan])

    assert choose(good, [weak, weak], [1, 0]) == 0


def test_a_variant_without_scores_is_never_taken() -> None:
    assert choose(np.array([np.nan, 0.6]), [np.array([0.9, 0.5])], [0, 1]) == 1


def test_a_trial_without_any_scores_has_no_choice() -> None:
    with pytest.raises(ValueError, match="no variant has a value"):
        choose(np.array([np.nan, np.nan]), [], [0, 1])


tables = st.integers(1, 6).flatmap(
    lambda count: st.lists(st.lists(st.floats(0, 1, width=16), min_size=count, max_size=count), min_size=1, max_size=5)
)


@given(tables, st.floats(-0.5, 0.5))
def test_what_lifts_a_whole_training_changes_no_choice(rows: list[list[float]], lift: float) -> None:
    own, *others = [np.array(row) for row in rows]
    changes = list(range(len(own)))
    chosen = choose(own, others, changes)

    assert chosen == choose(own + lift, [other - lift for other in others], changes)
