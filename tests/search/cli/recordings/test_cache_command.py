"""`offkey cache`: what it lists, what it finds damaged, what it removes and what it leaves alone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from features.cache import cache_folder
from features.clips.corpus import read_corpus
from features.clips.synthetic_faults import faulty_clip
from features.frames.feature_settings import FeatureSettings
from features.store.building import open_store
from features.store.upkeep import damage_of
from tests.support.house import HOUSE

if TYPE_CHECKING:
    from tests.support.command import Ran

    Offkey = Callable[..., Ran]

LOUDNESS = FeatureSettings(kind="rms", hop_length=1024)
STACK = FeatureSettings(kind="rms+centroid", hop_length=1024)


@pytest.fixture(scope="session")
def filled(tmp_path_factory: pytest.TempPathFactory, corpus_root: Path) -> Path:
    """A cache with three stores: two kinds, and both of them stacked. To be copied."""
    cache = tmp_path_factory.mktemp("filled") / "cache"
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("OFFKEY_CACHE", str(cache))
        open_store(read_corpus(corpus_root).clips[:10], STACK)
    for other in ("artifacts", "matplotlib"):
        (cache / other).mkdir()
        (cache / other / "theirs.lock").write_text("of others")
    return cache


@pytest.fixture
def folders(filled: Path) -> dict[str, Path]:
    """The stores of this test's cache, by kind."""
    shutil.copytree(filled, cache_folder())
    folders = {}
    for file in (cache_folder() / "frames").glob("*/store.json"):
        folders[json.loads(file.read_text())["features"]["kind"]] = file.parent
    assert sorted(folders) == ["centroid", "rms", "rms+centroid"]
    return folders


def listed(offkey: Offkey) -> dict[str, Any]:
    ran = offkey("cache", "list", "--json")
    assert (ran.code, ran.stderr) == (0, "")
    document: dict[str, Any] = json.loads(ran.stdout)
    return document


def unused_for(folder: Path, *, days: float) -> None:
    then = time.time() - days * 86400
    for path in (folder, *folder.iterdir()):
        os.utime(path, (then, then))


def damage(folder: Path) -> None:
    """Another last byte."""
    with (folder / "frames.npy").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        (byte,) = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


class TestList:
    def test_shows_what_each_store_holds_and_the_settings_that_differ_from_their_defaults(
        self, offkey: Offkey, folders: dict[str, Path], corpus_root: Path
    ) -> None:
        unused_for(folders["rms"], days=12)
        ran = offkey("cache", "list")
        assert (ran.code, ran.stderr) == (0, "")
        lines = [" ".join(line.split()) for line in ran.stdout.splitlines()]
        frames = sum(LOUDNESS.frames_of(clip) for clip in read_corpus(corpus_root).clips[:10])
        for kind, used in (("rms+centroid", "within 2 h"), ("centroid", "within 2 h"), ("rms", "12 d ago")):
            begin = f"{folders[kind].name[:12]} {kind}, hop_length 1024 10 {frames} "
            assert any(line.startswith(begin) and line.endswith(used) for line in lines), lines
        assert lines[-1].startswith("3 stores, ")
        assert lines[-1].endswith(f"kB, in {cache_folder() / 'frames'}")

    def test_is_what_the_command_does_by_itself(self, offkey: Offkey, folders: dict[str, Path]) -> None:
        assert offkey("cache").stdout == offkey("cache", "list").stdout

    def test_prints_one_json_document(self, offkey: Offkey, folders: dict[str, Path]) -> None:
        document = listed(offkey)
        assert document["folder"] == str(cache_folder() / "frames")
        assert document["bytes"] == sum(map(size_of, folders.values()))
        assert document["unfinished"] == {"folders": 0, "bytes": 0}
        store = next(store for store in document["stores"] if store["features"]["kind"] == "rms+centroid")
        assert store["key"] == folders["rms+centroid"].name
        assert (store["clips"], store["bins"], store["of_this_version"]) == (10, 2, True)
        assert store["bytes"] == size_of(folders["rms+centroid"])
        assert time.time() - datetime.fromisoformat(store["used"]).timestamp() < 3600

    def test_of_an_empty_cache_is_no_error(self, offkey: Offkey) -> None:
        assert offkey("cache").stdout == f"0 stores, 0 bytes, in {cache_folder() / 'frames'}\n"
        assert listed(offkey)["stores"] == []

    def test_shows_stores_that_it_cannot_read_and_those_that_are_not_finished(
        self, offkey: Offkey, folders: dict[str, Path]
    ) -> None:
        (folders["rms"] / "store.json").write_text("{")
        metadata = json.loads((folders["centroid"] / "store.json").read_text())
        (folders["centroid"] / "store.json").write_text(json.dumps(metadata | {"format": 1}))
        folders["rms+centroid"].rename(cache_folder() / "frames" / "key.host-1-2.partial")
        ran = offkey("cache", "list")
        assert "? (store.json cannot be read)" in ran.stdout
        assert "centroid, hop_length 1024 (another version's)" in ran.stdout
        assert ran.stderr.startswith("1 unfinished (")


