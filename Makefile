# make book | test | notebooks | full | picture | lint | lock | clean: every target prepares .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
CODE := $(shell find metalib -name '*.py' -o -path '*weights/*')
export PYTHONHASHSEED := 0
PROFILE ?= full
# One test process per core: with more threads than cores all of them would wait for each other.
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: book test unit notebook-test book-check notebooks full picture lint lock clean

book: .venv/ready _build/fresh  ## execute the chapters and build the report
	$(BIN)/jupyter-book build . --warningiserror --keep-going
	@echo "The report: $(CURDIR)/_build/html/index.html"

test: lint unit notebook-test book-check  ## everything that CI runs

unit: .venv/ready
	$(ONE_THREAD) $(BIN)/pytest -n auto

notebook-test: .venv/ready  ## replay the chapters and compare the outputs that a test holds
	$(ONE_THREAD) $(BIN)/pytest -n auto --dist loadfile --nbval-lax --nbval-current-env --nbval-cell-timeout=900 \
		--nbval-sanitize-with tests/nbval.cfg -p no:cacheprovider -o addopts= notebooks

book-check: .venv/ready  ## the strict build, from the committed outputs: nothing is executed
	mkdir -p .cache
	sed 's/execute_notebooks: .*/execute_notebooks: "off"/' _config.yml > .cache/_config.yml
	$(BIN)/jupyter-book build . --config .cache/_config.yml --path-output .cache/book-check --all --warningiserror --keep-going
	! grep -rlE '<(script|link|img)[^>]+(src|href)="https?:' --include='*.html' .cache/book-check/_build/html  # it shows offline

notebooks: .venv/ready  ## execute the chapters in place, to commit their outputs
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.timeout=900 notebooks/*.ipynb book/tutorial.ipynb

# Chapters at the scale of PROFILE, a folder of notebooks/profiles/, into book/full/; IMAGES=folder:PATH takes the images from a folder.
# Records that are there are not made again, whatever their age: delete one to make it anew. Then the report is built with them.
full: .venv/ready  ## execute the chapters of a profile that have no record yet, and build the report with their records
	$(BIN)/python book/record.py $(PROFILE) $(if $(IMAGES),--images $(IMAGES))
	$(MAKE) book

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

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metalib needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	@echo "Installing into .venv: some minutes and 7 GB, of which torch and the libraries of NVIDIA are the largest part"
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# jupyter-book's cache of executed chapters knows their cells only: drop it when the package has changed.
_build/fresh: $(CODE) requirements.txt
	rm -rf _build/.jupyter_cache
	mkdir -p _build
	touch $@
