"""The Lambda resources of a template, made through the Lambda API. Property names are CloudFormation's, which are nearly the API's.

Source: docs.aws.amazon.com/AWSCloudFormation/latest/TemplateReference/AWS_Lambda.html.
"""

from __future__ import annotations

import base64
import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from engine.aws import lambda_defaults

WAIT = {"Delay": 0.2, "MaxAttempts": 600}
Properties = Mapping[str, Any]
# Put beside the name of a package that lies on this disk, so that another content is another property.
DIGEST = "LocalSha256"
# How a package is to be kept, wherever it comes from.
KEPT = ("SourceKMSKeyArn", "S3ObjectStorageMode")


def members(properties: Properties) -> dict[str, Any]:
    """Properties by the API's names for them."""
    return {"KMSKeyArn" if name == "KmsKeyArn" else name: value for name, value in properties.items()}


def inline_package(text: str, runtime: str) -> bytes:
    """The package of code written in the template itself: one file, ``index`` with the runtime's suffix, as CloudFormation makes it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        entry = zipfile.ZipInfo("index.js" if runtime.startswith("nodejs") else "index.py", (1980, 1, 1, 0, 0, 0))
        entry.external_attr = 0o100644 << 16
        archive.writestr(entry, text)
    return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class Made:
    """A resource that stands. ``ref`` is what Ref gives, ``attributes`` what Fn::GetAtt does."""

    physical: str
    ref: str
    attributes: dict[str, str]


class Replace(Exception):
    """The change cannot be made in place: make a new one, then delete the old."""


class Code:
    """Finds packages: inline text, local paths that the command found, S3 objects."""

    def __init__(self, local: Callable[[str, str], bytes | None]) -> None:
        self._local = local

    def arguments(self, code: Properties, runtime: str) -> tuple[dict[str, Any], str | None]:
        """(members of the API's FunctionCode, SHA-256 in base64 when the bytes are known here)."""
        if code.get("ZipFile") is not None:
            data: bytes | None = inline_package(str(code["ZipFile"]), runtime)
        elif code.get("S3Bucket"):
            data = self._local(str(code["S3Bucket"]), str(code["S3Key"]))
        else:
            data = None
        if data is None:
            return {k: v for k, v in code.items() if k != DIGEST}, None
        kept = {member: code[member] for member in KEPT if code.get(member)}
        return {"ZipFile": data, **kept}, base64.b64encode(hashlib.sha256(data).digest()).decode()


class Handler:
    """One resource type. ``clients`` gives boto3's client of a service. ``exclusive``: the old one must go before a new one can come."""

    exclusive = False

    def __init__(self, clients: Callable[[str], Any], code: Code) -> None:
        self.clients = clients
        self.client = clients("lambda")
        self.code = code

    def create(self, name: str, properties: Properties) -> Made:
        raise NotImplementedError

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        """Change it in place. Raises Replace where CloudFormation replaces."""
        raise Replace

    def delete(self, made: Made, properties: Properties) -> None:
        raise NotImplementedError

    def missing(self, call: Callable[..., Any], **arguments: Any) -> None:
        """Delete what may be gone already."""
        self.forgiving(call, self.client.exceptions.ResourceNotFoundException, **arguments)

    @staticmethod
    def forgiving(call: Callable[..., Any], forgiven: type[Exception], **arguments: Any) -> None:
        """Call, and be content with a certain error."""
        try:
            call(**arguments)
        except forgiven:
            return


# Members that are not of CreateFunction but of operations of their own, or in another form there.
_APART = ("Code", "Tags", "ReservedConcurrentExecutions", "RecursiveLoop", "RuntimeManagementConfig", "FunctionName", "Architectures", "PackageType")
# CloudFormation replaces a function when these change.
_FIXED = ("FunctionName", "PackageType", "TenancyConfig")


class FunctionHandler(Handler):
    """AWS::Lambda::Function."""

    def create(self, name: str, properties: Properties) -> Made:
        name = properties.get("FunctionName") or name
        code, _ = self.code.arguments(properties["Code"], properties.get("Runtime", ""))
        arguments = members({k: v for k, v in properties.items() if k not in _APART})
        for member in ("Architectures", "PackageType"):
            if properties.get(member):
                arguments[member] = properties[member]
        tags = tags_of(properties)
        if tags:
            arguments["Tags"] = tags
        arn = self.client.create_function(FunctionName=name, Code=code, **arguments)["FunctionArn"]
        self.client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig=WAIT)
        self._settings(name, {}, properties)
        self._manage(name, {}, properties)
        return Made(name, name, {"Arn": arn})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(k) != new.get(k) for k in _FIXED):
            raise Replace
        name = made.physical
        held = (new.get("RuntimeManagementConfig") or {}).get("UpdateRuntimeOn") == "Manual"
        if not held:
            # What is held by hand cannot have another runtime.
            self._manage(name, old, new)
        self._signed(name, old, new)
        changes = lambda_defaults.function_changes(name, old, new, (*_APART, "CodeSigningConfigArn"))
        if changes:
            self.client.update_function_configuration(FunctionName=name, **members(changes))
            self._updated(name)
        code, sha256 = self.code.arguments(new["Code"], new.get("Runtime", ""))
        current = self.client.get_function_configuration(FunctionName=name)["CodeSha256"]
        otherwise_kept = any(old["Code"].get(member) != new["Code"].get(member) for member in KEPT)
        if otherwise_kept or (sha256 != current if sha256 is not None else old["Code"] != new["Code"]):
            self.client.update_function_code(FunctionName=name, **code)
            self._updated(name)
        self._settings(name, old, new)
        if held:
            self._manage(name, old, new)
        before, after = tags_of(old), tags_of(new)
        if before.keys() - after.keys():
            self.client.untag_resource(Resource=made.attributes["Arn"], TagKeys=sorted(before.keys() - after.keys()))
        if after and before != after:
            self.client.tag_resource(Resource=made.attributes["Arn"], Tags=after)
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        self.missing(self.client.delete_function, FunctionName=made.physical)

    def _updated(self, name: str) -> None:
        self.client.get_waiter("function_updated_v2").wait(FunctionName=name, WaiterConfig=WAIT)

    def _settings(self, name: str, old: Properties, new: Properties) -> None:
        """What has operations of its own."""
        reserved = new.get("ReservedConcurrentExecutions")
        if reserved != old.get("ReservedConcurrentExecutions"):
            if reserved is None:
                self.client.delete_function_concurrency(FunctionName=name)
            else:
                self.client.put_function_concurrency(FunctionName=name, ReservedConcurrentExecutions=int(reserved))
        if new.get("RecursiveLoop") != old.get("RecursiveLoop"):
            self.client.put_function_recursion_config(FunctionName=name, RecursiveLoop=new.get("RecursiveLoop") or "Terminate")

    def _signed(self, name: str, old: Properties, new: Properties) -> None:
        """Whose signatures the code must have, which creation takes and an update does not."""
        wanted = new.get("CodeSigningConfigArn")
        if wanted == old.get("CodeSigningConfigArn"):
            return
        if wanted:
            self.client.put_function_code_signing_config(FunctionName=name, CodeSigningConfigArn=wanted)
        else:
            self.client.delete_function_code_signing_config(FunctionName=name)

    def _manage(self, name: str, old: Properties, new: Properties) -> None:
        """What version of its runtime the function is held to."""
        if new.get("RuntimeManagementConfig") != old.get("RuntimeManagementConfig"):
            self.client.put_runtime_management_config(FunctionName=name, **(new.get("RuntimeManagementConfig") or {"UpdateRuntimeOn": "Auto"}))


