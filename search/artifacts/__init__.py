"""Files of a study beside its database: in a folder, or in a bucket that hosts share.

bucket          S3: keys, uploads, errors
artifact_store  the folder or bucket of a study's artifacts
checkpoints     saved trainings, at which trials resume after their worker was lost
"""
