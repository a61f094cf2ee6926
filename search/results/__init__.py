"""The results of a study.

status      counts, workers, the best trials
comparison  intervals, ties, and the gain over the baseline
ensemble    which leading trials make an ensemble, its recipe, and what it would be worth
trials      a row for each trial, and a summary
export      the recipe of a trial
portfolio   what the trials of `search.first` gave
wording     how values are written
"""
