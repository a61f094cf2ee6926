"""The JSON Schema of study files: what editors accept and refuse is what `offkey search` does, setting by setting."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft7Validator
from ruamel.yaml import YAML

from models.families import FAMILIES, settings_of
from search.errors import MisuseError
from search.study.schema.json_schema import study_schema
from search.study.schema.settings_in_words import settings_in
from search.study.study_file import EDITORS_LINE, load_study, shipped_schema, shipped_studies, study_of_tree

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]

SHIPPED = list(shipped_studies())


@pytest.fixture(autouse=True)
def _only_families_that_ship(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests of this process may have added some."""
    for family, module in list(FAMILIES.items()):
        if not module.startswith("models."):
            monkeypatch.delitem(FAMILIES, family)


@pytest.fixture
def schema() -> Draft7Validator:
    return Draft7Validator(study_schema())


def file_of(name: str) -> Path:
    return shipped_schema().with_name(f"{name}.yaml")


def study(**blocks: Any) -> dict[str, Any]:
    """The tree of a study without a mistake; `blocks` replace its blocks."""
    return {
        "study": "tried",
        "model": {"family": "vae", "h_dim": {"low": 8, "high": 64, "log": True}, "z_dim": {"choices": [2, 4]}},
        "training": {"learning_rate": {"low": 1e-4, "high": 1}, "epochs": 3},
        "baseline": {"h_dim": 16},
        "search": {"trials": 3},
        **blocks,
    }


def ensemble(**members: dict[str, Any]) -> dict[str, Any]:
    return {"family": "fusion", "combine": {"choices": ["mean", "max"]}, "members": members}


def test_it_is_a_schema_of_draft_7(schema: Draft7Validator) -> None:
    Draft7Validator.check_schema(dict(schema.schema))


def test_the_file_that_ships_is_what_the_code_says(offkey: Offkey) -> None:
    ran = offkey("settings", "--json-schema")

    assert (ran.code, ran.stderr) == (0, "")
    assert json.loads(shipped_schema().read_text()) == json.loads(ran.stdout), (
        "after a change to a setting: offkey settings --json-schema > studies/study.schema.json"
    )


def test_one_block_has_no_schema_of_its_own(offkey: Offkey) -> None:
    ran = offkey("settings", "vae", "--json-schema")

    assert (ran.code, ran.stdout) == (2, "")
    assert "--json-schema describes a whole study file, not vae alone" in ran.stderr


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_study_is_valid_and_opens_with_the_line_by_which_editors_find_the_schema_beside_it(
    name: str, schema: Draft7Validator
) -> None:
    text = file_of(name).read_text()

    assert list(schema.iter_errors(YAML(typ="safe").load(text))) == []
    place = text.splitlines()[0].removeprefix(EDITORS_LINE)
    assert (file_of(name).parent / place).samefile(shipped_schema())


@pytest.mark.parametrize("name", SHIPPED)
def test_a_recipe_is_valid(name: str, schema: Draft7Validator) -> None:
    recipe = load_study(name).first_recipe().tree() | {"from": {"study": name, "trial": 3}}

    assert list(schema.iter_errors(recipe)) == []


@pytest.mark.parametrize("family", [name for name, module in FAMILIES.items() if module.startswith("models.")])
def test_every_setting_of_a_family_is_in_it_with_its_description(family: str, schema: Draft7Validator) -> None:
    settings = settings_in(settings_of(family))
    known = schema.schema["definitions"][family]["properties"]

    assert list(known) == list(settings)
    assert {name: of.get("description") for name, of in known.items()} == {
        name: of.get("description") for name, of in settings.items()
    }


@pytest.mark.parametrize(
    "blocks",
    [
        {},
        {"features": {"kind": ["logmel", "chroma"]}},
        {"features": {"kind": {"choices": ["logmel", "logmel+chroma"]}, "tuning": {"low": -0.5, "high": 0.25}}},
        {"model": {"family": "stat", "statistic": ["quantile", "maximum"]}, "training": {}, "baseline": {}},
        {"model": {"family": "vae", "score": "knn", "statistic": {"choices": ["mean", "quiet+loud"]}}, "baseline": {}},
        {"model": [{"family": "vae"}, {"family": "cae", "frames": {"choices": [64, "square"]}}], "baseline": {}},
        {"model": {"family": "vae", "conditional": {"choices": [False, True]}}, "baseline": None},
        {"training": {"seed": {"choices": [0, 1, 2]}, "learning_rate": {"low": 0.5, "high": 1, "step": 0.5}}},
        {"validation": {"metric": ["auc", "parameters"]}, "search": {"constraints": {"min_worst_id": 0.7}}},
        {"search": None, "baseline": None},
        {"search": {"first": [{"h_dim": 16, "z_dim": 2}, {"from": ["other", "recipe.yaml"], "top": 2}]}},
        {"search": {"first": {"from": ["other"]}}},
        {"search": {"first": None}},
    ],
    ids=str,
)
def test_what_a_study_may_say_is_valid(blocks: dict[str, Any], schema: Draft7Validator) -> None:
    tree = study(**blocks)
    study_of_tree(tree, origin="here")  # as the command line sees it

    assert list(schema.iter_errors(tree)) == []


