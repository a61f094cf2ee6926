"""`offkey dashboard` as a process behind a real port, and its answers."""

from __future__ import annotations

import base64
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.offkey_process import OffkeyProcess, offkey_process, until


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def reason(self) -> str:
        return str(self.json["reason"])


def basic(user_and_password: str, encoding: str = "utf-8") -> str:
    return f"Basic {base64.b64encode(user_and_password.encode(encoding)).decode()}"


@dataclass
class Site:
    """A dashboard that is being served."""

    process: OffkeyProcess
    address: str

    def get(self, path: str, *, method: str = "GET", **headers: str) -> Answer:
        request = urllib.request.Request(f"{self.address}{path}", method=method, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return Answer(response.status, dict(response.headers), response.read())
        except urllib.error.HTTPError as error:
            return Answer(error.code, dict(error.headers), error.read())


@contextmanager
def served(url: str, *options: str, **variables: str) -> Iterator[Site]:
    with offkey_process("dashboard", "--port", 0, "--no-browser", *options, url=url, variables=variables) as process:
        until(lambda: "Ctrl-C ends it" in process.stderr or not process.alive)
        match = re.search(r"(http://\S+)/dashboard", process.stderr)
        assert match, process.stderr
        yield Site(process, match[1])
