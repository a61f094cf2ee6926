"""How a trial is described in a sentence or two."""

from __future__ import annotations

from optuna.trial import FrozenTrial

from search.results.wording import duration
from search.storage.optuna_rows import seconds_of
from search.study.trial_choice import taken_variant


def trial_in_words(trial: FrozenTrial) -> str:
    """Say how long a trial that has ended took, where, in which precision, and which variant it took."""
    text = f"Trial {trial.number} took {duration(seconds_of(trial))}"
    text += f" on {trial.user_attrs['device']}" if "device" in trial.user_attrs else ""
    text += f", precision {trial.user_attrs['precision']}" if "precision" in trial.user_attrs else ""
    variant = taken_variant(trial)
    return f"{text}." if variant is None else f"{text}. Its variant: {variant.in_words}."
