"""Clips on disk.

machine_id        one machine of a machine type
clip              one recording: what its name, place and header say
wav               wav files: header, samples, channels, sample rate
verified_reading  a clip's bytes, which are still those that the corpus was read from
corpus            all clips below a folder
manifest          clips listed in a table
ground_truth      labels from the challenge's tables
inspection        clips that look wrong
near_duplicates   clips of the same recording
synthetic_faults  synthetic faults
synthetic_corpus  a corpus of synthetic sounds
"""
