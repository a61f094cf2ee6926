"""Processes that train trials, and their supervision.

worker         claims trials and trains them until the budget is met
trial_work     what a worker does with one trial
lease_renewal  a trial's lease, renewed while its worker is at work
devices        how many workers run on which device
draining       SIGTERM and Ctrl-C: a worker leaves in time
fleet          the worker processes on this host
ray_worker     a worker on a Ray cluster
ray_fleet      the workers on a Ray cluster
supervision    a search from its study to its end, for the command line and notebooks
"""
