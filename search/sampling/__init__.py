"""Suggests the parameters of trials, and prunes trials.

samplers     Optuna's samplers and pruners, and a sampler of our own for several families
families     which family gets the next trial: families share time
rungs        where trials are compared, and with whom
pruning      a pruner that compares trials by the noise of their metrics
stored_evidence  the values of the variants of a study's trainings
enough       when a study may end itself: the rule
early_end    asks that rule, and ends the study
suggestions  the parameters of a worker's trials: none tried twice
"""
