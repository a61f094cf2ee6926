"""Trains one recipe.

protocols            what a trial needs of a training, with or without torch
objective            what a trial does: train, validate, report, prune
stores               the frames that a training reads
exposure             the synthetic faults that a detector learns from
loop                 the training loop that trials and final training share
memory               makes running out of memory the failure of one trial
memory_share         a worker's share, where the kernel would end a whole container
cross_validation     several folds as one training
variant_choice       the variants of a trial: scored, kept as evidence, one taken
machine_type_choice  the same for each machine type
choice               which variant is taken: the rule
costs                what a detector costs, and limits on the costs
"""
