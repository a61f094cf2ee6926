"""`offkey cache`: `list`, `verify`, `prune`."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.markup import escape
from rich.table import Table

from search.cli.options import JsonOption
from search.cli.terminal import err, out, print_json, progress_bar
from search.errors import MisuseError

if TYPE_CHECKING:
    from features.store.upkeep import CachedStore

#: The digits of a key that are shown, of 32: no two stores of a cache begin with the same ones.
_SHOWN_DIGITS = 12

_DAY = 86400.0

cache = typer.Typer(
    help="Lists, verifies or prunes the feature stores in the cache folder ($OFFKEY_CACHE).",
    epilog="Example: offkey cache prune --older-than 30 --dry-run",
)


@cache.callback(invoke_without_command=True)
def _list_if_nothing_is_asked_for(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_stores()


@cache.command("list", epilog="Example: offkey cache list --json")
def list_stores(as_json: JsonOption = False) -> None:
    """Lists the stores: features, clips, frames, size, last use."""
    from features.clips.synthetic_faults import faults_folder, faulty_files
    from features.store.files import frames_folder
    from features.store.upkeep import cached_stores, size_of, unfinished_folders

    faulty = faulty_files()
    of_faulty = sum(path.stat().st_size for path in faulty)
    stores, unfinished = cached_stores(), unfinished_folders()
    total, left = sum(store.size for store in stores), sum(size_of(folder) for folder in unfinished)
    folder = frames_folder()
    if as_json:
        print_json(
            {
                "folder": str(folder),
                "stores": [_document(store) for store in stores],
                "bytes": total,
                "unfinished": {"folders": len(unfinished), "bytes": left},
                "faults": {"clips": len(faulty), "bytes": of_faulty},
            }
        )
        return
    if stores:
        out.print(_table(stores))
    out.print(f"{_counted(len(stores), 'store')}, {decimal(total)}, in {escape(str(folder))}", soft_wrap=True)
    if faulty:
        out.print(
            f"{_counted(len(faulty), 'clip')} with synthetic faults, {decimal(of_faulty)}, "
            f"in {escape(str(faults_folder()))}",
            soft_wrap=True,
        )
    if unfinished:
        err.print(
            f"{len(unfinished)} unfinished ({decimal(left)}): being built, or left by a process that was killed. "
            "`offkey cache prune` removes those that no process has written to for an hour."
        )


@cache.command(epilog="Example: offkey cache verify 3f9a")
def verify(
    keys: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY…]", help="a store's key, or its first digits; all stores if left out"),
    ] = None,
) -> None:
    """Reads stores and compares each clip's frames with their checksum. Exit code 1 if one is damaged."""
    from features.store.upkeep import cached_stores

    stores = _chosen(cached_stores(), keys or [])
    damaged = _damaged(stores)
    for store in stores:
        if not store.is_of_this_version:
            err.print(f"{_name(store)}: not checked: another version of Offkey wrote it, which this one cannot open")
    checked = sum(store.is_of_this_version for store in stores)
    out.print(f"{_counted(checked, 'store')} checked, {len(damaged)} damaged")
    if damaged:
        err.print(
            "`offkey cache prune --damaged` removes damaged stores; they are computed again when they are next needed. "
            "If damage comes back, check the disk and the memory."
        )
        raise typer.Exit(1)


@cache.command(epilog="Example: offkey cache prune --older-than 30 --dry-run")
def prune(
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar="DAYS", min=0, help="stores and synthetic faults that no process has opened for this many days"
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="all stores and synthetic faults")] = False,
    damaged: Annotated[bool, typer.Option("--damaged", help="stores that `verify` reports as damaged")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only list what would be removed")] = False,
) -> None:
    """Removes stores without asking, and always what killed processes left. Stores are computed again when needed.

    Processes of this host keep the stores that they have open. Processes of other hosts do not.
    On a network folder, prune only what is older than any training that runs.
    """
    from features.clips.synthetic_faults import faulty_files
    from features.store.upkeep import cached_stores, remove_free_locks, remove_store, size_of, stale_folders

    stores = cached_stores()
    damaged_keys = _damaged(stores) if damaged else []
    before = None if older_than is None else time.time() - older_than * _DAY
    chosen = [
        store for store in stores if every or store.key in damaged_keys or (before is not None and store.used < before)
    ]
    stale = stale_folders()
    sizes = {store.folder: store.size for store in chosen} | {folder: size_of(folder) for folder in stale}
    names = {store.folder: f"{_name(store)}, {_contents(store)}" for store in chosen}
    freed = 0
    with progress_bar("removing", quiet=dry_run) as advance:
        for done, (folder, size) in enumerate(sizes.items(), 1):
            freed += size if dry_run else remove_store(folder)
            name = names.get(folder, f"{escape(folder.name)}, left by a process that is dead")
            out.print(f"{'would remove' if dry_run else 'removed'} {name}, {decimal(size)}", soft_wrap=True)
            advance(done, len(sizes))
    faulty = faulty_files(unused_since=math.inf if every else before or 0.0)
    if faulty:
        size = sum(path.stat().st_size for path in faulty)
        freed += size
        for path in faulty if not dry_run else ():
            path.unlink(missing_ok=True)
        clips = f"{_counted(len(faulty), 'clip')} with synthetic faults, {decimal(size)}"
        out.print(f"{'would remove' if dry_run else 'removed'} {clips}", soft_wrap=True)
    if not dry_run:
        remove_free_locks()
    out.print(
        f"{_counted(len(chosen), 'store')} of {len(stores)}{_leftovers(stale)}: "
        f"{decimal(freed)} {'would be freed' if dry_run else 'freed'}"
    )
    if not (every or damaged or older_than is not None):
        err.print("Stores are removed with --older-than DAYS, --damaged or --all.")


