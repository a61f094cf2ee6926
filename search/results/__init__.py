"""A study's results.

status      counts, workers, the best trials
comparison  intervals, ties, and the gain over the baseline
trials      a row for each trial, and a summary
export      a trial's recipe
wording     how values are written
"""
