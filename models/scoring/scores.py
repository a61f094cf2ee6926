"""The type of scores, in a module without torch: workers that wait for a trial import it, too."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

#: (clips,), higher is more anomalous.
Scores = npt.NDArray[np.float64]
