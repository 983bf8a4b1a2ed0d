# `make demo` runs the main job end to end (`make demo MODEL=lcn` that of lifting), `make test` runs the tests; both make
# their own environment.
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
MODEL ?= hmr
# Photographs of your own for `make demo MODEL=openpose`, separated by commas.
PHOTOS ?=
BIN := $(VENV)/bin
RUN := $(BIN)/python

.PHONY: demo lint test notebooks clean

$(VENV)/.installed: setup.py
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check --config-settings editable_mode=compat -e ".[dev]"
	@$(RUN) -c "import cv2" 2>/dev/null || { \
		echo "OpenCV's windows need libGL, which is missing here: installing the build without windows."; \
		$(RUN) -m pip uninstall --quiet --yes opencv-python; \
		$(RUN) -m pip install --quiet --disable-pip-version-check --force-reinstall --no-deps opencv-python-headless; }
	touch $@

demo: $(VENV)/.installed
	$(RUN) tools/demo.py --model=$(MODEL) --output_dir=$(DEMO) --photographs="$(PHOTOS)"

lint: $(VENV)/.installed
	$(BIN)/ruff check .

test: $(VENV)/.installed
	$(RUN) -m pytest -q -n 2 --dist loadfile tests

clean:
	rm -rf $(VENV) $(DEMO) build dist *.egg-info
