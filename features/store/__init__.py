"""Frames of a whole corpus: computed once for each host, mapped by all.

building  computes what is missing, under a lock
files     the files of a store, and how they are mapped
upkeep    list, verify, prune
"""
