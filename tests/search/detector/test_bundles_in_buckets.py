"""A detector in a bucket is what it is in a folder: whole or not there, never written over, scored by its address."""

from __future__ import annotations

import json
import re
import sys
import tempfile
import threading
import urllib.request
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import boto3  # type: ignore[import-untyped]
import numpy as np
import pytest
import torch
from waitress.server import create_server

from features.clips.corpus import read_corpus
from search import api
from search.artifacts.bucket import BucketFolder, bucket_of
from search.dashboard.app import dashboard_app
from search.dashboard.exhibits import Exhibit, upload
from search.detector.bundle import load_bundle, save_bundle
from search.detector.detector import Detector
from search.detector.scored_clips import score_clips
from search.detector.threshold_move import move_thresholds
from search.errors import BundleError
from search.study.recipe import Recipe
from search.study.study_file import to_yaml
from tests.support.detectors import change_details, detector_of, make_older
from tests.support.s3_service import s3_environment

if TYPE_CHECKING:
    from tests.support.command import Ran
    from tests.support.tiny_study import TinyStudy

    Offkey = Callable[..., Ran]

CPU = torch.device("cpu")
BUNDLE_FILES = ["README.md", "detector.json", "metrics.json", "recipe.yaml", "scores.json", "weights.safetensors"]
PLACE = "s3://lab/detectors/pump"


def recipe_on(root: Path) -> Recipe:
    return Recipe.model_validate(
        {"study": "levels", "corpus": {"root": str(root)}, "features": {"n_mels": 32}, "model": {"family": "stat"}}
    )


