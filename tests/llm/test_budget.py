"""What a budget promises, seen from outside: the resident memory of a process that uses all of it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from sampan.core.types import ModelFiles

# Prints the plan, and by how many bytes the process grew from before loading to its peak.
SCRIPT = """
import json, resource, sys
import sampan.llm, tokenizers
from sampan import LLM, SamplingParams

def resident(name):
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return int(lines[name].split()[0]) * 1024

before = resident("VmRSS")
llm = LLM(memory=int(sys.argv[1]), context=512, max_sequences=16)
prompts = [[n + 5] * 400 for n in range(llm.plan.cache_tokens // 400 + 1)]
llm.generate(prompts, SamplingParams(max_tokens=2, temperature=0, ignore_eos=True))
llm.score([7] * 512)
assert llm.engine.pool.cached >= llm.engine.pool.count - 16, "the cache is not full"
print(json.dumps(vars(llm.plan) | {"grown": resident("VmHWM") - before}))
"""
TEXT = 36_000_000  # the tokenizer, and what building it leaves behind


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_a_process_stays_under_its_budget(default_model: ModelFiles) -> None:
    assert default_model.path.is_file()
    memory = 165_000_000
    command = [sys.executable, "-c", SCRIPT, str(memory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    planned = row["weights_bytes"] + row["workspace_bytes"] + row["cache_bytes"]
    assert memory - 1_000_000 < planned <= memory
    assert 0.8 * memory < row["grown"] < memory + TEXT
