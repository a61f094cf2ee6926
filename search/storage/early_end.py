"""Why a study has ended itself before its budget was used up, as its row holds it and in words."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

#: What to add to a search of a study that has ended itself so that it goes on.
GO_ON = "--set search.stop=never"


@dataclass(frozen=True)
class Enough:
    """Why a study has ended itself."""

    trials: int  # that had ended by then
    budget: int
    best: int  # the number of the best trial
    margin: float  # how far ahead of it a trial must be to be told from it
    expected: float  # how many of the trials that were left are expected to be, by those that had ended

    @classmethod
    def of(cls, text: str) -> Enough:
        """Reads what a study's row holds."""
        return cls(**json.loads(text))

    def text(self) -> str:
        """What a study's row holds."""
        return json.dumps(asdict(self))

    def in_words(self, metric_name: str) -> str:
        """A sentence about the end."""
        left = self.budget - self.trials
        others = "1 other trial" if left == 1 else f"{left} other trials"
        expected = "fewer than 0.01" if self.expected < 0.01 else f"{self.expected:.2f}"
        return (
            f"The study ended itself after {self.trials} of {self.budget} trials (search.stop: told_apart): these "
            f"clips tell a trial from the best one, trial {self.best}, only if its {metric_name} is more than "
            f"{self.margin:.3f} higher, even without allowing for the other trials. By the trials so far, "
            f"{expected} of the {others} would be that good."
        )
