"""Which clips judge trials, and which are held out.

split        validation and held-out test clips; withheld and training clips
proxy_clips  clips that stand for faults nobody has recorded
views        the corpus as the models of a trial see it
"""
