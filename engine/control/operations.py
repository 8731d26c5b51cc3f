"""Every operation the control plane serves, offered to the HTTP side in one place."""

from __future__ import annotations

from engine.control.api import Registrar
from engine.control.functions import FunctionOperations
from engine.control.plane import Plane
from engine.control.updates import UpdateOperations
from engine.control.versions import VersionOperations


def register(registry: Registrar, plane: Plane) -> None:
    """Offer all operations on functions and versions."""
    FunctionOperations(plane).register(registry)
    UpdateOperations(plane).register(registry)
    VersionOperations(plane).register(registry)
