"""The search space of a study: ranges become Optuna's parameters, and a trial's parameters close the ranges."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial
from torch import Tensor, nn

from features.windows.excerpts import Batch
from models.anomaly_model import AnomalyModel
from models.labels import Labels
from models.layers.scale import Scale
from models.settings import WindowSettings
from search.errors import StudyFileError
from search.study.study import Study
from search.study.study_file import load_study, study_of_tree, to_yaml
from tests.support.families import add_family


class MeanSettings(WindowSettings):
    """A second family, with one setting of VAE's and one of its own."""

    family: Literal["mean"] = "mean"
    context: int = 1
    h_dim: int = 8
    decay: float = 0.5


class MeanModel(AnomalyModel):
    """Scores the distance from one learned vector."""

    def __init__(self, settings: MeanSettings, scale: Scale, labels: Labels) -> None:
        super().__init__()
        self.mean = nn.Linear(1, settings.context * scale.bins)

    def loss(self, batch: Batch) -> Tensor:
        return self.score(batch).mean()

    def score(self, batch: Batch) -> Tensor:
        return (batch.inputs - self.mean.bias).square().mean(dim=1)


@pytest.fixture
def second_family(monkeypatch: pytest.MonkeyPatch) -> None:
    """A family called `mean`, added as any is: a module, and a line in FAMILIES."""
    add_family(monkeypatch, "mean", Settings=MeanSettings, Model=MeanModel)


def study_with(model: Any = None, baseline: Any = None, overrides: tuple[str, ...] = (), **blocks: Any) -> Study:
    tree = {"study": "space", "model": {"family": "vae"} if model is None else model, **blocks}
    if baseline is not None:
        tree["baseline"] = baseline
    return study_of_tree(tree, origin="here", overrides=overrides)


def block(path: str, content: Any) -> dict[str, Any]:
    """A study's blocks with one setting put at a path."""
    section, key = path.split(".")
    blocks: dict[str, Any] = {"model": {"family": "vae"}}
    return {**blocks, section: {**blocks.get(section, {}), key: content}}


@pytest.mark.parametrize(
    ("path", "content", "distribution"),
    [
        ("model.h_dim", {"low": 200, "high": 500}, IntDistribution(200, 500)),
        ("model.h_dim", {"low": 16, "high": 512, "log": True}, IntDistribution(16, 512, log=True)),
        ("model.h_dim", {"low": 16, "high": 64, "step": 16}, IntDistribution(16, 64, step=16)),
        ("model.h_dim", {"choices": [64, 32]}, CategoricalDistribution([64, 32])),
        ("model.kld_weight", {"low": 0.0, "high": 0.5}, FloatDistribution(0, 0.5)),
        ("features.n_fft", {"low": 512, "high": 2048, "step": 512}, IntDistribution(512, 2048, step=512)),
        ("features.power", {"choices": [1, 2]}, CategoricalDistribution([1, 2])),
        (
            "corpus.train_on",
            {"choices": ["development", "additional"]},
            CategoricalDistribution(["development", "additional"]),
        ),
        ("training.learning_rate", {"low": 1e-5, "high": 0.1, "log": True}, FloatDistribution(1e-5, 0.1, log=True)),
        ("training.calibration_share", {"low": 0.1, "high": 0.3, "step": 0.1}, FloatDistribution(0.1, 0.3, step=0.1)),
        ("training.seed", {"low": 0, "high": 9}, IntDistribution(0, 9)),
        ("scoring.pooling", {"choices": ["mean", "max"]}, CategoricalDistribution(["mean", "max"])),
    ],
)
def test_a_range_of_any_setting_is_a_parameter_with_the_settings_own_name(
    path: str, content: dict[str, Any], distribution: BaseDistribution
) -> None:
    study = study_with(**block(path, content))

    assert study.space.distributions() == {path.split(".")[1]: distribution}


@pytest.mark.parametrize("path", ["training.learning_rate", "model.kld_weight", "scoring.false_alarm_rate"])
def test_a_range_between_integers_is_real_where_the_setting_is(path: str) -> None:
    name = path.split(".")[1]
    content = {"low": 0.5, "high": 0.75} if name == "false_alarm_rate" else {"low": 1, "high": 2}

    study = study_with(**block(path, content))

    assert isinstance(study.space.distributions()[name], FloatDistribution)


@pytest.mark.parametrize(
    ("path", "content", "value"),
    [
        ("model.h_dim", {"low": 200, "high": 500}, 321),
        ("features.n_mels", {"choices": [32, 64]}, 64),
        ("training.learning_rate", {"low": 1e-5, "high": 0.1, "log": True}, 0.012345678901234567),
        ("scoring.pooling", {"choices": ["mean", "max"]}, "max"),
    ],
)
def test_a_trial_closes_each_range_with_its_parameter(path: str, content: dict[str, Any], value: Any) -> None:
    section, name = path.split(".")

    recipe = study_with(**block(path, content)).close(FixedTrial({name: value}))

    assert recipe.tree()[section][name] == value


