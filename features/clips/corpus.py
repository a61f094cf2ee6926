"""Finding the clips of a corpus, in the folders that DCASE Task 2 uses, or in those that a manifest names.

    ROOT/<machine>/{train,test}/*.wav                               a plain tree, and DCASE 2020 unzipped
    ROOT/{dev_data,eval_data}/[raw/]<machine>/{train,test}/*.wav    the trees of the challenge's baselines
    ROOT.csv                                                        a table of clips: see features.clips.manifest

2021 has `source_test` and `target_test`, 2025 `supplemental`, which is listed but neither trains nor tests. The
baselines copy `test` to `test_rename`, with labels in the names: where that is, it is read in place of `test`.
`dev_data` and a plain tree are the development set; of `eval_data`, `train` and `supplemental` are the additional
training set and the rest the evaluation set. A training clip is normal by the data set's rule, whatever its name.
What cannot be used is listed with the reason, never dropped in silence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import joblib

from features.clips.clip import NORMAL, Clip, Description, Domain, Source, Split, parse_stem
from features.clips.ground_truth import completed_by
from features.clips.manifest import is_manifest, read_manifest
from features.clips.wav import UnreadableWav, read_header
from features.digests import digest_of
from features.errors import CorpusError
from features.progress import Progress

SPLIT_FOLDERS: dict[str, tuple[Split, Domain | None]] = {
    "train": ("train", None),
    "test": ("test", None),
    "source_test": ("test", "source"),
    "target_test": ("test", "target"),
    "test_rename": ("test", None),
    "supplemental": ("supplemental", None),
}
_SETS = ("dev_data", "eval_data")
_LAYOUT = "<machine>/{train,test}/*.wav, or the same below dev_data/ and eval_data/"


@dataclass(frozen=True)
class Unreadable:
    """A wav file that cannot be used, or a folder that cannot be looked into, and why."""

    name: str
    reason: str
    machine: str | None = field(default=None, compare=False)  # None if it may belong to any machine


@dataclass(frozen=True)
class Corpus:
    """The clips below one root, in the order of their names."""

    root: Path  # a folder, or a manifest
    clips: tuple[Clip, ...]
    unreadable: tuple[Unreadable, ...]
    warnings: tuple[str, ...] = ()  # of tables that do not fit the clips

    @property
    def machines(self) -> list[str]:
        return sorted({clip.machine for clip in self.clips})

    @property
    def folder(self) -> Path:
        """Where the clips' names start."""
        return self.root if self.root.is_dir() else self.root.parent

    @property
    def fingerprint(self) -> str:
        """A digest of names, contents and what else is known of the clips: the same for equal copies on any host.

        A host that lacks a ground-truth table has another fingerprint than one that has it.
        """
        return digest_of(f"{clip.name}\0{clip.digest}{_known_beside_name(clip)}" for clip in self.clips)

    def of_machines(self, machines: Sequence[str] | None) -> Corpus:
        """The corpus of these machine types; all of them for None. Raises CorpusError for a missing one."""
        if machines is None:
            return self
        missing = sorted(set(machines) - set(self.machines))
        if missing:
            raise CorpusError(
                f"corpus.machines: {', '.join(missing)} not found in {self.root}; it holds {', '.join(self.machines)}"
            )
        return replace(
            self,
            clips=tuple(clip for clip in self.clips if clip.machine in machines),
            unreadable=tuple(u for u in self.unreadable if u.machine in (None, *machines)),
        )

    def for_study(self, machines: Sequence[str] | None) -> Corpus:
        """The clips that these machines are trained and tested on. Raises CorpusError if one is unreadable."""
        chosen = self.of_machines(machines)
        chosen.require_readable()
        return replace(chosen, clips=tuple(clip for clip in chosen.clips if clip.split != "supplemental"))

    def require_readable(self) -> None:
        """Raises CorpusError with the first unreadable files and their reasons, if there are any."""
        if self.unreadable:
            shown = "\n".join(f"  {u.name}: {u.reason}" for u in self.unreadable[:5])
            more = f"\n  … and {len(self.unreadable) - 5} more" if len(self.unreadable) > 5 else ""
            raise CorpusError(
                f"{len(self.unreadable)} of the wav files in {self.root} cannot be used:\n{shown}{more}\n"
                f"Mend them, or remove them before a study begins: one that has begun needs the same clips. "
                f"`offkey corpus {self.root}` lists them all."
            )

    def require_sample_rate(self, sample_rate: int) -> None:
        """Raises CorpusError, naming a clip, unless every clip has this sample rate (Hz)."""
        others = [clip for clip in self.clips if clip.sample_rate != sample_rate]
        if others:
            raise CorpusError(
                f"features.sample_rate is {sample_rate} Hz, but {len(others)} of {len(self.clips)} clips differ: "
                f"{others[0].name} has {others[0].sample_rate} Hz. Set features.resample, or features.sample_rate."
            )


