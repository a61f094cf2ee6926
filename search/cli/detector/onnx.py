"""`offkey onnx`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from search.cli.options import BundleArgument
from search.cli.terminal import err, warn


def onnx(
    bundle: BundleArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="the file to write")] = Path("detector.onnx"),
) -> None:
    """Writes a detector as one ONNX file, from waveform to score, and checks that it gives the same scores."""
    from search.detector.bundle import load_bundle
    from search.detector.onnx_export import export_onnx

    exported = export_onnx(load_bundle(bundle, tell=warn), output)
    inputs = f"waveforms of {exported.sample_rate} Hz" + (" and machine IDs" if exported.takes_ids else "")
    err.print(escape(f"Wrote {output}: {inputs} → scores, within {exported.difference:.0e} of those of `offkey score`"))
