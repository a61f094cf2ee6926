"""What a study file may say.

recipe         the schema of its blocks
space          settings that are open: ranges and choices
document       the file's text: keys with their lines, `--set`
study_file     reading and writing files
study          a checked study
rules          what is checked beyond the schema
effects        which settings have an effect
schema         what the schema knows of a path
described      settings in words, for `offkey settings`
json_schema    the JSON Schema of study files, for editors
corners        recipes at the ends of the ranges
objectives     what is searched for, in words and directions
proxies        the names of what stands for unrecorded faults
trial_recipe   the recipe that a trial trains
member_recipes recipes in the place of an ensemble's members
ensembles      one recipe made of several
identity       what workers on a study must agree on
computation    its version, raised by hand with what gives other numbers
"""
