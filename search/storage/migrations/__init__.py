"""The steps from each version of Offkey's own tables to the next (Alembic; Optuna migrates its own tables)."""
