"""Checks a study and its recordings against each other, before any work.

prepared           the steps before a search and before a final training, and their result
narrowing          removes what its recordings cannot serve from a study
portfolio_sources  finds the entries of `search.first` in finished studies and recipes
clip_checks        checks that the clips suffice, for a search and for a final training
proxy_judgement    finds the proxies that tell better models from worse ones
starter_study      the study that `offkey init` proposes for a corpus
starter_text       its text, with the comments of the shipped study `best`
"""