def test_a_study_without_ranges_asks_a_trial_for_nothing() -> None:
    study = study_with()

    assert study.space.settings == ()
    assert study.close(FixedTrial({})) == study.first_recipe()


def test_two_settings_are_two_parameters_with_two_values() -> None:
    # The student entry's "h_unit" named both, and Optuna gave one value for the two (FACTS.md).
    study = study_with(
        model={"family": "vae", "h_dim": {"low": 200, "high": 500}}, training={"batch_size": {"low": 200, "high": 1000}}
    )

    recipe = study.close(FixedTrial({"h_dim": 217, "batch_size": 983}))

    assert sorted(study.space.distributions()) == ["batch_size", "h_dim"]
    assert recipe.tree()["model"]["h_dim"] == 217
    assert recipe.training.batch_size == 983


@settings(max_examples=60, deadline=None, database=None)
@given(h_dim=st.integers(200, 500), batch_size=st.integers(200, 1000), learning_rate=st.floats(1e-5, 0.1))
def test_what_a_trial_is_given_is_what_its_recipe_holds(h_dim: int, batch_size: int, learning_rate: float) -> None:
    study = load_study("vae_tuning")

    trial = FixedTrial(
        {"h_dim": h_dim, "z_dim": 20, "batch_size": batch_size, "learning_rate": learning_rate, "epochs": 50}
    )
    recipe = study.close(trial)

    assert recipe.tree()["model"]["h_dim"] == h_dim
    assert recipe.training.batch_size == batch_size
    assert recipe.training.learning_rate.hex() == learning_rate.hex()


def test_closing_a_study_leaves_the_study_as_it_was() -> None:
    study = load_study("vae_tuning")
    before = to_yaml(study.tree)

    study.close(FixedTrial({"h_dim": 200, "z_dim": 4, "batch_size": 200, "learning_rate": 0.1, "epochs": 50}))

    assert to_yaml(study.tree) == before


@pytest.mark.parametrize(
    ("training", "most"),
    [
        ({"epochs": 7}, 7),
        ({"epochs": {"choices": [50, 100, 25]}}, 100),
        ({"epochs": {"low": 3, "high": 9}}, 9),
        ({}, 100),
    ],
)
def test_the_most_epochs_are_those_of_the_longest_trial(training: dict[str, Any], most: int) -> None:
    assert study_with(training=training).max_epochs == most


BRANCHES = [
    {"family": "vae", "h_dim": {"low": 16, "high": 64}, "z_dim": {"low": 2, "high": 8}},
    {"family": "mean", "h_dim": {"low": 8, "high": 16}, "decay": {"low": 0, "high": 1}},
]


@pytest.mark.usefixtures("second_family")
def test_families_are_the_branches_of_a_conditional_space() -> None:
    study = study_with(model=BRANCHES, training={"epochs": {"low": 1, "high": 3}})

    assert study.space.distributions() == {
        "family": CategoricalDistribution(["vae", "mean"]),
        "vae.h_dim": IntDistribution(16, 64),
        "z_dim": IntDistribution(2, 8),
        "mean.h_dim": IntDistribution(8, 16),
        "decay": FloatDistribution(0, 1),
        "epochs": IntDistribution(1, 3),
    }


@pytest.mark.usefixtures("second_family")
@pytest.mark.parametrize(
    ("params", "model"),
    [
        ({"family": "vae", "vae.h_dim": 20, "z_dim": 3}, {"family": "vae", "h_dim": 20, "z_dim": 3}),
        ({"family": "mean", "mean.h_dim": 9, "decay": 0.25}, {"family": "mean", "h_dim": 9, "decay": 0.25}),
    ],
)
def test_a_trial_is_asked_for_its_own_branch_alone(params: dict[str, Any], model: dict[str, Any]) -> None:
    # A FixedTrial refuses to be asked for a parameter that it was not given.
    recipe = study_with(model=BRANCHES).close(FixedTrial(params))

    assert recipe.tree()["model"].items() >= model.items()


@pytest.mark.usefixtures("second_family")
def test_a_name_that_one_branch_alone_leaves_open_has_no_family_in_front() -> None:
    study = study_with(model=[BRANCHES[0], {"family": "mean", "h_dim": 8}])

    assert sorted(study.space.distributions()) == ["family", "h_dim", "z_dim"]


