"""An ensemble of a study's own trials: which it takes, that training gives its foretold value, what it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna_dashboard import get_note
from pydantic import ValidationError
from scipy.stats import spearmanr

from search import api
from search.dashboard.note import write_note
from search.errors import MisuseError, StudyError
from search.evaluation.truth import Truth
from search.report.page import report
from search.results.ensemble import MOST_MEMBERS, Ensemble, export_ensemble, members_of, standings
from search.results.export import export_recipe
from search.study.ensembles import recipe_of_member
from search.study.recipe import Origin
from search.study.study_file import load_study, to_yaml
from tests.support.tiny_study import trials_of

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]


@pytest.mark.parametrize(
    ("values", "alike", "members"),
    [
        pytest.param([0.9, 0.85, 0.81, 0.79], [], [0, 1, 2], id="those within one standard error"),
        pytest.param([0.9, 0.8, 0.79], [], [0, 1], id="one standard error is within"),
        pytest.param([0.9, 0.89, 0.88, 0.87], [(0, 1), (2, 3)], [0, 2], id="of those alike the better one"),
        pytest.param([0.9, 0.89, 0.88], [(1, 2)], [0, 1], id="alike among themselves, though not like the best"),
        pytest.param([0.9, 0.89, 0.88], [(0, 1)], [0, 2], id="one that is left out leaves nobody out"),
        pytest.param([0.9] * 8, [], [0, 1, 2, 3, 4], id="five at most"),
        pytest.param([0.9, 0.5], [], [], id="the best alone is no ensemble"),
        pytest.param([0.9, 0.9], [(0, 1)], [], id="nor is one detector twice"),
        pytest.param([0.9], [], [], id="nor is a single trial"),
        pytest.param([], [], [], id="nor is nothing"),
    ],
)
def test_members_are_good_and_unlike(values: list[float], alike: list[tuple[int, int]], members: list[int]) -> None:
    def likeness(one: int, other: int) -> float:
        return 0.995 if (one, other) in alike else 0.99

    assert members_of(values, error=lambda position: 0.1 + 1e-12, likeness=likeness) == members


def test_each_trial_has_its_own_standard_error_of_the_difference() -> None:
    errors = {1: 0.01, 2: 0.2}

    assert members_of([0.9, 0.85, 0.8], error=errors.__getitem__, likeness=lambda one, other: 0.0) == [0, 2]


def test_likeness_is_the_mean_of_the_machine_ids_rank_correlations() -> None:
    rng = np.random.default_rng(0)
    truth = Truth(ids=("fan/00",) * 20 + ("fan/02",) * 10, labels=(0, 1) * 15)
    one, other = rng.normal(size=(2, 30)).round(1)  # with ties
    expected = [spearmanr(one[part], other[part]).statistic for part in (slice(20), slice(20, 30))]

    assert standings(one, truth) @ standings(other, truth) == pytest.approx(np.mean(expected), abs=1e-12)
    assert standings(one, truth) @ standings(np.exp(one), truth) == pytest.approx(1.0)


def test_another_level_of_each_machine_id_makes_no_two_trials_alike() -> None:
    """Over all clips together the correlation would be close to 1."""
    rng = np.random.default_rng(0)
    truth = Truth(ids=("fan/00",) * 200 + ("fan/02",) * 200, labels=(0, 1) * 200)
    level = np.repeat([0.0, 100.0], 200)

    assert abs(standings(level + rng.normal(size=400), truth) @ standings(level + rng.normal(size=400), truth)) < 0.2


def test_scores_that_are_all_alike_are_like_no_others() -> None:
    truth = Truth(ids=("fan/00",) * 4, labels=(0, 1, 0, 1))

    assert standings(np.ones(4), truth) @ standings(np.ones(4), truth) == 0.0


VAE = {"family": "vae", "context": 2, "h_dim": {"low": 4, "high": 16}, "z_dim": 2}
STUDIES: dict[str, dict[str, Any]] = {
    "networks": {"model": VAE},
    "families": {"model": [VAE, {"family": "stat", "decay": {"choices": [0.0, 0.5, 1.0]}}]},
    "variants": {
        "model": {**VAE, "score": {"choices": ["reconstruction", "knn", "mahalanobis"]}},
        "scoring": {"pooling": {"choices": ["mean", "max"]}},
    },
    "calibrated scores": {
        "model": {"family": "stat", "decay": {"low": 0.0, "high": 1.0}},
        "training": {"calibration_share": 0.5, "threads": 1},
        "scoring": {"calibration": "z"},
    },
    "proxies": {"model": VAE, "validation": {"metric": "proxy", "proxies": ["knock 1", "other IDs"]}},
}


def searched(tiny_study: MakeStudy, trials: int = 4, **blocks: Any) -> TinyStudy:
    """A study whose trials have ended; a small one has wide standard errors, so that some trials lead together."""
    training = {"learning_rate": 0.01, "batch_size": 128, "epochs": 1, "threads": 1}
    standard = {"features": {"n_mels": 16}, "training": training, "baseline": {}, **STUDIES["families"]}
    study = tiny_study(trials=trials, **{**standard, **blocks})
    study.worker().run()
    return study


@pytest.fixture
def command(offkey: Callable[..., Ran], monkeypatch: pytest.MonkeyPatch, storage_url: str) -> Callable[..., Ran]:
    """The command line on the test's storage."""
    monkeypatch.setenv("OFFKEY_STORAGE", storage_url)
    return offkey


