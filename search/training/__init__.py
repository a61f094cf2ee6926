"""Training one recipe.

trained           what the objective asks of a recipe in training
objective         what a trial does: train, validate, report, prune
loop              the training loop that trials and final training share
memory            what happens where memory does not suffice
cross_validation  several folds as one training
costs             what a detector costs, and limits on it
"""
