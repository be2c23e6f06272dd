# make book | test | notebooks | full | picture | lint | lock | clean: every target prepares .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
CODE := $(shell find metalib -name '*.py' -o -path '*weights/*')
export PYTHONHASHSEED := 0
PROFILE ?= full

.PHONY: book test unit notebook-test book-check notebooks full picture lint lock clean

book: .venv/ready _build/fresh  ## execute the chapters and build the report
	$(BIN)/jupyter-book build . --warningiserror --keep-going
	@echo "The report: $(CURDIR)/_build/html/index.html"

test: lint unit notebook-test book-check  ## everything that CI runs

unit: .venv/ready
	$(BIN)/pytest

notebook-test: .venv/ready  ## replay the chapters and compare the outputs that a test holds
	$(BIN)/pytest --nbval-lax --nbval-current-env --nbval-cell-timeout=900 --nbval-sanitize-with tests/nbval.cfg -p no:cacheprovider -o addopts= notebooks

book-check: .venv/ready  ## the strict build, from the committed outputs: nothing is executed
	mkdir -p .cache
	sed 's/execute_notebooks: .*/execute_notebooks: "off"/' _config.yml > .cache/_config.yml
	$(BIN)/jupyter-book build . --config .cache/_config.yml --path-output .cache/book-check --all --warningiserror --keep-going
	! grep -rlE '<(script|link|img)[^>]+(src|href)="https?:' --include='*.html' .cache/book-check/_build/html  # it shows offline

notebooks: .venv/ready  ## execute the chapters in place, to commit their outputs
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --ExecutePreprocessor.record_timing=False \
		--ExecutePreprocessor.timeout=900 notebooks/*.ipynb

full: $(patsubst notebooks/profiles/$(PROFILE)/%.yml,book/full/%.ipynb,$(wildcard notebooks/profiles/$(PROFILE)/*.yml))  ## chapters at the scale of PROFILE
	@echo "Done; add to _toc.yml what is new in book/full/. Chapters that are there are not run again."

# IMAGES=folder:PATH takes CIFAR-10 from a folder. Times and paths are removed, links made from the record's own folder.
book/full/%.ipynb: notebooks/profiles/$(PROFILE)/%.yml | .venv/ready
	mkdir -p .cache/full
	$(BIN)/papermill notebooks/$*.ipynb .cache/full/$*.ipynb -f $< $(if $(IMAGES),-p image_set $(IMAGES))
	$(BIN)/jupyter nbconvert --to notebook --inplace --ClearMetadataPreprocessor.enabled=True \
		--ClearMetadataPreprocessor.preserve_nb_metadata_mask="{'kernelspec', 'language_info'}" \
		--ClearMetadataPreprocessor.preserve_cell_metadata_mask="{'tags', 'mystnb'}" .cache/full/$*.ipynb
	sed -e 's#(../book/#(../#g' -e 's#(\([0-9][0-9]_[a-z_]*\.ipynb\)#(../../notebooks/\1#g' .cache/full/$*.ipynb > $@

picture: .venv/ready  ## draw the README's picture
	$(BIN)/python book/picture.py

lint: .venv/ready
	$(BIN)/ruff check .

lock: .venv/ready  ## make requirements.txt anew from pyproject.toml
	$(BIN)/pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --no-emit-index-url --quiet \
		--custom-compile-command "make lock" --output-file requirements.txt

clean:
	rm -rf .venv .cache _build

.venv/ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "metalib needs Python 3.11 or newer: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

# jupyter-book's cache of executed chapters knows their cells only: drop it when the package has changed.
_build/fresh: $(CODE) requirements.txt
	rm -rf _build/.jupyter_cache
	mkdir -p _build
	touch $@
