"""Back-ends: densities of normal clips' embeddings, or boundaries around them, one for each machine ID.

each_id         one density for each machine ID, and perhaps one for all others
density         what every back-end does; standardisation
mahalanobis     distances in standard deviations along each direction
gmm             a mixture of Gaussians
nearest         nearest neighbours and the local outlier factor
ocsvm           a one-class support vector machine
exposure        a support vector classifier of normal clips and of synthetic faults
kernel_machine  what support vector machines have learnt, and their scores
parts           points, a few at a time

points : (clips, dim) float64. Dimensions are in one unit; with `standardize` each is in its own standard deviations.
scores : (clips,) float64, higher is more anomalous.

Points of normal clips that are alike are one place. One place has no spread: every score of a density grows with the
Euclidean distance alone, as if each dimension had unit variance.
"""
