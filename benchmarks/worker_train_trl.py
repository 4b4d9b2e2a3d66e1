"""Steps of GRPO by TRL's GRPOTrainer on the CPU: `worker_train_trl.py FOLDER THREADS VARIANT`.

`defaults`: what GRPOConfig gives where nothing is said. `float32`, `bfloat16`: all answers of a step in one
pass, no gradient checkpointing, weights and arithmetic in this type. Answers come from transformers' own
generation in all of them: the others that TRL knows need a GPU or a server of their own.
"""

import os
import sys
import tempfile
import time
from typing import Any

os.environ["OMP_NUM_THREADS"] = sys.argv[2]  # read on import
import torch
import trl
from datasets import Dataset
from peft import LoraConfig
from transformers import TrainerCallback

from protocol import Handlers, Values, peak_memory, serve
from train_questions import MODULES, PROMPTS, RANK, SAMPLES, TOKENS, questions, worth

_ONE_PASS = {"per_device_train_batch_size": PROMPTS * SAMPLES, "gradient_checkpointing": False}
VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {"gradient_accumulation_steps": PROMPTS},
    "float32": {**_ONE_PASS, "bf16": False, "model_init_kwargs": {"dtype": "float32"}},
    "bfloat16": {**_ONE_PASS, "bf16": True, "model_init_kwargs": {"dtype": "bfloat16"}},
}


class Steps(TrainerCallback):
    """When each step ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_begin(self, *_args: Any, **_how: Any) -> None:
        self.ends.append(time.perf_counter())

    def on_step_end(self, *_args: Any, **_how: Any) -> None:
        self.ends.append(time.perf_counter())


class Worker:
    """A trainer and what it is asked."""

    def __init__(self, folder: str, threads: int, variant: str) -> None:
        torch.set_num_threads(threads)
        self.folder, self.how = folder, VARIANTS[variant]

    def steps(self, count: int) -> Values:
        """Seconds of each step after the first, and how far trainer and sampler are apart."""
        with tempfile.TemporaryDirectory() as out:
            clock, lengths = Steps(), []

            def reward(completions: list[Any], completion_ids: list[list[int]], **_rest: Any) -> list[float]:
                lengths.append(sum(map(len, completion_ids)) / len(completion_ids))
                return [worth(completion[0]["content"]) for completion in completions]

            trainer = self._trainer(out, count + 1, reward, clock)
            trainer.train()
            seconds = [end - begin for begin, end in zip(clock.ends, clock.ends[1:], strict=False)]
            steps = [{"seconds": s, "length": length} for s, length in zip(seconds, lengths, strict=True)]
            peak = peak_memory()
            return {"steps": steps[1:], "peak": peak, "gap": self._gap(trainer)}

    def _trainer(self, out: str, steps: int, reward: Any, clock: Steps) -> Any:
        rows = [{"prompt": [{"role": "user", "content": text}]} for text in questions(PROMPTS * steps)]
        config = trl.GRPOConfig(
            output_dir=out, use_cpu=True, max_steps=steps, num_generations=SAMPLES, temperature=1.0,
            max_completion_length=TOKENS, learning_rate=1e-5, save_strategy="no", report_to="none",
            **self.how,
        )  # fmt: skip
        lora = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules=list(MODULES), task_type="CAUSAL_LM", lora_dropout=0.0
        )
        return trl.GRPOTrainer(
            model=self.folder, reward_funcs=reward, args=config, train_dataset=Dataset.from_list(rows),
            peft_config=lora, callbacks=[clock],
        )  # fmt: skip

    def _gap(self, trainer: Any) -> float:
        """The largest difference of a token's log-probability between the logits that it was sampled from
        and what the trainer computes for it before an update."""
        tokenizer, model = trainer.processing_class, trainer.model
        asked = [[{"role": "user", "content": text}] for text in questions(PROMPTS)]
        texts = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
        given = tokenizer(
            texts, return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        model.eval()
        with torch.no_grad():
            made = model.generate(
                **given, generation_config=trainer.generation_config, return_dict_in_generate=True,
                output_logits=True,
            )  # fmt: skip
            answers = made.sequences[:, given["input_ids"].shape[1] :]
            sampled = (
                torch.stack(made.logits, 1).float().log_softmax(-1).gather(-1, answers[..., None])[..., 0]
            )
            seen = torch.cat((given["attention_mask"], torch.ones_like(answers)), 1)
            model.train()
            trained = trainer._get_per_token_logps_and_entropies(
                model, made.sequences, seen, answers.shape[1]
            )[0]
        ended = (answers == tokenizer.eos_token_id).cumsum(1)
        counted = (ended == 0) | ((ended == 1) & (answers == tokenizer.eos_token_id))
        return float((trained.float() - sampled).abs()[counted].max())


def load() -> tuple[Values, Handlers]:
    worker = Worker(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    return {"version": trl.__version__}, {"steps": worker.steps}


if __name__ == "__main__":
    serve(load)
