"""Requests to the embedded CloudFormation that moto understands otherwise than CloudFormation does."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from moto.cloudformation import models, responses, utils
from moto.cloudformation.exceptions import CloudFormationError, ValidationError
from moto.cloudformation.models import CloudFormationBackend
from moto.cloudformation.responses import CloudFormationResponse
from moto.core.responses import EmptyResult

from engine.aws.stack_runs import change_set_of, keeping


class ChangeSetNotFound(CloudFormationError):  # type: ignore[misc]  # moto has no types
    """No such change set."""

    code = "ChangeSetNotFound"

    def __init__(self, name: str) -> None:
        super().__init__(f"ChangeSet [{name}] does not exist")


def install() -> None:
    """Change moto's side of the requests."""
    read = utils.get_stack_from_s3_url
    for module in (utils, responses, models):
        module.get_stack_from_s3_url = functools.partial(_read, read)
    for operation in ("create_stack", "update_stack", "execute_change_set"):
        setattr(CloudFormationResponse, operation, _keeping(getattr(CloudFormationResponse, operation)))
    CloudFormationResponse.delete_change_set = _delete_change_set
    for operation in ("describe_change_set", "execute_change_set"):
        setattr(CloudFormationResponse, operation, _named(getattr(CloudFormationResponse, operation)))
    CloudFormationBackend.create_change_set = _once(CloudFormationBackend.create_change_set)


def _read(read: Callable[..., str], template_url: str, account_id: str, partition: str) -> str:
    """A template in S3, by any of the URLs that its object has: here the bucket is in the path, whatever the host is called."""
    parts = urlsplit(template_url)
    if not parts.netloc.endswith("amazonaws.com"):
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        from moto.s3.models import s3_backends  # noqa: PLC0415 - not needed by those who send their template along

        found = s3_backends[account_id][partition].get_object(bucket, key)
        if found is None:
            raise ValidationError(message=f"S3 error: The specified key does not exist: {template_url}")
        text: str = found.value.decode("utf-8")
        return text
    return read(template_url, account_id=account_id, partition=partition)


def _keeping(operation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Obeys DisableRollback and OnFailure."""

    @functools.wraps(operation)
    def with_option(response: Any) -> Any:
        asked = response._get_bool_param("DisableRollback", False)  # noqa: SLF001 - as moto's own operations read their members
        keeping(bool(asked) or response._get_param("OnFailure") == "DO_NOTHING")  # noqa: SLF001
        try:
            return operation(response)
        finally:
            keeping(False)

    return with_option


def _found(response: Any) -> Any:
    name = response._get_param("ChangeSetName")  # noqa: SLF001
    found = change_set_of(response.cloudformation_backend, name, response._get_param("StackName"))  # noqa: SLF001
    if found is None:
        raise ChangeSetNotFound(name)
    return found


def _named(operation: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Finds the change set of the stack that is named: many have the same name."""

    @functools.wraps(operation)
    def of_its_stack(response: Any) -> Any:
        found = _found(response)
        own = response._get_param  # noqa: SLF001

        def param(name: str, *default: Any) -> Any:
            return found.change_set_id if name == "ChangeSetName" else own(name, *default)

        response._get_param = param  # noqa: SLF001
        return operation(response)

    return of_its_stack


def _delete_change_set(response: Any) -> Any:
    """Deleting one that does not exist is no error."""
    backend = response.cloudformation_backend
    found = change_set_of(backend, response._get_param("ChangeSetName"), response._get_param("StackName"))  # noqa: SLF001
    if found is not None:
        del backend.change_sets[found.change_set_id]
    return EmptyResult()


def _once(create: Callable[..., Any]) -> Callable[..., Any]:
    """A stack that was only reviewed so far is used again, not made twice."""

    @functools.wraps(create)
    def create_change_set(backend: Any, *arguments: Any, **members: Any) -> Any:
        if members.get("change_set_type") == "CREATE":
            name = members.get("stack_name")
            for stack in [s for s in backend.stacks.values() if s.name == name]:
                if stack.status != "REVIEW_IN_PROGRESS":
                    raise ValidationError(message=f"Stack [{name}] already exists and cannot be created again with the changeSet [{members['change_set_name']}].")
                del backend.stacks[stack.stack_id]
        return create(backend, *arguments, **members)

    return create_change_set
