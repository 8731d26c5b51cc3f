"""Errors are data: each carries what an AWS client must see and who is at fault.

``EngineError`` is the root. ``AwsError`` and its named subclasses are what an API answers with: error code,
HTTP status, the casing of the message key and extra members, as the Lambda service model and recorded replies give them
(docs.aws.amazon.com/lambda/latest/api/CommonErrors.html). Errors of functions (an invocation that ran and failed)
are not exceptions here: they are values in ``engine.core.invocation``.
"""

from __future__ import annotations

from enum import StrEnum


class Fault(StrEnum):
    """Who has to change something before a retry can succeed."""

    CLIENT = "client"
    FUNCTION = "function"
    PLATFORM = "platform"


class EngineError(Exception):
    """Root of every error this project raises on purpose."""

    fault = Fault.PLATFORM
    retryable = False


class ConfigurationError(EngineError):
    """A setting is missing, contradictory or impossible on this host. The message names the setting and the fix."""

    fault = Fault.CLIENT


class WireError(EngineError):
    """A peer broke the frame protocol. Its connection must be closed."""


class SandboxUnavailable(EngineError):
    """The isolation level asked for cannot be had here. The message names the step, the errno and a fix."""


class AwsError(EngineError):
    """An answer other than success, as an AWS client must see it.

    ``code`` is the exception name without namespace (``x-amzn-ErrorType``), ``status`` the HTTP status,
    ``message_key`` is ``message`` or ``Message`` as the service's model has it, ``fields`` are further JSON members
    (``Type``, ``Reason``), ``headers`` further HTTP headers. A message of None is sent as JSON null.
    """

    code = "ServiceException"
    status = 500
    message_key = "Message"
    fault = Fault.PLATFORM
    type_member: str | None = "Service"

    def __init__(
        self,
        message: str | None,
        *,
        fields: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.fields = dict(fields or {})
        self.headers = dict(headers or {})

    def body(self) -> dict[str, str | None]:
        """The JSON members of the answer, in the order AWS prints them (sorted: ``Reason, Type, message``)."""
        members: dict[str, str | None] = dict(self.fields)
        if self.type_member is not None:
            members["Type"] = self.type_member
        members[self.message_key] = self.message
        return members


class ServiceError(AwsError):
    """ServiceException 500: the engine failed, not the caller."""


class _ClientAwsError(AwsError):
    fault = Fault.CLIENT
    type_member: str | None = "User"
    message_key = "message"
    status = 400


class ValidationError(_ClientAwsError):
    """A member broke a constraint of the service model (``1 validation error detected: ...``)."""

    code = "ValidationException"
    type_member = None


class InvalidParameterValue(_ClientAwsError):
    code = "InvalidParameterValueException"


class UntypedInvalidParameterValue(InvalidParameterValue):
    """As its parent; the part of the service that finds this fault does not say whose it is."""

    type_member = None


class InvalidRequestContent(_ClientAwsError):
    """The invoke payload is not JSON."""

    code = "InvalidRequestContentException"


class RecursiveInvocation(_ClientAwsError):
    """A chain of invocations has met the same function too often."""

    code = "RecursiveInvocationException"
    message_key = "Message"


class ResourceNotFound(_ClientAwsError):
    code = "ResourceNotFoundException"
    status = 404
    message_key = "Message"


class ProvisionedConcurrencyConfigNotFound(_ClientAwsError):
    code = "ProvisionedConcurrencyConfigNotFoundException"
    status = 404


class UntypedResourceNotFound(ResourceNotFound):
    """As its parent; the part of the service that finds this fault does not say whose it is."""

    type_member = None


class CodeSigningConfigNotFound(_ClientAwsError):
    """A function is to have a code signing configuration that is not there."""

    code = "CodeSigningConfigNotFoundException"
    status = 404
    message_key = "Message"
    type_member = None


class CodeVerificationFailed(_ClientAwsError):
    """No signature that the configuration accepts, and it says Enforce."""

    code = "CodeVerificationFailedException"
    message_key = "Message"


class InvalidCodeSignature(_ClientAwsError):
    """The package is not what was signed; this blocks whatever the configuration says."""

    code = "InvalidCodeSignatureException"
    message_key = "Message"


class ResourceConflict(_ClientAwsError):
    code = "ResourceConflictException"
    status = 409


class ResourceInUse(_ClientAwsError):
    """An event source mapping is changed or deleted while it is still changing."""

    code = "ResourceInUseException"
    message_key = "Message"


class PreconditionFailed(_ClientAwsError):
    code = "PreconditionFailedException"
    status = 412


class SnapStartNotReady(_ClientAwsError):
    code = "SnapStartNotReadyException"
    message_key = "Message"
    status = 409


class SnapStartTimeout(_ClientAwsError):
    code = "SnapStartTimeoutException"
    message_key = "Message"
    status = 408


class CodeStorageExceeded(_ClientAwsError):
    code = "CodeStorageExceededException"


class PolicyLengthExceeded(_ClientAwsError):
    code = "PolicyLengthExceededException"


class RequestEntityTooLarge(_ClientAwsError):
    code = "RequestEntityTooLargeException"
    status = 413
    type_member = None


class UnsupportedMediaType(_ClientAwsError):
    code = "UnsupportedMediaTypeException"
    status = 415


class TooManyRequests(_ClientAwsError):
    """Throttled; ``fields['Reason']`` is one of the model's ThrottleReason values."""

    code = "TooManyRequestsException"
    status = 429
    retryable = True


class AccessDenied(_ClientAwsError):
    code = "AccessDeniedException"
    status = 403
    message_key = "Message"
    type_member = None


class InvalidSignature(_ClientAwsError):
    code = "InvalidSignatureException"
    status = 403
    type_member = None


class UnrecognizedClient(_ClientAwsError):
    """``access_key`` is set when the key is not known at all: whoever can, may learn it and try again."""

    code = "UnrecognizedClientException"
    status = 403
    type_member = None

    def __init__(self, message: str | None, access_key: str | None = None) -> None:
        super().__init__(message)
        self.access_key = access_key


class MissingAuthenticationToken(_ClientAwsError):
    code = "MissingAuthenticationTokenException"
    status = 403
    type_member = None


class ExpiredToken(_ClientAwsError):
    code = "ExpiredTokenException"
    status = 403
    type_member = None


class IncompleteSignature(_ClientAwsError):
    """The request is signed, but not in the form Signature Version 4 prescribes."""

    code = "IncompleteSignatureException"
    status = 403
    type_member = None


class SerializationError(_ClientAwsError):
    """The request cannot be read as the operation's input: bad JSON, or JSON of another type than the model's."""

    code = "SerializationException"
    message_key = "Message"
    type_member = None


class UnknownOperation(_ClientAwsError):
    """No operation of the service model has this method and path."""

    code = "UnknownOperationException"
    status = 404
    type_member = None


class NotImplementedHere(_ClientAwsError):
    """An operation of the service model that this engine does not offer yet: 501, naming the operation."""

    code = "NotImplementedException"
    status = 501
    type_member = None


class MountFailure(_ClientAwsError):
    """EFSMountFailureException, S3FilesMountFailureException 403: the function's file system cannot be mounted."""

    code = "EFSMountFailureException"
    status = 403
    message_key = "Message"

    @classmethod
    def of(cls, arn: str, why: str) -> MountFailure:
        """The error for an access point."""
        s3 = ":s3files:" in arn
        made = cls(f"The function could not mount the {'Amazon S3 Files' if s3 else 'Amazon EFS'} file system with access point {arn}: {why}")
        if s3:
            made.code = "S3FilesMountFailureException"
        return made


class SubnetIPAddressLimitReached(AwsError):
    """SubnetIPAddressLimitReachedException 502: no subnet of the function's VPC has an address left."""

    code = "SubnetIPAddressLimitReachedException"
    status = 502
    words = "Lambda couldn't set up VPC access for the Lambda function because one or more configured subnets has no available IP addresses."

    @classmethod
    def of(cls, reason: str) -> SubnetIPAddressLimitReached | None:
        """The error, when this is why a sandbox could not be made."""
        if not reason.endswith("has no free address"):
            return None
        return cls(cls.words)


class KmsRefused(AwsError):
    """KMS…Exception 502: the key that guards a function's variables cannot be used. ``kms_code`` and ``kms_message`` are KMS's own."""

    code = "KMSAccessDeniedException"
    status = 502

    def __init__(self, message: str, code: str, kms_code: str = "", kms_message: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.kms_code = kms_code
        self.kms_message = kms_message


class InvalidRuntime(AwsError):
    """InvalidRuntimeException 502: the version of the runtime that the function is held to is not there."""

    code = "InvalidRuntimeException"
    status = 502


class ResourceNotReady(AwsError):
    """ResourceNotReadyException 502: the function cannot run now."""

    code = "ResourceNotReadyException"
    status = 502
    message_key = "message"
