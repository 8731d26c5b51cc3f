"""Lambda resources in the embedded CloudFormation: made on the engine, not in the embedded AWS. Runs in the embedded AWS's process.

moto finds the class of a resource by its type among the subclasses of one base class. Here each of our types gets such a class, defined after
moto's own and therefore found in its place (so it is imported at the first request to CloudFormation, which imports everything); it hands everything to the engine's API through ``engine.aws.lambda_resources``. So whatever
deploys through CloudFormation (AWS CLI, SAM, CDK, Serverless) ends at the engine. CloudFormation acts with the engine's own rights.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from botocore.exceptions import BotoCoreError, ClientError
from moto.cloudformation import parsing
from moto.cloudformation.exceptions import UnformattedGetAttTemplateException, ValidationError
from moto.cloudformation.models import ChangeSet, Stack
from moto.core.common_models import CloudFormationModel

from engine.aws import access_points, function_interfaces, stack_requests, stack_roles, stack_runs, target_groups, template_attributes
from engine.aws.beside_resources import BESIDE
from engine.aws.clients import AwsClients
from engine.aws.common_resources import COMMON
from engine.aws.custom_resources import KINDS, PLAIN, About, CustomResources
from engine.aws.embedded import INSIDE_VARIABLE, KEY_VARIABLE, URL_VARIABLE
from engine.aws.event_resources import LOG_GROUP
from engine.aws.further_resources import FURTHER
from engine.aws.lambda_resources import HANDLERS, Code, Handler, Made, Replace
from engine.aws.managed_policies import AwsPolicies
from engine.aws.template_values import typed

Kind = TypeVar("Kind", bound=Handler)

MAX_NAME = 64
# Kept: moto finds them as long as they live.
_MODELS: list[type] = []
_ATTRIBUTES = frozenset({"Arn", "Version", "FunctionUrl", "FunctionArn", "LayerVersionArn", "AliasArn", "EventSourceMappingArn", "Id"})
# Of APIs and their parts.
_ATTRIBUTES |= {"RootResourceId", "RestApiId", "ResourceId", "DeploymentId", "AuthorizerId", "APIKeyId", "ApiId", "ApiEndpoint"}
_ATTRIBUTES |= {"RouteId", "IntegrationId"}
_ATTRIBUTES |= {"ProviderName", "ProviderURL", "UserPoolId", "ClientId", "ClientSecret", "Name"}
_ATTRIBUTES |= {"CodeSigningConfigArn", "CodeSigningConfigId", "StreamArn", "TableId", "RequestValidatorId", "Type", "Value"}
SAM = "AWS::Serverless-2016-10-31"


class Bridge:
    """Gives each account its clients of the engine. ``key``: what to sign with, None while nobody has to sign. ``inside_url``: where functions reach the engine."""

    def __init__(self, url: str, region: str, default_account: str, key: tuple[str, str, str] | None, inside_url: str = "") -> None:
        self._url = url
        self._region = region
        self._default_account = default_account
        self._key = key
        self._inside_url = inside_url or url
        self._clients: dict[str, tuple[AwsClients, AwsClients]] = {}

    def handler(self, kind: type[Kind], account: str) -> Kind:
        """Raises ValueError for an account that the engine's key does not act in."""
        clients = self._of(account)[0].client
        return kind(lambda service: typed(clients(service)), Code(lambda _bucket, _key: None))

    def custom(self, account: str) -> CustomResources:
        """Raises as ``handler``."""
        here, inside = self._of(account)
        return CustomResources(here.client, inside.client)

    def _of(self, account: str) -> tuple[AwsClients, AwsClients]:
        """Clients of the engine as it is reached from here, and as functions reach it."""
        if self._key is not None and account != self._default_account:
            raise ValueError(f"with authentication on, stacks are made in account {self._default_account} only, not in {account}")
        if account not in self._clients:
            credentials = self._key or (account, "engine", None)
            self._clients[account] = (AwsClients(self._url, self._region, credentials), AwsClients(self._inside_url, self._region, credentials))
        return self._clients[account]


def bridge_of(environment: Mapping[str, str] = os.environ) -> Bridge | None:
    """The way to the engine, where the environment says it."""
    url = environment.get(URL_VARIABLE)
    if not url:
        return None
    key = environment.get(KEY_VARIABLE, "").split()
    signing = (key[0], key[1], key[2]) if len(key) == 3 else None
    return Bridge(url, environment["AWS_DEFAULT_REGION"], environment["MOTO_ACCOUNT_ID"], signing, environment.get(INSIDE_VARIABLE, ""))


