"""How long a worker holds a trial without renewing its lease, and how often a trial is attempted."""

from __future__ import annotations

#: Seconds from the last renewal of a lease to the moment at which another worker may take the trial over.
LEASE_SECONDS = 30.0

#: A trial whose worker was lost this often is given up: the trial may be what kills its workers.
MAX_ATTEMPTS = 3
