"""The parts of families' networks.

backbones      pictures to embeddings: timm's networks and a small one
margins        losses that keep machine IDs apart
augmentations  transformations of crops that a classifier tells apart
conditioning   a network that knows the machine ID
masked         masked linear layers (MADE)
residual       how badly each bin is reconstructed
scale          inputs brought to the unit interval
"""
