"""What one writes without Offkey: the VAE of `vae_tuning` in plain torch, searched by Optuna, or by Ray Tune with ASHA.

    python -P benchmarks/peers.py optuna|ray FOLDER     # FOLDER/task.json is a Task

benchmarks/race.py runs this as a program of its own: it imports nothing of Offkey. Features are computed once, on all
cores, and stay in memory as float32. Each worker is a process. Both peers have the space of `vae_tuning`, its first
trial and its rungs: Optuna by TPE and Hyperband, Ray Tune by random search and ASHA.

FOLDER/finished.jsonl : a line for each network that counts as a detector: the time, the trial, its validation AUC.
FOLDER/TRIAL.pt       : its weights, with which the race computes its held-out AUC afterwards.

With Optuna the networks of complete trials count. With Ray Tune the network of the last report of each trial counts,
also of one that ASHA has stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import joblib
import librosa
import numpy as np
import numpy.typing as npt
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

N_FFT, HOP, N_MELS, CONTEXT = 1024, 512, 128, 5
EPOCHS = (50, 100)
#: The first trial: the baseline of `vae_tuning`.
FIRST = {"h_dim": 400, "z_dim": 20, "learning_rate": 1e-3, "batch_size": 1000, "epochs": 100}

Windows = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Task:
    """What a search is given. It knows nothing of the held-out clips."""

    train: list[str]  # paths
    validation: list[tuple[str, str, int]]  # path, machine ID, label
    workers: int
    seconds: float
    trials: int = 100
    seed: int = 0
    #: If given, exactly these settings are trained, without pruning.
    settings: list[dict[str, Any]] | None = None

    def write(self, folder: Path) -> None:
        (folder / "task.json").write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, folder: Path) -> Task:
        return cls(**json.loads((folder / "task.json").read_text()))


@dataclass(frozen=True)
class Labelled:
    """Clips with a label, as windows."""

    windows: Windows  # (windows, inputs)
    clips: npt.NDArray[np.int64]  # of each window
    ids: list[str]  # of each clip
    labels: list[int]

    @classmethod
    def of(cls, clips: Sequence[tuple[str, str, int]], workers: int) -> Labelled:
        parts = windows_of([path for path, _, _ in clips], workers)
        return cls(
            windows=np.concatenate(parts),
            clips=np.repeat(np.arange(len(parts)), [len(part) for part in parts]),
            ids=[name for _, name, _ in clips],
            labels=[label for _, _, label in clips],
        )


def windows_of(paths: Sequence[str], workers: int) -> list[Windows]:
    """The windows of each clip, (windows, CONTEXT · N_MELS), scaled to [0, 1]."""
    return list(joblib.Parallel(workers)(joblib.delayed(_windows)(path) for path in paths))


def _windows(path: str) -> Windows:
    waveform, rate = librosa.load(path, sr=None)
    mel = librosa.feature.melspectrogram(y=waveform, sr=rate, n_fft=N_FFT, hop_length=HOP, n_mels=N_MELS)
    frames = np.clip((librosa.power_to_db(mel, top_db=None).T + 90) / 114, 0, 1)
    sliding = np.lib.stride_tricks.sliding_window_view(frames, CONTEXT, axis=0)
    return np.ascontiguousarray(sliding.transpose(0, 2, 1), dtype=np.float32).reshape(len(sliding), -1)


class Vae(nn.Module):
    """The network of `vae_tuning`."""

    def __init__(self, inputs: int, h: int, z: int) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(inputs, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(h, z), nn.Linear(h, z)
        self.decoder = nn.Sequential(
            nn.Linear(z, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, inputs), nn.Sigmoid()
        )

    @classmethod
    def of_file(cls, file: Path) -> Vae:
        weights = torch.load(file, weights_only=True)
        h, inputs = weights["encoder.0.weight"].shape
        model = cls(inputs, h, len(weights["mean.bias"]))
        model.load_state_dict(weights)
        return model

    def loss(self, x: Tensor) -> Tensor:
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        y = self.decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
        loss: Tensor = (((y - x) ** 2).sum() + 0.01 * divergence) / len(x)
        return loss

    def score(self, x: Tensor) -> Tensor:
        """The mean squared error of each window."""
        error: Tensor = ((self.decoder(self.mean(self.encoder(x))) - x) ** 2).mean(dim=1)
        return error


def auc_of(model: Vae, labelled: Labelled) -> float:
    """The mean AUC over the machine IDs that have both labels; NaN if a score is not finite."""
    with torch.inference_mode():
        batches = torch.split(torch.from_numpy(labelled.windows), 8192)
        by_window = np.concatenate([model.score(x).numpy() for x in batches])
    scores = np.bincount(labelled.clips, by_window) / np.bincount(labelled.clips)
    if not np.isfinite(scores).all():
        return float("nan")
    ids, labels = np.array(labelled.ids), np.array(labelled.labels)
    of_ids = [ids == name for name in sorted(set(labelled.ids)) if len(set(labels[ids == name])) > 1]
    return float(np.mean([roc_auc_score(labels[members], scores[members]) for members in of_ids]))


def training(train: Windows, validation: Labelled, settings: Mapping[str, Any]) -> Iterator[tuple[Vae, float]]:
    """The network and its validation AUC after each epoch; it ends early if the network diverges."""
    windows = torch.from_numpy(train)
    model = Vae(windows.shape[1], settings["h_dim"], settings["z_dim"])
    optimizer = torch.optim.Adam(model.parameters(), lr=settings["learning_rate"])
    for _ in range(settings["epochs"]):
        order = torch.randperm(len(windows))
        for batch in torch.split(order, settings["batch_size"]):
            loss = model.loss(windows[batch])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        auc = auc_of(model, validation)
        if not np.isfinite(auc):
            return
        yield model, auc


def keep(folder: Path, trial: str, model: Vae, auc: float) -> None:
    """Keeps a network that counts as a detector."""
    torch.save(model.state_dict(), folder / f"{trial}.pt")
    with (folder / "finished.jsonl").open("a") as file:
        file.write(json.dumps({"time": time.time(), "trial": trial, "auc": auc}) + "\n")


def search_with_optuna(task: Task, folder: Path, train: Windows, validation: Labelled) -> None:
    """A process for each worker, and a journal that they share."""
    import optuna

    study = optuna.create_study(study_name="peer", storage=_journal(folder), direction="maximize")
    for settings in [FIRST] if task.settings is None else task.settings:
        study.enqueue_trial(settings)
    processes = [
        multiprocessing.get_context("fork").Process(
            target=_optuna_worker, args=(task, folder, train, validation, number)
        )
        for number in range(task.workers)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _optuna_worker(task: Task, folder: Path, train: Windows, validation: Labelled, number: int) -> None:
    import optuna
    from optuna.pruners import HyperbandPruner, NopPruner

    _share_cores(task, seed=1000 * task.seed + number)
    is_pruned = task.settings is None
    study = optuna.load_study(
        study_name="peer",
        storage=_journal(folder),
        sampler=optuna.samplers.TPESampler(seed=1000 * task.seed + number, constant_liar=True),
        pruner=HyperbandPruner(1, max(EPOCHS), 3) if is_pruned else NopPruner(),
    )

    def objective(trial: optuna.Trial) -> float:
        if trial.number >= task.trials:
            trial.study.stop()
            raise optuna.TrialPruned
        settings = {
            "h_dim": trial.suggest_int("h_dim", 200, 500),
            "z_dim": trial.suggest_int("z_dim", 4, 40),
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True),
            "batch_size": trial.suggest_int("batch_size", 200, 1000),
            "epochs": trial.suggest_categorical("epochs", EPOCHS if is_pruned else _epochs_of(task)),
        }
        epoch = 0
        for epoch, (model, auc) in enumerate(training(train, validation, settings), start=1):  # noqa: B007
            trial.report(auc, epoch)
            if epoch < settings["epochs"] and trial.should_prune():
                raise optuna.TrialPruned
        if epoch < settings["epochs"]:
            raise optuna.TrialPruned  # it diverged
        keep(folder, str(trial.number), model, auc)
        return auc

    study.optimize(objective, timeout=task.seconds)


def _epochs_of(task: Task) -> list[int]:
    return sorted({settings["epochs"] for settings in task.settings or ()})


def _journal(folder: Path) -> Any:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return JournalStorage(JournalFileBackend(str(folder / "journal.log")))


def search_with_ray(task: Task, folder: Path, train: Windows, validation: Labelled) -> None:
    """Ray Tune on a cluster of its own, with as many trials at a time as there are workers."""
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search.basic_variant import BasicVariantGenerator

    def trial(settings: dict[str, Any], data: tuple[Windows, Labelled]) -> None:
        name = tune.get_context().get_trial_id()
        _share_cores(task, seed=int(name.rpartition("_")[2]) + 1000 * task.seed)
        has_diverged = True
        for model, auc in training(*data, settings):
            keep(folder, name, model, auc)  # before the report, after which ASHA may stop the trial
            tune.report({"auc": auc})
            has_diverged = False
        if has_diverged:
            tune.report({"auc": 0.0})  # a trial that reports nothing ends Ray Tune's search

    ray.init(num_cpus=task.workers, include_dashboard=False, log_to_driver=False)
    space = {
        "h_dim": tune.randint(200, 501),
        "z_dim": tune.randint(4, 41),
        "learning_rate": tune.loguniform(1e-5, 1e-1),
        "batch_size": tune.randint(200, 1001),
        "epochs": tune.choice(EPOCHS),
    }
    tune.Tuner(
        tune.with_resources(tune.with_parameters(trial, data=(train, validation)), {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="auc",
            mode="max",
            scheduler=ASHAScheduler(max_t=max(EPOCHS), grace_period=1, reduction_factor=3),
            search_alg=BasicVariantGenerator(points_to_evaluate=[FIRST], random_state=task.seed),
            num_samples=task.trials,
            reuse_actors=True,  # else each trial imports everything anew
            time_budget_s=task.seconds,
        ),
        run_config=tune.RunConfig(storage_path=str(folder / "ray"), verbose=0),
    ).fit()


def _share_cores(task: Task, *, seed: int) -> None:
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // task.workers))
    torch.manual_seed(seed)


def main(peer: str, folder: Path) -> None:
    task = Task.read(folder)
    train = np.concatenate(windows_of(task.train, task.workers))
    validation = Labelled.of(task.validation, task.workers)
    search = {"optuna": search_with_optuna, "ray": search_with_ray}[peer]
    search(task, folder, train, validation)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
