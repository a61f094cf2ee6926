"""How well scores tell anomalies from normal clips.

truth           the labels that scores are measured against
metrics         AUC, pAUC, and the metrics that a search can use
bootstrap       resamples of the clips
noise           how far a metric depends on the clips, by which trials and variants are compared
interval        the 95 % interval of a metric, from its resamples
evaluate        all metrics of one set of scored clips
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
