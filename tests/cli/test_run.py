"""`sampan run`: the answer on stdout, everything else elsewhere."""

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sampan.core.types import ModelFiles
from sampan.text.tokenizer import Tokenizer
from sampan.weights.checkpoint import open_checkpoint

GREEDY = ("--temperature", "0")
ENDLESS = (*GREEDY, "--logit-bias", "2=-100")  # without its end-of-turn token the model never stops
KEYS = {
    "text",
    "reasoning",
    "finish_reason",
    "prompt_tokens",
    "completion_tokens",
    "load_s",
    "ttft_s",
    "decode_tps",
}
# Greedy decoding goes on with the pattern, and so writes a block of reasoning.
THINKING = "Say: <think>red</think>blue\n" * 4 + "Say:"
THINK = ("--raw", THINKING, *GREEDY, "--stop", "\n")


def _tokenizer(model: ModelFiles) -> Tokenizer:
    with open_checkpoint(model) as checkpoint:
        return Tokenizer.from_gguf(checkpoint.metadata)


def test_json_is_the_streamed_answer_with_its_figures(sampan: Any, default_model: ModelFiles) -> None:
    words = ("smollm2-135m", "Name three rivers.", *GREEDY, "--max-tokens", "12")
    streamed = sampan("run", *words)
    assert (streamed.returncode, streamed.stderr) == (0, "")
    row = json.loads(sampan("run", *words, "--json", "--logprobs", "2").stdout)
    assert set(row) == KEYS | {"logprobs"}
    assert streamed.stdout == row["text"] + "\n"
    assert (row["finish_reason"], row["completion_tokens"], row["reasoning"]) == ("length", 12, "")
    assert min(row["load_s"], row["ttft_s"], row["decode_tps"]) > 0
    assert [token["id"] for token in row["logprobs"]] == [token["top"][0]["id"] for token in row["logprobs"]]
    assert all(len(token["top"]) == 2 and token["logprob"] <= 0 for token in row["logprobs"])
    assert _tokenizer(default_model).decode([token["id"] for token in row["logprobs"]]) == row["text"]


def test_raw_prompt_from_stdin_ends_at_a_stop_string(sampan: Any, default_model: ModelFiles) -> None:
    prompt = "1, 2, 3, 4, 5, 6,"
    done = sampan("run", "-", "--raw", "--json", "--stop", " 9", "--stop", "never", *GREEDY, stdin=prompt)
    row = json.loads(done.stdout)
    assert set(row) == KEYS
    assert (row["text"], row["finish_reason"]) == (" 7, 8,", "stop")
    assert row["prompt_tokens"] == len(_tokenizer(default_model).encode(prompt))


def test_a_seed_fixes_the_answer_whatever_the_threads(sampan: Any) -> None:
    words = ("run", "Invent a name.", "--temperature", "1.5", "--max-tokens", "16", "--system", "Be odd.")
    one = sampan(*words, "--seed", "7", "--threads", "1").stdout
    assert one == sampan(*words, "--seed", "7").stdout
    assert one != sampan(*words, "--seed", "8").stdout


def test_logit_bias_and_penalties_reach_the_sampler(sampan: Any, default_model: ModelFiles) -> None:
    river, lake = (_tokenizer(default_model).encode(text, add_bos=False)[0] for text in (" river", " lake"))
    bias = ("--logit-bias", f"{river}=60", "--logit-bias", f"{lake}=60")
    words = ("run", "Hi", *GREEDY, "--max-tokens", "12", *bias)
    assert set(sampan(*words, "--logit-bias", f"{river}=100").stdout.split()) == {"river"}
    # Each use costs 2, so that the other word's turn comes.
    assert set(sampan(*words, "--frequency-penalty", "2").stdout.split()) == {"river", "lake"}


def test_reasoning_is_kept_from_pipes_and_dimmed_on_terminals(
    sampan: Any, terminal: Callable[[], Any]
) -> None:
    row = json.loads(sampan("run", *THINK, "--json").stdout)
    assert (row["reasoning"], row["text"].strip()) == ("red", "blue")
    assert sampan("run", *THINK).stdout.strip() == "blue"
    screen = terminal()
    process = sampan.start("run", *THINK, stdin=screen.inside, stdout=screen.inside, stderr=screen.inside)
    assert process.wait(60) == 0
    seen = screen.rest()
    assert "\x1b[2mred\x1b[0mblue" in seen
    assert "\x1b[2m" in seen.splitlines()[-1]
    assert "tokens/s" in seen.splitlines()[-1]


def test_interrupted_answer_stays_and_the_exit_code_is_130(sampan: Any) -> None:
    process = sampan.start("run", "Tell a story.", *ENDLESS)
    beginning = process.stdout.read(10)
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "")
    assert len(beginning) == 10
    assert rest.endswith("\n")


def test_interrupted_json_is_whole_and_says_abort(sampan: Any) -> None:
    for seconds in (2, 5, 15, 30):  # until the model is loaded
        process = sampan.start("run", "Tell a story.", *ENDLESS, "--json")
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (130, "")
        if out and json.loads(out)["text"]:
            break
    row = json.loads(out)
    assert set(row) == KEYS
    assert row["finish_reason"] == "abort"
    assert row["completion_tokens"] > 0


def test_reasoning_ends_after_its_budget(sampan: Any, default_model: ModelFiles, tmp_path: Path) -> None:
    folder = tmp_path / "thinker"
    sampan("quantize", str(default_model.path), str(folder))
    opened = "{% for m in messages %}{{ m.content }}{% endfor %}\n<think>\n"
    (folder / "chat_template.jinja").write_text(opened)
    words = ("run", str(folder), "A long story:", "--max-tokens", "24", "--temperature", "0", "--json")
    free, cut = (json.loads(sampan(*words, *more).stdout) for more in ((), ("--max-reasoning-tokens", "5")))
    assert (free["text"], free["finish_reason"]) == ("", "length")
    assert cut["text"].strip()
    assert free["reasoning"].startswith(cut["reasoning"].removesuffix("\n"))