class TestVerify:
    def test_finds_nothing_in_whole_stores(self, offkey: Offkey, folders: dict[str, Path]) -> None:
        ran = offkey("cache", "verify")
        assert (ran.code, ran.stdout, ran.stderr) == (0, "3 stores checked, 0 damaged\n", "")

    def test_names_damaged_clips_and_their_store_and_says_what_to_do(
        self, offkey: Offkey, folders: dict[str, Path]
    ) -> None:
        damage(folders["rms"])
        ran = offkey("cache", "verify")
        assert (ran.code, ran.stdout) == (1, "3 stores checked, 1 damaged\n")
        (clip,) = damage_of(folders["rms"])
        assert ran.stderr.splitlines() == [
            f"damaged: {folders['rms'].name[:12]}, rms, hop_length 1024, 10 clips, in {folders['rms']}",
            f"  {clip}",
            "`offkey cache prune --damaged` removes damaged stores; they are computed again when they are next needed. "
            "If damage comes back, check the disk and the memory.",
        ]

    def test_checks_the_stores_whose_keys_begin_as_asked(self, offkey: Offkey, folders: dict[str, Path]) -> None:
        damage(folders["rms"])
        others = [folders[kind].name[:12] for kind in ("centroid", "rms+centroid")]
        assert offkey("cache", "verify", *others).stdout == "2 stores checked, 0 damaged\n"
        assert offkey("cache", "verify", folders["rms"].name).code == 1

    @pytest.mark.parametrize(("key", "what"), [("xyz", "no store's key begins"), ("", "3 stores' keys begin")])
    def test_refuses_a_key_of_no_store_or_of_several(
        self, offkey: Offkey, folders: dict[str, Path], key: str, what: str
    ) -> None:
        ran = offkey("cache", "verify", key)
        assert ran.code == 2
        assert ran.stderr == f"error: {what} with {key!r}; `offkey cache list` shows them\n"

    def test_leaves_out_what_another_version_made(self, offkey: Offkey, folders: dict[str, Path]) -> None:
        metadata = json.loads((folders["rms"] / "store.json").read_text())
        (folders["rms"] / "store.json").write_text(json.dumps(metadata | {"format": 1}))
        ran = offkey("cache", "verify")
        assert (ran.code, ran.stdout) == (0, "2 stores checked, 0 damaged\n")
        assert f"{folders['rms'].name[:12]}: not checked" in ran.stderr


