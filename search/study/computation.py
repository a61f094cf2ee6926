"""The version of the computation, raised by hand.

With the same `COMPUTATION`, a recipe with the same clips and seed gives the same numbers, up to the rounding of CPUs
and libraries. Raise it by one with a change that gives another number: of a feature, a synthetic fault, a split,
cleaning, a model, its first weights, the order and noise of its training, a score, a threshold, a metric, its
resamples; or that suggests other settings or prunes other trials. Do not raise it with any other change: workers of
another version cannot continue a study, and loading a detector of another version warns.

`tests/computation` keeps numbers of all of these, and fails when one of them changes.

Two caches have versions of their own, so that files of the old computation are not used: raise
`features.store.files.FORMAT` with a change of frames, and
`features.clips.synthetic_faults.VERSION` with a change of faults.
"""

from __future__ import annotations

COMPUTATION = 4
