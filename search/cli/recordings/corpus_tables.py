"""Tables that show a corpus on the command line. This module prints nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from features.clips.clip import ANOMALY, DOMAINS, NORMAL, Clip
from features.clips.corpus import Corpus
from features.clips.inspection import Suspicion
from features.clips.machine_id import MachineId
from search.cli.terminal import shown

_SHOWN_SUSPICIONS = 10


def corpus(recordings: Corpus) -> RenderableType:
    """A row for each machine ID: splits, labels, lengths; supplemental clips, domains and channels if there are any."""
    columns: dict[str, Callable[[Sequence[Clip]], object]] = {
        "train": lambda clips: sum(clip.split == "train" for clip in clips),
        "normal": lambda clips: _tested(clips, NORMAL),
        "anomaly": lambda clips: _tested(clips, ANOMALY),
        "unlabelled": lambda clips: _tested(clips, None),
    }
    if any(clip.split == "supplemental" for clip in recordings.clips):
        columns["supplemental"] = lambda clips: sum(clip.split == "supplemental" for clip in clips)
    if any(clip.domain for clip in recordings.clips):
        columns["source/target"] = lambda clips: "/".join(
            str(sum(clip.domain == domain for clip in clips)) for domain in DOMAINS
        )
    columns["seconds"] = lambda clips: _spread([clip.seconds for clip in clips])
    columns["Hz"] = lambda clips: ", ".join(map(str, sorted({clip.sample_rate for clip in clips})))
    if any(clip.channels > 1 for clip in recordings.clips):
        columns["channels"] = lambda clips: ", ".join(map(str, sorted({clip.channels for clip in clips})))
    columns["sets"] = lambda clips: "\n".join(sorted({clip.source for clip in clips}))

    table = Table(box=None, padding=(0, 1), header_style="bold")
    for column in ("machine", "ID", *columns):
        table.add_column(column, overflow="fold")  # a narrow terminal cuts nothing off
    groups: dict[MachineId, list[Clip]] = defaultdict(list)
    for clip in recordings.clips:
        groups[clip.id].append(clip)
    for machine_id, clips in sorted(groups.items()):
        table.add_row(*map(shown, machine_id), *(str(column_of(clips)) for column_of in columns.values()))
    return table


def suspicious(suspicions: Sequence[Suspicion]) -> RenderableType:
    """The first suspicious clips of a corpus, and how many more there are."""
    lines = [Text.assemble(("suspicious: ", "yellow"), f"{s.name}: {s.reason}") for s in suspicions[:_SHOWN_SUSPICIONS]]
    if len(suspicions) > _SHOWN_SUSPICIONS:
        lines.append(Text(f"… and {len(suspicions) - _SHOWN_SUSPICIONS} more suspicious; --json lists them"))
    return Group(*lines)


def _tested(clips: Sequence[Clip], label: int | None) -> int:
    return sum(clip.split == "test" and clip.label == label for clip in clips)


def _spread(seconds: Sequence[float]) -> str:
    low, high = min(seconds), max(seconds)
    return f"{low:.1f}" if high - low < 0.05 else f"{low:.1f}–{high:.1f}"
