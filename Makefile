# make demo     the whole journey on sounds it makes itself
# make check    lint, imports, types and the tests that start no processes: three minutes on two cores
# make test     the same and the whole test suite
# make lowest   some of the tests with the lowest versions that pyproject.toml allows
# Each builds .venv from the lock file first, once.

PYTHON ?= python3
UV := .venv/bin/uv
export UV_LINK_MODE ?= hardlink

# Without worker processes, databases and browsers.
QUICK := tests/features tests/models tests/search/study tests/search/evaluation tests/search/test_api_names.py

# Beside these, what stands closest to the libraries: terminal, databases, buckets, weights, plots.
NEAR_LIBRARIES := tests/search/cli tests/search/storage/test_storage.py tests/search/artifacts tests/search/detector \
	tests/search/dashboard tests/search/report tests/search/sampling tests/search/analysis

# librosa compiles itself when it is first imported, for half a minute, and processes that do so together may spoil what
# they keep.
COMPILE := import librosa.core.audio, librosa.core.pitch, librosa.feature.spectral, librosa.filters

.PHONY: demo check lint test lowest programs lock

demo: .venv/.installed
	.venv/bin/offkey demo

check: lint
	.venv/bin/pytest -n auto --dist worksteal $(QUICK)

test: lint programs
	.venv/bin/pytest -n 4 --dist worksteal

lint: .venv/.installed
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/lint-imports --no-logo
	.venv/bin/mypy features models search studies benchmarks tests

# What the tests need beside Offkey is as new as goes with that. torch is named, since a resolver may begin with the
# newest torchvision, which takes the newest torch alone.
lowest: .venv/.installed
	$(UV) venv -q --clear --python .venv/bin/python .venv-lowest
	sed -n 's/^ *"torch>=\([0-9.]*\).*/torch==\1.*/p' pyproject.toml > .venv-lowest/torch.txt
	$(UV) pip compile -q --extra s3 --extra ray --extra onnx --python-version 3.11 --resolution lowest-direct \
		-c .venv-lowest/torch.txt pyproject.toml -o .venv-lowest/lowest.txt
	$(UV) pip compile -q --extra test --python-version 3.11 -c .venv-lowest/lowest.txt pyproject.toml -o .venv-lowest/all.txt
	$(UV) pip sync -q --python .venv-lowest/bin/python .venv-lowest/all.txt
	$(UV) pip install -q --python .venv-lowest/bin/python --no-deps --no-build-isolation -e .
	.venv-lowest/bin/python -c "$(COMPILE)"
	.venv-lowest/bin/pytest -n auto --dist worksteal $(QUICK) $(NEAR_LIBRARIES)

# The dashboard's tests look at it in a browser, the database's put a pooler before a server: they fail without them.
programs:
	@wanted=; \
	command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
		wanted="chromium"; \
	PATH="$$PATH:/usr/sbin" command -v pgbouncer >/dev/null || wanted="$$wanted pgbouncer"; \
	test -z "$$wanted" || { \
		test "$$(id -u)" = 0 || { echo "The tests need programs: sudo apt-get install $$wanted" >&2; exit 1; }; \
		apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $$wanted; }

# Debian keeps venv in a package of its own.
.venv/.installed: requirements.lock pyproject.toml
	$(PYTHON) -c "import ensurepip" 2>/dev/null || { apt-get update -q && apt-get install -y -q python3-venv; }
	$(PYTHON) -m venv --clear .venv
	.venv/bin/pip install -q "$$(grep '^uv==' requirements.lock)"
	$(UV) pip sync -q --compile-bytecode --python .venv/bin/python requirements.lock
	$(UV) pip install -q --python .venv/bin/python --no-deps --no-build-isolation -e .
	.venv/bin/python -c "$(COMPILE)"
	touch $@

# Pins the newest versions that pyproject.toml allows.
lock:
	$(UV) pip compile -q --extra dev --python-version 3.11 --custom-compile-command "make lock" \
		--upgrade pyproject.toml -o requirements.lock
