"""A study and its recordings, brought together: what one asks of the other is checked before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from optuna.distributions import CategoricalDistribution

from features.corpus import Corpus, read_corpus
from features.inspection import leaks
from features.windows import require_length
from search.errors import StudyError
from search.recipe import ValidationSettings
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
    study.first_recipe().features.require(corpus)
    tree = study.tree
    tree["corpus"] = {**corpus_settings, "root": str(Path(root).resolve())}
    warnings = [*corpus.warnings, *_leaks(corpus)]
    warnings += _drop_unserved_choices(study, tree, corpus)
    warnings += check_labels(corpus, study.first_recipe().validation)
    _check_lengths(study, corpus)
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


def _check_lengths(study: Study, corpus: Corpus) -> None:
    """Raises ClipTooShortError for a clip that no trial could use; where lengths are searched, a trial fails alone."""
    if {"context", "hop_length", "n_fft"} & {setting.path[-1] for setting in study.space.settings}:
        return
    recipe = study.first_recipe()
    shortest = min(corpus.clips, key=recipe.features.frames_of)
    require_length(recipe.features.frames_of(shortest), recipe.model.context, shortest.path)


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
