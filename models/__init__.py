"""What a model learns: families of anomaly models, pooling of window scores, thresholds."""