def tags_of(properties: Properties) -> dict[str, str]:
    """Tags by key, of either form that templates have."""
    tags = properties.get("Tags") or {}
    return dict(tags) if isinstance(tags, Mapping) else {t["Key"]: str(t["Value"]) for t in tags}


class VersionHandler(Handler):
    """AWS::Lambda::Version: published once; any change publishes another."""

    def create(self, name: str, properties: Properties) -> Made:
        arguments = {k: properties[k] for k in ("FunctionName", "CodeSha256", "Description") if properties.get(k)}
        made = self.client.publish_version(**arguments)
        arn = made["FunctionArn"]
        self.client.get_waiter("published_version_active").wait(FunctionName=arn, Qualifier=made["Version"], WaiterConfig=WAIT)
        if properties.get("RuntimePolicy"):
            self.client.put_runtime_management_config(FunctionName=arn, **properties["RuntimePolicy"])
        self._provision(arn, properties)
        return Made(arn, arn, {"Version": made["Version"], "FunctionArn": arn})

    def _provision(self, arn: str, properties: Properties) -> None:
        wanted = (properties.get("ProvisionedConcurrencyConfig") or {}).get("ProvisionedConcurrentExecutions")
        if wanted:
            function, _, version = arn.rpartition(":")
            self.client.put_provisioned_concurrency_config(FunctionName=function, Qualifier=version, ProvisionedConcurrentExecutions=int(wanted))

    def delete(self, made: Made, properties: Properties) -> None:
        function, _, version = made.physical.rpartition(":")
        self.missing(self.client.delete_function, FunctionName=function, Qualifier=version)


