"""Makes running out of memory the failure of one trial; the next trial has all of a GPU's memory again."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from search.errors import TrialFailure
from search.training.memory_share import within_share


def free_gpu(device: torch.device) -> None:
    """Free the GPU memory of trainings that have ended; on the CPU, do nothing.

    Call it before the next training, not at the failure itself: while an error is handled, its traceback keeps the
    model alive.
    """
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


#: Messages of libraries without an exception for it: torch's CPU allocator, cuBLAS, the CUDA driver.
_OUT_OF_MEMORY = ("can't allocate memory", "std::bad_alloc", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA error: out of memory")


@contextmanager
def memory_failures() -> Iterator[None]:
    """Raise TrialFailure if memory runs out: the model is too large. Other GPU errors are not the trial's fault."""
    with within_share(threads=torch.get_num_threads()) as share:
        try:
            yield
        except (torch.OutOfMemoryError, MemoryError) as error:
            raise _out_of_memory(share) from error
        except RuntimeError as error:
            if not any(text in str(error) for text in _OUT_OF_MEMORY):
                raise
            raise _out_of_memory(share) from error


def _out_of_memory(share: int | None) -> TrialFailure:
    of_the_share = (
        "" if share is None else f": it needs more than {share / 1e9:.1f} GB, its worker's share of the container"
    )
    return TrialFailure(f"out of memory{of_the_share}")
