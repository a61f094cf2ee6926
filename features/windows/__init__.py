"""From stored frames to batches on a device.

stored_clips     some clips and the store that holds their frames
excerpts         stretches of frames, gathered in whole batches
context_windows  all stretches of a few frames, as vectors
crops            some long stretches, as pictures
normalization    bins standardised over the training clips
"""