@pytest.mark.parametrize("blocks", STUDIES.values(), ids=STUDIES)
def test_the_trained_ensemble_has_the_validation_value_that_the_search_foretold(
    command: Callable[..., Ran], tiny_study: MakeStudy, blocks: dict[str, Any]
) -> None:
    searched(tiny_study, **blocks)
    foretold = json.loads(command("status", "tiny", "--json").stdout)["ensemble"]

    exported = command("export", "tiny", "--ensemble", "-o", "recipe.yaml")
    trained = command("train", "recipe.yaml", "-o", "bundle", "--json")

    assert (exported.code, trained.code) == (0, 0), exported.stderr + trained.stderr
    assert 2 <= len(foretold["trials"]) <= MOST_MEMBERS
    assert json.loads(trained.stdout)["validation"]["auc"] == foretold["value"]


def test_its_members_are_the_trials_recipes_and_a_study_file_that_leaves_nothing_open(tiny_study: MakeStudy) -> None:
    study = searched(tiny_study)

    recipe = export_ensemble(study.storage, study.stored)
    Path("recipe.yaml").write_text(to_yaml(recipe.tree()), encoding="utf-8")

    assert load_study("recipe.yaml").first_recipe() == recipe
    assert recipe.from_ is not None and recipe.from_.trials is not None
    assert recipe.tree()["from"] == {"study": "tiny", "trials": recipe.from_.trials}
    assert (recipe.study, list(recipe.ensemble)) == (
        "tiny-ensemble",
        [f"trial-{number}" for number in recipe.from_.trials],
    )
    for name, number in zip(recipe.ensemble, recipe.from_.trials, strict=True):
        of_trial = export_recipe(study.storage, study.stored, number=number)
        alone = recipe_of_member(recipe, name).tree()
        assert alone | {"study": of_trial.study, "from": {"study": "tiny", "trial": number}} == of_trial.tree()
    values = [trial.value for trial in trials_of(study)]
    assert recipe.from_.trials[0] == values.index(max(value for value in values if value is not None))


def test_status_and_export_say_what_it_is_worth(command: Callable[..., Ran], tiny_study: MakeStudy) -> None:
    searched(tiny_study)
    ensemble = json.loads(command("status", "tiny", "--json").stdout)["ensemble"]
    *others, last = map(str, ensemble["trials"])
    named = f"trials {', '.join(others)} and {last}"

    said = " ".join(command("status", "tiny").stdout.split())
    exported = command("export", "tiny", "--ensemble", "-o", "recipe.yaml")

    assert f"An ensemble of {named} would have {ensemble['value']:.3f} instead of " in said
    assert said.count("offkey export tiny --ensemble") == 1
    assert exported.stderr == f"Wrote recipe.yaml: {named} of tiny\n"


def test_the_note_the_report_and_a_notebook_have_it_too(tiny_study: MakeStudy) -> None:
    study = searched(tiny_study)
    optuna_study = optuna.load_study(study_name="tiny", storage=study.storage)
    notebook = api.Study.load("tiny", storage=study.url)
    ensemble = notebook.summary().ensemble
    assert ensemble is not None
    sentence = ensemble.in_words("tiny", notebook.best.value or 0.0)

    write_note(study.storage, study.stored, optuna_study)

    assert sentence in str(get_note(optuna_study))
    assert f"{sentence}." in report(study.storage, study.stored)
    assert notebook.ensemble() == export_ensemble(study.storage, study.stored)


@pytest.mark.parametrize(
    ("value", "best", "is_said"),
    [(0.91, 0.914, False), (0.914, 0.914, False), (0.9143, 0.9141, False), (0.92, 0.914, True), (None, 0.914, True)],
    ids=["worse", "equal", "equal at three decimals", "better", "unknown"],
)
def test_an_ensemble_is_offered_where_it_may_be_better_than_the_best_trial_alone(
    value: float | None, best: float, is_said: bool
) -> None:
    assert bool(Ensemble((3, 1), value).in_words("tiny", best)) == is_said


