"""`hf:ORG/NAME:Q4_K_M`: the file, or the parts, of a repository that have this quantisation."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import hf_hub_download

from sampan.catalog.catalog import cached, remove, resolve
from sampan.catalog.quantisations import label
from sampan.core.errors import ModelNotFound, OfflineError
from sampan.core.settings import Settings

Make = Callable[..., Any]
NAMES = [
    "Model-7B-Q4_K_M.gguf",
    "Model-7B-Q8_0-00001-of-00002.gguf",
    "Model-7B-Q8_0-00002-of-00002.gguf",
    "Model-7B-UD-Q2_K_XL.gguf",
    "BF16/Model-7B-00001-of-00002.gguf",
    "BF16/Model-7B-00002-of-00002.gguf",
    "mmproj-BF16.gguf",
    "imatrix-Q4_K_M.gguf",
]


@pytest.fixture
def many(hub: Any, repo: Make) -> Any:
    """A repository of several models, each file of which holds its own name."""
    hub.repos["a/b"] = repo(**{name: b"GGUF" + name.encode() for name in NAMES})
    return hub


@pytest.mark.parametrize(
    ("wanted", "files"),
    [
        ("Q4_K_M", NAMES[:1]),
        ("q8_0", NAMES[1:3]),
        ("UD-Q2_K_XL", NAMES[3:4]),
        ("Q2_K_XL", NAMES[3:4]),
        ("bf16", NAMES[4:6]),
    ],
)
def test_a_quantisation_picks_its_file_or_all_of_its_parts(
    many: Any, settings: Settings, wanted: str, files: list[str]
) -> None:
    model = f"hf:a/b@{many.repos['a/b'].commit}:{wanted}"
    found = resolve(model, settings)
    assert (found.kind, found.path.read_bytes()) == ("gguf", b"GGUF" + files[0].encode())
    folder = Path(str(found.path).removesuffix(files[0]))
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*.gguf")} == set(files)
    assert resolve(model.lower() if wanted.islower() else model, replace(settings, offline=True)) == found
    assert remove(model, settings) > 0
    assert cached(model, settings) is None


def test_what_no_file_or_several_have_is_named_with_what_there_is(
    many: Any, settings: Settings, repo: Make
) -> None:
    with pytest.raises(ModelNotFound, match=r"'Q3_K_S': there are BF16, Q4_K_M, Q8_0, UD-Q2_K_XL$"):
        resolve("hf:a/b:Q3_K_S", settings)
    many.repos["a/c"] = repo(**dict.fromkeys(("a-Q4_0.gguf", "b.q4_0.gguf"), b"GGUF"))
    with pytest.raises(
        ModelNotFound, match=r"2 models have the quantisation Q4_0: .* a-Q4_0.gguf, b.q4_0.gguf"
    ):
        resolve("hf:a/c:Q4_0", settings)
    many.repos["a/d"] = repo(**{"model.gguf": b"GGUF"})
    with pytest.raises(ModelNotFound, match=r"its files tell none: model.gguf"):
        resolve("hf:a/d:Q4_0", settings)
    many.repos["a/e"] = repo()
    with pytest.raises(ModelNotFound, match=r"it has no \.gguf files"):
        resolve("hf:a/e:Q4_0", settings)
    many.repos["a/f"] = repo(**{NAMES[1]: b"GGUF"})
    with pytest.raises(ModelNotFound, match=rf"a/f lacks {NAMES[2]}, of 2 parts"):
        resolve("hf:a/f:Q8_0", settings)


def test_a_quantisation_in_the_hub_clients_cache_is_used_in_place(
    many: Any, settings: Settings, tmp_path: Path
) -> None:
    offline = replace(settings, hf_cache=tmp_path / "hub-cache", offline=True)

    def fetch(name: str) -> Path:
        return Path(hf_hub_download("a/b", name, cache_dir=offline.hf_cache, endpoint=many.url))

    first = fetch(NAMES[1])
    with pytest.raises(OfflineError):
        resolve("hf:a/b:Q8_0", offline)
    fetch(NAMES[2])
    assert resolve("hf:a/b:Q8_0", offline).path == first


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("qwen2.5-0.5b-instruct-q4_k_m.gguf", "Q4_K_M"),
        ("SmolLM2-135M-Instruct.Q4_1.gguf", "Q4_1"),
        ("Qwen3-0.6B-f16.gguf", "F16"),
        ("gpt-oss-20b-mxfp4.gguf", "MXFP4"),
        ("UD-IQ2_XXS/DeepSeek-R1-UD-IQ2_XXS-00001-of-00004.gguf", "UD-IQ2_XXS"),
        ("Q8_0/bf16-to-Q4_0-v2.gguf", "Q4_0"),
        ("ggml-model.gguf", ""),
        ("Qwen2-Q.gguf", ""),
    ],
)
def test_the_last_word_of_a_path_that_is_one_counts(name: str, expected: str) -> None:
    assert label(name) == expected
