"""What families are built of.

backbones      pictures to embeddings: timm's networks and a small one
margins        losses that keep machine IDs apart
augmentations  altered training crops
conditioning   a network that knows the machine ID
masked         masked linear layers (MADE)
scale          inputs brought to the unit interval
"""
