"""`offkey evaluate`: any system's scores, from files as they are handed in."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import soundfile as sf
from sklearn.metrics import roc_auc_score

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]

# By hand: ID 00 has pairs (normal 1, 2) × (anomaly 2, 3): 3.5 of 4; ID 02 (1) × (0): none.
CLIPS = {
    "normal_id_00_00000000.wav": (1.0, 0),
    "normal_id_00_00000001.wav": (2.0, 1),
    "anomaly_id_00_00000000.wav": (2.0, 1),
    "anomaly_id_00_00000001.wav": (3.0, 1),
    "normal_id_02_00000000.wav": (1.0, 0),
    "anomaly_id_02_00000000.wav": (0.0, 0),
}
AUCS = {"fan/00": 3.5 / 4, "fan/02": 0.0}


def label_of(file: str) -> int:
    return int(file.startswith("anomaly"))


def write_csv(path: str, rows: list[dict[str, Any]]) -> str:
    with Path(path).open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def ours(clips: Mapping[str, tuple[float, int]] = CLIPS, machine: str = "fan") -> list[dict[str, Any]]:
    return [
        {"path": f"x/{machine}/test/{file}", "machine": machine, "score": score, "decision": decision, "error": ""}
        for file, (score, decision) in clips.items()
    ]


@pytest.fixture
def truth() -> str:
    return write_csv("truth.csv", [{"file": file, "label": label_of(file)} for file in CLIPS])


def scores_csv() -> str:
    return write_csv("scores.csv", ours())


def scores_jsonl() -> str:
    Path("scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ours()))
    return "scores.jsonl"


def challenge_files() -> str:
    folder = Path("submission")
    folder.mkdir()
    for kind, column in (("anomaly_score", 0), ("decision_result", 1)):
        for machine_id in ("00", "02"):
            lines = [f"{file},{values[column]}\n" for file, values in CLIPS.items() if f"_id_{machine_id}_" in file]
            (folder / f"{kind}_fan_id_{machine_id}.csv").write_text("".join(lines))
    return "submission"


@pytest.mark.parametrize("write", [scores_csv, scores_jsonl, challenge_files])
def test_the_same_scores_have_the_same_figures_in_whatever_files(
    write: Callable[[], str], truth: str, offkey: Offkey
) -> None:
    ran = offkey("evaluate", write(), "--truth", truth, "--json")

    document = json.loads(ran.stdout)
    assert ran.code == 0
    assert {name: of_id["auc"] for name, of_id in document["per_id"].items()} == AUCS
    assert document["auc"] == pytest.approx(3.5 / 8)
    assert document["harmonic"] == {"auc": 0.0, "pauc": None}
    # All clips together: normal 1, 2, 1 against anomalies 2, 3, 0.
    assert document["pooled"] == pytest.approx((2 + 0.5 + 3) / 9)
    assert document["interval"] is None  # two clips of each label
    assert document["per_id"]["fan/00"]["decisions"] == {
        "precision": pytest.approx(2 / 3),
        "recall": 1.0,
        "f1": pytest.approx(0.8),
        "domains": {},
    }
    assert document["per_id"]["fan/02"]["decisions"]["recall"] == 0
    assert document["official"]["year"] == 2020
    assert "needs 10 of them, but fan/00 has 2" in document["official"]["reason"]


def test_the_table_shows_ids_means_and_why_there_is_no_official_score(truth: str, offkey: Offkey) -> None:
    ran = offkey("evaluate", scores_csv(), "--truth", truth)

    assert (ran.code, ran.stderr) == (0, "")
    for text in ("fan/00 0.875", "arithmetic 0.438", "harmonic 0.000", "rule of 2020: n/a: pAUC is computed from"):
        assert text in " ".join(ran.stdout.split())


def write_sections(machine: str = "fan") -> None:
    """Section 00, twelve normal clips and twelve anomalies in each domain, named without labels as for evaluation."""
    truth, domains, scores = [], [], []
    for number in range(48):
        file = f"section_00_{number:04d}.wav"
        truth.append(f"{file},{number % 2}\n")
        domains.append(f"{file},{number // 2 % 2}\n")
        scores.append(f"{file},{number % 5 + 3 * (number % 2)}\n")
    for folder, name, lines in (
        ("ground_truth_data", f"ground_truth_{machine}_section_00_test.csv", truth),
        ("ground_truth_domain", f"ground_truth_{machine}_section_00_test.csv", domains),
        ("submission", f"anomaly_score_{machine}_section_00_test.csv", scores),
    ):
        Path("all", folder).mkdir(parents=True, exist_ok=True)
        Path("all", folder, name).write_text("".join(lines))


def test_the_challenge_s_ground_truth_tables_suffice_without_any_recording(offkey: Offkey) -> None:
    write_sections()

    ran = offkey("evaluate", "all/submission", "--truth", "all", "--json")

    document = json.loads(ran.stdout)
    domains = document["per_id"]["fan/00"]["domains"]
    parts = [domains["source"], domains["target"], document["per_id"]["fan/00"]["pauc"]]
    assert ran.code == 0
    assert document["official"]["year"] == 2022
    assert document["official"]["score"] == pytest.approx(3 / sum(1 / part for part in parts))


def test_decisions_are_told_for_each_domain_too(offkey: Offkey) -> None:
    """Every third normal clip of the source domain is called an anomaly, and none of the target domain's clips."""
    write_sections()
    called = [int(number % 2 or number % 12 == 0) if number // 2 % 2 == 0 else 0 for number in range(48)]
    lines = [f"section_00_{number:04d}.wav,{decision}\n" for number, decision in enumerate(called)]
    Path("all/submission/decision_result_fan_section_00_test.csv").write_text("".join(lines))

    document = json.loads(offkey("evaluate", "all/submission", "--truth", "all", "--json").stdout)
    table = " ".join(offkey("evaluate", "all/submission", "--truth", "all").stdout.split())

    decisions = document["per_id"]["fan/00"]["decisions"]
    assert decisions["domains"] == {
        "source": {"precision": 12 / 16, "recall": 1.0, "f1": pytest.approx(24 / 28)},
        "target": {"precision": 0.0, "recall": 0.0, "f1": 0.0},
    }
    assert (decisions["precision"], decisions["recall"]) == (12 / 16, 0.5)
    assert "fan/00 source 0.750 1.000 0.857 target 0.000 0.000 0.000" in table.replace("fan/00 target", "target")


@pytest.mark.parametrize(("year", "rule"), [("2020", 2020), ("2021", 2021), ("2025", 2022)])
def test_the_year_chooses_the_rule(offkey: Offkey, year: str, rule: int) -> None:
    write_sections()

    ran = offkey("evaluate", "all/submission", "--truth", "all", "--year", year, "--json")

    assert json.loads(ran.stdout)["official"]["year"] == rule


@pytest.mark.parametrize("place", ["", "/ground_truth_data", "/ground_truth_data/ground_truth_fan_section_00_test.csv"])
def test_the_tables_are_found_in_a_folder_above_in_their_own_and_one_alone(place: str, offkey: Offkey) -> None:
    write_sections()

    ran = offkey("evaluate", "all/submission", "--truth", f"all{place}", "--json")

    document = json.loads(ran.stdout)
    assert (document["per_id"]["fan/00"]["normal"], document["official"]["year"]) == (24, 2022)
    assert ("needs the domain (source or target)" in (document["official"]["reason"] or "")) == bool(place)


@pytest.mark.parametrize(("year", "rule"), [((), 2022), (("--year", 2020), 2020)], ids=["by the clips", "by --year"])
def test_clips_of_later_years_get_the_rule_of_2020_only_if_asked(
    year: tuple[object, ...], rule: int, offkey: Offkey
) -> None:
    write_sections()
    shutil.rmtree("all/ground_truth_domain")

    ran = offkey("evaluate", "all/submission", "--truth", "all", *year, "--json")

    official = json.loads(ran.stdout)["official"]
    assert official["year"] == rule
    assert (official["score"] is None) == (rule == 2022)


def test_clips_of_2021_get_the_rule_of_2021(offkey: Offkey) -> None:
    Path("scores").mkdir()
    Path("truth/ground_truth_data").mkdir(parents=True)
    for domain in ("source", "target"):
        files = [f"section_03_{domain}_test_{number:04d}.wav" for number in range(40)]
        name = f"fan_section_03_{domain}_test.csv"
        labels = "".join(f"{file},{number % 2}\n" for number, file in enumerate(files))
        Path(f"truth/ground_truth_data/ground_truth_{name}").write_text(labels)
        # The source domain's anomalies are all found, the target domain's score as its normal clips do.
        scores = [number % 2 if domain == "source" else number // 2 for number in range(40)]
        lines = "".join(f"{file},{score}\n" for file, score in zip(files, scores, strict=True))
        Path(f"scores/anomaly_score_{name}").write_text(lines)

    official = json.loads(offkey("evaluate", "scores", "--truth", "truth", "--json").stdout)["official"]

    # By hand: AUC and pAUC 1 in the source domain, AUC 0.5 and pAUC p in the target domain.
    normals, anomalies = np.arange(20), np.arange(20)
    p = roc_auc_score([0] * 20 + [1] * 20, np.r_[normals, anomalies], max_fpr=0.1)
    assert official == {"year": 2021, "score": pytest.approx(4 / (1 + 1 + 1 / 0.5 + 1 / p)), "reason": None}


def test_clips_that_state_no_year_have_no_official_score_unless_it_is_given(offkey: Offkey) -> None:
    clips = [{"file": f"{number:04d}.wav", "label": number % 2, "score": number} for number in range(40)]
    write_csv("truth.csv", clips)

    silent, given = (offkey("evaluate", "truth.csv", "--truth", "truth.csv", *year) for year in ((), ("--year", 2020)))

    assert (silent.code, given.code) == (0, 0)
    text = " ".join(silent.stdout.split())
    assert "n/a: The name of 0000.wav does not say which year's rule is meant. Say the year of the challenge" in text
    assert "Official score, rule of 2020: 0." in given.stdout


@pytest.mark.parametrize("year", ["2019", "2027"])
def test_a_year_without_a_known_rule_is_refused(year: str, truth: str, offkey: Offkey) -> None:
    ran = offkey("evaluate", scores_csv(), "--truth", truth, "--year", year)

    assert ran.code == 2
    assert f"must be one of 2020 to 2026, but got {year}" in ran.stderr


def truth_as_csv(machines: list[str]) -> str:
    rows = [{"file": f, "machine": m, "label": label_of(f)} for m in machines for f in CLIPS]
    return write_csv("known.csv", rows)


def truth_as_tables(machines: list[str]) -> str:
    folder = Path("known", "ground_truth_data")
    folder.mkdir(parents=True)
    for machine in machines:
        lines = [f"{file},{label_of(file)}\n" for file in CLIPS]
        Path(folder, f"ground_truth_{machine}_section_00_test.csv").write_text("".join(lines))
    return "known"


def truth_as_corpus(machines: list[str]) -> str:
    for machine in machines:
        Path("known", machine, "test").mkdir(parents=True)
        for file in CLIPS:
            sf.write(Path("known", machine, "test", file), np.zeros(160), 16000, subtype="PCM_16")
    return "known"


FORMS = [truth_as_csv, truth_as_tables, truth_as_corpus]


@pytest.mark.parametrize("form", FORMS)
def test_a_labelled_clip_without_a_score_is_an_error_whatever_the_form_of_the_truth(
    form: Callable[[list[str]], str], offkey: Offkey
) -> None:
    write_csv("scores.csv", ours()[1:])

    ran = offkey("evaluate", "scores.csv", "--truth", form(["fan"]))

    assert (ran.code, ran.stdout) == (1, "")
    assert "1 labelled clips have no score (fan normal_id_00_00000000.wav)" in ran.stderr


@pytest.mark.parametrize("form", FORMS)
def test_a_machine_without_any_score_is_told_whatever_the_form_of_the_truth(
    form: Callable[[list[str]], str], offkey: Offkey
) -> None:
    known = form(["fan", "pump"])
    shown, document = (offkey("evaluate", scores_csv(), "--truth", known, *option) for option in ((), ("--json",)))

    assert shown.code == 0
    assert "no clip of pump/00, pump/02 has a score: means and the official score are without them" in shown.stderr
    assert json.loads(document.stdout)["without_scores"] == ["pump/00", "pump/02"]


@pytest.mark.parametrize("form", FORMS)
def test_scores_of_a_machine_that_the_truth_lacks_are_told_whatever_its_form(
    form: Callable[[list[str]], str], offkey: Offkey
) -> None:
    write_csv("scores.csv", [*ours(), *ours(machine="pump")])

    ran = offkey("evaluate", "scores.csv", "--truth", form(["fan"]))

    assert ran.code == 0
    assert "has no clip of pump/00, pump/02: 6 scored clips are left out" in ran.stderr


def test_the_scores_of_a_whole_corpus_are_measured_where_training_and_test_clips_share_names(offkey: Offkey) -> None:
    """As in DCASE 2020: train/normal_id_00_00000000.wav and test/normal_id_00_00000000.wav are two clips."""
    known = truth_as_corpus(["fan"])
    shutil.copytree("known/fan/test", "known/fan/train")
    rows = [*ours(), *({**row, "path": row["path"].replace("/test/", "/train/"), "score": 9} for row in ours())]
    for row in rows:
        row["path"] = row["path"].replace("x/", "known/")
    write_csv("scores.csv", rows)

    ran = offkey("evaluate", "scores.csv", "--truth", known, "--json")

    assert {name: of_id["auc"] for name, of_id in json.loads(ran.stdout)["per_id"].items()} == AUCS
    assert "6 scored clips are training clips and are left out, for example known/fan/train/normal_id_00" in ran.stderr


def test_a_table_whose_folder_does_not_say_what_it_holds_is_named(offkey: Offkey) -> None:
    write_sections()
    Path("all/ground_truth_data").rename("tables")

    ran = offkey("evaluate", "all/submission", "--truth", "tables")

    assert ran.code == 1
    assert "tables has a label for none of the 48 scored clips" in ran.stderr
    assert "tables/ground_truth_fan_section_00_test.csv: not used, since its folder does not say" in ran.stderr


def test_a_truth_without_any_recording_or_table_is_named(offkey: Offkey) -> None:
    Path("empty").mkdir()

    ran = offkey("evaluate", scores_csv(), "--truth", "empty")

    assert ran.code == 1
    assert "empty has no ground-truth tables (ground_truth_data/ground_truth_<machine>_section_<ID>" in ran.stderr
    assert "and is no corpus: No wav file below" in ran.stderr


def test_a_detector_s_scores_are_measured_against_the_corpus(corpus_root: Path, offkey: Offkey) -> None:
    clips = sorted((corpus_root / "compressor" / "test").iterdir())
    scores = {clip.name: (float(label_of(clip.name)), 0) for clip in clips}
    train = {"normal_id_00_00000999.wav": (0.0, 0)}
    write_csv("scores.csv", ours({**scores, **train}, "compressor"))

    ran = offkey("evaluate", "scores.csv", "--truth", corpus_root, "--json")

    assert json.loads(ran.stdout)["auc"] == 1
    assert "1 scored clips have no label and are left out, for example normal_id_00_00000999.wav" in ran.stderr
    assert (
        "if a search used some of them for validation, quote the AUC of `offkey train`, which is on test clips"
        in ran.stderr
    )


BARE = [{"file": file, "score": score} for file, (score, _) in CLIPS.items()]


@pytest.mark.parametrize(
    ("truth_of", "ids"),
    [
        (lambda file: {"file": file, "machine": "fan"}, ["fan/00", "fan/02"]),
        (lambda file: {"path": f"x/fan/test/{file}"}, ["fan/00", "fan/02"]),
        (lambda file: {"file": file}, ["unnamed/00", "unnamed/02"]),
    ],
    ids=["by the truth's column", "by the truth's folder", "by neither"],
)
def test_where_there_is_one_machine_scores_need_not_name_it(
    truth_of: Callable[[str], dict[str, str]], ids: list[str], offkey: Offkey
) -> None:
    write_csv("truth.csv", [{**truth_of(file), "label": file.partition("_")[0]} for file in CLIPS])

    ran = offkey("evaluate", write_csv("scores.csv", BARE), "--truth", "truth.csv", "--json")

    assert list(json.loads(ran.stdout)["per_id"]) == ids
    assert ran.stderr == ""


def test_a_corpus_or_a_table_of_one_machine_names_it_too(corpus_root: Path, offkey: Offkey) -> None:
    clips = sorted((corpus_root / "compressor" / "test").iterdir())
    write_csv("scores.csv", [{"path": clip.name, "score": label_of(clip.name)} for clip in clips])
    write_sections()
    lines = Path("all/submission/anomaly_score_fan_section_00_test.csv").read_text()
    Path("sections.csv").write_text(f"file,score\n{lines}")

    assert "compressor/00" in offkey("evaluate", "scores.csv", "--truth", corpus_root, "--json").stdout
    assert "fan/00" in offkey("evaluate", "sections.csv", "--truth", "all", "--json").stdout


def test_where_there_are_several_machines_a_score_names_its_own(offkey: Offkey) -> None:
    write_csv("truth.csv", [{"file": f, "machine": m, "label": label_of(f)} for m in ("fan", "pump") for f in CLIPS])
    write_csv("scores.csv", BARE)
    write_csv("twice.csv", [*BARE, *BARE])
    write_csv("pumps.csv", ours(machine="slider"))

    for scores, message in (
        (
            "scores.csv",
            "scores.csv, line 2: no machine in the path of normal_id_00_00000000.wav, and truth.csv is of fan, "
            "pump: write <machine>/test/normal_id_00_00000000.wav, or add a column machine",
        ),
        (
            "twice.csv",
            "twice.csv, line 8: normal_id_00_00000000.wav has a score already, in twice.csv, line 2. If they are "
            "clips of two machines, write <machine>/test/",
        ),
        ("pumps.csv", "They are of slider by their folder or column machine, and truth.csv is of fan, pump"),
    ):
        ran = offkey("evaluate", scores, "--truth", "truth.csv")
        assert ran.code == 1
        assert message in ran.stderr


def test_two_systems_are_compared_on_the_same_clips(offkey: Offkey) -> None:
    """The first finds every anomaly; the other one none of pump's, and lists the clips in another order."""
    clips = [(m, f"id_00_{number:08d}.wav", number % 2) for m in ("fan", "pump") for number in range(40)]
    write_csv("truth.csv", [{"file": f, "machine": m, "label": label} for m, f, label in clips])
    write_csv("one.csv", [{"file": f, "machine": m, "score": label} for m, f, label in clips])
    scores = [{"file": f, "machine": m, "score": label if m == "fan" else -label} for m, f, label in clips]
    write_csv("other.csv", scores[::-1])

    ran = offkey("evaluate", "one.csv", "--truth", "truth.csv", "--against", "other.csv", "--json")
    shown = " ".join(offkey("evaluate", "one.csv", "--truth", "truth.csv", "--against", "other.csv").stdout.split())

    against = json.loads(ran.stdout)["against"]
    assert (against["auc"]["value"], against["auc"]["other"], against["auc"]["difference"]) == (1, 0.5, 0.5)
    assert against["per_id"]["pump/00"]["auc"]["difference"] == 1
    assert against["official"]["difference"] > 0
    assert "pump/00 AUC 1.000 0.000 +1.000" in shown
    assert "all machine IDs AUC 1.000 0.500 +0.500" in shown
    assert "Each interval is for one comparison" in shown


def test_a_machine_that_only_one_system_scored_is_no_part_of_the_differences(truth: str, offkey: Offkey) -> None:
    write_csv("other.csv", [row for row in ours() if "_id_00_" in row["path"]])

    ran = offkey("evaluate", scores_csv(), "--truth", truth, "--against", "other.csv")

    assert "Only one of the two systems scored fan/02: left out of the differences" in ran.stdout
    assert "the other system: no clip of fan/02 has a score" in ran.stderr


def test_an_error_says_that_it_is_in_the_other_system_s_scores(truth: str, offkey: Offkey) -> None:
    write_csv("other.csv", ours()[1:])

    ran = offkey("evaluate", scores_csv(), "--truth", truth, "--against", "other.csv")

    assert (ran.code, ran.stdout) == (1, "")
    assert "The other system: 1 labelled clips have no score (fan normal_id_00_00000000.wav)" in ran.stderr


def test_an_id_without_any_score_is_left_out_with_a_warning(truth: str, offkey: Offkey) -> None:
    write_csv("scores.csv", [row for row in ours() if "_id_00_" in row["path"]])

    ran = offkey("evaluate", "scores.csv", "--truth", truth, "--json")

    assert list(json.loads(ran.stdout)["per_id"]) == ["fan/00"]
    assert "no clip of fan/02 has a score" in ran.stderr


DAYS: list[dict[str, Any]] = [
    {"path": f"{day}/{number:04d}.wav", "machine": "press", "label": label, "score": label + number}
    for day, label in (("day1", 0), ("day2", 1))
    for number in range(3)
]


def test_clips_of_one_name_are_told_apart_by_their_folders(offkey: Offkey) -> None:
    """Normal clips score 0, 1, 2 and anomalies 1, 2, 3: 7 of 9 pairs, two of them halves."""
    write_csv("days.csv", DAYS)

    ran = offkey("evaluate", "days.csv", "--truth", "days.csv", "--json")

    assert (ran.code, json.loads(ran.stdout)["auc"]) == (0, pytest.approx(7 / 9))


def test_a_score_of_a_clip_in_another_folder_is_taken_for_it_with_a_warning(offkey: Offkey) -> None:
    of_a_day = [row for row in DAYS if row["path"].startswith("day1/")]
    labelled = [{**row, "path": f"fan/{row['path']}", "label": str(n % 2)} for n, row in enumerate(of_a_day)]
    write_csv("truth.csv", labelled)
    write_csv("other.csv", [{**row, "path": row["path"].replace("day1", "day2")} for row in labelled])

    ran = offkey("evaluate", "other.csv", "--truth", "truth.csv", "--json")

    assert ran.code == 0
    assert (
        f"{len(labelled)} scores were taken for clips in other folders, by the file name alone: fan/day2/0000.wav "
        "(other.csv, line 2) for fan/day1/0000.wav"
    ) in " ".join(ran.stderr.split())


def test_a_score_of_two_clips_of_one_name_is_refused(offkey: Offkey) -> None:
    write_csv("days.csv", DAYS)
    write_csv("bare.csv", [{**row, "path": Path(row["path"]).name} for row in DAYS[:3]])

    ran = offkey("evaluate", "bare.csv", "--truth", "days.csv")

    assert (ran.code, ran.stdout) == (1, "")
    assert "bare.csv, line 2: 0000.wav may be day1/0000.wav or day2/0000.wav of days.csv: write its path" in ran.stderr


def test_folders_that_are_no_machine_types_are_named_where_no_auc_is_defined(offkey: Offkey) -> None:
    write_csv("days.csv", [{key: row[key] for key in ("path", "label", "score")} for row in DAYS])

    ran = offkey("evaluate", "days.csv", "--truth", "days.csv")

    assert ran.code == 1
    assert "The scored machine IDs are day1/00, day2/00, by folders and names" in ran.stderr


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        (",3.0,", ",high,", "scores.csv, line 5: a score is a number, but got 'high'"),
        (",3.0,", ",nan,", "scores.csv, line 5: a score is finite, but got nan"),
        (",3.0,", ",,", "line 5: x/fan/test/anomaly_id_00_00000001.wav has no score (no reason is given)"),
        (",3.0,1", ",3.0,7", "scores.csv, line 5: a decision is 0 or 1, but got '7'"),
        (
            ",3.0,1",
            ",3.0,",
            "1 of the 4 scored clips of fan/00 have no decision, for example anomaly_id_00_00000001.wav",
        ),
        ("x/fan/test/anomaly_id_00_00000001.wav", "", "scores.csv, line 5: which clip? Its path is missing"),
        ("score", "points", "scores.csv: no column score in its first line"),
        (
            "anomaly_id_00_00000001",
            "anomaly_id_00_00000000",
            "line 5: fan, anomaly_id_00_00000000.wav has a score already",
        ),
        (
            "anomaly_id_00_00000001",
            "anomaly_id_00_00000007",
            "1 labelled clips have no score (fan anomaly_id_00_00000001.wav)",
        ),
    ],
)
def test_what_is_wrong_with_scores_is_said_with_its_place(
    right: str, wrong: str, message: str, truth: str, offkey: Offkey
) -> None:
    path = Path(scores_csv())
    path.write_text(path.read_text().replace(right, wrong))

    ran = offkey("evaluate", path, "--truth", truth)

    assert (ran.code, ran.stdout) == (1, "")
    assert message in ran.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("scores.csv", "", "scores.csv: no column path or file and no score in its first line ('')"),
        ("scores.csv", "path;score\na.wav;1\n", "('path;score'). Its columns seem to be separated by semicolons"),
        ("scores.csv", "path,score\n", "No scores in scores.csv"),
        ("scores.jsonl", "{\n", "scores.jsonl, line 1: not JSON"),
        ("scores.jsonl", "[]\n", "scores.jsonl, line 1: a JSON object, but got '[]'"),
        ("anomaly_score_fan_id_00.csv", "a.wav,1,2\n", "line 1: a file name and a value, but got 'a.wav,1,2'"),
        ("anomaly_score_fan_id_00.csv", "other.wav,1\n", "truth.csv has a label for none of the 1 scored clips"),
    ],
)
def test_files_that_hold_no_scores_are_refused(
    name: str, content: str, message: str, truth: str, offkey: Offkey
) -> None:
    Path(name).write_text(content)

    ran = offkey("evaluate", name, "--truth", truth)

    assert (ran.code, ran.stdout) == (1, "")
    assert message in ran.stderr


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": "broken"}, "truth.csv, line 2: a label is 0 or normal, 1 or anomaly, but got 'broken'"),
        ({"file": "", "label": ""}, "truth.csv, line 2: a label is 0 or normal, 1 or anomaly, but got ''"),
        ({"domain": "moon"}, "truth.csv, line 2: a domain is source or target, but got 'moon'"),
    ],
)
def test_what_is_wrong_with_the_truth_is_said_with_its_place(row: dict[str, str], message: str, offkey: Offkey) -> None:
    write_csv("truth.csv", [{"file": "normal_id_00_00000000.wav", "label": "0", "domain": "", **row}])

    ran = offkey("evaluate", scores_csv(), "--truth", "truth.csv")

    assert (ran.code, ran.stdout) == (1, "")
    assert message in ran.stderr


