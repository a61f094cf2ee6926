"""What a case is: a function of the corpus whose values are kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ParamSpec

import numpy as np
import numpy.typing as npt

from features.clips.corpus import Corpus

#: Numbers are compared within a tolerance, texts are to be the same.
Values = Sequence[float | str]

Case = Callable[[Corpus], Values]

Arguments = ParamSpec("Arguments")

#: Values that an array is probed at.
_PROBES = 16


def without_clips(compute: Callable[Arguments, Values], *args: Arguments.args, **kwargs: Arguments.kwargs) -> Case:
    """The case of a function that needs no corpus."""
    return lambda corpus: compute(*args, **kwargs)


def spread_over(array: npt.NDArray[np.floating]) -> list[float]:
    """Mean, standard deviation, least and greatest value of an array, and some values in between."""
    flat = np.asarray(array, dtype=np.float64).ravel()
    probes = flat[np.linspace(0, len(flat) - 1, _PROBES).astype(int)]
    return [float(value) for value in (flat.mean(), flat.std(), flat.min(), flat.max(), *probes)]


def listed(array: npt.NDArray[np.floating]) -> list[float]:
    """All values of an array."""
    return [float(value) for value in np.ravel(array)]