@pytest.mark.parametrize(
    "members",
    [
        {
            "log-mel": {"features": {"kind": "logmel"}, "model": {"family": "vae", "z_dim": {"low": 2, "high": 8}}},
            "chroma": {"features": {"kind": "chroma"}, "model": {"family": "vae"}, "weight": {"low": 0, "high": 1}},
        },
        {"one": {"recipe": "one.yaml"}, "two": {"recipe": "two.yaml", "model": {"z_dim": 3}, "weight": 0.5}},
    ],
    ids=["models", "recipes"],
)
def test_an_ensemble_is_valid(members: dict[str, Any], schema: Draft7Validator) -> None:
    assert list(schema.iter_errors(study(model=ensemble(**members), baseline={}))) == []


VAE = {"model": {"family": "vae"}}


@pytest.mark.parametrize(
    ("blocks", "place"),
    [
        ({"serach": {"trials": 3}}, "$"),
        ({"study": "two words"}, "$.study"),
        ({"corpus": {"root": {"choices": ["a", "b"]}}}, "$.corpus.root"),
        ({"corpus": {"machines": []}}, "$.corpus.machines"),
        ({"features": {"kind": "logmell"}}, "$.features.kind"),
        ({"features": {"sample_rate": {"low": 8000, "high": 16000}}}, "$.features.sample_rate"),
        ({"model": {"family": "vea"}}, "$.model"),
        ({"model": {"h_dim": 64}}, "$.model"),
        ({"model": []}, "$.model"),
        ({"model": {"family": "vae", "width": 3}}, "$.model"),
        ({"model": {"family": {"choices": ["vae", "ae"]}}}, "$.model"),
        ({"model": {"family": "vae", "h_dim": {"low": 0, "high": 64}}}, "$.model"),
        ({"model": {"family": "vae", "h_dim": {"low": 8, "hihg": 64}}}, "$.model"),
        ({"model": {"family": "vae", "h_dim": {"low": 8, "high": 64, "choices": [8]}}}, "$.model"),
        ({"model": {"family": "vae", "h_dim": {"choices": []}}}, "$.model"),
        ({"model": {"family": "vae", "h_dim": {"choices": [8, "many"]}}}, "$.model"),
        ({"model": {"family": "vae", "statistic": "qantile"}}, "$.model"),
        ({"model": {"family": "vae", "statistic": "quantile+"}}, "$.model"),
        ({"model": {"family": "vae", "per_id": {"low": 0, "high": 1}}}, "$.model"),
        ({"training": {"epochs": "many"}}, "$.training.epochs"),
        ({"training": {"epochs": 2.5}}, "$.training.epochs"),
        ({"training": {"learning_rate": 0}}, "$.training.learning_rate"),
        ({"validation": {"metric": "acu"}}, "$.validation.metric"),
        ({"validation": {"share": {"low": 0.1, "high": 0.2}}}, "$.validation.share"),
        ({"search": {"trials": 0}}, "$.search"),
        ({"search": {"first": 3}}, "$.search"),
        ({"search": {"first": [{"h_dim": {"low": 8, "high": 16}}]}}, "$.search"),
        ({"search": {"first": [{"from": "other"}]}}, "$.search"),
        ({"search": {"first": [{"from": ["other"], "topp": 3}]}}, "$.search"),
        ({"search": {"constraints": {"max_parameter": 3}}}, "$.search"),
        ({"baseline": {"h_dim": {"low": 8, "high": 64}}}, "$.baseline.h_dim"),
        ({"model": ensemble(one=VAE)}, "$.model"),
        ({"model": ensemble(one=VAE, two={"weight": 1})}, "$.model"),
        ({"model": ensemble(one=VAE, two={"model": {"z_dim": 3}})}, "$.model"),
        ({"model": ensemble(one=VAE, **{"t.w.o": VAE})}, "$.model"),
        ({"model": ensemble(one=VAE, two=VAE | {"training": {"threads": 2}})}, "$.model"),
        ({"model": ensemble(one=VAE, two={"model": ensemble(one=VAE, two=VAE)})}, "$.model"),
    ],
    ids=str,
)
def test_a_mistake_is_refused_where_it_stands(blocks: dict[str, Any], place: str, schema: Draft7Validator) -> None:
    tree = study(baseline={}) | blocks
    with pytest.raises(MisuseError):  # as the command line does
        study_of_tree(tree, origin="here")

    assert [problem.json_path for problem in schema.iter_errors(tree)] == [place]


def test_a_study_that_init_writes_names_the_schema_of_this_installation(
    offkey: Offkey, corpus_root: Path, schema: Draft7Validator
) -> None:
    assert offkey("init", corpus_root, "-o", "study.yaml").code == 0
    text = Path("study.yaml").read_text()

    assert text.splitlines()[0] == f"{EDITORS_LINE}{shipped_schema().as_uri()}"
    assert list(schema.iter_errors(YAML(typ="safe").load(text))) == []
    assert json.loads(shipped_schema().read_text()) == schema.schema
