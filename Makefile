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

.PHONY: demo lint test test-versions test-sanitize clean

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
	$(BIN)/clang-format --dry-run --Werror posekit/ops/native/src/*.* posekit/ops/native/cuda/*.* tests/ops/*.cc

# Two processes with a thread each: small operations lose more to sharing than they gain. Files in the order of
# tests/conftest.py, the longest first.
test: $(VENV)/.installed
	TF_NUM_INTRAOP_THREADS=1 OMP_NUM_THREADS=1 $(RUN) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

# One set of libraries, compiled beside the newest TensorFlow, runs the tests of the ops there and beside the oldest.
OLDEST := .venv-oldest
$(OLDEST)/.installed: setup.py
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check "tensorflow==2.18.*" opencv-python-headless \
		"keras>=3.11" numpy scipy pillow h5py matplotlib pycocotools tqdm absl-py tensorboard pytest
	touch $@

test-versions: $(VENV)/.installed $(OLDEST)/.installed
	rm -rf build/versions
	$(RUN) tools/build_ops.py --portable --output_dir=build/versions
	for python in $(RUN) $(OLDEST)/bin/python; do \
		$$python -c "import tensorflow; print('TensorFlow', tensorflow.__version__)" && \
		POSEKIT_NATIVE=1 POSEKIT_NATIVE_DIR=$(CURDIR)/build/versions $$python -m pytest -q tests/ops || exit 1; done

# The compiled ops under the compiler's sanitizers. Python and TensorFlow are not compiled with them: their leaks are
# not looked for, nor their races. Compilers do not run under them. Reports are in build/address and build/thread.
SANITIZED := tests/ops --ignore-glob='*/test_cuda_build.py' --ignore-glob='*/test_native*.py'
test-sanitize: $(VENV)/.installed
	rm -rf build/address build/thread
	for kind in address thread; do $(RUN) tools/build_ops.py --sanitize=$$kind --output_dir=build/$$kind || exit 1; done
	POSEKIT_NATIVE=1 POSEKIT_NATIVE_DIR=$(CURDIR)/build/address \
		LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libstdc++.so.6)" \
		ASAN_OPTIONS=detect_leaks=0,log_path=$(CURDIR)/build/address/report $(RUN) -m pytest -q $(SANITIZED)
	POSEKIT_NATIVE=1 POSEKIT_NATIVE_DIR=$(CURDIR)/build/thread LD_PRELOAD=$$(g++ -print-file-name=libtsan.so) \
		TSAN_OPTIONS="ignore_noninstrumented_modules=1 exitcode=66 log_path=$(CURDIR)/build/thread/report" \
		$(RUN) -m pytest -q $(SANITIZED)

clean:
	rm -rf $(VENV) $(OLDEST) $(DEMO) build dist *.egg-info
