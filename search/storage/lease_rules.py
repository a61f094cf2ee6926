"""How long a worker holds a trial without renewing its lease, and how often a trial is attempted."""

from __future__ import annotations

LEASE_SECONDS = 30.0


#: A trial is given up after it lost this many workers: the trial itself may be what kills them.
MAX_ATTEMPTS = 3
