"""A statement in a signed envelope: DSSE, as in-toto's tools read and write it.

Keys are PEM files of any kind that securesystemslib signs with: Ed25519, ECDSA, RSA.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslmem.errors import SigningError, StatementError

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import Signer, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"


def read_signer(path: Path, password: str | None = None) -> "Signer":
    """Reads a private key.

    Args:
        path: of a PEM file.
        password: of the key, if it is encrypted.

    Raises:
        SigningError: it is not readable, or is no private key of a kind that can sign.
        ModuleNotFoundError: the extra ``sign`` is not installed.
    """
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415
    from securesystemslib.signer import CryptoSigner  # noqa: PLC0415  an extra; the light wheel does without

    try:
        key: Any = load_pem_private_key(path.read_bytes(), password.encode() if password else None)
        return CryptoSigner(key)
    except OSError as error:
        raise SigningError(f"the key {path} is not readable ({error.strerror})") from error
    except TypeError as error:  # a password that is missing, or is not needed
        raise SigningError(f"the key {path}: {error}; its password is taken from SSLMEM_KEY_PASSWORD") from error
    except Exception as error:
        raise SigningError(f"expected a private key in PEM; {path} is none that can sign ({error})") from error


def sign_statement(statement: str, signer: "Signer") -> str:
    """Puts a statement into an envelope with one signature, as JSON."""
    from securesystemslib.dsse import Envelope  # noqa: PLC0415

    envelope = Envelope(statement.encode(), PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=2) + "\n"


def open_statement(text: str, keys: Sequence[Path]) -> str:
    """Takes a statement out of its envelope, if it is in one, and checks who signed it.

    Args:
        text: a statement, or an envelope, on its own or in a Sigstore bundle.
        keys: public keys in PEM. One of them must have signed; without any, a signature is not looked at.

    Raises:
        StatementError: no signature is by one of the keys, or it is of other bytes, or there is none.
        SigningError: a key is not readable.
        ModuleNotFoundError: there is a signature to check, and the extra ``sign`` is not installed.
    """
    try:
        content = json.loads(text)
    except ValueError:
        content = None  # whoever reads the statement says what is wrong with it
    if isinstance(content, dict):
        content = content.get("dsseEnvelope", content)
    if not isinstance(content, dict) or "payloadType" not in content:
        if keys:
            raise StatementError("expected a signed statement; found one without a signature")
        return text
    if content["payloadType"] != PAYLOAD_TYPE:
        raise StatementError(f"expected an envelope of {PAYLOAD_TYPE}; found one of {content['payloadType']}")
    return _verified(content, [_read_public_key(path) for path in keys])


def _verified(content: dict[str, Any], keys: "Sequence[SSlibKey]") -> str:
    from securesystemslib.dsse import Envelope  # noqa: PLC0415
    from securesystemslib.exceptions import Error  # noqa: PLC0415

    try:
        # Ids are optional in DSSE, and need not differ; the library wants one for each.
        signatures = [{**signature, "keyid": str(i)} for i, signature in enumerate(content["signatures"])]
        envelope = Envelope.from_dict({**content, "signatures": signatures})
        statement: str = envelope.payload.decode()
    except (Error, LookupError, TypeError, ValueError, AttributeError) as error:
        raise StatementError(f"expected an envelope with payload and signatures ({error!r})") from error
    if keys and not any(_is_by(key, envelope) for key in keys):
        raise StatementError("no signature of the statement is by a key that was given")
    return statement


def _is_by(key: "SSlibKey", envelope: "Envelope") -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError  # noqa: PLC0415

    for signature in envelope.signatures.values():
        # A key's id is a hint that tools compute differently or leave out; what counts is the signature.
        signature.keyid = key.keyid
        try:
            key.verify_signature(signature, envelope.pae())
        except UnverifiedSignatureError:
            continue
        return True
    return False


def _read_public_key(path: Path) -> "SSlibKey":
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415
    from securesystemslib.signer import SSlibKey  # noqa: PLC0415

    try:
        key: Any = load_pem_public_key(path.read_bytes())
        return SSlibKey.from_crypto(key)
    except OSError as error:
        raise SigningError(f"the key {path} is not readable ({error.strerror})") from error
    except Exception as error:
        raise SigningError(f"expected a public key in PEM; {path} is none ({error})") from error
