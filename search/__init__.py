"""How the best model is found: study files, objective, ledger, workers, final training, command line."""