def _chosen(stores: list[CachedStore], keys: list[str]) -> list[CachedStore]:
    """The stores whose keys begin with these; all of them without keys.

    Raises MisuseError for a key that no store or several stores begin with.
    """
    if not keys:
        return stores
    chosen = []
    for key in keys:
        found = [store for store in stores if store.key.startswith(key)]
        if len(found) != 1:
            which = "no store's key begins" if not found else f"{len(found)} stores' keys begin"
            raise MisuseError(f"{which} with {key!r}; `offkey cache list` shows them")
        chosen += found
    return chosen


def _damaged(stores: list[CachedStore]) -> list[str]:
    """The keys of the damaged stores among these. Prints what is wrong with each."""
    from features.store.upkeep import damage_of

    checked = [store for store in stores if store.is_of_this_version]
    clips = [store.clips or 0 for store in checked]
    damaged = []
    with progress_bar("reading clips") as advance:
        for number, store in enumerate(checked):
            before = sum(clips[:number])

            def note(done: int, of: int, before: int = before) -> None:
                advance(before + done, sum(clips))

            wrong = damage_of(store.folder, progress=note)
            if wrong:
                damaged.append(store.key)
                err.print(f"[red]damaged:[/red] {_name(store)}, {_contents(store)}, in {escape(str(store.folder))}")
            for line in wrong:
                err.print(f"  {escape(line)}")
    return damaged


def _table(stores: list[CachedStore]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("key", no_wrap=True)
    table.add_column("features")
    for column in ("clips", "frames", "size", "last use"):
        table.add_column(column, justify="right", no_wrap=True)
    for store in stores:
        frames = store.described.get("frames")
        table.add_row(
            store.key[:_SHOWN_DIGITS],
            escape(_features(store)),
            "?" if store.clips is None else str(store.clips),
            "?" if frames is None else f"{frames:,}",
            decimal(store.size),
            _ago(time.time() - store.used),
        )
    return table


def _document(store: CachedStore) -> dict[str, Any]:
    described = store.described
    return {
        "key": store.key,
        "features": described.get("features"),
        "bins": described.get("bins"),
        "clips": store.clips,
        "frames": described.get("frames"),
        "bytes": store.size,
        "used": datetime.fromtimestamp(store.used, UTC).isoformat(timespec="seconds"),
        "of_this_version": store.is_of_this_version,
    }


def _features(store: CachedStore) -> str:
    """The kind of features, and the settings that differ from their defaults."""
    from features.frames.feature_settings import FeatureSettings

    if not store.described:
        return "? (store.json cannot be read)"
    settings = dict(store.described.get("features", {}))
    kind = settings.pop("kind", "?")
    fields = FeatureSettings.model_fields
    others = [
        f"{name} {value}" for name, value in settings.items() if name not in fields or value != fields[name].default
    ]
    version = [] if store.is_of_this_version else ["(another version's)"]
    return " ".join([", ".join([kind, *others]), *version])


def _name(store: CachedStore) -> str:
    return store.key[:_SHOWN_DIGITS]


def _contents(store: CachedStore) -> str:
    clips = "? clips" if store.clips is None else _counted(store.clips, "clip")
    return escape(f"{_features(store)}, {clips}")


def _leftovers(stale: list[Path]) -> str:
    return f" and {_counted(len(stale), 'unfinished one')}" if stale else ""


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def _ago(seconds: float) -> str:
    """An age in hours or days. The last use of a store is known to the hour."""
    if seconds < 2 * 3600:
        return "within 2 h"
    return f"{seconds / 3600:.0f} h ago" if seconds < 2 * _DAY else f"{seconds / _DAY:.0f} d ago"
