#!/bin/sh
# What docker-compose.yml runs before anything else, as root: it makes what a fresh clone lacks.
set -eu
umask 022

# keep NAME PASSWORD: as a file, never seen half written
keep() {
  printf '%s\n' "$2" >"$1.new" && mv "$1.new" "$1"
}
random() {
  python -c 'import secrets; print(secrets.token_urlsafe(24))'
}

# Readable to every user id: the volume is private to these containers.
cd /run/passwords
# The database's stays the one that it was made with.
[ -s database ] || keep database "${POSTGRES_PASSWORD:-$(random)}"
if [ -n "$OFFKEY_DASHBOARD_PASSWORD" ] || [ ! -s dashboard ]; then
  keep dashboard "${OFFKEY_DASHBOARD_PASSWORD:-$(random)}"
fi
# libpq takes a password file from its owner alone, a service file from anyone.
keep pg_service.conf "[offkey]
password=$(cat database)"

# The host's folder stays its owner's. A network folder may refuse this: then OFFKEY_UID has to be its owner.
{ chgrp 0 /offkey/output && chmod g+rwx /offkey/output; } || true

# The demo's sounds, where no corpus is named. In the layout of the challenge's baselines: a folder can be renamed into
# place when it is whole, a volume cannot.
if [ -z "$OFFKEY_DATA" ]; then
  python -P - <<'PYTHON'
from pathlib import Path

from features.clips.synthetic_corpus import make_corpus

root = Path("/corpus/dev_data")
if not root.exists():
    make_corpus(root)
PYTHON
fi
