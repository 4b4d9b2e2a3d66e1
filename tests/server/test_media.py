"""Images, sounds and files, in whatever form clients send them: the model reads text only, and says so."""

from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from conftest import Running

HI: Any = [{"role": "user", "content": "Hi"}]


def post(service: "Running", path: str, **fields: Any) -> httpx.Response:
    body = {"model": service.model, "max_tokens": None if path == "/v1/responses" else 1, **fields}
    return httpx.post(service.url + path, json=body, timeout=60)


MEDIA = [
    [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}],
    [{"type": "input_image", "image_url": "https://example.org/a.png"}],
    [{"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}],
    [
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ],
    [{"type": "file", "file": {"file_id": "f"}}],
    [{"type": "input_file", "file_id": "f"}],
    [{"type": "document", "source": {"type": "url", "url": "https://example.org/a.pdf"}}],
    [{"type": "video_url", "video_url": {"url": "https://example.org/a.mp4"}}],
    [{"image": "AA=="}],
    {"type": "image_url", "image_url": {"url": "x"}},
]


@pytest.mark.parametrize("content", MEDIA)
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/responses", "/v1/messages"])
def test_images_sounds_and_files_are_refused_for_what_they_are(
    service: "Running", path: str, content: Any
) -> None:
    field = "input" if path == "/v1/responses" else "messages"
    answer = post(service, path, **{field: [{"role": "user", "content": content}]})
    assert answer.status_code == 400
    message = answer.json()["error"]["message"]
    assert "this model reads text only" in message
    assert message.startswith(f"{field}.0.content")


def test_media_beside_the_content_and_in_results(service: "Running") -> None:
    shapes: list[tuple[str, Any]] = [
        ("/v1/chat/completions", [{**HI[0], "images": ["AA=="]}]),
        ("/v1/messages", [*HI, {"role": "assistant", "content": [
            {"type": "tool_use", "id": "a", "name": "b", "input": {}}]}, {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "image", "source": {}}]}]}]),
    ]  # fmt: skip
    for path, messages in shapes:
        answer = post(service, path, messages=messages)
        assert answer.status_code == 400
        assert "this model reads text only" in answer.json()["error"]["message"]
