"""Checks a study and its recordings against each other, before any work.

prepared         the steps before a search and before a final training, and their result
narrowing        removes choices of a study that its recordings cannot serve
clip_checks      checks that the clips suffice, for a search and for a final training
proxy_judgement  finds the proxies that tell better models from worse ones
starter_study    the study file that `offkey init` writes
"""
