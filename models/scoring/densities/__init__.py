"""Back-ends: densities of normal clips' embeddings, one for each machine ID.

each_id      one density for each machine ID, and perhaps one for all others
density      what every density does; standardisation
mahalanobis  distances in standard deviations along each direction
gmm          a mixture of Gaussians
nearest      nearest neighbours and the local outlier factor
ocsvm        a one-class support vector machine
parts        points, a few at a time

points : (clips, dim) float64. Dimensions are in one unit; with `standardize` each is in its own standard deviations.
scores : (clips,) float64, higher is more anomalous.

Points that are alike are one place. One place has no spread: every score grows with the Euclidean distance alone, as if
each dimension had unit variance.
"""
