"""The way from recordings to a model's inputs: clips on disk, frames in a shared store, windows on a device.

clips         recordings: reading, checking and describing them; synthetic ones
frames        from a waveform to frames
store         frames of a whole corpus, computed once for a host
windows       batches on a device
cleaning      training clips that do not sound normal
cache         where Offkey keeps what it can compute again
settings      the base of every block of settings
reference     librosa, imported by one process at a time
digests       digests that identify contents
did_you_mean  the nearest valid name
stacks        names joined by +
progress      a callback for progress
signs_of_life whether a long computation gets on
disk_space    whether a file fits on its disk
control_groups  where the kernel limits a container or a job
errors        errors that a user can mend
"""
