"""Detectors of the same networks, one for each machine type: clips are routed to that of their own.

scores : (clips,) float64, higher is more anomalous.

Each has learnt from the clips of all machine types, as if it scored them all. Clips of one machine type are read by
themselves, in a trial as in its final detector: other clips beside them could change their last bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from torch import nn

from features.clips.machine_id import MachineId
from models.labels import Labels
from models.member import Member, require_named
from models.recordings import Recordings
from models.scoring.network_pass import NetworkPass
from models.scoring.scorer import Scorer, Single
from models.scoring.scores import Scores


class PerMachineType(Scorer):
    """Scores clips of each machine type by its own detector."""

    def __init__(self, member: Member, labels: Labels, scorers: Sequence[Scorer], which: Mapping[str, int]) -> None:
        """`scorers` share their networks, which the first one owns; `which` has the position of each machine type's."""
        super().__init__()
        self.member = member
        self.labels = labels
        self.scorers = nn.ModuleList(scorers)
        self.which = dict(which)

    @property
    def each(self) -> Iterator[Scorer]:
        """The detectors below."""
        for scorer in self.scorers:
            assert isinstance(scorer, Scorer)
            yield scorer

    def singles(self) -> Iterator[Single]:
        """The first detector's: they own the networks."""
        yield from next(self.each).singles()

    def single_of(self, name: str) -> Single:
        return self.of_machine(MachineId.parse(name).machine).single_of(name)

    @property
    def shares_unknown_ids(self) -> bool:
        return False

    @property
    def scores_unknown_ids(self) -> bool:
        return False  # at most those of the machine types that it knows

    def read_in(self, passes: Sequence[NetworkPass]) -> None:
        for scorer in self.each:
            scorer.read_in(passes)

    def fit(self, train: Recordings, withheld: Recordings) -> None:
        for scorer in self.each:
            scorer.fit(train, withheld)

    def scores_of(self, recordings: Recordings) -> Scores:
        machines = [MachineId.parse(name).machine for name in recordings.ids]
        for name in recordings.ids:
            require_named(self.member, name)
        scores = np.empty(len(recordings))
        for machine in sorted(set(machines)):
            members = [index for index, of_clip in enumerate(machines) if of_clip == machine]
            scores[members] = self.of_machine(machine).scores_of(recordings.part(members))
        return scores

    def of_machine(self, machine: str) -> Scorer:
        """The detector of a machine type."""
        return list(self.each)[self.which[machine]]
