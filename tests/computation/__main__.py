"""Writes the values of this version of the computation: `python -m tests.computation`, after COMPUTATION was raised."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import optuna
import torch

from search.study.computation import COMPUTATION
from tests.computation.sounds import written_corpus
from tests.computation.values import CASES, FILE, document_of, write, written

with tempfile.TemporaryDirectory() as folder:
    os.environ["OFFKEY_CACHE"] = f"{folder}/cache"
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    corpus = written_corpus(Path(folder, "sounds"))
    computed = {name: case(corpus) for name, case in CASES.items()}
computation_before, before = written() if FILE.exists() else (0, {})
try:
    document = document_of(computed, before, computation=COMPUTATION, computation_before=computation_before)
except ValueError as error:
    sys.exit(str(error))
write(document)
