"""Checkpoints in a folder or bucket that hosts share: complete or absent, each its own, removed with their trial."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import optuna
import pytest

from features.errors import StoreError
from search.artifacts.checkpoints import Checkpoints
from search.errors import StudyError
from search.preparation.prepared import prepare
from search.storage.hold import Hold
from search.storage.stored_study import create_or_join
from search.storage.study_storage import StudyStorage
from search.workers.worker import join
from tests.support.house import HOUSE
from tests.support.quick import QuickTraining, quicken
from tests.support.s3_service import s3_environment

if TYPE_CHECKING:
    from tests.support.tiny_study import TinyStudy

    MakeStudy = Callable[..., TinyStudy]

LEASE = 0.6  # seconds

PLACES = ["folder", "bucket", "bucket with a prefix"]
everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)


class Note:
    """The smallest training that can be saved: an epoch and some bytes."""

    def __init__(self, epoch: int, contents: bytes = b"") -> None:
        self.epoch, self.contents = epoch, contents

    @property
    def steps(self) -> int:
        return self.epoch

    def save(self, file: BinaryIO) -> None:
        file.write(self.contents)

    def resume(self, file: BinaryIO) -> None:
        self.contents = file.read()


class Place:
    """The place of checkpoints, seen from outside."""

    def __init__(self, name: str, *, folder: Path | None = None, client: Any = None) -> None:
        self.name = name
        self._folder, self._client = folder, client
        self._bucket = name.removeprefix("s3://").partition("/")[0]

    def names(self) -> list[str]:
        if self._folder is not None:
            return sorted(path.name for path in self._folder.iterdir()) if self._folder.exists() else []
        return sorted(entry["Key"] for entry in self._client.list_objects_v2(Bucket=self._bucket).get("Contents", []))

    def contents(self, name: str) -> bytes:
        if self._folder is not None:
            return (self._folder / name).read_bytes()
        contents: bytes = self._client.get_object(Bucket=self._bucket, Key=name)["Body"].read()
        return contents

    def put(self, name: str, contents: bytes) -> None:
        if self._folder is not None:
            (self._folder / name).write_bytes(contents)
        else:
            self._client.put_object(Bucket=self._bucket, Key=name, Body=contents)


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "folder":
        folder = tmp_path / "shared" / "checkpoints"
        return Place(str(folder), folder=folder)
    client = request.getfixturevalue("s3")
    bucket = f"bucket-{os.getpid()}-{abs(hash(request.node.name))}"
    client.create_bucket(Bucket=bucket)
    prefix = "/studies/vae/" if request.param == "bucket with a prefix" else ""
    return Place(f"s3://{bucket}{prefix}", client=client)


def held(*, number: int = 7, token: int = 1) -> dict[str, int]:
    return {"trial": number, "token": token}


@everywhere
def test_one_host_reads_what_another_wrote(place: Place) -> None:
    contents = bytes(range(256)) * 1000
    entry = Checkpoints(place.name, "study").write(Note(1, contents), **held(), beside=None)
    assert entry is not None
    file = Checkpoints(place.name, "study").read(entry)
    assert file is not None
    assert file.read() == contents


def name_of(entry: str | None) -> str:
    """The artifact of a ledger's entry, `name@epoch/steps`."""
    assert entry is not None
    return entry.rpartition("@")[0]


@everywhere
def test_a_new_checkpoint_never_overwrites_the_one_in_the_ledger(place: Place) -> None:
    checkpoints = Checkpoints(place.name, "study")
    counts: str | None = None
    for epoch in range(1, 6):
        for unreported in (True, False):  # one that did not come to count, then one that does
            entry = checkpoints.write(Note(epoch, f"{unreported} {epoch}".encode()), **held(), beside=counts)
            if counts is not None:
                file = checkpoints.read(counts)
                assert file is not None
                assert file.read() == f"False {epoch - 1}".encode()
        counts = entry
    assert len(place.names()) == 2


def test_a_file_of_another_epoch_than_the_ledgers_is_no_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(str(tmp_path), "study")
    assert checkpoints.write(Note(5), **held(), beside=None) == "study-trial-7-1-0@5/5"
    assert checkpoints.read("study-trial-7-1-0@3/3") is None
    assert "another epoch's: starting over" in caplog.text