def install(environment: Mapping[str, str] = os.environ) -> None:
    """Take over the types; nothing is done where the environment does not say where the engine is."""
    bridge = bridge_of(environment)
    if bridge is None:
        return
    for name, kind in {**HANDLERS, **BESIDE, **LOG_GROUP, **COMMON, **FURTHER}.items():
        _MODELS.append(type("Model", (_Model, CloudFormationModel), {"bridge": bridge, "kind": kind, "name": name}))
    _make_custom_resources(bridge)
    _understand_sam(environment["AWS_DEFAULT_REGION"])
    template_attributes.install(environment.get(INSIDE_VARIABLE) or environment[URL_VARIABLE])
    stack_runs.install()
    stack_requests.install()
    stack_roles.install()
    access_points.install()
    function_interfaces.install(environment)
    target_groups.install()


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
        return cls(_telling(cls.name, handler.create, _shortened(resource_name), properties), properties, account_id)

    @classmethod
    def update_from_cloudformation_json(
        cls, original_resource: _Model, new_resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str
    ) -> _Model:
        properties = cloudformation_json.get("Properties") or {}
        handler, old = cls.bridge.handler(cls.kind, account_id), original_resource
        try:
            made = _telling(cls.name, handler.update, old.made, old.properties, properties)
        except Replace:
            if handler.exclusive:
                _telling(cls.name, handler.delete, old.made, old.properties)
            made = _telling(cls.name, handler.create, _shortened(new_resource_name), properties)
            if not handler.exclusive:
                _telling(cls.name, handler.delete, old.made, old.properties)
        return cls(made, properties, account_id)

    def delete(self, account_id: str, region_name: str) -> None:
        _telling(self.name, self.bridge.handler(self.kind, self.account).delete, self.made, self.properties)


def _telling(kind: str, call: Callable[..., Any], *arguments: Any) -> Any:
    """Call; what the engine refuses becomes CloudFormation's error, naming the type."""
    try:
        return call(*arguments)
    except ClientError as e:
        raise ValidationError(message=f"{kind}: {e.response['Error']['Code']}: {e.response['Error']['Message']}") from e
    except (BotoCoreError, ValueError, KeyError) as e:
        raise ValidationError(message=f"{kind}: {type(e).__name__}: {e}") from e


class _CustomModel:
    """moto's side of a custom resource."""

    bridge: Bridge

    def __init__(self, made: Made, properties: dict[str, Any], about: About, account: str) -> None:
        self.made = made
        self.properties = properties
        self.about = about
        self.account = account

    @property
    def physical_resource_id(self) -> str:
        return self.made.ref

    @classmethod
    def cloudformation_name_type(cls) -> str:
        return ""

    @classmethod
    def cloudformation_type(cls) -> str:
        return PLAIN

    @classmethod
    def has_cfn_attr(cls, _attr: str) -> bool:
        return True

    def get_cfn_attribute(self, attribute_name: str) -> Any:
        if attribute_name not in self.made.attributes:
            raise ValidationError(
                message=f"CustomResource attribute error: Vendor response doesn't contain {attribute_name} attribute in object {self.about.stack_id}"
                f"|{self.about.logical_id}"
            )
        return self.made.attributes[attribute_name]

    @classmethod
    def create_from_cloudformation_json(
        cls, _resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str, **more: Any
    ) -> _CustomModel:
        properties = cloudformation_json.get("Properties") or {}
        about = About(more["StackId"], more["LogicalId"], more["ResourceType"])
        return cls(_telling(about.kind, cls.bridge.custom(account_id).create, about, properties), properties, about, account_id)

    @classmethod
    def update_from_cloudformation_json(
        cls, original_resource: _CustomModel, new_resource_name: str, cloudformation_json: dict[str, Any], account_id: str, region_name: str
    ) -> _CustomModel:
        old, properties = original_resource, cloudformation_json.get("Properties") or {}
        made = _telling(old.about.kind, cls.bridge.custom(account_id).update, old.about, old.made, old.properties, properties)
        return cls(made, properties, old.about, account_id)

    def delete(self, account_id: str, region_name: str) -> None:
        _telling(self.about.kind, self.bridge.custom(self.account).delete, self.about, self.made, self.properties)


def _make_custom_resources(bridge: Bridge) -> None:
    """Custom resources are made by functions of the engine."""
    model = type("CustomModel", (_CustomModel, CloudFormationModel), {"bridge": bridge})
    _MODELS.append(model)
    find = parsing.resource_class_from_type
    parsing.resource_class_from_type = lambda kind: model if kind.startswith(KINDS) else find(kind)


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
            try:
                stack.template_dict = transform(stack.template_dict, dict(stack.parameters or {}), loader(AwsPolicies()))
            except Exception as e:
                causes = " ".join(str(one.message) for one in getattr(e, "causes", ()))
                raise ValidationError(message=f"Transform {SAM} failed with: {getattr(e, 'message', None) or e} {causes}".rstrip()) from e

    return parse_and_transform
