"""What the schema of study files knows of each setting.

schema_lookup      types, keys and messages for the settings of a path
settings_in_words  settings in words, for `offkey settings`
json_schema        the JSON Schema of study files, for editors
"""
