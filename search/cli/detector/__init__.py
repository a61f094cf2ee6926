"""Commands on detectors: `train`, `score`, `threshold`, `onnx`, `evaluate`; and their tables."""
