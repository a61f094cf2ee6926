"""Samplers: what a study draws, whoever draws it."""

from __future__ import annotations

from typing import Any

import optuna
import pytest

from search.errors import StudyFileError
from search.sampling import sampler_for
from search.study_file import Study, load_study, study_of_tree


def drawn(study: Study, number: int) -> dict[str, Any]:
    """What a fresh process would suggest for the trial with this number."""
    storage = optuna.create_study(sampler=sampler_for(study, number))
    trial = storage.ask(study.space.distributions())
    return trial.params


def test_the_shipped_vae_runs_every_combination_of_its_table_once_the_baseline_first() -> None:
    study = load_study("vae")
    assert study.search.trials == 6
    combinations = [drawn(study, number) for number in range(6)]
    assert combinations[0] == {"train_on": "development", "epochs": 100}
    assert {tuple(sorted(c.items())) for c in combinations} == {
        (("epochs", epochs), ("train_on", source))
        for epochs in (50, 100)
        for source in ("development", "additional", "development+additional")
    }


def test_a_grid_has_no_more_trials_than_points() -> None:
    study = load_study("vae", overrides=["corpus.train_on={choices: [development]}", "search.trials=6"])
    assert study.search.trials == 2


def test_a_grid_takes_choices_only() -> None:
    with pytest.raises(StudyFileError, match=r"model.h_dim must be given as choices for search.sampler: grid"):
        load_study("vae", overrides=["model.h_dim={low: 8, high: 16}"])


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_a_draw_depends_on_the_study_seed_and_the_trial_number_alone(sampler: str) -> None:
    def study(seed: int) -> Study:
        tree = {
            "study": "draws",
            "model": {"family": "vae", "h_dim": {"low": 1, "high": 10**6}},
            "search": {"sampler": sampler, "seed": seed},
        }
        return study_of_tree(tree, origin="draws")

    assert drawn(study(0), 3) == drawn(study(0), 3)
    assert drawn(study(0), 3) != drawn(study(0), 4)
    assert drawn(study(0), 3) != drawn(study(1), 3)
