"""``sign`` and ``verify``: signatures by Ed25519, contents, predictions, exit codes."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

from nequip_core.archive.reader import PackageReader
from nequip_core.archive.trust import remember_built
from nequip_core.errors import FileFormatError, MissingFileError
from nequip_package.card import write_card
from nequip_package.command import main
from nequip_package.replaced_members import write_with_members
from nequip_package.signing import (
    check_signatures,
    public_key_text,
    read_private_key,
    read_public_key,
    sign_package,
)

FORMAT_2 = Path(__file__).parents[3] / "tests/golden/format2-nequip-0.1.0/model.nequip.zip"
PRIVATE, PUBLIC = serialization.PrivateFormat, serialization.PublicFormat
PEM, OPENSSH = serialization.Encoding.PEM, serialization.Encoding.OpenSSH
PLAIN = serialization.NoEncryption()


@pytest.fixture(autouse=True)
def own_data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("NEQUIP_TRUST_CODE", raising=False)


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
def key_file(key: Ed25519PrivateKey, tmp_path: Path) -> Path:
    path = tmp_path / "key.pem"
    path.write_bytes(key.private_bytes(PEM, PRIVATE.PKCS8, PLAIN))
    public = key.public_key().public_bytes(OPENSSH, PUBLIC.OpenSSH)
    (tmp_path / "key.pub").write_bytes(public + b" a.author\n")
    return path


def never() -> bytes:
    raise AssertionError("asked for a password of a key without one")


def test_a_signed_package_is_verified_by_its_key(
    package: Path, key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, public = tmp_path / "signed.nequip.zip", str(key_file.with_name("key.pub"))
    sign = ["sign", str(package), str(output), "--key", str(key_file), "--signer", "A. Author"]
    assert main(sign) == 0
    assert PackageReader(output).identity == PackageReader(package).identity
    capsys.readouterr()
    assert main(["verify", "--static", "--key", public, str(output)]) == 0
    text = capsys.readouterr().out
    assert "valid of 'A. Author'" in text and "contents verified" in text
    assert main(["verify", "--static", "--key", public, str(package)]) == 1
    assert "no valid signature by" in capsys.readouterr().out


def test_the_signed_message_is_that_of_the_format(
    package: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    signed = sign_package(PackageReader(package), tmp_path / "s.nequip.zip", key, "me")
    (entry,) = signed.signatures()
    message = b"nequip-package identity: " + signed.identity.encode()
    key.public_key().verify(base64.b64decode(entry["signature"]), message)
    assert entry["public_key"] == base64.b64encode(key.public_key().public_bytes_raw()).decode()
    assert (entry["algorithm"], entry["signer"]) == ("ed25519", "me")


def test_several_people_sign_and_each_once(
    package: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    other = Ed25519PrivateKey.generate()
    reader = sign_package(PackageReader(package), tmp_path / "1.nequip.zip", key, "one")
    reader = sign_package(reader, tmp_path / "2.nequip.zip", other, "two")
    reader = sign_package(reader, tmp_path / "3.nequip.zip", key, "one again")
    checks = check_signatures(reader)
    assert [(check.signer, check.is_valid) for check in checks] == [
        ("two", True),
        ("one again", True),
    ]


def test_a_signature_of_another_package_is_not_valid(
    package: Path, key: Ed25519PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = sign_package(PackageReader(package), tmp_path / "1.nequip.zip", key, "me")
    other = write_card(signed, tmp_path / "2.nequip.zip", {"name": "other"})
    assert other.signatures() == []  # they were of the package before
    stolen = {"model/signatures.json": signed.read_bytes("model/signatures.json")}
    forged = write_with_members(other, tmp_path / "3.nequip.zip", stolen)
    assert [check.is_valid for check in check_signatures(forged)] == [False]
    assert main(["verify", "--static", str(forged.path)]) == 1
    assert "NOT VALID" in capsys.readouterr().out
    assert main(["verify", "--static", "--json", str(forged.path)]) == 1
    assert json.loads(capsys.readouterr().out)["ok"] is False


@pytest.mark.parametrize(
    "change",
    [
        {"algorithm": "rsa"},
        {"public_key": "AAAA"},
        {"public_key": "not base64!"},
        {"signature": ""},
        {"signature": "%"},
    ],
)
def test_a_garbled_signature_is_not_valid(
    change: dict[str, str], package: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    signed = sign_package(PackageReader(package), tmp_path / "1.nequip.zip", key, "me")
    content = json.dumps({"signatures": [{**signed.signatures()[0], **change}]}).encode()
    path = tmp_path / "2.nequip.zip"
    garbled = write_with_members(signed, path, {"model/signatures.json": content})
    assert [check.is_valid for check in check_signatures(garbled)] == [False]


def test_keys_are_read_from_all_usual_forms(key: Ed25519PrivateKey, tmp_path: Path) -> None:
    expected = public_key_text(key.public_key())
    secret = serialization.BestAvailableEncryption(b"word")
    for number, (encoding, form, encryption) in enumerate(
        (
            (PEM, PRIVATE.PKCS8, PLAIN),
            (PEM, PRIVATE.OpenSSH, PLAIN),
            (PEM, PRIVATE.PKCS8, secret),
        )
    ):
        path = tmp_path / f"private{number}"
        path.write_bytes(key.private_bytes(encoding, form, encryption))
        password = never if encryption is PLAIN else lambda: b"word"
        found = read_private_key(path, password)
        assert public_key_text(found.public_key()) == expected
    with pytest.raises(FileFormatError, match="cannot be read"):
        read_private_key(path, lambda: b"wrong")
    for number, (encoding, form) in enumerate(
        ((PEM, PUBLIC.SubjectPublicKeyInfo), (OPENSSH, PUBLIC.OpenSSH))
    ):
        path = tmp_path / f"public{number}"
        path.write_bytes(key.public_key().public_bytes(encoding, form))
        assert public_key_text(read_public_key(str(path))) == expected
    assert public_key_text(read_public_key(expected)) == expected


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    text, rsa, rsa_public = (tmp_path / name for name in ("text", "rsa", "rsa.pub"))
    text.write_text("no key")
    other = generate_private_key(public_exponent=65537, key_size=2048)
    rsa.write_bytes(other.private_bytes(PEM, PRIVATE.PKCS8, PLAIN))
    rsa_public.write_bytes(other.public_key().public_bytes(OPENSSH, PUBLIC.OpenSSH))
    with pytest.raises(FileFormatError, match="holds no private key"):
        read_private_key(text, never)
    with pytest.raises(FileFormatError, match="another kind of key"):
        read_private_key(rsa, never)
    with pytest.raises(FileFormatError, match="holds no public key"):
        read_public_key(str(text))
    with pytest.raises(FileFormatError, match="another kind of key"):
        read_public_key(str(rsa_public))
    with pytest.raises(MissingFileError):
        read_public_key(str(tmp_path / "gone"))


@pytest.mark.skipif(shutil.which("ssh-keygen") is None, reason="ssh-keygen is not installed")
def test_a_key_by_ssh_keygen_signs(package: Path, tmp_path: Path) -> None:
    path = tmp_path / "id"
    command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
    subprocess.run(command, check=True)
    signed = sign_package(
        PackageReader(package), tmp_path / "s.nequip.zip", read_private_key(path, never), ""
    )
    (check,) = check_signatures(signed)
    assert check.public_key == public_key_text(read_public_key(f"{path}.pub"))
    assert check.is_valid


def test_without_cryptography_the_way_out_is_named(
    package: Path, key_file: Path, tmp_path: Path
) -> None:
    signed = tmp_path / "signed.nequip.zip"
    assert main(["sign", str(package), str(signed), "--key", str(key_file)]) == 0
    script = (
        "import sys\nsys.modules['cryptography'] = None\n"
        "from nequip_package.command import main\nsys.exit(main(sys.argv[1:]))"
    )

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", script, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    found = run("sign", str(package), str(tmp_path / "b.nequip.zip"), "--key", str(key_file))
    assert found.returncode == 1
    assert "pip install 'nequip-package[sign]'" in found.stderr
    found = run("verify", "--static", str(signed))
    assert found.returncode == 0
    assert "not checked: signatures need the library cryptography" in found.stdout
    assert run("verify", "--static", str(signed), "--key", "A" * 43 + "=").returncode == 1


def test_older_formats_are_verified_and_not_signed(
    key: Ed25519PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileFormatError, match="nequip-package upgrade"):
        sign_package(PackageReader(FORMAT_2), tmp_path / "s.nequip.zip", key, "")
    assert main(["verify", "--static", str(FORMAT_2)]) == 0
    assert "checksums agree; this format has no manifest" in capsys.readouterr().out


def test_predictions_are_compared_both_ways(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    remember_built(PackageReader(package).identity)
    assert main(["verify", str(package)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "verified by snapshot and by rebuild"
    rows = [line.split() for line in lines if line.startswith(("snapshot", "rebuild"))]
    assert {(row[0], row[3]) for row in rows} == {
        (way, frame) for way in ("snapshot", "rebuild") for frame in ("cluster", "periodic")
    }
    assert {"total_energy", "forces", "stress"} <= {row[4] for row in rows}
    assert all(row[-1] == "ok" and float(row[5]) <= 1e-12 for row in rows)


def test_without_consent_the_code_of_the_package_is_not_run(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "--json", str(package)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["way"] for row in report["outputs"]} == {"rebuild"}
    assert [skipped["way"] for skipped in report["not_compared"]] == ["snapshot"]
    assert "nequip-package audit" in report["not_compared"][0]["reason"]
    assert main(["verify", "--json", "--trust-code", str(package)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {row["way"] for row in report["outputs"]} == {"rebuild", "snapshot"}


def test_deviating_predictions_fail(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from safetensors.torch import load, save

    reader = PackageReader(package)
    content = reader.read_bytes("model/reference.safetensors")
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])["__metadata__"]
    tensors = load(content)
    tensors["output/sole_model/cluster/forces"] += 1e-6
    changed = {"model/reference.safetensors": save(tensors, metadata=header)}
    path = write_with_members(reader, tmp_path / "off.nequip.zip", changed).path
    assert main(["verify", "--trust-code", str(path)]) == 1
    text = capsys.readouterr().out
    (line,) = [line for line in text.splitlines() if "DIFFERS" in line]
    assert line.split()[:6] == ["snapshot", "eager", "sole_model", "cluster", "forces", "1.0e-06"]
    assert text.splitlines()[-1] == "not verified"


def test_a_changed_byte_is_found(
    package: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = bytearray(package.read_bytes())
    place = content.index(b"class GraphModel")
    content[place] ^= 1
    path = tmp_path / "flipped.nequip.zip"
    path.write_bytes(content)
    assert main(["verify", "--static", str(path)]) == 1
    error = capsys.readouterr().err
    assert "nequip_model/nn/graph_model.py" in error and error.count("\n") == 1


# -- what a reader is told


def test_info_shows_a_signature_as_not_checked(
    package: Path, key: Ed25519PrivateKey, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    signed = tmp_path / "s.nequip.zip"
    sign_package(PackageReader(package), signed, key, "A. Author")
    assert main(["info", str(signed)]) == 0
    text = capsys.readouterr().out
    assert "signature  of 'A. Author', not checked (nequip-package verify)\n" in text
    assert "signed by" not in text
    assert main(["info", "--json", str(signed)]) == 0
    facts = json.loads(capsys.readouterr().out)["package"]
    public = public_key_text(key.public_key())
    assert facts["signatures_not_checked"] == [{"signer": "A. Author", "public_key": public}]
    assert main(["verify", "--static", "--json", str(signed)]) == 0
    assert json.loads(capsys.readouterr().out)["signed_by"] == [public]


def test_a_key_with_a_password_needs_a_terminal(
    package: Path, key: Ed25519PrivateKey, tmp_path: Path
) -> None:
    locked = tmp_path / "locked.pem"
    encryption = serialization.BestAvailableEncryption(b"secret")
    locked.write_bytes(key.private_bytes(PEM, PRIVATE.PKCS8, encryption))
    target = tmp_path / "s.nequip.zip"
    code = "import sys; from nequip_package.command import main; sys.exit(main(sys.argv[1:]))"
    result = subprocess.run(
        [sys.executable, "-c", code, "sign", str(package), str(target), "--key", str(locked)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,  # without a controlling terminal
    )
    assert result.returncode == 1
    assert result.stderr.startswith("error: the private key has a password, and there is no term")
    assert result.stderr.count("\n") == 1
    assert not target.exists()


def test_an_empty_signer_is_refused(
    package: Path, key_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "s.nequip.zip"
    with pytest.raises(SystemExit) as stop:
        main(["sign", str(package), str(target), "--key", str(key_file), "--signer", " "])
    assert stop.value.code == 2
    assert "--signer is empty" in capsys.readouterr().err
    assert not target.exists()