def test_a_clip_has_one_label(truth: str, offkey: Offkey) -> None:
    Path(truth).write_text(Path(truth).read_text() + "anomaly_id_00_00000000.wav,0\n")

    ran = offkey("evaluate", scores_csv(), "--truth", truth)

    assert ran.code == 1
    assert "truth.csv, line 8: fan, anomaly_id_00_00000000.wav has a label already, in line 4" in ran.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            "normal_id_00_00000000.wav,1",
            "decision_result_fan_id_00.csv, line 5: normal_id_00_00000000.wav has a decision",
        ),
        ("", ""),
    ],
)
def test_a_clip_has_one_decision(line: str, message: str, truth: str, offkey: Offkey) -> None:
    folder = challenge_files()
    with Path(folder, "decision_result_fan_id_00.csv").open("a") as file:
        file.write(line)

    ran = offkey("evaluate", folder, "--truth", truth)

    assert ran.code == int(bool(line))
    assert message in ran.stderr


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_all_scored_clips_of_the_challenge_s_files_have_a_decision_or_none_has(
    kept: int, truth: str, offkey: Offkey
) -> None:
    decisions = Path(challenge_files(), "decision_result_fan_id_00.csv")
    decisions.write_text("".join(decisions.read_text().splitlines(keepends=True)[:kept]))

    ran = offkey("evaluate", "submission", "--truth", truth)

    assert (ran.code, ran.stdout) == (1, "")
    assert (
        f"decision_result_fan_id_00.csv: {4 - kept} of the 4 clips that have a score have no decision, "
        f"for example {list(CLIPS)[kept]}: " in ran.stderr
    )