class AliasHandler(Handler):
    """AWS::Lambda::Alias."""

    def create(self, name: str, properties: Properties) -> Made:
        arguments = {k: properties[k] for k in ("FunctionName", "Name", "FunctionVersion", "Description") if properties.get(k)}
        arn = self.client.create_alias(**arguments, **_routing(properties))["AliasArn"]
        self._provision(arn, {}, properties)
        return Made(arn, arn, {"AliasArn": arn})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(k) != new.get(k) for k in ("Name", "FunctionName")):
            raise Replace
        routing = _routing(new) or {"RoutingConfig": {"AdditionalVersionWeights": {}}}
        self.client.update_alias(
            FunctionName=new["FunctionName"], Name=new["Name"], FunctionVersion=new["FunctionVersion"], Description=new.get("Description", ""), **routing
        )
        self._provision(made.physical, old, new)
        return made

    def _provision(self, arn: str, old: Properties, new: Properties) -> None:
        before, after = ((p.get("ProvisionedConcurrencyConfig") or {}).get("ProvisionedConcurrentExecutions") for p in (old, new))
        function, _, alias = arn.rpartition(":")
        if after:
            self.client.put_provisioned_concurrency_config(FunctionName=function, Qualifier=alias, ProvisionedConcurrentExecutions=int(after))
        elif before:
            self.client.delete_provisioned_concurrency_config(FunctionName=function, Qualifier=alias)

    def delete(self, made: Made, properties: Properties) -> None:
        self.missing(self.client.delete_alias, FunctionName=properties["FunctionName"], Name=properties["Name"])


def _routing(properties: Properties) -> dict[str, Any]:
    weights = (properties.get("RoutingConfig") or {}).get("AdditionalVersionWeights") or []
    if not weights:
        return {}
    return {"RoutingConfig": {"AdditionalVersionWeights": {w["FunctionVersion"]: float(w["FunctionWeight"]) for w in weights}}}


class LayerHandler(Handler):
    """AWS::Lambda::LayerVersion: any change publishes another."""

    def create(self, name: str, properties: Properties) -> Made:
        content, _ = self.code.arguments(properties["Content"], "")
        members = ("CompatibleRuntimes", "CompatibleArchitectures", "Description", "LicenseInfo")
        arguments = {k: properties[k] for k in members if properties.get(k)}
        arn = self.client.publish_layer_version(LayerName=properties.get("LayerName") or name, Content=content, **arguments)["LayerVersionArn"]
        return Made(arn, arn, {"LayerVersionArn": arn})

    def delete(self, made: Made, properties: Properties) -> None:
        layer, _, version = made.physical.rpartition(":")
        self.client.delete_layer_version(LayerName=layer, VersionNumber=int(version))


class PermissionHandler(Handler):
    """AWS::Lambda::Permission."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        members = ("FunctionName", "Action", "Principal", "SourceArn", "SourceAccount", "EventSourceToken", "FunctionUrlAuthType",
                   "PrincipalOrgID", "InvokedViaFunctionUrl")  # fmt: skip
        arguments = {k: properties[k] for k in members if properties.get(k) is not None}
        self.client.add_permission(StatementId=name, **arguments)
        return Made(name, name, {"Id": name})

    def delete(self, made: Made, properties: Properties) -> None:
        self.missing(self.client.remove_permission, FunctionName=properties["FunctionName"], StatementId=made.physical)


class LayerPermissionHandler(Handler):
    """AWS::Lambda::LayerVersionPermission."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        layer, _, version = properties["LayerVersionArn"].rpartition(":")
        arguments = {k: properties[k] for k in ("Action", "Principal", "OrganizationId") if properties.get(k)}
        self.client.add_layer_version_permission(LayerName=layer, VersionNumber=int(version), StatementId=name, **arguments)
        return Made(name, f"{properties['LayerVersionArn']}#{name}", {"Id": name})

    def delete(self, made: Made, properties: Properties) -> None:
        layer, _, version = properties["LayerVersionArn"].rpartition(":")
        self.missing(self.client.remove_layer_version_permission, LayerName=layer, VersionNumber=int(version), StatementId=made.physical)


