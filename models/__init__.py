"""Models of healthy sound. The families are modules here, their parts are in the packages below.

vae, ae, cae, made, group_made, classifier, stat
               a family each: its settings and its network
families       the families that a study file can name
settings       the settings that families share, and those of training and scoring
member         all settings of one model; ensembles of several
precision      the precision that a device computes fast
anomaly_model  the methods of every network: loss, score, embed
labels         labels of training clips that a model may use
recordings     clips in the form that each model takes
layers         the parts of networks
scoring        from a trained network to clip scores; the ensemble (fusion)
"""
