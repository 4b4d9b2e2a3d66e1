# make run    set everything up and answer a question with the default model
# make test   set everything up and pass the tests
# make check  linters, types, import rules; the C++ build treats warnings as errors
# make bench  measure beside llama.cpp and OpenVINO GenAI on this machine (builds the first one; about an hour)
#             BENCH= passes options on: --quick, --rounds N, --scenarios a,b, --resume, --vllm-python PYTHON
# make bench-serve  the same for the services: sampan serve, llama-server, OpenVINO GenAI behind a front of ours
#             BENCH= passes options on: --quick, --rounds N, --clients N, --servers a,b
# make bench-train  a step of GRPO beside TRL on the CPU (installs it; BENCH= passes on --rounds N, --steps N)
# make clients  drive the service with the clients that people have: SDKs, agents, the JDK, curl (installs them; needs npm)
#             CLIENTS= passes options on: --only NAME..., --json FILE
# make reason  teach the default model sums for three seeds, and tell what came of it (about half an hour on two cores)
#             REASON= passes options on: --recipes chain_sum,cold_start,... --seeds 0,1,2
# make asan   kernel and engine tests, C++ and Python, under the address and undefined-behaviour sanitizers; the pool and
#             a whole step under the thread sanitizer
# make neon   kernel tests of the Arm build, cross-compiled, under emulation

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
QUESTION ?= What is the capital of France?
# Tests that a busy machine does not disturb: they run on two processes.
BESIDE := $(addprefix tests/,catalog core evals families kernels models oracle text weights)
NATIVE := $(wildcard src/sampan/kernels/cpu/native/*) CMakeLists.txt

.PHONY: run test check bench bench-serve bench-train reason clients clean
.DELETE_ON_ERROR:

run: $(VENV)/.base
	$(BIN)/sampan run "$(QUESTION)" --temperature 0

test: $(VENV)/.test $(VENV)/.tools
	$(BIN)/python -m pytest -n 2 --dist loadfile $(BESIDE)
	$(BIN)/python -m pytest $(addprefix --ignore=,$(BESIDE))

check: $(VENV)/.check $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run -Werror $(wildcard src/sampan/kernels/cpu/native/* tests/native/*.cpp tests/native/*.h)
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.base $(VENV)-bench/.peers
	$(BIN)/python benchmarks/run.py --peer-python $(VENV)-bench/bin/python $(BENCH)

bench-serve: $(VENV)/.base $(VENV)-bench/.servers
	$(BIN)/python benchmarks/serving.py --peer-python $(VENV)-bench/bin/python \
	  --llama-server $(VENV)-bench/bin/llama-server $(BENCH)

bench-train: $(VENV)/.train $(VENV)-trl/.ready
	$(BIN)/python benchmarks/train_step.py --peer-python $(VENV)-trl/bin/python $(BENCH)

reason: $(VENV)/.train
	$(BIN)/python benchmarks/reason.py $(REASON)

clients: $(VENV)/.test $(VENV)-clients/.ready
	cp clients/node/*.mjs $(VENV)-clients/node/
	$(BIN)/python clients/run.py --python $(VENV)-clients/bin/python --node $(VENV)-clients/node $(CLIENTS)

asan tsan: $(VENV)/.test

clean:
	rm -rf $(VENV) $(VENV)-bench $(VENV)-trl $(VENV)-clients build

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found: install Python 3.11 or newer, or set PYTHON=" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "make: $(PYTHON) is $$($(PYTHON) -V 2>&1): Sampan needs 3.11 or newer; set PYTHON=" >&2; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "make: no C++ compiler ($${CXX:-c++}): install one (Debian: apt install g++, macOS: xcode-select --install), or set CXX=" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' || { echo "make: $(PYTHON) has no venv module: install it (Debian: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

# Editable: the tests and the command run this tree. A changed kernel rebuilds.
$(VENV)/.base: $(VENV)/.python pyproject.toml $(NATIVE)
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(VENV)/.test: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@

$(VENV)/.train: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable '.[train]'
	@touch $@

$(VENV)/.check: $(VENV)/.base
	$(BIN)/python -m pip install --quiet --editable '.[check]'
	@touch $@

# For the tests of pages and sandboxes: the system's Chromium and bubblewrap, or Debian's where we may install them.
$(VENV)/.tools: $(VENV)/.python
	@{ command -v chromium || command -v chromium-browser || command -v google-chrome; } && command -v bwrap || { \
	  test "$$(id -u)" = 0 && command -v apt-get && apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends chromium bubblewrap > $(VENV)/tools.log; } || \
	  echo "make: no Chromium or bubblewrap: their tests will be skipped (Debian: apt install chromium bubblewrap)" >&2
	@touch $@

$(VENV)-bench/.peers:
	$(PYTHON) -m venv $(VENV)-bench
	CMAKE_ARGS="-DGGML_NATIVE=ON" $(VENV)-bench/bin/python -m pip install --quiet --no-binary llama-cpp-python \
	  llama-cpp-python==0.3.36 'openvino-genai>=2026.4,<2026.5' 'gguf>=0.17,<1'
	@touch $@

# The torch that Sampan's training uses, so that both compute with the same kernels of PyTorch.
$(VENV)-trl/.ready:
	$(PYTHON) -m venv $(VENV)-trl
	$(VENV)-trl/bin/python -m pip install --quiet torch==2.13.0 trl==1.16.0 transformers==5.24.0 'peft>=0.18,<1' \
	  'datasets>=5,<6'
	@touch $@

# llama.cpp's own server comes from the same source package as the library that `make bench` measures.
$(VENV)-bench/.servers: $(VENV)-bench/.peers
	$(VENV)-bench/bin/python -m pip install --quiet 'llama-cpp-python[server]==0.3.36' httptools uvloop cmake ninja
	$(VENV)-bench/bin/python -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest build/llama \
	  llama-cpp-python==0.3.36
	tar -xzf build/llama/llama_cpp_python-0.3.36.tar.gz -C build/llama
	PATH="$(CURDIR)/$(VENV)-bench/bin:$$PATH" cmake -S build/llama/llama_cpp_python-0.3.36/vendor/llama.cpp \
	  -B build/llama/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DBUILD_SHARED_LIBS=OFF \
	  -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_USE_PREBUILT_UI=OFF \
	  -DLLAMA_OPENSSL=OFF
	PATH="$(CURDIR)/$(VENV)-bench/bin:$$PATH" cmake --build build/llama/build --target llama-server
	cp build/llama/build/bin/llama-server $(VENV)-bench/bin/
	@touch $@

$(VENV)-clients/.ready: clients/requirements.txt clients/node/package.json
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/python -m pip install --quiet -r clients/requirements.txt
	mkdir -p $(VENV)-clients/node
	cp clients/node/package.json $(VENV)-clients/node/
	npm install --prefix $(VENV)-clients/node --no-audit --no-fund --no-package-lock
	npm rebuild --prefix $(VENV)-clients/node --ignore-scripts=false @anthropic-ai/claude-code
	@touch $@

include native.mk
