"""The text of the study that `offkey init` proposes: its settings, with the comments of the shipped study `best`."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq

from search.study.branches import names_of
from search.study.space import Tree
from search.study.study_file import EDITORS_LINE, shipped_schema, shipped_text, to_yaml

_OF_LABELS = """\
This share of the labelled test clips validates trials; the rest is held out for the test of the final detector."""
_OF_PROXIES = """\
No machine ID has normal and anomalous test clips. So this share of the training clips is held out, and trials are
validated by how well they tell these clips from the same clips with synthetic faults. This is a makeshift: as soon as
you have labelled faults, search on them (metric: auc)."""

#: An entry of the portfolio with more settings stands on several lines.
_MOST_ON_A_LINE = 8


def text_of(tree: Tree, *, minutes: int) -> str:
    """Return the study file of a tree that was made of the shipped study `best`."""
    document = _commented_best()
    blocks = dict(zip(names_of(document), document["model"], strict=True))
    kept = [blocks[name] for name in names_of(tree)]
    for block, values in zip(kept, tree["model"], strict=True):
        _follow(block, values)
    document["search"].insert(1, "hours", 0.0, comment=f"{minutes} minutes")
    search = {key: value for key, value in tree["search"].items() if key in document["search"]}
    first = CommentedSeq(_entry(entry) for entry in search.pop("first", ()))
    with_lists = {
        "model": CommentedSeq(kept),
        "baseline": _entry(tree["baseline"]),
        "search": {**search, "first": first},
    }
    _follow(document, {key: value for key, value in {**tree, **with_lists}.items() if key not in ("study", "corpus")})
    _add_comments(document)
    writer = YAML(typ="rt")
    writer.width = 1000
    writer.indent(mapping=2, sequence=4, offset=2)
    out = io.StringIO()
    writer.dump(document, out)
    return _head(tree, minutes=minutes) + out.getvalue()


def _add_comments(document: CommentedMap) -> None:
    """Explain what `best` does not have."""
    features, uses_proxies = document["features"], document["validation"]["metric"] == "proxy"
    features.yaml_add_eol_comment("or mfcc, chroma, …; several: [logmel, chroma]", "kind")
    features.yaml_add_eol_comment("Hz; clips with another rate are refused unless resample is true", "sample_rate")
    document.yaml_set_comment_before_after_key("validation", before=_OF_PROXIES if uses_proxies else _OF_LABELS)


def _commented_best() -> CommentedMap:
    lines = shipped_text("best").splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    loaded: CommentedMap = YAML(typ="rt").load("".join(lines[first:]))
    del loaded["study"]
    return loaded


def _follow(node: CommentedMap, values: Mapping[str, Any]) -> None:
    """Give a mapping these values; it keeps the comments of the keys that it keeps."""
    for key in [key for key in node if key not in values]:
        del node[key]
    for key, value in values.items():
        if isinstance(node.get(key), CommentedMap) and isinstance(value, Mapping):
            _follow(node[key], value)
        elif node.get(key) != value:
            node[key] = value


def _entry(values: Mapping[str, Any]) -> CommentedMap:
    entry = CommentedMap(values)
    if len(values) <= _MOST_ON_A_LINE:
        entry.fa.set_flow_style()
    return entry


def _head(tree: Tree, *, minutes: int) -> str:
    corpus = tree["corpus"]
    sources = corpus["train_on"]
    train_on = sources if isinstance(sources, str) else f"{{choices: [{', '.join(sources['choices'])}]}}"
    return f"""\
{EDITORS_LINE}{shipped_schema().as_uri()}
# A study file: each setting has one value, or a range from which each trial takes a value:
#   {{low: …, high: …}}, with log: true or step: … where that helps, or {{choices: [a, b]}}.
# Check and run it:   offkey search FILE --workers 2
# It ends after {minutes} minutes (search.hours), on any host. `offkey search best` has all families and more trials.
{to_yaml({"study": tree["study"]}).strip()}
corpus:
  root: {_quoted(corpus["root"])}
  machines: [{", ".join(map(_quoted, corpus["machines"]))}]
  train_on: {train_on}
"""


def _quoted(text: str) -> str:
    """Return a YAML string in quotation marks: a machine type may be called 2020."""
    return json.dumps(text, ensure_ascii=False)
