"""How the best model is found. Rooms, from the top down; each imports only from rooms below it.

api           what notebooks import: the public face
cli           the command line, a module a command
workers       processes that train trials, on this host or a Ray cluster, and who supervises them
detector      from a recipe to its detector: trained, measured, saved, exported, used to score clips
dashboard     optuna-dashboard with a password, a note for each study, pictures and sounds
report        a study on one page
preparation   a study and its recordings, checked against each other before any work
results       a study's status, its trials compared, its best recipe exported
sampling      which parameters are suggested, which trials are pruned
storage       the database: Optuna's tables, ours beside them, and the rules of leases
training      a trial's objective, and the training loop that it shares with the final training
analysis      a corpus on one page, before any model
validation    which clips judge trials, and which are held out
study         what a study file may say
evaluation    AUC and other metrics of scores
artifacts     checkpoints and other files, in a folder or a bucket
pages         what HTML pages share
rescue        where results go that cannot be written where they should be
errors        what a user can mend
kinds         checks the kinds of values that a program hands over
logs          whose log is written, and who sees it
"""
