"""Clips on disk.

machine_id        one machine of a machine type
clip              one recording, with what its name, place and header say
wav               wav files: header, samples, channels, sample rate
verified_reading  a clip's bytes, checked against those that the corpus was read from
corpus            all clips below a folder
manifest          clips listed in a table
ground_truth      labels from the challenge's tables
inspection        clips that look wrong
near_duplicates   clips of the same recording
synthetic_faults  faults in grades, added to recordings of healthy machines
synthetic_corpus  a corpus of synthetic machine sounds
"""
