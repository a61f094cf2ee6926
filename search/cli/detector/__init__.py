"""Commands on detectors: `train`, `score`, `onnx`, `evaluate`; and their tables."""
