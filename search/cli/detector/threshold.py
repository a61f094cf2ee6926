"""`offkey threshold`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from search.cli.options import BundleArgument, JsonOption, NearestOption
from search.cli.terminal import out, print_json, say_written, warn


def threshold(
    bundle: BundleArgument,
    false_alarm_rate: Annotated[
        float,
        typer.Option(
            "--false-alarm-rate", metavar="R", help="the share of normal clips that may be called faulty: 0.05 is 5 %"
        ),
    ],
    nearest: NearestOption = False,
    as_json: JsonOption = False,
) -> None:
    """Moves the thresholds of a detector to another false-alarm rate, without training. It changes the bundle.

    The scores of withheld normal clips, which are in the bundle, set the thresholds. What these decide on the held-out
    test clips is shown: that is one more test evaluation, which detector.json (looks) and the model card list.
    """
    from search.cli.detector import detector_tables
    from search.detector.threshold_card import moves_in_words
    from search.detector.threshold_move import move_thresholds
    from search.detector.thresholds import doubts

    moved = move_thresholds(bundle, false_alarm_rate, nearest=nearest)
    if as_json:
        from search.detector.bundle_files import DecisionCounts

        print_json(
            {
                "bundle": bundle,
                "false_alarm_rate": moved.false_alarm_rate,
                "thresholds": {
                    name: asdict(of) | {"rate": of.rate, "interval": list(of.interval)}
                    for name, of in moved.thresholds.items()
                },
                "decisions": None if moved.decided is None else DecisionCounts.of(moved.decided).document(),
                "looks": len(moved.moved_to),
            }
        )
        return
    out.print(detector_tables.thresholds(moved.thresholds, moved.decisions))
    if moved.decided is not None:
        out.print(f"\n{moved.decided.in_words}.")
    out.print(f"{moves_in_words(moved.moved_to, are_counted=moved.decided is not None)}.")
    for doubt in doubts(moved.thresholds, moved.false_alarm_rate):
        warn(doubt)
    say_written(bundle, f"offkey score {bundle} PATH…")
