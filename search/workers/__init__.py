"""Processes that train trials, and who supervises them.

worker       claims trials and trains them until the budget is met
trial_work   what a worker does with one trial
lease        a trial's lease, renewed while its worker is at work
placement    devices: how many workers on which
draining     SIGTERM and Ctrl-C: leave in time
fleet        worker processes on this host
ray_worker   a worker on a Ray cluster
ray_fleet    the workers on a Ray cluster
supervision  a search from its study to its end, as the command line and notebooks share it
"""
