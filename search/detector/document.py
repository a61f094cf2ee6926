"""The base of a bundle's JSON documents."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel, ConfigDict


class Document(BaseModel):
    """Frozen and strict: a text that reads like a number is not accepted as one, nor is a NaN or an infinity."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    def document(self) -> dict[str, Any]:
        """The content in types that JSON has."""
        return self.model_dump(mode="json")

    def text(self) -> str:
        """The text of the file."""
        return json.dumps(self.document(), indent=1)
