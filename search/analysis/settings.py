"""The settings of an analysis, which `--set` may change: `features` and `validation` of a study file, and
`corpus.machines`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from features.clips.corpus import Corpus
from features.did_you_mean import did_you_mean
from features.frames.feature_settings import KINDS, FeatureSettings, is_framed
from features.settings import Settings
from search.errors import StudyFileError
from search.study.document import Document
from search.study.recipe import ValidationSettings

#: The stack that is compared beside each single kind.
STACK = "logmel+chroma"


class Selection(Settings):
    """Which recordings."""

    machines: list[str] | None = Field(None, min_length=1)


class AnalysisSettings(Settings):
    """All settings of an analysis."""

    corpus: Selection = Selection()
    features: FeatureSettings = FeatureSettings()
    validation: ValidationSettings = ValidationSettings()

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds and stacks of features that are compared, including a stack that the user sets."""
        return tuple(dict.fromkeys([*KINDS, STACK, self.features.kind]))

    def kinds_of(self, corpus: Corpus) -> tuple[str, ...]:
        """The kinds and stacks that are compared, without a spectrum of whole clips if a clip is too short for it."""
        return tuple(
            kind
            for kind in self.kinds
            if is_framed(kind) or all(self.features_of(kind).frames_of(clip) for clip in corpus.clips)
        )

    def features_of(self, kind: str) -> FeatureSettings:
        """These settings for another kind."""
        values = {name: getattr(self.features, name) for name in FeatureSettings.model_fields}
        values["n_mfcc"] = min(values["n_mfcc"], values["n_mels"])  # n_mels may have been set for another kind
        return FeatureSettings.model_validate({**values, "kind": kind})


def analysis_settings(overrides: Sequence[str], corpus: Corpus) -> AnalysisSettings:
    """The settings for these clips. Sample rate and channel, unless they are set, follow the clips.

    Raises StudyFileError for an unknown setting or a value that is not allowed.
    """
    document = Document(tree={}, origin="--set")
    for override in overrides:
        document.override(override)
    tree = document.tree
    features = tree.get("features", {})
    if isinstance(features, dict):
        if "normalize" in features:
            raise document.error(("features", "normalize"), "has no effect: statistics are standardised in any case")
        defaults = default_features(corpus)
        tree["features"] = defaults.model_dump(include={"sample_rate", "channel", "resample"}) | features
    try:
        settings = AnalysisSettings.model_validate(tree)
    except ValidationError as error:
        raise _explained(error.errors()[0], document) from error
    for kind in settings.kinds:
        try:
            settings.features_of(kind)
        except ValidationError as error:
            message = error.errors()[0]["msg"].removeprefix("Value error, ")
            raise document.error(("features",), f"does not fit {kind}, which is compared too: {message}") from error
    return settings


def default_features(corpus: Corpus) -> FeatureSettings:
    """The default settings for these clips: the sample rate that most of them have, the mean of several channels."""
    rates = Counter(clip.sample_rate for clip in corpus.clips)
    return FeatureSettings(
        sample_rate=rates.most_common(1)[0][0],
        resample=len(rates) > 1,
        channel="mean" if any(clip.channels > 1 for clip in corpus.clips) else None,
    )


def _explained(problem: ErrorDetails, document: Document) -> StudyFileError:
    path = problem["loc"]
    if problem["type"] == "extra_forbidden":
        block: Any = AnalysisSettings
        for key in path[:-1]:
            block = block.model_fields[key].annotation
        known = list(block.model_fields)
        hint = did_you_mean(str(path[-1]), known) or f"; known here: {', '.join(known)}"
        return document.error(path, f"is not a setting of an analysis{hint}")
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input ")
    got = "" if problem["type"] == "value_error" else f", but got {problem['input']!r}"
    return document.error(path, f"{message}{got}")