def test_a_setting_of_the_model_has_its_family_in_front_where_another_block_opens_the_same_name() -> None:
    reach = {"low": 0.0, "high": 1.0}
    model = {"family": "vae", "score": {"choices": ["reconstruction", "mahalanobis"]}, "decay": reach}
    scoring = {"pooling": "gwrp", "decay": reach}

    assert sorted(study_with(model=model, scoring=scoring).space.distributions()) == ["decay", "score", "vae.decay"]
    assert sorted(study_with(model=model).space.distributions()) == ["decay", "score"]


@pytest.mark.usefixtures("second_family")
def test_the_baseline_of_a_conditional_space_names_its_family() -> None:
    baseline = {"family": "mean", "mean.h_dim": 8, "decay": 0.5}

    assert study_with(model=BRANCHES, baseline=baseline).baseline == baseline


@pytest.mark.usefixtures("second_family")
@pytest.mark.parametrize(
    ("override", "path", "baseline"),
    [
        ("model.mean.h_dim=9", ("model", 1, "h_dim"), {"family": "vae", "h_dim": 32, "decay": 0.5}),
        ("model.mean.decay=0.1", ("model", 1, "decay"), {"family": "vae", "vae.h_dim": 32}),
        ("model.vae.h_dim=33", ("model", 0, "h_dim"), {"family": "vae", "decay": 0.5}),
    ],
)
def test_set_names_the_family_of_a_list_and_the_baseline_follows_the_names(
    override: str, path: tuple[str, int, str], baseline: dict[str, Any]
) -> None:
    given_baseline = {"family": "vae", "vae.h_dim": 32, "decay": 0.5}

    study = study_with(model=BRANCHES, baseline=given_baseline, overrides=(override,))

    assert study.space.tree["model"][path[1]][path[2]] == pytest.approx(float(override.partition("=")[2]))
    assert study.baseline == baseline


@pytest.mark.usefixtures("second_family")
def test_a_list_that_is_set_to_one_family_leaves_no_family_open() -> None:
    study = study_with(
        model=BRANCHES, baseline={"family": "vae", "vae.h_dim": 32}, overrides=("model={family: mean, decay: 0.5}",)
    )

    assert study.space.distributions() == {}
    assert study.baseline == {}


@pytest.mark.usefixtures("second_family")
@pytest.mark.parametrize(
    ("model", "message"),
    [
        ([{"family": "vae"}, {"family": "mean", "decy": 1}], "model.1.decy is not a setting; did you mean decay?"),
        (
            [{"family": "vae"}, {"family": "mena"}],
            "model.1.family there is no model family 'mena'; did you mean mean?",
        ),
        ([{"family": "vae"}, {"h_dim": 8}], "model.1 `family` is missing"),
        ([{"family": "vae"}, {"family": "mean", "h_dim": {"low": 2, "high": 1}}], "model.1.h_dim low ≤ high must hold"),
        ([{"family": "vae"}, {"family": "mean", "h_dim": "x"}], "model.1.h_dim should be a valid integer"),
        (
            [{"family": "vae", "h_dim": {"low": 1, "high": 2}}, {"family": "vae", "h_dim": {"low": 1, "high": 2}}],
            "model.1.h_dim two open settings would both be the parameter 'vae.h_dim' (the other is model.0.h_dim)",
        ),
        ([{"family": "vae", "h_dim": 8}, {"family": "vae", "h_dim": 9}], "model.1 names the family vae again"),
        ([{"family": "vae"}, "mean"], "model.1 should be a valid dictionary"),
    ],
)
def test_a_wrong_branch_is_refused_by_its_place_in_the_list(model: list[Any], message: str) -> None:
    with pytest.raises(StudyFileError) as refused:
        study_with(model=model)

    assert str(refused.value).startswith(f"here: {message}")


@pytest.mark.usefixtures("second_family")
@pytest.mark.parametrize("override", ["model.h_dim=8", "model.vea.h_dim=8"])
def test_set_without_a_family_of_the_list_says_how_to_name_one(override: str) -> None:
    with pytest.raises(StudyFileError, match="`model` is a list; name the family: model.vae"):
        study_with(model=BRANCHES, overrides=(override,))


def test_set_on_a_list_that_holds_no_blocks_is_refused() -> None:
    with pytest.raises(StudyFileError, match="model must be a list of blocks"):
        study_with(model=["vae"], overrides=("model.vae.h_dim=8",))


def test_set_inside_a_list_of_values_is_refused() -> None:
    with pytest.raises(
        StudyFileError, match=r"setting corpus\.machines\.0=pump: machines is a value and holds no settings"
    ):
        study_with(corpus={"machines": ["fan"]}, overrides=("corpus.machines.0=pump",))
