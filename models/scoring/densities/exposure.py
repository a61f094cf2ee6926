"""A boundary between normal clips and copies of them with synthetic faults.

Hendrycks, Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure" (ICLR 2019): a detector that has seen
outliers of any kind also detects others better. Here the outliers are made of normal clips
(features.clips.synthetic_faults), as Li, Sohn, Yoon and Pfister make them of pictures: "CutPaste: Self-Supervised
Learning for Anomaly Detection and Localization" (CVPR 2021). The boundary is that of a support vector machine with a
Gaussian kernel (Cortes and Vapnik, "Support-Vector Networks", 1995), in which both classes weigh the same:

    score = scikit-learn's decision function: above 0 on the side of the faults

γ is that of `ocsvm`, by the variance of the normal clips alone: by that of both classes, strong faults would widen the
kernel until all normal clips are one. Standardised, dimensions are in deviations of the normal clips, too.

It helps where faults change what synthetic ones change: it learns which dimensions tell them, which a density of normal
clips cannot know. All clips that lie far from everything that it has seen have the same score.
"""

from __future__ import annotations

import numpy as np

from features.errors import UnservedError
from models.scoring.covariance import places_of
from models.scoring.densities.density import one_thread
from models.scoring.densities.kernel_machine import TOLERANCE, KernelMachine, gamma_of
from models.scoring.scores import Array


class Exposure(KernelMachine):
    """A support vector classifier of normal clips and of clips with synthetic faults."""

    def fit_against(self, points: Array, faults: Array) -> None:
        """Learns from normal clips, at least one, and from clips with synthetic faults.

        Raises UnservedError where there is no fault, or where no fault differs from the normal clips.
        """
        with one_thread():
            self._fit(self._first_seen(points), self._as_learnt(faults))

    def _fit(self, points: Array, faults: Array) -> None:
        from sklearn.svm import SVC  # here: it takes a second to load

        both = np.concatenate([points, faults])
        if places_of(both) == 1 or not len(faults):
            raise UnservedError(
                "model.score: exposure learns how clips with synthetic faults differ from normal ones, and "
                f"{'none differs' if len(faults) else 'there is none'}: the training clips are silent, or too few. "
                "Train on more clips, or set another model.score"
            )
        gamma = gamma_of(points)
        centred = both - points.mean(axis=0)  # squares of distances far from the origin lose digits
        is_faulty = np.arange(len(both)) >= len(points)
        machine = SVC(gamma=gamma, class_weight="balanced", tol=TOLERANCE).fit(centred, is_faulty)
        # Its decision function is positive for faults: the machine that is kept has the opposite sign.
        self.keep_machine(both[machine.support_], -machine.dual_coef_[0], -machine.intercept_[0], gamma)
