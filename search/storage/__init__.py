"""The database: Optuna's tables, ours beside them, and the rules by which workers share trials.

database       URLs, engines, errors of the database
outages        waiting while the database is away
tables         our tables
migrations     how they came to be what they are
study_rows     statements on the studies' rows: the budget, the hours, who was asked to leave
ledger         statements on the trials' rows: which worker holds which trial until when
optuna_rows    statements on Optuna's tables
study_storage  Optuna's storage, whose transactions the ledger shares
hold           what a worker may do with the trial that it has claimed
trial_cache    what a worker keeps of trials that ended
stored_study   a study as it is stored: made, joined, refused
study_ledger   one study's part of the ledger: claims, progress, stops
study_lookup   a study by what the user calls it
looks          who looked at the held-out test clips
upkeep         rename, delete
"""
