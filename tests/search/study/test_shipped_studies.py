"""The study files that ship: each loads as it is, and says what it is."""

from __future__ import annotations

import re
from importlib import resources

import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from models.families import FAMILIES
from search.study.portfolio import cheapest_first, named_for_nothing
from search.study.study_file import load_study, shipped_studies

NAMES = sorted(file.name.removesuffix(".yaml") for file in resources.files("studies").iterdir() if "yaml" in file.name)


def text_of(name: str) -> str:
    return (resources.files("studies") / f"{name}.yaml").read_text()


def test_every_study_file_that_ships_can_be_named() -> None:
    assert sorted(shipped_studies()) == NAMES
    assert {"demo", "vae", "vae_tuning"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_study_loads_under_its_file_s_name(name: str) -> None:
    study = load_study(name)

    assert study.name == name
    assert study.space.settings


@pytest.mark.parametrize("name", NAMES)
def test_its_first_line_after_the_editors_one_says_in_a_sentence_what_it_is(name: str) -> None:
    _, first_line, *_ = text_of(name).splitlines()

    assert re.fullmatch(r"# [A-Z].{20,}\.", first_line)
    assert shipped_studies()[name] == first_line.removeprefix("# ")


@pytest.mark.parametrize("name", NAMES)
def test_it_says_where_no_clips_lie(name: str) -> None:
    # A shipped study takes its clips from --set corpus.root=DIR or $OFFKEY_DATA.
    assert load_study(name).first_recipe().corpus.root is None


@pytest.mark.parametrize("name", NAMES)
def test_its_baseline_is_a_whole_configuration(name: str) -> None:
    study = load_study(name)

    # A FixedTrial refuses to be asked for a parameter that it was not given.
    closed = study.close(FixedTrial(dict(study.baseline)))

    assert closed.study == name


@pytest.mark.parametrize("name", NAMES)
def test_its_portfolio_stands_in_the_order_in_which_it_is_tried(name: str) -> None:
    study = load_study(name)
    first = study.search.first or []

    assert cheapest_first(study.space, first, baseline=study.baseline, is_grid=False) == first
    assert named_for_nothing(study.space, study.baseline, first) == []
    assert len(first) >= 5 or name != "best"


def test_vae_tuning_searches_the_ranges_of_the_dcase_2020_entry() -> None:
    # DESIGN.md, "The experiments that must stand in studies/".
    assert load_study("vae_tuning").space.distributions() == {
        "learning_rate": FloatDistribution(1e-5, 1e-1, log=True),
        "h_dim": IntDistribution(200, 500),
        "z_dim": IntDistribution(4, 40),
        "batch_size": IntDistribution(200, 1000),
        "epochs": CategoricalDistribution([50, 100]),
    }


def test_vae_compares_epochs_and_training_sets_and_nothing_else() -> None:
    # DESIGN.md, the same table: "epochs 50/100 × development/additional/both".
    study = load_study("vae")

    assert study.space.distributions() == {
        "epochs": CategoricalDistribution([50, 100]),
        "train_on": CategoricalDistribution(["development", "additional", "development+additional"]),
    }
    assert study.search.trials == 6


@pytest.mark.parametrize("name", ["vae", "vae_tuning"])
def test_the_vae_studies_are_around_the_published_network(name: str) -> None:
    # FACTS.md: 128 mels × 5 frames = 640 inputs; 640-400-400-20; Adam 1e-3, batch 1000, 100 epochs.
    study = load_study(name)
    recipe = study.first_recipe()
    closed = {**recipe.tree()["model"], **recipe.tree()["training"], **study.baseline}

    assert (recipe.features.n_mels, recipe.features.n_fft, recipe.features.hop_length) == (128, 1024, 512)
    assert (closed["context"], closed["h_dim"], closed["z_dim"]) == (5, 400, 20)
    assert (closed["learning_rate"], closed["batch_size"], closed["epochs"]) == (1e-3, 1000, 100)


def test_best_has_every_family_as_a_branch_but_ensembles_which_are_made_of_its_recipes() -> None:
    families = [name for name, module in FAMILIES.items() if module.startswith("models.")]

    assert {block["family"] for block in load_study("best").space.tree["model"]} == set(families) - {"fusion"}


@pytest.mark.parametrize(
    "name",
    [
        "vae",
        "vae_tuning",
        "cae",
        "vae_per_id",
        "classifier",
        "features",
        "chroma_logmel",
        "cleaned",
        "group_made",
        "best",
    ],
)
def test_the_experiments_of_the_design_s_table_ship(name: str) -> None:
    assert name in NAMES
