"""How well scores tell anomalies from normal clips.

truth        the labels that scores are measured against
metrics      AUC, pAUC and what one number is made of them
bootstrap    resamples of the clips
interval     the 95 % interval of a figure, from its resamples
figures      all metrics of one set of scored clips
official     the challenge's score, by the rule of each year
score_files  scores that any system wrote, read
score_truth  labels for these scores, from a corpus or from tables
measured     scores and labels together: what `offkey evaluate` shows
"""
