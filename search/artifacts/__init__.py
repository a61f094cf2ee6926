"""Files of a study beside its database: in a folder, or in a bucket that hosts share.

bucket          S3: keys, uploads, errors
artifact_store  the place of a study's artifacts, folder or bucket
checkpoints     where a trial's training goes on after its worker was lost
"""
