# make demo   the whole journey on sounds it makes itself
# make test   lint, types and the whole test suite
# Both build .venv from the lock file first, once.

PYTHON ?= python3
UV := .venv/bin/uv
export UV_LINK_MODE ?= hardlink

.PHONY: demo test programs lock

demo: .venv/.installed
	.venv/bin/offkey demo

test: .venv/.installed programs
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy features models search studies benchmarks tests
	.venv/bin/pytest -n 4 --dist worksteal

# The dashboard's tests look at it in a browser, the database's put a pooler before a server: they fail without them.
programs:
	@wanted=; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		wanted="chromium"; \
	PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || wanted="$$wanted pgbouncer"; \
	test -z "$$wanted" || { \
		test "$$(id -u)" = 0 || { echo "The tests need programs: sudo apt-get install $$wanted" >&2; exit 1; }; \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$wanted; }

# Debian keeps venv in a package of its own. librosa compiles itself when it is first imported, for half a minute, and
# processes that do so together may spoil what they keep.
.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c "import ensurepip" 2>/dev/null || { apt-get update -q && apt-get install -y -q python3-venv; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install -q "$$(grep '^uv==' requirements.lock)"
	$(UV) pip sync -q --compile-bytecode --python .venv/bin/python requirements.lock
	$(UV) pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
	.venv/bin/python -c "import librosa.core.audio, librosa.core.pitch, librosa.feature.spectral, librosa.filters"
	touch $@

# Pins the newest versions that pyproject.toml allows.
lock:
	$(UV) pip compile -q --extra dev --python-version 3.11 --custom-compile-command "make lock" \
		--upgrade pyproject.toml -o requirements.lock
