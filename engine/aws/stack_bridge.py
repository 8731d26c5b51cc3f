"""Lambda resources in the embedded CloudFormation: made on the engine, not in the embedded AWS. Runs in the embedded AWS's process.

moto finds the class of a resource by its type among the subclasses of one base class. Here each of our types gets such a class, defined after
moto's own and therefore found in its place (so it is imported at the first request to CloudFormation, which imports everything); it hands everything to the engine's API through ``engine.aws.lambda_resources``. So whatever
deploys through CloudFormation (AWS CLI, SAM, CDK, Serverless) ends at the engine. CloudFormation acts with the engine's own rights.
"""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Mapping
from typing import Any

import moto.cloudformation.parsing  # noqa: F401 - moto's own classes have to be there first
from botocore.exceptions import BotoCoreError, ClientError
from moto.cloudformation.exceptions import UnformattedGetAttTemplateException, ValidationError
from moto.cloudformation.models import ChangeSet, CloudFormationBackend, Stack, cloudformation_backends
from moto.core.common_models import CloudFormationModel

from engine.aws.beside_resources import BESIDE
from engine.aws.clients import AwsClients
from engine.aws.embedded import KEY_VARIABLE, URL_VARIABLE
from engine.aws.lambda_resources import HANDLERS, Code, Handler, Made, Replace
from engine.aws.managed_policies import AwsPolicies

MAX_NAME = 64
# Kept: moto finds them as long as they live.
_MODELS: list[type] = []
_ATTRIBUTES = frozenset({"Arn", "Version", "FunctionUrl", "FunctionArn", "LayerVersionArn", "AliasArn", "EventSourceMappingArn", "Id"})
# Of APIs and their parts.
_ATTRIBUTES |= {"RootResourceId", "RestApiId", "ResourceId", "DeploymentId", "AuthorizerId", "APIKeyId", "ApiId", "ApiEndpoint"}
_ATTRIBUTES |= {"RouteId", "IntegrationId"}
SAM = "AWS::Serverless-2016-10-31"


class Bridge:
    """Gives each account its clients of the engine. ``key``: what to sign with, None while nobody has to sign."""

    def __init__(self, url: str, region: str, default_account: str, key: tuple[str, str, str] | None) -> None:
        self._url = url
        self._region = region
        self._default_account = default_account
        self._key = key
        self._clients: dict[str, AwsClients] = {}

    def handler(self, kind: type[Handler], account: str) -> Handler:
        """Raises ValueError for an account that the engine's key does not act in."""
        if self._key is not None and account != self._default_account:
            raise ValueError(f"with authentication on, stacks are made in account {self._default_account} only, not in {account}")
        if account not in self._clients:
            credentials = self._key or (account, "engine", None)
            self._clients[account] = AwsClients(self._url, self._region, credentials)
        return kind(self._clients[account].client, Code(lambda _bucket, _key: None))


def install(environment: Mapping[str, str] = os.environ) -> None:
    """Take over the types; nothing is done where the environment does not say where the engine is."""
    url = environment.get(URL_VARIABLE)
    if not url:
        return
    key = environment.get(KEY_VARIABLE, "").split()
    signing = (key[0], key[1], key[2]) if len(key) == 3 else None
    bridge = Bridge(url, environment["AWS_DEFAULT_REGION"], environment["MOTO_ACCOUNT_ID"], signing)
    for name, kind in {**HANDLERS, **BESIDE}.items():
        _MODELS.append(type("Model", (_Model, CloudFormationModel), {"bridge": bridge, "kind": kind, "name": name}))
    _understand_sam(environment["AWS_DEFAULT_REGION"])
    _roll_back_on_failure()
    _tell_of_change_sets()


class _Model:
    """moto's side of one resource. Its subclasses, one per type, are told which."""

    bridge: Bridge
    kind: type[Handler]
    name: str

    def __init__(self, made: Made, properties: dict[str, Any], account: str) -> None:
        self.made = made
        self.properties = properties
        self.account = account

    @property
    def physical_resource_id(self) -> str:
        return self.made.ref

    @classmethod
    def cloudformation_name_type(cls) -> str:
        return "FunctionName" if cls.name == "AWS::Lambda::Function" else ""

    @classmethod
    def cloudformation_type(cls) -> str:
        return cls.name

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr in _ATTRIBUTES

    def get_cfn_attribute(self, attribute_name: str) -> str:
        if attribute_name not in self.made.attributes:
            raise UnformattedGetAttTemplateException
        return self.made.attributes[attribute_name]

    @classmethod
    def create_from_cloudformation_json(
        cls, resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **_more: Any
    ) -> _Model:
        properties = cloudformation_json.get("Properties") or {}
        handler = cls.bridge.handler(cls.kind, account_id)
        return cls(cls._telling(handler.create, _shortened(resource_name), properties), properties, account_id)

    @classmethod
    def update_from_cloudformation_json(
        cls, original_resource: _Model, new_resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str
    ) -> _Model:
        properties = cloudformation_json.get("Properties") or {}
        handler, old = cls.bridge.handler(cls.kind, account_id), original_resource
        try:
            made = cls._telling(handler.update, old.made, old.properties, properties)
        except Replace:
            if handler.exclusive:
                cls._telling(handler.delete, old.made, old.properties)
            made = cls._telling(handler.create, _shortened(new_resource_name), properties)
            if not handler.exclusive:
                cls._telling(handler.delete, old.made, old.properties)
        return cls(made, properties, account_id)

    def delete(self, account_id: str, region_name: str) -> None:
        self._telling(self.bridge.handler(self.kind, self.account).delete, self.made, self.properties)

    @classmethod
    def _telling(cls, call: Callable[..., Any], *arguments: Any) -> Any:
        """Call; what the engine refuses becomes CloudFormation's error, naming the type."""
        try:
            return call(*arguments)
        except ClientError as e:
            raise ValidationError(message=f"{cls.name}: {e.response['Error']['Code']}: {e.response['Error']['Message']}") from e
        except (BotoCoreError, ValueError, KeyError) as e:
            raise ValidationError(message=f"{cls.name}: {type(e).__name__}: {e}") from e


