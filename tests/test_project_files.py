"""What strangers and their tools read of the project: each file says the same as the others."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.house import HOUSE


@pytest.fixture
def project() -> dict[str, Any]:
    described: dict[str, Any] = tomllib.loads((HOUSE / "pyproject.toml").read_text())["project"]
    return described


def yaml_of(name: str) -> Any:
    return YAML(typ="safe").load((HOUSE / name).read_text())


def test_the_citation_has_the_keys_that_its_format_wants_and_the_project_s_version(project: dict[str, Any]) -> None:
    citation = yaml_of("CITATION.cff")

    assert {"cff-version", "message", "title", "authors"} <= citation.keys()  # what version 1.2.0 requires
    assert citation["cff-version"] == "1.2.0"
    assert all(author["name"] for author in citation["authors"])
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


def test_the_changelog_tells_changes_of_the_newest_version_by_what_they_touch() -> None:
    first, *_ = re.findall(r"^## \[.*?(?=^## |\Z)", (HOUSE / "CHANGELOG.md").read_text(), re.DOTALL | re.MULTILINE)

    assert {"Study files", "Command line", "Storage"} <= set(re.findall(r"^### (.*)$", first, re.MULTILINE))


def test_hooks_are_pinned_and_ruff_is_the_one_that_tests_run() -> None:
    revisions = {repository["repo"]: repository["rev"] for repository in yaml_of(".pre-commit-config.yaml")["repos"]}
    (ruff,) = re.findall(r"^ruff==(.*)$", (HOUSE / "requirements.lock").read_text(), re.MULTILINE)

    assert all(re.fullmatch(r"v\d+\.\d+\.\d+", revision) for revision in revisions.values())
    assert revisions["https://github.com/astral-sh/ruff-pre-commit"] == f"v{ruff}"
