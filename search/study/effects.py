"""Which settings of a study have an effect, and why others have none.

A setting takes effect in the blocks that read it. For example, a setting of `training:` takes effect in each family, or
member of an ensemble, that does not have its own value, and one of `features:` in each branch that does not replace it.

The same rules hold for a study file, where a setting may have an effect by some value of an open one, and for the
values that a trial has so far: it is asked for a setting only if that may still have an effect (`may_count`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from features.frames.feature_settings import FeatureSettings
from features.frames.feature_settings import settings_of as settings_of_kind
from features.settings import Settings
from features.stacks import parts_of
from models.families import settings_of
from models.member import Member
from models.settings import BACKENDS, ScoringSettings
from search.study import space as spaces
from search.study.branches import features_of
from search.study.open_setting import Facts, Path, is_range, values_of
from search.study.recipe import OF_THE_WHOLE, SHARED_BLOCKS, TRAINED_ONLY
from search.study.schema.schema_lookup import block_schema, default_of, scoring_grid, takes_reals
from search.study.space import Space, Tree


def idle_settings(space: Space) -> list[str]:
    """Return a sentence for each value, other than the default, that has no effect in any trial."""
    # An exported recipe may hold settings of other families or poolings of its search, and one that scores each machine
    # type in its own way has settings that some of them inherit.
    if "from" in space.tree or "machine_types" in space.tree:
        return []
    return [f"{'.'.join(map(str, path))} has no effect: {why}" for path, why in idle_values(space)]


def idle_values(space: Space) -> Iterator[tuple[Path, str]]:
    """Yield the path of each value, other than the default, that has no effect in any trial, and why it has none."""
    open_paths = {setting.path for setting in space.settings}
    for path, value in _values(space.tree):
        is_set = path not in open_paths and value != default_of(space.tree, path)
        if is_set and (why := why_idle(path, space.tree)):
            yield path, why


def may_be_idle(path: Path, tree: Tree) -> bool:
    """Whether a value without effect is a matter for a warning, and not for an error (`NEVER_IDLE`)."""
    schema = block_schema(tree, path[:-1])
    return schema is None or not issubclass(schema, Settings) or path[-1] not in schema.NEVER_IDLE


def may_count(tree: Tree, path: Path, branch: int) -> bool:
    """Whether a setting may have an effect in a branch of a tree, some of whose ranges are closed."""
    return not _why_idle(path, tree, [reader for reader in readers_of(tree, path) if reader.branch == branch])


def why_idle(path: Path, tree: Tree) -> str:
    """Return why a setting has no effect in any trial; empty if it has one."""
    return _why_idle(path, tree, list(readers_of(tree, path)))


def facts_of(tree: Tree, path: Path, *, for_each: bool = False) -> Facts:
    """Return what the schema knows of the setting at a path; `for_each`: trials close their scoring for each type."""
    grid = scoring_grid(tree, path, for_each=for_each)
    return Facts(
        takes_reals=takes_reals(tree, path),
        default=default_of(tree, path),
        grid=None if grid is None else tuple(grid),
        beside=_deciding(tree, path),
    )


def _why_idle(path: Path, tree: Tree, readers: list[_Reader]) -> str:
    if not readers:
        of_branches = (features_of(tree, branch) for branch in range(len(branches_of(tree))))
        is_replaced = path[0] == "features" and all(path[-1] in own for own in of_branches)
        return f"each {'branch' if is_replaced else 'member'} has its own"
    return (
        _untrained(path, readers, tree)
        or _unused_by_kinds(path, readers)
        or _unpooled(path, readers, tree)
        or _needs_another(path, readers, tree)
    )


def _deciding(tree: Tree, path: Path) -> frozenset[str]:
    """Return the names of the settings whose values decide whether the setting at a path has an effect."""
    schema, _ = _block_of(tree, path)
    names = set() if schema is None else _named_beside(schema, str(path[-1]))
    match spaces.without_member(path)[0]:
        case "features":
            names |= {"kind", "method"}
        case "scoring" if path[-1] in ScoringSettings.OF_WINDOWS:
            names |= {"score"}
    return frozenset(names - {str(path[-1])})


def _named_beside(schema: type[Settings], setting: str) -> set[str]:
    direct = {key for key in schema.counts_beside(setting) if key in schema.model_fields}
    return direct.union(*(_named_beside(schema, key) for key in direct))


def _values(tree: Tree) -> Iterator[tuple[Path, Any]]:
    """Yield the path and the value or range of each setting of `model:` and of the blocks that members share."""
    for block in (*SHARED_BLOCKS, "model"):
        if block in tree:
            yield from _leaves(tree[block], (block,))


def _leaves(node: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    if isinstance(node, Mapping) and not is_range(node):
        inner: Iterator[tuple[str | int, Any]] = iter(node.items())
    elif isinstance(node, list) and path == ("model",):
        inner = enumerate(node)
    else:
        yield path, node
        return
    for key, value in inner:
        yield from _leaves(value, (*path, key))


@dataclass(frozen=True)
class _Branch:
    """The block of a family, with its members, and the blocks that it reads of the study."""

    path: Path
    block: Tree
    shared: Mapping[str, Tree]  # by name: `features:`, with what the branch replaces, `training:` and `scoring:`

    @property
    def members(self) -> dict[str, Tree]:
        members: dict[str, Tree] = self.block.get("members") or {}
        return members


@dataclass(frozen=True)
class _Reader:
    """A block in which a setting takes effect; it includes what a member or branch inherits from the study."""

    branch: int
    member: str | None
    block: Tree


def branches_of(tree: Tree) -> list[_Branch]:
    shared = {block: tree.get(block) or {} for block in SHARED_BLOCKS}
    if not isinstance(tree["model"], list):
        return [_Branch(("model",), tree["model"], shared)]
    return [
        _Branch(("model", index), block, shared | {"features": {**shared["features"], **features_of(tree, index)}})
        for index, block in enumerate(tree["model"])
    ]


def readers_of(tree: Tree, path: Path) -> Iterator[_Reader]:
    """Yield the blocks in which a setting takes effect.

    The path of a whole block counts as a setting that no member has of its own.
    """
    block, key = str(spaces.in_branch(path)[0]), path[-1]
    if block not in SHARED_BLOCKS or key in OF_THE_WHOLE[block]:
        yield from _own_readers(tree, path)
        return
    cleaning = values_of((tree.get("cleaning") or {}).get("method", "none"))
    for index, branch in enumerate(branches_of(tree)):
        is_of_branch = path[0] == "model"
        if index != path[1] if is_of_branch else block == "features" and key in features_of(tree, index):
            continue
        shared = branch.shared[block]
        if not branch.members or (block == "features" and cleaning != ["none"]):
            yield _Reader(index, None, shared)
        for name, member in branch.members.items():
            own = member.get(block) or {}
            if key not in own:
                yield _Reader(index, name, {**shared, **own})


def _own_readers(tree: Tree, path: Path) -> Iterator[_Reader]:
    """Yield the block in which a setting stands; one of the whole study for each branch."""
    is_of_branch = path[0] == "model" and isinstance(path[1], int)
    name = str(path[path.index("members") + 1]) if "members" in path else None
    block: Any = tree
    for key in path[:-1]:
        block = block[key]
    for index, branch in enumerate(branches_of(tree)):
        if not is_of_branch or index == path[1]:
            is_shared = name is not None and path[-2] in SHARED_BLOCKS
            yield _Reader(index, name, {**branch.shared[str(path[-2])], **block} if is_shared else block)


def _untrained(path: Path, readers: list[_Reader], tree: Tree) -> str:
    if spaces.without_member(path)[0] != "training" or path[-1] not in TRAINED_ONLY:
        return ""
    families = dict.fromkeys(str(_model_of(reader, tree)["family"]) for reader in readers)
    is_trained = any(settings_of(family).model_construct(family=family).is_trained for family in families)
    return "" if is_trained else f"{', '.join(families)} is not trained"


def _model_of(reader: _Reader, tree: Tree) -> Tree:
    """Return the `model:` block of a reader, which is no ensemble as a whole."""
    branch = branches_of(tree)[reader.branch]
    model: Tree = branch.block if reader.member is None else branch.members[reader.member]["model"]
    return model


def _unpooled(path: Path, readers: list[_Reader], tree: Tree) -> str:
    if spaces.without_member(path)[:-1] != ("scoring",) or path[-1] not in ScoringSettings.OF_WINDOWS:
        return ""
    for reader in readers:
        model = _model_of(reader, tree)
        score = settings_of(model["family"]).model_fields.get("score")
        if score is None or not set(BACKENDS).issuperset(values_of(model.get("score", score.default))):
            return ""
    return "a density gives a clip's score, and windows have none to pool"


def _unused_by_kinds(path: Path, readers: list[_Reader]) -> str:
    if spaces.without_member(path)[0] != "features":
        return ""
    kinds = dict.fromkeys(kind for reader in readers for kind in kinds_of(reader.block))
    name = str(path[-1])
    return "" if any(uses(kind, name) for kind in kinds) else f"it has no effect on {', '.join(kinds)}"


def _block_of(tree: Tree, path: Path) -> tuple[type[Settings] | None, Path]:
    """Return the settings, with their place, among which those stand that decide over the setting at a path."""
    place = path[:-1]
    schema = block_schema(tree, place)
    if schema is not None and issubclass(schema, Member):  # whether a member's weight counts depends on the ensemble
        place = place[:-2]
        schema = block_schema(tree, place)
    return (schema, place) if schema is not None and issubclass(schema, Settings) else (None, place)


def _needs_another(path: Path, readers: list[_Reader], tree: Tree) -> str:
    """Return which value another setting of the block needs before this one has an effect."""
    schema, place = _block_of(tree, path)
    if schema is None:
        return ""
    blocks = [reader.block for reader in readers]
    if place != path[:-1]:
        blocks = [reader.block for reader in _own_readers(tree, (*place, ""))]
    missing = _missing(schema, str(path[-1]), blocks)
    shown = ".".join(str(part) for part in place if not isinstance(part, int))
    wanted = [f"{shown}.{key}: {' or '.join(map(str, values))}" for key, values in missing.items()]
    return f"it counts with {', or with '.join(wanted)}" if wanted else ""


def _missing(schema: type[Settings], setting: str, blocks: Sequence[Tree]) -> dict[str, Sequence[object]]:
    """Return settings, with values of which a block would need one, where the setting counts in none of the blocks.

    A setting beside one that does not count itself does not count either.
    """
    missing: dict[str, Sequence[object]] = {}
    for key, values in schema.counts_beside(setting).items():
        if key not in schema.model_fields:
            continue
        default = schema.model_fields[key].default
        fitting = [block for block in blocks if _may_be_one_of(block.get(key, default), values)]
        deeper = _missing(schema, key, fitting) if fitting else {key: values}
        if not deeper:
            return {}
        missing |= deeper
    return missing


def _may_be_one_of(content: Any, values: Sequence[object]) -> bool:
    """Whether a setting may have one of these values, alone or in a stack."""
    return any(part in values for value in values_of(content) for part in parts_of(value))


def kinds_of(block: Mapping[str, Any]) -> list[str]:
    """Return the kinds and stacks that a `features:` block may have."""
    choices = values_of(block.get("kind", FeatureSettings().kind))
    return [FeatureSettings.model_validate({"kind": choice}).kind for choice in choices]


def uses(kind: str, name: str) -> bool:
    return name in {"kind", "normalize"} or name in settings_of_kind(kind)
