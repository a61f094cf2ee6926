"""A study of 12 trials with 2 workers against a plain Optuna script in one process, features in memory.

Both run the same 12 settings for the same epochs on the same clips, validate after each epoch and never prune; both
are timed as whole commands, start-up included. What Offkey's pruner saves is measured by itself.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.sides import machine_line, show

TRIALS, ROUNDS, EPOCHS, N_MELS, CONTEXT = 12, 3, 6, 128, 5
STUDY = f"""\
study: comparison
features: {{n_mels: {N_MELS}}}
model: {{family: vae, context: {CONTEXT}, h_dim: {{low: 200, high: 500}}, z_dim: {{low: 4, high: 40}}}}
training:
  learning_rate: {{low: 1.0e-5, high: 1.0e-2, log: true}}
  batch_size: {{low: 200, high: 1000}}
  epochs: {EPOCHS}
search: {{trials: {TRIALS}, sampler: random, pruner: none}}
"""


def plain_optuna(root: str, settings: str) -> None:
    """What one writes without Offkey: all windows in memory, a DataLoader, study.optimize; SQLite storage."""
    import librosa
    import numpy as np
    import optuna
    import torch
    from sklearn.metrics import roc_auc_score
    from torch import nn
    from torch.utils.data import DataLoader, TensorDataset

    document = json.loads(Path(settings).read_text())

    def windows(name: str) -> torch.Tensor:
        waveform, rate = librosa.load(Path(root, name), sr=None)
        mel = librosa.feature.melspectrogram(y=waveform, sr=rate, n_fft=1024, hop_length=512, n_mels=N_MELS)
        frames = (librosa.power_to_db(mel, top_db=None).T + 90) / 114
        sliding = np.lib.stride_tricks.sliding_window_view(np.clip(frames, 0, 1), CONTEXT, axis=0)
        return torch.from_numpy(np.ascontiguousarray(sliding.transpose(0, 2, 1)).reshape(len(sliding), -1))

    train = torch.cat([windows(name) for name in document["train"]])
    validation = [(windows(name), name, "anomaly" in name) for name in document["validation"]]
    ids = sorted({Path(name).name.split("_")[2] for name in document["validation"]})

    class Vae(nn.Module):
        def __init__(self, h: int, z: int) -> None:
            super().__init__()
            d = CONTEXT * N_MELS
            self.encoder = nn.Sequential(nn.Linear(d, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU())
            self.mean, self.log_variance = nn.Linear(h, z), nn.Linear(h, z)
            self.decoder = nn.Sequential(
                nn.Linear(z, h), nn.ReLU(), nn.Linear(h, h), nn.ReLU(), nn.Linear(h, d), nn.Sigmoid()
            )

    def objective(trial: optuna.Trial) -> float:
        model = Vae(trial.suggest_int("h_dim", 200, 500), trial.suggest_int("z_dim", 4, 40))
        optimizer = torch.optim.Adam(model.parameters(), lr=trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True))
        loader = DataLoader(TensorDataset(train), trial.suggest_int("batch_size", 200, 1000), shuffle=True)
        value = 0.0
        for epoch in range(EPOCHS):
            for (x,) in loader:
                hidden = model.encoder(x)
                mean, log_variance = model.mean(hidden), model.log_variance(hidden)
                y = model.decoder(mean + torch.exp(0.5 * log_variance) * torch.randn_like(mean))
                divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).sum()
                loss = (((y - x) ** 2).sum() + 0.01 * divergence) / len(x)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            with torch.inference_mode():
                scores = [
                    (float(((model.decoder(model.mean(model.encoder(x))) - x) ** 2).mean()), name, label)
                    for x, name, label in validation
                ]
            by_id = [[(s, label) for s, name, label in scores if f"_id_{i}_" in name] for i in ids]
            value = float(np.mean([roc_auc_score([b for _, b in m], [a for a, _ in m]) for m in by_id]))
            trial.report(value, epoch)
        return value

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", storage=f"sqlite:///{settings}.{time.time_ns()}.db")
    for params in document["params"]:
        study.enqueue_trial(params)
    study.optimize(objective, n_trials=TRIALS)


def offkey(folder: Path, name: str, *overrides: str) -> None:
    """The same as a user would run it; the frames are computed anew."""
    surroundings = os.environ | {"OFFKEY_CACHE": str(folder / f"cache-{name}")}
    settings = (f"corpus.root={folder / 'corpus'}", *overrides)
    options = ["--study", name, "--workers", "2", "--storage", f"sqlite:///{folder / 'offkey.db'}"]
    options += [text for setting in settings for text in ("--set", setting)]
    subprocess.run(
        [sys.executable, "-P", "-m", "search.cli", "search", str(folder / "study.yaml"), *options],
        env=surroundings,
        cwd=folder,
        check=True,
        capture_output=True,
    )


def main() -> None:
    import optuna

    from features.clips.corpus import read_corpus
    from features.clips.synthetic_corpus import make_corpus
    from search.study.recipe import Recipe
    from search.validation.split import blind, labelled_test_clips, training_clips

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_corpus(folder / "corpus", seconds=10.0)
        (folder / "study.yaml").write_text(STUDY)
        offkey(folder, "first")
        params = [
            t.params for t in optuna.load_study(study_name="first", storage=f"sqlite:///{folder}/offkey.db").trials
        ]
        recipe = Recipe.model_validate({"study": "x", "model": {"family": "vae"}})
        corpus = blind(read_corpus(folder / "corpus"), recipe.validation)
        (folder / "settings.json").write_text(
            json.dumps(
                {
                    "params": params,
                    "train": [clip.name for clip in training_clips(corpus, recipe).train],
                    "validation": [clip.name for clip in labelled_test_clips(corpus)],
                }
            )
        )
        plain = [sys.executable, "-m", "benchmarks.study", str(folder / "corpus"), str(folder / "settings.json")]
        seconds: dict[str, list[float]] = {
            "offkey, 2 workers": [],
            "plain Optuna, one process": [],
            "offkey, pruned": [],
        }
        for number in range(ROUNDS):
            for side, run in (
                ("offkey, 2 workers", lambda n=number: offkey(folder, f"run-{n}")),
                ("plain Optuna, one process", lambda: subprocess.run(plain, check=True)),
                ("offkey, pruned", lambda n=number: offkey(folder, f"pruned-{n}", "search.pruner=hyperband")),
            ):
                start = time.perf_counter()
                run()
                seconds[side].append(time.perf_counter() - start)
        studies = [
            optuna.load_study(study_name=f"{kind}-0", storage=f"sqlite:///{folder}/offkey.db")
            for kind in ("run", "pruned")
        ]
    title = f"{TRIALS} trials of {EPOCHS} epochs, {os.cpu_count()} cores ({machine_line()})"
    show(title, seconds, ours="offkey, 2 workers")
    table = Table("", "epochs trained", "best AUC", title="What pruning saved", title_justify="left")
    for label, study in zip(("no pruning", "hyperband"), studies, strict=True):
        epochs = sum(len(trial.intermediate_values) for trial in study.trials)
        table.add_row(label, str(epochs), f"{study.best_value:.3f}")
    Console(width=100).print(table)


if __name__ == "__main__":
    plain_optuna(*sys.argv[1:]) if len(sys.argv) > 1 else main()