class TestPrune:
    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            ([], {"rms", "centroid", "rms+centroid"}),
            (["--older-than", "20"], {"rms", "rms+centroid"}),
            (["--older-than", "0.5"], {"rms+centroid"}),
            (["--damaged"], {"centroid", "rms"}),
            (["--damaged", "--older-than", "20"], {"rms"}),
            (["--all"], set()),
        ],
    )
    def test_removes_what_is_asked_for_and_nothing_else_of_the_cache(
        self, offkey: Offkey, folders: dict[str, Path], options: list[str], kept: set[str]
    ) -> None:
        unused_for(folders["rms"], days=1)
        unused_for(folders["centroid"], days=30)
        damage(folders["rms+centroid"])
        freed = sum(size_of(folder) for kind, folder in folders.items() if kind not in kept)

        planned = offkey("cache", "prune", "--dry-run", *options)
        assert planned.code == 0
        assert {kind for kind, folder in folders.items() if folder.exists()} == set(folders)

        before = listed(offkey)["bytes"]
        ran = offkey("cache", "prune", *options)
        assert ran.code == 0
        assert {kind for kind, folder in folders.items() if folder.exists()} == kept
        assert before - listed(offkey)["bytes"] == freed
        lines = ran.stdout.splitlines()
        for kind in set(folders) - kept:
            assert any(line.startswith(f"removed {folders[kind].name[:12]}, {kind}, ") for line in lines)
        assert len(lines) == 1 + len(folders) - len(kept)
        assert planned.stdout.replace("would remove", "removed").replace("would be freed", "freed") == ran.stdout
        assert sorted(path.name for path in (cache_folder() / "frames").iterdir()) == sorted(
            folders[kind].name for kind in kept
        )  # no lock files either
        for other in ("artifacts", "matplotlib"):
            assert (cache_folder() / other / "theirs.lock").read_text() == "of others"

    def test_removes_clips_with_made_faults_that_nobody_used_for_so_long(
        self, offkey: Offkey, corpus_root: Path
    ) -> None:
        clip = next(clip for clip in read_corpus(corpus_root).clips if clip.split == "train")
        old, recent = (faulty_clip(clip, "knock", grade).path for grade in (0.5, 1.0))
        two_days_ago = time.time() - 2 * 86400
        os.utime(old, (two_days_ago, two_days_ago))
        assert "2 clips with synthetic faults" in offkey("cache").stdout
        assert json.loads(offkey("cache", "list", "--json").stdout)["faults"] == {
            "clips": 2,
            "bytes": old.stat().st_size + recent.stat().st_size,
        }

        offkey("cache", "prune", "--older-than", "1", "--dry-run")
        assert old.exists()
        assert "removed 1 clip with synthetic faults" in offkey("cache", "prune", "--older-than", "1").stdout
        assert (old.exists(), recent.exists()) == (False, True)

        faulty_clip(clip, "knock", 0.5)
        os.utime(recent, (two_days_ago, two_days_ago))
        faulty_clip(clip, "knock", 1.0)  # used again
        offkey("cache", "prune", "--older-than", "1")
        assert recent.exists()
        offkey("cache", "prune", "--all")
        assert not recent.exists()

    def test_says_how_to_ask_for_more(self, offkey: Offkey, folders: dict[str, Path]) -> None:
        ran = offkey("cache", "prune")
        assert ran.stdout == "0 stores of 3: 0 bytes freed\n"
        assert ran.stderr == "Stores are removed with --older-than DAYS, --damaged or --all.\n"

    def test_removes_what_dead_builders_left_but_not_what_is_being_built(
        self, offkey: Offkey, folders: dict[str, Path]
    ) -> None:
        dead, alive = (cache_folder() / "frames" / f"key.host-{n}-0.partial" for n in (1, 2))
        folders["rms"].rename(dead)
        folders["centroid"].rename(alive)
        unused_for(dead, days=0.1)
        size = size_of(dead)
        ran = offkey("cache", "prune")
        assert ran.stdout.splitlines()[0].startswith(f"removed {dead.name}, left by a process that is dead, ")
        assert listed(offkey)["unfinished"] == {"folders": 1, "bytes": size_of(alive)}
        assert size > 0 and not dead.exists()

    def test_harms_no_process_that_has_a_store_mapped(
        self, offkey: Offkey, folders: dict[str, Path], corpus_root: Path
    ) -> None:
        script = (
            "import sys; from pathlib import Path; from features.store.files import map_store\n"
            "store = map_store(Path(sys.argv[1])); print('mapped', flush=True); sys.stdin.readline()\n"
            "print(float(store.frames.sum(dtype='float64')))"
        )
        reader = subprocess.Popen(
            [sys.executable, "-P", "-c", script, str(folders["rms"])],
            env=os.environ | {"PYTHONPATH": str(HOUSE)}, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert reader.stdout is not None
        assert reader.stdout.readline() == "mapped\n"
        assert offkey("cache", "prune", "--all").code == 0
        assert not folders["rms"].exists()
        total, _ = reader.communicate("go on\n")
        assert reader.returncode == 0
        again = open_store(read_corpus(corpus_root).clips[:10], LOUDNESS)
        assert float(total) == float(again.frames.sum(dtype="float64"))


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_the_help_of_each_command_has_an_example(offkey: Offkey, command: str) -> None:
    ran = offkey("cache", command, "--help")
    assert ran.code == 0
    assert f"Example: offkey cache {command}" in ran.stdout
