"""The types of scores and of other arrays, in a module without torch: workers that wait for a trial import it, too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: float64, of any shape.
Array = npt.NDArray[np.float64]

#: (clips,), higher is more anomalous.
Scores = Array
