"""The results of a study.

status      counts, workers, the best trials
comparison  intervals, ties, and the gain over the baseline
ensemble    which leading trials make an ensemble, its recipe, and what it would be worth
trials      a row for each trial, and a summary
export      the recipe of a trial
wording     how values are written
"""
