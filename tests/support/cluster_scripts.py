"""Runs a cluster's scripts among stand-ins for the commands they call, and parses `offkey` commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import typer.core
import typer.main

from search.cli.app import app


def among(folder: Path, **scripts: str) -> dict[str, str]:
    """An environment in which these commands are shell scripts."""
    for name, script in scripts.items():
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    return {"PATH": f"{folder}:{os.defpath}"}


def as_read(command: list[str]) -> dict[str, Any]:
    """The parameters of `offkey …` as the command line reads them. Raises its usage error for an unknown option."""
    offkey, name, *arguments = command
    assert offkey == "offkey"
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    return dict(group.commands[name].make_context(name, arguments).params)
