"""`search.first`: which settings a study tries first, in which order, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from search.study.document import Document
from search.study.portfolio import cheapest_first, place_in_first, values_by_number
from search.study.study import Study
from search.study.study_file import study_of_tree
from tests.support.study_files import load, refusal

STUDY = """\
study: slider
features: {n_fft: 512, n_mels: {choices: [32, 64]}}
model:
  - family: vae
    h_dim: {low: 16, high: 64}
    z_dim: {low: 2, high: 8}
  - family: stat
    decay: {low: 0.0, high: 1.0}
training:
  epochs: {choices: [2, 5, 9]}
baseline: {family: vae, h_dim: 32}
search:
  trials: 20
  first:
    - {family: vae, h_dim: 16, epochs: 5}
    - {family: stat, decay: 0.5}
"""

SECOND_ENTRY = "{family: stat, decay: 0.5}"


def ordered(study: Study) -> list[dict[str, Any]]:
    return cheapest_first(
        study.space, study.search.first or (), baseline=study.baseline, is_grid=study.search.sampler == "grid"
    )


def with_entries(*entries: str) -> Study:
    listed = "\n".join(f"    - {entry}" for entry in entries)
    return load(STUDY[: STUDY.index("    - ")] + listed + "\n")


def test_families_that_train_nothing_come_first_then_fewer_epochs_and_equal_ones_in_the_order_of_the_file() -> None:
    study = with_entries(
        "{family: vae, epochs: 9}",
        "{family: vae, h_dim: 20}",  # its epochs are open, and count as 9
        "{family: vae, h_dim: 64, epochs: 2}",
        "{family: stat, decay: 0.5}",
        "{family: vae, h_dim: 16, epochs: 2}",
        "{family: stat, decay: 0.0, epochs: 9}",
    )

    assert ordered(study) == [
        {"family": "stat", "decay": 0.5},
        {"family": "stat", "decay": 0.0, "epochs": 9},
        {"family": "vae", "h_dim": 64, "epochs": 2},
        {"family": "vae", "h_dim": 16, "epochs": 2},
        {"family": "vae", "epochs": 9},
        {"family": "vae", "h_dim": 20},
    ]


def test_an_entry_equal_to_an_earlier_one_or_to_the_baseline_is_dropped() -> None:
    study = with_entries(
        "{family: vae, h_dim: 32}", "{family: stat, decay: 1}", "{decay: 1.0, family: stat}", "{family: vae}"
    )

    assert ordered(study) == [{"family": "stat", "decay": 1}, {"family": "vae"}]


def test_trials_are_numbered_after_the_baseline_and_from_0_without_one() -> None:
    first = [{"decay": 0.0}, {"decay": 1.0}]

    assert values_by_number({"h_dim": 8}, first) == {0: {"h_dim": 8}, 1: first[0], 2: first[1]}
    assert values_by_number({}, first) == {0: first[0], 1: first[1]}
    assert values_by_number({}, None) == {}
    assert [place_in_first(number, {"h_dim": 8}, first) for number in range(4)] == [None, 1, 2, None]
    assert [place_in_first(number, {}, first) for number in range(3)] == [1, 2, None]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("{family: stat, deccay: 0.5}", "search.first.1.deccay is not an open setting; did you mean decay?"),
        ("{family: stat, n_fft: 512}", "search.first.1.n_fft is not an open setting; open here: n_mels, h_dim"),
        ("{family: stat, decay: 1.5}", "search.first.1.decay must lie in its range, 0.0 to 1.0, but got 1.5"),
        ("{family: vae, h_dim: 16.5}", "search.first.1.h_dim must lie in its range, 16 to 64 in steps of 1"),
        ("{family: sta}", "search.first.1.family must be one of vae, stat, but got 'sta'; did you mean stat?"),
        ("{family: cae}", "search.first.1.family must be one of vae, stat, but got 'cae'; add the family to `model`"),
        ("{decay: 0.5}", "search.first.1 must name a family, one of vae, stat"),
        (
            "{family: stat, h_dim: 16}",
            "search.first.1.h_dim is a setting of the family vae, but the entry's family is stat",
        ),
        (
            "{family: vae, h_dim: {low: 16, high: 20}}",
            "search.first.1.h_dim must lie in its range, 16 to 64 in steps of 1, but got {",
        ),
        ("stat", "search.first.1 must name parameters and values, but got 'stat'"),
        ("{from: other}", "search.first.1.from must be a list of studies in the storage and of recipe files"),
        ("{from: []}", "search.first.1.from must be a list of studies in the storage and of recipe files"),
        ("{from: [other], top: 0}", "search.first.1.top must be a number of trials, at least 1, but got 0"),
        ("{from: [other], top: many}", "search.first.1.top must be a number of trials, at least 1, but got 'many'"),
        ("{top: 3}", "search.first.1.top stands beside `from`: {from: [STUDY or recipe.yaml, …], top: 5}"),
        ("{from: [other], topp: 3}", "search.first.1.topp cannot stand beside `from`; did you mean top?"),
    ],
)
def test_an_entry_that_makes_no_sense_is_refused_with_its_place(entry: str, message: str) -> None:
    assert f"study.yaml, line 16: {message}" in refusal(STUDY.replace(SECOND_ENTRY, entry))


def test_an_entry_that_no_recipe_can_have_is_refused() -> None:
    text = STUDY.replace("n_fft: 512", "n_fft: {choices: [64, 512]}").replace("decay: 0.5", "n_fft: 64, n_mels: 64")

    assert (
        "study.yaml, line 16: search.first.1 is impossible: features n_mels ≤ n_fft / 2 must hold, but got n_mels = 64"
        in refusal(text)
    )
    assert load(text.replace("n_fft: 64, n_mels: 64", "n_fft: 64")).search.first is not None, "n_mels may be 32"


def test_a_portfolio_that_is_no_list_is_refused_and_one_entry_may_stand_alone() -> None:
    head = STUDY[: STUDY.index("  first:")]

    assert "line 14: search.first must be a list of entries, but got 3" in refusal(head + "  first: 3\n")
    assert load(head + "  first: {from: [other]}\n").search.first == [{"from": ["other"], "top": 5}]
    assert load(head + "  first: []\n").search.first is None
    assert load(head).tree["search"].keys().isdisjoint({"first"}), "as before there were portfolios"


@pytest.mark.parametrize(
    ("overrides", "first"),
    [
        (["training.epochs=2"], [{"family": "vae", "h_dim": 16}, {"family": "stat", "decay": 0.5}]),
        (["model.stat.decay=0.2"], [{"family": "vae", "h_dim": 16, "epochs": 5}, {"family": "stat"}]),
        (["model={family: stat, decay: {low: 0.0, high: 1.0}}"], [{}, {}]),
        (
            ["model=[{family: vae, h_dim: {low: 16, high: 64}}, {family: cae, z_dim: {low: 2, high: 4}}]"],
            [{"family": "vae", "h_dim": 16, "epochs": 5}, {}],
        ),
        (["search.first="], None),
    ],
    ids=str,
)
def test_set_removes_closed_settings_from_the_entries_and_entries_of_removed_families(
    overrides: list[str], first: list[dict[str, Any]] | None
) -> None:
    document = Document.parse(STUDY, "study.yaml")
    for override in overrides:
        document.override(override)

    assert document.tree["search"]["first"] == first


def test_an_entry_that_set_has_emptied_is_not_tried() -> None:
    study = load(STUDY, "training.epochs=2", "model={family: stat, decay: {low: 0.0, high: 1.0}}", "baseline=")

    assert study.search.first == [{}, {}]
    assert ordered(study) == []


GRID: dict[str, Any] = {
    "study": "grid",
    "model": {"family": "vae", "h_dim": {"choices": [8, 16]}, "z_dim": {"choices": [2, 4]}},
}


def grid(first: list[dict[str, Any]], baseline: dict[str, Any]) -> Study:
    search = {"sampler": "grid", "first": first}
    study = study_of_tree({**GRID, "baseline": baseline, "search": search}, origin="here")
    return study_of_tree({**GRID, "baseline": baseline, "search": {**search, "first": ordered(study)}}, origin="here")


def test_a_grid_begins_with_the_baseline_and_the_portfolio_and_has_each_combination_once() -> None:
    study = grid([{"h_dim": 8}, {"z_dim": 4}], {"h_dim": 16})

    assert [(one["h_dim"], one["z_dim"]) for one in study.grid()] == [(16, 2), (8, 2), (16, 4), (8, 4)]
    assert all(values.items() <= study.grid()[number].items() for number, values in study.tried_first.items())


def test_a_grid_drops_an_entry_whose_combinations_all_come_earlier() -> None:
    study = grid([{"z_dim": 4, "h_dim": 8}, {"h_dim": 8, "z_dim": 2}, {"h_dim": 8}], {"h_dim": 16, "z_dim": 2})

    assert study.search.first == [{"z_dim": 4, "h_dim": 8}, {"h_dim": 8, "z_dim": 2}]
    assert [(one["h_dim"], one["z_dim"]) for one in study.grid()] == [(16, 2), (8, 4), (8, 2), (16, 4)]
