"""A study and its recordings, brought together: what one asks of the other is checked before any work.

prepared         a study on its recordings, ready to be stored
clip_checks      what is asked of the clips, for a search and for a final training
proxy_judgement  which proxies tell better models from worse ones
starter          the study file that `offkey init` writes
"""
