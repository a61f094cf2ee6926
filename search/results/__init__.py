"""The results of a study.

status          counts, workers, the best trials
comparison      intervals, ties, and the gain over the baseline
gain            whether one detector gains over another, and what it takes to show it
ensemble        which leading trials make an ensemble, its recipe, and what it would be worth
trials          a row for each trial, and a summary
export          the recipe of a trial
portfolio       what the baseline and the trials of `search.first` gave
failing_hosts   hosts on which most tries of trials fail
families        where the time went: trials, time and best trial of each family
trial_in_words  how long a trial took, in which precision, and its variant
wording         how values are written
"""
