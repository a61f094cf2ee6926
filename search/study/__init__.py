"""Study files: their schema, their rules, and the studies and recipes that they hold.

recipe           the schema of their blocks
branches         the families of a list: their names, and features of their own
open_setting     one range, its parameter and its rules
space            all open settings of a study
variants         the detectors that a trial makes of its one training
taken_variant    which of them a trial took, of how many
machine_types    trials and recipes that close their scoring for each machine type
document         the text of a file: keys with their lines, `--set`
study_file       reads and writes files
study            a checked study
rules            checks beyond the schema
portfolio        the trials that a study tries first
effects          which settings have an effect
schema           what the schema knows of each setting: lookup, words, JSON Schema
corners          recipes at the ends of the ranges
objectives       the words and the direction of each objective
proxies          the names of the proxies
precision        closes `training.precision: auto`
trial_recipe     the recipe that a trial trains
member_recipes   members of an ensemble that name the file of a recipe
ensembles        combines several recipes into one
identity         what workers on a study must agree on
computation      the version of the computation, raised by hand with a change of numbers
search_settings  the `search:` block: budget, sampler, pruner, limits
"""
