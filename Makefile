BIN := .venv/bin

.PHONY: dev test bench lint format clean

dev: .venv  ## install editable; again after a change in csrc/, it compiles only what changed
	$(BIN)/pip install -e '.[dev]'

.venv:
	python3 -m venv .venv

test:
	$(BIN)/pytest

bench:
	$(BIN)/python bench/run.py

lint:
	.ci/lint

format:
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' | xargs $(BIN)/clang-format -i

clean:
	rm -rf build dist *.egg-info handconv/*.so
