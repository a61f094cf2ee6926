"""Finding the clips of a corpus, in the folders that DCASE Task 2 uses.

    ROOT/<machine>/{train,test}/*.wav                          a plain tree, and DCASE 2020 unzipped
    ROOT/{dev_data,eval_data}/<machine>/{train,test}/*.wav     the challenge's baselines' tree

`dev_data` and a plain tree are the development set; `eval_data/*/train` is the additional training set and
`eval_data/*/test` the evaluation set. A training clip is normal by the data set's rule, whatever its name.
What cannot be used is listed with the reason, never dropped in silence.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import joblib

from features.clip import NORMAL, Clip, Domain, Source, Split, parse_stem
from features.errors import CorpusError
from features.wav import UnreadableWav, read_header

SPLIT_FOLDERS: dict[str, tuple[Split, Domain | None]] = {
    "train": ("train", None),
    "test": ("test", None),
    "source_test": ("test", "source"),
    "target_test": ("test", "target"),
}
_SETS = ("dev_data", "eval_data")
_LAYOUT = "<machine>/{train,test}/*.wav, or the same below dev_data/ and eval_data/"


@dataclass(frozen=True)
class Unreadable:
    """A wav file that cannot be used, or a folder that cannot be looked into, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Corpus:
    """The clips below one root, in the order of their names."""

    root: Path
    clips: tuple[Clip, ...]
    unreadable: tuple[Unreadable, ...]

    @property
    def machines(self) -> list[str]:
        return sorted({clip.machine for clip in self.clips})

    @property
    def fingerprint(self) -> str:
        """Of names and contents, not of where they lie: the same for equal copies on any host."""
        return digest_of(f"{clip.name}\0{clip.digest}" for clip in self.clips)

    def of_machines(self, machines: Sequence[str] | None) -> Corpus:
        """The corpus of these machines alone; all of them for None. Raises CorpusError for one it lacks."""
        if machines is None:
            return self
        missing = sorted(set(machines) - set(self.machines))
        if missing:
            raise CorpusError(
                f"corpus.machines: {', '.join(missing)} not found in {self.root}; it holds {', '.join(self.machines)}"
            )
        prefixes = tuple(f"{part}{machine}/" for machine in machines for part in ("", *(f"{s}/" for s in _SETS)))
        return replace(
            self,
            clips=tuple(clip for clip in self.clips if clip.machine in machines),
            unreadable=tuple(
                u for u in self.unreadable if u.name.startswith(prefixes) or any(p.startswith(u.name) for p in prefixes)
            ),
        )

    def require_readable(self) -> None:
        """Raises CorpusError with the first unreadable files and their reasons, if there are any."""
        if self.unreadable:
            shown = "\n".join(f"  {u.name}: {u.reason}" for u in self.unreadable[:5])
            more = f"\n  … and {len(self.unreadable) - 5} more" if len(self.unreadable) > 5 else ""
            raise CorpusError(
                f"{len(self.unreadable)} of the wav files in {self.root} cannot be used:\n{shown}{more}\n"
                f"Mend or remove them; `offkey corpus {self.root}` lists them all."
            )

    def require_sample_rate(self, sample_rate: int) -> None:
        """Raises CorpusError, naming a clip, unless every clip has this sample rate (Hz)."""
        others = [clip for clip in self.clips if clip.sample_rate != sample_rate]
        if others:
            raise CorpusError(
                f"features.sample_rate is {sample_rate} Hz, but {len(others)} of {len(self.clips)} clips differ: "
                f"{others[0].name} has {others[0].sample_rate} Hz. Convert them, or set features.sample_rate."
            )


def digest_of(parts: Iterable[str]) -> str:
    """A digest of a sequence of texts; equal only for equal sequences."""
    whole = hashlib.sha256()
    for part in parts:
        # A file's name need not be UTF-8: Python holds its other bytes as lone surrogates.
        whole.update(hashlib.sha256(part.encode(errors="surrogateescape")).digest())
    return whole.hexdigest()


def read_corpus(root: Path) -> Corpus:
    """Finds and checks every wav file below `root`: header, length, contents' digest.

    Raises CorpusError if `root` is missing, is no folder, or holds no wav file in the expected places.
    """
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise CorpusError(f"The corpus root {root.absolute()} {what}. It must hold {_LAYOUT}.")
    paths, closed = _wav_files(root)
    if not paths and not closed:
        raise CorpusError(f"No wav file below {root.absolute()}. It must hold {_LAYOUT}.")
    read = joblib.Parallel(n_jobs=-1, prefer="threads", batch_size=64)(
        joblib.delayed(_read_clip)(root, path) for path in paths
    )
    clips = tuple(found for found in read if isinstance(found, Clip))
    unreadable = (*closed, *(found for found in read if isinstance(found, Unreadable)))
    if not clips:
        reasons = "\n".join(f"  {u.name}: {u.reason}" for u in unreadable[:5])
        raise CorpusError(f"None of the {len(paths)} wav files below {root.absolute()} can be used:\n{reasons}")
    return Corpus(root=root, clips=clips, unreadable=unreadable)


def _wav_files(root: Path) -> tuple[list[Path], list[Unreadable]]:
    """The wav files below `root` in the order of their names, and the folders that cannot be looked into."""
    closed: list[Unreadable] = []

    def note(error: OSError) -> None:
        closed.append(Unreadable(f"{os.path.relpath(error.filename, root)}/", f"cannot be opened ({error.strerror})"))

    found: list[Path] = []
    seen: set[str] = set()  # links are followed, but no folder is read twice: links may form a loop
    for folder, folders, names in os.walk(root, onerror=note, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [Path(folder, name) for name in names]
    return (
        sorted(path for path in found if path.name.lower().endswith(".wav")),
        sorted(closed, key=lambda folder: folder.name),
    )


def _read_clip(root: Path, path: Path) -> Clip | Unreadable:
    name = path.relative_to(root).as_posix()
    folders = name.split("/")[:-1]
    data_set = folders.pop(0) if folders and folders[0] in _SETS else "dev_data"
    if len(folders) != 2 or folders[1] not in SPLIT_FOLDERS:
        return Unreadable(name, f"not where a clip is looked for: {_LAYOUT}")
    machine, (split, folder_domain) = folders[0], SPLIT_FOLDERS[folders[1]]
    parts = parse_stem(path.stem)
    try:
        header = read_header(path)
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except UnreadableWav as error:
        return Unreadable(name, str(error))
    except OSError as error:
        return Unreadable(name, f"cannot be opened ({error.strerror})")
    source: Source = "development"
    if data_set == "eval_data":
        source = "additional" if split == "train" else "evaluation"
    return Clip(
        path=path,
        name=name,
        machine=machine,
        machine_id=parts.machine_id,
        split=split,
        label=NORMAL if split == "train" else parts.label,
        source=source,
        domain=parts.domain or folder_domain,
        attributes=parts.attributes,
        sample_rate=header.sample_rate,
        samples=header.samples,
        digest=digest,
    )
