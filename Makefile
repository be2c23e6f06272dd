# make book | test | results | check-results | notebooks | picture | lint | lock | clean: every target prepares .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
CODE := $(shell find metalib -name '*.py' -o -path '*weights/*') $(wildcard book/claims/*.yml results/*.parquet studies/*.yml)
NOTEBOOKS := $(wildcard notebooks/*.ipynb book/*.ipynb)
EXECUTED := $(NOTEBOOKS:%=_build/pages/%)
STUDY ?=
export PYTHONHASHSEED := 0
# One process per core: with more threads than cores all of them would wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1
JOBS := $(shell nproc 2>/dev/null || sysctl -n hw.ncpu)
EXECUTE := nbconvert --to notebook --execute --log-level WARN --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.timeout=900
# CIFAR-10 as JPEG files, from which some studies were made: METALIB_DATA names the folder that holds cifar10-jpeg.
ARCHIVE := $(wildcard ../shared/data/cifar10-jpeg.zip)
DATA = METALIB_DATA=$${METALIB_DATA:-$(CURDIR)/.cache/data}

.PHONY: book test unit notebook-test check-results book-check results notebooks picture lint lock clean

book: .venv/ready book/_static/explore/data.js  ## execute the chapters and build the report
	$(ONE_THREAD) $(MAKE) --no-print-directory --jobs $(JOBS) $(EXECUTED)
	$(call copied,_build/pages)
	cp -r $(filter-out %.ipynb,$(wildcard book/*)) _build/pages/book
	$(call built,_build/pages,.)
	@echo "The report: $(CURDIR)/_build/html/index.html"

_build/pages/%.ipynb: %.ipynb $(CODE)
	@mkdir -p $(@D)
	$(BIN)/jupyter $(EXECUTE) $< --output-dir $(@D)

test: .venv/ready .venv/browser  ## everything that CI runs; what leaves a core idle goes side by side
	$(MAKE) --no-print-directory --jobs $(JOBS) --output-sync lint book/_static/explore/data.js
	$(MAKE) --no-print-directory unit check-results
	$(MAKE) --no-print-directory --jobs $(JOBS) --output-sync notebook-test book-check

unit: .venv/ready .venv/browser
	$(ONE_THREAD) $(BIN)/pytest -n $(JOBS) --dist worksteal

notebook-test: .venv/ready  ## replay the chapters and compare the outputs that a test holds
	$(ONE_THREAD) $(BIN)/pytest -n $(JOBS) --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=900 \
		--nbval-sanitize-with tests/nbval.cfg -p no:cacheprovider -o addopts= notebooks book

check-results: .venv/ready .cache/data  ## compute up to three random cells of every study again
	$(DATA) $(ONE_THREAD) $(BIN)/python -m metalib.studies check --workers $(JOBS) $(STUDY)

book-check: .venv/ready .venv/browser book/_static/explore/data.js  ## the strict build, from the committed outputs, opened in a browser
	rm -rf .cache/pages
	mkdir -p .cache/pages/book
	$(call copied,.cache/pages)
	cp -r book notebooks .cache/pages
	$(call built,.cache/pages,.cache/book-check)
	$(BIN)/python tests/browser.py .cache/book-check/_build/html

results: .venv/ready .cache/data  ## compute what is missing or stale of the studies' tables; STUDY=name for one of them
	$(DATA) $(BIN)/python -m metalib.studies compute $(STUDY)

notebooks: .venv/ready  ## execute the chapters in place, to commit their outputs
	$(ONE_THREAD) $(BIN)/jupyter $(EXECUTE) --inplace $(NOTEBOOKS)

picture: .venv/ready  ## draw the README's picture
	$(BIN)/python book/picture.py

lint: .venv/ready  ## style, arrows between the rooms of the package, types
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-logo
	$(BIN)/basedpyright

lock: .venv/ready  ## make requirements.txt anew from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --no-emit-index-url --quiet \
		--custom-compile-command "make lock" --output-file requirements.txt

clean:
	rm -rf .venv .cache _build

# $(call copied,FOLDER) and $(call built,FOLDER,OUTPUT): a report whose notebooks were executed before
copied = sed 's/execute_notebooks: .*/execute_notebooks: "off"/' _config.yml > $(1)/_config.yml && cp _toc.yml CITATION.cff $(1)
built = $(BIN)/jupyter-book build $(1) --path-output $(2) --all --warningiserror --keep-going

# What a reader can touch: made on the bundled networks.
book/_static/explore/data.js: book/explore.py $(CODE) .venv/ready
	$(ONE_THREAD) $(BIN)/python book/explore.py

.cache/data:
	mkdir -p $@
	$(if $(ARCHIVE),$(PYTHON) -m zipfile -e $(ARCHIVE) $@)

# A browser, in which pages are checked: one that is there, or Debian's, or Playwright's own.
.venv/browser: .venv/ready
	test -n "$$BROWSER_PATH" || command -v chromium || command -v chromium-browser || command -v google-chrome || \
		{ test "$$(id -u)" = 0 && apt-get update --quiet && apt-get install --quiet --yes chromium; } || \
		$(BIN)/playwright install chromium
	touch $@

.venv/ready: requirements.txt pyproject.toml metalib/people/package-lock.json
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metalib needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv: some minutes and 7 GB, of which torch and the libraries of NVIDIA are the largest part"
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/npm ci --no-update-notifier --prefix metalib/people
	touch $@
