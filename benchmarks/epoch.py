"""One training epoch of the VAE: Offkey, a Dataset that computes librosa spectrograms, and a batch already there."""

import math
import os
import tempfile
from pathlib import Path

import librosa
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.sides import in_turn, machine_line, on_one_core, show, write_noise
from features.clips.corpus import read_corpus
from features.windows.excerpts import Batch
from search.study.recipe import Recipe
from search.training.loop import Training
from search.validation.split import blind
from tests.support.training import excerpts_of, models_of

CLIPS, ROUNDS, CONTEXT, BATCH = 60, 3, 5, 1000


class WindowsOfClips(Dataset[torch.Tensor]):
    """One window an item, its clip's spectrogram computed when it is asked for."""

    def __init__(self, paths: list[Path], windows_a_clip: int) -> None:
        self.paths = paths
        self.windows_a_clip = windows_a_clip

    def __len__(self) -> int:
        return len(self.paths) * self.windows_a_clip

    def __getitem__(self, index: int) -> torch.Tensor:
        clip, window = divmod(index, self.windows_a_clip)
        waveform, rate = librosa.load(self.paths[clip], sr=None)
        mel = librosa.feature.melspectrogram(y=waveform, sr=rate, n_fft=1024, hop_length=512, n_mels=128)
        frames = librosa.power_to_db(mel, top_db=None).T
        return torch.from_numpy(np.ascontiguousarray(frames[window : window + CONTEXT]).reshape(-1))


def main() -> None:
    on_one_core()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["OFFKEY_CACHE"] = f"{folder}/cache"
        write_noise(Path(folder, "corpus"), CLIPS)
        corpus = read_corpus(Path(folder, "corpus"))
        recipe = Recipe.model_validate(
            {
                "study": "epoch",
                "model": {"family": "vae", "context": CONTEXT},
                "training": {
                    "batch_size": BATCH,
                    "precision": "float32",  # as the other side
                    "seed": 0,
                    "threads": 1,
                    "calibration_share": 0.0,
                },
            }
        )
        training = Training(recipe, blind(corpus, recipe.validation), torch.device("cpu"))
        paths = [clip.path for clip in training.clips.train]
        windows = len(excerpts_of(training, training.clips.train))
        dataset = WindowsOfClips(paths, windows // len(paths))
        model = models_of(training)[0]
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
        there = excerpts_of(training, training.clips.train).batch(torch.arange(BATCH))

        def step(batch: Batch) -> None:
            loss = model.loss(batch)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()

        def with_dataset() -> None:
            for inputs in DataLoader(dataset, batch_size=BATCH, shuffle=True):
                step(Batch(inputs=inputs, clips=torch.zeros(len(inputs), dtype=torch.int64)))

        def on_one_batch() -> None:
            whole, rest = divmod(windows, BATCH)
            for _ in range(whole):
                step(there)
            if rest:
                step(Batch(inputs=there.inputs[:rest], clips=there.clips[:rest]))

        quick = in_turn({"offkey": training.run_epoch, "same steps on a batch that is there": on_one_batch}, rounds=7)
        slow = in_turn({"offkey": training.run_epoch, "Dataset, librosa in __getitem__": with_dataset}, rounds=ROUNDS)
    batches = math.ceil(windows / BATCH)
    title = (
        f"One epoch of the VAE, {len(paths)} clips, {windows} windows, {batches} batches, one core ({machine_line()})"
    )
    show(title, quick, ours="offkey")
    show("The same against a Dataset", slow, ours="offkey")
    ratios = sorted(own / fixed for own, fixed in zip(*quick.values(), strict=True))
    print(f"Offkey over the same steps on a batch that is there: {ratios[len(ratios) // 2]:.3f}")


if __name__ == "__main__":
    main()