@pytest.mark.parametrize("decision", [True, 0.5, "yes"])
def test_a_decision_in_json_is_a_whole_number(decision: object, truth: str, offkey: Offkey) -> None:
    Path("scores.jsonl").write_text("".join(json.dumps(row | {"decision": decision}) + "\n" for row in ours()))

    ran = offkey("evaluate", "scores.jsonl", "--truth", truth)

    assert ran.code == 1
    assert f"scores.jsonl, line 1: a decision is 0 or 1, but got {decision!r}" in ran.stderr


def test_a_truth_that_is_no_text_is_an_error(offkey: Offkey) -> None:
    Path("truth.csv").write_bytes(b"\xff\xfe\x00")

    ran = offkey("evaluate", scores_csv(), "--truth", "truth.csv")

    assert ran.code == 1
    assert ran.stderr.startswith("error: truth.csv cannot be read: ")


def test_a_truth_that_is_not_there_is_an_error(offkey: Offkey) -> None:
    ran = offkey("evaluate", scores_csv(), "--truth", "nowhere.csv")

    assert ran.code == 1
    assert "nowhere.csv does not exist: --truth is a CSV (file, label)" in ran.stderr


def test_a_truth_tells_machines_by_folders_that_are_called_as_the_scored_ones(offkey: Offkey) -> None:
    for truth, machines in (("both.csv", ("fan", "pump")), ("neither.csv", ("data",))):
        write_csv(truth, [{"path": f"{m}/test/{f}", "label": label_of(f)} for m in machines for f in CLIPS])

        ran = offkey("evaluate", scores_csv(), "--truth", truth, "--json")

        assert list(json.loads(ran.stdout)["per_id"]) == ["fan/00", "fan/02"]
        assert ("no clip of pump/00, pump/02 has a score" in ran.stderr) == (truth == "both.csv")


def test_which_machine_s_a_clip_is_must_be_told_where_several_were_scored(truth: str, offkey: Offkey) -> None:
    write_csv("scores.csv", [*ours(), *ours(machine="pump")])

    ran = offkey("evaluate", "scores.csv", "--truth", truth)

    assert ran.code == 1
    assert "truth.csv, line 2: which machine? The scores are of fan, pump: add a column machine" in ran.stderr


def test_a_folder_without_the_challenge_s_files_is_refused(truth: str, offkey: Offkey) -> None:
    Path("empty").mkdir()

    ran = offkey("evaluate", "empty", "--truth", truth)

    assert ran.code == 1
    assert "empty holds no file named as the challenge's" in ran.stderr
