"""Adapters and weights while the model is served, for whoever runs the service."""

from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends
from pydantic import BaseModel, Field

from sampan.core.errors import quoted
from sampan.server.ask import Caller
from sampan.server.body import JsonRoute
from sampan.server.door import Caller_, Service_
from sampan.server.errors import ApiError
from sampan.server.openapi import errors
from sampan.server.schemas import Body


async def administrator(caller: Caller_, service: Service_) -> Caller:
    """Who may change the model: a key made for it; without keys, whoever reaches the service."""
    if service.admission.asks and not caller.admin:
        message = "this key may not change the model: one made with `sampan keys create --admin` may"
        raise ApiError(403, message, kind="permission_error", code="not_an_administrator")
    return caller


router = APIRouter(
    dependencies=[Depends(administrator)],
    route_class=JsonRoute,
    responses=errors(400, 401, 403, 404, 408, 409, 413, 415, 503),
)


class LoadAdapter(Body):
    """`lora_path`: on the service's machine, a folder that PEFT wrote or a GGUF file."""

    lora_name: Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[\w./:@+-]+$")]
    lora_path: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class UnloadAdapter(Body):
    """By the name it was loaded with."""

    lora_name: str


class UpdateWeights(Body):
    """`path`: a safetensors file, or a folder of them, on the service's machine."""

    path: Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]+$")]


class State(BaseModel):
    """What is served now."""

    models: list[str]
    weights_version: int


@router.post("/v1/load_lora_adapter")
async def load_adapter(body: LoadAdapter, service: Service_) -> State:
    """Load a LoRA adapter; requests choose it by its name as the model."""
    if body.lora_name in service.models:
        raise ApiError(409, f"{quoted(body.lora_name)} is served already: unload it first", param="lora_name")
    await service.supervisor.change("load", body.lora_name, Path(body.lora_path))
    return _state(service)


@router.post("/v1/unload_lora_adapter")
async def unload_adapter(body: UnloadAdapter, service: Service_) -> State:
    """Take an adapter away; requests that use it are answered."""
    if body.lora_name not in service.supervisor.changes.adapters:
        raise ApiError(404, f"no adapter {quoted(body.lora_name)} is loaded", param="lora_name")
    await service.supervisor.change("unload", body.lora_name, Path())
    return _state(service)


@router.post("/v1/update_weights")
async def update_weights(body: UpdateWeights, service: Service_) -> State:
    """New weights in place, once the requests that run are answered."""
    await service.supervisor.change("update", "", Path(body.path))
    return _state(service)


def _state(service: Service_) -> State:
    return State(models=service.models, weights_version=service.supervisor.weights_version)
