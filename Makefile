# Two commands do all set-up on a fresh machine: `make demo` and `make test`. `make test-ray` does
# it for Ray, in an environment of its own.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

RAY := .venv-ray

.PHONY: demo docs examples test test-ray check install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints-cpu.txt
	$(PYTHON) -c 'import sys; sys.exit("gradevo needs Python 3.11 or newer" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-cpu.txt -e '.[dev]'
	touch $@

demo: install
	$(BIN)/gradevo compare digits --methods gadam,adam,adam-best-of \
		--steps 200 --seeds 1 --out runs/demo
	$(BIN)/gradevo report runs/demo

docs: install
	$(BIN)/sphinx-build -W --keep-going -n -E -q docs docs/_build
	@echo "Open docs/_build/index.html"

examples: install
	@for program in examples/*.py; do \
		echo "== $$program"; start=$$(date +%s); \
		$(BIN)/python $$program || exit 1; \
		echo "== $$program took $$(($$(date +%s) - start)) s"; echo; \
	done

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

$(RAY)/.installed: pyproject.toml constraints-cpu.txt
	test -x $(RAY)/bin/python || $(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints-cpu.txt -e '.[dev,ray]'
	touch $@

test-ray: $(RAY)/.installed
	$(RAY)/bin/python -c 'import ray.train'
	OMP_NUM_THREADS=1 $(RAY)/bin/python -m pytest tests/test_ray.py

clean:
	rm -rf $(VENV) $(RAY) runs docs/_build
