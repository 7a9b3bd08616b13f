"""Who signed a statement: checked against keys made here, of every kind that CI systems hold."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from sslmem.errors import SigningError, StatementError
from sslmem.gate.signature import PAYLOAD_TYPE, open_statement, read_signer, sign_statement

STATEMENT = '{"_type": "https://in-toto.io/Statement/v1"}\n'
KINDS = ["ed25519", "ecdsa", "rsa"]


def make_key(kind: str) -> ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey:
    match kind:
        case "ecdsa":
            return ec.generate_private_key(ec.SECP256R1())
        case "rsa":
            return rsa.generate_private_key(65537, 2048)
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def write_keys(
    folder: Path, kind: str = "ed25519", encryption: KeySerializationEncryption | None = None
) -> tuple[Path, Path]:
    """A private key and its public key."""
    folder.mkdir(exist_ok=True)
    key = make_key(kind)
    private, public = folder / "private.pem", folder / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return write_keys(tmp_path / "keys")


@pytest.mark.parametrize("kind", KINDS)
def test_statement_comes_out_of_its_envelope_for_the_key_that_signed_it(kind: str, tmp_path: Path) -> None:
    private, public = write_keys(tmp_path / "keys", kind)
    _, other = write_keys(tmp_path / "other", kind)
    envelope = sign_statement(STATEMENT, read_signer(private))
    assert open_statement(envelope, [other, public]) == STATEMENT
    assert open_statement(envelope, []) == STATEMENT
    with pytest.raises(StatementError, match="no signature of the statement is by a key that was given"):
        open_statement(envelope, [other])


def test_envelope_is_dsse(keys: tuple[Path, Path]) -> None:
    """By the specification alone: the signature is over the type and the payload, each with its length before it."""
    envelope = json.loads(sign_statement(STATEMENT, read_signer(keys[0])))
    assert envelope["payloadType"] == PAYLOAD_TYPE == "application/vnd.in-toto+json"
    payload = base64.b64decode(envelope["payload"])
    assert payload.decode() == STATEMENT
    [signature] = envelope["signatures"]
    signed = f"DSSEv1 {len(PAYLOAD_TYPE)} {PAYLOAD_TYPE} {len(payload)} ".encode() + payload
    public = load_pem_public_key(keys[1].read_bytes())
    assert isinstance(public, ed25519.Ed25519PublicKey)
    public.verify(base64.b64decode(signature["sig"]), signed)


def changed(envelope: str, **changes: object) -> str:
    return json.dumps({**json.loads(envelope), **changes})


def test_other_payload_is_not_what_was_signed(keys: tuple[Path, Path]) -> None:
    envelope = sign_statement(STATEMENT, read_signer(keys[0]))
    forged = changed(envelope, payload=base64.b64encode(b"{}").decode())
    with pytest.raises(StatementError, match="no signature"):
        open_statement(forged, [keys[1]])


@pytest.mark.parametrize("keyid", [None, "", "another"])
def test_ids_of_keys_are_hints_only(keys: tuple[Path, Path], keyid: str | None) -> None:
    """Some tools leave them empty, or out."""
    envelope = json.loads(sign_statement(STATEMENT, read_signer(keys[0])))
    del envelope["signatures"][0]["keyid"]
    if keyid is not None:
        envelope["signatures"][0]["keyid"] = keyid
    assert open_statement(json.dumps(envelope), [keys[1]]) == STATEMENT


def test_envelope_in_a_bundle_is_found(keys: tuple[Path, Path]) -> None:
    envelope = json.loads(sign_statement(STATEMENT, read_signer(keys[0])))
    bundle = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "dsseEnvelope": envelope}
    assert open_statement(json.dumps(bundle), [keys[1]]) == STATEMENT


@pytest.mark.parametrize(
    "change",
    [
        {"payloadType": "text/plain"},
        {"payload": 3},
        {"payload": base64.b64encode(b"\xff").decode()},
        {"signatures": None},
        {"signatures": [{}]},
        {"signatures": [{"keyid": "a", "sig": "%"}]},
        {"signatures": []},
    ],
)
def test_broken_envelope_does_not_hold(keys: tuple[Path, Path], change: dict[str, Any]) -> None:
    envelope = changed(sign_statement(STATEMENT, read_signer(keys[0])), **change)
    with pytest.raises(StatementError, match=r"expected an envelope|no signature"):
        open_statement(envelope, [keys[1]])


def test_statement_without_a_signature_is_read_unless_one_is_asked_for(keys: tuple[Path, Path]) -> None:
    assert open_statement(STATEMENT, []) == STATEMENT
    assert open_statement("no JSON", []) == "no JSON"
    with pytest.raises(StatementError, match="found one without a signature"):
        open_statement(STATEMENT, [keys[1]])


def test_key_with_a_password_needs_it(tmp_path: Path) -> None:
    private, public = write_keys(tmp_path / "keys", encryption=BestAvailableEncryption(b"open sesame"))
    envelope = sign_statement(STATEMENT, read_signer(private, "open sesame"))
    assert open_statement(envelope, [public]) == STATEMENT
    with pytest.raises(SigningError, match="SSLMEM_KEY_PASSWORD"):
        read_signer(private)
    with pytest.raises(SigningError, match="is none that can sign"):
        read_signer(private, "guessed")


def test_password_of_a_key_that_has_none_is_an_error(keys: tuple[Path, Path]) -> None:
    with pytest.raises(SigningError, match="SSLMEM_KEY_PASSWORD"):
        read_signer(keys[0], "unneeded")


def test_unusable_keys_are_named(keys: tuple[Path, Path], tmp_path: Path) -> None:
    private, public = keys
    missing = tmp_path / "missing.pem"
    for path, reason in ((missing, "No such file"), (public, "is none that can sign")):
        with pytest.raises(SigningError, match=reason):
            read_signer(path)
    envelope = sign_statement(STATEMENT, read_signer(private))
    for path, reason in ((missing, "No such file"), (private, "expected a public key in PEM")):
        with pytest.raises(SigningError, match=reason):
            open_statement(envelope, [path])


def test_one_of_two_signatures_without_ids_will_do(keys: tuple[Path, Path], tmp_path: Path) -> None:
    other, other_public = write_keys(tmp_path / "other")
    envelope = json.loads(sign_statement(STATEMENT, read_signer(keys[0])))
    second = json.loads(sign_statement(STATEMENT, read_signer(other)))
    envelope["signatures"] = [{"sig": one["signatures"][0]["sig"]} for one in (envelope, second)]
    for public in (keys[1], other_public):
        assert open_statement(json.dumps(envelope), [public]) == STATEMENT
