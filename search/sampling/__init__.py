"""What is suggested, and what is pruned.

samplers     Optuna's samplers, seeded for each trial
pruning      the pruner that compares by noise
suggestions  a trial's parameters: none tried twice
"""
