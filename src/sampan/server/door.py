"""What every endpoint takes from its request: the service, and who asks."""

from typing import Annotated

from fastapi import Depends, Request

from sampan.server.ask import Caller
from sampan.server.service import Service
from sampan.server.watch import logs


async def service_of(request: Request) -> Service:
    """The service that this application was made for."""
    service: Service = request.app.state.service
    return service


Service_ = Annotated[Service, Depends(service_of)]


async def caller_of(request: Request, service: Service_) -> Caller:
    """Who asks; a 401 for a key that is missing, wrong, revoked or expired. Where there is a body, the guard
    has looked already."""
    caller: Caller = getattr(request.state, "caller", None) or service.admission.caller(request.headers)
    logs.note(key=caller.key)
    return caller


Caller_ = Annotated[Caller, Depends(caller_of)]
