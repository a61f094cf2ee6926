"""A study and its recordings, brought together: what one asks of the other is checked before any work.

prepared         the steps of a search and of a final training, and their result, which is handed on
narrowing        a study's open choices, narrowed to those that its recordings serve
clip_checks      what is asked of the clips, for a search and for a final training
proxy_judgement  which proxies tell better models from worse ones
starter          the study file that `offkey init` writes
"""