def read_corpus(root: Path, *, progress: Progress | None = None) -> Corpus:
    """Read the header, length and digest of every wav file below the folder `root`, or in the manifest `root`.

    Raises CorpusError if `root` is missing, is neither folder nor manifest, or holds no wav file in the expected
    places, and if a manifest or one of the challenge's ground-truth tables cannot be understood.
    """
    found = _listed(root) if is_manifest(root) else _below(root)
    results: list[Clip | Unreadable] = []
    for result in joblib.Parallel(n_jobs=-1, prefer="threads", batch_size=64, return_as="generator")(
        joblib.delayed(_read_clip)(*clip) for clip in found.clips
    ):
        results.append(result)
        if progress is not None:
            progress(len(results), len(found.clips))
    clips = tuple(result for result in results if isinstance(result, Clip))
    failed = (result for result in results if isinstance(result, Unreadable))
    unreadable = (*found.closed, *sorted((*found.stray, *failed), key=lambda one: one.name))
    if not clips:
        reasons = "\n".join(f"  {u.name}: {u.reason}" for u in unreadable[:5])
        count = len(found.stray) + len(found.clips)
        raise CorpusError(f"None of the {count} wav files below {root.absolute()} can be used:\n{reasons}")
    return Corpus(root=root, clips=clips, unreadable=unreadable, warnings=found.warnings)


@dataclass(frozen=True, kw_only=True)
class _ListedFiles:
    """The files that are to be read."""

    clips: Sequence[tuple[Path, str, Description]]  # file, name, and what is known of it, in the order of names
    closed: Sequence[Unreadable] = ()  # folders that cannot be looked into
    stray: Sequence[Unreadable] = ()
    warnings: tuple[str, ...] = ()


def _listed(manifest: Path) -> _ListedFiles:
    return _ListedFiles(clips=[(entry.path, entry.name, entry.description) for entry in read_manifest(manifest)])


def _below(root: Path) -> _ListedFiles:
    if not root.is_dir():
        what = "is not a folder, nor a manifest (.csv)" if root.exists() else "does not exist"
        raise CorpusError(f"The corpus root {root.absolute()} {what}. It must hold {_LAYOUT}.")
    files, closed, stray = _walk(root)
    described: dict[str, Description] = {}
    paths: dict[str, Path] = {}
    for path in files:
        if path.name.lower().endswith(".wav"):
            name = path.relative_to(root).as_posix()
            description = described_by(name)
            if description is None:
                stray.append(Unreadable(name, f"not where a clip is looked for: {_LAYOUT}", _machine_of(name)))
            else:
                described[name], paths[name] = description, path
    if not described and not stray and not closed:
        raise CorpusError(f"No wav file below {root.absolute()}. It must hold {_LAYOUT}.")
    replaced = _replaced_by_renamed(described)
    tables = [path for path in files if path.suffix.lower() == ".csv"]
    kept = {name: description for name, description in described.items() if name not in replaced}
    completed, warnings = completed_by(tables, root, kept)
    if replaced:
        warnings = (*warnings, f"{len(replaced)} clips in test are read in test_rename, where names have labels")
    return _ListedFiles(
        clips=[(paths[name], name, completed[name]) for name in sorted(completed)],
        closed=sorted(closed, key=lambda folder: folder.name),
        stray=stray,
        warnings=warnings,
    )