def test_a_place_that_stops_working_is_logged_and_the_older_checkpoint_stays(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(str(tmp_path / "place"), "study")
    counts = checkpoints.write(Note(1), **held(), beside=None)
    shutil.rmtree(tmp_path / "place")
    (tmp_path / "place").write_text("in the way")
    assert checkpoints.write(Note(2), **held(), beside=counts) == counts
    assert "going on without a new checkpoint" in caplog.text


@everywhere
@pytest.mark.parametrize("damage", ["missing", "cut off", "empty", "a flipped bit", "another file"])
def test_a_checkpoint_that_is_missing_or_damaged_is_logged_and_read_as_none(
    place: Place, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(place.name, "study")
    entry = checkpoints.write(Note(1, b"weights" * 100), **held(), beside=None)
    assert entry is not None
    (stored,) = place.names()
    whole = place.contents(stored)
    broken = {
        "cut off": whole[:-5],
        "empty": b"",
        "a flipped bit": whole[:-1] + bytes([whole[-1] ^ 1]),
        "another file": b"some other file",
    }
    if damage == "missing":
        checkpoints.remove(**held())
    else:
        place.put(stored, broken[damage])

    assert checkpoints.read(entry, empty_is_away=False) is None
    message = f"the checkpoint {name_of(entry)} is not in {place.name}" if damage == "missing" else "is damaged"
    assert message in caplog.text
    assert "starting over" in caplog.text


@everywhere
def test_every_holder_of_every_trial_of_every_study_writes_under_a_name_of_its_own(
    place: Place,
) -> None:
    names = [
        name_of(Checkpoints(place.name, uid).write(Note(1), **held(number=number, token=token), beside=None))
        for uid in ("one", "another")
        for number in (1, 11)
        for token in (1, 2, 11)
    ]
    assert len(set(names)) == len(names) == len(place.names())


@everywhere
def test_a_trials_end_removes_the_checkpoints_of_all_its_holders_and_no_others(place: Place) -> None:
    checkpoints = Checkpoints(place.name, "study")
    for token in (1, 2, 3):
        entry = checkpoints.write(Note(1), **held(token=token), beside=None)
        checkpoints.write(Note(2), **held(token=token), beside=entry)
    others = [
        name_of(checkpoints.write(Note(1), **held(number=77), beside=None)),
        name_of(Checkpoints(place.name, "another").write(Note(1), **held(), beside=None)),
    ]

    checkpoints.remove(**held(token=3))

    assert sorted(name.rpartition("/")[2] for name in place.names()) == sorted(others)
    checkpoints.remove(**held(token=3))  # a second time: nothing is missed


def test_a_prefix_is_a_folder_in_the_bucket(s3: Any) -> None:
    s3.create_bucket(Bucket="with-prefixes")
    names = [
        name_of(Checkpoints(f"s3://with-prefixes{prefix}", "study").write(Note(1), **held(), beside=None))
        for prefix in ("", "/", "/a", "/a/b", "/a/b/c/")
    ]
    assert Place("s3://with-prefixes", client=s3).names() == sorted(
        f"{folder}{names[0]}" for folder in ("", "a/", "a/b/", "a/b/c/")
    )


def test_without_a_place_checkpoints_are_in_this_hosts_cache(tmp_path: Path) -> None:
    Checkpoints(None, "study").write(Note(1), **held(), beside=None)
    assert len(list((tmp_path / "cache" / "artifacts").iterdir())) == 1


def test_a_place_is_not_created_before_it_is_needed(tmp_path: Path) -> None:
    Checkpoints(str(tmp_path / "later"), "study")
    assert not (tmp_path / "later").exists()


def file_in_the_way(tmp_path: Path, s3: Any) -> str:
    (tmp_path / "taken").write_text("a file")
    return str(tmp_path / "taken")


def file_above(tmp_path: Path, s3: Any) -> str:
    return file_in_the_way(tmp_path, s3) + "/checkpoints"


def no_such_bucket(tmp_path: Path, s3: Any) -> str:
    return "s3://nobody-made-this/prefix"


UNUSABLE = [file_in_the_way, file_above, no_such_bucket]


@pytest.mark.parametrize("unusable", UNUSABLE)
def test_a_place_that_cannot_be_written_is_named_with_the_remedy(
    unusable: Callable[[Path, Any], str], tmp_path: Path, s3: Any
) -> None:
    place = unusable(tmp_path, s3)
    with pytest.raises(StoreError) as raised:
        Checkpoints(place, "study").write(Note(1), **held(), beside=None)
    assert f"Checkpoints in {place} cannot be written" in str(raised.value)
    assert "--artifacts or $OFFKEY_ARTIFACTS names another folder, or s3://BUCKET" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_service_that_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {**s3_environment("http://127.0.0.1:1"), "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StoreError, match=r"Checkpoints in s3://somewhere cannot be written: .*127\.0\.0\.1:1"):
        Checkpoints("s3://somewhere", "study").write(Note(1), **held(), beside=None)


def test_a_bug_in_a_training_is_not_reported_as_an_error_of_the_place(tmp_path: Path) -> None:
    class Buggy(Note):
        def save(self, file: BinaryIO) -> None:
            raise OSError("a bug")

    with pytest.raises(OSError, match="a bug"):
        Checkpoints(str(tmp_path / "place"), "study").write(Buggy(1), **held(), beside=None)


def test_without_boto3_a_bucket_is_refused_with_the_package_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optuna, "artifacts", optuna.artifacts)  # put back what is imported anew here
    for name in [name for name in sys.modules if name.startswith("optuna.artifacts")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(StudyError, match=r"s3://bucket needs boto3: pip install 'offkey\[s3\]'"):
        Checkpoints("s3://bucket", "study").write(Note(1), **held(), beside=None)


def test_a_checkpoint_enters_the_ledger_with_its_report_and_not_before(tiny_study: MakeStudy) -> None:
    study = tiny_study()
    checkpoints = Checkpoints(study.stored.artifacts, study.stored.uid)

    def next_holder(owner: str) -> tuple[StudyStorage, Hold]:
        storage = StudyStorage(study.url)
        storage.lease = -1.0  # lost at once
        hold = study.ledger_over(storage).claim(owner, first={})
        assert hold is not None
        return storage, hold

    storage, first = next_holder("first")
    reported = checkpoints.write(Note(1, b"after 1"), trial=first.number, token=first.token, beside=None)
    assert reported is not None
    first.keep_checkpoint(reported)
    storage.set_trial_intermediate_value(first.trial_id, 1, 0.5)
    unreported = checkpoints.write(
        Note(2, b"after 2"), trial=first.number, token=first.token, beside=first.checkpoint_in_ledger()
    )
    assert unreported is not None
    first.keep_checkpoint(unreported)

    storage, second = next_holder("second")
    assert second.checkpoint == reported
    unreported = checkpoints.write(
        Note(2, b"after 2"), trial=second.number, token=second.token, beside=second.checkpoint_in_ledger()
    )
    assert unreported is not None
    second.keep_checkpoint(unreported)

    _, third = next_holder("third")
    assert third.checkpoint == reported
    file = checkpoints.read(reported)
    assert file is not None
    assert file.read() == b"after 1"


def _work_until_killed(environment: dict[str, str], folder: str, study: str, artifacts: str | None, epoch: int) -> None:
    os.environ |= environment
    os.chdir(folder)
    worker = join(os.environ["OFFKEY_STORAGE"], study, lease=LEASE, artifacts=artifacts)
    quicken(worker)
    original = QuickTraining.run_epoch

    def run_epoch(self: QuickTraining, before_batch: Callable[[], None]) -> None:
        if self.epoch == epoch:
            os.kill(os.getpid(), signal.SIGKILL)
        original(self, before_batch)

    QuickTraining.run_epoch = run_epoch  # type: ignore[method-assign]
    worker.run()


def killed_on_another_host(
    study: TinyStudy, *, epoch: int, tmp_path: Path, extra: dict[str, str], artifacts: str | None = None
) -> int | None:
    """Runs a worker with its own cache, killed before this epoch of its first trial. Returns its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.support.faulty_worker"])  # one server for all tests that need one
    environment = {"OFFKEY_STORAGE": study.url, "OFFKEY_CACHE": str(tmp_path / "another-hosts-cache"), **extra}
    process = context.Process(
        target=_work_until_killed, args=(environment, str(tmp_path), study.stored.name, artifacts, epoch)
    )
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(HOUSE))  # of the process that they are forked from
        process.start()
    process.join(timeout=50)
    return process.exitcode


def curve(study: TinyStudy) -> dict[int, float]:
    (trial,) = optuna.load_study(study_name=study.stored.name, storage=study.storage).get_trials()
    return trial.intermediate_values


@pytest.mark.parametrize("place", ["folder", "bucket with a prefix"], indirect=True)
def test_a_trial_whose_worker_was_killed_on_another_host_goes_on_from_the_shared_place(
    tiny_study: MakeStudy,
    place: Place,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("search.workers.worker._POLL_SECONDS", 0.1)
    undisturbed = tiny_study(trials=1, study="undisturbed")
    undisturbed.worker(quick=True).run()
    study = tiny_study(trials=1)
    prepared = prepare(study.stored.study(), default_root=None)
    truth = prepared.validation_data.truth
    stored = create_or_join(study.storage, prepared.study, prepared.corpus, truth, artifacts=place.name)
    shared = replace(study, stored=stored)
    service = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    assert killed_on_another_host(shared, epoch=2, tmp_path=tmp_path, extra=service) == -signal.SIGKILL
    assert len(place.names()) == 2

    epochs: list[int] = []

    class Recorded(QuickTraining):
        def run_epoch(self, before_batch: Callable[[], None]) -> None:
            epochs.append(self.epoch)
            super().run_epoch(before_batch)

    successor = shared.worker(lease=LEASE)
    successor.train = Recorded
    successor.run()

    assert epochs == [2], "two epochs were done elsewhere"
    assert curve(shared) == curve(undisturbed)
    assert place.names() == []


def test_a_trial_whose_worker_was_killed_on_another_host_starts_over_where_hosts_share_nothing(
    tiny_study: MakeStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.workers.worker._POLL_SECONDS", 0.1)
    undisturbed = tiny_study(trials=1, study="undisturbed")
    undisturbed.worker(quick=True).run()
    study = tiny_study(trials=1)
    assert killed_on_another_host(study, epoch=2, tmp_path=tmp_path, extra={}) == -signal.SIGKILL

    study.worker(lease=LEASE, quick=True).run()

    assert curve(study) == curve(undisturbed)
