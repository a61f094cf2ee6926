"""Commands on recordings, before any model: `corpus` (with `outliers`), `analyze`, `cache`; and their tables."""
