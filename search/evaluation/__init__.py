"""How well scores tell anomalies from normal clips.

truth           the labels that scores are measured against
metrics         AUC, pAUC, and the metrics that a search can use
bootstrap       resamples of the clips
noise           how far a metric depends on the clips, by which trials and variants are compared
contributions   how much each recording contributes to a metric
interval        the record of a 95 % interval
few_of_a_label  what few clips of a label leave open, by the spread of their contributions
small_samples   what few clips leave open, by a model of their scores
confidence      the 95 % intervals of metrics and of their differences, and why there is none
best_of_many    what the best of many trials proves: gain, ties, guessing
guessing        how high an AUC guessing reaches by chance
evaluate        all metrics of one set of scored clips
misses          clips that are ranked wrong: missed anomalies and false alarms
decisions       false alarms and found faults, as counts with intervals
official        the challenge's score, by the rule of each year
official_year   the rule that clips state by their names and folders
score_files     reads the scores that any system wrote
known_clips     reads the labels that a truth holds, in a corpus or in tables
clip_matching   finds the clip of each score
score_truth     joins scores with labels, and judges how complete they are
system_differences  how two systems differ on the same clips
system_metrics  all metrics of one system's scores: what `offkey evaluate` shows
"""