def test_who_exports_an_ensemble_that_is_no_better_is_told(
    tiny_study: MakeStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    study, told = searched(tiny_study), list[str]()
    monkeypatch.setattr(Ensemble, "is_better_than", lambda ensemble, best: False)

    export_ensemble(study.storage, study.stored, tell=told.append)

    (warning,) = told
    assert re.fullmatch(r"the ensemble has a validation AUC of 0\.\d{3}, trial \d alone has [01]\.\d{3}", warning)


def test_trials_that_kept_no_scale_make_an_ensemble_of_unknown_value(
    command: Callable[..., Ran], tiny_study: MakeStudy
) -> None:
    """As those of folds, and those that an earlier version ended."""
    study = searched(tiny_study, validation={"folds": 2})

    ensemble = json.loads(command("status", "tiny", "--json").stdout)["ensemble"]
    said = " ".join(command("status", "tiny").stdout.split())

    assert ensemble["value"] is None
    assert "may be better than the best trial alone: offkey export tiny --ensemble" in said
    assert export_ensemble(study.storage, study.stored).from_ is not None


def test_the_best_member_alone_stands_beside_it_and_both_test_evaluations_are_counted(
    command: Callable[..., Ran], tiny_study: MakeStudy
) -> None:
    searched(tiny_study)
    assert command("export", "tiny", "--ensemble", "-o", "ensemble.yaml").code == 0
    assert command("export", "tiny", "-o", "best.yaml").code == 0

    best = json.loads(command("train", "best.yaml", "-o", "best", "--json").stdout)
    ensemble = json.loads(command("train", "ensemble.yaml", "-o", "ensemble", "--json").stdout)
    shown = " ".join(command("train", "ensemble.yaml", "-o", "again").stdout.split())

    member = ensemble["best_member"]
    assert (member["validation"], member["test"]["auc"]) == (best["validation"]["auc"], best["test"]["auc"])
    assert (member["test"]["interval"], member["test"]["gain"]["interval"]) == (None, None)  # three clips of each label
    assert member["test"]["gain"]["difference"] == ensemble["test"]["auc"] - best["test"]["auc"]
    assert "Test AUC: no interval: it takes 5 normal clips and 5 anomalies of each machine ID" in shown
    assert best["best_member"] is None
    # The member's is one of the recipe that was measured before; the ensemble is the second recipe.
    assert (best["test_looks"], best["test_recipes"]) == (1, 1)
    assert (ensemble["test_looks"], ensemble["test_recipes"]) == (3, 2)
    assert f"test, {member['name']} alone {best['test']['auc']:.3f}" in shown
    assert f"Its best member alone, {member['name']}, has a test AUC of" in Path("ensemble/README.md").read_text()


def refused(tiny_study: MakeStudy, **blocks: Any) -> str:
    study = searched(tiny_study, **blocks)
    with pytest.raises((MisuseError, StudyError)) as error:
        export_ensemble(study.storage, study.stored)
    return str(error.value)


@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        ({"trials": 1}, "takes at least two trials that are within one standard error of the best .* its 1 complete"),
        ({"trials": 2, "model": {"family": "stat"}}, "but of its 2 complete trials no two are"),
        ({"trials": 2, "validation": {"metric": ["auc", "parameters"]}}, r"has several objectives \(auc, parameters\)"),
        (
            {
                "trials": 2,
                "model": {
                    "family": "fusion",
                    "combine": {"choices": ["mean", "max"]},
                    "members": {"a": {"model": {"family": "stat"}}, "b": {"model": {"family": "stat", "decay": 0.5}}},
                },
            },
            "no two are",
        ),
    ],
    ids=["one trial", "the same detector twice", "several objectives", "ensembles of ensembles"],
)
def test_a_study_without_an_ensemble_says_why(tiny_study: MakeStudy, blocks: dict[str, Any], message: str) -> None:
    assert re.search(message, refused(tiny_study, **blocks))


def test_members_train_on_the_clips_of_the_best_trial(tiny_study: MakeStudy) -> None:
    shares = {"choices": [0.2, 0.5]}
    stat = {"family": "stat", "decay": {"low": 0.0, "high": 1.0}}
    study = searched(tiny_study, trials=8, model=stat, training={"calibration_share": shares, "threads": 1})
    trials = trials_of(study)

    origin = export_ensemble(study.storage, study.stored).from_

    assert origin is not None and origin.trials is not None
    assert len({trial.params["calibration_share"] for trial in trials}) == 2
    assert len({trials[number].params["calibration_share"] for number in origin.trials}) == 1


def test_a_trial_and_an_ensemble_exclude_each_other(command: Callable[..., Ran], tiny_study: MakeStudy) -> None:
    tiny_study(trials=1)

    ran = command("export", "tiny", "--ensemble", "--trial", 0)

    assert ran.code == 2
    assert "--ensemble chooses its trials itself, but --trial 0 names one" in " ".join(ran.stderr.split())


@pytest.mark.parametrize("origin", [{}, {"trial": 1, "trials": [1, 2]}, {"trials": [1]}])
def test_an_origin_is_one_trial_or_several(origin: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Origin.model_validate({"study": "tiny", **origin})
