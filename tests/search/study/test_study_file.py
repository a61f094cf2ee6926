"""Study files: what is accepted, and the message for everything that is not.

A message names the file, the line, the key, the rule and what was got, with the nearest valid name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from optuna.trial import FixedTrial

from search.errors import StudyFileError
from search.study.study_file import load_study, study_of_tree, to_yaml
from tests.support.study_files import load, refusal

STUDY = """\
study: slider
features:
  n_mels: 32
  n_fft: 512
model:
  family: vae
  h_dim: {low: 16, high: 64}
training:
  learning_rate: {low: 1e-5, high: 0.1, log: true}
  epochs: 2
baseline:
  h_dim: 32
search:
  trials: 4
"""


def line_of(part: str, text: str) -> int:
    return text[: text.index(part)].count("\n") + 1


def test_a_study_file_is_read_with_its_ranges_baseline_and_budget() -> None:
    study = load(STUDY)

    assert study.name == "slider"
    assert sorted(study.space.distributions()) == ["h_dim", "learning_rate"]
    assert study.baseline == {"h_dim": 32}
    assert study.search.trials == 4


def test_a_study_that_was_written_out_loads_as_the_same_study() -> None:
    study = load(STUDY)

    again = load(to_yaml(study.tree))

    assert again == study
    assert again == study_of_tree(study.tree, origin="the storage")


@pytest.mark.parametrize(
    ("right", "wrong", "key", "nearest"),
    [
        ("features:", "featurs:", "featurs", "features"),
        ("model:", "modle:", "modle", "model"),
        ("study:", "studdy:", "studdy", "study"),
        ("search:", "serach:", "serach", "search"),
        ("n_mels", "n_mells", "features.n_mells", "n_mels"),
        ("epochs", "epoch", "training.epoch", "epochs"),
        ("h_dim: {low", "h_dims: {low", "model.h_dims", "h_dim"),
        ("family: vae", "family: vea", "model.family", "vae"),
        ("trials", "trails", "search.trails", "trials"),
        ("h_dim: 32", "h_dmi: 32", "baseline.h_dmi", "h_dim"),
        ("low: 16", "lwo: 16", "model.h_dim.lwo", "low"),
        ("high: 64", "high: 64, stpe: 2", "model.h_dim.stpe", "step"),
        ("{low: 16, high: 64}", "{lo: 16, hi: 64}", "model.h_dim", "low"),
        ("{low: 16, high: 64}", "{choice: [16, 64]}", "model.h_dim", "choices"),
    ],
)
def test_a_name_that_does_not_exist_is_refused_with_its_place_and_the_nearest_one(
    right: str, wrong: str, key: str, nearest: str
) -> None:
    text = STUDY.replace(right, wrong)

    message = refusal(text)

    assert message.startswith(f"study.yaml, line {line_of(wrong, text)}: {key} ")
    assert f"did you mean {nearest}?" in message


def test_a_name_that_resembles_none_is_answered_with_all_that_are_known() -> None:
    message = refusal(STUDY.replace("epochs", "xyz"))

    assert "training.xyz is not a setting; known here: learning_rate, batch_size, epochs" in message


def test_a_study_that_does_not_exist_is_answered_with_the_nearest_that_ships() -> None:
    with pytest.raises(StudyFileError, match=r"vae_tunning: no such study file.*did you mean vae_tuning\?"):
        load_study("vae_tunning")


@pytest.mark.parametrize(
    ("content", "rule"),
    [
        ("{low: 64, high: 16}", "low ≤ high must hold, but got low = 64, high = 16"),
        ("{low: 0, high: 64, log: true}", "low > 0 must hold for log: true, but got low = 0, high = 64"),
        ("{low: -8, high: 64, log: true}", "low > 0 must hold for log: true, but got low = -8, high = 64"),
        ("{low: 16, high: 64, log: true, step: 2}", "log and step exclude each other"),
        ("{low: 16, high: 64, log: 1}", "must be true or false, but got 1"),
        ("{low: 16, high: 64, step: 0}", "step > 0 must hold, but got 0"),
        ("{low: 16, high: 64, step: .inf}", "must be finite, but got inf"),
        ("{low: .nan, high: 64}", "must be finite, but got nan"),
        ("{low: x, high: 64}", "must be a number, but got 'x'"),
        ("{low: true, high: 64}", "must be a number, but got True"),
        ("{low: 16}", "a range is {low, high} with log or step, or {choices: […]}"),
        ("{low: 16.0, high: 64.0}", "should be a valid integer, but got 16.0"),
        ("{low: 0, high: 64}", "should be greater than or equal to 1, but got 0"),
        ("{choices: []}", "choices must be a list of at least one value"),
        ("{choices: 16}", "choices must be a list of at least one value"),
        ("{choices: [16, 64], low: 16}", "and stand alone"),
        ("{choices: [16, 32, 16]}", "each choice may stand once, but got [16, 32, 16]"),
        ("{choices: [{units: 16}]}", "a choice must be a number or a text, but got {'units': 16}"),
        ("{choices: [2020-01-01]}", "a choice must be a number or a text, but got 2020-01-01"),
        ("{choices: [16, many]}", "should be a valid integer, but got 'many'"),
        ("{choices: [16, 64.5]}", "should be a valid integer, but got 64.5"),
    ],
)
def test_an_impossible_range_is_refused_with_its_place_the_rule_and_what_was_got(content: str, rule: str) -> None:
    text = STUDY.replace("{low: 16, high: 64}", content)

    message = refusal(text)

    assert message.startswith(f"study.yaml, line {line_of('h_dim', text)}: model.h_dim")
    assert rule in message


@pytest.mark.parametrize(
    ("block", "key"),
    [
        ("corpus: {root: {choices: [a, b]}}", "corpus.root"),
        ("corpus: {machines: {choices: [[fan], [fan, pump]]}}", "corpus.machines"),
        ("validation: {share: {low: 0.3, high: 0.5}}", "validation.share"),
        ("validation: {seed: {choices: [0, 1]}}", "validation.seed"),
        ("validation: {low: 0.3, high: 0.5}", "validation"),
        ("from: {study: a, trial: {low: 0, high: 1}}", "from.trial"),
    ],
)
def test_a_setting_that_cannot_be_searched_is_refused_as_a_range(block: str, key: str) -> None:
    text = STUDY + block + "\n"

    message = refusal(text)

    assert message.startswith(f"study.yaml, line {line_of(block, text)}: {key} holds a range")


@pytest.mark.parametrize(
    ("closed", "opened", "message"),
    [
        ("study: slider", "study: {choices: [a, b]}", "line 1: study holds a range"),
        ("family: vae", "family: {choices: [vae]}", "line 6: model.family holds a range"),
        ("trials: 4", "trials: {low: 4, high: 8}", "line 14: search.trials holds a range"),
        ("h_dim: 32", "h_dim: {low: 16, high: 32}", "line 12: baseline.h_dim must lie in its range, 16 to 64"),
    ],
)
def test_name_family_budget_and_baseline_are_one_value_each(closed: str, opened: str, message: str) -> None:
    assert message in refusal(STUDY.replace(closed, opened))


@pytest.mark.parametrize("text", ["1e-5", "1E-5", "1.0e-5", "0.00001", ".00001"])
def test_a_number_needs_no_dot_before_its_exponent(text: str) -> None:
    study = load(STUDY.replace("{low: 1e-5, high: 0.1, log: true}", text))

    assert study.first_recipe().training.learning_rate == 0.00001


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("epochs: 2", "epochs: two", "line 10: training.epochs should be a valid integer"),
        ("epochs: 2", "epochs: '2'", "line 10: training.epochs should be a valid integer, but got '2'"),
        ("epochs: 2", "epochs: 0", "line 10: training.epochs should be greater than or equal to 1, but got 0"),
        ("epochs: 2", "epochs:", "line 10: training.epochs should be a valid integer, but got None"),
        ("trials: 4", "trials: 0", "line 14: search.trials should be greater than or equal to 1, but got 0"),
        (
            "trials: 4",
            "trials: 4\n  stop: sometimes",
            "line 15: search.stop should be 'told_apart' or 'never', but got 'sometimes'",
        ),
        ("trials: 4", "stop: told_appart", "but got 'told_appart'; did you mean told_apart?"),
        (
            "trials: 4",
            "{stop: told_apart, sampler: grid}",
            "line 14: search.stop must be never for search.sampler: grid",
        ),
        (
            "trials: 4",
            "{stop: told_apart}\nvalidation: {metric: [auc, parameters]}",
            "line 14: search.stop must be never where validation.metric names several objectives",
        ),
        ("study: slider", "study: two words", "line 1: study String should match pattern"),
        ("study: slider", "study: 2020", "line 1: study should be a valid string, but got 2020"),
        ("study: slider\n", "", "study.yaml: study is missing"),
        ("  family: vae\n", "", "line 5: model `family` is missing"),
        (
            "study: slider",
            "study: slider\nscoring: {pooling: maxx}",
            "line 2: scoring.pooling should be 'mean', 'max', 'top' or 'gwrp', but got 'maxx'; did you mean max?",
        ),
        (
            "family: vae\n  h_dim: {low: 16, high: 64}",
            "family: cae\n  frames: squar",
            "line 7: model.frames must be whole number ≥ 1 | square, but got 'squar'",
        ),
        ("family: vae", "family: vae\n  mixup: 0.2", "line 7: model.mixup is not a setting of vae, but of classifier"),
    ],
)
def test_a_value_of_another_kind_or_out_of_bounds_is_refused(right: str, wrong: str, message: str) -> None:
    assert message in refusal(STUDY.replace(right, wrong))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "statistic: qantile",
            "model.statistic each statistic must be one of mean, median, quantile, minimum, maximum, quiet, loud, "
            "deviation, change, but got 'qantile'; did you mean quantile?",
        ),
        (
            "statistic: {choices: [mean, quantile+]}",
            "model.statistic a + must stand between two names, but got 'quantile+': write quantile, or name another "
            "statistic",
        ),
        (
            "statistic: {choices: [[quantile, maximum], mean]}",
            "model.statistic.choices a choice must be a number or a text, but got ['quantile', 'maximum']: write "
            "quantile+maximum",
        ),
        ("share: {low: 0.0, high: 0.5}", "model.share should be greater than 0, but got 0"),
        ("whiten: 4", "model.whiten must be 0 or an odd number from 3, so that a bin is the middle one, but got 4"),
        ("whiten: {low: 3, high: 8}", "model.whiten must be 0 or an odd number from 3"),
        (
            "whiten: {low: 3, high: 9}",
            "model.whiten must be 0 or an odd number from 3, so that a bin is the middle one, but got 4: write 5. "
            "The range has such values: leave them out with a `step`, or list the others as `choices`",
        ),
        (
            "statistic: maximum\n  share: {low: 0.1, high: 0.5}",
            "model.share would be searched for nothing: it counts with model.statistic: quantile or quiet or loud",
        ),
    ],
)
def test_a_statistic_that_means_nothing_is_refused_with_its_line(setting: str, message: str) -> None:
    line = 4 + setting.count("\n")
    assert f"study.yaml, line {line}: {message}" in refusal(f"study: a\nmodel:\n  family: stat\n  {setting}\n")


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("statistic: quiet", "model.statistic has no effect: it counts with model.score: mahalanobis or gmm or knn"),
        ("decay: 0.5", "model.decay has no effect: it counts with model.score: mahalanobis or gmm or knn"),
        ("score: knn\n  share: 0.2", "model.share has no effect: it counts with model.statistic: quantile or quiet or"),
        (
            "score: knn\n  statistic: quantile+maximum\n  decay: 0.5",
            "model.decay has no effect: it counts with model.statistic: mean. Set that, or leave decay out",
        ),
    ],
)
def test_a_statistic_of_embeddings_that_no_density_judges_is_refused(setting: str, message: str) -> None:
    line = 4 + setting.count("\n")
    assert f"study.yaml, line {line}: {message}" in refusal(f"study: a\nmodel:\n  family: vae\n  {setting}\n")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study: [", "study.yaml, line 1: not valid YAML"),
        (
            "study: a\nmodel: {family: vae}\nstudy: b\n",
            'study.yaml, line 3: not valid YAML: found duplicate key "study"',
        ),
        ("study: a\nmodel:\n  family: vae\n  family: ae\n", 'line 4: not valid YAML: found duplicate key "family"'),
        ("study: a\x00\n", "study.yaml: not valid YAML"),
        ("- study\n- model\n", "study.yaml: a study file is a mapping"),
        ("slider\n", "study.yaml: a study file is a mapping"),
        ("", "study.yaml: a study file is a mapping"),
        ("study: a\n", "study.yaml: model is missing"),
        ("study: a\nmodel: vae\n", "line 2: model should be a valid dictionary"),
        ("study: a\nmodel: []\n", "line 2: model must be one family's block, or a list of at least one"),
        ("study: a\nmodel: [vae]\n", "line 2: model.0 should be a valid dictionary"),
    ],
)
def test_a_file_that_is_no_study_is_refused_with_the_reason(text: str, message: str) -> None:
    assert message in refusal(text)


@pytest.mark.parametrize(
    ("block", "message"),
    [
        ("{study: a, trial: first}", "from.trial should be a valid integer, but got 'first'"),
        ("{study: 5, trial: 1}", "from.study should be a valid string, but got 5"),
    ],
)
def test_a_mistake_in_a_recipe_s_origin_keeps_its_place(block: str, message: str) -> None:
    assert f"study.yaml, line 1: {message}" in refusal(f"from: {block}\n{STUDY}")


def test_a_file_that_is_no_text_is_refused() -> None:
    Path("study.yaml").write_bytes(b"\xff\xfe\x00RIFF")

    with pytest.raises(StudyFileError, match=r"study\.yaml cannot be read"):
        load_study("study.yaml")


def test_anchors_and_merged_keys_are_yaml_like_any_other() -> None:
    study = load("study: a\nmodel:\n  <<: {family: vae, h_dim: 8}\n  z_dim: 3\n")

    assert study.first_recipe().model.model_dump()["h_dim"] == 8


@pytest.mark.parametrize(
    "features",
    [
        "{n_mels: 512, n_fft: 512}",
        "{n_mels: {choices: [257, 512]}, n_fft: 512}",
        "{n_mels: 512, n_fft: {low: 256, high: 512}}",
    ],
)
def test_a_rule_between_settings_that_no_trial_can_keep_refuses_the_study(features: str) -> None:
    text = STUDY.replace("features:\n  n_mels: 32\n  n_fft: 512\n", f"features: {features}\n")

    message = refusal(text)

    assert "study.yaml, line 2: features n_mels ≤ n_fft / 2 must hold" in message


@pytest.mark.parametrize(
    "features",
    [
        "{n_mels: {choices: [512, 128]}, n_fft: 512}",
        "{n_mels: {low: 32, high: 512}, n_fft: {low: 256, high: 2048}}",
        "{n_mels: {choices: [512, 128]}, n_fft: {choices: [256, 512]}}",
    ],
)
def test_a_rule_between_settings_that_some_trials_keep_does_not(features: str) -> None:
    study = load(STUDY.replace("features:\n  n_mels: 32\n  n_fft: 512\n", f"features: {features}\n"))

    first = study.first_recipe().features
    assert first.n_mels <= first.n_fft // 2


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("65", "baseline.h_dim must lie in its range, 16 to 64 in steps of 1, but got 65"),
        ("15", "baseline.h_dim must lie in its range, 16 to 64 in steps of 1, but got 15"),
        ("32.5", "baseline.h_dim must lie in its range, 16 to 64 in steps of 1, but got 32.5"),
        ("true", "baseline.h_dim must lie in its range, 16 to 64 in steps of 1, but got True"),
        ("many", "baseline.h_dim must lie in its range, 16 to 64 in steps of 1, but got 'many'"),
    ],
)
def test_a_baseline_outside_its_range_is_refused(value: str, message: str) -> None:
    assert f"study.yaml, line 12: {message}" in refusal(STUDY.replace("h_dim: 32", f"h_dim: {value}"))


@pytest.mark.parametrize(
    ("content", "baseline", "accepted"),
    [
        ("{low: 16, high: 64, step: 16}", "48", True),
        ("{low: 16, high: 64, step: 16}", "40", False),
        ("{choices: [16, 64]}", "64", True),
        ("{choices: [16, 64]}", "32", False),
    ],
)
def test_a_baseline_lies_on_its_range_s_grid(content: str, baseline: str, accepted: bool) -> None:
    text = STUDY.replace("{low: 16, high: 64}", content).replace("h_dim: 32", f"h_dim: {baseline}")

    if accepted:
        assert load(text).baseline == {"h_dim": int(baseline)}
    else:
        assert "line 12: baseline.h_dim must" in refusal(text)


def test_a_baseline_on_a_grid_of_reals_need_not_be_exact_in_binary() -> None:
    text = STUDY.replace("{low: 1e-5, high: 0.1, log: true}", "{low: 0.1, high: 0.5, step: 0.1}")

    assert load(text.replace("h_dim: 32", "learning_rate: 0.3")).baseline == {"learning_rate": 0.3}


def test_a_baseline_for_a_closed_setting_is_refused() -> None:
    message = refusal(STUDY.replace("h_dim: 32", "n_mels: 32"))

    assert "line 12: baseline.n_mels is not an open setting; open here: h_dim, learning_rate" in message


def test_a_baseline_that_is_no_block_is_refused() -> None:
    assert "baseline must name parameters and values, but got [16]" in refusal(
        STUDY.replace("baseline:\n  h_dim: 32", "baseline: [16]")
    )


@pytest.mark.parametrize(
    ("override", "path", "value"),
    [
        ("training.epochs=7", ("training", "epochs"), 7),
        ("training.learning_rate=1e-3", ("training", "learning_rate"), 0.001),
        ("scoring.pooling=max", ("scoring", "pooling"), "max"),
        ("corpus.machines=[fan, pump]", ("corpus", "machines"), ["fan", "pump"]),
        ("corpus.root=2020", ("corpus", "root"), "2020"),
        ("corpus.root=a=b", ("corpus", "root"), "a=b"),
        ("corpus.root=[a: b: c", ("corpus", "root"), "[a: b: c"),
        ("study=other", ("study",), "other"),
        ("training.epochs={choices: [2, 4]}", ("training", "epochs"), {"choices": [2, 4]}),
    ],
)
def test_set_puts_a_value_or_a_range_where_it_would_stand_in_the_file(
    override: str, path: tuple[str, ...], value: object
) -> None:
    found: Any = load(STUDY, override).tree

    for key in path:
        found = found[key]
    assert found == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.epochs=0", "training.epochs should be greater than or equal to 1, but got 0"),
        ("training.epoch=2", "training.epoch is not a setting; did you mean epochs?"),
        ("trainning.epochs=2", "trainning is not a setting; did you mean training?"),
        ("search.trials=none", "search.trials should be a valid integer, but got 'none'"),
        ("search.trials={low: 1, high: 2}", "search.trials holds a range"),
        ("model.h_dim={low: 64, high: 16}", "model.h_dim low ≤ high must hold, but got low = 64, high = 16"),
        ("model.h_dim.lwo=16", "model.h_dim.lwo does not fit, got low, high, lwo; a range is"),
        ("model.family=vea", "model.family there is no model family 'vea'; did you mean vae?"),
        ("model.h_dim=", "model.h_dim should be a valid integer, but got None"),
        ("baseline.h_dim=99", "baseline.h_dim must lie in its range, 16 to 64 in steps of 1, but got 99"),
        ("study.name=a", "study is a value and holds no settings"),
        ("model.h_dim=[", "the value is not valid YAML"),
        ("model.h_dim=\x01", "the value is not valid YAML"),
        ("training.epochs", "must be path=value"),
        ("=3", "must be path=value"),
    ],
)
def test_a_wrong_set_is_refused_as_if_it_stood_in_the_file_and_named(override: str, message: str) -> None:
    assert refusal(STUDY, override).startswith(f"setting {override}: {message}")


def test_a_rule_between_settings_that_a_set_breaks_is_shown_with_the_set() -> None:
    assert refusal(STUDY, "features.n_mels=512") == (
        "study.yaml, line 2: features n_mels ≤ n_fft / 2 must hold, but got n_mels = 512, n_fft = 512 "
        "(with setting features.n_mels=512)"
    )


@pytest.mark.parametrize("override", ["model.h_dim=48", "model={family: vae, h_dim: 48}"])
def test_a_setting_closed_by_set_wins_over_the_baseline(override: str) -> None:
    study = load(STUDY, override)

    assert study.baseline == {}
    assert study.close(FixedTrial({"learning_rate": 0.01})).model.model_dump()["h_dim"] == 48


def test_set_fills_a_section_that_stands_there_empty() -> None:
    text = STUDY.replace("search:\n  trials: 4\n", "search:\n")

    assert load(text).search.trials == 100
    assert load(text, "search.trials=3").search.trials == 3


def test_the_baseline_itself_can_be_set() -> None:
    assert load(STUDY, "baseline.h_dim=48").baseline == {"h_dim": 48}


def test_a_setting_of_the_same_name_elsewhere_leaves_the_baseline_alone() -> None:
    text = STUDY.replace("epochs: 2", "epochs: 2\n  seed: {choices: [1, 2]}").replace("h_dim: 32", "seed: 2")

    assert load(text, "validation.seed=5").baseline == {"seed": 2}


def test_the_last_set_of_a_path_holds() -> None:
    assert load(STUDY, "training.epochs=3", "training.epochs=4").first_recipe().training.epochs == 4


def test_a_study_can_be_given_another_name() -> None:
    Path("study.yaml").write_text(STUDY)

    assert load_study("study.yaml", name="valve").name == "valve"
    with pytest.raises(StudyFileError, match=r"^the name a b: study String should match pattern"):
        load_study("study.yaml", name="a b")


@pytest.mark.parametrize(
    ("setting", "refused"),
    [
        ("learning_rate: {low: 0.01, high: 0.1}", True),
        ("batch_size: {low: 8, high: 16}", True),
        ("epochs: {choices: [1, 2]}", True),
        ("epochs: 2", False),
        ("seed: {low: 0, high: 9}", False),
    ],
)
def test_an_open_setting_of_training_without_a_family_that_is_trained_is_searched_for_nothing(
    setting: str, refused: bool
) -> None:
    text = f"study: a\nmodel: {{family: stat}}\ntraining: {{{setting}}}\n"

    if refused:
        name = setting.partition(":")[0]
        assert refusal(text) == (
            f"study.yaml, line 3: training.{name} would be searched for nothing: stat is not trained"
        )
        assert name in load(text.replace("{family: stat}", "[{family: stat}, {family: vae}]")).space.distributions()
    else:
        assert load(text).max_epochs == 1
