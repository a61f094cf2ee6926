"""How long a worker holds a trial without renewing its lease, and when a trial is given up.

A worker is lost if it is killed, cut off from the database, or fails. It fails if it raises an error that is not the
trial's own, crashes, or gets no further. Whoever kills a worker says nothing about its trial. A failure may be the
trial's or the host's: the next slots that try the trial tell (search.storage.slots).
"""

from __future__ import annotations

#: Seconds from the last renewal of a lease to the moment at which another worker may take the trial over.
LEASE_SECONDS = 30.0

#: A trial is given up when so many of its workers have failed since its last checkpoint.
MOST_FAILURES = 3

#: A trial is given up when it has lost so many workers since its last checkpoint, for whatever reason.
MOST_LOST = 10

#: A slot retires when so many different trials have failed in it while others are at work, or so many tries have, and
#: none has got an epoch done there in between. Tries have pauses that grow: a place that is away for a minute comes
#: back in time. Alone, a slot tries three trials by turns: one of them has failed three times before it retires.
MOST_DIFFERENT, MOST_IN_A_ROW = 3, 8

#: In the reason of a trial that was given up.
LOST = "its worker was lost"

#: How the reason begins if the kernel ended a worker because memory had run out.
KILLED_FOR_MEMORY = "out of memory: the kernel killed its worker"
