"""The study that `offkey init` proposes for a corpus: the portfolio of the shipped study `best`, in some ten minutes.

It is `best` with few families, closed or narrowed where the recordings give no choice: with one machine ID nothing is
tied to others, an ID with few clips has few neighbours, and a small share of a short clip is no frame. What the
recordings cannot serve is left out, as a search would do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.clips.corpus import Corpus, read_corpus
from features.errors import OffkeyError
from search.analysis.settings import default_features
from search.preparation.narrowing import drop_unserved_entries, drop_unserved_families
from search.preparation.starter_text import text_of
from search.study.document import as_override
from search.study.recipe import ValidationSettings
from search.study.space import Tree, only_families
from search.study.study import Study
from search.study.study_file import load_study, study_of_tree
from search.validation.proxy_clips import hold_out
from search.validation.split import has_defined_id, labelled_test_clips
from search.validation.views import validation_data_of

#: The families of the proposal: two that train nothing, and two networks that learn from different tasks.
UNTRAINED, NETWORKS = ("stat", "whole_spectrum"), ("vae", "classifier")

#: The budget of the search.
MINUTES, TRIALS = 10, 60

#: The most epochs of a network, and the seconds that a training of so many should take at most.
MOST_EPOCHS, SECONDS_OF_A_TRAINING = 30, 60

#: Windows of a VAE that a core trains on in a second, on a slow host.
WINDOWS_A_SECOND = 10_000


@dataclass(frozen=True)
class StarterStudy:
    """The text of a study file, and what was left out of it."""

    text: str
    notes: tuple[str, ...]


def starter_study(root: Path, *, name: str) -> StarterStudy:
    """Return a study file for the clips below `root`. Raises CorpusError if there are none."""
    corpus = read_corpus(root)
    has_labels = has_defined_id(labelled_test_clips(corpus))
    name = re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip("._+-") or "study"
    study = load_study("best", overrides=_overrides(corpus, has_labels=has_labels), name=name)
    notes: list[str] = []
    epochs = _epochs(study, corpus)
    families = (*UNTRAINED, *NETWORKS) if epochs else UNTRAINED
    if not epochs:
        notes.append(f"model: left out {' and '.join(NETWORKS)}: one training on so many clips takes minutes")
    tree = only_families(study.tree, [study.space.families.index(family) for family in families])
    tree["corpus"] = _corpus_block(corpus, root, has_labels=has_labels)
    tree["search"] |= {"trials": TRIALS, "hours": round(MINUTES / 60, 2)}
    tree["search"]["first"] = [entry for entry in tree["search"]["first"] if entry]
    if epochs:
        _train_in(epochs, tree)
    else:
        del tree["training"], tree["scoring"]
    _fit_lengths(tree, study, corpus)
    with suppress(OffkeyError):  # `offkey search` says what is missing, and what to do
        notes += _narrow(tree, corpus)
    study_of_tree(tree, origin=f"the study for {root}")
    return StarterStudy(text_of(tree, minutes=MINUTES), tuple(notes))


def _overrides(corpus: Corpus, *, has_labels: bool) -> list[str]:
    """Return settings that the recordings close or narrow."""
    fitting = default_features(corpus)
    values: dict[str, Any] = {"features.sample_rate": fitting.sample_rate}
    if fitting.resample:
        values["features.resample"] = True
    if fitting.channel is not None:
        values["features.channel"] = fitting.channel
    if not has_labels:
        values["validation"] = {"metric": "proxy", "share": 0.25, "seed": 0}
    clips = Counter(clip.id_name for clip in corpus.clips if clip.split == "train")
    if len(clips) == 1:
        values |= {f"model.{family}.covariance": "own" for family in (*UNTRAINED, "vae")}
        values["model.vae.conditional"] = False
    most = max(min(clips.values(), default=1) - 1, 1)
    if most < 8:
        values |= {f"model.{family}.neighbours": {"low": 1, "high": most} for family in UNTRAINED}
    return [as_override(path, value) for path, value in values.items()]


def _corpus_block(corpus: Corpus, root: Path, *, has_labels: bool) -> Tree:
    # With proxies, training clips also validate: then the source of training clips cannot be searched for.
    has_two_sources = has_labels and any(clip.source == "additional" for clip in corpus.clips)
    sources = {"choices": ["development", "development+additional"]} if has_two_sources else "development"
    return {"root": str(root.resolve()), "machines": corpus.machines, "train_on": sources}


def _epochs(study: Study, corpus: Corpus) -> list[int]:
    """Return the choices of epochs that a training has time for; none if it has not."""
    features = study.first_recipe().features
    windows = sum(features.frames_of(clip) for clip in corpus.clips if clip.split == "train")
    most = min(MOST_EPOCHS, SECONDS_OF_A_TRAINING * WINDOWS_A_SECOND // max(windows, 1))
    return sorted({max(most // 3, 1), most}) if most else []


def _train_in(epochs: Sequence[int], tree: Tree) -> None:
    tree["training"]["epochs"] = {"choices": list(epochs)}
    for entry in tree["search"]["first"]:
        if "epochs" in entry:
            entry["epochs"] = min(epochs, key=lambda choice: abs(choice - entry["epochs"]))


def _fit_lengths(tree: Tree, study: Study, corpus: Corpus) -> None:
    """Shorten crops to the shortest clip, and leave out shares of it that are less than a frame."""
    features = study.first_recipe().features
    shortest = min(features.frames_of(clip) for clip in corpus.clips)
    stat = tree["model"][0]
    shares = [share for share in stat["share"]["choices"] if share * shortest >= 1] or [stat["share"]["choices"][-1]]
    stat["share"]["choices"] = shares
    tree["search"]["first"] = [entry for entry in tree["search"]["first"] if entry.get("share", shares[0]) in shares]
    for block in tree["model"]:
        if "frames" in block:
            block["frames"] = max(min(block["frames"], shortest), 1)


def _narrow(tree: Tree, corpus: Corpus) -> list[str]:
    """Remove the families and entries that the recordings cannot serve, and return why."""
    origin = "the proposed study"
    study = study_of_tree(tree, origin=origin)
    views = _views(corpus, study.validation)
    # Its entries go with a family.
    notes = [note for note in drop_unserved_families(study, tree, corpus, views) if note.startswith("model:")]
    return notes + drop_unserved_entries(study_of_tree(tree, origin=origin), tree, corpus, views)


def _views(corpus: Corpus, validation: ValidationSettings) -> Sequence[Corpus]:
    if not validation.uses_proxies:
        return validation_data_of(corpus, validation).views
    held_out = hold_out(corpus, share=validation.share, seed=validation.seed)
    return (held_out.with_proxies(()).corpus,)
