"""The study file that `offkey init` writes: with comments, and with settings that fit the corpus."""

from __future__ import annotations

import json
import re
from pathlib import Path

from features.clips.corpus import read_corpus
from search.analysis.settings import default_features
from search.study.study_file import EDITORS_LINE, shipped_schema
from search.validation.split import has_defined_id, labelled_test_clips


def starter_study(root: Path, *, name: str) -> str:
    """Return the text of a study file for the clips below `root`. Raises CorpusError if there are none."""
    corpus = read_corpus(root)
    fitting = default_features(corpus)
    rate = fitting.sample_rate
    resampled = (
        "resample: true       # clips with another sample rate are resampled to this one\n  "
        if fitting.resample
        else ""
    )
    channel = "channel: mean        # of all channels; or the number of one, from 0\n  " if fitting.channel else ""
    has_labels = has_defined_id(labelled_test_clips(corpus))
    # With proxies, training clips also validate: then the source of training clips cannot be searched for.
    additional = has_labels and any(clip.source == "additional" for clip in corpus.clips)
    train_on = "{choices: [development, development+additional]}" if additional else "development"
    if has_labels:
        validation = """\
# This share of the labelled test clips validates trials; the rest is held out for the test of the final detector.
validation: {metric: auc, share: 0.5, seed: 0}"""
    else:
        validation = """\
# No machine ID has normal and anomalous test clips. So this share of the training clips is held out, and trials are
# validated by how well they tell these clips from the same clips with synthetic faults. This is a makeshift: as soon as
# you have labelled faults, search on them (metric: auc).
validation: {metric: proxy, share: 0.25, seed: 0}"""
    study = re.sub(r"[^A-Za-z0-9._+-]", "-", name).lstrip("._+-") or "study"
    return f"""\
{EDITORS_LINE}{shipped_schema().as_uri()}
# A study file: each setting has one value, or a range from which each trial takes a value:
#   {{low: …, high: …}}, with log: true or step: … where that helps, or {{choices: [a, b]}}.
# Check and run it:   offkey search FILE --workers 2
study: {study}
corpus:
  root: {_quoted(str(root.resolve()))}
  machines: [{", ".join(map(_quoted, corpus.machines))}]
  train_on: {train_on}
features:
  kind: logmel         # or mfcc, chroma, …; several: [logmel, chroma]; to try: {{choices: [logmel, logmel+chroma]}}
  {channel}{resampled}sample_rate: {rate}   # Hz; clips with another rate are refused unless resample is true
  n_mels: 128
  n_fft: 1024          # samples in one Fourier transform
  hop_length: 512      # samples from one frame to the next
model:
  family: vae          # or ae, cae, made, group_made, classifier, stat, fusion; a list of blocks to try several
  context: 5           # frames in one input vector
  h_dim: {{low: 64, high: 512, log: true}}
  z_dim: {{low: 4, high: 40}}
training:
  learning_rate: {{low: 1.0e-5, high: 1.0e-2, log: true}}
  batch_size: {{low: 128, high: 1024, log: true}}
  epochs: {{choices: [25, 50]}}
scoring:
  pooling: {{choices: [mean, max]}}   # how window scores become one clip score; also top, gwrp
{validation}
# This trial comes first; the study reports how much better its best trial is.
baseline: {{h_dim: 400, z_dim: 20, learning_rate: 1.0e-3, batch_size: 1000, epochs: 50, pooling: mean}}
search: {{trials: 50, sampler: tpe, seed: 0}}
"""


def _quoted(text: str) -> str:
    """Return a YAML string in quotation marks: a machine type may be called 2020."""
    return json.dumps(text, ensure_ascii=False)
