"""Processes that train trials, and their supervision.

worker             claims trials and trains them until the budget is met
trial_work         what a worker does with one trial
lease_renewal      a trial's lease, renewed while its worker gets on
devices            how many workers run on which device
draining           SIGTERM and Ctrl-C: a worker leaves in time
pulse              whether a worker's process stands still
killed_for_memory  whether the kernel has killed a process for lack of memory
trouble            what keeps a slot's workers from working
fleet              the worker processes on this host
ray_worker         a worker on a Ray cluster
ray_fleet          the workers on a Ray cluster
supervision        a search from its study to its end, for the command line and notebooks
"""
