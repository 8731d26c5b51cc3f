"""Code signing configurations by boto3, and packages signed by the command line and judged at deployment."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from engine.control import signatures
from engine.control.signatures import ENTRY, Profiles, Verdict, judge, sign
from tests.framework.control import ControlServer, refused
from tests.framework.engine import zip_of

PROFILE = "arn:aws:signer:us-east-1:000000000000:/signing-profiles/team/abc"
OTHER = "arn:aws:signer:us-east-1:000000000000:/signing-profiles/other/abc"
FILES = {"m.py": "def f(e, c): return 1\n", "lib/n.py": "x = 1\n"}
CSC = re.compile(r"arn:aws:lambda:us-east-1:000000000000:code-signing-config:csc-[a-z0-9]{17}")


def pem(key: Any) -> tuple[bytes, bytes]:
    """Private and public key."""
    return (
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


KEYS: dict[str, Callable[[], Any]] = {
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}
PRIVATE, PUBLIC = pem(ed25519.Ed25519PrivateKey.generate())


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlServer]:
    folder = tmp_path_factory.mktemp("control")
    (folder / "team.pem").write_bytes(PUBLIC)
    with ControlServer(folder, settings={"signing_profiles": {PROFILE: str(folder / "team.pem")}}) as running:
        yield running


def profiles(folder: Path, public: bytes = PUBLIC) -> Profiles:
    (folder / "key.pem").write_bytes(public)
    return Profiles({PROFILE: folder / "key.pem"})


@pytest.mark.parametrize("kind", KEYS)
def test_a_signed_package_is_trusted_and_still_the_same_package(kind: str, tmp_path: Path) -> None:
    private, public = pem(KEYS[kind]())
    signed = sign(zip_of(FILES), private, PROFILE, 1000, valid_s=50, job="arn:job")
    with zipfile.ZipFile(io.BytesIO(signed)) as archive:
        assert sorted(archive.namelist()) == sorted([*FILES, ENTRY])
        assert archive.read("m.py").decode() == FILES["m.py"]
    keys = profiles(tmp_path, public)
    found = judge(signed, [OTHER, PROFILE], keys, 1049)
    assert (found.verdict, found.profile, found.job) == (Verdict.TRUSTED, PROFILE, "arn:job")
    assert judge(signed, [PROFILE], keys, 1051).verdict is Verdict.EXPIRED
    assert judge(sign(signed, private, PROFILE, 2000), [PROFILE], keys, 9e9).verdict is Verdict.TRUSTED, "signed anew"


def rewritten(data: bytes, change: Callable[[zipfile.ZipInfo, bytes], tuple[zipfile.ZipInfo, bytes] | None], add: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w") as new:
        for info in old.infolist():
            kept = change(info, old.read(info))
            if kept is not None:
                new.writestr(*kept)
        for name, text in (add or {}).items():
            new.writestr(name, text)
    return out.getvalue()


def _executable(info: zipfile.ZipInfo, data: bytes) -> tuple[zipfile.ZipInfo, bytes]:
    if info.filename == "m.py":
        info.external_attr = 0o755 << 16
    return info, data


def _resigned(text: bytes) -> Callable[[zipfile.ZipInfo, bytes], tuple[zipfile.ZipInfo, bytes]]:
    return lambda info, data: (info, text if info.filename == ENTRY else data)


def test_every_change_after_signing_breaks_the_integrity(tmp_path: Path) -> None:
    signed = sign(zip_of(FILES), PRIVATE, PROFILE, 1000)
    keys = profiles(tmp_path)
    head, claims, signature = zipfile.ZipFile(io.BytesIO(signed)).read(ENTRY).split(b".")
    none = signatures._padless(b'{"alg":"none","kid":"%b"}' % PROFILE.encode())
    changed = {
        "content": rewritten(signed, lambda i, d: (i, b"evil" if i.filename == "m.py" else d)),
        "removed": rewritten(signed, lambda i, d: None if i.filename == "lib/n.py" else (i, d)),
        "added": rewritten(signed, lambda i, d: (i, d), {"boto3.py": "evil"}),
        "program": rewritten(signed, _executable),
        "signature": rewritten(signed, _resigned(head + b"." + claims + b"." + signatures._padless(bytes(64)))),
        "no algorithm": rewritten(signed, _resigned(none + b"." + claims + b".")),
        "other algorithm": rewritten(signed, _resigned(head.replace(head, signatures._padless(b'{"alg":"ES256","kid":"%b"}' % PROFILE.encode())) + b"." + claims + b"." + signature)),
        "nonsense": rewritten(signed, _resigned(b"x.y.z")),
        "empty": rewritten(signed, _resigned(b"")),
    }  # fmt: skip
    for what, data in changed.items():
        assert judge(data, [PROFILE], keys, 1001).verdict is Verdict.INTEGRITY, what
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = rewritten(signed, lambda i, d: (i, d), {"m.py": "evil"})
    assert judge(twice, [PROFILE], keys, 1001).verdict is Verdict.INTEGRITY
    assert judge(zip_of(FILES), [PROFILE], keys, 1001).verdict is Verdict.MISMATCH
    assert judge(signed, [OTHER], keys, 1001).verdict is Verdict.MISMATCH
    assert judge(signed, [PROFILE], Profiles({}), 1001).why == f"no public key of {PROFILE} is configured (signing_profiles)"
    stranger = profiles(tmp_path, pem(ed25519.Ed25519PrivateKey.generate())[1])
    assert judge(signed, [PROFILE], stranger, 1001).verdict is Verdict.INTEGRITY


def configuration(control: ControlServer, policy: str | None = None, publishers: tuple[str, ...] = (PROFILE,)) -> str:
    policies = {} if policy is None else {"CodeSigningPolicies": {"UntrustedArtifactOnDeployment": policy}}
    answer = control.client().create_code_signing_config(AllowedPublishers={"SigningProfileVersionArns": list(publishers)}, **policies)
    return str(answer["CodeSigningConfig"]["CodeSigningConfigArn"])


def test_configurations_come_change_and_go(control: ControlServer) -> None:
    client = control.client()
    answer = client.create_code_signing_config(
        Description="d", AllowedPublishers={"SigningProfileVersionArns": [PROFILE]}, Tags={"team": "x"}
    )
    assert answer["ResponseMetadata"]["HTTPStatusCode"] == 201
    made = answer["CodeSigningConfig"]
    arn = made["CodeSigningConfigArn"]
    assert CSC.fullmatch(arn)
    assert arn.endswith(made["CodeSigningConfigId"])
    assert made["CodeSigningPolicies"] == {"UntrustedArtifactOnDeployment": "Warn"}
    assert client.get_code_signing_config(CodeSigningConfigArn=arn)["CodeSigningConfig"] == made
    assert arn in [c["CodeSigningConfigArn"] for c in client.list_code_signing_configs()["CodeSigningConfigs"]]
    control.clock.advance(5)
    changed = client.update_code_signing_config(CodeSigningConfigArn=arn, CodeSigningPolicies={"UntrustedArtifactOnDeployment": "Enforce"})["CodeSigningConfig"]
    assert (changed["Description"], changed["CodeSigningPolicies"]["UntrustedArtifactOnDeployment"]) == ("d", "Enforce")
    assert changed["LastModified"] > made["LastModified"]
    assert client.list_tags(Resource=arn)["Tags"] == {"team": "x"}
    client.tag_resource(Resource=arn, Tags={"a": "b"})
    client.untag_resource(Resource=arn, TagKeys=["team"])
    assert client.list_tags(Resource=arn)["Tags"] == {"a": "b"}
    assert client.delete_code_signing_config(CodeSigningConfigArn=arn)["ResponseMetadata"]["HTTPStatusCode"] == 204
    gone = (404, "ResourceNotFoundException", f"The Lambda code signing configuration {arn} can not be found.")
    for call in (client.get_code_signing_config, client.update_code_signing_config, client.delete_code_signing_config, client.list_functions_by_code_signing_config):
        assert refused(call, CodeSigningConfigArn=arn) == gone
    assert refused(client.create_code_signing_config, AllowedPublishers={"SigningProfileVersionArns": []})[1] == "ValidationException"


def test_a_function_without_a_configuration_says_so_and_one_with_it_too(control: ControlServer) -> None:
    client = control.client()
    control.create("bound")
    answer = client.get_function_code_signing_config(FunctionName="bound")
    answer.pop("ResponseMetadata")
    assert answer == {"FunctionName": "bound"}, "Terraform asks this for every function"
    assert refused(client.get_function_code_signing_config, FunctionName="nobody")[0] == 404
    arn = configuration(control)
    client.put_function_code_signing_config(FunctionName="bound", CodeSigningConfigArn=arn)
    assert client.get_function_code_signing_config(FunctionName="bound")["CodeSigningConfigArn"] == arn
    assert client.list_functions_by_code_signing_config(CodeSigningConfigArn=arn)["FunctionArns"] == ["arn:aws:lambda:us-east-1:000000000000:function:bound"]
    status, code, text = refused(client.delete_code_signing_config, CodeSigningConfigArn=arn)
    assert (status, code) == (409, "ResourceConflictException")
    assert "bound" in text
    assert client.delete_function_code_signing_config(FunctionName="bound")["ResponseMetadata"]["HTTPStatusCode"] == 204
    client.delete_code_signing_config(CodeSigningConfigArn=arn)
    missing = (
        404, "CodeSigningConfigNotFoundException",
        f"The code signing configuration cannot be found. Check that the provided configuration is not deleted: {arn}.",
    )  # fmt: skip
    assert refused(client.put_function_code_signing_config, FunctionName="bound", CodeSigningConfigArn=arn) == missing
    assert refused(control.create, "unbound", CodeSigningConfigArn=arn) == missing
    assert refused(client.get_function, FunctionName="unbound")[0] == 404


def test_enforce_lets_only_signed_code_in(control: ControlServer) -> None:
    client = control.client()
    arn = configuration(control, "Enforce")
    good = sign(zip_of(FILES), PRIVATE, PROFILE, 1, job="arn:aws:signer:us-east-1:000000000000:/signing-jobs/j")
    status, code, text = refused(control.create, "enforced", CodeSigningConfigArn=arn)
    assert (status, code) == (400, "CodeVerificationFailedException")
    assert text.startswith("Lambda cannot deploy the function. The function or layer might be signed using a signature that the client is not configured to accept. Check the provided signature for enforced")
    made = control.create("enforced", CodeSigningConfigArn=arn, Code={"ZipFile": good})
    assert made["SigningProfileVersionArn"] == PROFILE
    assert made["SigningJobArn"].endswith("/signing-jobs/j")
    assert client.get_function_code_signing_config(FunctionName="enforced")["CodeSigningConfigArn"] == arn

    unsigned = zip_of({"m.py": "def f(e, c): return 2\n"})
    for members in ({}, {"DryRun": True}):
        assert refused(client.update_function_code, FunctionName="enforced", ZipFile=unsigned, **members)[1] == "CodeVerificationFailedException"
    expired = sign(unsigned, PRIVATE, PROFILE, 1, valid_s=1)
    assert "expired" in refused(client.update_function_code, FunctionName="enforced", ZipFile=expired)[2]
    tampered = rewritten(good, lambda i, d: (i, b"evil" if i.filename == "m.py" else d))
    assert refused(client.update_function_code, FunctionName="enforced", ZipFile=tampered)[:2] == (400, "InvalidCodeSignatureException")
    signed = client.update_function_code(FunctionName="enforced", ZipFile=sign(unsigned, PRIVATE, PROFILE, 1))
    assert signed["SigningProfileVersionArn"] == PROFILE
    assert "SigningJobArn" not in signed

    layers = {
        name: client.publish_layer_version(LayerName=f"signed-{name}", Content={"ZipFile": content})["LayerVersionArn"]
        for name, content in (("no", zip_of({"python/l.py": ""})), ("yes", sign(zip_of({"python/l.py": ""}), PRIVATE, PROFILE, 1)))
    }
    assert refused(client.update_function_configuration, FunctionName="enforced", Layers=[layers["no"]])[1] == "CodeVerificationFailedException"
    assert refused(control.create, "enforced-2", CodeSigningConfigArn=arn, Code={"ZipFile": good}, Layers=[layers["no"]])[1] == "CodeVerificationFailedException"
    client.update_function_configuration(FunctionName="enforced", Layers=[layers["yes"]])
    client.delete_function_code_signing_config(FunctionName="enforced")
    freed = client.update_function_code(FunctionName="enforced", ZipFile=unsigned)
    assert "SigningProfileVersionArn" not in freed


def test_warn_lets_unsigned_code_in_and_tampered_code_not(control: ControlServer, caplog: pytest.LogCaptureFixture) -> None:
    arn = configuration(control, "Warn")
    made = control.create("warned", CodeSigningConfigArn=arn)
    assert "SigningProfileVersionArn" not in made
    assert "the package of function warned is deployed though it is not signed (mismatch)" in caplog.text
    good = sign(zip_of(FILES), PRIVATE, PROFILE, 1)
    tampered = rewritten(good, lambda i, d: (i, b"evil" if i.filename == "m.py" else d))
    assert refused(control.client().update_function_code, FunctionName="warned", ZipFile=tampered)[1] == "InvalidCodeSignatureException"
    assert control.client().update_function_code(FunctionName="warned", ZipFile=good)["SigningProfileVersionArn"] == PROFILE


def test_the_command_line_signs(tmp_path: Path) -> None:
    (tmp_path / "f.zip").write_bytes(zip_of(FILES))
    (tmp_path / "key.pem").write_bytes(PRIVATE)
    program = str(Path(sys.executable).with_name("lambda-engine"))

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([program, "sign", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)

    done = run("f.zip", "--key", "key.pem", "--profile", PROFILE, "--days", "2", "-o", "signed.zip")
    assert done.returncode == 0, done.stderr
    found = judge((tmp_path / "signed.zip").read_bytes(), [PROFILE], profiles(tmp_path / ".." / tmp_path.name), 0)
    assert found.verdict is Verdict.TRUSTED
    assert found.job.startswith("arn:aws:signer:us-east-1:000000000000:/signing-jobs/")
    assert run("f.zip", "--key", "f.zip", "--profile", PROFILE).returncode == 1
    assert run("f.zip", "--key", "key.pem", "--profile", "me").returncode == 2
