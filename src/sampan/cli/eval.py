"""`sampan eval [MODEL] --tasks A,B`: benchmarks with error bars. `sampan eval compare A B`: two runs, problem
by problem."""

import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sampan.catalog.catalog import DEFAULT
from sampan.cli.eval_view import comparison, progress, table, tasks_table
from sampan.cli.options import AsJson, CacheType, Context, Memory, Seed, System, Temperature, Threads, TopP
from sampan.cli.progress import TerminalProgress
from sampan.cli.session import open_model
from sampan.cli.terminal import say
from sampan.core.errors import UsageError, quoted
from sampan.core.settings import Settings
from sampan.core.types import ModelFiles, SamplingParams

if TYPE_CHECKING:
    from sampan.evals.asker import Asker
    from sampan.evals.run import Plan
    from sampan.evals.sample import RunFolder

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[MODEL] | compare A B | show RUN | tasks",
        help="A model as elsewhere; compare: two runs' folders; show: a run's results; tasks: their names.",
    ),
]
Tasks = Annotated[str | None, typer.Option(help="Names, with commas between them (`sampan eval tasks`).")]
Limit = Annotated[int | None, typer.Option(min=1, help="Problems of each task at most.")]
Samples = Annotated[int, typer.Option(min=1, help="Answers to each problem.")]
Attempts = Annotated[
    str | None, typer.Option(metavar="K,K", help="Also pass@K and majority@K of the answers.")
]
Likelihood = Annotated[
    bool, typer.Option("--likelihood", help="Multiple choice by the likeliest option, without an answer.")
]
Longest = Annotated[int | None, typer.Option(min=1, help="Instead of each task's own.")]
AdapterPath = Annotated[Path | None, typer.Option(help="A LoRA adapter that answers.")]
Url = Annotated[
    str | None, typer.Option(metavar="URL", help="Ask a service of OpenAI's or Anthropic's API instead.")
]
Api = Annotated[str | None, typer.Option(help="openai or anthropic, where the URL does not say.")]
KeyName = Annotated[
    str | None, typer.Option(metavar="NAME", help="The environment variable that has the endpoint's key.")
]
Concurrency = Annotated[int, typer.Option(min=1, help="Questions to an endpoint at once.")]
Price = Annotated[
    str | None, typer.Option(metavar="IN,OUT", help="USD per million tokens, for what the run costs.")
]
Out = Annotated[Path | None, typer.Option(help="The run's folder. [default: evals/MODEL-TIME]")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="Also compute answers that earlier runs have computed.")]


