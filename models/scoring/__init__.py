"""From a trained network to clip scores.

scores            the type of scores, without torch
scorer            clips to scores, with everything around a model
per_machine_type  detectors of the same networks, one for each machine type
scorer_of_recipe  which scorers a recipe asks for
network_pass      what a network says of recordings, read once for several detectors
pooling           window scores to one clip score
statistics        vectors of a clip's windows to one vector
densities         how unusual an embedding is
standardization   embeddings in standard deviations of the training clips, without torch
covariance        Mahalanobis distances, without torch
fusion            an ensemble's scores, combined
combination       the scores of an ensemble's members made one, without torch
calibration       scores on one scale for each machine ID
threshold         from which score on a clip is called an anomaly
learnt_arrays     arrays that are learnt beside the weights
reconstruction    what a model makes of a clip, frame by frame
"""
