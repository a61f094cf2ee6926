"""What a model learns. The families stand here, their parts in rooms below.

vae, ae, cae, made, group_made, classifier, stat
               a family each: its settings and its network
families       the families that a study file can name
settings       the settings that families share, and those of training and scoring
member         all settings of one model; ensembles of several
anomaly_model  what every network offers: loss, score, embed
labels         labels of training clips as a model may use them
recordings     clips as every kind of model sees them
layers         what networks are built of
scoring        from a trained network to clip scores; the ensemble (fusion)
"""