def _shortened(name: str) -> str:
    """A generated name that Lambda takes: its end, which is what makes it unique, is kept."""
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 14]}-{name[-13:]}"


def _understand_sam(region: str) -> None:
    """Templates that ask for SAM's transform are transformed, where AWS's translator is installed."""
    try:
        from samtranslator.public.translator import ManagedPolicyLoader  # noqa: PLC0415 - an extra
        from samtranslator.translator.transform import transform  # noqa: PLC0415
    except ImportError:
        return
    # A stack reads its template before it knows the parameters' values, which the translator needs.
    Stack.__init__ = _knowing_parameters(Stack.__init__)
    for kind in (Stack, ChangeSet):
        kind._parse_template = _with_sam(kind._parse_template, transform, ManagedPolicyLoader, region)  # noqa: SLF001 - where moto reads


def _knowing_parameters(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def made(stack: Any, stack_id: str, name: str, template: Any, parameters: dict[str, str], *rest: Any, **more: Any) -> None:
        stack.parameters = parameters
        init(stack, stack_id, name, template, parameters, *rest, **more)

    return made


def _with_sam(parse: Callable[[Any], None], transform: Any, loader: Any, region: str) -> Callable[[Any], None]:
    def parse_and_transform(stack: Any) -> None:
        parse(stack)
        asked = stack.template_dict.get("Transform") or []
        if SAM in (asked if isinstance(asked, list) else [asked]):
            os.environ.setdefault("AWS_DEFAULT_REGION", region)
            stack.template_dict = transform(stack.template_dict, dict(stack.parameters or {}), loader(AwsPolicies()))

    return parse_and_transform


def _roll_back_on_failure() -> None:
    """A stack that cannot be made is taken away with what was made of it, and the request fails with the reason.

    (moto leaves half a stack, which it goes on making at the next look; AWS rolls back too, but after the request.)
    """
    create = CloudFormationBackend.create_stack

    def create_stack(backend: Any, name: str, *arguments: Any, **more: Any) -> Any:
        known = set(backend.stacks)
        try:
            return create(backend, name, *arguments, **more)
        except Exception:
            for stack_id in set(backend.stacks) - known:
                _take_away(backend.stacks.pop(stack_id))
            raise

    CloudFormationBackend.create_stack = create_stack
    make = Stack.create_resources

    def create_resources(stack: Any) -> None:
        try:
            make(stack)
        except Exception:
            backend = cloudformation_backends[stack.account_id][stack.region_name]
            if backend.stacks.pop(stack.stack_id, None) is not None:
                _take_away(stack)
            raise

    Stack.create_resources = create_resources


def _tell_of_change_sets() -> None:
    """A stack made by a change set has that one's template and outputs afterwards, and is taken away when it cannot be made. (moto changes the
    resources only.)
    """
    apply = ChangeSet.apply

    def apply_whole(change_set: Any) -> None:
        stack = change_set.stack
        former, stack.template_dict = stack.template_dict, change_set.template_dict
        try:
            apply(change_set)
        except Exception:
            if change_set.change_set_type == "CREATE":
                _take_away(stack)
                stack.status = "ROLLBACK_COMPLETE"
            stack.template_dict = former
            raise
        stack.description = stack.template_dict.get("Description")
        stack.output_map = stack._create_output_map()  # noqa: SLF001 - as moto does for stacks made without one

    ChangeSet.apply = apply_whole


def _take_away(stack: Any) -> None:
    parsed = stack.resource_map._parsed_resources  # noqa: SLF001 - what exists, by logical id
    for resource in reversed(list(parsed.values())):
        if hasattr(resource, "delete") and hasattr(resource, "logical_resource_id"):
            try:
                stack.resource_map._delete_resource(resource, stack.template_dict["Resources"][resource.logical_resource_id])  # noqa: SLF001
            except Exception as e:  # noqa: BLE001 - each service raises its own; the others must go all the same
                logging.getLogger(__name__).warning("%s of a stack that could not be made is left: %s", resource.logical_resource_id, e)
    parsed.clear()
