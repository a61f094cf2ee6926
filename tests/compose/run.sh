#!/usr/bin/env bash
# docker-compose.yml for real: two containers of workers search the demo study to its budget, through a stop and a
# kill, and another user id takes the result; then four search a study file on recordings of the host's. Needs an engine
# and compose, nothing else, and some minutes; it leaves the image and nothing else.
set -euo pipefail
cd "$(dirname "$0")/../.."
unset STUDY OFFKEY_DATA WORKERS OFFKEY_UID OFFKEY_GID POSTGRES_PASSWORD OFFKEY_DASHBOARD_PASSWORD
export COMPOSE_PROJECT_NAME=offkey-compose-test DASHBOARD=127.0.0.1:18080
made=output/compose-test
settings=$(mktemp) # instead of the caller's .env

compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose --env-file "$settings" "$@"
  else
    docker-compose --env-file "$settings" "$@"
  fi
}
# Not through compose, whose start costs a second of the workers' time.
sql() { docker exec "$(docker ps --quiet --filter name="$COMPOSE_PROJECT_NAME.db")" psql --username offkey -At --command "$1"; }
ended() { sql "select count(*) from offkey_trials where state in ('complete', 'pruned', 'failed')" 2>/dev/null || echo 0; }
say() { echo "$((SECONDS / 60)):$(printf %02d $((SECONDS % 60)))  $*"; }
fail() {
  say "FAILED: $*"
  compose logs --tail 30
  exit 1
}
# equal WHAT EXPECTED GOT
equal() { [[ $2 == "$3" ]] && say "$1: $3" || fail "$1: must be $2, but is $3"; }
# reach N: waits until so many trials have ended
reach() {
  local deadline=$((SECONDS + 600))
  until (($(ended) >= $1)); do
    ((SECONDS < deadline)) || fail "only $(ended) trials ended in ten minutes, but $1 were awaited"
    sleep 2
  done
  say "$(ended) trials have ended"
}

down() {
  compose down --volumes --timeout 5
  rm -rf "$made"-*
}
trap 'down; rm "$settings"' EXIT
down

say "building the image"
compose build workers >/dev/null
say "the image has $(docker image inspect --format '{{.Size}}' offkey | awk '{printf "%.0f", $1 / 1e6}') MB"

compose up --detach --scale workers=2 workers
for _ in 1 2 3; do # while the searches start
  sleep 1
  compose kill db
  sleep 1
  compose start db
done
say "up, through three crashes of the database"
reach 3

began=$SECONDS
compose stop workers
say "stopped in $((SECONDS - began)) s"
for container in $(compose ps --all --quiet workers); do
  equal "exit code of a drained container" 0 "$(docker inspect --format '{{.State.ExitCode}}' "$container")"
done
equal "trials that a drained worker still holds" 0 "$(sql "select count(*) from offkey_trials where state = 'running'")"

compose up --detach --scale workers=2 workers
reach $(($(ended) + 3))
IFS='|' read -r victim lost token < <(sql "select split_part(owner, ':', 1), number, token from offkey_trials
                                           where state = 'running' order by number limit 1")
docker kill --signal KILL "$victim" >/dev/null
say "killed container $victim at work on trial $lost"
for container in $(compose ps --all --quiet workers); do
  if [[ $container != "$victim"* ]]; then
    equal "exit code of the container that is left" 0 "$(timeout 900 docker wait "$container")"
  fi
done

compose run --rm -T workers offkey status demo --json >"$made-status.json"
counts=$(compose run --rm -T workers python -c "
import json
status = json.load(open('compose-test-status.json'))
trials = status['trials']
print(status['budget'], trials['complete'] + trials['pruned'], trials['failed'], trials['running'], trials['waiting'])")
equal "budget, complete or pruned, failed, running, waiting" "24 24 0 0 0" "$counts"
equal "trials, their first and last number" "24|0|23" \
  "$(sql "select count(*), min(number), max(number) from trials where state in ('COMPLETE', 'PRUNED')")"
equal "whether another worker ended trial $lost" t "$(sql "select token > $token from offkey_trials where number = $lost")"

compose up --detach dashboard
page=$(compose ps --quiet dashboard)
until [[ $(docker inspect --format '{{.State.Health.Status}}' "$page") == healthy ]]; do
  ((SECONDS < 1500)) || fail "the dashboard does not become healthy"
  sleep 1
done
equal "where the dashboard listens" 127.0.0.1:18080 "$(docker port "$page" 8080)"
answers=$(compose exec -T dashboard python -c "
import base64, urllib.error, urllib.request
for password in 'wrong', open('/run/passwords/dashboard').read().strip():
    credentials = base64.b64encode(f'offkey:{password}'.encode()).decode()
    request = urllib.request.Request('http://127.0.0.1:8080/api/studies', headers={'Authorization': f'Basic {credentials}'})
    try:
        print(urllib.request.urlopen(request).status, end=' ')
    except urllib.error.HTTPError as refused:
        print(refused.status, end=' ')")
equal "its answers to a wrong and to the right password" "401 200 " "$answers"

export OFFKEY_UID=12345 OFFKEY_GID=12345
compose run --rm -T workers offkey export demo -o compose-test-recipe.yaml
compose run --rm -T workers offkey train compose-test-recipe.yaml -o compose-test-detector
compose run --rm -T workers offkey report demo -o compose-test-report.html
for file in "$made-recipe.yaml" "$made-report.html" "$made-detector" "$made-detector/weights.safetensors"; do
  equal "owner of $file" 12345:12345 "$(stat --format %u:%g "$file")"
done

say "a study file, recordings of the host's, four containers, passwords from .env"
compose run --rm -T workers python -P -c "
from pathlib import Path
from features.clips.synthetic_corpus import make_corpus
make_corpus(Path('compose-test-corpus'), train_clips=6, test_clips=6, seconds=1.0)
Path('compose-test-study.yaml').write_text('''
study: compose-test
features: {n_mels: 32}
model: {family: vae, context: 3, h_dim: {low: 8, high: 64}, z_dim: 4}
training: {learning_rate: 0.01, batch_size: 64, epochs: 2}
search: {trials: 8, pruner: none}
''')"
compose down --volumes --timeout 5
printf '%s\n' POSTGRES_PASSWORD=of-the-database OFFKEY_DASHBOARD_PASSWORD=of-the-dashboard WORKERS=1 >"$settings"
export STUDY=$made-study.yaml OFFKEY_DATA=$PWD/$made-corpus
compose up --detach --scale workers=4 workers
reach 8
for container in $(compose ps --all --quiet workers); do
  equal "exit code of one of four containers" 0 "$(timeout 300 docker wait "$container")"
done
equal "trials, their first and last number" "8|0|7" \
  "$(sql "select count(*), min(number), max(number) from trials where state = 'COMPLETE'")"
equal "passwords" "of-the-database of-the-dashboard" \
  "$(compose run --rm -T workers sh -c 'echo $(cat /run/passwords/database /run/passwords/dashboard)')"
equal "whether the recordings can be written" no \
  "$(compose run --rm -T workers sh -c 'touch /corpus/mine 2>/dev/null && echo yes || echo no')"

# By whose they are: the caller may not.
compose run --rm -T workers sh -c "rm -r compose-test-*"
say "passed"
