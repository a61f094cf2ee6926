"""A study on one page: its words in each state of the study, that it loads nothing, and that nothing in it runs."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, IntDistribution
from optuna.trial import create_trial
from plotly.offline import get_plotlyjs
from sqlalchemy import text

from features.clips.corpus import read_corpus
from search.cli.study.status import status_of
from search.evaluation.decisions import Decisions
from search.evaluation.evaluate import evaluate
from search.evaluation.interval import Interval
from search.evaluation.truth import Truth
from search.report import charts, plots, tables
from search.report.page import report
from search.report.verdict import verdict
from search.results.export import export_recipe
from search.storage.counted_evaluations import enter_test_evaluation
from search.storage.optuna_rows import SECONDS
from search.study.identity import identity_of
from search.study.objectives import LOWEST_CAUTION
from search.study.study_file import load_study, to_yaml
from search.validation.split import held_out_clips
from tests.support.ended_trials import end, page_of, scored
from tests.support.html_page import Page

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    Offkey = Callable[..., Ran]
    MakeStudy = Callable[..., TinyStudy]


def verdict_on(tiny: TinyStudy) -> str:
    current, comparison = status_of(tiny.storage, tiny.stored)
    given = verdict(tiny.stored, tiny.stored.study(), current, comparison, storage=tiny.url)
    return " ".join([given.headline, *given.sentences, *(step.text for step in given.steps)])


@pytest.fixture
def finished(tiny_study: MakeStudy) -> TinyStudy:
    """Four complete trials, the baseline the worst of them; one pruned, one failed."""
    tiny = tiny_study(trials=6)
    for wrong in (6, 3, 0, 2):
        end(tiny, scored(tiny, wrong=wrong))
    end(tiny, scored(tiny, wrong=7), "pruned")
    end(tiny, None, "failed", reason="diverged: the loss is nan")
    return tiny


def test_a_page_loads_nothing_and_holds_the_library_once(finished: TinyStudy) -> None:
    html = report(finished.storage, finished.stored)

    page = Page(html)

    loading = {"src", "srcset", "href", "action", "data", "poster", "background"}
    assert [attributes for _, attributes in page.elements if loading & attributes.keys()] == []
    assert not {"link", "iframe", "object", "embed", "base", "form"} & {tag for tag, _ in page.elements}
    (policy,) = [a["content"] for tag, a in page.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none';")
    assert not re.search(r"https?:|//", policy)
    assert html.count(get_plotlyjs()) == 1
    assert not re.search(r"https?:|url\(|@import", html.replace(get_plotlyjs(), ""))
    assert len(html.encode()) < 6e6


def test_the_first_screen_says_what_was_searched_how_well_it_went_and_what_to_do(finished: TinyStudy) -> None:
    page = page_of(finished)
    first_screen = page.text[: page.text.index("What was searched")]

    for words in (
        "In 100 of 100 comparisons, the best detector gives a faulty machine's sound a higher anomaly score "
        "than a normal one's.",
        "run 6 trials of the model family vae on recordings of 3 machine IDs (compressor)",
        "validated on 9 normal and 9 faulty clips",
        "AUC of 1.000 (no interval: it takes 5 normal clips and 5 anomalies of each machine ID, but compressor/00 has "
        "3 and 3)",
        "Compared with the baseline, the known recipe that the study tried first, this is a gain: +0.667",
        f"offkey export tiny --storage {finished.url} -o tiny.recipe.yaml",
        f"offkey train tiny.recipe.yaml --storage {finished.url} -o tiny-detector",
    ):
        assert words in first_screen


def test_a_test_evaluation_of_the_best_trial_is_shown_with_what_its_thresholds_decided(
    finished: TinyStudy, corpus_root: Path
) -> None:
    best = export_recipe(finished.storage, finished.stored)
    clips = held_out_clips(read_corpus(corpus_root), best.validation)
    assert "on the held-out test clips" not in page_of(finished).text

    enter_test_evaluation(finished.url, clips, best, 0.8125, Interval(0.75, 0.875), Decisions(60, 3, 44, 41))

    shown = page_of(finished).text
    assert (
        "Test AUC 0.812 (95 % interval 0.750 to 0.875). Of 60 normal test clips 3 were called faulty (5.0 %, 95 % "
        "interval 1.0 % to 13.9 %), " in shown
    )
    assert "of 44 faulty ones 41 were found" in shown
    assert "This is the first test evaluation on the held-out clips, as far as this storage knows." in shown
    assert "quote the test AUC, 0.812 (95 % interval 0.750 to 0.875), which was measured on clips" in shown
    assert "The detector was trained and measured. If it is lost, train it again" in shown

    enter_test_evaluation(finished.url, clips, best, 0.8125, "no interval: it takes 5 normal clips")

    assert "Test AUC 0.812 (no interval: it takes 5 normal clips)." in page_of(finished).text


@pytest.mark.parametrize(
    ("wrong", "changes", "sentences"),
    [
        ((), {}, ["No trial has ended yet: there is no detector yet.", "Go on: 3 of 3 trials are left."]),
        ((9, 0), {}, ["this is a gain: +1.000. With 9 normal and 9 anomalous validation clips and 2 trials"]),
        (
            (1, 0),
            {},
            [
                "this is no gain that these clips can tell: +0.111.",
                "For one of 0.111 it takes about",
                "Label more clips, above all of the label that has fewer",
                "Go on: 1 of 3 trials are left.",
            ],
        ),
        ((0, 1), {}, ["The best detector is the baseline itself: the search found nothing better."]),
        (
            (0,),
            {"baseline": {}},
            ["The study has no baseline: whether the search improved on a known recipe is unknown."],
        ),
        ((4,), {}, ["These clips do not show that the best detector is any better than guessing."]),
    ],
)
def test_the_verdict_is_how_the_study_stands(
    tiny_study: MakeStudy, wrong: Sequence[int], changes: dict[str, Any], sentences: Sequence[str]
) -> None:
    tiny = tiny_study(**changes)
    for count in wrong:
        end(tiny, scored(tiny, wrong=count))

    verdict = verdict_on(tiny)

    assert [words for words in sentences if words not in verdict] == []


@pytest.mark.parametrize(("wrong", "guesses"), [(1, False), (4, True)])
def test_the_lowest_of_several_aucs_is_held_against_no_0_5(tiny_study: MakeStudy, wrong: int, guesses: bool) -> None:
    # One of three IDs has an AUC of chance or worse; whether that is guessing depends on the mean over all of them.
    tiny = tiny_study(validation={"metric": "worst_id"})
    end(tiny, scored(tiny, wrong=wrong))

    words, page = verdict_on(tiny), page_of(tiny)

    assert ("any better than guessing" in words) == guesses
    assert ("The best detector's lowest AUC of a machine ID is 0.667." in words) == (not guesses)
    assert "guessing has 0.5" not in words
    assert f"3 and 3): {LOWEST_CAUTION}." in words
    layout = page.figures["intervals"]["layout"]
    assert "shapes" not in layout
    assert layout["xaxis"]["title"]["text"] == "lowest AUC of a machine ID (1: perfect)"
    assert page.text.count(LOWEST_CAUTION) == 2  # in words, and below the figure


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ((0,), "One trial is complete."),
        ((0, 1, 9), "1 of 2 other complete trials tie with the best one"),
        ((0, 9, 9), "No other complete trial ties with the best one."),
    ],
)
def test_the_page_says_which_trials_tie_with_the_best_one(
    tiny_study: MakeStudy, wrong: Sequence[int], sentence: str
) -> None:
    tiny = tiny_study()
    for count in wrong:
        end(tiny, scored(tiny, wrong=count))

    page = page_of(tiny)

    assert sentence in page.text
    assert f"n/a: it takes 10 complete trials, and there are {len(wrong)}." in page.text


def test_a_study_whose_trials_all_failed_has_a_page_with_their_reasons(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=3)
    for reason in ("out of memory", "diverged", "out of memory"):
        end(tiny, None, "failed", reason=reason)

    page = page_of(tiny)

    assert "All 3 trials that ended failed: there is no detector yet." in page.text
    assert "Read why trials failed" in page.text
    assert page.row("out of memory") == ["out of memory", "2", "0, 2"]
    assert page.row("diverged") == ["diverged", "1", "1"]
    assert page.figures == {}


def test_a_study_whose_baseline_failed_has_no_gain(tiny_study: MakeStudy) -> None:
    tiny = tiny_study()
    end(tiny, None, "failed", reason="diverged")
    end(tiny, scored(tiny, wrong=0))

    page = page_of(tiny)

    assert "The baseline is not complete" in page.text
    assert [trace["y"] for trace in page.figures["intervals"]["data"]] == [["best (trial 1)"]]


def test_a_study_with_pruned_trials_alone_shows_their_curves(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(baseline={})
    end(tiny, scored(tiny, wrong=3), "pruned")

    page = page_of(tiny)

    assert "None of the 1 trials that ended is complete" in page.text
    assert page.figures.keys() == {"history", "curves"}


def test_a_study_with_a_running_trial_has_a_page(tiny_study: MakeStudy) -> None:
    tiny = tiny_study()
    end(tiny, scored(tiny, wrong=1))
    tiny.ledger.claim("worker", first={})

    assert page_of(tiny).row("budget") == ["budget", "3 trials; 1 complete, 1 running, 1 waiting"]


def test_the_tables_hold_the_metrics_of_the_validation_clips(finished: TinyStudy) -> None:
    page = page_of(finished)
    third = evaluate(scored(finished, wrong=3), finished.stored.truth)

    assert page.row("1")[:3] == ["1", f"{third.auc:.3f}", "too few clips"]
    assert page.row("0")[3] == "baseline"
    assert page.row("2")[3] == "best"
    assert page.row("compressor/02") == ["compressor/02", "1.000", "n/a", "3", "3"]
    assert page.row("mean")[:3] == ["mean", "1.000", "n/a"]
    assert page.row("h_dim")[:4] == ["h_dim", "units in each hidden layer", "8 to 64", "16"]
    assert page.row("budget")[1] == "6 trials; 4 complete, 1 pruned, 1 failed"
    assert page.row("diverged: the loss is nan") == ["diverged: the loss is nan", "1", "5"]


def test_the_time_of_trials_is_that_of_workers_and_no_night_in_which_one_waited(finished: TinyStudy) -> None:
    begun = datetime(2026, 3, 1, 18)
    drained = create_trial(value=0.9, user_attrs={SECONDS: 90.0})
    drained.datetime_start, drained.datetime_complete = begun, begun + timedelta(hours=14)
    current, _ = status_of(finished.storage, finished.stored)

    searched = dict(tables.searched(finished.stored, finished.stored.study(), current, [drained]))

    assert searched["when"].startswith("2026-03-01 18:00 to 2026-03-02 08:00 by the workers' clocks")
    assert searched["when"].endswith("workers worked on trials for 1 min 30 s in all")


def test_the_recipe_and_the_study_file_on_the_page_are_those_of_the_study(finished: TinyStudy) -> None:
    page = page_of(finished)
    (recipe,) = [block for block in page.blocks if "from:" in block]
    (study_file,) = [block for block in page.blocks if "baseline:" in block]
    Path("again.yaml").write_text(study_file)

    again = load_study("again.yaml")

    assert recipe == to_yaml(export_recipe(finished.storage, finished.stored).tree())
    assert identity_of(again, read_corpus(finished.root))["study"] == finished.stored.identity["study"]
    assert page.row("Optuna") == ["Optuna", optuna.__version__]


def test_the_same_study_gives_the_same_page(finished: TinyStudy) -> None:
    assert report(finished.storage, finished.stored) == report(finished.storage, finished.stored)


def test_every_figure_fits_a4_and_names_its_axes(finished: TinyStudy) -> None:
    page = page_of(finished)

    assert page.figures.keys() == {"intervals", "history", "curves", "histograms", "roc"}
    for drawn in page.figures.values():
        layout = drawn["layout"]
        assert layout["width"] <= 210 / 25.4 * 96 - 2 * 15 / 25.4 * 96
        assert layout["height"] < 900
        assert layout["xaxis"]["title"]["text"]


EVIL = "<img src=x onerror=alert(1)>"


def test_names_and_reasons_are_shown_as_they_stand_and_never_run(
    tiny_study: MakeStudy, corpus_root: Path, tmp_path: Path
) -> None:
    shutil.copytree(corpus_root / "compressor", tmp_path / "sounds" / EVIL)
    tiny = tiny_study(trials=4, corpus={"root": str(tmp_path / "sounds")})
    for wrong in (3, 1):
        end(tiny, scored(tiny, wrong=wrong))
    end(tiny, None, "failed", reason="</script><script>alert(1)</script>")
    name = "<script>alert(1)</script>"
    with tiny.storage.engine.begin() as connection:
        connection.execute(text("UPDATE studies SET study_name = :name"), {"name": name})

    page = page_of(tiny, name)

    plain = Counter(tag for tag, _ in page.elements)
    assert plain["img"] == 0
    assert plain["script"] == 2 + len(page.figures)
    assert len(page.figures) == 5
    assert f"Study {name}" in page.text
    assert page.row("</script><script>alert(1)</script>")[1] == "1"
    assert page.row(f"{EVIL}/00")
    assert plain["audio"] == 4, "one missed fault, and the three normal clips above it"
    assert sum(row[0].startswith(f"{EVIL}/test/") for row in page.rows) == 4
    # Plotly takes tags for markup: its texts hold the name as entities.
    assert "<img" not in json.dumps(page.figures)
    assert "&lt;img src=x" in json.dumps(page.figures)


FAMILIES = [
    {"family": "vae", "context": 3, "h_dim": {"low": 8, "high": 64}, "z_dim": {"low": 2, "high": 8}},
    {"family": "quick", "width": {"low": 8, "high": 64}},
]


def test_a_study_with_several_families_compares_them_and_their_settings(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=12, model=FAMILIES, baseline={})
    trials = [end(tiny, scored(tiny, wrong=number % 5)) for number in range(12)]

    page = page_of(tiny)

    families = Counter(trial.params["family"] for trial in trials)
    assert len(families) == 2
    behind = []
    for family, count in families.items():
        assert page.row(family)[:2] == [family, str(count)]
        behind.append(page.row(family)[6:])
    assert sorted(behind) == [["0.000", "too few clips", "tie"], ["—", "—", "the best"]]
    assert "the best of 12 trials. There is no interval: it takes 5 normal clips" in page.text
    (about_family,) = [row for row in page.rows if row[:2] == ["family", "kind of model"]]
    assert about_family[2] == "vae, quick"
    assert set(page.figures["importances"]["data"][0]["y"]) == {"family", "h_dim", "z_dim", "width"}
    assert "So few trials give a hint" in page.text


def test_what_the_best_trials_have_in_common_matters_and_not_what_the_worst_have() -> None:
    trials = []
    for number in range(20):
        # The best tenth alone has a high h_dim, the worst tenth alone a high z_dim.
        h_dim = 64 if number < 2 else 1 + 7 * number % 31
        z_dim = 64 if number >= 18 else 1 + 7 * number % 31
        params = {"h_dim": h_dim, "z_dim": z_dim}
        ranges: dict[str, BaseDistribution] = dict.fromkeys(params, IntDistribution(1, 64))
        trials.append(create_trial(value=1 - number / 20, params=params, distributions=ranges))

    drawn = charts.importance_chart(trials).drawn
    assert drawn is not None
    (bars,) = drawn.data

    shares = dict(zip(bars.y, bars.x, strict=True))
    assert shares.keys() == {"h_dim", "z_dim"}
    assert shares["h_dim"] > 0.7


def test_of_many_families_the_page_lists_the_settings_of_the_baseline_and_of_the_best_trial(
    tiny_study: MakeStudy,
) -> None:
    tiny = tiny_study(trials=1, model=FAMILIES, baseline={"family": "quick", "width": 16})
    end(tiny, scored(tiny, wrong=0))

    page = page_of(tiny)

    assert [row[0] for row in page.rows if len(row) == 5 and row[3] in ("quick", "16")] == ["family", "width"]
    assert "And 2 more, most of them of other families" in page.text
    assert not [row for row in page.rows if row[:1] == ["h_dim"]]


def test_one_open_setting_has_no_importance(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=10)
    for number in range(10):
        end(tiny, scored(tiny, wrong=number % 4))

    assert "n/a: h_dim alone has different values among the complete trials." in page_of(tiny).text


def test_a_study_with_nothing_open_has_a_page(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=1, model={"family": "vae", "context": 3, "h_dim": 8, "z_dim": 4}, baseline={})
    end(tiny, scored(tiny, wrong=1))

    page = page_of(tiny)

    assert "No setting is open: the study is one recipe." in page.text
    assert "Search wider ranges" not in page.text


@pytest.mark.parametrize(
    ("opened", "value", "is_at_the_edge"),
    [
        ({"low": 8, "high": 64}, 8, True),
        ({"low": 8, "high": 64}, 64, True),
        ({"low": 8, "high": 64}, 16, False),
        ({"low": 8, "high": 4096, "log": True}, 4000, True),
        ({"low": 8, "high": 4096, "log": True}, 12, False),
        ({"choices": [8, 64]}, 8, False),
    ],
)
def test_a_best_value_at_the_edge_of_its_range_asks_for_a_wider_one(
    tiny_study: MakeStudy, opened: dict[str, Any], value: int, is_at_the_edge: bool
) -> None:
    tiny = with_a_best_value(tiny_study, opened, value, trials=10)

    assert ("Search wider ranges: the best trial lies at the edge of h_dim." in verdict_on(tiny)) == is_at_the_edge


def with_a_best_value(tiny_study: MakeStudy, opened: dict[str, Any], value: int, *, trials: int) -> TinyStudy:
    """A study whose trial 1 has this h_dim and is the best one, ahead of the baseline and of random trials."""
    model = {"family": "vae", "context": 3, "h_dim": opened, "z_dim": 4}
    search = {"trials": trials, "pruner": "none", "first": [{"h_dim": value}]}
    between = opened.get("low", 8) * 2 if "low" in opened else opened["choices"][1]
    tiny = tiny_study(model=model, baseline={"h_dim": between}, search=search)
    for number in range(trials):
        end(tiny, scored(tiny, wrong=int(number != 1)))
    return tiny


@pytest.mark.parametrize(("trials", "is_told"), [(9, False), (10, True)])
def test_few_trials_support_no_wider_range(tiny_study: MakeStudy, trials: int, is_told: bool) -> None:
    tiny = with_a_best_value(tiny_study, {"low": 8, "high": 64}, 64, trials=trials)

    assert ("Search wider ranges" in verdict_on(tiny)) == is_told


def test_the_baseline_supports_no_wider_range_however_many_trials_there_are(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=12, baseline={"h_dim": 64})
    for number in range(12):
        end(tiny, scored(tiny, wrong=int(number != 0)))

    assert "the search found nothing better" in verdict_on(tiny)
    assert "Search wider ranges" not in verdict_on(tiny)


def test_however_many_reasons_there_are_the_page_shows_twenty(tiny_study: MakeStudy) -> None:
    tiny = tiny_study(trials=23)
    for number in range(23):
        end(tiny, None, "failed", reason=f"diverged in batch {number}")

    page = page_of(tiny)

    assert "23 trials failed" in page.text
    assert sum(row[0].startswith("diverged") for row in page.rows) == 20
    assert "… and 3 other reasons" in page.text


@pytest.mark.parametrize(("complete", "pruned", "shown"), [(1, 0, 1), (2, 3, 5), (40, 20, 60), (300, 200, 60)])
def test_learning_curves_are_an_even_choice_with_the_best_and_the_baseline_among_them(
    complete: int, pruned: int, shown: int
) -> None:
    ended = [create_trial(value=0.9, intermediate_values={1: 0.5, 2: 0.9}) for _ in range(complete)]
    stopped = [create_trial(state=optuna.trial.TrialState.PRUNED, intermediate_values={1: 0.4}) for _ in range(pruned)]
    for number, trial in enumerate([*ended[1:], *stopped], start=0):
        trial.number = number
    ended[0].number = 1000

    figure, count = plots.curves(ended, stopped, baseline=0, step="epoch", measure="AUC")

    names = [trace.name for trace in figure.data]
    assert count == len(names) == shown
    assert names[-1] == "best: trial 1000"
    assert ("baseline" in names) == (complete > 1)
    assert abs(names.count("pruned") - shown * pruned / (complete + pruned)) <= 2


def test_of_many_machine_ids_charts_show_those_with_the_lowest_auc() -> None:
    rng = np.random.default_rng(0)
    names = [f"fan/{number:02}" for number in range(20)]
    truth = Truth(ids=tuple(name for name in names for _ in range(8)), labels=(0, 1) * 80)
    # The higher the number of an ID, the higher its AUC.
    scores = np.array(truth.labels) * np.repeat(np.arange(20), 8) + rng.uniform(0, 8, 160)
    metrics = evaluate(scores, truth)

    shown = plots.hardest(metrics.per_id)

    assert len(shown) == plots.MOST_IDS
    assert list(shown) == sorted(shown)
    left_out = set(metrics.per_id) - set(shown)
    assert max(of_id.auc for of_id in shown.values()) <= min(metrics.per_id[name].auc for name in left_out)
    histograms = plots.histograms(scores, truth, shown)
    assert sum(trace.y.sum() for trace in histograms.data) == 8 * plots.MOST_IDS, "every clip stands in a bar"
    assert len(plots.roc(scores, truth, shown).data) == plots.MOST_IDS + 1


def test_clips_that_all_have_one_score_are_drawn() -> None:
    truth = Truth(ids=("fan/00",) * 4, labels=(0, 1, 0, 1))
    scores = np.full(4, 3.0)
    ids = evaluate(scores, truth).per_id

    assert sum(trace.y.sum() for trace in plots.histograms(scores, truth, ids).data) == 4
    assert plots.roc(scores, truth, ids).data


def test_the_command_writes_the_page_over_an_older_one(offkey: Offkey, finished: TinyStudy) -> None:
    Path("page.html").write_text("older")

    ran = offkey("report", "tiny", "--storage", finished.url, "-o", "page.html")

    assert (ran.code, ran.stdout) == (0, "")
    assert "Wrote page.html" in ran.stderr
    assert Path("page.html").read_text(encoding="utf-8") == report(finished.storage, finished.stored)


def test_a_study_without_any_trial_has_a_page(offkey: Offkey, tiny_study: MakeStudy) -> None:
    tiny = tiny_study()

    ran = offkey("report", "tiny", "--storage", tiny.url)

    assert ran.code == 0
    assert "No trial has ended yet" in Page(Path("report.html").read_text(encoding="utf-8")).text


@pytest.mark.parametrize(
    ("name", "output", "message"),
    [
        ("tinny", "page.html", "There is no study 'tinny' in"),
        ("tiny", "nowhere/page.html", "nowhere/page.html cannot be written: No such file"),
    ],
)
def test_a_report_that_cannot_be_is_an_error(
    offkey: Offkey, tiny_study: MakeStudy, name: str, output: str, message: str
) -> None:
    tiny = tiny_study()

    ran = offkey("report", name, "--storage", tiny.url, "-o", output)

    assert (ran.code, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: {message}")
    assert not Path(output).exists()
