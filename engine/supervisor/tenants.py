"""Functions that keep their tenants apart (TenancyConfig PER_TENANT): where the instances of each are.

Theory of operation. Such a version runs nothing itself. Each of its tenants has a ``Version`` of its own, which shares function, configuration and
stock of empty sandboxes with it, and has a pool of instances of its own: an instance belongs to one pool for life, so what one tenant left in memory or
in ``/tmp`` no other one meets, and whatever works by version (expiry, eviction, replacement, lines) works by tenant. It is kept while it has instances
or somebody waits for one. Concurrency counts by function, over all of its tenants.
Source: docs.aws.amazon.com/lambda/latest/dg/tenant-isolation.html
"""

from __future__ import annotations

from engine.core import tenancy
from engine.supervisor.catalogue import Function, Version

# Execution environments, active or idle, for each unit of a function's concurrency: 2,500 for every 1,000.
INSTANCES_PER_UNIT = 2.5


def version_for(version: Version, tenant: str | None) -> Version:
    """The version that runs an invocation. Raises InvalidParameterValue."""
    tenancy.check(version.tenants is not None, tenant)
    if version.tenants is None or tenant is None:
        return version
    found = version.tenants.get(tenant)
    # Not kept before it has an instance on its way: whoever is throttled may name any number of tenants.
    return found if found is not None else Version(version.function, version.config, version.tracer, version.log, (version, tenant))


def keep(version: Version) -> None:
    """It is to have an instance."""
    if version.shared is not None and version.shared.tenants is not None and version.tenant is not None:
        version.shared.tenants[version.tenant] = version


def forget(version: Version) -> None:
    """It has none, and nobody waits for one."""
    shared, tenant = version.shared, version.tenant
    if shared is not None and shared.tenants is not None and tenant is not None and shared.tenants.get(tenant) is version:
        del shared.tenants[tenant]


def full(function: Function) -> bool:
    """Whether a function has as many tenants' instances as its concurrency allows."""
    quota = function.quota
    units = function.account.limit if quota.reserved is None else quota.reserved
    return function.tenant_instances >= int(units * INSTANCES_PER_UNIT)
