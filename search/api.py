"""The public module of Offkey: what the commands do, for notebooks and programs, as values instead of text.

    from search import api

    study = api.Study.load("vae_tuning", root="clips", settings={"training.epochs": 20})
    study.run(workers=2, trials=10)
    detector = api.train(study.recipe(), "detector")
    rows = api.score("detector", "clips/slider/test")
    api.evaluate(rows, truth="clips")

docs/notebook.md explains this example. Nothing is printed: a warning of the command line is an `OffkeyWarning` here, an
error that the user can mend is an `OffkeyError`, in the same words. torch is imported when it is needed.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from features.cleaning import CleaningSettings, Outlier
from features.clips.clip import Clip
from features.clips.machine_id import MachineId
from features.errors import CorpusError, OffkeyError
from features.frames.feature_settings import FeatureSettings
from features.progress import Progress
from models.labels import Labels
from models.member import Member, OfMachineType
from models.settings import FamilySettings, ScoringSettings, TrainingSettings
from search.detector.best_member import BestMember, MemberOnTest
from search.detector.optimism import Optimism, SeedSpread, Spread
from search.detector.thresholds import HeldOutScores, Threshold, ThresholdScores
from search.errors import BundleError, MisuseError, OffkeyWarning, StorageError, StudyError, StudyFileError, warn_user
from search.evaluation.decisions import Decisions
from search.evaluation.evaluate import IdMetrics, Metrics
from search.evaluation.interval import Interval
from search.evaluation.official import rule_of
from search.evaluation.score_files import ScoreRow, distinct, read_scores
from search.evaluation.score_truth import labelled_systems
from search.evaluation.system_differences import Differences, PairedDifference, SystemDifferences
from search.evaluation.system_metrics import DecisionMetrics, IdDecisions, SystemMetrics, measure
from search.kinds import require_kind
from search.logs import keep_quiet
from search.results.ensemble import Ensemble, export_ensemble
from search.results.export import export_recipe
from search.results.families import FamilyTrials
from search.results.gain import Gain, GainOfBest
from search.results.portfolio import Portfolio, PortfolioLeader
from search.results.trials import SearchProgress, Summary, Trial, progress_of, reading
from search.storage.counted_evaluations import TestEvaluations
from search.storage.database import default_url, parse_url, shown, storage_errors
from search.storage.outages import waiting_at_the_start
from search.storage.study_lookup import find_study
from search.study.document import as_override
from search.study.recipe import CorpusSettings, Origin, Recipe, ValidationSettings
from search.study.study_file import load_recipe, study_of_tree
from search.study.taken_variant import TakenVariant
from search.workers.devices import device_of, slots
from search.workers.supervision import Moment, build_features, fleet_for, supervise, telling, what_stays

if TYPE_CHECKING:
    from models.scoring.scorer import Scorer
    from search.detector.bundle import Bundle
    from search.detector.detector import Detector
    from search.detector.scored_clips import ScoredClip
    from search.detector.threshold_move import MovedThresholds, at_false_alarm_rate, move_thresholds

__all__ = ["Study", "at_false_alarm_rate", "evaluate", "load_bundle", "move_thresholds", "score", "train"]

# The types that these take, return and raise. For a study:
__all__ += ["Ensemble", "FamilyTrials", "Gain", "GainOfBest", "Portfolio", "PortfolioLeader", "SearchProgress"]
__all__ += ["Summary", "TakenVariant", "Trial"]
# for a recipe:
__all__ += ["CleaningSettings", "CorpusSettings", "FamilySettings", "FeatureSettings", "Member", "OfMachineType"]
__all__ += ["Origin", "Recipe", "ScoringSettings", "TrainingSettings", "ValidationSettings"]
# for a detector and its scores:
__all__ += ["Bundle", "Clip", "DecisionMetrics", "Detector", "IdDecisions", "IdMetrics", "Interval", "Labels"]
__all__ += ["MachineId", "Metrics", "Optimism", "Outlier", "ScoredClip", "Scorer", "SeedSpread", "Spread"]
__all__ += ["BestMember", "Decisions", "Differences", "HeldOutScores", "MemberOnTest", "MovedThresholds"]
__all__ += ["PairedDifference", "SystemDifferences", "SystemMetrics", "TestEvaluations", "Threshold", "ThresholdScores"]
# errors and warnings:
__all__ += ["BundleError", "CorpusError", "MisuseError", "OffkeyError", "OffkeyWarning"]
__all__ += ["StorageError", "StudyError", "StudyFileError"]

#: Names whose modules load torch, which takes seconds: each is imported when it is asked for.
_LATER = {"Bundle": "search.detector.bundle", "Detector": "search.detector.detector"}
_LATER |= {"ScoredClip": "search.detector.scored_clips", "Scorer": "models.scoring.scorer"}
_LATER |= dict.fromkeys(["MovedThresholds", "move_thresholds", "at_false_alarm_rate"], "search.detector.threshold_move")

keep_quiet()

_BUNDLE = "a folder or s3://BUCKET/PREFIX"
_PATHS = "wav files, or folders of them"
_SCORES = "rows of score(), or a file of scores"


class Study:
    """A study and its storage. Each property and method reads the storage again, so that it sees the trials of now."""

    def __init__(self, tree: Mapping[str, Any], storage: str) -> None:
        """Use `Study.load`. `tree` is the content of a study file, `storage` a database URL."""
        self._tree, self._url = dict(tree), storage

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        root: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        storage: str | None = None,
        name: str | None = None,
    ) -> Study:
        """Load a study: from a file, by the name of a shipped study (`offkey studies`), or by its name in the storage.

        `settings` override settings by their paths, each with a value or with a range:
        `{"training.epochs": 5, "model.h_dim": {"low": 64, "high": 128}}`. `root` overrides `corpus.root`. A file under
        another `name` is another study. `storage` is a database URL; None means $OFFKEY_STORAGE, else the SQLite file
        offkey.db in the working directory, which `run` creates.

        Raises StudyFileError if a rule of study files is broken, StorageError if the storage cannot be read,
        CorpusError if `root` does not exist.
        """
        require_kind(source, str | Path, "source", "a study file or a study's name")
        require_kind(root, str | Path | None, "root", "a corpus: a folder or a table of clips")
        require_kind(settings, Mapping | None, "settings", 'a dict, for example {"training.epochs": 5}')
        if root is not None and not Path(root).exists():
            raise CorpusError(f"root: {Path(root).absolute()} does not exist: give a folder or a table of clips")
        url = storage or default_url()
        overrides = [as_override(path, value) for path, value in (settings or {}).items()]
        overrides += [] if root is None else [as_override("corpus.root", root)]
        with storage_errors(url):
            return cls(find_study(str(source), url, overrides=overrides, name=name).tree, url)

    def __repr__(self) -> str:
        return f"Study(name={self.name!r}, storage={shown(parse_url(self._url))!r})"

    @property
    def name(self) -> str:
        """The name of the study in the storage."""
        return str(self._tree["study"])

    def run(
        self,
        *,
        workers: int | Literal["auto"] = "auto",
        per_device: int | None = None,
        trials: int | None = None,
        hours: float | None = None,
        artifacts: str | None = None,
        log_folder: str | Path = "offkey-logs",
        progress: Callable[[SearchProgress], object] | None = None,
    ) -> Summary:
        """Run the study to its budget with worker processes on this host, as `offkey search` does, and wait for them.

        If the storage has the study, the run continues it. `trials` and `hours` are the budget in all, not in addition
        to earlier runs. `progress` is called twice a second with how far the search is.

        On KeyboardInterrupt (a notebook's stop button) the workers give their trials back and leave, which loses no
        finished epoch; then it is raised. A second one ends them at once. Raises StudyError if the recordings do not
        serve the study, if the storage has another study of its name, or if workers keep failing, StudyFileError if
        `search.first` names a study or recipe that cannot be used.
        """
        from search.preparation.portfolio_sources import with_choices
        from search.preparation.prepared import prepare

        if workers != "auto" and (not isinstance(workers, int) or workers < 1):
            raise MisuseError(f"workers must be a number of at least 1, or 'auto', but got {workers!r}")
        places = slots(None if workers == "auto" else workers, per_device)
        overrides = [] if trials is None else [as_override("search.trials", trials)]
        overrides += [] if hours is None else [as_override("search.hours", hours)]
        study = study_of_tree(self._tree, origin=f"study {self.name}", overrides=overrides)
        artifacts = artifacts or os.environ.get("OFFKEY_ARTIFACTS")

        def follow(moments: Iterator[Moment]) -> None:
            for moment in telling(moments, warn_user):
                if progress is not None:
                    progress(progress_of(moment.status))

        with storage_errors(self._url), waiting_at_the_start(warn_user):
            prepared = prepare(with_choices(study, self._url), default_root=os.environ.get("OFFKEY_DATA"))
            for warning in prepared.warnings:
                warn_user(warning)
            build_features(prepared)
            fleet = fleet_for(prepared, self._url, places, log_folder=Path(log_folder), artifacts=artifacts)
            for unchanged in what_stays(fleet.stored, prepared, artifacts):
                warn_user(unchanged)
            try:
                ending = supervise(fleet, follow, pause=0.5, on_drain=lambda: None)
            finally:
                fleet.storage.engine.dispose()
        if ending == "interrupted":
            raise KeyboardInterrupt
        if ending == "stopped":
            warn_user(f"{self.name} was stopped by `offkey stop`: every trial was given back, and run() continues it")
        elif ending == "out of time":
            warn_user(
                f"the hours of {self.name} are used up, or too short for another trial; raise them with run(hours=…)"
            )
        return self.summary()

    def summary(self) -> Summary:
        """Return counts, the best trial with its interval, the trials that tie with it, and the gain over the baseline.

        Raises StudyError or StorageError if the study is not in the storage: it has not run yet.
        """
        with reading(self._url, self.name) as study:
            return study.summary()

    @property
    def trials(self) -> list[Trial]:
        """All trials, by number; pandas.DataFrame takes them as rows. Raises the errors of `summary`."""
        with reading(self._url, self.name) as study:
            return study.trials()

    @property
    def best(self) -> Trial:
        """The best complete trial that keeps to the study's limits.

        Raises StudyError while there is none, MisuseError if the study has several objectives.
        """
        with reading(self._url, self.name) as study:
            return study.record(study.best)

    def recipe(self, trial: int | None = None) -> Recipe:
        """Return the recipe of the best trial, or of trial number `trial`. Raises the errors of `best`."""
        with reading(self._url, self.name) as study:
            number = study.best.number if trial is None else trial
            return export_recipe(study.storage, study.stored, number=number)

    def ensemble(self) -> Recipe:
        """Return the recipe of the ensemble of the leading trials. Raises the errors of `best`, or that it has none."""
        with reading(self._url, self.name) as study:
            return export_ensemble(study.storage, study.stored, tell=warn_user)


def train(
    recipe: Recipe | str | Path,
    bundle: str | Path,
    *,
    device: str = "cpu",
    storage: str | None = None,
    progress: Progress = lambda done, total: None,
) -> Detector:
    """Train the final detector, measure it on the held-out test clips, and write it to `bundle`.

    `recipe` comes from `Study.recipe`, or is a file that `offkey export` wrote. `bundle` is a folder or the text
    `s3://BUCKET/PREFIX`. The test evaluation is counted in `storage`, which has the same default as in `Study.load`.
    `progress` is called after each epoch with how many are done, and of how many.

    Raises BundleError if `bundle` exists or cannot be written, StudyError or CorpusError if the recordings do not serve
    the recipe, MisuseError or StudyFileError if `recipe` is no recipe.
    """
    from search.detector.making import make_detector

    require_kind(recipe, Recipe | str | Path, "recipe", "a recipe of study.recipe(), or a file of `offkey export`")
    require_kind(bundle, str | Path, "bundle", _BUNDLE)
    return make_detector(
        recipe if isinstance(recipe, Recipe) else _recipe_of(recipe),
        bundle,
        device=device_of(device),
        default_root=os.environ.get("OFFKEY_DATA"),
        storage=storage or default_url(),
        on_epoch=progress,
        tell=warn_user,
    )


def load_bundle(bundle: str | Path) -> Bundle:
    """Load the detector in a folder or at `s3://BUCKET/PREFIX`. Raises BundleError if it is not there or not whole."""
    from search.detector import bundle as bundles

    return bundles.load_bundle(bundle, tell=warn_user)


def score(
    bundle: Bundle | str | Path, paths: str | Path | Iterable[str | Path], *, device: str = "cpu"
) -> Iterator[ScoredClip]:
    """Score wav files, and those in folders: one row for each, scored when it is read. The rows can be read once.

    A row has path, machine, machine_id, score (higher is more anomalous), decision (1 anomaly, 0 normal) and, where one
    of these is missing, error. Raises BundleError if `bundle` is no bundle, StudyError if there is no wav file.
    """
    from search.detector.bundle import Bundle
    from search.detector.scored_clips import clip_paths, score_clips

    require_kind(bundle, Bundle | str | Path, "bundle", f"{_BUNDLE}, or a detector of load_bundle()")
    require_kind(paths, str | Path | Iterable, "paths", _PATHS)
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    for path in given:
        require_kind(path, str | Path, "paths", _PATHS)
    detector = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
    files = clip_paths(map(Path, given))
    if (first := next(files, None)) is None:
        raise StudyError(f"No wav file in {', '.join(map(str, given)) or 'an empty list of paths'}")
    return score_clips(detector, chain([first], files), device_of(device))


def evaluate(
    rows: Iterable[ScoredClip] | str | Path,
    truth: str | Path,
    *,
    year: int | None = None,
    against: Iterable[ScoredClip] | str | Path | None = None,
) -> SystemMetrics:
    """Measure scores: AUC and pAUC of each machine ID, their means, the challenge's official score.

    `rows` come from `score`, or are a file or folder that `offkey evaluate` takes; so does `against`, another system's.
    `truth` is a corpus, the challenge's ground-truth tables, or a CSV (file, label). All labelled clips count, also
    those of validation: `detector.test` of `train` is on test clips alone. `year` (2020 to 2026) is the score's rule.
    Raises StudyError if a row has no score, or the truth does not fit the rows; MisuseError for another year.
    """
    rule = None if year is None else rule_of(year)
    require_kind(truth, str | Path, "truth", "a corpus, ground-truth tables or a CSV (file, label)")
    others = None if against is None else _scores(against, "against")
    clips, other = labelled_systems(_scores(rows, "rows"), others, Path(truth), year=rule)
    for warning in (*clips.warnings, *(other.warnings if other else ())):
        warn_user(warning)
    return measure(clips, against=other)


def _scores(rows: Iterable[ScoredClip] | str | Path, name: str) -> list[ScoreRow]:
    require_kind(rows, str | Path | Iterable, name, _SCORES)
    if isinstance(rows, str | Path):
        return read_scores([Path(rows)])
    from search.detector.scored_clips import ScoredClip, as_score_row

    given = list(rows)
    for row in given:
        require_kind(row, ScoredClip, name, _SCORES)
    if not given:
        raise StudyError("There are no rows. The rows of score() can be read once: keep them with list(…)")
    return distinct(map(as_score_row, given))


def _recipe_of(file: str | Path) -> Recipe:
    if not Path(file).is_file():
        raise StudyFileError(f"There is no recipe file {file}: `offkey export` and study.recipe() make one")
    return load_recipe(file, tell=warn_user, remedy="load it with Study.load, run it, and train study.recipe()")


if not TYPE_CHECKING:  # a type checker would take any name for defined

    def __getattr__(name: str) -> Any:
        if name not in _LATER:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_LATER[name]), name)
