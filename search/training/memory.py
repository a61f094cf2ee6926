"""Memory that does not suffice for a training: the trial fails, and the next one finds all of a GPU's memory free."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from search.errors import TrialFailure


def free_gpu(device: torch.device) -> None:
    """Gives back what ended trainings held on a GPU; has no effect on the CPU.

    Call it before the next training, not at the failure itself: while an error is handled, its traceback keeps the
    model alive.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


#: Messages of those that have no exception of their own for it: torch's CPU allocator, cuBLAS, the CUDA driver.
_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


@contextmanager
def memory_failures() -> Iterator[None]:
    """Raises TrialFailure where memory runs out: the model is too large. Other errors of a GPU are the machine's."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrialFailure("out of memory") from error
    except RuntimeError as error:
        if not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        raise TrialFailure("out of memory") from error