@pytest.fixture(scope="module")
def detector(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """Shared: nobody changes it."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(tmp_path_factory.mktemp("cache")))
        return detector_of(recipe_on(corpus_root), read_corpus(corpus_root), CPU)


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this process has its temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def lab(s3: Any) -> Any:
    """A client, and an empty bucket `lab`."""
    s3.create_bucket(Bucket="lab")
    yield s3
    for name in names_in(s3):
        s3.delete_object(Bucket="lab", Key=name)
    s3.delete_bucket(Bucket="lab")


def names_in(client: Any) -> list[str]:
    return sorted(entry["Key"] for entry in client.list_objects_v2(Bucket="lab").get("Contents", []))


def content_of(client: Any, name: str) -> bytes:
    content: bytes = client.get_object(Bucket="lab", Key=name)["Body"].read()
    return content


@pytest.mark.parametrize(
    ("place", "address"),
    [
        ("s3://lab", ("lab", "")),
        ("s3://lab/", ("lab", "")),
        ("s3://lab/pump", ("lab", "pump/")),
        ("s3://lab/detectors/pump/", ("lab", "detectors/pump/")),
        (Path("s3://lab/pump"), ("lab", "pump/")),
        ("s3", None),
        ("s3/lab", None),
        ("./s3:/lab", None),
        ("/data/detector", None),
    ],
)
def test_an_address_of_a_bucket_is_no_folder(place: str | Path, address: tuple[str, str] | None) -> None:
    assert bucket_of(place) == address


@pytest.mark.parametrize(("place", "prefix"), [("s3://lab", ""), (f"{PLACE}/", "detectors/pump/")])
def test_a_detector_in_a_bucket_is_the_folder_s_files_and_scores_alike(
    place: str, prefix: str, lab: Any, detector: Detector, corpus_root: Path, tmp_path: Path, temporary: Path
) -> None:
    folder = tmp_path / "detector"
    save_bundle(detector, folder)
    save_bundle(detector, place)

    assert names_in(lab) == [f"{prefix}{name}" for name in BUNDLE_FILES]
    assert all(content_of(lab, f"{prefix}{name}") == (folder / name).read_bytes() for name in BUNDLE_FILES)
    clips = [clip.path for clip in read_corpus(corpus_root).clips]
    here, there = ([*score_clips(load_bundle(one), clips, CPU)] for one in (folder, place))
    assert here == there
    assert list(temporary.iterdir()) == []


def test_a_detector_is_trained_to_an_address_and_scores_by_it(lab: Any, offkey: Offkey, corpus_root: Path) -> None:
    Path("recipe.yaml").write_text(to_yaml(recipe_on(corpus_root).tree()))
    clip = corpus_root / "compressor" / "test" / "anomaly_id_02_00000003.wav"

    trained = offkey("train", "recipe.yaml", "-o", PLACE)
    assert (trained.code, f"Wrote {PLACE}. Next: offkey score {PLACE} PATH…" in trained.stderr) == (0, True)
    as_json = offkey("train", "recipe.yaml", "-o", "s3://lab/again", "--json")
    assert json.loads(as_json.stdout)["bundle"] == "s3://lab/again"
    scored = offkey("score", PLACE, clip, "--jsonl")
    assert (scored.code, json.loads(scored.stdout)) == (0, vars(next(api.score(PLACE, clip))))
    assert not Path("s3:").exists()


@pytest.mark.parametrize("command", ["train", "score", "threshold", "onnx"])
def test_each_command_that_takes_a_bundle_says_that_an_address_will_do(command: str, offkey: Offkey) -> None:
    assert "s3://BUCKET/PREFIX" in offkey(command, "--help").stdout


@pytest.mark.parametrize("there", [f"detectors/pump/{name}" for name in ("detector.json", "of another kind", "a/b")])
def test_nothing_is_ever_overwritten(there: str, lab: Any, detector: Detector, temporary: Path) -> None:
    lab.put_object(Bucket="lab", Key=there, Body=b"somebody's")
    lab.put_object(Bucket="lab", Key="detectors/pump-2/detector.json", Body=b"a neighbour's")

    with pytest.raises(BundleError, match=f"(?s){PLACE} exists already, and is left as it is.*is kept in") as raised:
        save_bundle(detector, PLACE)

    assert len(names_in(lab)) == 2
    assert content_of(lab, there) == b"somebody's"
    (kept,) = temporary.iterdir()
    assert str(kept) in str(raised.value)
    assert load_bundle(kept).recipe.tree() == detector.recipe.tree()


def test_a_place_that_is_taken_is_refused_before_the_training(lab: Any, offkey: Offkey) -> None:
    lab.put_object(Bucket="lab", Key="detectors/pump/detector.json", Body=b"somebody's")
    Path("recipe.yaml").write_text(to_yaml(recipe_on(Path("no clips here")).tree()))
    refused = offkey("train", "recipe.yaml", "-o", PLACE)
    assert (refused.code, f"{PLACE} exists already" in refused.stderr) == (1, True)


class Meanwhile:
    """A scorer whose arrays are asked for while something happens."""

    def __init__(self, detector: Detector, happens: Callable[[], object]) -> None:
        self._scorer, self._happens = detector.scorer, happens

    def state_dict(self) -> dict[str, torch.Tensor]:
        self._happens()
        return self._scorer.state_dict()


@pytest.mark.parametrize(
    ("happens", "message", "left"),
    [
        (
            lambda s3: s3.delete_bucket(Bucket="lab"),
            f"{PLACE} cannot be written: .*NoSuchBucket.*AWS_ENDPOINT_URL",
            None,
        ),
        (
            lambda s3: s3.put_object(Bucket="lab", Key="detectors/pump/detector.json", Body=b"another's"),
            f"{PLACE} has a detector.json by now",
            ["detectors/pump/detector.json"],
        ),
    ],
    ids=["the bucket goes away", "another one comes first"],
)
def test_an_upload_that_fails_leaves_nothing_there_and_the_detector_here(
    happens: Callable[[Any], object],
    message: str,
    left: list[str] | None,
    lab: Any,
    detector: Detector,
    temporary: Path,
) -> None:
    changing = replace(detector, scorer=cast("Any", Meanwhile(detector, lambda: happens(lab))))

    with pytest.raises(BundleError, match=message) as raised:
        save_bundle(changing, PLACE)

    if left is None:
        lab.create_bucket(Bucket="lab")
    assert names_in(lab) == (left or [])
    (kept,) = temporary.iterdir()
    assert f"The detector is kept in {kept}" in str(raised.value)
    assert load_bundle(kept).thresholds == detector.thresholds


def test_a_request_that_is_repeated_since_its_answer_got_lost_is_not_in_its_own_way(lab: Any, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a card")
    folder = BucketFolder(PLACE)
    put = folder._client.put_object

    def put_twice(**request: Any) -> None:
        content = request.pop("Body").read()
        put(**request, Body=content)
        put(**request, Body=content)

    folder._client.put_object = put_twice
    folder.put(["README.md"], tmp_path)
    assert content_of(lab, "detectors/pump/README.md") == b"a card"
    with pytest.raises(FileExistsError, match="has a README.md by now"):
        BucketFolder(PLACE).put(["README.md"], tmp_path)


def test_a_training_that_is_stopped_leaves_nothing_anywhere(lab: Any, detector: Detector, temporary: Path) -> None:
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_bundle(replace(detector, scorer=cast("Any", Meanwhile(detector, stop))), PLACE)

    assert (names_in(lab), list(temporary.iterdir())) == ([], [])


@pytest.mark.parametrize(
    "missing", ["detector.json", "metrics.json", "recipe.yaml", "scores.json", "weights.safetensors"]
)
def test_a_bundle_that_is_not_whole_is_refused(missing: str, lab: Any, detector: Detector, temporary: Path) -> None:
    save_bundle(detector, PLACE)
    lab.delete_object(Bucket="lab", Key=f"detectors/pump/{missing}")

    with pytest.raises(BundleError, match=f"{PLACE} is not a bundle, or not a whole one: {PLACE} has no {missing}"):
        load_bundle(PLACE)
    assert list(temporary.iterdir()) == []


def test_a_flipped_bit_in_a_bucket_is_noticed(lab: Any, detector: Detector, temporary: Path) -> None:
    save_bundle(detector, PLACE)
    name = "detectors/pump/weights.safetensors"
    content = bytearray(content_of(lab, name))
    content[-1] ^= 1
    lab.put_object(Bucket="lab", Key=name, Body=bytes(content))

    with pytest.raises(BundleError, match=r"weights\.safetensors is not as it was written: its SHA-256"):
        load_bundle(PLACE)
    assert list(temporary.iterdir()) == []


def test_thresholds_are_moved_in_a_bucket_as_in_a_folder(
    lab: Any, detector: Detector, tmp_path: Path, temporary: Path
) -> None:
    folder = tmp_path / "detector"
    save_bundle(detector, folder)
    save_bundle(detector, PLACE)

    here, there = (move_thresholds(place, 0.6) for place in (folder, PLACE))

    assert here == there
    assert load_bundle(PLACE).false_alarm_rate == 0.6
    assert all(content_of(lab, f"detectors/pump/{name}") == (folder / name).read_bytes() for name in BUNDLE_FILES)
    assert list(temporary.iterdir()) == []


def test_a_detector_of_an_earlier_version_is_loaded_from_a_bucket(lab: Any, detector: Detector, tmp_path: Path) -> None:
    save_bundle(detector, tmp_path / "detector")
    make_older(tmp_path / "detector")
    for path in (tmp_path / "detector").iterdir():
        lab.put_object(Bucket="lab", Key=f"detectors/pump/{path.name}", Body=path.read_bytes())

    assert load_bundle(PLACE).thresholds == detector.thresholds


ANYWHERE = s3_environment("http://127.0.0.1:1") | {"AWS_MAX_ATTEMPTS": "1"}
NOBODY = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SHARED_CREDENTIALS_FILE": "none"}


@pytest.mark.parametrize(
    ("place", "variables", "message"),
    [
        ("s3://nobody-made-this/pump", {}, "cannot be read: .*NoSuchBucket.*AWS_ENDPOINT_URL the service"),
        ("s3://", {}, "cannot be read: .*nvalid bucket name"),
        (PLACE, ANYWHERE, r"cannot be read: .*127\.0\.0\.1:1"),
        (PLACE, ANYWHERE | NOBODY, "cannot be read: Unable to locate credentials. AWS_ACCESS_KEY_ID, "),
        (PLACE, ANYWHERE | {"AWS_ENDPOINT_URL": "localhost"}, "cannot be reached: Invalid endpoint: localhost"),
        (PLACE, {"AWS_PROFILE": "nobody"}, r"cannot be reached: The config profile \(nobody\) could not be found"),
    ],
    ids=["no such bucket", "no bucket", "nobody answers", "no credentials", "no address", "no profile"],
)
def test_a_bucket_that_cannot_be_used_is_named_with_the_remedy_by_each_command(
    place: str,
    variables: dict[str, str],
    message: str,
    s3: Any,
    offkey: Offkey,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)  # it keeps the credentials that it found first
    Path("recipe.yaml").write_text(to_yaml(recipe_on(Path("no clips here")).tree()))
    for command in (("score", place, "."), ("onnx", place), ("train", "recipe.yaml", "-o", place)):
        refused = offkey(*command)
        assert (refused.code, refused.stdout) == (1, "")
        (line,) = refused.stderr.splitlines()
        assert line.startswith(f"error: {place} ")
        assert re.search(message, line), line
        assert "secret" not in line


@pytest.mark.parametrize("command", [("score", PLACE, "."), ("train", "recipe.yaml", "-o", PLACE)])
def test_without_boto3_the_error_says_what_to_install(
    command: tuple[str, ...], offkey: Offkey, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("recipe.yaml").write_text(to_yaml(recipe_on(Path("no clips here")).tree()))
    monkeypatch.setitem(sys.modules, "boto3", None)
    refused = offkey(*command)
    assert (refused.code, refused.stderr) == (1, f"error: {PLACE} needs boto3: pip install 'offkey[s3]'\n")


def test_other_versions_are_warned_of_once_at_the_user_s_own_line(
    detector: Detector, corpus_root: Path, offkey: Offkey
) -> None:
    save_bundle(detector, Path("detector"))
    change_details(Path("detector"), lambda details: details["versions"].update(torch="2.0.0"))
    clip = corpus_root / "compressor" / "test" / "anomaly_id_02_00000003.wav"
    warning = f"detector was written with torch 2.0.0 (here {torch.__version__}): its scores may differ a little"

    scored = offkey("score", "detector", clip, clip)
    assert (scored.code, scored.stderr.count(f"warning: {warning}\n")) == (0, 1)
    assert "warning" not in scored.stdout
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        api.load_bundle("detector")
        api.score("detector", clip)
    assert [(str(one.message), one.filename) for one in warned] == [(warning, __file__)] * 2


def test_the_dashboard_serves_pictures_from_a_bucket(tiny_study: Callable[..., TinyStudy], lab: Any) -> None:
    study = tiny_study(trials=1)
    picture = Exhibit("a.png", "image/png", b"\x89PNG\r\n\x1a\n a picture" * 10_000)
    hold = study.ledger.claim("worker", first={})
    assert hold is not None
    exhibits = upload([picture], "s3://lab/pictures", uid=study.stored.uid, number=0)
    hold.finish("complete", values=[0.5], scores=np.zeros(len(study.stored.truth)), exhibits=exhibits)
    (identifier,) = (name.removeprefix("artifacts:") for name in exhibits)

    app = dashboard_app(study.storage, artifacts="s3://lab/pictures")
    server: Any = create_server(app, host="127.0.0.1", port=0)
    threading.Thread(target=server.run, daemon=True).start()
    address = f"http://127.0.0.1:{server.effective_port}/artifacts/{study.stored.study_id}/{hold.trial_id}/{identifier}"
    with urllib.request.urlopen(address, timeout=60) as answer:
        served = answer.read()
    server.close()
    assert (answer.headers["Content-Type"], served) == ("image/png", picture.content)
