"""A trial's lease, kept while its worker is at work."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field


@dataclass
class Work:
    """What a trial's two threads tell each other."""

    lost: threading.Event = field(default_factory=threading.Event)  # another worker holds the trial
    batches: int = 0  # begun
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Since the claim."""
        return time.monotonic() - self.began
