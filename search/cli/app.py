"""The `offkey` command: its subcommands, in the order in which a newcomer needs them, and its exit codes."""

from __future__ import annotations

import importlib.metadata
import os
import sys
from typing import Annotated

import typer
from rich.markup import escape

from features.errors import OffkeyError
from search.cli.detector.evaluate import evaluate
from search.cli.detector.onnx import onnx
from search.cli.detector.score import score
from search.cli.detector.threshold import threshold
from search.cli.detector.train import train
from search.cli.recordings.analyze import analyze
from search.cli.recordings.cache import cache
from search.cli.recordings.corpus import corpus
from search.cli.study.dashboard import dashboard
from search.cli.study.demo import demo
from search.cli.study.export import export
from search.cli.study.init import init
from search.cli.study.report import report
from search.cli.study.search import search
from search.cli.study.settings import settings
from search.cli.study.status import status
from search.cli.study.studies import studies
from search.cli.study.upkeep import delete, rename, retry, stop
from search.cli.study.worker import worker
from search.cli.terminal import err, out
from search.errors import MisuseError
from search.logs import keep_quiet


def _print_version(wanted: bool) -> None:
    if wanted:
        out.print(f"offkey {importlib.metadata.version('offkey')}")
        raise typer.Exit


app = typer.Typer(
    name="offkey",
    help="Searches for the model that best tells the sound of a faulty machine from that of a healthy one.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    add_completion=False,
    epilog="Start with [bold]offkey demo[/bold]: it makes sounds and runs every step on them, in two minutes.",
)


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None: ...


for _command, _example in (
    (demo, "offkey demo"),
    (init, "offkey init recordings/ -o study.yaml"),
    (corpus, "offkey corpus data/dcase2020 --json"),
    (analyze, "offkey analyze data/dcase2020 -o analysis --set features.n_mels=64"),
    (search, "offkey search vae_tuning --set corpus.root=data/dcase2020 --workers 2 --trials 50"),
    (worker, "offkey worker vae_tuning --storage postgresql://offkey@database/offkey"),
    (status, "offkey status vae_tuning --json"),
    (dashboard, "offkey dashboard --read-only"),
    (report, "offkey report vae_tuning -o report.html"),
    (export, "offkey export vae_tuning -o recipe.yaml"),
    (train, "offkey train recipe.yaml -o detector"),
    (score, "offkey score detector recordings/ -o scores.csv"),
    (threshold, "offkey threshold detector --false-alarm-rate 0.05"),
    (onnx, "offkey onnx detector -o detector.onnx"),
    (evaluate, "offkey evaluate scores.csv --truth data/dcase2020 --against other.csv"),
    (studies, "offkey studies"),
    (settings, "offkey settings classifier"),
    (stop, "offkey stop vae_tuning"),
    (retry, "offkey retry vae_tuning --failed"),
    (rename, "offkey rename vae_tuning vae_first"),
    (delete, "offkey delete vae_tuning"),
):
    app.command(epilog=f"Example: {_example}")(_command)
app.add_typer(cache, name="cache", rich_help_panel="Upkeep")  # without a panel of its own it would come first


def main() -> None:
    """Runs the command line, and turns errors that users can mend into a message and an exit code."""
    keep_quiet()
    try:
        app()
    except MisuseError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(2)
    except OffkeyError as error:
        err.print(f"[red]error:[/red] {escape(str(error))}")
        sys.exit(1)
    except BrokenPipeError:
        # The reader of our output has closed it, for example `head`. Python would write to it once more when it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
