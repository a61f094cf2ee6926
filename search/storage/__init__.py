"""The database: Optuna's tables, ours beside them, and the rules by which workers share trials.

database             URLs, engines, errors of the database
outages              waiting while the database is away
tables               our tables
migrations           the steps from each version of our tables to the next
study_rows           statements on the studies' rows: the budget, the hours, requests to stop
claims               statements on the trials' rows: which worker gets which trial
slots                statements on the slots in which trials failed: who is at fault, a trial or a place
ledger               statements on the trials' rows: which worker holds which trial until when
optuna_rows          statements on Optuna's tables
dialects             what SQLite and PostgreSQL spell differently
study_storage        Optuna's storage, whose transactions the ledger shares
hold                 what a worker may do with the trial that it has claimed
trial_cache          a worker's copy of the trials that have ended
stored_study         a study as it is stored: created, joined, refused
study_ledger         one study's part of the ledger: claims, progress, stops
early_end            why a study has ended itself
study_lookup         finds a study by a file, the name of a shipped study, or a name in the storage
counted_evaluations  counts the measurements on held-out test clips
upkeep               rename, delete
lease_rules          how long a lease lasts, when a trial is given up, when a slot retires
"""