class UrlHandler(Handler):
    """AWS::Lambda::Url."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        arguments = {k: properties[k] for k in ("AuthType", "Cors", "InvokeMode", "Qualifier") if properties.get(k)}
        made = self.client.create_function_url_config(FunctionName=properties["TargetFunctionArn"], **arguments)
        return Made(made["FunctionUrl"], made["FunctionArn"], {"FunctionUrl": made["FunctionUrl"], "FunctionArn": made["FunctionArn"]})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(k) != new.get(k) for k in ("TargetFunctionArn", "Qualifier")):
            raise Replace
        arguments = {k: new[k] for k in ("AuthType", "Cors", "InvokeMode", "Qualifier") if new.get(k)}
        arguments = {"Cors": {}, "InvokeMode": "BUFFERED", **arguments}
        self.client.update_function_url_config(FunctionName=new["TargetFunctionArn"], **arguments)
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        qualifier = {"Qualifier": properties["Qualifier"]} if properties.get("Qualifier") else {}
        self.missing(self.client.delete_function_url_config, FunctionName=properties["TargetFunctionArn"], **qualifier)


class EventSourceHandler(Handler):
    """AWS::Lambda::EventSourceMapping."""

    def create(self, name: str, properties: Properties) -> Made:
        arguments = members({k: v for k, v in properties.items() if k != "Tags"})
        if tags_of(properties):
            arguments["Tags"] = tags_of(properties)
        # Templates have their own name for what the API calls KAFKA_BOOTSTRAP_SERVERS.
        servers = properties.get("SelfManagedEventSource", {}).get("Endpoints", {}).get("KafkaBootstrapServers")
        if servers:
            arguments["SelfManagedEventSource"] = {"Endpoints": {"KAFKA_BOOTSTRAP_SERVERS": servers}}
        made = self.client.create_event_source_mapping(**arguments)
        self._settled(made["UUID"])
        return Made(made["UUID"], made["UUID"], {"Id": made["UUID"], "EventSourceMappingArn": made.get("EventSourceMappingArn", "")})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        fixed = ("EventSourceArn", "StartingPosition", "StartingPositionTimestamp", "SelfManagedEventSource", "Topics", "Queues", "Tags")
        if any(old.get(k) != new.get(k) for k in fixed):
            raise Replace
        changes = lambda_defaults.mapping_changes(old, new, fixed)
        self._settled(made.physical)
        self.client.update_event_source_mapping(UUID=made.physical, **members(changes))
        self._settled(made.physical)
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        self._settled(made.physical)
        self.missing(self.client.delete_event_source_mapping, UUID=made.physical)
        self._settled(made.physical)

    def _settled(self, uuid: str) -> None:
        """Wait while it is being changed, up to a minute: nothing can be done to it until then."""
        for _ in range(300):
            try:
                state = self.client.get_event_source_mapping(UUID=uuid)["State"]
            except self.client.exceptions.ResourceNotFoundException:
                return
            if not state.endswith("ing"):
                return
            time.sleep(WAIT["Delay"])


class EventInvokeHandler(Handler):
    """AWS::Lambda::EventInvokeConfig."""

    exclusive = True

    def create(self, name: str, properties: Properties) -> Made:
        self.client.put_function_event_invoke_config(**properties)
        return Made(name, name, {})

    def update(self, made: Made, old: Properties, new: Properties) -> Made:
        if any(old.get(k) != new.get(k) for k in ("FunctionName", "Qualifier")):
            raise Replace
        self.client.put_function_event_invoke_config(**new)
        return made

    def delete(self, made: Made, properties: Properties) -> None:
        where = {k: properties[k] for k in ("FunctionName", "Qualifier") if properties.get(k)}
        self.missing(self.client.delete_function_event_invoke_config, **where)


HANDLERS: Mapping[str, type[Handler]] = {
    "AWS::Lambda::Function": FunctionHandler,
    "AWS::Lambda::Version": VersionHandler,
    "AWS::Lambda::Alias": AliasHandler,
    "AWS::Lambda::LayerVersion": LayerHandler,
    "AWS::Lambda::LayerVersionPermission": LayerPermissionHandler,
    "AWS::Lambda::Permission": PermissionHandler,
    "AWS::Lambda::Url": UrlHandler,
    "AWS::Lambda::EventSourceMapping": EventSourceHandler,
    "AWS::Lambda::EventInvokeConfig": EventInvokeHandler,
}
# Asks for nothing: it tells AWS which CDK made the template.
IGNORED = frozenset({"AWS::CDK::Metadata"})