def command(
    words: Words = None,
    tasks: Tasks = None,
    limit: Limit = None,
    samples: Samples = 1,
    attempts: Attempts = None,
    likelihood: Likelihood = False,
    temperature: Temperature = None,
    top_p: TopP = None,
    max_tokens: Longest = None,
    seed: Seed = None,
    system: System = None,
    adapter: AdapterPath = None,
    endpoint: Url = None,
    api: Api = None,
    key_env: KeyName = None,
    concurrency: Concurrency = 16,
    price: Price = None,
    out: Out = None,
    resume: Resume = False,
    fresh: Fresh = False,
    context: Context = None,
    cache: CacheType = None,
    memory: Memory = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model the problems of benchmarks, check its answers, and tell the scores with their errors. Every
    answer is kept in the run's folder."""
    word, *rest = words or [DEFAULT]
    if word in ("compare", "show", "tasks"):
        _read({"compare": 2, "show": 1, "tasks": 0}[word], word, rest, _counts(attempts), as_json=as_json)
        return
    if rest:
        raise UsageError(f"eval {quoted(word)}: one model at a time; {quoted(rest[0])} is one more")
    if not tasks:
        raise UsageError("--tasks: give names, with commas between them; `sampan eval tasks` lists them")
    prices, counts = _prices(price), _counts(attempts)
    if max(counts, default=1) > samples:
        raise UsageError(f"--attempts {max(counts)}: takes as many answers to each problem (--samples)")
    if endpoint is None and (api or key_env):
        raise UsageError("--api and --key-env go with --endpoint")
    if endpoint is not None and (adapter or cache or memory or threads or context or likelihood):
        what = "--adapter, --cache, --memory, --threads, --context and --likelihood"
        raise UsageError(f"{what} are of models that run here: an endpoint has its own")
    sampling = _sampling(samples, temperature, top_p)
    plan = _plan(tasks, limit, samples, sampling, seed or 0, likelihood, max_tokens, system)
    with ExitStack() as stack:
        asker: Asker
        if endpoint is not None:
            asker, weights = _endpoint(endpoint, word, api, key_env, concurrency)
        else:
            options = {"context": context, "cache": cache, "memory": memory, "threads": threads}
            asker, weights = _local(stack, word, options, adapter, fresh=fresh)
        folder = _run(plan, asker, weights, word, out, resume=resume)
    _show(folder, counts, prices, as_json=as_json)


def _sampling(samples: int, temperature: float | None, top_p: float | None) -> SamplingParams:
    """Greedy, unless several answers are asked for."""
    if temperature is None:
        temperature = 0.0 if samples == 1 else 0.7
    if temperature == 0 and top_p is not None:
        raise UsageError("--top-p does nothing at temperature 0: give a --temperature")
    return SamplingParams(temperature=temperature, top_p=1.0 if top_p is None else top_p)


def _plan(
    tasks: str, limit: int | None, samples: int, sampling: SamplingParams, seed: int, likelihood: bool,
    max_tokens: int | None, system: str | None,
) -> "Plan":  # fmt: skip
    try:
        import sampan.evals.results  # noqa: F401 (what lacks is told before anything is asked)
        from sampan.evals.named import benchmarks_of
        from sampan.evals.run import Plan
    except ImportError as error:
        raise _lacking(error) from error
    found = benchmarks_of(tasks, progress=TerminalProgress())
    problems = tuple(task.problems(seed, limit) for task in found)
    return Plan(tuple(found), problems, sampling, samples, seed, likelihood, max_tokens, system)


def _endpoint(
    url: str, model: str, api: str | None, key_env: str | None, concurrency: int
) -> tuple["Asker", str]:
    from sampan.evals.endpoint import Endpoint, Place

    if api not in (None, "openai", "anthropic"):
        raise UsageError(f"--api is {quoted(api)}: openai or anthropic")
    place = Place.of(url, api)  # type: ignore[arg-type]
    name = key_env or ("OPENAI_API_KEY" if place.api == "openai" else "ANTHROPIC_API_KEY")
    if key_env is not None and name not in os.environ:
        raise UsageError(f"--key-env {name}: there is no such environment variable")
    return Endpoint(place, model, os.environ.get(name) or None, concurrency), f"{place.url} {model}"


def _local(
    stack: ExitStack, model: str, options: dict[str, Any], adapter: Path | None, *, fresh: bool
) -> tuple["Asker", str]:
    from sampan.evals.kept import KeptAnswers
    from sampan.evals.local import LocalModel
    from sampan.evals.start import weights_of

    llm = stack.enter_context(
        open_model(model, max_sequences=64, adapters=int(adapter is not None), **options)
    )
    home = Settings.from_env().home
    more = [str(llm.plan.cache)]
    if adapter is not None:
        llm.load_adapter("adapter", adapter)
        more += [weights_of(ModelFiles(adapter, "folder", "adapter", ""), home)]
    identity = weights_of(llm.files, home, *more)
    kept = None if fresh else KeptAnswers(home / "answers.sqlite")
    return LocalModel(
        llm, identity=identity, adapter=None if adapter is None else "adapter", kept=kept
    ), identity


def _run(
    plan: "Plan", asker: "Asker", weights: str, model: str, out: Path | None, *, resume: bool
) -> "RunFolder":
    from sampan.evals.run import run
    from sampan.evals.start import facts_of, opened

    facts = facts_of(plan, model=model, weights=weights)
    folder, facts, done = opened(facts, out, resume=resume)
    try:
        with progress(plan, done) as tell:
            run(plan, asker, folder, tell=tell, done=done)
    except KeyboardInterrupt:
        again = f"--resume --out {quote(str(folder.path))}"
        say(f"stopped; what was answered is kept: the same command with {again} goes on")
        raise
    folder.end(facts)
    return folder


def _show(
    folder: "RunFolder", attempts: Sequence[int], prices: tuple[float, float] | None, *, as_json: bool
) -> None:
    from sampan.evals.results import results

    facts, samples = folder.facts(), folder.samples()
    found = results(facts, samples, attempts=attempts)
    if facts.ended is None:
        say(f"the run has not come to its end: {len(samples)} answers are there (--resume)")
    if as_json:
        for each in found:
            cost = {} if prices is None else {"cost_usd": each.cost(*prices)}
            typer.echo(json.dumps({**each.told(), **cost, "run": str(folder.path)}))
    else:
        typer.echo(table(found, prices))
        say(f"every answer is in {folder.path}")


def _read(count: int, word: str, rest: Sequence[str], attempts: Sequence[int], *, as_json: bool) -> None:
    """What only reads."""
    if len(rest) != count:
        raise UsageError(f"eval {word}: takes {count} folders of runs, and {len(rest)} were given")
    try:
        from sampan.evals.compare import compared
        from sampan.evals.sample import RunFolder
    except ImportError as error:
        raise _lacking(error) from error
    if word == "show":
        _show(RunFolder(Path(rest[0])), attempts, None, as_json=as_json)
    elif word == "tasks":
        typer.echo(tasks_table(as_json=as_json))
    else:
        first, second = (RunFolder(Path(each)) for each in rest)
        found = compared(first, second)
        lines = [json.dumps(each.told()) for each in found] if as_json else [comparison(found)]
        typer.echo("\n".join(lines))


def _counts(text: str | None) -> list[int]:
    """Of --attempts."""
    try:
        found = [int(each) for each in text.split(",")] if text else []
    except ValueError:
        found = [0]
    if any(each < 1 for each in found):
        raise UsageError(f"--attempts {quoted(text)}: give whole numbers from 1 on, with commas between them")
    return found


def _prices(text: str | None) -> tuple[float, float] | None:
    """Of --price."""
    if text is None:
        return None
    try:
        own, more = map(float, text.split(","))
    except ValueError:
        own = more = -1.0
    if own < 0 or more < 0:
        raise UsageError(f"--price {quoted(text)}: give two numbers, such as 0.27,1.10")
    return own, more


def _lacking(error: ImportError) -> UsageError:
    return UsageError(f"measuring lacks {error.name}: install the extra `eval` (pip install 'sampan[eval]')")