def described_by(name: str) -> Description | None:
    """The description of a clip by its name below the root; None where clips do not lie."""
    *folders, file = name.split("/")
    data_set = folders.pop(0) if folders and folders[0] in _SETS else None
    if data_set and folders and folders[0] == "raw":
        folders.pop(0)
    if len(folders) != 2 or folders[1] not in SPLIT_FOLDERS:
        return None
    machine, (split, domain) = folders[0], SPLIT_FOLDERS[folders[1]]
    parts = parse_stem(Path(file).stem)
    source: Source = "development"
    if data_set == "eval_data":
        source = "evaluation" if split == "test" else "additional"
    return Description(
        machine=machine,
        machine_id=parts.machine_id,
        split=split,
        label=NORMAL if split == "train" else parts.label,
        source=source,
        domain=parts.domain or domain,
        attributes=parts.attributes,
    )


def _known_beside_name(clip: Clip) -> str:
    """The facts that decide how a clip is used, if they differ from those in its name; else empty."""

    def used(known: Description) -> tuple[object, ...]:
        return known.machine, known.machine_id, known.split, known.label, known.source, known.domain

    by_name = described_by(clip.name)
    if by_name is not None and used(by_name) == used(clip):
        return ""
    return "\0" + "\0".join(map(str, used(clip)))


def _replaced_by_renamed(names: Iterable[str]) -> set[str]:
    """Clips in a machine's `test` folder, where it has a `test_rename` folder too."""
    renamed = {name.rpartition("/")[0] for name in names if name.split("/")[-2] == "test_rename"}
    return {name for name in names if f"{name.rpartition('/')[0]}_rename" in renamed}


def _machine_of(name: str) -> str:
    """The machine in whose folder something lies; empty if it lies in none."""
    folders = name.split("/")[:-1]
    for above in (_SETS, ("raw",)):
        if folders and folders[0] in above:
            folders.pop(0)
    return folders[0] if folders else ""


def _walk(root: Path) -> tuple[list[Path], list[Unreadable], list[Unreadable]]:
    """The files below `root`, the folders that cannot be looked into, and those that are called like a wav file."""
    closed: list[Unreadable] = []

    def note(error: OSError) -> None:
        name = f"{os.path.relpath(error.filename, root)}/"
        closed.append(Unreadable(name, f"cannot be opened ({error.strerror})", _machine_of(name) or None))

    files: list[Path] = []
    stray: list[Unreadable] = []
    seen: set[str] = set()  # links are followed, but no folder is read twice: links may form a loop
    for folder, folders, names in os.walk(root, onerror=note, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        files += [Path(folder, name) for name in names]
        for name in (Path(folder, name).relative_to(root).as_posix() for name in folders):
            if name.lower().endswith(".wav"):
                stray.append(Unreadable(f"{name}/", "a folder, not a wav file", _machine_of(name)))
    return files, closed, stray


def _read_clip(path: Path, name: str, description: Description) -> Clip | Unreadable:
    try:
        header = read_header(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except UnreadableWav as error:
        return Unreadable(name, str(error), description.machine)
    except OSError as error:
        return Unreadable(name, f"cannot be opened ({error.strerror})", description.machine)
    return Clip(
        **vars(description),
        path=path,
        name=name,
        sample_rate=header.sample_rate,
        samples=header.samples,
        channels=header.channels,
        digest=digest,
    )
