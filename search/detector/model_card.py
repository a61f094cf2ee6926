"""The model card of a detector: its models, its metrics, and what its thresholds mean."""

from __future__ import annotations

from search.detector.caveats import OPTIMISM, SPREAD, sentences_beside
from search.detector.detector import Detector
from search.detector.optimism import SeedSpread, varying
from search.detector.threshold_card import threshold_section
from search.results.wording import TOO_FEW, difference_interval, interval_or_why
from search.study.recipe import Recipe

#: scoring.calibration → what a score is, in lines of the card.
_SCALES = {
    "none": "",
    "z": """
A score is the distance from the mean of the machine ID's withheld normal clips, in their standard deviations
(scoring.calibration: z). Thresholds are on this scale.""",
    "empirical": """
A score is the rank among the machine ID's withheld normal clips, as a standard normal deviate
(scoring.calibration: empirical). Thresholds are on this scale.""",
}


def model_card(detector: Detector) -> str:
    """The card, in Markdown."""
    recipe, test = detector.recipe, detector.test
    origin = f"{recipe.from_.in_words} of study `{recipe.from_.study}`" if recipe.from_ else "a recipe of its own"
    test_line = (
        "No test AUC: there are no labelled test clips, or too few."
        if test is None
        else f"Held-out test AUC {test.auc:.3f} ({interval_or_why(test.interval, test.why_no_interval)}), "
        f"on clips that no search has used.\nOver the clips of all machine IDs together it is {test.pooled:.3f}."
    )
    scale = _scale(recipe)
    beside = "".join(f"{sentence}.\n" for sentence in sentences_beside(detector))
    left_out = "".join(f"\n- {outlier.clip.name}: {outlier.reason}" for outlier in detector.dropped)
    left_out = f"\nTraining clips that cleaning left out:\n{left_out}\n" if left_out else ""
    return f"""# {recipe.study}

A detector of anomalous machine sound, from {origin}.

{_models(recipe)}
{test_line}
{_validation(detector)}
{_best_member(detector)}{beside}{_seeds(detector)}
Score clips with `offkey score BUNDLE PATH…`, this folder as BUNDLE. A higher score is more anomalous.{scale}
{left_out}
{threshold_section(recipe.scoring, detector.rated_thresholds, detector.decisions_per_id)}"""


def _scale(recipe: Recipe) -> str:
    """What a score is, in lines of the card."""
    kinds = {member.scoring.calibration for member in recipe.member.scored_by}
    if len(kinds) == 1:
        return _SCALES[kinds.pop()]
    return """
Machine types have scores of several kinds: recipe.yaml names the calibration of each (machine_types)."""


def _validation(detector: Detector) -> str:
    """The AUC that the search chose by, and its optimism."""
    if detector.recipe.validation.uses_proxies:
        return (
            f"AUC on synthetic faults {detector.validation.auc:.3f}: the search chose by it, without recorded faults."
        )
    line = f"Validation AUC {detector.validation.auc:.3f}: the search chose by it, so it is optimistic."
    if detector.optimism is None:
        return line
    optimism = detector.optimism
    if optimism.interval is None:
        return f"{line}\nValidation − test is {optimism.difference:+.3f}, of too few clips for an interval."
    difference = f"{optimism.difference:+.3f} (95 % interval {difference_interval(optimism.interval)})"
    return f"{line}\nValidation − test is {difference}: {OPTIMISM}."


def _best_member(detector: Detector) -> str:
    """What the ensemble gains over its best member, which is measured on the same clips."""
    best = detector.best_member
    if best is None or best.test is None:
        return ""
    gain = best.test.gain
    of_member = interval_or_why(best.test.interval, TOO_FEW)
    of_gain = "" if gain.interval is None else f" ({difference_interval(gain.interval)})"
    return (
        f"Its best member alone, {best.name}, has a test AUC of {best.test.auc:.3f} ({of_member}).\n"
        f"The ensemble's is {gain.difference:+.3f} from it{of_gain}: {gain.in_words}.\n"
    )


def _seeds(detector: Detector) -> str:
    """The table that shows how the AUC of one model varies with its seed."""
    seeds = varying(detector.seeds)
    if not seeds:
        return ""
    rows = "".join(_seed_rows(name, spread) for name, spread in seeds.items())
    return f"""
| one seed's model | | mean AUC | standard deviation | lowest | highest |
|---|---|---|---|---|---|
{rows}
{SPREAD}.
"""


def _seed_rows(name: str, spread: SeedSpread) -> str:
    return "".join(
        f"| {len(spread.seeds)} of {name} | {part} | {of_part.mean:.3f} | {of_part.deviation:.3f} | "
        f"{min(of_part.aucs):.3f} | {max(of_part.aucs):.3f} |\n"
        for part, of_part in (("validation", spread.validation), ("test", spread.test))
        if of_part is not None
    )


def _models(recipe: Recipe) -> str:
    """The table of models: family, features, and epochs of training."""
    names = list(recipe.ensemble) or [recipe.model.family]
    rows = []
    for name, member in zip(names, recipe.members, strict=True):
        family = f"{member.model.family}, one for each machine ID" if member.model.per_id else member.model.family
        epochs = str(member.training.epochs) if member.model.is_trained else "not trained"
        rows.append(f"| {name} | {family} | {member.features.kind} | {epochs} |\n")
    combine = getattr(recipe.model, "combine", None)
    together = "" if combine is None else f"Scores of {len(rows)} models are combined (model.combine: {combine}).\n\n"
    table = f"{together}| model | family | features | epochs |\n|---|---|---|---|\n{''.join(rows)}"
    if recipe.machine_types is None:
        return table
    named = ", ".join(recipe.machine_types)
    return f"{table}\nEach machine type ({named}) is scored in its own way: see `machine_types` in recipe.yaml.\n"
