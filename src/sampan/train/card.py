"""The card of an adapter or of a model, as hubs have them: what it was made of, how, and what came of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCardData

from sampan.catalog.catalog import Entry, find
from sampan.core.rows import write_text
from sampan.train.report.page import duration
from sampan.train.report.read import Run, Test, read_run


def write_card(folder: Path, made: Path) -> None:
    """`README.md` beside what the run in `folder` made: the adapter's folder `made`, or the model's."""
    whole = made.name == "model"
    write_text(made / "README.md", card_of(read_run(folder), whole=whole))


def card_of(run: Run, *, whole: bool = False) -> str:
    """The card as text. `whole`: of a model, not of an adapter."""
    return "\n".join(line for part in _parts(run, whole) for line in (*part, "")).rstrip() + "\n"


def _parts(run: Run, whole: bool) -> Iterator[list[str]]:
    model, name = run.about.model, run.about.recipe
    entry = find(model)
    kinds = ", then ".join(stage.kind for stage in run.stages)
    made = "A model made of" if whole else "A LoRA adapter for"
    yield ["---", _front(run, entry, whole).to_yaml(), "---"]
    yield [f"# {name}"]
    yield [
        f"{made} {_base(model, entry)}, trained with [Sampan](https://pypi.org/project/sampan/) "
        f"{run.about.versions['sampan']} by {kinds}."
    ]
    yield ["## Before and after", "", *_table(list(run.tests))]
    yield ["## Base", "", *_licence(run, entry)]
    yield ["## Use", "", *(_use_of_model() if whole else _use(model, name))]
    yield ["## Recipe", "", *_facts(run), "", *_fenced("python", run.about.text)]


def _front(run: Run, entry: Entry | None, whole: bool) -> ModelCardData:
    model = run.about.model
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=test.name,
            dataset_name=f"{test.name}: {test.rows[-1]['problems']} problems that training never saw",
            metric_type="accuracy",
            metric_name="mean reward of greedy answers",
            metric_value=round(test.rows[-1]["accuracy"], 4),
        )
        for test in run.tests
    ]
    # The hub's library takes results only with a name.
    return ModelCardData(
        base_model=_hub_name(model, entry),
        license=run.about.licence,
        library_name="transformers" if whole else "peft",
        pipeline_tag="text-generation",
        tags=[
            *([] if whole else ["lora", "peft"]),
            "sampan",
            *dict.fromkeys(stage.kind for stage in run.stages),
        ],
        model_name=run.about.recipe if results else None,
        eval_results=results or None,
    )


def _hub_name(model: str, entry: Entry | None) -> str:
    """Of the base, as far as it has a name there; otherwise what the recipe calls it."""
    source = model if entry is None else entry.source
    if source.startswith("hf:"):
        return source.removeprefix("hf:").partition("@")[0]
    return Path(model).name if entry is None else entry.published or entry.alias


def _base(model: str, entry: Entry | None) -> str:
    name = _hub_name(model, entry)
    return f"[{name}](https://huggingface.co/{name})" if "/" in name else f"`{name}`"


def _table(tests: Sequence[Test]) -> list[str]:
    if not tests:
        return ["The recipe measures nothing."]
    rows = ["| test | problems | before | after | difference (95%) |", "|---|---:|---:|---:|---:|"]
    for test in tests:
        first, last, apart = test.rows[0], test.rows[-1], test.difference
        before, after = test.mean(first), "–" if apart is None else test.mean(last)
        rows.append(f"| {_cell(test.name)} | {last['problems']} | {before} | {after} | {test.interval()} |")
    told = (
        "Greedy answers to problems that training never saw; ± is a standard error; differences are taken "
        "problem by problem where both have the same."
    )
    return [*rows, "", told]


def _licence(run: Run, entry: Entry | None) -> list[str]:
    model, terms = run.about.model, None if entry is None else entry.terms
    if entry is None or terms is None:
        known = f"The licence of `{model}` is {run.about.licence or 'not told by its files'}"
        return [f"{known}: it holds for what is derived from it, too."]
    return [
        f"`{model}` ({entry.source}). {terms.name}: {terms.allows} {terms.asks}", "", f"<{terms.url}>"
    ]  # fmt: skip


def _use(model: str, name: str) -> list[str]:
    serve = [f"sampan serve {model} --adapter {_word(name)}=adapter --max-adapters 1"]
    peft = [
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f'base = "{_hub_name(model, find(model))}"',
        "tokenizer = AutoTokenizer.from_pretrained(base)",
        'model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), "adapter")',
    ]
    return [
        "With Sampan, on the very weights that it was trained on:", "", *_fenced("sh", *serve), "",
        "With transformers and PEFT, on the base as it was published:", "", *_fenced("python", *peft),
    ]  # fmt: skip


def _use_of_model() -> list[str]:
    theirs = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained("model")',
        'tokenizer = AutoTokenizer.from_pretrained("model")',
    ]
    return ["With Sampan:", "", *_fenced("sh", "sampan serve ./model"), "", "With transformers:", "",
        *_fenced("python", *theirs)]  # fmt: skip


def _facts(run: Run) -> list[str]:
    done, planned = run.steps
    versions = ", ".join(f"{name} {value}" for name, value in run.about.versions.items())
    machine = ", ".join(f"{name}: {value}" for name, value in run.about.machine.items())
    return [
        f"- Seed {run.about.seed}; {done} of {planned} steps in {duration(run.seconds)}.",
        f"- Versions: {versions}.",
        f"- Machine: {machine}.",
        f"- Data: {'; '.join(run.about.sources)}. Problems to train and to test with are disjoint by a hash "
        "of the question.",
    ]


def _fenced(language: str, *lines: str) -> list[str]:
    """A fence longer than any within."""
    text = "\n".join(lines).rstrip("\n")
    fence = "```"
    while fence in text:
        fence += "`"
    return [f"{fence}{language}", text, fence]


def _word(name: str) -> str:
    return "".join(sign if sign.isalnum() or sign in "-_." else "-" for sign in name)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
