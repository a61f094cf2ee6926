"""Which clips validate trials, and which are held out.

split        validation clips and held-out test clips; withheld and training clips
proxy_clips  clips that stand for unrecorded faults
views        the corpus as the models of a trial see it
"""
