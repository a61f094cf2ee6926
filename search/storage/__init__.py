"""The database: Optuna's tables, ours beside them, and the rules by which workers share trials.

database       URLs, engines, errors of the database
outages        waiting while the database is away
tables         our tables
migrations     how they came to be what they are
ledger         which worker holds which trial until when: statements
optuna_rows    statements on Optuna's tables
study_storage  Optuna's storage with the ledger's rules in its transactions
trial_cache    what a worker keeps of trials that ended
stored_study   a study as it is stored: made, joined, refused
study_lookup   a study by what the user calls it
looks          who looked at the held-out test clips
upkeep         stop, rename, delete
"""
