# The C++ tests of the native kernels. Included by the Makefile, and complete on its own: make -f native.mk native
# The Python tests need the packages of $(VENV), which the Makefile sets up.
#   native  plain build: every instruction set of this machine equals the scalar kernels, and the pool keeps its promises
#   asan    the same under AddressSanitizer and UndefinedBehaviorSanitizer, the Python tests of kernels and engine
#           with an extension built so, then `tsan`
#   tsan    the pool and a whole step under ThreadSanitizer
#   neon    cross-compiled for AArch64, run under QEMU, and its digests compared with this machine's

.PHONY: native asan tsan neon run-native run-asan run-tsan run-neon asan-python neon-tools

native_source := src/sampan/kernels/cpu/native
native_tests := tests/native
native_build := build/native
native_headers := $(wildcard $(native_source)/*.h $(native_tests)/*.h)
native_machine := $(shell uname -m)
VENV ?= .venv
native_jobs := $(shell getconf _NPROCESSORS_ONLN)
comma := ,

CROSS_CXX ?= aarch64-linux-gnu-g++
QEMU ?= qemu-aarch64

# Flags of one instruction set's file, as in CMakeLists.txt. GCC's own intrinsics trip -Wuninitialized (GCC bug 105593).
intrinsics := -Wno-unknown-warning-option -Wno-uninitialized -Wno-maybe-uninitialized
flags_avx2 := -mavx2 -mfma -mf16c $(intrinsics)
flags_avx512 := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512vnni $(intrinsics)
flags_avx512_bf16 := $(flags_avx512) -mavx512bf16 -mavx512vbmi
flags_neon := -march=armv8.2-a+dotprod+fp16
vectors_x86_64 := avx2 avx512 avx512_bf16
vectors_aarch64 := neon
vectors_arm64 := neon

kernels_files := test_kernels linear rows maps states attention dispatch scalar
pool_files := test_pool plan store mixture pool program program_experts program_head program_heads program_memory program_products \
  program_states program_stored expert_store \
  adapters attention_plan check experts memory dispatch scalar

# $(1) variant, $(2) compiler, $(3) flags, $(4) instruction sets
define native_variant
$(native_build)/$(1):
	@mkdir -p $$@
$(native_build)/$(1)/%.o: $(native_source)/%.cpp $$(native_headers) | $(native_build)/$(1)
	$(2) -std=c++20 -g -ffp-contract=off -I$(native_source) $(3) $$(flags_$$*) -c $$< -o $$@
$(native_build)/$(1)/%.o: $(native_tests)/%.cpp $$(native_headers) | $(native_build)/$(1)
	$(2) -std=c++20 -g -ffp-contract=off -I$(native_source) $(3) -c $$< -o $$@
$(native_build)/$(1)/test_kernels: $(patsubst %,$(native_build)/$(1)/%.o,$(kernels_files) $(4))
	$(2) $(3) $$^ -pthread -o $$@
$(native_build)/$(1)/test_pool: $(patsubst %,$(native_build)/$(1)/%.o,$(pool_files) $(4))
	$(2) $(3) $$^ -pthread -o $$@
endef
$(eval $(call native_variant,plain,$(CXX),-O2 -Wall -Wextra -Werror,$(vectors_$(native_machine))))
$(eval $(call native_variant,asan,$(CXX),-O1 -fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer,$(vectors_$(native_machine))))
$(eval $(call native_variant,tsan,$(CXX),-O1 -fsanitize=thread,$(vectors_$(native_machine))))
$(eval $(call native_variant,neon,$(CROSS_CXX),-O2 -Wall -Wextra -Werror -static,neon))

native asan tsan:
	@$(MAKE) --no-print-directory -f native.mk -j$(native_jobs) run-$@
neon: neon-tools
	@$(MAKE) --no-print-directory -f native.mk -j$(native_jobs) run-neon

run-native: $(native_build)/plain/test_kernels $(native_build)/plain/test_pool
	$(native_build)/plain/test_kernels
	$(native_build)/plain/test_pool
run-asan: $(native_build)/asan/test_kernels $(native_build)/asan/test_pool run-tsan
	$(native_build)/asan/test_kernels
	$(native_build)/asan/test_pool
	@$(MAKE) --no-print-directory -f native.mk asan-python
run-tsan: $(native_build)/tsan/test_pool
	$(native_build)/tsan/test_pool

# A bare environment over $(VENV): its packages, but an extension of its own. The editable finder of $(VENV) would
# come before PYTHONPATH.
$(native_build)/asan-python/.built: $(wildcard $(native_source)/*) CMakeLists.txt pyproject.toml
	$(VENV)/bin/python -m venv --clear --without-pip $(@D)
	$(VENV)/bin/python -m pip --python $(@D)/bin/python install --quiet --no-deps --editable . \
	  --config-settings=cmake.define.SAMPAN_SANITIZE=address,undefined --config-settings=cmake.build-type=RelWithDebInfo \
	  --config-settings=install.strip=false --config-settings=build-dir=$(native_build)/asan-cmake
	$(VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > $(native_build)/asan-cmake/packages.pth
	mv $(native_build)/asan-cmake/packages.pth "$$($(@D)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@touch $@

# Python is not built with the sanitizers, so their runtimes come first; libstdc++ with them, or no exception is
# thrown. CPython keeps memory to the end: no leaks are looked for. pytest must leave stderr to the reports.
# Left out: the soak run, which measures resident memory and where freed memory is kept for the reports, and the test
# that limits the address space, of which the runtime reserves terabytes.
asan_preload = $(foreach library,asan ubsan stdc++,$(shell $(CXX) -print-file-name=lib$(library).so))
asan-python: $(native_build)/asan-python/.built
	LD_PRELOAD="$(asan_preload)" ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 PYTHONMALLOC=malloc \
	  $(native_build)/asan-python/bin/python -m pytest --capture=sys tests/kernels tests/engine tests/weights/test_packed.py \
	  --ignore=tests/engine/test_soak.py \
	  --deselect=tests/kernels/test_pool.py::test_threads_that_the_system_refuses_are_an_error_and_not_the_end

run-neon: $(native_build)/plain/test_kernels $(native_build)/neon/test_kernels
	$(native_build)/plain/test_kernels > $(native_build)/plain/results || { cat $(native_build)/plain/results; exit 1; }
	$(QEMU) -cpu max $(native_build)/neon/test_kernels > $(native_build)/neon/results || { cat $(native_build)/neon/results; exit 1; }
	@cat $(native_build)/plain/results $(native_build)/neon/results
	@if [ "$$(sed -n 's/^digest .* //p' $(native_build)/plain/results $(native_build)/neon/results | sort -u | wc -l)" = 1 ]; \
	  then echo "all digests are equal"; else echo "neon: the digests above differ" >&2; exit 1; fi

neon-tools:
	@command -v $(CROSS_CXX) > /dev/null || { echo "neon: $(CROSS_CXX) is missing; on Debian or Ubuntu: apt-get install g++-aarch64-linux-gnu" >&2; exit 1; }
	@command -v $(QEMU) > /dev/null || { echo "neon: $(QEMU) is missing; on Debian or Ubuntu: apt-get install qemu-user" >&2; exit 1; }
