"""How Offkey's own tables came to be what `search.storage.ledger` says they are (Alembic; Optuna migrates its own)."""
