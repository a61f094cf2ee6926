"""A study and its recordings, brought together: what one asks of the other is checked before any work."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import CategoricalDistribution

from features.corpus import Corpus, read_corpus
from features.errors import UnservedError
from features.inspection import leaks
from features.windows import require_length
from models.calibration import require_normals
from models.labels import Labels
from search.errors import StudyError
from search.recipe import Recipe, ValidationSettings
from search.split import blind, held_out_clips, labelled_test_clips, serves, training_clips, undefined_ids
from search.study_file import Study, study_of_tree


@dataclass(frozen=True)
class Prepared:
    """A study on its recordings, and what the user should know about the two."""

    study: Study
    corpus: Corpus  # with all labels: blind it before a search
    warnings: tuple[str, ...]


def prepare(study: Study, *, default_root: str | None) -> Prepared:
    """Reads the study's corpus and checks that it serves the study.

    Raises StudyError or CorpusError if there is no corpus, a clip cannot be used, `train_on` or none of its choices
    can be served, or no machine ID has both labels among the clips that steer the search.
    """
    corpus_settings = study.space.tree.get("corpus", {})
    root = corpus_settings.get("root") or default_root
    if root is None:
        raise StudyError(
            "corpus.root is missing: give it with --set corpus.root=DIR, in $OFFKEY_DATA or in the study file"
        )
    machines = study.first_recipe().corpus.machines
    corpus = read_corpus(Path(root)).for_study(machines)
    tree = study.tree
    tree["corpus"] = {**corpus_settings, "root": str(Path(root).resolve())}
    warnings = [*corpus.warnings, *_leaks(corpus)]
    warnings += _drop_unserved_choices(study, tree, corpus)
    warnings += check_labels(corpus, study.first_recipe().validation)
    study = study_of_tree(tree, origin=f"study {study.name}")
    dropped = _drop_unserved_families(study, tree, corpus)
    if dropped:
        _forget_dropped(tree, study)
    warnings += dropped
    return Prepared(study_of_tree(tree, origin=f"study {study.name}"), corpus, tuple(warnings))


def _leaks(corpus: Corpus) -> list[str]:
    found = leaks(corpus)
    if not found:
        return []
    trained, tested = found[0]
    return [
        f"{len(found)} test clips are training clips too, {tested.name} ({trained.name}) for one: their scores say "
        f"nothing. `offkey corpus {corpus.root}` lists them"
    ]


def _drop_unserved_families(study: Study, tree: dict[str, object], corpus: Corpus) -> list[str]:
    """Leaves out the families that the recordings cannot serve. Raises UnservedError if there is no other."""
    kept, warnings = [], []
    families = tree["model"] if isinstance(tree["model"], list) else [tree["model"]]
    for block, recipe in zip(families, study.recipes(), strict=True):
        try:
            require_served(recipe, corpus, is_open={str(setting.path[-1]) for setting in study.space.settings})
        except UnservedError as error:
            if len(families) == 1:
                raise
            warnings.append(f"model: dropped {recipe.model.family}: {error}")
            continue
        kept.append(block)
    if not kept:
        raise UnservedError("; ".join(warnings))
    if warnings:
        tree["model"] = kept
    return warnings


def _forget_dropped(tree: dict[str, object], study: Study) -> None:
    """Takes from the baseline what named a family that is dropped."""
    baseline = tree["baseline"]
    assert isinstance(baseline, dict) and isinstance(tree["model"], list)
    kept = {str(block["family"]) for block in tree["model"]}
    if len(kept) == 1:
        tree["model"] = tree["model"][0]
    if baseline.get("family", next(iter(kept))) not in kept:
        tree["baseline"] = {}
        return
    if len(kept) == 1:
        baseline.pop("family", None)


def require_served(recipe: Recipe, corpus: Corpus, *, is_open: Collection[str] = ()) -> None:
    """Raises UnservedError for what a recipe asks of the corpus in vain.

    Not for what depends on settings that are open: where one of those is impossible, its trial fails alone.
    """
    clips = training_clips(corpus, recipe)
    labels = Labels.of((clip.id_name, clip.attributes) for clip in clips.train)
    if not {"train_on", "score", "classes", "unknown_id", "per_id"}.intersection(is_open):
        judged = {clip.id_name for clip in labelled_test_clips(blind(corpus, recipe.validation))}
        recipe.model.require(labels, judged)
    if recipe.scoring.calibration != "none" and "calibration" not in is_open:
        require_normals([clip.id_name for clip in clips.withheld], labels)
    for member in recipe.members:
        member.features.require(corpus)
        if not {"context", "frames", "n_mels", "kind", "hop_length", "n_fft"}.intersection(is_open):
            shortest = min(corpus.clips, key=member.features.frames_of)
            require_length(
                member.features.frames_of(shortest),
                member.model.excerpt_frames(member.features.bins),
                shortest.path,
                setting=member.model.excerpt_setting,
            )


def _drop_unserved_choices(study: Study, tree: dict[str, object], corpus: Corpus) -> list[str]:
    opened = next((s for s in study.space.settings if s.path == ("corpus", "train_on")), None)
    if opened is None:
        training_clips(corpus, study.first_recipe())  # refuses what the corpus does not have
        return []
    assert isinstance(opened.distribution, CategoricalDistribution)
    choices = [str(choice) for choice in opened.distribution.choices]
    kept = [choice for choice in choices if serves(corpus, choice)]
    if not kept:
        raise StudyError(f"corpus.train_on: {corpus.root} has training clips for none of {', '.join(choices)}")
    if kept == choices:
        return []
    corpus_block = tree["corpus"]
    baseline = tree["baseline"]
    assert isinstance(corpus_block, dict) and isinstance(baseline, dict)
    corpus_block["train_on"] = {"choices": kept}
    if baseline.get(opened.name) not in (None, *kept):
        del baseline[opened.name]
    dropped = ", ".join(choice for choice in choices if choice not in kept)
    return [f"corpus.train_on: dropped {dropped}, since {corpus.root} has no such training clips"]


def check_labels(corpus: Corpus, validation: ValidationSettings) -> list[str]:
    """Warnings of machine IDs that cannot be judged. Raises StudyError if none can."""
    steering = labelled_test_clips(blind(corpus, validation))
    if not steering:
        raise StudyError(f"AUC is undefined: {corpus.root} has no labelled test clips to validate on")
    undefined = undefined_ids(steering)
    if len(undefined) == len({clip.id_name for clip in steering}):
        labels = {clip.label for clip in steering}
        have = "normal clips only" if labels == {0} else "anomalies only" if labels == {1} else "one label each"
        raise StudyError(
            f"AUC is undefined: the test clips of every machine ID ({', '.join(undefined)}) have {have}. "
            "It takes normal and anomalous ones of an ID to tell them apart."
        )
    warnings = []
    if undefined:
        warnings.append(f"{', '.join(undefined)}: one label only in validation, AUC undefined, left out of the mean")
    undefined_later = sorted(set(undefined_ids(held_out_clips(corpus, validation))) - set(undefined))
    if undefined_later:
        warnings.append(f"{', '.join(undefined_later)}: too few labelled clips for a held-out test")
    return warnings
