"""Healthy is a container whose database answers. With a file, or none, for a storage there is nothing to ask."""

import os

import psycopg

url = os.environ.get("OFFKEY_STORAGE", "")
if url.startswith("postgres"):
    psycopg.connect(url.replace("postgresql+psycopg:", "postgresql:"), connect_timeout=5).close()
