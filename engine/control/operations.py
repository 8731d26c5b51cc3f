"""Every operation the control plane serves, offered to the HTTP side in one place."""

from __future__ import annotations

from engine.control.account import AccountOperations
from engine.control.aliases import AliasOperations
from engine.control.api import Registrar
from engine.control.code_signing import CodeSigningOperations
from engine.control.concurrency import ConcurrencyOperations
from engine.control.event_invoke import EventInvokeOperations
from engine.control.event_sources import EventSourceOperations
from engine.control.function_settings import FunctionSettingOperations
from engine.control.functions import FunctionOperations
from engine.control.layer_permissions import LayerPermissionOperations
from engine.control.layers import LayerOperations
from engine.control.permissions import PermissionOperations
from engine.control.plane import Plane
from engine.control.provisioned import ProvisionedOperations
from engine.control.resource_policies import ResourcePolicyOperations
from engine.control.tags import TagOperations
from engine.control.updates import UpdateOperations
from engine.control.urls import UrlOperations
from engine.control.versions import VersionOperations


def register(registry: Registrar, plane: Plane) -> None:
    """Offer every operation but those that take events in."""
    FunctionOperations(plane).register(registry)
    UpdateOperations(plane).register(registry)
    VersionOperations(plane).register(registry)
    AliasOperations(plane).register(registry)
    PermissionOperations(plane).register(registry)
    ResourcePolicyOperations(plane).register(registry)
    ConcurrencyOperations(plane).register(registry)
    ProvisionedOperations(plane).register(registry)
    AccountOperations(plane).register(registry)
    signing = CodeSigningOperations(plane)
    signing.register(registry)
    event_sources = EventSourceOperations(plane)
    event_sources.register(registry)
    TagOperations(plane, {"code-signing-config": signing, "event-source-mapping": event_sources}).register(registry)
    FunctionSettingOperations(plane).register(registry)
    LayerOperations(plane).register(registry)
    LayerPermissionOperations(plane).register(registry)
    UrlOperations(plane).register(registry)
    EventInvokeOperations(plane).register(registry)
