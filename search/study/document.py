"""The text of a study file: its tree, the lines of its keys, and the values that `--set` puts in their place."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from features.did_you_mean import did_you_mean
from search.errors import MisuseError, StudyFileError
from search.study import space as spaces
from search.study.branches import names_of
from search.study.open_setting import Path
from search.study.space import Tree


def as_override(path: str, value: Any) -> str:
    """Return a setting and its value as `--set` takes them. Raises MisuseError for a value that YAML cannot hold."""

    def plain(value: Any) -> str:
        if isinstance(value, PurePath):
            return str(value)
        raise MisuseError(f"{path} must be made of numbers, texts, lists and dicts, but got {value!r}")

    # JSON is also YAML.
    return f"{path}={value if path == 'corpus.root' else json.dumps(value, ensure_ascii=False, default=plain)}"


@dataclass
class Document:
    """The tree of a study file, or a stored one, with the place of each setting."""

    tree: Tree
    origin: str
    lines: dict[Path, int] = field(default_factory=dict)  # from 1
    overridden: dict[Path, str] = field(default_factory=dict)  # the option that replaced the value

    @classmethod
    def parse(cls, text: str, origin: str) -> Document:
        """Read the text of a file. Raises StudyFileError if it is not a mapping in YAML."""
        try:
            loaded = YAML(typ="rt").load(text)
        except MarkedYAMLError as error:
            line = "" if error.problem_mark is None else f", line {error.problem_mark.line + 1}"
            raise StudyFileError(f"{origin}{line}: not valid YAML: {error.problem}") from error
        except YAMLError as error:
            raise StudyFileError(f"{origin}: not valid YAML: {error}") from error
        if not isinstance(loaded, CommentedMap):
            raise StudyFileError(f"{origin}: a study file is a mapping (`study: …`, `model: …`), but this is not")
        document = cls(tree={}, origin=origin)
        document.tree = document._plain(loaded, ())
        return document

    def _plain(self, node: Any, path: Path) -> Any:
        if isinstance(node, CommentedMap):
            for key in node:
                if key in (node.lc.data or {}):  # a key that was merged from another place (`<<`) has no line here
                    self.lines[(*path, str(key))] = node.lc.key(key)[0] + 1
            return {str(key): self._plain(value, (*path, str(key))) for key, value in node.items()}
        if isinstance(node, CommentedSeq):
            for index in range(len(node)):
                self.lines[(*path, index)] = node.lc.item(index)[0] + 1
            return [self._plain(value, (*path, index)) for index, value in enumerate(node)]
        for kind in (bool, int, float, str):
            if isinstance(node, kind):
                return kind(node)
        return node

    def override(self, text: str) -> None:
        """Put one `path=value` into the tree."""
        path_text, equals, value_text = text.partition("=")
        if not equals or not path_text.strip():
            raise StudyFileError(f"setting {text}: must be path=value, for example corpus.root=DIR")
        path: Path = tuple(path_text.strip().split("."))
        try:
            # The name of a folder stays text: it may be 2020.
            value = value_text if path == ("corpus", "root") else YAML(typ="rt").load(value_text or "null")
        except YAMLError as error:
            raise StudyFileError(f"setting {text}: the value is not valid YAML: {error}") from error
        value = Document({}, "")._plain(value, ())
        if len(path) > 1 and path[0] == "model" and isinstance(self.tree.get("model"), list):
            path = self._of_family(path, text)
        self._require_member(path, text)
        before = spaces.parameter_names(self.tree)
        node: Any = self.tree
        for depth, key in enumerate(path[:-1]):
            if isinstance(node, dict) and node.get(key) is None:
                node[key] = {}
            node = node[key]
            if not isinstance(node, dict) and not isinstance(path[depth + 1], int):
                raise StudyFileError(f"setting {text}: {key} is a value and holds no settings")
        node[path[-1]] = value
        self.overridden[path] = f"setting {text}"
        self._follow_names(before, spaces.parameter_names(self.tree))

    def _follow_names(self, before: Mapping[Path, str], after: Mapping[Path, str]) -> None:
        """Remove closed settings from the baseline and from `search.first`, and rename those with another name."""
        names = {name: after.get(path) for path, name in before.items()}
        if isinstance(baseline := self.tree.get("baseline"), dict):
            self.tree["baseline"] = spaces.renamed(baseline, names)
        search, families = self.tree.get("search"), names_of(self.tree)
        if isinstance(search, dict) and isinstance(entries := search.get("first"), list):
            search["first"] = [spaces.followed(e, names, families) if isinstance(e, dict) else e for e in entries]

    def _of_family(self, path: Path, text: str) -> Path:
        families = names_of(self.tree)
        if not families or not all(isinstance(block, dict) for block in self.tree["model"]):
            raise self.error(("model",), "must be a list of blocks, one for each family")
        if len(path) < 3 or path[1] not in families:
            raise StudyFileError(f"setting {text}: `model` is a list; name the family: model.{families[0]}.…")
        return ("model", families.index(str(path[1])), *path[2:])

    def _require_member(self, path: Path, text: str) -> None:
        """Raise StudyFileError if the path names a member that does not exist. A whole member may be new."""
        if path[:1] != ("model",) or "members" not in path[:-2]:
            return
        depth = path.index("members")
        model = self.tree["model"][path[1]] if isinstance(path[1], int) else self.tree.get("model")
        members = model.get("members") if isinstance(model, dict) else None
        if isinstance(members, dict) and path[depth + 1] not in members:
            hint = did_you_mean(str(path[depth + 1]), members) or f"; members: {', '.join(members)}"
            raise StudyFileError(f"setting {text}: there is no member {path[depth + 1]}{hint}")

    def error(self, path: Path, message: str) -> StudyFileError:
        """Return an error with its place: the line of the longest known part of the path."""
        shown = ".".join(str(key) for key in path)
        below = [text for set_path, text in self.overridden.items() if set_path[: len(path)] == path != set_path]
        if below and path not in self.lines:
            return StudyFileError(f"{below[0]}: {shown} {message}")
        message += f" (with {', '.join(below)})" if below else ""
        for length in range(len(path), 0, -1):
            if path[:length] in self.overridden:
                return StudyFileError(f"{self.overridden[path[:length]]}: {shown} {message}")
            if path[:length] in self.lines:
                return StudyFileError(f"{self.origin}, line {self.lines[path[:length]]}: {shown} {message}")
        return StudyFileError(f"{self.origin}: {shown} {message}")
