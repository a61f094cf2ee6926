"""Makes running out of memory the failure of one trial; the next trial has all of a GPU's memory again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from search.errors import TrialFailure


def free_gpu(device: torch.device) -> None:
    """Free the GPU memory of trainings that have ended; on the CPU, do nothing.

    Call it before the next training, not at the failure itself: while an error is handled, its traceback keeps the
    model alive.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


#: Messages of libraries without an exception for it: torch's CPU allocator, cuBLAS, the CUDA driver.
_OUT_OF_MEMORY = ("can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


@contextmanager
def memory_failures() -> Iterator[None]:
    """Raise TrialFailure if memory runs out: the model is too large. Other GPU errors are not the trial's fault."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise TrialFailure("out of memory") from error
    except RuntimeError as error:
        if not any(text in str(error) for text in _OUT_OF_MEMORY):
            raise
        raise TrialFailure("out of memory") from error
