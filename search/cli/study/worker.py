"""`offkey worker`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from search.cli.options import (
    ArtifactsOption,
    DeviceOption,
    SetOption,
    StorageOption,
    VerboseOption,
    storage_errors,
    stored_name,
    url_of,
)
from search.errors import MisuseError
from search.logs import write_to_stderr

if TYPE_CHECKING:
    from search.workers.worker import Worker


def worker(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="name of a study in the storage, or its file")],
    storage: StorageOption = None,
    device: DeviceOption = "cpu",
    artifacts: ArtifactsOption = None,
    settings: SetOption = None,
    verbose: VerboseOption = False,
    owner: Annotated[str | None, typer.Option(hidden=True, help="name of this worker in the ledger")] = None,
    parent: Annotated[int | None, typer.Option(hidden=True, help="drain when this process is gone")] = None,
    pulse: Annotated[int | None, typer.Option(hidden=True, help="write a byte a second to this descriptor")] = None,
    memory: Annotated[int | None, typer.Option(hidden=True, help="bytes that trainings may use")] = None,
    stops_before: Annotated[int | None, typer.Option(hidden=True, help="obey only later requests to stop")] = None,
) -> None:
    """Runs one worker on a stored study, for other hosts and schedulers; `search` starts its own workers."""
    import threading

    from search.workers.pulse import give_pulse

    if pulse is not None:  # first: what follows may take long to import
        give_pulse(pulse)
    from search.workers.draining import drain_on_signals, drain_without, leave_in_time
    from search.workers.lease_renewal import ending_if_it_hangs
    from search.workers.worker import join

    write_to_stderr(verbose=verbose)
    stop = threading.Event()
    drain_on_signals(stop)
    if parent is not None:
        drain_without(parent, stop)
    url = url_of(storage)
    roots = [text.partition("=")[2] for text in settings or [] if text.startswith("corpus.root=")]
    if len(roots) != len(settings or []):
        raise MisuseError("a worker takes the study as it is stored: only corpus.root may be --set")
    if device != "cpu":
        from search.workers.devices import device_of

        device_of(device)
    if device == "cpu":
        from search.training.memory_share import keep_within, share_of_memory

        keep_within(share_of_memory(workers=1) if memory is None else memory)
    joined: list[Worker] = []

    def release() -> None:
        for worker in joined:
            worker.release()

    leave_in_time(stop, release)
    with storage_errors(url):
        with ending_if_it_hangs("joining the study"):  # for example a recording on a server that is gone
            started = join(
                url,
                stored_name(study),
                root=roots[-1] if roots else os.environ.get("OFFKEY_DATA"),
                device=device,
                artifacts=artifacts or os.environ.get("OFFKEY_ARTIFACTS"),
                stop=stop,
                stops_before=stops_before,
            )
        if owner is not None:
            started.owner = owner
        joined.append(started)
        started.run()
